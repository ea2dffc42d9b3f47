//! Starting, signalling and reaping processes: the pool's syscall edge.
//!
//! How it is made sure that no worker outlives the pool:
//! - each worker has its own process group, and the whole group is killed when its leader ends;
//! - the leader gets SIGKILL from the kernel when the pool dies (`PR_SET_PDEATHSIG`). That signal
//!   comes when the *thread* dies that started the worker, so only the main thread starts any;
//! - what a worker started and moved to another group or session still bears the mark
//!   [`WORKER_MARK`] in its environment. It is found there when its worker ends, when the pool
//!   stops, and when a new pool starts after a killed one. A program that wipes its environment
//!   and leaves its group escapes.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getppid};

use crate::config::WorkerConfig;
use crate::confine::Confinement;
use crate::program::CommandLine;

/// Environment variable that names a process's worker and instance.
pub const WORKER_MARK: &str = "DOWNBEAT_WORKER";

/// Environment variable that names its pool, by the run directory.
pub const POOL_MARK: &str = "DOWNBEAT_POOL";

/// Environment variable with the worker's deadline, microseconds.
const DEADLINE: &str = "DOWNBEAT_DEADLINE_US";

/// Why a process could not be started.
#[derive(Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// It will not go better the next time.
    Lasting(String),
    /// The host is short of something.
    Passing(String),
}

/// A process that runs.
pub struct Spawned {
    /// Leader of its own group.
    pub pid: Pid,
    /// Its standard error.
    pub stderr: ChildStderr,
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

/// Starts instance `id` of a worker, which inherits `channel` and gets its number as `--channel`. To
/// be called on the main thread only; see the module's text.
///
/// # Errors
/// Says what failed and what to do.
pub fn spawn(
    config: &WorkerConfig,
    id: &str,
    line: &CommandLine,
    run_dir: &Path,
    notify: &Path,
    channel: Option<&OwnedFd>,
    confinement: Confinement,
) -> Result<Spawned, SpawnError> {
    let mut command = Command::new(&line.program);
    command
        .args(&line.arguments)
        .current_dir(config.dir.as_deref().unwrap_or(Path::new("/")))
        .envs(&confinement.env)
        .envs(&config.env)
        .env("NOTIFY_SOCKET", notify)
        .env(WORKER_MARK, id)
        .env(POOL_MARK, run_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(deadline) = config.deadline {
        command.env(DEADLINE, deadline.as_micros().to_string());
    }
    if let Some((user, group)) = confinement.user {
        command.uid(user.as_raw()).gid(group.as_raw());
    }
    let channel = channel.map(AsRawFd::as_raw_fd);
    if let Some(number) = channel {
        command.arg("--channel").arg(number.to_string());
    }
    let pool = Pid::this();
    // SAFETY: the closure runs in the child between fork and exec and makes a few syscalls; it
    // neither allocates nor takes a lock. The channel's descriptor is open there: whoever called
    // holds it until the child has been started.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The pool may have died before the line above; then no signal would ever come.
            if getppid() != pool {
                return Err(Errno::ESRCH.into());
            }
            prctl::set_no_new_privs()?;
            if let Some(number) = channel {
                // Without FD_CLOEXEC, in the child alone.
                Errno::result(libc::fcntl(number, libc::F_SETFD, 0))?;
            }
            // Last, so that nothing above needs what it takes away.
            confinement.enter()
        });
    }
    let mut child = command.spawn().map_err(|error| spawn_error(&line.program, &error))?;
    let stderr = child.stderr.take().ok_or_else(|| {
        SpawnError::Passing(format!("{}: no pipe for its standard error", line.program.display()))
    })?;
    Ok(Spawned { pid: Pid::from_raw(child.id().cast_signed()), stderr })
}

fn spawn_error(program: &Path, error: &io::Error) -> SpawnError {
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

/// Reaps one ended child, a worker or an orphan that was adopted. What is left of a worker's
/// process group is killed first. Nothing when none has ended.
pub fn reap(is_worker: impl Fn(Pid) -> bool) -> Option<(Pid, ExitStatus)> {
    loop {
        // WNOWAIT keeps the leader as a zombie, so that its number cannot be reused before its
        // group has been killed.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let pid = match waitid(Id::All, flags) {
            Ok(status) => status.pid()?,
            Err(Errno::EINTR) => continue,
            Err(_) => return None,
        };
        if is_worker(pid) {
            signal_group(pid, Signal::SIGKILL);
        }
        return match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => Some((pid, ExitStatus::from_raw(code << 8))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                Some((pid, ExitStatus::from_raw(signal as i32)))
            }
            _ => None,
        };
    }
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

/// Kills what bears the marks of this pool (of one worker, or of all) and is not the pool itself;
/// returns how many there were. Repeats, because a process may fork while it is looked for.
pub fn kill_marked(run_dir: &Path, worker: Option<&str>) -> usize {
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
            if pid != Pid::this().as_raw() && kill_if_marked(pid, run_dir, worker) {
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

fn kill_if_marked(pid: i32, run_dir: &Path, worker: Option<&str>) -> bool {
    // The pidfd first: whoever is read below is then the one who is killed, even if the number
    // has been given to another process meanwhile.
    let Some(pidfd) = pidfd_open(pid) else {
        return false;
    };
    // What another user runs cannot be read, and a zombie has no environment.
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    marked(&environment, run_dir, worker) && pidfd_kill(&pidfd)
}

fn marked(environment: &[u8], run_dir: &Path, worker: Option<&str>) -> bool {
    let has = |name: &str, value: Option<&[u8]>| {
        environment.split(|byte| *byte == 0).any(|variable| {
            variable
                .strip_prefix(name.as_bytes())
                .and_then(|rest| rest.strip_prefix(b"="))
                .is_some_and(|is| value.is_none_or(|wanted| is == wanted))
        })
    };
    has(POOL_MARK, Some(run_dir.as_os_str().as_bytes()))
        && has(WORKER_MARK, worker.map(str::as_bytes))
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
    fn only_both_marks_make_a_process_ours() {
        let run = Path::new("/run/a");
        let ours = b"A=1\0DOWNBEAT_WORKER=mic\0DOWNBEAT_POOL=/run/a\0";
        assert!(marked(ours, run, None));
        assert!(marked(ours, run, Some("mic")));
        assert!(!marked(ours, run, Some("mi")));
        assert!(!marked(ours, Path::new("/run/b"), None));
        assert!(!marked(b"XDOWNBEAT_POOL=/run/a\0DOWNBEAT_WORKER=mic\0", run, None));
        assert!(!marked(b"", run, None));
    }
}
