//! The agent protects itself: it must react on a machine where everything else wants the CPU.
//!
//! The calling thread gets the lowest real-time priority: above all ordinary work, below every
//! frame. Its children and its other threads start with ordinary scheduling. Its memory stays in
//! RAM. What is not granted is said in `doctor` and costs only speed.

use std::sync::atomic::{AtomicBool, Ordering};

use downbeat_api::HostFacts;
use nix::sys::mman::{MlockAllFlags, mlockall};

use crate::act::{RESET_ON_FORK, Sched, sched_setattr};

/// Nice value where no real-time policy is granted.
const NICE: i32 = -10;

/// Of the process as a whole, as the lock itself is.
static LOCKED: AtomicBool = AtomicBool::new(false);

/// Raises the calling thread's priority and locks the process's memory.
pub fn raise(host: &HostFacts) {
    let sched = if host.realtime {
        let policy = libc::SCHED_FIFO.cast_unsigned();
        Sched { policy, priority: 1, flags: RESET_ON_FORK, ..Sched::DEFAULT }
    } else {
        Sched { nice: NICE, flags: RESET_ON_FORK, ..Sched::DEFAULT }
    };
    let thread = nix::unistd::gettid().as_raw().cast_unsigned();
    if let Err(error) = sched_setattr(thread, &sched) {
        tracing::debug!("own priority: {error}");
    }
    lock_memory();
}

/// Keeps the process's memory in RAM, what it has and what it will have.
pub(crate) fn lock_memory() {
    // Only pages that are used: the stacks of threads are mostly empty.
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | onfault();
    match mlockall(flags) {
        Ok(()) => LOCKED.store(true, Ordering::Relaxed),
        Err(error) => tracing::debug!("locking memory: {error}"),
    }
}

/// Whether [`raise`] locked the process's memory.
pub(crate) fn has_locked_memory() -> bool {
    LOCKED.load(Ordering::Relaxed)
}

/// `MCL_ONFAULT` (kernel 4.4).
fn onfault() -> MlockAllFlags {
    MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT)
}
