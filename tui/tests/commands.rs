//! The program itself, run as a user would run it in a pipe.

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use downbeat_api::Snapshot;
use support::agent::FakeAgent;
use support::host;

const TICK: Duration = Duration::from_millis(20);

fn downbeat(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_downbeat"))
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("NO_COLOR")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn dir(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn status_is_plain_text_in_a_pipe() {
    let run = tempfile::tempdir().unwrap();
    let _agent = FakeAgent::start(run.path(), host::small(), TICK);
    let output = downbeat(&["status", "--run-dir", dir(run.path())]);
    assert_eq!(code(&output), 0, "{output:?}");
    let shown = text(&output.stdout);
    assert!(shown.starts_with("downbeat 0.1.0 on studio (Linux 6.18.5): engaged"), "{shown}");
    assert!(!shown.contains('\x1b'));
}

#[test]
fn colours_can_be_forced_and_forbidden() {
    let run = tempfile::tempdir().unwrap();
    let _agent = FakeAgent::start(run.path(), host::small(), TICK);
    let shown = |when| {
        downbeat(&["status", "--color", when, "--run-dir", dir(run.path())]).stdout.contains(&0x1b)
    };
    assert!(shown("always"));
    assert!(!shown("never"));
}

#[test]
fn json_is_one_document_of_the_snapshot() {
    let run = tempfile::tempdir().unwrap();
    let mut said = host::small();
    said.processes[0].command = "\u{9b}31m\x1b[2J\u{202e}".into();
    let agent = FakeAgent::start(run.path(), said.clone(), TICK);
    let output = downbeat(&["status", "--json", "--run-dir", dir(run.path())]);
    assert_eq!(code(&output), 0, "{output:?}");
    let shown = text(&output.stdout);
    assert!(!shown.contains(['\u{9b}', '\x1b', '\u{202e}']), "{shown}");
    let read: Snapshot = serde_json::from_str(shown).unwrap();
    assert_eq!(read.processes, said.processes, "nothing of its meaning is lost");
    drop(agent);
}

#[test]
fn watching_gives_one_line_of_json_per_tick() {
    use std::io::{BufRead, BufReader};
    let run = tempfile::tempdir().unwrap();
    let _agent = FakeAgent::start(run.path(), host::small(), TICK);
    let mut child = Command::new(env!("CARGO_BIN_EXE_downbeat"))
        .args(["status", "--watch", "--json", "--run-dir", dir(run.path())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut tick = || {
        let line = lines.next().unwrap().unwrap();
        serde_json::from_str::<Snapshot>(&line).unwrap().tick
    };
    assert!(tick() < tick());
    // The reader goes, as `head` does; the program ends by itself and does not complain.
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let run = tempfile::tempdir().unwrap();
    let _agent = FakeAgent::start(run.path(), host::crowd(5_000), TICK);
    let mut child = Command::new(env!("CARGO_BIN_EXE_downbeat"))
        .args(["status", "--json", "--run-dir", dir(run.path())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn without_an_agent_it_names_the_socket_and_the_remedy() {
    let run = tempfile::tempdir().unwrap();
    for command in ["status", "pause", "resume"] {
        let output = downbeat(&[command, "--run-dir", dir(run.path())]);
        assert_eq!(code(&output), 2, "{output:?}");
        let told = text(&output.stderr);
        assert!(told.contains(dir(run.path())) && told.contains("Start one with"), "{told}");
    }
}

#[test]
fn the_socket_itself_can_be_named() {
    let run = tempfile::tempdir().unwrap();
    let _agent = FakeAgent::start(run.path(), host::small(), TICK);
    let socket = run.path().join("agent.sock");
    assert_eq!(code(&downbeat(&["--connect", dir(&socket), "status", "--once"])), 0);
    let both = downbeat(&["status", "--connect", dir(&socket), "--run-dir", "/x"]);
    assert_eq!(code(&both), 2);
}

#[test]
fn the_live_screen_needs_a_terminal() {
    let output = downbeat(&[]);
    assert_eq!(code(&output), 2);
    let told = text(&output.stderr);
    assert!(told.contains("downbeat status --once") && told.contains("--json"), "{told}");
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn wrong_usage_is_code_2() {
    assert_eq!(code(&downbeat(&["polish"])), 2);
    assert_eq!(code(&downbeat(&["check", "--files"])), 2);
    assert_eq!(code(&downbeat(&["restore", "--connect", "/x"])), 2);
}

#[test]
fn the_help_documents_the_exit_codes() {
    let output = downbeat(&["--help"]);
    assert_eq!(code(&output), 0);
    assert!(text(&output.stdout).contains("Exit codes:"));
}

#[test]
fn pause_and_resume_say_what_was_done() {
    let run = tempfile::tempdir().unwrap();
    let agent = FakeAgent::start(run.path(), host::small(), TICK);
    let paused = downbeat(&["pause", "--run-dir", dir(run.path())]);
    assert_eq!((code(&paused), text(&paused.stdout)), (0, "paused: 31 values put back\n"));
    let resumed = downbeat(&["resume", "--run-dir", dir(run.path())]);
    assert_eq!((code(&resumed), text(&resumed.stdout)), (0, "engaged: 31 values set\n"));
    agent.say(|snapshot| snapshot.mode = downbeat_api::Mode::ObserveOnly);
    let refused = downbeat(&["resume", "--run-dir", dir(run.path())]);
    assert_eq!(code(&refused), 1);
    assert!(text(&refused.stderr).contains("--observe-only"));
}

#[test]
fn explain_takes_a_pid_or_a_name() {
    let run = tempfile::tempdir().unwrap();
    let _agent = FakeAgent::start(run.path(), host::small(), TICK);
    let explain = |what| downbeat(&["explain", what, "--run-dir", dir(run.path())]);
    let by_pid = explain("812");
    assert_eq!(code(&by_pid), 0, "{by_pid:?}");
    insta::assert_snapshot!(text(&by_pid.stdout));
    assert_eq!(explain("whisper-server").stdout, by_pid.stdout);
    let unknown = explain("nobody");
    assert_eq!(code(&unknown), 1);
    assert_eq!(text(&unknown.stderr), "downbeat: no process is called \"nobody\"\n");
    assert_eq!(code(&explain("3")), 1);
}

#[test]
fn doctor_works_without_an_agent() {
    let run = tempfile::tempdir().unwrap();
    let output = downbeat(&["doctor", "--run-dir", dir(run.path())]);
    assert_eq!(code(&output), 0, "{output:?}");
    let shown = text(&output.stdout);
    assert!(shown.starts_with("Linux ") && shown.contains("Agent: no agent at"), "{shown}");
    let json = downbeat(&["doctor", "--json", "--run-dir", dir(run.path())]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(value["host"]["findings"].is_array() && value["agent"].is_null(), "{value}");
}

#[test]
fn doctor_asks_the_agent_where_one_runs() {
    let run = tempfile::tempdir().unwrap();
    let _agent = FakeAgent::start(run.path(), host::small(), TICK);
    let output = downbeat(&["doctor", "--run-dir", dir(run.path())]);
    let shown = text(&output.stdout);
    assert!(shown.contains("the kernel has no utilisation clamps"), "{shown}");
    assert!(shown.contains("its kernel programs are attached"), "{shown}");
}

#[test]
fn restore_with_nothing_to_restore_says_so() {
    let run = tempfile::tempdir().unwrap();
    let output = downbeat(&["restore", "--run-dir", dir(run.path())]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(text(&output.stdout).starts_with("nothing to put back"), "{output:?}");
    // A mistyped folder must not look like one where all is well.
    let output = downbeat(&["restore", "--run-dir", "/nonexistent/downbeat"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let shown = text(&output.stdout);
    assert!(shown.starts_with("no run directory /nonexistent/downbeat"), "{shown}");
}
