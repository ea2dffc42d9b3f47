//! Programs without a rule, and what they seem to work on.

use serde::{Deserialize, Serialize};

/// What [`crate::Request::Discover`] found so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Discovery {
    /// Whether the policy has discovery on (`[auto]`): then what shows enough gets its class.
    pub enabled: bool,
    /// Whether threads' beats can be seen here; without the kernel programs they cannot.
    pub beats: bool,
    /// Processes that were not looked at yet, or whose threads' beats are still being watched.
    pub pending: u64,
    /// Programs that show something, the surest first.
    pub findings: Vec<Discovered>,
}

/// One process without a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Discovered {
    /// Process.
    pub pid: u32,
    /// Name of its main thread.
    pub name: String,
    /// Its executable, where readable.
    pub exe: Option<String>,
    /// Its arguments, joined by spaces.
    pub cmdline: String,
    /// What it seems to work on: `audio`, `video`, `image`, `text`.
    pub modality: String,
    /// How sure that is, 0 to 1.
    pub confidence: f64,
    /// Whether that is enough for a class.
    pub enough: bool,
    /// What speaks for it, one sign a line.
    pub evidence: Vec<String>,
    /// The class that `[auto]` names for its modality.
    pub class: Option<String>,
    /// It has that class now.
    pub given: bool,
}
