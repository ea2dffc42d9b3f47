//! What a lever holds: values as they are read, set, compared and journalled.

mod group;
mod sched;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use downbeat_policy::{IoClass, IoPriority};
use serde::{Deserialize, Serialize};

pub use group::{CpuLimit, CpuShare, Cpuset, PerDevice};
pub use sched::{RESET_ON_FORK, Sched};

/// One thing that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lever {
    /// Scheduling policy with its priority, nice value, slice and reservation: sched_setattr(2).
    Sched,
    /// Lower clamp of a thread's utilisation: sched_setattr(2).
    UclampMin,
    /// Upper clamp of a thread's utilisation.
    UclampMax,
    /// CPUs to run on: sched_setaffinity(2).
    Affinity,
    /// I/O priority: ioprio_set(2).
    Ioprio,
    /// `/proc/TID/timerslack_ns`.
    TimerSlack,
    /// The OOM killer's preference: `/proc/PID/oom_score_adj`. The kernel keeps one per process.
    OomScoreAdj,
    /// The group that a process is in: `cgroup.procs`. One per process as well.
    Cgroup,
    /// `cgroup.freeze`. Before the other levers of a group, so that its members run while they go
    /// back.
    Freeze,
    /// `cpu.weight` and `cpu.idle`.
    CpuWeight,
    /// `cpu.max` and `cpu.max.burst`.
    CpuMax,
    /// `memory.min`.
    MemoryMin,
    /// `memory.low`.
    MemoryLow,
    /// `memory.high`.
    MemoryHigh,
    /// `memory.max`.
    MemoryMax,
    /// `io.weight`.
    IoWeight,
    /// `io.max`.
    IoMax,
    /// `io.latency`.
    IoLatency,
    /// `cpuset.cpus` and `cpuset.cpus.partition`.
    Cpuset,
    /// `cgroup.subtree_control`: what the groups below have.
    Controllers,
    /// Whether a group of the agent's own is there; goes back after everything in it.
    Folder,
    /// CPUs that serve an interrupt: `/proc/irq/N/smp_affinity_list`.
    IrqAffinity,
    /// `energy_performance_preference` of a frequency domain.
    Energy,
    /// `/dev/cpu_dma_latency`; the kernel drops the request with the process that made it.
    WakeupLatency,
}

impl Lever {
    /// Every lever, in the order in which they go back and are shown, which is the enum's.
    pub const ALL: [Self; 24] = [
        Self::Sched,
        Self::UclampMin,
        Self::UclampMax,
        Self::Affinity,
        Self::Ioprio,
        Self::TimerSlack,
        Self::OomScoreAdj,
        Self::Cgroup,
        Self::Freeze,
        Self::CpuWeight,
        Self::CpuMax,
        Self::MemoryMin,
        Self::MemoryLow,
        Self::MemoryHigh,
        Self::MemoryMax,
        Self::IoWeight,
        Self::IoMax,
        Self::IoLatency,
        Self::Cpuset,
        Self::Controllers,
        Self::Folder,
        Self::IrqAffinity,
        Self::Energy,
        Self::WakeupLatency,
    ];

    /// As shown and as labelled in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sched => "sched",
            Self::UclampMin => "uclamp_min",
            Self::UclampMax => "uclamp_max",
            Self::Affinity => "affinity",
            Self::Ioprio => "ioprio",
            Self::TimerSlack => "timer_slack",
            Self::OomScoreAdj => "oom_score_adj",
            Self::Cgroup => "cgroup",
            Self::Freeze => "freeze",
            Self::CpuWeight => "cpu.weight",
            Self::CpuMax => "cpu.max",
            Self::MemoryMin => "memory.min",
            Self::MemoryLow => "memory.low",
            Self::MemoryHigh => "memory.high",
            Self::MemoryMax => "memory.max",
            Self::IoWeight => "io.weight",
            Self::IoMax => "io.max",
            Self::IoLatency => "io.latency",
            Self::Cpuset => "cpuset",
            Self::Controllers => "controllers",
            Self::Folder => "folder",
            Self::IrqAffinity => "irq_affinity",
            Self::Energy => "energy",
            Self::WakeupLatency => "wakeup_latency",
        }
    }

    /// Whether it belongs to threads and processes.
    #[must_use]
    pub fn is_of_thread(self) -> bool {
        self <= Self::Cgroup
    }

    /// Whether the kernel keeps one value for all threads of a process.
    #[must_use]
    pub fn is_per_process(self) -> bool {
        matches!(self, Self::OomScoreAdj | Self::Cgroup)
    }

    /// Whether the value ends with the process that set it, so that nothing is left after a kill.
    #[must_use]
    pub fn ends_with_the_agent(self) -> bool {
        self == Self::WakeupLatency
    }
}

/// A lever's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// For [`Lever::Sched`].
    Sched(Sched),
    /// For [`Lever::UclampMin`]: 0 to 1024, the whole of the largest CPU.
    UclampMin(u32),
    /// For [`Lever::UclampMax`]: 0 to 1024.
    UclampMax(u32),
    /// For [`Lever::Affinity`]: CPU numbers, ascending.
    Affinity(Vec<u32>),
    /// For [`Lever::Ioprio`]: class in bits 13 to 15, level in bits 0 to 2, as ioprio_get(2)
    /// returns it.
    Ioprio(u16),
    /// For [`Lever::TimerSlack`]: nanoseconds.
    TimerSlack(u64),
    /// For [`Lever::OomScoreAdj`]: −1000 to 1000.
    OomScoreAdj(i16),
    /// For [`Lever::Cgroup`]: path, as `/proc/PID/cgroup` shows it.
    Cgroup(Arc<str>),
    /// For [`Lever::Freeze`].
    Freeze(bool),
    /// For [`Lever::CpuWeight`].
    CpuWeight(CpuShare),
    /// For [`Lever::CpuMax`].
    CpuMax(CpuLimit),
    /// For [`Lever::MemoryMin`]: bytes; absent: `max`.
    MemoryMin(Option<u64>),
    /// For [`Lever::MemoryLow`].
    MemoryLow(Option<u64>),
    /// For [`Lever::MemoryHigh`].
    MemoryHigh(Option<u64>),
    /// For [`Lever::MemoryMax`].
    MemoryMax(Option<u64>),
    /// For [`Lever::IoWeight`]: 1 to 10,000; absent with systemd alone: nobody chose.
    IoWeight(Option<u64>),
    /// For [`Lever::IoMax`].
    IoMax(PerDevice),
    /// For [`Lever::IoLatency`].
    IoLatency(PerDevice),
    /// For [`Lever::Cpuset`].
    Cpuset(Cpuset),
    /// For [`Lever::Controllers`].
    Controllers(BTreeSet<String>),
    /// For [`Lever::Folder`].
    Folder(bool),
    /// For [`Lever::IrqAffinity`]: CPU numbers, ascending.
    IrqAffinity(Vec<u32>),
    /// For [`Lever::Energy`]: as in sysfs.
    Energy(String),
    /// For [`Lever::WakeupLatency`]: microseconds; absent: no request of ours.
    WakeupLatency(Option<u32>),
}

impl Value {
    /// Which lever it is for.
    #[must_use]
    pub fn lever(&self) -> Lever {
        match self {
            Self::Sched(_) => Lever::Sched,
            Self::UclampMin(_) => Lever::UclampMin,
            Self::UclampMax(_) => Lever::UclampMax,
            Self::Affinity(_) => Lever::Affinity,
            Self::Ioprio(_) => Lever::Ioprio,
            Self::TimerSlack(_) => Lever::TimerSlack,
            Self::OomScoreAdj(_) => Lever::OomScoreAdj,
            Self::Cgroup(_) => Lever::Cgroup,
            Self::Freeze(_) => Lever::Freeze,
            Self::CpuWeight(_) => Lever::CpuWeight,
            Self::CpuMax(_) => Lever::CpuMax,
            Self::MemoryMin(_) => Lever::MemoryMin,
            Self::MemoryLow(_) => Lever::MemoryLow,
            Self::MemoryHigh(_) => Lever::MemoryHigh,
            Self::MemoryMax(_) => Lever::MemoryMax,
            Self::IoWeight(_) => Lever::IoWeight,
            Self::IoMax(_) => Lever::IoMax,
            Self::IoLatency(_) => Lever::IoLatency,
            Self::Cpuset(_) => Lever::Cpuset,
            Self::Controllers(_) => Lever::Controllers,
            Self::Folder(_) => Lever::Folder,
            Self::IrqAffinity(_) => Lever::IrqAffinity,
            Self::Energy(_) => Lever::Energy,
            Self::WakeupLatency(_) => Lever::WakeupLatency,
        }
    }

    /// Whether `self`, read from the kernel, is what `ours` means.
    #[must_use]
    pub fn agrees_with(&self, ours: &Self) -> bool {
        match (self, ours) {
            (Self::Sched(a), Self::Sched(b)) => a.agrees_with(b),
            (Self::IoMax(a), Self::IoMax(b)) | (Self::IoLatency(a), Self::IoLatency(b)) => {
                b.holds_in(a)
            }
            _ => self == ours,
        }
    }

    /// Of `self`, read before `ours` is set, what has to go back.
    #[must_use]
    pub fn as_far_as(self, ours: &Self) -> Self {
        match (self, ours) {
            (Self::IoMax(a), Self::IoMax(b)) => Self::IoMax(a.as_far_as(b)),
            (Self::IoLatency(a), Self::IoLatency(b)) => Self::IoLatency(a.as_far_as(b)),
            (old, _) => old,
        }
    }

    /// `self`, about to be set where `current` is: a policy without a nice value of its own leaves
    /// the one that is there, and remembers it.
    #[must_use]
    pub fn beside(self, current: &Self) -> Self {
        match (self, current) {
            (Self::Sched(ours), Self::Sched(current)) if !ours.is_fair() => {
                Self::Sched(Sched { nice: current.nice, ..ours })
            }
            (ours, _) => ours,
        }
    }

    /// FIFO, RR or a reservation.
    #[must_use]
    pub fn is_realtime(&self) -> bool {
        matches!(self, Self::Sched(sched) if sched.is_realtime())
    }

    /// The I/O priority's value for ioprio_set(2).
    #[must_use]
    pub fn ioprio(priority: IoPriority) -> Self {
        let class = match priority.class {
            IoClass::Realtime => 1,
            IoClass::BestEffort => 2,
            IoClass::Idle => 3,
        };
        Self::Ioprio(class << 13 | u16::from(priority.level))
    }
}

/// Bytes as the policy has them, and exactly: in the largest unit of which they are a whole number.
fn as_written(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = |(_, shift): &(&str, u32)| bytes != 0 && bytes.is_multiple_of(1 << shift);
    match units.into_iter().find(whole) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sched(sched) => sched.fmt(f),
            Self::UclampMin(part) | Self::UclampMax(part) => write!(f, "{part}/1024"),
            Self::Affinity(cpus) | Self::IrqAffinity(cpus) => f.write_str(&cpu_ranges(cpus)),
            Self::Ioprio(value) => match (value >> 13, value & 7) {
                (0, _) => write!(f, "none"),
                (1, level) => write!(f, "realtime {level}"),
                (2, level) => write!(f, "best-effort {level}"),
                (3, _) => write!(f, "idle"),
                (class, level) => write!(f, "class {class} level {level}"),
            },
            Self::TimerSlack(ns) => write!(f, "{ns} ns"),
            Self::OomScoreAdj(value) => write!(f, "{value}"),
            Self::Cgroup(path) => f.write_str(path),
            Self::Freeze(frozen) => f.write_str(if *frozen { "frozen" } else { "running" }),
            Self::CpuWeight(share) => share.fmt(f),
            Self::CpuMax(limit) => limit.fmt(f),
            Self::MemoryMin(bytes)
            | Self::MemoryLow(bytes)
            | Self::MemoryHigh(bytes)
            | Self::MemoryMax(bytes) => match bytes {
                Some(bytes) => f.write_str(&as_written(*bytes)),
                None => f.write_str("max"),
            },
            Self::IoWeight(Some(weight)) => write!(f, "{weight}"),
            Self::IoWeight(None) => f.write_str("not set"),
            Self::IoMax(limits) | Self::IoLatency(limits) => limits.fmt(f),
            Self::Cpuset(set) => set.fmt(f),
            Self::Controllers(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                f.write_str(if names.is_empty() { "none" } else { "" })?;
                f.write_str(&names.join(" "))
            }
            Self::Folder(there) => f.write_str(if *there { "there" } else { "absent" }),
            Self::Energy(preference) => f.write_str(preference),
            Self::WakeupLatency(Some(us)) => write!(f, "{us} us"),
            Self::WakeupLatency(None) => f.write_str("any"),
        }
    }
}

/// CPU numbers, ascending, as sysfs writes them: `0-3,6`.
#[must_use]
pub fn cpu_ranges(cpus: &[u32]) -> String {
    cpus.chunk_by(|a, b| a + 1 == *b)
        .map(|run| match run {
            [one] => one.to_string(),
            [first, .., last] => format!("{first}-{last}"),
            [] => String::new(),
        })
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_people_write_them() {
        let words = |value: Value| value.to_string();
        assert_eq!(words(Value::Sched(Sched { nice: 5, ..Sched::DEFAULT })), "other nice 5");
        let fifo = Sched { policy: 1, priority: 20, ..Sched::DEFAULT };
        assert_eq!(words(Value::Sched(fifo)), "fifo 20");
        let slice = Sched { runtime: 500_000, ..Sched::DEFAULT };
        assert_eq!(words(Value::Sched(slice)), "other slice 500 us");
        assert_eq!(words(Value::Affinity(vec![0, 1, 2, 6])), "0-2,6");
        assert_eq!(words(Value::Ioprio(1 << 13 | 2)), "realtime 2");
        for (bytes, written) in
            [(3 << 30, "3GiB"), (256 << 20, "256MiB"), (1536, "1536"), (4096, "4KiB"), (0, "0")]
        {
            assert_eq!(words(Value::MemoryMax(Some(bytes))), written);
        }
        assert_eq!(words(Value::Ioprio(0)), "none");
        assert_eq!(words(Value::OomScoreAdj(-500)), "-500");
        assert_eq!(words(Value::MemoryLow(None)), "max");
        assert_eq!(words(Value::UclampMin(512)), "512/1024");
    }

    #[test]
    fn the_list_of_levers_is_in_the_enums_order() {
        for (place, lever) in Lever::ALL.into_iter().enumerate() {
            assert_eq!(lever as usize, place, "{lever:?}");
        }
    }
}
