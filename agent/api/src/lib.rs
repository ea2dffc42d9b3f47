//! The types on the agent's socket, and a client for them.
//!
//! The agent listens on a Unix stream socket, `RUN_DIR/agent.sock`. A request is one line of
//! JSON ([`Request`]); each answer is one line of JSON ([`Response`]). [`Request::Watch`] is
//! answered by a snapshot per tick until the client closes; everything else by one line.
//!
//! Units: times in nanoseconds where the name ends in `_ns`, else in seconds; sizes in bytes;
//! shares as fractions of one (a process that fills two CPUs has `cpu = 2.0`). A value that is
//! not known is absent, never zero.

mod client;
mod discovery;
mod host;
mod jobs;
#[cfg(feature = "peer")]
pub mod peer;
mod plan;
mod policy;
pub mod pool;
mod pool_client;
mod pressure;
mod snapshot;
mod wire;

pub use client::{Client, ClientError, Watch};
pub use discovery::{Discovered, Discovery};
pub use host::{Finding, HostFacts, State, Topology};
pub use jobs::{
    Cause, CauseKind, ClassBlame, Culprit, CulpritKind, JobSummary, Miss, Release, Rhythm, Stalls,
    ThreadJobs,
};
pub use plan::{
    ByHand, DiscoveredAs, Held, HeldShared, HeldState, HeldValue, Known, Plan, PlanStep,
    PlanSubject, PlannedChange, Reserved,
};
pub use policy::{MOST_PROBLEMS, Override, PolicyProblem, PolicyRefusal, PolicyState};
pub use pressure::*;
pub use snapshot::*;
pub use wire::{
    Explanation, LONGEST_REQUEST, LONGEST_SET, LeverState, Request, RequestError, Response,
    SharedExplanation, ThreadExplanation,
};

/// Version of everything in this crate that travels; raised when a field changes its meaning.
pub const SCHEMA: u32 = 1;

/// The agent's run directory where none is given.
pub const DEFAULT_RUN_DIR: &str = "/run/downbeat";

/// The agent's socket inside its run directory.
pub const SOCKET_NAME: &str = "agent.sock";
