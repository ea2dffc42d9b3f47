//! A group's quota and what it took, in the files of either version.

use std::path::Path;

/// How a group's files are called and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `cpu.cfs_quota_us`, and `throttled_time` in nanoseconds.
    V1,
    /// `cpu.max`, and `throttled_usec`.
    V2,
}

/// What a quota took since the group was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStat {
    /// Periods that passed while something ran.
    pub periods: u64,
    /// Of these, those in which the quota was used up.
    pub throttled_periods: u64,
    /// Time held back, summed over CPUs, nanoseconds.
    pub throttled_ns: u64,
}

impl CpuStat {
    /// What passed; a group that was made anew counts from zero.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        if self.periods < before.periods || self.throttled_ns < before.throttled_ns {
            return self;
        }
        Self {
            periods: self.periods - before.periods,
            throttled_periods: self.throttled_periods.saturating_sub(before.throttled_periods),
            throttled_ns: self.throttled_ns - before.throttled_ns,
        }
    }
}

/// Whether a group has a quota; reading that costs less than the group's counters, for which
/// version 2 first adds up those of all CPUs and groups below.
#[must_use]
pub fn is_limited(folder: &Path, version: Version) -> bool {
    let file = match version {
        Version::V1 => "cpu.cfs_quota_us",
        Version::V2 => "cpu.max",
    };
    std::fs::read_to_string(folder.join(file)).is_ok_and(|text| is_quota(&text))
}

/// `20000 100000` or `20000`; without a limit `max 100000` or `-1`.
fn is_quota(text: &str) -> bool {
    text.split_ascii_whitespace().next().is_some_and(|quota| quota.parse::<u64>().is_ok())
}

/// The counters of a group; nothing when it is gone or the controller is not on.
#[must_use]
pub fn cpu_stat(folder: &Path) -> Option<CpuStat> {
    parse(&std::fs::read_to_string(folder.join("cpu.stat")).ok()?)
}

fn parse(text: &str) -> Option<CpuStat> {
    let mut stat = CpuStat::default();
    let mut counts = false;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(' ') else {
            continue;
        };
        let Ok(value) = value.trim().parse::<u64>() else {
            continue;
        };
        match key {
            "nr_periods" => {
                stat.periods = value;
                counts = true;
            }
            "nr_throttled" => stat.throttled_periods = value,
            "throttled_usec" => stat.throttled_ns = value.saturating_mul(1000),
            "throttled_time" => stat.throttled_ns = value,
            _ => {}
        }
    }
    counts.then_some(stat)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_versions_count_in_nanoseconds() {
        let v1 = "nr_periods 10\nnr_throttled 4\nthrottled_time 80000000\n";
        let v2 = "usage_usec 5\nuser_usec 5\nsystem_usec 0\nnr_periods 10\nnr_throttled 4\n\
                  throttled_usec 80000\nnr_bursts 0\nburst_usec 0\n";
        let expected = CpuStat { periods: 10, throttled_periods: 4, throttled_ns: 80_000_000 };
        assert_eq!((parse(v1), parse(v2)), (Some(expected), Some(expected)));
        assert_eq!(parse("usage_usec 5\n"), None, "without the controller there is no quota");
    }

    #[test]
    fn a_quota_is_a_number() {
        assert!(is_quota("20000 100000\n") && is_quota("50000\n"));
        assert!(!is_quota("max 100000\n") && !is_quota("-1\n") && !is_quota(""));
    }

    #[test]
    fn a_group_that_was_made_anew_counts_from_zero() {
        let old = CpuStat { periods: 100, throttled_periods: 50, throttled_ns: 1000 };
        let new = CpuStat { periods: 3, throttled_periods: 1, throttled_ns: 20 };
        assert_eq!(new.since(old), new);
        assert_eq!(old.since(new).throttled_ns, 980);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(nr_periods|nr_throttled|throttled_usec| |\n|[0-9]{1,21})*") {
            let _ = parse(&text);
            let _ = is_quota(&text);
        }
    }
}
