//! Signalling and reaping processes: with [`crate::launch`] the pool's syscall edge.
//!
//! How it is made sure that no worker outlives the pool:
//! - each instance has a control group of its own where the pool may make them
//!   ([`crate::groups`]), which is ended as a whole, whatever is in it;
//! - each worker has its own process group, and the whole group is killed when its leader ends;
//! - the leader gets SIGKILL from the kernel when the pool dies (`PR_SET_PDEATHSIG`). That signal
//!   comes when the *thread* dies that started the worker, so only the main thread starts any;
//! - what a worker started and moved to another group or session becomes the pool's own child when
//!   its parent ends (`PR_SET_CHILD_SUBREAPER`), and bears marks in its environment that say whose
//!   it was ([`crate::launch`]). It is killed then;
//! - when the pool itself is killed, its keeper ends what is left ([`crate::keeper`]); what a killed
//!   keeper leaves as well, the next pool finds by its marks.
//!
//! Without control groups a program that wipes its environment and leaves its process group escapes.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::launch::{LAUNCH_MARK, Launches, POOL_MARK};

/// Why a process could not be started.
#[derive(Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// It will not go better the next time.
    Lasting(String),
    /// The host is short of something.
    Passing(String),
}

/// Makes descendants that lose their parent the pool's own children, so that it can reap them.
///
/// # Errors
/// Names the syscall.
pub fn become_subreaper() -> io::Result<()> {
    prctl::set_child_subreaper(true)
        .map_err(|errno| io::Error::other(format!("prctl(PR_SET_CHILD_SUBREAPER): {errno}")))
}

/// Keeps SIGHUP pending until [`take_hangup`]: its default action ends a process, and the agent may
/// send it before there is a handler.
pub fn hold_hangup() {
    // Fails only for an unknown way to change the mask.
    let _ = SigSet::from(Signal::SIGHUP).thread_block();
}

/// Lets SIGHUP through, now that there is a handler. A mask also outlives an exec, so this clears
/// one that the pool was started with.
pub fn take_hangup() {
    // As above.
    let _ = SigSet::from(Signal::SIGHUP).thread_unblock();
}

/// What the error of a start means.
#[must_use]
pub fn spawn_error(program: &Path, error: &io::Error) -> SpawnError {
    let program = program.display();
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => SpawnError::Lasting(format!(
            "{program} is there, but the interpreter or loader that it asks for is not; look at \
             its first line, or at `ldd {program}`"
        )),
        Some(Errno::ENOEXEC) => SpawnError::Lasting(format!(
            "{program}: not a program for this machine; a script needs a first line like #!/bin/sh"
        )),
        Some(Errno::EACCES | Errno::EPERM) => SpawnError::Lasting(format!(
            "{program}: {error}; check `chmod +x` and whether its file system is mounted noexec"
        )),
        Some(Errno::E2BIG) => {
            SpawnError::Lasting(format!("{program}: {error}; shorten `command` or `env`"))
        }
        _ => SpawnError::Passing(format!("{program}: cannot be started: {error}")),
    }
}

/// Signals a worker's whole process group.
pub fn signal_group(leader: Pid, signal: Signal) {
    // ESRCH: all are gone, which is what a signal is for here.
    let _ = killpg(leader, signal);
}

/// Reaps a worker, if it has ended. What is left of its process group is killed first.
pub fn reap(leader: Pid) -> Option<ExitStatus> {
    // WNOWAIT keeps the leader as a zombie, so that its number cannot be reused before its group has
    // been killed.
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(leader), flags) {
        Ok(WaitStatus::StillAlive) | Err(_) => return None,
        Ok(_) => {}
    }
    signal_group(leader, Signal::SIGKILL);
    match waitpid(leader, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => Some(ExitStatus::from_raw(code << 8)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(ExitStatus::from_raw(signal as i32)),
        _ => None,
    }
}

/// Looks after what this process adopted: reaps those that ended, and kills those whose worker has.
/// To be called whenever a child ended: the children of those that are killed come here in turn.
pub fn look_after_orphans(run_dir: &Path, launches: &Launches) {
    for pid in children().into_iter().filter(|pid| !launches.has(*pid)) {
        if !matches!(waitpid(pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive)) {
            continue;
        }
        // A child that nobody else waits for keeps its number until it is reaped here.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let own = Marks::of(&environment, run_dir);
        if own.is_some_and(|it| it.pool == std::process::id() && !launches.runs(it.number)) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// The children of this process; none where the kernel does not list them.
fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|it| fs::read_to_string(it.path().join("children")).ok());
    let all: Vec<_> = lists
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
        .collect();
    all
}

/// An end in words.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        },
        (None, None) => "ended".into(),
    }
}

/// Kills what bears the marks of this run directory (of one pool's process, or of all) and is not
/// this process itself; returns how many there were. Repeats, because a process may fork while it is
/// looked for.
pub fn kill_marked(run_dir: &Path, pool: Option<u32>) -> usize {
    let mut killed = 0;
    for round in 0..5 {
        let before = killed;
        let Ok(entries) = fs::read_dir("/proc") else {
            return killed;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            if pid != Pid::this().as_raw() && kill_if_marked(pid, run_dir, pool) {
                killed += 1;
            }
        }
        if killed == before {
            break;
        }
        // For those just killed to go, so that they are not counted again.
        std::thread::sleep(Duration::from_millis(2 << round));
    }
    killed
}

fn kill_if_marked(pid: i32, run_dir: &Path, pool: Option<u32>) -> bool {
    // The pidfd first: whoever is read below is then the one who is killed, even if the number
    // has been given to another process meanwhile.
    let Some(pidfd) = pidfd_open(pid) else {
        return false;
    };
    // What another user runs cannot be read, and a zombie has no environment.
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    let marks = Marks::of(&environment, run_dir);
    marks.is_some_and(|it| pool.is_none_or(|pool| pool == it.pool)) && pidfd_kill(&pidfd)
}

/// Whose a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks {
    /// The pool's process.
    pool: u32,
    /// Of what it started.
    number: u64,
}

impl Marks {
    /// Those of an environment; nothing in one that is not of a pool of this run directory.
    fn of(environment: &[u8], run_dir: &Path) -> Option<Self> {
        let value = |name: &str| {
            environment.split(|byte| *byte == 0).find_map(|variable| {
                variable.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
            })
        };
        if value(POOL_MARK)? != run_dir.as_os_str().as_bytes() {
            return None;
        }
        let (pool, number) = std::str::from_utf8(value(LAUNCH_MARK)?).ok()?.split_once('.')?;
        Some(Self { pool: pool.parse().ok()?, number: number.parse().ok()? })
    }
}

fn pidfd_open(pid: i32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn pidfd_kill(pidfd: &OwnedFd) -> bool {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open, and a null siginfo is allowed and means kill(2)'s own.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, no_info, 0)
    };
    result == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_described() {
        assert_eq!(describe(ExitStatus::from_raw(3 << 8)), "exited with status 3");
        assert_eq!(describe(ExitStatus::from_raw(9)), "killed by SIGKILL");
    }

    #[test]
    fn only_all_marks_make_a_process_ours() {
        let run = Path::new("/run/a");
        let ours = b"A=1\0DOWNBEAT_LAUNCH=12.34\0DOWNBEAT_POOL=/run/a\0";
        assert_eq!(Marks::of(ours, run), Some(Marks { pool: 12, number: 34 }));
        assert_eq!(Marks::of(ours, Path::new("/run/b")), None);
        for other in [
            b"XDOWNBEAT_POOL=/run/a\0DOWNBEAT_LAUNCH=12.34\0".as_slice(),
            b"DOWNBEAT_POOL=/run/a\0DOWNBEAT_LAUNCH=12\0",
            b"DOWNBEAT_POOL=/run/a\0",
            b"",
        ] {
            assert_eq!(Marks::of(other, run), None);
        }
    }

    #[test]
    fn a_child_is_listed_and_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        if !children().contains(&pid) {
            eprintln!("skipped: this kernel lists no children (CONFIG_PROC_CHILDREN)");
        }
        let status = loop {
            if let Some(status) = reap(pid) {
                break status;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success());
        assert_eq!(reap(pid), None, "it is reaped already");
        assert!(child.wait().is_err(), "nothing is left to wait for");
    }
}
