//! What a control group holds.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::cpu_ranges;

/// A group's part of the CPUs: `cpu.weight` and `cpu.idle` in one, since the kernel forgets the
/// one while the other is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuShare {
    /// 1 to 10,000; 100 is the kernel's default.
    Weight(u64),
    /// Runs only when nobody else wants to (kernel 5.15).
    Idle,
    /// systemd alone: nobody chose.
    Unset,
}

/// A group's quota: `cpu.max` and `cpu.max.burst` in one, since the kernel refuses a burst above
/// the quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuLimit {
    /// Microseconds of CPU time per period; absent: no limit.
    pub quota_us: Option<u64>,
    /// Microseconds.
    pub period_us: u64,
    /// Unused quota that may be saved up, microseconds (kernel 5.14).
    pub burst_us: u64,
}

/// A group's CPUs and whether they are a partition: nobody else runs there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpuset {
    /// Ascending; empty: those of the group above.
    pub cpus: Vec<u32>,
    /// `member` (none), `root` or `isolated`.
    pub partition: String,
}

/// Settings by device: `8:0` to `rbps=1048576 wbps=max riops=max wiops=max`, or to
/// `target=20000`. A device that is not named has no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PerDevice(pub BTreeMap<String, String>);

impl PerDevice {
    /// Whether every device of `self` has in `current` what it has in `self`.
    #[must_use]
    pub fn holds_in(&self, current: &Self) -> bool {
        self.0.iter().all(|(device, limits)| match current.0.get(device) {
            Some(now) => now == limits,
            None => is_unlimited(limits),
        })
    }

    /// Of `self`, what `ours` is about to change, with an entry for each device of `ours`.
    #[must_use]
    pub fn as_far_as(&self, ours: &Self) -> Self {
        let before = |(device, limits): (&String, &String)| {
            let old = self.0.get(device).cloned().unwrap_or_else(|| unlimited_like(limits));
            (device.clone(), old)
        };
        Self(ours.0.iter().map(before).collect())
    }
}

/// `rbps=5 wbps=max` without its limits: `rbps=max wbps=max`.
fn unlimited_like(limits: &str) -> String {
    let without = |pair: &str| format!("{}=max", pair.split('=').next().unwrap_or(pair));
    limits.split(' ').map(without).collect::<Vec<_>>().join(" ")
}

fn is_unlimited(limits: &str) -> bool {
    limits.split(' ').all(|pair| pair.ends_with("=max"))
}

impl fmt::Display for CpuShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight(weight) => write!(f, "{weight}"),
            Self::Idle => f.write_str("idle"),
            Self::Unset => f.write_str("not set"),
        }
    }
}

impl fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.quota_us {
            Some(quota) => write!(f, "{quota}/{} us", self.period_us)?,
            None => f.write_str("max")?,
        }
        if self.burst_us > 0 {
            write!(f, " burst {} us", self.burst_us)?;
        }
        Ok(())
    }
}

impl fmt::Display for Cpuset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus = cpu_ranges(&self.cpus);
        write!(f, "{}", if cpus.is_empty() { "as above" } else { &cpus })?;
        if self.partition != "member" {
            write!(f, " partition {}", self.partition)?;
        }
        Ok(())
    }
}

impl fmt::Display for PerDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(|(dev, set)| format!("{dev} {set}")).collect();
        f.write_str(if lines.is_empty() { "max" } else { "" })?;
        f.write_str(&lines.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn per_device(entries: &[(&str, &str)]) -> PerDevice {
        PerDevice(entries.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect())
    }

    #[test]
    fn only_the_devices_that_are_ours_are_compared_and_go_back() {
        let before = per_device(&[("8:16", "rbps=7 wbps=max")]);
        let ours = per_device(&[("8:0", "rbps=5 wbps=max")]);
        let both = per_device(&[("8:0", "rbps=5 wbps=max"), ("8:16", "rbps=9 wbps=max")]);
        assert!(ours.holds_in(&both));
        assert!(!ours.holds_in(&before));
        assert_eq!(before.as_far_as(&ours), per_device(&[("8:0", "rbps=max wbps=max")]));
        assert!(before.as_far_as(&ours).holds_in(&per_device(&[])));
    }

    #[test]
    fn limits_in_words() {
        let limit = CpuLimit { quota_us: Some(20_000), period_us: 100_000, burst_us: 5_000 };
        assert_eq!(limit.to_string(), "20000/100000 us burst 5000 us");
        let free = CpuLimit { quota_us: None, burst_us: 0, ..limit };
        assert_eq!(free.to_string(), "max");
        let set = Cpuset { cpus: vec![1, 2], partition: "root".into() };
        assert_eq!(set.to_string(), "1-2 partition root");
        assert_eq!(per_device(&[("8:0", "target=75")]).to_string(), "8:0 target=75");
    }
}
