//! Keeps a costly reading within a share of one core.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// However much a reading cost, it is due again after this: old figures explain nothing.
const LONGEST: Duration = Duration::from_secs(10);

/// Says when a file is due again, from what it cost to read it.
#[derive(Debug)]
pub struct Pacer {
    /// A reading may take one part in this many of the time.
    parts: u32,
    due_ns: u64,
}

impl Pacer {
    /// A pacer that grants one part in `parts` of one core.
    #[must_use]
    pub fn new(parts: u32) -> Self {
        Self { parts, due_ns: 0 }
    }

    /// Whether the time that the last reading cost has been earned; `now_ns` is monotonic.
    #[must_use]
    pub fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.due_ns
    }

    /// Takes in a reading that began at `now_ns` and took `cost` of CPU time.
    pub fn spent(&mut self, now_ns: u64, cost: Duration) {
        let pause = cost.saturating_mul(self.parts).min(LONGEST);
        self.due_ns = now_ns.saturating_add(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// CPU time that may be spent over time, where the work is done in small pieces.
#[derive(Debug)]
pub struct Purse {
    /// One part in this many of one core is earned.
    parts: u32,
    /// The most that is saved up.
    most: Duration,
    saved: Duration,
    at: Instant,
}

impl Purse {
    /// A full purse that earns one part in `parts` of one core and holds at most `most`.
    #[must_use]
    pub fn new(parts: u32, most: Duration) -> Self {
        Self { parts, most, saved: most, at: Instant::now() }
    }

    /// What may be spent `now`, of a piece of at most `slice`.
    pub fn granted(&mut self, now: Instant, slice: Duration) -> Duration {
        let passed = now.saturating_duration_since(self.at);
        self.at = now;
        self.saved = (self.saved + passed / self.parts).min(self.most);
        slice.min(self.saved)
    }

    /// Takes in what a piece of work cost; one that cost more than there was leaves nothing.
    pub fn spend(&mut self, cost: Duration) {
        self.saved = self.saved.saturating_sub(cost);
    }

    /// Has all but `left` spent.
    #[cfg(test)]
    pub(super) fn empty_to(&mut self, left: Duration) {
        self.saved = left;
    }
}

/// CPU time of the calling thread. Not the time on the wall: on a saturated host, when the figures
/// are wanted most, a reading that had to wait for a CPU would seem to have cost much.
#[must_use]
pub fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_little_is_always_due_and_what_costs_much_waits() {
        let mut pacer = Pacer::new(500);
        assert!(pacer.is_due(0));
        pacer.spent(0, Duration::from_micros(100));
        assert!(pacer.is_due(250_000_000));
        pacer.spent(0, Duration::from_millis(8));
        assert!(!pacer.is_due(3_000_000_000));
        assert!(pacer.is_due(4_000_000_000));
        pacer.spent(0, Duration::from_secs(8));
        assert!(pacer.is_due(10_000_000_000));
    }

    #[test]
    fn waiting_costs_no_cpu_time() {
        let begun = cpu_time();
        std::thread::sleep(Duration::from_millis(50));
        assert!(cpu_time() - begun < Duration::from_millis(25));
    }
}
