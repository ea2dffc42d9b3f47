//! What is to be asked.

use std::path::PathBuf;

use serde::Deserialize;

/// The whole plan.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// A model here and behind the pool, in turns.
    Added(Added),
    /// Streams of requests, all at the same time.
    Streams(Streams),
}

/// See [`Plan::Added`].
#[derive(Debug, Deserialize)]
pub struct Added {
    /// The pool's REST socket.
    pub rest: PathBuf,
    /// The pool's gRPC socket.
    pub grpc: PathBuf,
    /// Turns of each case: in each a row of calls of each way. One more, before these, is not counted.
    pub turns: usize,
    /// Calls in a row.
    pub row: usize,
    /// From one call to the next, microseconds, by an absolute schedule from which times run; 0: each
    /// call follows the one before.
    pub period_us: u64,
    /// One behind the other.
    pub cases: Vec<Case>,
}

/// A model and what it is asked.
#[derive(Debug, Deserialize)]
pub struct Case {
    /// For the results.
    pub name: String,
    /// The model's name in the pool.
    pub model: String,
    /// The same model as a file.
    pub onnx: PathBuf,
    /// Its one input.
    pub input: Input,
}

/// A tensor.
#[derive(Clone, Debug, Deserialize)]
pub struct Input {
    /// Name.
    pub name: String,
    /// By the protocol's name.
    pub datatype: String,
    /// Elements per dimension.
    pub shape: Vec<usize>,
    /// Its bytes, in as many variants as the file holds.
    pub data: PathBuf,
}

/// See [`Plan::Streams`].
#[derive(Debug, Deserialize)]
pub struct Streams {
    /// Seconds that are counted.
    pub seconds: f64,
    /// Seconds before these, which are not.
    pub warm_up: f64,
    /// What has no answer so many seconds after the last request is lost.
    pub patience: f64,
    /// Connections that stay idle.
    #[serde(default)]
    pub idle: Vec<Idle>,
    /// At the same time.
    pub streams: Vec<Stream>,
}

/// Connections on which nothing is said.
#[derive(Debug, Deserialize)]
pub struct Idle {
    /// See [`Stream::target`].
    pub target: String,
    /// How many.
    pub connections: usize,
}

/// Requests to one model.
#[derive(Debug, Deserialize)]
pub struct Stream {
    /// For the results.
    pub name: String,
    /// `unix:PATH` or `HOST:PORT`.
    pub target: String,
    /// Of the URL.
    pub path: String,
    /// What is asked: a variant of it after the other.
    pub input: Input,
    /// Tensors travel as raw contents behind the JSON, else within it.
    pub binary: bool,
    /// Each request is asked with one of so many names of clients; 0: with none.
    #[serde(default)]
    pub clients: usize,
    /// What the answers should be: numbers for each variant, FP32.
    pub expected: Option<PathBuf>,
    /// When requests leave.
    pub pace: Pace,
    /// From the scheduled time; a later answer is a miss.
    pub deadline_ms: f64,
    /// At most; more wait for one that is free.
    pub connections: usize,
    /// What found no connection for so long is a miss and not sent.
    pub give_up_ms: f64,
}

/// When requests leave.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// So many a second, at even distances.
    Even(f64),
    /// So many a second on average, independent of each other.
    Poisson(f64),
    /// So many at a time: the next leaves when one is answered.
    AtATime(usize),
}
