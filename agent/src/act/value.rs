//! What a lever holds: values as they are read, set, compared and journalled.

use std::fmt;

use downbeat_policy::{IoClass, IoPriority, SchedPolicy};
use serde::{Deserialize, Serialize};

/// One thing that can be set on a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lever {
    /// Scheduling policy with its priority, nice value and slice: sched_setattr(2).
    Sched,
    /// CPUs to run on: sched_setaffinity(2).
    Affinity,
    /// I/O priority: ioprio_set(2).
    Ioprio,
    /// The OOM killer's preference: `/proc/PID/oom_score_adj`. The kernel keeps one per process.
    OomScoreAdj,
}

impl Lever {
    /// Every lever, in the order in which they are applied and shown.
    pub const ALL: [Self; 4] = [Self::Sched, Self::Affinity, Self::Ioprio, Self::OomScoreAdj];

    /// As shown and as labelled in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sched => "sched",
            Self::Affinity => "affinity",
            Self::Ioprio => "ioprio",
            Self::OomScoreAdj => "oom_score_adj",
        }
    }
}

/// A lever's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// For [`Lever::Sched`].
    Sched(Sched),
    /// For [`Lever::Affinity`]: CPU numbers, ascending.
    Affinity(Vec<u32>),
    /// For [`Lever::Ioprio`]: class in bits 13 to 15, level in bits 0 to 2, as ioprio_get(2)
    /// returns it.
    Ioprio(u16),
    /// For [`Lever::OomScoreAdj`]: −1000 to 1000.
    OomScoreAdj(i16),
}

/// What sched_getattr(2) says of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sched {
    /// `SCHED_OTHER` 0, `SCHED_FIFO` 1, `SCHED_RR` 2, `SCHED_BATCH` 3, `SCHED_IDLE` 5,
    /// `SCHED_DEADLINE` 6, `SCHED_EXT` 7.
    pub policy: u32,
    /// `SCHED_FLAG_*` bits. Only `RESET_ON_FORK` (1) is ever compared.
    pub flags: u64,
    /// −20 to 19; meaningful for OTHER and BATCH.
    pub nice: i32,
    /// 1 to 99 for FIFO and RR, else 0.
    pub priority: u32,
    /// EEVDF slice for OTHER and BATCH (kernel 6.12; 0 is the kernel's default), budget for
    /// DEADLINE; nanoseconds.
    pub runtime: u64,
    /// For DEADLINE, nanoseconds.
    pub deadline: u64,
    /// For DEADLINE, nanoseconds.
    pub period: u64,
    /// Timer slack in nanoseconds, which the kernel takes from a real-time thread and from what
    /// that makes (since 6.12). Kept with an old value where the new one is real-time, put back
    /// with it, and never compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer_slack: Option<u64>,
}

/// `SCHED_FLAG_RESET_ON_FORK`: children start with `SCHED_OTHER`.
pub const RESET_ON_FORK: u64 = libc::SCHED_FLAG_RESET_ON_FORK as u64;

const OTHER: u32 = libc::SCHED_OTHER as u32;
const FIFO: u32 = libc::SCHED_FIFO as u32;
const RR: u32 = libc::SCHED_RR as u32;
const BATCH: u32 = libc::SCHED_BATCH as u32;
const IDLE: u32 = libc::SCHED_IDLE as u32;
const DEADLINE: u32 = libc::SCHED_DEADLINE as u32;
const EXT: u32 = 7;

impl Sched {
    /// `SCHED_OTHER`, nice 0, the kernel's slice.
    pub const DEFAULT: Self = Self {
        policy: OTHER,
        flags: 0,
        nice: 0,
        priority: 0,
        runtime: 0,
        deadline: 0,
        period: 0,
        timer_slack: None,
    };

    /// FIFO, RR or DEADLINE.
    #[must_use]
    pub fn is_realtime(&self) -> bool {
        matches!(self.policy, FIFO | RR | DEADLINE)
    }

    /// OTHER or BATCH: the policies with a nice value and a slice.
    fn is_fair(&self) -> bool {
        matches!(self.policy, OTHER | BATCH)
    }

    /// Whether children start with `SCHED_OTHER`.
    #[must_use]
    pub fn resets_on_fork(&self) -> bool {
        self.flags & RESET_ON_FORK != 0
    }

    /// Whether both mean the same to the scheduler: fields that the policy does not use are left
    /// out, since the kernel returns what a thread had before.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        let same_policy =
            self.policy == other.policy && self.resets_on_fork() == other.resets_on_fork();
        let same_fair =
            !self.is_fair() || (self.nice == other.nice && self.runtime == other.runtime);
        let same_realtime = !self.is_realtime() || self.priority == other.priority;
        let same_deadline = self.policy != DEADLINE
            || (self.runtime, self.deadline, self.period)
                == (other.runtime, other.deadline, other.period);
        same_policy && same_fair && same_realtime && same_deadline
    }

    /// The kernel's number for a policy of the language.
    #[must_use]
    pub fn policy_number(policy: SchedPolicy) -> u32 {
        match policy {
            SchedPolicy::Other => OTHER,
            SchedPolicy::Batch => BATCH,
            SchedPolicy::Idle => IDLE,
            SchedPolicy::Fifo => FIFO,
            SchedPolicy::RoundRobin => RR,
            SchedPolicy::Deadline => DEADLINE,
        }
    }
}

impl fmt::Display for Sched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.policy {
            OTHER => write!(f, "other")?,
            FIFO => write!(f, "fifo {}", self.priority)?,
            RR => write!(f, "rr {}", self.priority)?,
            BATCH => write!(f, "batch")?,
            IDLE => write!(f, "idle")?,
            DEADLINE => write!(f, "deadline {}/{} us", self.runtime / 1_000, self.period / 1_000)?,
            EXT => write!(f, "ext")?,
            unknown => write!(f, "policy {unknown}")?,
        }
        if self.is_fair() && self.nice != 0 {
            write!(f, " nice {}", self.nice)?;
        }
        if self.is_fair() && self.runtime != 0 {
            write!(f, " slice {} us", self.runtime / 1_000)?;
        }
        Ok(())
    }
}

impl Value {
    /// Which lever it is for.
    #[must_use]
    pub fn lever(&self) -> Lever {
        match self {
            Self::Sched(_) => Lever::Sched,
            Self::Affinity(_) => Lever::Affinity,
            Self::Ioprio(_) => Lever::Ioprio,
            Self::OomScoreAdj(_) => Lever::OomScoreAdj,
        }
    }

    /// Whether both mean the same to the kernel.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sched(a), Self::Sched(b)) => a.agrees_with(b),
            _ => self == other,
        }
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

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sched(sched) => sched.fmt(f),
            Self::Affinity(cpus) => f.write_str(&cpu_ranges(cpus)),
            Self::Ioprio(value) => match (value >> 13, value & 7) {
                (0, _) => write!(f, "none"),
                (1, level) => write!(f, "realtime {level}"),
                (2, level) => write!(f, "best-effort {level}"),
                (3, _) => write!(f, "idle"),
                (class, level) => write!(f, "class {class} level {level}"),
            },
            Self::OomScoreAdj(value) => write!(f, "{value}"),
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
    fn a_fifo_thread_is_compared_by_priority_and_not_by_what_it_was_before() {
        let fifo = Sched { policy: FIFO, priority: 20, ..Sched::DEFAULT };
        let was_nice = Sched { nice: 7, runtime: 3_000_000, ..fifo };
        assert!(fifo.agrees_with(&was_nice));
        assert!(!fifo.agrees_with(&Sched { priority: 21, ..fifo }));
        assert!(!fifo.agrees_with(&Sched { flags: RESET_ON_FORK, ..fifo }));
    }

    #[test]
    fn an_ordinary_thread_is_compared_by_nice_and_slice() {
        let nice = Sched { nice: -5, ..Sched::DEFAULT };
        assert!(!nice.agrees_with(&Sched::DEFAULT));
        assert!(!nice.agrees_with(&Sched { runtime: 1_000_000, ..nice }));
        assert!(nice.agrees_with(&Sched { priority: 3, period: 9, ..nice }));
    }

    #[test]
    fn values_read_as_people_write_them() {
        let words = |value: Value| value.to_string();
        assert_eq!(words(Value::Sched(Sched { nice: 5, ..Sched::DEFAULT })), "other nice 5");
        assert_eq!(
            words(Value::Sched(Sched { policy: FIFO, priority: 20, ..Sched::DEFAULT })),
            "fifo 20"
        );
        assert_eq!(
            words(Value::Sched(Sched { runtime: 500_000, ..Sched::DEFAULT })),
            "other slice 500 us"
        );
        assert_eq!(words(Value::Affinity(vec![0, 1, 2, 6])), "0-2,6");
        assert_eq!(words(Value::Ioprio(1 << 13 | 2)), "realtime 2");
        assert_eq!(words(Value::Ioprio(0)), "none");
        assert_eq!(words(Value::OomScoreAdj(-500)), "-500");
    }
}
