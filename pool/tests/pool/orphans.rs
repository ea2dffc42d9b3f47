//! No process outlives its worker, its pool, or what it was started for.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use downbeat_api::pool::WorkerState;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::rest::{ask, start_with};
use crate::support::{PATIENCE, TestPool, lives, wait_gone};

/// A child in a session of its own whose parent has ended, twice over.
fn deep(folder: &Path, file: &str) -> String {
    let path = folder.join(file);
    format!(
        "setsid sh -c '(setsid sh -c \"echo \\$\\$ > {0}.new; mv {0}.new {0}; exec sleep 1000 > /dev/null 2>&1\" &) ; true' ; ",
        path.display()
    )
}

/// The same with an empty environment.
fn bare(folder: &Path, file: &str) -> String {
    let path = folder.join(file);
    format!(
        "setsid env -i PATH=$PATH sh -c \"(setsid sh -c 'echo \\$\\$ > {0}.new; mv {0}.new {0}; exec sleep 1000 > /dev/null 2>&1' &) ; true\" ; ",
        path.display()
    )
}

fn declaration(name: &str, script: &str, more: &str) -> String {
    format!("[worker.{name}]\ncommand = [\"sh\", \"-c\", '''{script}''']\n{more}\n")
}

fn sigkill(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
}

/// A control group of version 2 of this test's own; gone when dropped.
struct Handed(PathBuf);

impl Handed {
    /// Nothing where this user may make none.
    fn new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut points = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            fields.next().filter(|_| fields.next() == Some("cgroup2"))
        });
        let folder = points
            .next()
            .map(|at| Path::new(at).join(format!("downbeat-test-{name}-{}", std::process::id())));
        match folder.filter(|_| geteuid().is_root()) {
            Some(folder) if fs::create_dir(&folder).is_ok() => Some(Self(folder)),
            _ => {
                eprintln!("skipped: no control group of version 2 can be made here");
                None
            }
        }
    }

    fn argument(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn groups(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap().flatten();
        let names = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        names.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    fn wait_for(&self, groups: &[&str]) {
        let until = Instant::now() + PATIENCE;
        while self.groups() != groups {
            assert!(Instant::now() < until, "{:?}, not {groups:?}", self.groups());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let until = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.0).is_err() && Instant::now() < until {
            for group in self.groups() {
                let _ = fs::remove_dir(self.0.join(group));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn what_left_its_session_ends_with_its_worker() {
    let files = tempfile::tempdir().unwrap();
    let script = format!("{} exec sleep 1000", deep(files.path(), "deep"));
    let pool = TestPool::start(&declaration("w", &script, ""));
    let worker = pool.wait_for("w", WorkerState::Ready).pid.unwrap();
    let deep = wait_pid(&pool, &files.path().join("deep"));
    assert!(lives(deep));
    sigkill(worker);
    wait_gone(deep);
    // Its next life is left alone.
    fs::remove_file(files.path().join("deep")).unwrap();
    pool.wait("second life", |status| status.workers[0].restarts == 1);
    assert!(lives(wait_pid(&pool, &files.path().join("deep"))));
}

#[test]
fn a_killed_pool_leaves_nothing_behind_though_nobody_follows_it() {
    let files = tempfile::tempdir().unwrap();
    let script = format!("{} exec sleep 1000", deep(files.path(), "deep"));
    let kept = format!("{} while read line; do echo $line; done", deep(files.path(), "kept"));
    let text =
        declaration("w", &script, "") + &declaration("k", &kept, "stdio = { mode = \"kept\" }");
    let (mut pool, address) = start_with(&text, &[]);
    let worker = pool.wait_for("w", WorkerState::Ready).pid.unwrap();
    pool.wait_for("k", WorkerState::Ready);
    assert_eq!(ask(&address, "k", b"a").string(), b"a");
    let left =
        [wait_pid(&pool, &files.path().join("deep")), wait_pid(&pool, &files.path().join("kept"))];
    pool.signal(Signal::SIGKILL);
    pool.wait_end();
    wait_gone(worker);
    for pid in left {
        wait_gone(pid);
    }
}

#[test]
fn a_group_ends_with_whoever_is_in_it() {
    let Some(handed) = Handed::new("ends") else { return };
    let files = tempfile::tempdir().unwrap();
    let script = format!("{} exec sleep 1000", bare(files.path(), "bare"));
    // It ends no earlier than what it started has said its number.
    let job = format!(
        "{} while [ ! -e {} ]; do sleep 0.01; done; cat",
        bare(files.path(), "job"),
        files.path().join("job").display()
    );
    let text = declaration("w", &script, "")
        + &declaration("once", &job, "stdio = { mode = \"once\" }\nsandbox = false");
    let (mut pool, address) = start_with(&text, &["--cgroup", handed.argument()]);
    let worker = pool.wait_for("w", WorkerState::Ready).pid.unwrap();
    let bare = wait_pid(&pool, &files.path().join("bare"));
    let group = fs::read_to_string(format!("/proc/{bare}/cgroup")).unwrap();
    assert!(group.contains("/worker-w\n"), "{group}");
    sigkill(worker);
    wait_gone(bare);
    fs::remove_file(files.path().join("bare")).unwrap();
    let again = wait_pid(&pool, &files.path().join("bare"));
    assert_eq!(ask(&address, "once", b"a").string(), b"a");
    // The job has ended, and what it had started as well.
    wait_gone(wait_pid(&pool, &files.path().join("job")));
    pool.signal(Signal::SIGKILL);
    pool.wait_end();
    wait_gone(again);
    handed.wait_for(&[]);
}

#[test]
fn groups_come_and_go_with_their_instances() {
    let Some(handed) = Handed::new("comes") else { return };
    let text = |count: usize| declaration("w", "sleep 1000", &format!("instances = {count}"));
    let mut pool = TestPool::start_with(&text(2), &["--cgroup", handed.argument()]);
    pool.wait("two", |status| {
        status.workers.iter().filter(|it| it.state == WorkerState::Ready).count() == 2
    });
    let mut groups = handed.groups();
    groups.sort();
    assert_eq!(groups, ["worker-w", "worker-w#2"]);
    crate::support::declare(pool.folder.path(), &text(1));
    pool.signal(Signal::SIGHUP);
    handed.wait_for(&["worker-w"]);
    pool.signal(Signal::SIGTERM);
    assert!(pool.wait_end().success(), "{}", pool.log());
    handed.wait_for(&[]);
}

fn wait_pid(pool: &TestPool, path: &Path) -> u32 {
    let until = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if let Ok(pid) = text.trim().parse() {
            return pid;
        }
        assert!(Instant::now() < until, "no {}\n{}", path.display(), pool.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}
