//! Classes: what a matched thread should have.

use std::time::Duration;

use crate::{CpuList, Origin, duration};

/// Real-time priority where `sched` names `fifo` or `rr` without one.
pub const DEFAULT_RT_PRIORITY: u8 = 10;

/// `[class.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// NAME.
    pub name: String,
    /// What its frames are.
    pub modality: Modality,
    /// How urgent its work is.
    pub tier: Tier,
    /// From a frame's release to the moment it is worthless.
    pub deadline: Option<Deadline>,
    /// CPUs that its threads may use; absent: not touched.
    pub cpus: Option<CpuList>,
    /// Scheduling.
    pub sched: Sched,
    /// I/O priority; absent: not touched.
    pub io: Option<IoPriority>,
    /// `oom_score_adj`, −1000 to 1000; absent: not touched.
    pub oom: Option<i16>,
    /// Where it is defined.
    pub origin: Origin,
}

/// What the frames of a class are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Modality {
    /// Sound, spoken or not.
    Audio,
    /// Frames of a camera, a file or a screen.
    Video,
    /// Single pictures.
    Image,
    /// Tokens.
    Text,
    /// Other periodic input.
    Sensor,
    /// None of these.
    #[default]
    Other,
}

/// How urgent a class's work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// A late frame is a lost frame.
    Realtime,
    /// Someone waits for the answer.
    Interactive,
    /// Throughput only.
    Background,
}

/// `deadline = …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// `"auto"`: learned from the job probe.
    Auto,
    /// Given.
    After(Duration),
}

/// `sched = …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sched {
    /// `"auto"`: from tier and deadline, and from what the host can do.
    Auto,
    /// Nothing is changed (`"keep"`).
    Keep,
    /// A policy and its parameters.
    Set {
        /// Scheduling policy.
        policy: SchedPolicy,
        /// 1 to 99, for [`SchedPolicy::Fifo`] and [`SchedPolicy::RoundRobin`] (default
        /// [`DEFAULT_RT_PRIORITY`]).
        priority: Option<u8>,
        /// −20 to 19, for [`SchedPolicy::Other`] and [`SchedPolicy::Batch`].
        nice: Option<i8>,
        /// EEVDF slice, 0.1 ms to 100 ms (kernel 6.12), for [`SchedPolicy::Other`] and
        /// [`SchedPolicy::Batch`].
        slice: Option<Duration>,
    },
}

/// Scheduling policies that a class can ask for; see sched(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedPolicy {
    /// SCHED_OTHER.
    Other,
    /// SCHED_BATCH.
    Batch,
    /// SCHED_IDLE.
    Idle,
    /// SCHED_FIFO.
    Fifo,
    /// SCHED_RR.
    RoundRobin,
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

impl Modality {
    /// As written in a policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
            Self::Image => "image",
            Self::Text => "text",
            Self::Sensor => "sensor",
            Self::Other => "other",
        }
    }
}

impl Tier {
    /// As written in a policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Realtime => "realtime",
            Self::Interactive => "interactive",
            Self::Background => "background",
        }
    }
}

impl Sched {
    /// For a person: `fifo 20`, `nice -5 slice 3 ms`, `idle`, `auto`, `keep`.
    #[must_use]
    pub fn words(&self) -> String {
        let Self::Set { policy, priority, nice, slice } = self else {
            return if *self == Self::Auto { "auto" } else { "keep" }.to_owned();
        };
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
        words.join(" ")
    }
}

impl SchedPolicy {
    /// As written in a policy.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Batch => "batch",
            Self::Idle => "idle",
            Self::Fifo => "fifo",
            Self::RoundRobin => "rr",
        }
    }

    /// Whether it has a real-time priority, and so neither a nice value nor a slice.
    #[must_use]
    pub fn is_realtime(self) -> bool {
        matches!(self, Self::Fifo | Self::RoundRobin)
    }
}

impl Deadline {
    /// For a person: `10 ms` or `auto`.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::After(duration) => duration::words(duration),
        }
    }
}

impl IoClass {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn set(policy: SchedPolicy, nice: Option<i8>, slice_us: Option<u64>) -> String {
        let slice = slice_us.map(Duration::from_micros);
        Sched::Set { policy, priority: None, nice, slice }.words()
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
        let fifo =
            Sched::Set { policy: SchedPolicy::Fifo, priority: Some(20), nice: None, slice: None };
        assert_eq!(fifo.words(), "fifo 20");
    }

    #[test]
    fn the_rest_in_words() {
        assert_eq!(Deadline::Auto.words(), "auto");
        assert_eq!(Deadline::After(Duration::from_millis(33)).words(), "33 ms");
        assert_eq!(IoPriority { class: IoClass::Realtime, level: 2 }.words(), "realtime 2");
        assert_eq!(IoPriority { class: IoClass::Idle, level: 0 }.words(), "idle");
    }
}
