//! Journals on disk.

use super::*;
use crate::act::subject::ThreadId;

fn thread(tid: u32) -> Subject {
    Subject::Thread(ThreadId { pid: 10, tid, start_time: 99 })
}

fn change(ours: i16) -> Change {
    Change { old: Value::OomScoreAdj(0), ours: Value::OomScoreAdj(ours), since: 100 }
}

fn roots(boot: &str) -> (tempfile::TempDir, Roots) {
    let dir = tempfile::tempdir().unwrap();
    let random = dir.path().join("sys/kernel/random");
    fs::create_dir_all(&random).unwrap();
    fs::write(random.join("boot_id"), format!("{boot}\n")).unwrap();
    let roots = Roots { proc: dir.path().into(), ..Roots::default() };
    (dir, roots)
}

#[test]
fn what_was_committed_is_read_back_less_what_was_forgotten() {
    let (_proc, roots) = roots("one");
    let run = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(run.path(), &roots).unwrap().0;
    journal.set(&thread(1), &change(-500));
    journal.set(&thread(2), &change(-500));
    journal.forget(&thread(1), Lever::OomScoreAdj);
    journal.commit().unwrap();
    journal.set(&thread(3), &change(-500));
    drop(journal);

    let expected = HashMap::from([((thread(2), Lever::OomScoreAdj), change(-500))]);
    assert_eq!(read(&run.path().join(FILE_NAME), &roots).unwrap(), Found::Changes(expected));
}

#[test]
fn a_line_cut_short_by_a_kill_is_left_out() {
    let (_proc, roots) = roots("one");
    let run = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(run.path(), &roots).unwrap().0;
    journal.set(&thread(1), &change(1));
    journal.set(&thread(2), &change(1));
    journal.commit().unwrap();
    let path = run.path().join(FILE_NAME);
    let text = fs::read(&path).unwrap();
    fs::write(&path, &text[..text.len() - 9]).unwrap();

    let Found::Changes(changes) = read(&run.path().join(FILE_NAME), &roots).unwrap() else {
        panic!("the first change was whole");
    };
    assert_eq!(changes.len(), 1);
}

#[test]
fn a_journal_of_another_boot_is_stale() {
    let (_one, before) = roots("one");
    let (_two, after) = roots("two");
    let run = tempfile::tempdir().unwrap();
    drop(Journal::open(run.path(), &before).unwrap());
    assert_eq!(read(&run.path().join(FILE_NAME), &after).unwrap(), Found::Stale);
    assert_eq!(read(&run.path().join(FILE_NAME), &before).unwrap(), Found::Changes(Changes::new()));
}

#[test]
fn what_is_not_understood_is_moved_aside_and_none_is_nothing() {
    let (_proc, roots) = roots("one");
    let run = tempfile::tempdir().unwrap();
    let path = run.path().join(FILE_NAME);
    assert_eq!(read(&path, &roots).unwrap(), Found::Nothing);
    let mut journal = Journal::open(run.path(), &roots).unwrap().0;
    journal.set(&thread(1), &change(1));
    journal.set(&thread(2), &change(2));
    journal.commit().unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    let second = whole.lines().nth(1).unwrap();
    for (text, reason, understood) in [
        (r#"{"record":"forget","subject":"host","lever":"sched"}"#.into(), "no boot", 0),
        (whole.replace("\"schema\":2", "\"schema\":1"), "it has schema 1", 0),
        (whole.replace(second, r#"{"record":"later"}"#), "1, the first line 2", 1),
    ] {
        fs::write(&path, &text).unwrap();
        let Found::Unreadable { reason: said, .. } = read(&path, &roots).unwrap() else {
            panic!("{text}");
        };
        assert!(said.contains(reason), "{said}");
        let (_, left) = Journal::open(run.path(), &roots).unwrap();
        assert_eq!(left.len(), understood, "{text}");
        assert_eq!(read(&path, &roots).unwrap(), Found::Changes(left));
    }
    let aside = |number| fs::read_to_string(path.with_extension(format!("unread-{number}")));
    assert!(aside(1).unwrap().contains("host") && aside(3).unwrap().contains("later"));
    assert!(aside(4).is_err());
}

#[test]
fn what_a_predecessor_left_is_still_there_after_a_start() {
    let (_proc, roots) = roots("one");
    let run = tempfile::tempdir().unwrap();
    let path = run.path().join(FILE_NAME);
    drop(Journal::open(run.path(), &roots).unwrap());
    let left = HashMap::from([((thread(5), Lever::OomScoreAdj), change(7))]);
    keep(&path, &left, &roots).unwrap();
    let (_, found) = Journal::open(run.path(), &roots).unwrap();
    assert_eq!(found, left);
    assert_eq!(read(&path, &roots).unwrap(), Found::Changes(left));
}

#[test]
fn compaction_keeps_what_is_to_be_put_back_and_nothing_else() {
    let (_proc, roots) = roots("one");
    let run = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(run.path(), &roots).unwrap().0;
    for tid in 0..3000 {
        journal.set(&thread(tid), &change(7));
        journal.forget(&thread(tid), Lever::OomScoreAdj);
    }
    journal.commit().unwrap();
    assert!(journal.wants_compaction());
    let kept = HashMap::from([((thread(5), Lever::OomScoreAdj), change(7))]);
    journal.compact(&kept, &[]).unwrap();
    assert!(!journal.wants_compaction());
    assert_eq!(read(&run.path().join(FILE_NAME), &roots).unwrap(), Found::Changes(kept));
    let lines = fs::read_to_string(run.path().join(FILE_NAME)).unwrap();
    assert_eq!(lines.lines().count(), 2);
}

#[test]
fn after_a_failed_write_nothing_is_written_until_the_file_is_whole_again() {
    let (_proc, roots) = roots("one");
    let run = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(run.path(), &roots).unwrap().0;
    journal.fill_up();
    journal.set(&thread(1), &change(1));
    assert_eq!(journal.commit().unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert!(journal.buffer.is_empty(), "it must not grow while there is no room");
    journal.set(&thread(2), &change(2));
    assert!(journal.commit().is_err());
    assert_eq!(journal.failures(), 2);

    assert!(journal.wants_compaction());
    let kept = HashMap::from([((thread(3), Lever::OomScoreAdj), change(3))]);
    journal.compact(&kept, &[]).unwrap();
    journal.set(&thread(4), &change(4));
    journal.commit().unwrap();
    let Found::Changes(found) = read(&run.path().join(FILE_NAME), &roots).unwrap() else {
        panic!("it is of this boot");
    };
    assert_eq!(found.len(), 2);
}

#[test]
fn what_was_forgotten_or_replaced_is_past_also_when_the_file_was_written_anew() {
    let (_proc, roots) = roots("one");
    let run = tempfile::tempdir().unwrap();
    let path = run.path().join(FILE_NAME);
    let mut journal = Journal::open(run.path(), &roots).unwrap().0;
    journal.set(&thread(1), &change(300));
    journal.set(&thread(2), &change(300));
    journal.set(&thread(2), &Change { since: 150, ..change(500) });
    let before = boot_ticks();
    journal.forget(&thread(1), Lever::OomScoreAdj);
    journal.commit().unwrap();

    let (found, past) = read_with_past(&path, &roots).unwrap();
    let second = ((thread(2), Lever::OomScoreAdj), Change { since: 150, ..change(500) });
    let left = HashMap::from([second]);
    assert_eq!(found, Found::Changes(left.clone()));
    let of = |tid, until| Past { pid: 10, tid, change: change(300), until };
    assert_eq!(past, [of(2, 150), of(1, past[1].until)]);
    assert!(past[1].until >= before);

    journal.compact(&left, &past).unwrap();
    assert_eq!(read_with_past(&path, &roots).unwrap(), (Found::Changes(left), past));
}
