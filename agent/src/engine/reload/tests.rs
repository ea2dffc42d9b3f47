//! Against folders of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn folder(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = folder.path().join("a.toml");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    folder
}

#[test]
fn a_problem_has_its_place_in_fields_and_not_twice() {
    let folder = folder("schema = 1\nclas = 2\n");
    let problems = Reading::of(&[folder.path()]).outcome.unwrap_err();
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!(problem.file, folder.path().join("a.toml").display().to_string());
    assert_eq!((problem.line, problem.column), (Some(2), Some(1)));
    assert!(problem.message.contains("clas"), "{problem}");

    let file = folder.path().join("a.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let problems = Reading::of(&[folder.path()]).outcome.unwrap_err();
    assert_eq!(problems[0].line, None);
    assert!(problems[0].message.starts_with("group or others can write it"), "{problems:?}");
}

#[test]
fn the_digest_tells_content_and_not_time() {
    let folder = folder("schema = 1\n");
    let before = Reading::of(&[folder.path()]).digest;
    fs::write(folder.path().join("a.toml"), "schema = 1\n").unwrap();
    assert_eq!(Reading::of(&[folder.path()]).digest, before);
    fs::write(folder.path().join("a.toml"), "schema = 1\n#\n").unwrap();
    assert_ne!(Reading::of(&[folder.path()]).digest, before);
}

#[test]
fn a_folder_that_vanishes_is_no_policy_and_one_that_was_never_there_is() {
    let shipped = folder("schema = 1\n");
    let own = folder("schema = 1\n");
    let folders = [shipped.path().to_path_buf(), own.path().to_path_buf()];
    let never = [shipped.path().to_path_buf(), own.path().join("not yet")];
    let found = Found::in_folders(&never, &never[..1]).parsed();
    assert!(found.outcome.is_ok() && found.folders == never[..1], "{found:?}");

    let reading = Reading::of(&folders);
    let known = PolicyFolders::new(folders.to_vec(), &reading);
    fs::remove_dir_all(own.path()).unwrap();
    let found = known.found().parsed();
    assert_ne!(found.digest, known.digest);
    let problems = found.outcome.unwrap_err();
    assert_eq!(problems[0].file, own.path().display().to_string());
    assert!(problems[0].message.contains("mkdir"), "{problems:?}");
}

#[test]
fn of_a_flood_of_mistakes_some_are_told_and_the_rest_counted() {
    let many: String = (0..5000).map(|i| format!("x{i} = 1\n")).collect();
    let reading = Reading::of(&[folder(&format!("schema = 1\n{many}")).path()]);
    let told = reading.outcome.unwrap_err().len();
    assert_eq!((told, reading.more), (MOST_PROBLEMS, 5000 - MOST_PROBLEMS as u64));
    let reading = Reading::of(&[folder("schema = 1\nx = 1\n").path()]);
    assert_eq!((reading.outcome.unwrap_err().len(), reading.more), (1, 0));
}

/// The looks of 250 ms each at which a change was read.
fn read_at(folders: &mut PolicyFolders, looks: u32, mut between: impl FnMut(u32)) -> Vec<u32> {
    let start = Instant::now();
    let mut read = Vec::new();
    for look in 0..looks {
        between(look);
        if folders.settled(start + Duration::from_millis(250) * look).unwrap() {
            read.push(look);
        }
    }
    read
}

fn watched(folder: &tempfile::TempDir) -> PolicyFolders {
    let folders = vec![folder.path().to_path_buf()];
    let reading = Reading::of(&folders);
    let mut folders = PolicyFolders::new(folders, &reading);
    assert_eq!(read_at(&mut folders, 4, |_| {}), [0], "what changed meanwhile");
    folders
}

#[test]
fn a_change_is_read_when_it_is_over_and_within_a_second_if_it_never_is() {
    let place = folder("schema = 1\n");
    let mut folders = watched(&place);
    let change = |_| fs::write(place.path().join("a.toml"), "schema = 1\n").unwrap();
    let once = |look: u32| {
        if look < 2 {
            change(look);
        }
    };
    assert_eq!(read_at(&mut folders, 10, once), [2]);
    let read = read_at(&mut folders, 12, change);
    assert_eq!(read, [4, 9], "changed at every look");
}

#[test]
fn a_file_that_is_being_written_is_waited_for_up_to_a_second() {
    let place = folder("schema = 1\n");
    let mut folders = watched(&place);
    let mut writer = None;
    let read = read_at(&mut folders, 6, |look| match look {
        0 => writer = Some(fs::File::create(place.path().join("b.toml")).unwrap()),
        2 => drop(writer.take()),
        _ => {}
    });
    assert_eq!(read, [3]);
    let mut writer = None;
    let read = read_at(&mut folders, 12, |look| match look {
        0 => writer = Some(fs::File::create(place.path().join("c.toml")).unwrap()),
        8 => drop(writer.take()),
        _ => {}
    });
    assert_eq!(read, [4, 9], "one that stays open, and is closed at last");
}

#[test]
fn a_large_set_is_understood_while_nobody_waits() {
    let place = folder("schema = 1\n");
    let mut folders = watched(&place);
    let mistakes: String = (0..20_000).map(|i| format!("x{i} = 1\n")).collect();
    fs::write(place.path().join("a.toml"), format!("schema = 1\n{mistakes}")).unwrap();
    let later = Instant::now() + Duration::from_secs(2);
    assert!(folders.changed(later).unwrap().is_none(), "it has just changed");
    assert!(folders.changed(later).unwrap().is_none() && folders.under_way.is_some());
    let begun = Instant::now();
    let mut reading = None;
    while reading.is_none() && begun.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(5));
        reading = folders.changed(later).unwrap();
    }
    assert_eq!(reading.unwrap().more, 20_000 - MOST_PROBLEMS as u64);
    assert!(folders.changed(later).unwrap().is_none());
}
