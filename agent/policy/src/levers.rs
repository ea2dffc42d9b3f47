//! What a class can ask for beside scheduling: CPU time, memory, disks, GPU, and the host's own
//! switches. Whatever is absent is not touched.

use std::time::Duration;

use crate::{Amount, Share};

/// `cpu = { … }`: of the control group, but for the clamps, which a thread has too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuLevers {
    /// `cpu.weight`, 1 to 10,000; the kernel's default is 100.
    pub weight: Option<u16>,
    /// `cpu.max`.
    pub max: Option<CpuMax>,
    /// `cpu.idle`: the whole group runs only when nobody else wants to.
    pub idle: Option<bool>,
    /// `cpu.max.burst`: unused quota that may be saved up, at most the quota.
    pub burst: Option<Duration>,
    /// Clamps of the utilisation that the governor of the CPU's clock sees (`uclamp`).
    pub uclamp: Uclamp,
}

/// `cpu.max = …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuMax {
    /// `"max"`: no limit.
    Unlimited,
    /// So much CPU time per period, of all CPUs together.
    Quota {
        /// 1 ms or more.
        quota: Duration,
        /// 1 ms to 1 s; 100 ms where the policy gives a percentage.
        period: Duration,
    },
}

/// `uclamp = { … }`, each 0 to 100 %, `min` at most `max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uclamp {
    /// The clock is chosen as if the thread used at least this much.
    pub min: Option<Share>,
    /// The clock is chosen as if the thread used at most this much.
    pub max: Option<Share>,
}

/// `memory = { … }`: of the control group, but for `oom`, which is a process's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryLevers {
    /// `memory.min`: never reclaimed below.
    pub min: Option<Amount>,
    /// `memory.low`: reclaimed below only when nothing else is left.
    pub low: Option<Amount>,
    /// `memory.high`: slowed down above.
    pub high: Option<Amount>,
    /// `memory.max`: killed above.
    pub max: Option<Amount>,
    /// `oom_score_adj`, −1000 to 1000.
    pub oom: Option<i16>,
}

/// `io = { … }`: the priority is a thread's, the rest of the control group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoLevers {
    /// `class` and `level`.
    pub priority: Option<IoPriority>,
    /// `io.weight`, 1 to 10,000; the kernel's default is 100.
    pub weight: Option<u16>,
    /// `io.max`, per device.
    pub max: Vec<IoMax>,
    /// `io.latency`: others are slowed down while the group's requests take longer than this.
    pub latency: Option<Duration>,
}

/// One entry of `io.max`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoMax {
    /// A device node such as `/dev/nvme0n1`; absent: every disk.
    pub device: Option<String>,
    /// Bytes read per second.
    pub read: Option<u64>,
    /// Bytes written per second.
    pub write: Option<u64>,
    /// Requests to read per second.
    pub read_ops: Option<u64>,
    /// Requests to write per second.
    pub write_ops: Option<u64>,
}

/// I/O priority; see ioprio_set(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoPriority {
    /// Class.
    pub class: IoClass,
    /// 0 (first) to 7 (last), 4 where not given; 0 for [`IoClass::Idle`].
    pub level: u8,
}

/// I/O priority classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoClass {
    /// Served first, always.
    Realtime,
    /// The kernel's default.
    BestEffort,
    /// Served when nobody else asks.
    Idle,
}

/// `gpu = { share = … }`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuShare {
    /// Not touched.
    #[default]
    Keep,
    /// Gives way to classes that keep theirs.
    Yield,
    /// So much of it, at most all.
    Part(Share),
}

/// `target = { … }`: what a governor is to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Goal {
    /// At most this share of jobs misses its deadline, 0 to 100 %.
    pub misses: Option<Share>,
    /// 99 % of the waits for a CPU are at most this long.
    pub wait_p99: Option<Duration>,
    /// 99 % of the jobs are done this long after their release.
    pub response_p99: Option<Duration>,
}

/// `irqs = …`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Irqs {
    /// Not touched.
    #[default]
    Keep,
    /// Device interrupts go to other CPUs than the class's.
    KeepOff,
}

/// `energy = …`: the energy preference of the class's CPUs (cpufreq's
/// `energy_performance_preference`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Energy {
    /// `performance`.
    Performance,
    /// `balance_performance`.
    BalancePerformance,
    /// `balance_power`.
    BalancePower,
    /// `power`.
    Power,
}

impl IoClass {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::Realtime, Self::BestEffort, Self::Idle];

    /// As written in a policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Realtime => "realtime",
            Self::BestEffort => "best-effort",
            Self::Idle => "idle",
        }
    }
}

impl IoPriority {
    /// For a person: `realtime 2`, `idle`.
    #[must_use]
    pub fn words(self) -> String {
        match self.class {
            IoClass::Idle => self.class.name().to_owned(),
            IoClass::Realtime | IoClass::BestEffort => {
                format!("{} {}", self.class.name(), self.level)
            }
        }
    }
}

impl Irqs {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Keep, Self::KeepOff];

    /// As written in a policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::KeepOff => "keep-off",
        }
    }
}

impl Energy {
    /// Every preference.
    pub const ALL: [Self; 4] =
        [Self::Performance, Self::BalancePerformance, Self::BalancePower, Self::Power];

    /// As written in a policy and in sysfs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Performance => "performance",
            Self::BalancePerformance => "balance_performance",
            Self::BalancePower => "balance_power",
            Self::Power => "power",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_priorities_in_words() {
        assert_eq!(IoPriority { class: IoClass::Realtime, level: 2 }.words(), "realtime 2");
        assert_eq!(IoPriority { class: IoClass::Idle, level: 0 }.words(), "idle");
    }
}
