//! Classes: what a matched thread should have.

use std::time::Duration;

use crate::{CpuList, Origin};

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
        /// 1 to 99, for [`SchedPolicy::Fifo`] and [`SchedPolicy::RoundRobin`] (default 10).
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
    /// 0 (first) to 7 (last); 0 for [`IoClass::Idle`].
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
