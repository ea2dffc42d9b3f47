//! What would change, and why.

use serde::{Deserialize, Serialize};

/// The difference between now and wanted (`downbeat plan`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What would be set or put back, by process and thread.
    pub changes: Vec<PlannedChange>,
    /// Values that are as they should be already.
    pub settled: u64,
    /// What the host cannot grant, per class that asks for it.
    #[serde(default)]
    pub fallbacks: Vec<String>,
    /// What a running agent knows beyond its policy, from which a plan for another one is made.
    #[serde(default, skip_serializing_if = "Known::is_empty")]
    pub known: Known,
}

/// What a running agent knows that no policy file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Levers of threads.
    #[serde(default)]
    pub held: Vec<HeldValue>,
    /// Levers of control groups and units.
    #[serde(default)]
    pub shared: Vec<HeldShared>,
    /// Classes by hand, which outlive a reload.
    #[serde(default)]
    pub by_hand: Vec<ByHand>,
    /// Processes whose modality was discovered.
    #[serde(default)]
    pub discovered: Vec<DiscoveredAs>,
    /// Reservations whose numbers were learned.
    #[serde(default)]
    pub reserved: Vec<Reserved>,
    /// The control group below which the agent's own lie.
    #[serde(default)]
    pub groups: Option<String>,
    /// Why there is none.
    #[serde(default)]
    pub no_groups: Option<String>,
}

impl Known {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A lever of a thread, as the agent knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldValue {
    /// Process.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Start time of the thread, clock ticks since boot.
    pub start_time: u64,
    /// What is known.
    pub held: Held,
}

/// A lever of a control group or a unit, as the agent knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldShared {
    /// Whose it is.
    pub subject: PlanSubject,
    /// What is known.
    pub held: Held,
}

/// What an agent knows of one lever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its name.
    pub lever: String,
    /// What it was last asked to be; absent for a value that was only inherited.
    pub wanted: Option<String>,
    /// What came of it.
    pub state: HeldState,
}

/// Where a lever stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum HeldState {
    /// Set by downbeat.
    Ours {
        /// What it was before.
        old: String,
        /// What it was set to: another value than what was wanted where that was refused.
        ours: String,
    },
    /// It was so before anyone asked.
    AlreadySo,
    /// It could not be set.
    Refused {
        /// Why, with the remedy.
        reason: String,
    },
    /// Someone else changed it: theirs from then on.
    HandedOff {
        /// What it was then.
        theirs: String,
    },
}

/// A class that a person gave a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByHand {
    /// Process.
    pub pid: u32,
    /// Its start time, clock ticks since boot.
    pub start_time: u64,
    /// The class.
    pub class: String,
    /// Who gave it: a uid.
    pub by_uid: u32,
}

/// What a process without a rule was found to work on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveredAs {
    /// Process.
    pub pid: u32,
    /// Its start time, clock ticks since boot.
    pub start_time: u64,
    /// `audio`, `video`, `image`, `text`.
    pub modality: String,
    /// The same in words, with how sure it is.
    pub because: String,
}

/// A reservation that was made from what a thread was measured to need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// Thread id.
    pub tid: u32,
    /// Its start time, clock ticks since boot.
    pub start_time: u64,
    /// Budget, nanoseconds.
    pub runtime_ns: u64,
    /// Deadline, nanoseconds.
    pub deadline_ns: u64,
    /// Period, nanoseconds.
    pub period_ns: u64,
}

/// One lever of one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedChange {
    /// Whose lever it is.
    pub subject: PlanSubject,
    /// Lever.
    pub lever: String,
    /// What it is now; absent where it cannot be read.
    #[serde(default)]
    pub now: Option<String>,
    /// What it would become.
    pub wanted: String,
    /// What would be done.
    pub step: PlanStep,
    /// The class that asks for it; absent for what would be put back since no class asks any more.
    #[serde(default)]
    pub class: Option<String>,
    /// What gave the class, in words: `by rule NAME, FILE:LINE`, `by hand, by uid N`,
    /// `discovered: …`.
    #[serde(default)]
    pub because: Option<String>,
}

/// Whose lever it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum PlanSubject {
    /// The host as a whole.
    Host,
    /// A part of the host: an interrupt, a frequency domain.
    Device {
        /// Its name.
        name: String,
    },
    /// A unit of systemd.
    Unit {
        /// Its whole name.
        name: String,
    },
    /// A control group.
    Group {
        /// Its path below the hierarchy's root.
        path: String,
    },
    /// One thread.
    Thread {
        /// Process.
        pid: u32,
        /// Name of the process's main thread.
        process: String,
        /// Thread id.
        tid: u32,
        /// The thread's own name.
        name: String,
    },
}

/// What would be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum PlanStep {
    /// It would be set.
    Set,
    /// It would go back to what it was before downbeat.
    PutBack,
    /// It would stay as it is, although the class asks for something else.
    LeaveAlone {
        /// Why.
        reason: String,
    },
}
