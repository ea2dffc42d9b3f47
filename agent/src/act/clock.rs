//! The clock of start times.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Now, as start times in `stat` are counted: clock ticks since boot.
#[must_use]
pub fn boot_ticks() -> u64 {
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    let per_second = u128::from(procfs::ticks_per_second());
    u64::try_from(since_boot.as_nanos() * per_second / 1_000_000_000).unwrap_or(u64::MAX)
}
