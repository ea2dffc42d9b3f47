//! What the pool says of itself on `RUN_DIR/pool/control.sock`.
//!
//! The protocol is the agent's: one line of JSON in ([`PoolRequest`]), one line out
//! ([`PoolResponse`]); [`PoolRequest::Logs`] that follows is answered by a line whenever there is
//! something new, until the client closes.

use serde::{Deserialize, Serialize};

pub use crate::pool_client::{PoolClient, PoolError};

/// The pool's folder inside the agent's run directory.
pub const POOL_DIR: &str = "pool";

/// The pool's control socket inside [`POOL_DIR`].
pub const CONTROL_SOCKET: &str = "control.sock";

/// The pool's REST server as a socket inside [`POOL_DIR`].
pub const REST_SOCKET: &str = "rest.sock";

/// A question to the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum PoolRequest {
    /// How are you?
    Status,
    /// Loads a model of the store, or loads it again, and waits until it takes requests; lets
    /// requests to a drained one in again.
    Load {
        /// The model.
        name: String,
    },
    /// Unloads a model of the store.
    Unload {
        /// The model.
        name: String,
    },
    /// Lets no new request in, and waits for those that are there.
    Drain {
        /// The model.
        name: String,
    },
    /// What the pool's log has of a worker.
    Logs {
        /// The worker, as pool.d calls it.
        name: String,
        /// Whether to go on with what comes.
        follow: bool,
    },
    /// Names of the last dimension of a model's first output.
    Labels {
        /// The model.
        name: String,
    },
}

impl PoolRequest {
    /// Whether it changes what the pool does: that is a right of its own.
    #[must_use]
    pub fn changes(&self) -> bool {
        match self {
            Self::Load { .. } | Self::Unload { .. } | Self::Drain { .. } => true,
            Self::Status | Self::Logs { .. } | Self::Labels { .. } => false,
        }
    }
}

/// The pool's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum PoolResponse {
    /// To [`PoolRequest::Status`].
    Status(PoolStatus),
    /// It is done.
    Done {
        /// What was done, for a person.
        message: String,
    },
    /// To [`PoolRequest::Logs`], oldest first.
    Logs {
        /// Lines.
        lines: Vec<LogLine>,
    },
    /// To [`PoolRequest::Labels`]; none where the model has none.
    Labels {
        /// By place.
        labels: Vec<String>,
    },
    /// The request was not understood or failed.
    Error {
        /// What went wrong, with the remedy.
        message: String,
    },
}

/// The pool and its workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// The pool's own process; absent while it is down and the agent waits to restart it.
    pub pid: Option<u32>,
    /// One line when the pool is down or its configuration is refused.
    pub note: Option<String>,
    /// Address of the REST server, when it listens.
    pub rest: Option<String>,
    /// Address of the gRPC server, when it listens.
    pub grpc: Option<String>,
    /// Address of the Wyoming server, when it listens.
    pub wyoming: Option<String>,
    /// Every declared worker, in order of its name.
    pub workers: Vec<Worker>,
    /// Every model, in order of its name: a declared worker that takes requests, or one that a
    /// client loaded.
    #[serde(default)]
    pub models: Vec<Model>,
}

/// One model, and what became of its requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Whether it takes requests.
    pub state: ModelState,
    /// Why it does not.
    pub note: Option<String>,
    /// The version that is served, where one is known.
    pub version: Option<String>,
    /// Instances that are ready.
    pub ready: u32,
    /// Instances in all.
    pub instances: u32,
    /// Their restarts since the pool started.
    pub restarts: u64,
    /// Requests that wait.
    pub queued: u64,
    /// Computations that run; several requests may be in one.
    pub running: u64,
    /// Requests since the pool started.
    pub requests: u64,
    /// Of these, those that were not answered.
    pub not_answered: u64,
    /// Requests a second over the last ten seconds.
    pub rate: f64,
    /// Median time from arrival to answer over the last minute, nanoseconds.
    pub p50_ns: Option<u64>,
    /// 99th percentile of the same.
    pub p99_ns: Option<u64>,
    /// Requests that were computed together on average over the last minute.
    pub batch: Option<f64>,
    /// Requests with a deadline over the last minute.
    pub with_deadline: u64,
    /// Of these, those that were answered in time.
    pub in_time: u64,
    /// Computation by what was computed, for sound over all time: below 1 it keeps up.
    pub real_time_factor: Option<f64>,
}

impl Model {
    /// The share of requests with a deadline that were answered in time; absent where none had one.
    #[must_use]
    pub fn attainment(&self) -> Option<f64> {
        (self.with_deadline > 0).then(|| self.in_time as f64 / self.with_deadline as f64)
    }
}

/// Whether a model takes requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// It does.
    Ready,
    /// Not yet: requests that have the time wait for it.
    Loading,
    /// It does not.
    #[default]
    Unavailable,
    /// A person keeps new requests out.
    Drained,
}

/// A line of the pool's log about a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Seconds since 1970.
    pub unix_time: f64,
    /// The instance: the worker's name, and from the second on `#` and a number.
    pub instance: String,
    /// What it wrote, or what the pool says of it.
    pub text: String,
}

/// The declared worker of an instance.
#[must_use]
pub fn declared_name(instance: &str) -> &str {
    instance.split_once('#').map_or(instance, |(name, _)| name)
}

/// One declared worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Name in pool.d.
    pub name: String,
    /// What runs: `denoise`, or the external command.
    pub kind: String,
    /// Where it stands.
    pub state: WorkerState,
    /// Its process while it has one.
    pub pid: Option<u32>,
    /// Restarts since the pool started.
    pub restarts: u64,
    /// Why it is not running, or what its last end was.
    pub note: Option<String>,
    /// Socket that it serves, if any.
    pub socket: Option<String>,
    /// Frames that it processed; absent where it does not count them.
    pub frames: Option<u64>,
    /// Frames later than their deadline, by the worker's own clock.
    pub missed: Option<u64>,
    /// Median time of one frame's computation over the last seconds, nanoseconds.
    pub compute_p50_ns: Option<u64>,
    /// 99th percentile of the same.
    pub compute_p99_ns: Option<u64>,
}

/// Where a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Started, not yet ready.
    Starting,
    /// Ready for work.
    Ready,
    /// Dead, waiting for its restart.
    Backoff,
    /// Died too often (5 times in 60 s); stays down until its configuration changes.
    Failed,
    /// Stopped on purpose.
    Stopped,
}

/// Head of one frame on a streaming worker's socket.
///
/// The socket is Unix, `SOCK_SEQPACKET`: one message is one frame, this head (16 bytes, little
/// endian) and then the payload. The answer repeats the head over the worker's output. For audio
/// the payload is 10 ms of interleaved signed 16-bit samples at 48 kHz, 480 per channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameHead {
    /// When the frame was due to be released, `CLOCK_MONOTONIC` nanoseconds.
    pub release_ns: u64,
    /// Counts the stream's frames.
    pub sequence: u32,
    /// The deadline after the release, microseconds; 0 where there is none.
    pub deadline_us: u32,
}

impl FrameHead {
    /// Bytes on the wire.
    pub const LEN: usize = 16;

    /// As on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.release_ns.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[12..].copy_from_slice(&self.deadline_us.to_le_bytes());
        bytes
    }

    /// Splits a message into its head and its payload; nothing if it is shorter than a head.
    #[must_use]
    pub fn split(message: &[u8]) -> Option<(Self, &[u8])> {
        let (head, payload) = message.split_at_checked(Self::LEN)?;
        let release_ns = u64::from_le_bytes(head[..8].try_into().ok()?);
        let sequence = u32::from_le_bytes(head[8..12].try_into().ok()?);
        let deadline_us = u32::from_le_bytes(head[12..].try_into().ok()?);
        Some((Self { release_ns, sequence, deadline_us }, payload))
    }
}
