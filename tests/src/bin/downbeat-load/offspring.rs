//! A process of this program's own, made by fork: it ends with the one that made it.

use std::ffi::CString;

use anyhow::{Context, Result, ensure};
use downbeat_tests::processes::tids;
use nix::sys::prctl::{set_name, set_pdeathsig};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

/// A child; killed when dropped.
#[derive(Debug)]
pub struct Offspring {
    pid: Pid,
}

impl Offspring {
    /// Starts a process called `name` (the kernel keeps 15 bytes) that does `work` and ends.
    /// An error of `work` goes to standard error.
    pub fn start(name: &str, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let comm = CString::new(name).with_context(|| format!("`{name}` holds a zero byte"))?;
        ensure!(tids(std::process::id()).len() == 1, "fork: this process has other threads");
        let parent = getpid();
        // SAFETY: the process has one thread, as was just seen, so that the child finds no lock
        // held and may do whatever the parent might.
        match unsafe { fork() }.context("fork")? {
            ForkResult::Parent { child } => Ok(Self { pid: child }),
            ForkResult::Child => {
                let done = set_name(&comm)
                    .and_then(|()| set_pdeathsig(Signal::SIGKILL))
                    .context("prctl")
                    // The parent may have died before the line above.
                    .and_then(|()| if getppid() == parent { work() } else { Ok(()) });
                if let Err(error) = &done {
                    eprintln!("downbeat-load ({name}): {error:#}");
                }
                std::process::exit(i32::from(done.is_err()))
            }
        }
    }

    /// Its process id, which is its one thread's too.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }
}

impl Drop for Offspring {
    fn drop(&mut self) {
        // One that has ended already stays a zombie until `waitpid`: its number is still its own.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}
