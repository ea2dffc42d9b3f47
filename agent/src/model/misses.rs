//! The latest misses with their stories, and how many there were of each cause.

use std::collections::{BTreeMap, VecDeque};

use downbeat_api::{CauseCount, CauseKind, Miss};

/// Misses that are kept.
pub const KEPT: usize = 256;

/// What is known of misses.
#[derive(Debug, Default)]
pub struct Misses {
    latest: VecDeque<Miss>,
    count: u64,
    causes: BTreeMap<(Option<String>, CauseKind), u64>,
}

impl Misses {
    /// Takes in a miss and gives it its number, the first being 1. The oldest makes way.
    pub fn push(&mut self, mut miss: Miss) {
        self.count += 1;
        miss.id = self.count;
        *self.causes.entry((miss.class.clone(), miss.cause.kind)).or_default() += 1;
        if self.latest.len() == KEPT {
            self.latest.pop_front();
        }
        self.latest.push_back(miss);
    }

    /// The latest `count`, newest last.
    #[must_use]
    pub fn latest(&self, count: usize) -> Vec<Miss> {
        let skipped = self.latest.len().saturating_sub(count);
        self.latest.iter().skip(skipped).cloned().collect()
    }

    /// Misses by class and cause since the agent started; those without a class first.
    #[must_use]
    pub fn causes(&self) -> Vec<CauseCount> {
        let count = |((class, cause), misses): (&(Option<String>, CauseKind), &u64)| CauseCount {
            class: class.clone(),
            cause: *cause,
            misses: *misses,
        };
        self.causes.iter().map(count).collect()
    }

    /// Forgets the counts of classes that a new policy does not have. With the classes of one
    /// policy, that bounds them.
    pub fn keep_classes(&mut self, kept: impl Fn(&str) -> bool) {
        self.causes.retain(|(class, _), _| class.as_deref().is_none_or(&kept));
    }
}

#[cfg(test)]
mod tests {
    use downbeat_api::{Cause, Release, Stalls};

    use super::*;

    fn miss(class: Option<&str>, kind: CauseKind) -> Miss {
        Miss {
            id: 0,
            unix_time: 0.0,
            tid: 1,
            pid: 1,
            thread: "t".into(),
            process: "p".into(),
            class: class.map(Into::into),
            deadline_ns: 1,
            release_ns: 0,
            release: Release::Timer,
            response_ns: 2,
            start_ns: 0,
            late_ns: 0,
            wait_ns: 0,
            run_ns: 0,
            cost_ns: 0,
            stalls: Stalls::default(),
            culprits: Vec::new(),
            cause: Cause { kind, text: String::new(), evidence: Vec::new() },
        }
    }

    #[test]
    fn the_latest_are_kept_with_their_numbers() {
        let mut misses = Misses::default();
        for _ in 0..KEPT + 10 {
            misses.push(miss(None, CauseKind::Disk));
        }
        let ids = |count| misses.latest(count).iter().map(|miss| miss.id).collect::<Vec<_>>();
        assert_eq!(ids(usize::MAX).len(), KEPT);
        assert_eq!(ids(2), [KEPT as u64 + 9, KEPT as u64 + 10]);
        assert_eq!(ids(usize::MAX).first(), Some(&11));
    }

    #[test]
    fn causes_are_counted_by_class_beyond_what_is_kept() {
        let mut misses = Misses::default();
        for _ in 0..KEPT {
            misses.push(miss(Some("voice"), CauseKind::Disk));
        }
        misses.push(miss(Some("voice"), CauseKind::Disk));
        misses.push(miss(Some("voice"), CauseKind::RanBehind));
        misses.push(miss(None, CauseKind::RanBehind));
        let count = |class: Option<&str>, cause, misses| CauseCount {
            class: class.map(Into::into),
            cause,
            misses,
        };
        let watched = count(None, CauseKind::RanBehind, 1);
        assert_eq!(
            misses.causes(),
            [
                watched.clone(),
                count(Some("voice"), CauseKind::RanBehind, 1),
                count(Some("voice"), CauseKind::Disk, 257),
            ]
        );
        misses.keep_classes(|class| class == "video");
        assert_eq!(misses.causes(), [watched]);
    }
}
