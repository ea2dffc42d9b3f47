//! The clock that frames are released and answered by: `CLOCK_MONOTONIC` in nanoseconds.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// Now.
#[must_use]
pub fn now_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// CPU time that the calling thread has used.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// Sleeps until `at_ns`; returns at once when it has passed.
pub fn sleep_until(at_ns: u64) {
    let at = TimeSpec::from(Duration::from_nanos(at_ns));
    // A signal may end the sleep early: the point in time is absolute, so it is slept again.
    while clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &at)
        .is_err_and(|errno| errno == nix::errno::Errno::EINTR)
    {}
}

/// Whole nanoseconds of a duration; saturates after 584 years.
#[must_use]
pub fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn read(clock: ClockId) -> u64 {
    // Linux always has these two clocks; a failure would be a kernel without them.
    clock_gettime(clock).map_or(0, |time| ns(Duration::from(time)))
}
