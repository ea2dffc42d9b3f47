//! The commands about jobs, blame and misses, run as a user would run them in a pipe.

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use downbeat_api::{ClassBlame, Miss, Snapshot, ThreadJobs};
use support::agent::FakeAgent;
use support::{host, work};
use tempfile::TempDir;

const TICK: Duration = Duration::from_millis(20);

/// An agent with jobs, blame and misses.
fn busy() -> (TempDir, FakeAgent) {
    let mut snapshot = host::small();
    work::fill(&mut snapshot);
    serving(snapshot)
}

fn serving(snapshot: Snapshot) -> (TempDir, FakeAgent) {
    let run = tempfile::tempdir().unwrap();
    let agent = FakeAgent::start(run.path(), snapshot, TICK);
    (run, agent)
}

fn downbeat(run: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_downbeat"))
        .arg("--run-dir")
        .arg(run)
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("NO_COLOR")
        .output()
        .unwrap()
}

/// What a command that must work says.
fn told(run: &Path, arguments: &[&str]) -> String {
    let output = downbeat(run, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a command that must fail with code 1 says about it.
fn refused(run: &Path, arguments: &[&str]) -> String {
    let output = downbeat(run, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn json<T: serde::de::DeserializeOwned>(run: &Path, arguments: &[&str]) -> T {
    serde_json::from_str(&told(run, arguments)).unwrap()
}

#[test]
fn jobs_are_a_table() {
    let (run, _agent) = busy();
    insta::assert_snapshot!(told(run.path(), &["jobs"]));
}

#[test]
fn jobs_of_a_process_a_thread_or_a_name() {
    let (run, _agent) = busy();
    let tids = |who: &str| -> Vec<u32> {
        let jobs: Vec<ThreadJobs> = json(run.path(), &["jobs", who, "--json"]);
        jobs.iter().map(|jobs| jobs.tid).collect()
    };
    assert_eq!(tids("812"), [812, 813]);
    assert_eq!(tids("813"), [813]);
    assert_eq!(tids("whisper-server"), [812, 813]);
    assert_eq!(tids("decode"), [813]);
    assert_eq!(tids("camera"), [915, 916], "a part of the name");
    let told = refused(run.path(), &["jobs", "sshd"]);
    assert!(told.contains("no jobs of sshd") && told.contains("downbeat follow sshd"), "{told}");
    assert!(refused(run.path(), &["jobs", "9"]).contains("no jobs of 9 are followed"));
    assert!(refused(run.path(), &["jobs", ""]).contains("an empty name"));
}

#[test]
fn the_first_look_waits_for_rates() {
    let mut snapshot = host::small();
    work::fill(&mut snapshot);
    snapshot.interval = 0.0;
    let first = snapshot.tick + 1;
    let (run, _agent) = serving(snapshot);
    // The second snapshot comes a tick later; that it came is seen in the agent's own count.
    let jobs: Vec<ThreadJobs> = json(run.path(), &["jobs", "812", "--json"]);
    let status: Snapshot = json(run.path(), &["status", "--json"]);
    assert!(!jobs.is_empty());
    assert!(status.tick >= first + 2, "only {} snapshots", status.tick - first + 1);
}

#[test]
fn jobs_without_kernel_programs_say_why_there_are_none() {
    let (run, _agent) = serving(host::procfs_only());
    let told = told(run.path(), &["jobs"]);
    assert!(told.contains("kernel programs need root"), "{told}");
    let jobs: Vec<ThreadJobs> = json(run.path(), &["jobs", "--json"]);
    assert!(jobs.is_empty());
}

#[test]
fn blame_is_told_by_class() {
    let (run, _agent) = busy();
    insta::assert_snapshot!(told(run.path(), &["blame"]));
    let camera = told(run.path(), &["blame", "camera"]);
    assert!(camera.starts_with("camera did not wait in the last 0.25 s, 314 ms"), "{camera}");
    assert!(!camera.contains("ffmpeg"), "{camera}");
    let all: Vec<ClassBlame> = json(run.path(), &["blame", "--json"]);
    assert_eq!(all, work::blame());
    let none = told(run.path(), &["blame", "assistant"]);
    assert_eq!(none, "assistant did not wait for a CPU since the agent started\n");
    assert_eq!(
        refused(run.path(), &["blame", "voise"]),
        "downbeat: no class is called \"voise\": the policy has voice, camera, assistant, batch\n"
    );
}

#[test]
fn misses_are_listed_newest_first() {
    let (run, _agent) = busy();
    insta::assert_snapshot!(told(run.path(), &["misses"]));
    let misses: Vec<Miss> = json(run.path(), &["misses", "--json"]);
    assert_eq!(misses, work::misses());
}

#[test]
fn the_story_of_a_miss() {
    let (run, _agent) = busy();
    let last = told(run.path(), &["explain", "--miss"]);
    insta::assert_snapshot!(last);
    for which in ["last", "14", "voice"] {
        assert_eq!(told(run.path(), &["explain", "--miss", which]), last);
    }
    assert!(told(run.path(), &["explain", "--miss", "camera"]).starts_with("Miss 12: "));
    let miss: Miss = json(run.path(), &["explain", "--miss", "13", "--json"]);
    assert_eq!(miss, work::misses()[2]);
}

#[test]
fn a_miss_that_is_not_there_is_named_with_what_is() {
    let (run, agent) = busy();
    let told = refused(run.path(), &["explain", "--miss", "7"]);
    assert!(told.contains("no miss 7: the agent remembers 11 to 14"), "{told}");
    let told = refused(run.path(), &["explain", "--miss", "batch"]);
    assert!(told.contains("no miss of class batch is among the last 4"), "{told}");
    let told = refused(run.path(), &["explain", "--miss", "nobody"]);
    assert!(told.contains("no class is called \"nobody\""), "{told}");
    agent.say(|snapshot| snapshot.misses.clear());
    let told = refused(run.path(), &["explain", "--miss"]);
    assert_eq!(told, "downbeat: No deadline was missed since the agent started, 3 h 12 min ago\n");
    let both = downbeat(run.path(), &["explain", "812", "--miss", "1"]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
    assert_eq!(downbeat(run.path(), &["explain"]).status.code(), Some(2));
}

#[test]
fn an_explanation_is_json_as_well() {
    let (run, _agent) = busy();
    let explanation: downbeat_api::Explanation =
        json(run.path(), &["explain", "whisper-server", "--json"]);
    assert_eq!(explanation, host::explanation(812));
}

#[test]
fn a_program_without_a_class_is_followed() {
    let (run, agent) = busy();
    let start = Instant::now();
    let told = told(run.path(), &["follow", "sshd", "--seconds", "2"]);
    assert!(start.elapsed() >= Duration::from_secs(2));
    assert_eq!(agent.asked(), [downbeat_api::Request::Follow { pid: 77, seconds: 2 }]);
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines[0], "following 77 for 2 s");
    assert!(lines[1].starts_with(" AFTER     TID THREAD"), "{told}");
    let [rows @ .., last] = &lines[2..] else { panic!("{told}") };
    assert!(!rows.is_empty() && rows.iter().all(|row| row.contains("      77 sshd ")), "{told}");
    assert!(rows.iter().all(|row| row.contains(" timer     16.67 ms ±35 µs ")), "{told}");
    let found = "sshd (77) works every 16.67 ms ±35 µs, released by a timer of its own; 2.1 % of \
                 its beats were skipped";
    assert_eq!(*last, found);
    // 15 jobs a tick, and a tick is 20 ms at least.
    let rate: f64 = rows[rows.len() - 1].split_whitespace().nth(9).unwrap().parse().unwrap();
    assert!((1.0..=800.0).contains(&rate), "{rate} in {told}");
}

#[test]
fn following_ends_with_the_process() {
    let (run, agent) = busy();
    let run_dir = run.path().to_owned();
    let follower = std::thread::spawn(move || downbeat(&run_dir, &["follow", "2001"]));
    while agent.asked().is_empty() {
        std::thread::sleep(TICK);
    }
    agent.say(|snapshot| snapshot.processes.retain(|p| p.pid != 2_001));
    let output = follower.join().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("2001 has ended"));
}

#[test]
fn following_nothing_is_said() {
    let (run, agent) = busy();
    let told = refused(run.path(), &["follow", "9"]);
    assert!(told.contains("9: no such process"), "{told}");
    assert!(refused(run.path(), &["follow", "nobody"]).contains("no process is called"));
    agent.say(|snapshot| {
        let twin = downbeat_api::Process { pid: 78, ..snapshot.processes[5].clone() };
        snapshot.processes.push(twin);
    });
    let told = refused(run.path(), &["follow", "sshd"]);
    assert!(
        told.contains("2 processes are called \"sshd\": name one by its pid (77, 78)"),
        "{told}"
    );
    let output = downbeat(run.path(), &["follow", "1", "--seconds", "0"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_program_s_own_name_comes_before_a_command_line_that_has_it() {
    let (run, agent) = busy();
    agent.say(|snapshot| {
        let sshd = snapshot.processes[5].clone();
        let like = |pid, name: &str, command: &str| downbeat_api::Process {
            pid,
            name: name.into(),
            command: command.into(),
            ..sshd.clone()
        };
        let more = [
            like(500, "worker", "/opt/bin/mixer --out 1"),
            like(501, "vi", "vi /etc/mixer.toml"),
            like(502, "vi", "vi /tmp/mixer --out"),
        ];
        snapshot.processes.extend(more);
        snapshot.processes.extend((600..612).map(|pid| like(pid, "x", "/bin/x tool")));
    });
    told(run.path(), &["follow", "mixer", "--seconds", "1"]);
    assert_eq!(agent.asked(), [downbeat_api::Request::Follow { pid: 500, seconds: 1 }]);
    let told = refused(run.path(), &["follow", "tool"]);
    let some = "12 processes have this in their command line; name one by its pid (600 x, 601 x, ";
    assert!(told.contains(some) && told.contains(", and 4 more)"), "{told}");
}

#[test]
fn without_an_agent_each_names_the_socket() {
    let run = tempfile::tempdir().unwrap();
    for arguments in
        [&["jobs"][..], &["blame"], &["misses"], &["explain", "--miss"], &["follow", "1"]]
    {
        let output = downbeat(run.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("agent.sock") && told.contains("Start one with"), "{told}");
    }
}

#[test]
fn nothing_that_a_miss_brings_reaches_the_terminal_raw() {
    let (run, agent) = busy();
    agent.say(|snapshot| {
        let miss = snapshot.misses.last_mut().unwrap();
        for text in [&mut miss.thread, &mut miss.cause.text, &mut miss.cause.evidence[0]] {
            text.push_str("\x1b[2J\u{9b}31m");
        }
        miss.culprits[0].name = "\x1b]0;owned\x07".into();
    });
    for arguments in [&["misses"][..], &["explain", "--miss"], &["misses", "--json"]] {
        let told = told(run.path(), arguments);
        assert!(!told.contains(['\x1b', '\u{9b}', '\x07']), "{told:?}");
    }
}

#[test]
fn every_command_has_examples_in_its_help() {
    let run = tempfile::tempdir().unwrap();
    for command in ["jobs", "blame", "misses", "explain", "follow"] {
        let help = told(run.path(), &[command, "--help"]);
        assert!(help.contains("Examples:") && help.contains(&format!("downbeat {command}")));
    }
}
