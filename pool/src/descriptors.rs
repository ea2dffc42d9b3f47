//! How many files may be open: a connection is one, and most hosts begin with 1,024 for a process.
//!
//! The pool takes what it may have. Its workers get what the pool began with: programs that wait by
//! select(2) break with descriptors above 1,023.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// For as many connections as are accepted, and what lies behind them.
const WANTED: rlim_t = 16_384;

/// What this process began with: soft and hard limit.
static BEFORE: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// Raises this process's limit as far as that may be.
///
/// # Errors
/// The kernel's. The limit is as it was.
pub fn raise() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = WANTED.min(hard);
    if soft >= wanted {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    // Called once.
    let _ = BEFORE.set((soft, hard));
    Ok(())
}

/// Puts the limit back, in a child between fork and exec: one syscall, nothing allocated.
///
/// # Errors
/// The kernel's.
pub fn put_back() -> io::Result<()> {
    let Some((soft, hard)) = BEFORE.get() else {
        return Ok(());
    };
    Ok(setrlimit(Resource::RLIMIT_NOFILE, *soft, *hard)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn the_pool_has_more_and_what_it_starts_has_what_was_before() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 1000, hard).unwrap();
        raise().unwrap();
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, WANTED.min(hard));
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -Sn; ulimit -Hn"]);
        // SAFETY: it makes one syscall.
        unsafe { command.pre_exec(put_back) };
        let told = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert_eq!(told, format!("1000\n{hard}\n"));
    }
}
