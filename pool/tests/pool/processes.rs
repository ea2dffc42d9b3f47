//! The pool as a process: what dies, what comes back, what stays down, what is left behind.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, TestPool, declare, lives, spawn, wait_gone};
use downbeat_api::pool::WorkerState;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MIC: &str = "[worker.mic]\nmodel = \"denoise\"\n";

fn sigkill(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
}

#[test]
fn a_killed_worker_comes_back() {
    let pool = TestPool::start(MIC);
    let first = pool.wait_for("mic", WorkerState::Ready).pid.unwrap();
    sigkill(first);
    let status = pool.wait("second life", |status| {
        let mic = &status.workers[0];
        mic.state == WorkerState::Ready && mic.restarts == 1
    });
    let mic = &status.workers[0];
    assert_ne!(mic.pid, Some(first));
    assert_eq!(mic.note.as_deref(), Some("killed by SIGKILL"));
}

#[test]
fn a_worker_that_exits_at_once_backs_off_and_fails_until_sighup() {
    let pool = TestPool::start(
        "[worker.dies]\ncommand = [\"sh\", \"-c\", \"echo no model >&2; exit 3\"]\n",
    );
    let started = Instant::now();
    let dies = pool.wait_for("dies", WorkerState::Failed);
    assert!(started.elapsed() >= Duration::from_millis(2250), "it did not back off");
    assert_eq!(dies.restarts, 4);
    let note = dies.note.unwrap();
    assert!(note.starts_with("exited with status 3: no model; 5 times within 60 s"), "{note}");
    assert!(pool.log().contains("no model worker=\"dies\""), "{}", pool.log());
    pool.signal(Signal::SIGHUP);
    pool.wait("another chance", |status| status.workers[0].restarts > 4);
}

#[test]
fn a_missing_program_fails_at_once_and_is_named() {
    let pool = TestPool::start("[worker.lost]\ncommand = [\"no-such-program\"]\n");
    let lost = pool.wait_for("lost", WorkerState::Failed);
    assert_eq!((lost.restarts, lost.pid), (0, None));
    let note = lost.note.unwrap();
    assert!(note.contains("no-such-program: not found in PATH"), "{note}");
    assert!(note.contains("install it"), "{note}");
}

#[test]
fn a_missing_worker_program_is_named() {
    let pool = TestPool::start_with(MIC, &["--worker-bin", "/no/such/worker"]);
    let note = pool.wait_for("mic", WorkerState::Failed).note.unwrap();
    assert_eq!(note, "/no/such/worker: does not exist; correct --worker-bin");
}

/// A worker with a child in its own group and one in a session of its own.
fn family(folder: &std::path::Path) -> String {
    let script = format!(
        "sleep 1000 & echo $! > {0}/near; \
         setsid sh -c 'echo $$ > {0}/far; exec sleep 1000' & exec sleep 1000",
        folder.display()
    );
    format!("[worker.family]\ncommand = [\"sh\", \"-c\", \"{script}\"]\n")
}

#[test]
fn sigterm_leaves_no_process_and_no_socket() {
    let mut pool = TestPool::start(MIC);
    pool.wait("start", |_| true);
    declare(pool.folder.path(), &format!("{MIC}{}", family(pool.folder.path())));
    pool.signal(Signal::SIGHUP);
    let near = pool.wait_pid("near");
    let far = pool.wait_pid("far");
    let mic = pool.wait_for("mic", WorkerState::Ready).pid.unwrap();
    let main = pool.wait_for("family", WorkerState::Ready).pid.unwrap();
    pool.signal(Signal::SIGTERM);
    assert!(pool.wait_end().success(), "{}", pool.log());
    for pid in [near, far, mic, main] {
        assert!(!lives(pid), "pid {pid} is still there; log:\n{}", pool.log());
    }
    let left = fs::read_dir(pool.folder.path().join("run/pool")).unwrap().count();
    assert_eq!(left, 0, "sockets were left");
}

#[test]
fn sigterm_does_not_wait_for_a_worker_that_is_to_be_started_again() {
    let mut pool = TestPool::start("[worker.brief]\ncommand = [\"false\"]\n");
    pool.wait("a pause", |status| {
        let it = &status.workers[0];
        it.state == WorkerState::Backoff && it.restarts >= 2
    });
    pool.signal(Signal::SIGTERM);
    assert!(pool.wait_end().success(), "{}", pool.log());
}

#[test]
fn a_worker_that_ignores_sigterm_is_killed_after_two_seconds() {
    let mut pool = TestPool::start(
        "[worker.deaf]\ncommand = [\"sh\", \"-c\", \"trap '' TERM; while :; do sleep 1; done\"]\n",
    );
    let deaf = pool.wait_for("deaf", WorkerState::Ready).pid.unwrap();
    let started = Instant::now();
    pool.signal(Signal::SIGTERM);
    assert!(pool.wait_end().success());
    assert!(started.elapsed() >= Duration::from_millis(1900), "it had no time to end by itself");
    assert!(started.elapsed() < PATIENCE / 2);
    assert!(!lives(deaf));
}

#[test]
fn a_killed_pool_takes_its_workers_along_and_the_next_one_takes_the_rest() {
    let mut pool = TestPool::start(MIC);
    pool.wait("start", |_| true);
    declare(pool.folder.path(), &format!("{MIC}{}", family(pool.folder.path())));
    pool.signal(Signal::SIGHUP);
    let near = pool.wait_pid("near");
    let far = pool.wait_pid("far");
    let mic = pool.wait_for("mic", WorkerState::Ready).pid.unwrap();
    let main = pool.wait_for("family", WorkerState::Ready).pid.unwrap();
    pool.signal(Signal::SIGKILL);
    pool.wait_end();
    // The kernel kills what the pool started itself.
    wait_gone(mic);
    wait_gone(main);
    // What those had started is found by the next pool, which also replaces the stale sockets.
    declare(pool.folder.path(), MIC);
    pool.child = spawn(pool.folder.path(), &[]);
    let again = pool.wait_for("mic", WorkerState::Ready);
    assert_eq!(again.restarts, 0);
    wait_gone(near);
    wait_gone(far);
}

#[test]
fn what_a_dead_worker_leaves_is_killed_before_its_restart() {
    let pool = TestPool::start("");
    pool.wait("start", |_| true);
    declare(pool.folder.path(), &family(pool.folder.path()));
    pool.signal(Signal::SIGHUP);
    let near = pool.wait_pid("near");
    let far = pool.wait_pid("far");
    sigkill(pool.wait_for("family", WorkerState::Ready).pid.unwrap());
    wait_gone(near);
    wait_gone(far);
}

#[test]
fn a_bad_set_of_files_changes_nothing_and_a_good_one_is_followed() {
    let pool = TestPool::start("[worker.mic]\nmodle = \"denoise\"\n");
    let status = pool.wait("refusal", |status| status.note.is_some());
    let note = status.note.unwrap();
    assert!(note.starts_with("configuration refused, nothing of it runs: "), "{note}");
    assert!(
        note.contains("10-test.toml:2:1: unknown key `modle`: did you mean `model`?"),
        "{note}"
    );
    assert!(status.workers.is_empty());

    declare(pool.folder.path(), &format!("{MIC}[worker.nap]\ncommand = [\"sleep\", \"1000\"]\n"));
    pool.signal(Signal::SIGHUP);
    let mic = pool.wait_for("mic", WorkerState::Ready).pid;
    let nap = pool.wait_for("nap", WorkerState::Ready).pid.unwrap();

    declare(pool.folder.path(), "[worker");
    pool.signal(Signal::SIGHUP);
    let status = pool.wait("refusal", |status| status.note.is_some());
    assert!(status.note.unwrap().contains("what ran before keeps running"));
    assert_eq!(status.workers.len(), 2);

    // One goes, one changes, one stays as it is.
    declare(pool.folder.path(), &format!("{MIC}[worker.doze]\ncommand = [\"sleep\", \"1000\"]\n"));
    pool.signal(Signal::SIGHUP);
    pool.wait_for("doze", WorkerState::Ready);
    let status = pool.wait("two workers", |status| status.workers.len() == 2);
    assert_eq!(status.note, None);
    assert_eq!(status.workers[1].pid, mic, "an unchanged worker was restarted");
    assert!(!lives(nap));
    declare(pool.folder.path(), &format!("{MIC}deadline = \"20ms\"\n"));
    pool.signal(Signal::SIGHUP);
    let status = pool.wait("a new mic", |status| {
        status.workers.len() == 1
            && status.workers[0].state == WorkerState::Ready
            && status.workers[0].pid != mic
    });
    assert_eq!(status.workers[0].name, "mic");
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let pool = TestPool::start(MIC);
    pool.wait_for("mic", WorkerState::Ready);
    let path = pool.folder.path().join("pool.d/10-test.toml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
    pool.signal(Signal::SIGHUP);
    let note = pool.wait("refusal", |status| status.note.is_some()).note.unwrap();
    assert!(note.contains("chmod go-w"), "{note}");
}

#[test]
fn a_missing_folder_is_no_reason_to_stop() {
    let pool = TestPool::start_with("", &["--pool-dir", "/no/such/pool.d"]);
    let note = pool.wait("note", |status| status.note.is_some()).note.unwrap();
    assert!(note.starts_with("/no/such/pool.d: no such folder"), "{note}");
}

#[test]
fn a_second_pool_names_the_first_and_leaves_it_alone() {
    let pool = TestPool::start(MIC);
    let mic = pool.wait_for("mic", WorkerState::Ready).pid;
    let output = Command::new(env!("CARGO_BIN_EXE_downbeat-pool"))
        .arg("--run-dir")
        .arg(pool.folder.path().join("run"))
        .output()
        .unwrap();
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains(&format!("another pool (pid {})", pool.child.id())), "{message}");
    assert_eq!(pool.wait_for("mic", WorkerState::Ready).pid, mic);
}

#[test]
fn workers_cannot_gain_privileges_and_know_their_pool() {
    let pool =
        TestPool::start("[worker.nap]\ncommand = [\"sleep\", \"1000\"]\nenv = { A = \"b\" }\n");
    let nap = pool.wait_for("nap", WorkerState::Ready).pid.unwrap();
    let status = fs::read_to_string(format!("/proc/{nap}/status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let environment = fs::read_to_string(format!("/proc/{nap}/environ")).unwrap();
    for wanted in ["A=b", "DOWNBEAT_WORKER=nap", "NOTIFY_SOCKET="] {
        assert!(environment.split('\0').any(|v| v.starts_with(wanted)), "{wanted}: {environment}");
    }
}

#[test]
fn an_early_sighup_does_not_end_the_pool() {
    for wait in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("pool.d")).unwrap();
        declare(folder.path(), "");
        let mut child = spawn(folder.path(), &[]);
        let pid = Pid::from_raw(child.id().cast_signed());
        // Once the program's own code runs: the loader, before that, is the starter's to guard.
        while !masks_hangup(pid) {
            assert!(child.try_wait().unwrap().is_none());
        }
        std::thread::sleep(Duration::from_micros(200 * wait));
        kill(pid, Signal::SIGHUP).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let ended = child.try_wait().unwrap();
        let _ = kill(pid, Signal::SIGTERM);
        let _ = child.wait();
        assert_eq!(ended, None, "ended by SIGHUP after {wait} waits");
    }
}

/// Whether SIGHUP is blocked or caught: bit 0 of the masks.
fn masks_hangup(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .filter_map(|line| line.strip_prefix("SigBlk:").or(line.strip_prefix("SigCgt:")))
        .any(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 != 0))
}
