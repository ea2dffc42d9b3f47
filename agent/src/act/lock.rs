//! One agent per run directory: a lock that dies with its holder.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

/// The lock's name inside the run directory.
const FILE_NAME: &str = "agent.lock";

/// Whoever can open the file can lock it, and so keep every agent and every restore out.
const MODE: u32 = 0o600;

/// How long a holder that is ending may take, and from one attempt to the next. The kernel takes the
/// programs from it one after the other, and on a busy host waits for every CPU at each.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(10);

/// `PF_EXITING` among the flags of a `stat` file.
const EXITING: u32 = 4;

/// Held while an agent, or `downbeat restore`, owns the run directory. The kernel lets it go when
/// its process ends, however it ends.
#[derive(Debug)]
pub struct RunLock {
    _file: Flock<File>,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another holder lives.
    #[error(
        "an agent is running here already (pid {pid}, {path}): stop it first, or give this one \
         another --run-dir"
    )]
    Held {
        /// Its pid, or 0 where it has not written it yet.
        pid: u32,
        /// The lock file.
        path: PathBuf,
    },
    /// The file cannot be opened or locked.
    #[error("{path}: {source}; give --run-dir a folder that this user can write")]
    Unusable {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl RunLock {
    /// Takes the lock in `run_dir`. Waits for a holder that is ending at this moment, and for no
    /// other.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn acquire(run_dir: &Path) -> Result<Self, LockError> {
        let path = run_dir.join(FILE_NAME);
        let unusable = |source| LockError::Unusable { path: path.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE)
            .open(&path)
            .map_err(unusable)?;
        // One of an earlier version.
        file.set_permissions(Permissions::from_mode(MODE)).map_err(unusable)?;
        let begin = Instant::now();
        let mut file = file;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut file) => {
                    write_pid(&mut file).map_err(unusable)?;
                    return Ok(Self { _file: file });
                }
                Err((mut held, nix::errno::Errno::EWOULDBLOCK)) => {
                    let pid = read_pid(&mut held);
                    if begin.elapsed() >= PATIENCE || !is_ending(pid) {
                        return Err(LockError::Held { pid, path: path.clone() });
                    }
                    file = held;
                    std::thread::sleep(STEP);
                }
                Err((_, error)) => return Err(unusable(error.into())),
            }
        }
    }
}

/// The holder's pid; 0 where it has not written it yet.
fn read_pid(file: &mut File) -> u32 {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    read.ok().and_then(|_| text.trim().parse().ok()).unwrap_or(0)
}

/// Whether the process has been killed: the kernel takes its files from it a moment later, which on a
/// busy host is when it gets a CPU to die on.
fn is_ending(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    if kill_is_pending(&status) {
        return true;
    }
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return pid != 0 };
    // Behind the name, which may hold brackets: the state, then six numbers to the flags.
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next();
    let flags: u32 = fields.nth(5).and_then(|flags| flags.parse().ok()).unwrap_or(0);
    matches!(state, Some("Z" | "X")) || flags & EXITING != 0
}

/// Whether SIGKILL waits for the process or its main thread, by its `status` file.
fn kill_is_pending(status: &str) -> bool {
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    let pending = |line: &str| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    status.lines().any(|line| pending(line) & KILL != 0)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunLock::acquire(dir.path()).unwrap();
        let Err(LockError::Held { pid, .. }) = RunLock::acquire(dir.path()) else {
            panic!("two held the same lock");
        };
        assert_eq!(pid, std::process::id());
        drop(first);
        RunLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_kill_that_waits_for_a_cpu_counts() {
        let status = |own, shared| format!("Threads:\t1\nSigPnd:\t{own}\nShdPnd:\t{shared}\n");
        assert!(kill_is_pending(&status("0000000000000100", "0000000000000000")));
        assert!(kill_is_pending(&status("0000000000000000", "0000000000000100")));
        assert!(!kill_is_pending(&status("0000000000004000", "0000000000000002")));
        assert!(!kill_is_pending(""));
    }

    #[test]
    fn only_a_holder_that_is_ending_is_waited_for() {
        assert!(!is_ending(std::process::id()));
        assert!(!is_ending(0), "one that has not said who it is");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let begin = Instant::now();
        while !is_ending(child.id()) {
            assert!(begin.elapsed() < Duration::from_secs(10), "a zombie counts as ending");
            std::thread::sleep(STEP);
        }
        child.wait().unwrap();
        assert!(is_ending(child.id()), "and so does one that is gone");
    }

    #[test]
    fn nobody_else_can_open_the_file_even_if_it_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        drop(RunLock::acquire(dir.path()).unwrap());
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        drop(RunLock::acquire(dir.path()).unwrap());
        assert_eq!(mode(), 0o600);
    }
}
