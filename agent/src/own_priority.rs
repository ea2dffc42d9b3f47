//! The agent protects itself: it must react on a machine where everything else wants the CPU.
//!
//! The calling thread gets the lowest real-time priority: above all ordinary work, below every
//! frame. Its children and its other threads start with ordinary scheduling. Its memory stays in
//! RAM. What is not granted is said in `doctor` and costs only speed.

use downbeat_api::HostFacts;
use nix::sys::mman::{MlockAllFlags, mlockall};

use crate::act::{RESET_ON_FORK, Sched, sched_setattr};

/// Nice value where no real-time policy is granted.
const NICE: i32 = -10;

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
    // Only pages that are used: the stacks of threads are mostly empty.
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | onfault();
    if let Err(error) = mlockall(flags) {
        tracing::debug!("locking memory: {error}");
    }
}

/// `MCL_ONFAULT` (kernel 4.4).
fn onfault() -> MlockAllFlags {
    MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT)
}
