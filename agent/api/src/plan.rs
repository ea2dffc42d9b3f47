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
    /// What a running agent has set on threads, from which a plan for another policy is made.
    #[serde(default)]
    pub held: Vec<HeldValue>,
}

/// A value that downbeat has set on a thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldValue {
    /// Process.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Start time of the thread, clock ticks since boot.
    pub start_time: u64,
    /// Lever.
    pub lever: String,
    /// What it was before.
    pub old: String,
    /// What it was set to.
    pub ours: String,
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
    /// What gave the class: a rule with its file and line, or who set it by hand.
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
