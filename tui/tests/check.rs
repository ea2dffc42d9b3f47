//! `downbeat check`, with real files and the real processes of this machine.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::{fs, io};

fn check(files: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_downbeat")).arg("check").args(files).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn write(dir: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path
}

/// A sleeping process with a name of its own.
struct Sleeper(Child);

impl Sleeper {
    fn start(dir: &Path, name: &str) -> Self {
        let program = dir.join(name);
        // By a process of its own: a child that another test forks meanwhile would hold what this one
        // writes open, and until it executes nobody could run it (`ETXTBSY`).
        assert!(Command::new("cp").arg("/bin/sleep").arg(&program).status().unwrap().success());
        Self(Command::new(program).arg("300").spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const GOOD: &str = r#"schema = 1

[class.voice]
modality = "audio"
tier = "realtime"

[class.batch]
tier = "background"

[[rule]]
name = "sleepers"
class = "voice"
match = { exe = "*/db-check-test" }

[[rule]]
name = "nobody"
class = "batch"
match = { comm = "no-such-name" }
"#;

#[test]
fn a_good_file_tells_what_it_would_match_now() {
    let dir = tempfile::tempdir().unwrap();
    let sleepers = [Sleeper::start(dir.path(), "db-check-test"), {
        let program = dir.path().join("db-check-test");
        Sleeper(Command::new(program).arg("300").spawn().unwrap())
    }];
    let file = write(dir.path(), "50-voice.toml", GOOD);
    let output = check(&[&file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mut shown = stdout(&output).replace(dir.path().to_str().unwrap(), "DIR");
    for (n, sleeper) in sleepers.iter().enumerate() {
        shown = shown.replace(&sleeper.0.id().to_string(), ["FIRST", "SECOND"][n]);
    }
    assert!(shown.contains("class voice (audio, realtime): 2 processes, 2 threads"), "{shown}");
    let rule = "rule \"sleepers\", DIR/50-voice.toml:10: 2 processes, 2 threads";
    assert!(shown.contains(rule), "{shown}");
    assert!(shown.contains("db-check-test FIRST, db-check-test SECOND"), "{shown}");
    assert!(shown.contains("class batch (other, background): matches nothing now"), "{shown}");
}

#[test]
fn a_bad_file_is_told_by_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "bad.toml", "schema = 1\n\n[class.voice]\nteir = \"realtime\"\n");
    let output = check(&[&file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown = stdout(&output);
    assert!(shown.contains(&format!("{}:4:1: ", file.display())), "{shown}");
    assert!(shown.contains("teir") && shown.contains("tier"), "{shown}");
}

#[test]
fn a_folder_stands_for_its_toml_files() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "50-voice.toml", GOOD);
    write(dir.path(), "README", "not a policy");
    let output = check(&[dir.path()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).starts_with("1 file, 2 classes, 2 rules: no problems"));
}

#[test]
fn what_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.toml");
    let output = check(&[&missing]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains(missing.to_str().unwrap()), "{output:?}");

    let empty = check(&[dir.path()]);
    assert_eq!(empty.status.code(), Some(1));
    assert!(stdout(&empty).contains("no *.toml in this folder"), "{empty:?}");
    // Beside a good file too: it may be a slip of the pen.
    let good = tempfile::tempdir().unwrap();
    let beside = check(&[&write(good.path(), "good.toml", GOOD), dir.path()]);
    assert_eq!(beside.status.code(), Some(1));
    assert!(stdout(&beside).contains("no *.toml in this folder"), "{beside:?}");

    let loose = write(dir.path(), "loose.toml", GOOD);
    fs::set_permissions(&loose, fs::Permissions::from_mode(0o666)).unwrap();
    let refused = check(&[&loose]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stdout(&refused).contains("chmod"), "{refused:?}");
}

#[test]
fn a_folder_is_read_as_the_agent_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    write(dir.path(), "50-voice.toml", GOOD);
    // An editor's, which the agent never opens.
    write(dir.path(), ".50-voice.toml", "rubbish");
    let output = check(&[dir.path()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o775)).unwrap();
    let output = check(&[dir.path()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown = stdout(&output);
    assert!(shown.contains("run `chmod go-w "), "{shown}");
    assert!(shown.ends_with("1 problem\n"), "{shown}");
}

#[test]
fn a_class_that_ships_is_looked_for_where_it_ships() {
    let dir = tempfile::tempdir().unwrap();
    let draft = "schema = 1\n[class.mine]\ninherits = \"speech\"\n";
    let draft = write(dir.path(), "draft.toml", draft);
    let output = check(&[&draft]);
    assert_eq!(output.status.code(), Some(1));
    let shown = stdout(&output);
    assert!(shown.contains("\nclasses that ship with downbeat are "), "{shown}");
}

#[test]
fn a_file_in_a_later_folder_replaces_that_of_an_earlier_one() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for dir in &dirs {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        write(dir.path(), "50-voice.toml", GOOD);
    }
    let output = check(&[dirs[0].path(), dirs[1].path()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = stdout(&output);
    assert!(shown.contains(dirs[1].path().to_str().unwrap()), "{shown}");
    assert!(shown.starts_with("1 file, 2 classes"), "{shown}");
}

#[test]
fn a_draft_is_read_from_standard_input() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_downbeat"))
        .args(["check", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let draft = b"schema = 1\n[class.voice]\nteir = \"realtime\"\ntier = \"realtime\"\n";
    io::Write::write_all(&mut child.stdin.take().unwrap(), draft).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(
        stdout(&output),
        "<stdin>:3:1: class.voice.teir: this version knows no such key; did you mean `tier`?\n\
         1 problem\n"
    );
}
