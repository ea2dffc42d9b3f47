//! The clocks that a worker reads.

use nix::time::{ClockId, clock_gettime};

/// Time since the machine's start, as deadlines are given in. Nanoseconds.
pub fn monotonic() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// CPU time of this thread: what a frame costs, however long it waited for a CPU meanwhile.
/// Nanoseconds.
pub fn thread_cpu() -> u64 {
    nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time of all threads of this process. Nanoseconds.
pub fn process_cpu() -> u64 {
    nanoseconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

fn nanoseconds(clock: ClockId) -> u64 {
    // These clocks exist since Linux 2.6; a failure would read as zero, which is never late.
    clock_gettime(clock).map_or(0, |t| {
        u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000
            + u64::try_from(t.tv_nsec()).unwrap_or(0)
    })
}
