//! Requests and answers.

use serde::{Deserialize, Serialize};

use crate::{
    Action, Discovery, HostFacts, Miss, Mode, Override, Plan, PlanSubject, PolicyProblem, Snapshot,
    ThreadJobs,
};

/// The longest request that the agent reads, bytes, with the line's end; the real ones have a few
/// dozen.
pub const LONGEST_REQUEST: u64 = 4096;

/// The longest time of [`Request::Set`], seconds: 30 days.
pub const LONGEST_SET: u64 = 30 * 24 * 3600;

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
    /// What would change now, and why.
    Plan,
    /// Read the policy files anew.
    Reload,
    /// Give one process a class, whatever the rules say.
    Set {
        /// Process id.
        pid: u32,
        /// A class of the policy in force.
        class: String,
        /// How long, seconds: 1 to [`LONGEST_SET`]; absent: as long as the process lives.
        #[serde(default)]
        seconds: Option<u64>,
    },
    /// What programs without a rule seem to work on, so far; they are looked at for a while.
    Discover,
    /// Take back what [`Request::Set`] gave a process.
    Release {
        /// Process id.
        pid: u32,
    },
}

/// Why a line is no request.
#[derive(Debug, thiserror::Error)]
#[error(
    "a request that this agent does not understand: {0}. A request is one line of JSON such as \
     {{\"op\":\"snapshot\"}}"
)]
pub struct RequestError(serde_json::Error);

impl Request {
    /// Reads a request from a line without its end.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(line: &[u8]) -> Result<Self, RequestError> {
        serde_json::from_slice(line).map_err(RequestError)
    }

    /// Whether it changes something: that is a right of its own.
    #[must_use]
    pub fn changes(&self) -> bool {
        match self {
            Self::Snapshot
            | Self::Watch
            | Self::Host
            | Self::Explain { .. }
            | Self::Misses
            | Self::Follow { .. }
            | Self::Plan
            | Self::Discover => false,
            Self::Pause | Self::Resume | Self::Reload | Self::Set { .. } | Self::Release { .. } => {
                true
            }
        }
    }
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
    /// To [`Request::Plan`].
    Plan(Box<Plan>),
    /// To [`Request::Discover`].
    Discovery(Box<Discovery>),
    /// To [`Request::Reload`] when the files are refused: the policy that was in force stays.
    Refused {
        /// What is wrong with them, at most [`crate::MOST_PROBLEMS`].
        problems: Vec<PolicyProblem>,
        /// Problems beyond those.
        #[serde(default)]
        more: u64,
    },
    /// To everything else that changes something, and to [`Request::Follow`]: what was done.
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Process.
    pub pid: u32,
    /// Name of its main thread.
    pub name: String,
    /// Its executable, where readable.
    pub exe: Option<String>,
    /// What the agent does with its decisions.
    pub mode: Mode,
    /// Why no rule is for it, or only one that names it by `comm`; absent for nearly all.
    #[serde(default)]
    pub kept_out: Option<String>,
    /// The class that a person gave it by hand.
    #[serde(default)]
    pub by_hand: Option<Override>,
    /// Why it has a class without a rule: what was seen of it.
    #[serde(default)]
    pub evidence: Vec<String>,
    /// The latest things done to it, or refused, newest last.
    #[serde(default)]
    pub actions: Vec<Action>,
    /// Its threads whose jobs are followed.
    #[serde(default)]
    pub jobs: Vec<ThreadJobs>,
    /// Its latest missed deadline, with the cause.
    #[serde(default)]
    pub latest_miss: Option<Miss>,
    /// Every thread.
    pub threads: Vec<ThreadExplanation>,
    /// Control groups and units that its class asks something of.
    #[serde(default)]
    pub shared: Vec<SharedExplanation>,
}

/// What a class asks of something that several processes share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedExplanation {
    /// A control group or a unit.
    pub subject: PlanSubject,
    /// Each lever that the class asks for.
    pub levers: Vec<LeverState>,
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
    /// The rule, with file and line (`speech to text, /etc/downbeat/policy.d/50-voice.toml:12`);
    /// absent where no rule gave the class.
    pub rule: Option<String>,
    /// What gave the class, in words: `by rule NAME, FILE:LINE`, `by hand, by uid N`,
    /// `discovered: …`; absent without a class.
    #[serde(default)]
    pub because: Option<String>,
    /// Each lever that the class asks for.
    pub levers: Vec<LeverState>,
}

/// One lever on one thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeverState {
    /// Lever.
    pub lever: String,
    /// Value before downbeat, where it set one.
    pub old: Option<String>,
    /// Value asked for.
    pub wanted: String,
    /// What was set in its place, where it was refused.
    #[serde(default)]
    pub instead: Option<String>,
    /// What came of it: `set`, `already so`, `left alone: …`, `failed: …`.
    pub outcome: String,
}
