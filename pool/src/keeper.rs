//! The keeper: a process that waits for the pool's death, however it comes, and then ends what the
//! pool's workers had started and moved out of the kernel's reach.
//!
//! It is forked from the pool at its start, before there are threads, holds one end of a pipe whose
//! other end the pool alone has, and does nothing until that closes. Workers themselves die with
//! the pool by the kernel's hand (see [`crate::process`]); the keeper is for what they left.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::unistd::{ForkResult, fork, pipe2, setsid};

use crate::{groups, process};

/// How long a new pool waits for the keeper of the one before.
const PATIENCE: Duration = Duration::from_secs(5);

/// What processes that were killed may take to end.
const ENDING: Duration = Duration::from_secs(2);

/// What the pool holds for as long as it lives.
#[derive(Debug)]
pub struct Kept {
    _pipe: OwnedFd,
    _lock: File,
}

/// Waits for the keeper of a pool that was killed here, and starts this pool's. To be called while
/// the process has one thread. `folder` is the pool's, which both hold locked; `group` is the one
/// that was handed over.
///
/// # Errors
/// Names the call or the file.
pub fn start(folder: &Path, run_dir: &Path, group: Option<&Path>) -> io::Result<Kept> {
    let lock = lock(folder)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", folder.display())))?;
    let (waits, pipe) = pipe2(OFlag::O_CLOEXEC)?;
    let pool = std::process::id();
    // SAFETY: this process has one thread (see above), so the child may do what it likes.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => Ok(Kept { _pipe: pipe, _lock: lock }),
        ForkResult::Child => {
            keep(File::from(waits), &lock, pool, run_dir, group);
            // Nothing of the pool's is to be tidied up by its copy.
            // SAFETY: ends this process, and runs nothing of it.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Locks a folder, which a keeper of an earlier pool may still hold for some milliseconds.
fn lock(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                return Err(io::Error::other(
                    "locked for 5 s by the keeper of a pool before this one; end that process",
                ));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn keep(mut pool_lives: File, lock: &File, pool: u32, run_dir: &Path, group: Option<&Path>) {
    // Whoever signals the pool's whole group or session does not mean to leave orphans.
    let _ = SigSet::all().thread_block();
    let _ = setsid();
    let _ = prctl::set_name(c"downbeat-keeper");
    // Its copies of the pool's sockets would keep them open.
    close_all_but([pool_lives.as_raw_fd(), lock.as_raw_fd(), 2]);
    let mut nothing = [0; 1];
    while let Err(error) = pool_lives.read(&mut nothing)
        && error.kind() == io::ErrorKind::Interrupted
    {}
    let mut ended = group.map_or(0, groups::clear);
    ended += process::kill_marked(run_dir, Some(pool));
    if let Some(group) = group {
        groups::remove_all(group, ENDING);
    }
    if ended > 0 {
        // Nobody may be reading any more.
        let _ =
            writeln!(io::stderr(), "the keeper ended {ended} processes or groups of a killed pool");
    }
}

fn close_all_but(kept: [i32; 3]) {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in open.into_iter().filter(|number| !kept.contains(number)) {
        // SAFETY: nothing in this process uses them: it does not return to the pool's code. One is
        // the listing's own, which is closed already.
        unsafe { libc::close(number) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_an_earlier_pool_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        let path = folder.path().to_owned();
        let waiting = std::thread::spawn(move || lock(&path).is_ok());
        std::thread::sleep(Duration::from_millis(30));
        assert!(!waiting.is_finished());
        drop(first);
        assert!(waiting.join().unwrap());
    }
}
