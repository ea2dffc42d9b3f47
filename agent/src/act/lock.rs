//! One agent per run directory: a lock that dies with its holder.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// The lock's name inside the run directory.
const FILE_NAME: &str = "agent.lock";

/// Whoever can open the file can lock it, and so keep every agent and every restore out.
const MODE: u32 = 0o600;

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
    /// Takes the lock in `run_dir`, without waiting.
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
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                write_pid(&mut file).map_err(unusable)?;
                Ok(Self { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                let pid = text.trim().parse().unwrap_or(0);
                Err(LockError::Held { pid, path: path.clone() })
            }
            Err((_, error)) => Err(unusable(error.into())),
        }
    }
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
    fn nobody_else_can_open_the_file_even_if_it_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        drop(RunLock::acquire(dir.path()).unwrap());
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        drop(RunLock::acquire(dir.path()).unwrap());
        assert_eq!(mode(), 0o600);
    }
}
