//! How the classes fared over the last minutes.

use std::collections::VecDeque;
use std::time::Duration;

use downbeat_api::{Class, Misses};

use crate::report::classes;

/// Seconds that are kept.
pub const SECONDS: usize = 300;

/// One class over the last [`SECONDS`] seconds.
#[derive(Clone, Debug, Default)]
pub struct ClassHistory {
    /// Name of the class.
    pub name: String,
    /// One entry per second, newest last.
    pub seconds: VecDeque<Second>,
    /// Misses at the latest snapshot, from which the next one's are counted.
    last: Option<Misses>,
}

/// One second of a class. What nobody measured is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// Worst of the intervals' 99th percentiles of run-queue wait, nanoseconds.
    pub p99_ns: Option<u64>,
    /// Frames that came late.
    pub missed: Option<u64>,
}

/// All classes.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In policy order.
    pub classes: Vec<ClassHistory>,
    /// The second that the newest entries belong to.
    second: Option<u64>,
}

impl History {
    /// Folds one snapshot's classes in.
    pub fn add(&mut self, classes: &[Class], now: Duration) {
        // A second that nobody saw (the agent was away) is a gap, not a shorter time.
        let second = now.as_secs();
        let begun = second - self.second.map_or(second.saturating_sub(1), |last| last.min(second));
        self.second = Some(second);
        self.classes = classes
            .iter()
            .map(|class| {
                let known = self.classes.iter_mut().find(|h| h.name == class.name);
                let mut history = known.map(std::mem::take).unwrap_or_default();
                history.name.clone_from(&class.name);
                history.add(class, usize::try_from(begun).unwrap_or(usize::MAX));
                history
            })
            .collect();
    }
}

impl ClassHistory {
    fn add(&mut self, class: &Class, begun: usize) {
        for _ in 0..begun.min(SECONDS).max(usize::from(self.seconds.is_empty())) {
            self.seconds.push_back(Second::default());
        }
        self.seconds.drain(..self.seconds.len().saturating_sub(SECONDS));
        // Counts that went back belong to an agent that was started again.
        let now = classes::misses(class);
        let missed = match (self.last, now) {
            (Some(last), Some(now)) if now.frames >= last.frames => {
                Some(now.missed.saturating_sub(last.missed))
            }
            (_, Some(_)) => Some(0),
            (_, None) => None,
        };
        self.last = now;
        let p99 = class.wait.as_ref().and_then(|w| w.recent.p99_ns);
        if let Some(second) = self.seconds.back_mut() {
            second.p99_ns = second.p99_ns.max(p99);
            second.missed = match (second.missed, missed) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            };
        }
    }

    /// All [`SECONDS`], oldest first, `each` of them folded into one (the last may hold fewer),
    /// with nothing where there was no snapshot yet.
    #[must_use]
    pub fn folded(&self, each: usize) -> Vec<Second> {
        let missing = SECONDS.saturating_sub(self.seconds.len());
        let none = std::iter::repeat_n(Second::default(), missing);
        let all: Vec<Second> = none.chain(self.seconds.iter().copied()).collect();
        // Grouped from the newest on, so that the newest column is whole.
        let mut folded: Vec<Second> = all.rchunks(each.max(1)).map(Second::fold).collect();
        folded.reverse();
        folded
    }
}

impl Second {
    /// Worst wait and all misses of some seconds.
    fn fold(seconds: &[Self]) -> Self {
        let missed = seconds.iter().filter_map(|s| s.missed);
        Self {
            p99_ns: seconds.iter().filter_map(|s| s.p99_ns).max(),
            missed: seconds.iter().any(|s| s.missed.is_some()).then(|| missed.sum()),
        }
    }
}

#[cfg(test)]
mod tests {
    use downbeat_api::{Wait, WaitSummary};

    use super::*;

    fn class(p99_ns: u64, frames: u64, missed: u64) -> Class {
        Class {
            name: "voice".into(),
            modality: "audio".into(),
            tier: "realtime".into(),
            deadline_ns: None,
            sched: String::new(),
            processes: 1,
            threads: 1,
            cpu: 0.0,
            wait: Some(Wait {
                recent: WaitSummary { p99_ns: Some(p99_ns), ..WaitSummary::default() },
                ..Wait::default()
            }),
            misses: Some(Misses { frames, missed }),
            jobs: None,
            cpus: None,
            cgroups: None,
        }
    }

    fn seconds(history: &History) -> Vec<(Option<u64>, Option<u64>)> {
        history.classes[0].seconds.iter().map(|s| (s.p99_ns, s.missed)).collect()
    }

    #[test]
    fn a_second_keeps_its_worst_wait_and_all_its_misses() {
        let mut history = History::default();
        for (ms, p99, frames, missed) in
            [(1_000, 5, 100, 7), (1_250, 9, 125, 8), (1_500, 3, 150, 10), (2_000, 4, 200, 10)]
        {
            history.add(&[class(p99, frames, missed)], Duration::from_millis(ms));
        }
        assert_eq!(seconds(&history), [(Some(9), Some(3)), (Some(4), Some(0))]);
    }

    #[test]
    fn a_gap_stays_a_gap_and_a_new_agent_counts_from_zero() {
        let mut history = History::default();
        history.add(&[class(5, 100, 7)], Duration::from_secs(1));
        history.add(&[class(6, 10, 2)], Duration::from_secs(4));
        let none = (None, None);
        assert_eq!(seconds(&history), [(Some(5), Some(0)), none, none, (Some(6), Some(0))]);
    }

    #[test]
    fn old_seconds_are_forgotten() {
        let mut history = History::default();
        for s in 0..1_000 {
            history.add(&[class(s, 0, 0)], Duration::from_secs(s));
        }
        history.add(&[class(7, 0, 0)], Duration::from_secs(1_000_000));
        assert_eq!(history.classes[0].seconds.len(), SECONDS);
        assert_eq!(history.classes[0].folded(1).len(), SECONDS);
    }

    #[test]
    fn seconds_fold_into_columns_of_their_worst_wait_and_all_misses() {
        let mut history = History::default();
        for (s, p99, missed) in [(0, 9, 0), (1, 5, 1), (2, 7, 3), (3, 6, 4)] {
            history.add(&[class(p99, s * 100, missed)], Duration::from_secs(s));
        }
        let folded = history.classes[0].folded(3);
        assert_eq!(folded.len(), SECONDS.div_ceil(3));
        let newest = Second { p99_ns: Some(7), missed: Some(4) };
        let before = Second { p99_ns: Some(9), missed: Some(0) };
        assert_eq!(folded[folded.len() - 2..], [before, newest]);
        assert_eq!(folded[0], Second::default());
    }
}
