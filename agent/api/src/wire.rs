//! Requests and answers.

use serde::{Deserialize, Serialize};

use crate::{HostFacts, Miss, Snapshot};

/// A request on the agent's socket, one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// The latest snapshot.
    Snapshot,
    /// A snapshot now and one per tick until the connection closes.
    Watch,
    /// What the host offers.
    Host,
    /// Put everything back and only watch.
    Pause,
    /// Apply decisions again.
    Resume,
    /// Why a process is as it is.
    Explain {
        /// Process or thread id.
        pid: u32,
    },
    /// The latest misses with their stories, newest last; at most 256.
    Misses,
    /// Follow the jobs of a process's threads for a while without changing anything.
    Follow {
        /// Process id.
        pid: u32,
        /// How long, seconds: 1 to 3600.
        seconds: u32,
    },
}

/// An answer on the agent's socket, one line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Snapshot`] and, repeatedly, to [`Request::Watch`].
    Snapshot(Box<Snapshot>),
    /// To [`Request::Host`].
    Host(Box<HostFacts>),
    /// To [`Request::Explain`].
    Explain(Box<Explanation>),
    /// To [`Request::Misses`].
    Misses {
        /// Newest last.
        misses: Vec<Miss>,
    },
    /// To [`Request::Follow`], [`Request::Pause`] and [`Request::Resume`]: what was done.
    Done {
        /// One line for a person.
        message: String,
    },
    /// The request failed.
    Error {
        /// What failed and why, with the remedy.
        message: String,
    },
}

/// Why a process is as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Process.
    pub pid: u32,
    /// Name of its main thread.
    pub name: String,
    /// Its executable, where readable.
    pub exe: Option<String>,
    /// Every thread.
    pub threads: Vec<ThreadExplanation>,
}

/// One thread of an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadExplanation {
    /// Thread id.
    pub tid: u32,
    /// The thread's own name.
    pub name: String,
    /// Its class; absent when no rule matches.
    pub class: Option<String>,
    /// The rule, with file and line (`speech to text, /etc/downbeat/policy.d/50-voice.toml:12`).
    pub rule: Option<String>,
    /// Each lever that the class asks for.
    pub levers: Vec<LeverState>,
}

/// One lever on one thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeverState {
    /// Lever.
    pub lever: String,
    /// Value before downbeat, where it set one.
    pub old: Option<String>,
    /// Value asked for.
    pub wanted: String,
    /// What came of it: `set`, `already so`, `left alone: …`, `failed: …`.
    pub outcome: String,
}
