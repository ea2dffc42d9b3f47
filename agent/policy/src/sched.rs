//! Scheduling as a class asks for it.

use std::time::Duration;

use crate::duration;

/// Real-time priority where `sched` names `fifo` or `rr` without one.
pub const DEFAULT_RT_PRIORITY: u8 = 10;

/// `sched = …`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sched {
    /// `"auto"`: from tier and deadline, and from what the host can do.
    #[default]
    Auto,
    /// Nothing is changed (`"keep"`).
    Keep,
    /// A policy and its parameters.
    Set(SchedParameters),
}

/// A scheduling policy and its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchedParameters {
    /// Scheduling policy.
    pub policy: SchedPolicy,
    /// 1 to 99, for [`SchedPolicy::Fifo`] and [`SchedPolicy::RoundRobin`] (default
    /// [`DEFAULT_RT_PRIORITY`]).
    pub priority: Option<u8>,
    /// −20 to 19, for [`SchedPolicy::Other`] and [`SchedPolicy::Batch`].
    pub nice: Option<i8>,
    /// EEVDF slice, 0.1 ms to 100 ms (kernel 6.12), for [`SchedPolicy::Other`] and
    /// [`SchedPolicy::Batch`].
    pub slice: Option<Duration>,
    /// CPU time per period, for [`SchedPolicy::Deadline`]; absent: [`Span::Auto`]. 10 us to 1 s,
    /// at most the period, and at most the class's deadline where both are given.
    pub budget: Option<Span>,
    /// How often a frame comes, for [`SchedPolicy::Deadline`]; absent: [`Span::Auto`]. 100 us to
    /// 4 s, the kernel's bounds.
    pub period: Option<Span>,
}

/// A time that is given or learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Span {
    /// `"auto"`: measured by the job probe.
    #[default]
    Auto,
    /// Given.
    Given(Duration),
}

/// Scheduling policies that a class can ask for; see sched(7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SchedPolicy {
    /// SCHED_OTHER.
    #[default]
    Other,
    /// SCHED_BATCH.
    Batch,
    /// SCHED_IDLE.
    Idle,
    /// SCHED_FIFO.
    Fifo,
    /// SCHED_RR.
    RoundRobin,
    /// SCHED_DEADLINE: a reservation.
    Deadline,
}

impl Sched {
    /// For a person: `fifo 20`, `nice -5 slice 3 ms`, `idle`, `auto`, `keep`.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::Keep => "keep".to_owned(),
            Self::Set(parameters) => parameters.words(),
        }
    }
}

impl SchedParameters {
    fn words(&self) -> String {
        let Self { policy, priority, nice, slice, budget, period } = self;
        let mut words = Vec::new();
        // A nice value or a slice alone says SCHED_OTHER already.
        if *policy != SchedPolicy::Other || (nice.is_none() && slice.is_none()) {
            words.push(policy.name().to_owned());
        }
        if policy.is_realtime() {
            words.push(priority.unwrap_or(DEFAULT_RT_PRIORITY).to_string());
        }
        words.extend(nice.map(|nice| format!("nice {nice}")));
        words.extend(slice.map(|slice| format!("slice {}", duration::words(slice))));
        words.extend(budget.map(|budget| format!("budget {}", budget.words())));
        words.extend(period.map(|period| format!("period {}", period.words())));
        words.join(" ")
    }
}

impl Span {
    /// For a person: `2 ms` or `auto`.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::Given(duration) => duration::words(duration),
        }
    }
}

impl SchedPolicy {
    /// Every policy, in the order in which messages list them.
    pub const ALL: [Self; 6] =
        [Self::Other, Self::Batch, Self::Idle, Self::Fifo, Self::RoundRobin, Self::Deadline];

    /// As written in a policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Batch => "batch",
            Self::Idle => "idle",
            Self::Fifo => "fifo",
            Self::RoundRobin => "rr",
            Self::Deadline => "deadline",
        }
    }

    /// Whether it has a real-time priority, and so neither a nice value nor a slice. A reservation
    /// has none of them.
    #[must_use]
    pub fn is_realtime(self) -> bool {
        matches!(self, Self::Fifo | Self::RoundRobin)
    }

    /// Whether it has a nice value and a slice.
    #[must_use]
    pub fn is_fair(self) -> bool {
        matches!(self, Self::Other | Self::Batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(policy: SchedPolicy, nice: Option<i8>, slice_us: Option<u64>) -> String {
        let slice = slice_us.map(Duration::from_micros);
        Sched::Set(SchedParameters { policy, nice, slice, ..SchedParameters::default() }).words()
    }

    #[test]
    fn sched_in_words() {
        assert_eq!(Sched::Auto.words(), "auto");
        assert_eq!(Sched::Keep.words(), "keep");
        assert_eq!(set(SchedPolicy::Other, None, None), "other");
        assert_eq!(set(SchedPolicy::Other, Some(-5), Some(3000)), "nice -5 slice 3 ms");
        assert_eq!(set(SchedPolicy::Other, None, Some(500)), "slice 500 us");
        assert_eq!(set(SchedPolicy::Batch, Some(5), None), "batch nice 5");
        assert_eq!(set(SchedPolicy::Idle, None, None), "idle");
        assert_eq!(set(SchedPolicy::RoundRobin, None, None), "rr 10");
        let fifo = SchedParameters {
            policy: SchedPolicy::Fifo,
            priority: Some(20),
            ..SchedParameters::default()
        };
        assert_eq!(fifo.words(), "fifo 20");
        let reservation = SchedParameters {
            policy: SchedPolicy::Deadline,
            budget: Some(Span::Given(Duration::from_millis(2))),
            period: Some(Span::Auto),
            ..SchedParameters::default()
        };
        assert_eq!(reservation.words(), "deadline budget 2 ms period auto");
    }
}
