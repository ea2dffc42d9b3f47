//! What the scheduler knows of a thread.

use std::fmt;

use downbeat_policy::SchedPolicy;
use serde::{Deserialize, Serialize};

/// What sched_getattr(2) says of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sched {
    /// `SCHED_OTHER` 0, `SCHED_FIFO` 1, `SCHED_RR` 2, `SCHED_BATCH` 3, `SCHED_IDLE` 5,
    /// `SCHED_DEADLINE` 6, `SCHED_EXT` 7.
    pub policy: u32,
    /// `SCHED_FLAG_*` bits. Only `RESET_ON_FORK` (1) is ever compared.
    pub flags: u64,
    /// −20 to 19; meaningful for OTHER and BATCH. Under other policies the kernel keeps it: in a
    /// value that is read it is the one to come back to, in one that was set what it was then.
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

    /// DEADLINE: the kernel holds it to its budget.
    #[must_use]
    pub fn is_reservation(&self) -> bool {
        self.policy == DEADLINE
    }

    /// The part of a CPU that a reservation takes, 0 for what is none.
    #[must_use]
    pub fn bandwidth(&self) -> f64 {
        let period = if self.period == 0 { self.deadline } else { self.period };
        if self.is_reservation() && period > 0 { self.runtime as f64 / period as f64 } else { 0.0 }
    }

    /// FIFO, RR or DEADLINE.
    #[must_use]
    pub fn is_realtime(&self) -> bool {
        matches!(self.policy, FIFO | RR | DEADLINE)
    }

    /// OTHER or BATCH: the policies with a nice value and a slice.
    #[must_use]
    pub fn is_fair(&self) -> bool {
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
}
