//! What the pool says of itself on `RUN_DIR/pool/control.sock`.
//!
//! The protocol is the agent's: one line of JSON in ([`PoolRequest`]), one line out
//! ([`PoolResponse`]).

use serde::{Deserialize, Serialize};

/// The pool's folder inside the agent's run directory.
pub const POOL_DIR: &str = "pool";

/// The pool's control socket inside [`POOL_DIR`].
pub const CONTROL_SOCKET: &str = "control.sock";

/// A question to the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum PoolRequest {
    /// How are you?
    Status,
}

/// The pool's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum PoolResponse {
    /// To [`PoolRequest::Status`].
    Status(PoolStatus),
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
    /// Every declared worker, in order of its name.
    pub workers: Vec<Worker>,
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
