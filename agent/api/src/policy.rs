//! The policy in force, what was refused since, and what people set by hand.

use serde::{Deserialize, Serialize};

/// Problems of a policy that are told; a file of rubbish has tens of thousands, and every client
/// gets every snapshot.
pub const MOST_PROBLEMS: usize = 100;

/// The policy in force and how the last reading of the files went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyState {
    /// When the policy in force was read, seconds since 1970.
    pub read_at: f64,
    /// Rules in force.
    pub rules: u64,
    /// Files that the policy in force was read from.
    pub files: u64,
    /// Readings that were taken over since the agent started, the first one included.
    pub accepted: u64,
    /// Readings that were refused since the agent started.
    pub refused: u64,
    /// The files as they are now are refused, and the policy in force is an earlier one.
    #[serde(default)]
    pub standing: Option<PolicyRefusal>,
}

/// Why the policy on disk is not the one in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyRefusal {
    /// When it was refused, seconds since 1970.
    pub at: f64,
    /// What is wrong with it, by file and line; at most [`MOST_PROBLEMS`].
    pub problems: Vec<PolicyProblem>,
    /// Problems beyond those.
    #[serde(default)]
    pub more: u64,
}

/// One thing that is wrong with a policy on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyProblem {
    /// The file or folder.
    pub file: String,
    /// Line, from 1; absent where the file as a whole is refused.
    #[serde(default)]
    pub line: Option<u64>,
    /// Column in characters, from 1.
    #[serde(default)]
    pub column: Option<u64>,
    /// What is wrong, with the key that it is about and what to write instead.
    pub message: String,
}

impl std::fmt::Display for PolicyProblem {
    /// `file:line:column: message`, as editors look for it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file, line, column, message } = self;
        f.write_str(file)?;
        for place in [line, column].into_iter().flatten() {
            write!(f, ":{place}")?;
        }
        write!(f, ": {message}")
    }
}

/// A class that a person gave one process by hand (`downbeat set`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Override {
    /// Process.
    pub pid: u32,
    /// Its start time, clock ticks since boot.
    pub start_time: u64,
    /// Name of its main thread.
    pub name: String,
    /// The class.
    pub class: String,
    /// False while the policy in force has no class of this name: the rules apply.
    pub in_force: bool,
    /// Who set it: a uid.
    pub by_uid: u32,
    /// When, seconds since 1970.
    pub since: f64,
    /// Seconds until it ends by itself; absent where it ends with the process.
    #[serde(default)]
    pub left: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_editors_look_for_it() {
        let whole = PolicyProblem {
            file: "/etc/downbeat/policy.d".into(),
            message: "others can write it".into(),
            ..PolicyProblem::default()
        };
        assert_eq!(whole.to_string(), "/etc/downbeat/policy.d: others can write it");
        let place = PolicyProblem { line: Some(3), column: Some(1), ..whole };
        assert_eq!(place.to_string(), "/etc/downbeat/policy.d:3:1: others can write it");
    }
}
