//! One request to a model and its answer, whichever protocol they came by: the servers make the
//! first and write the second, the dispatcher stands between.

use std::time::{Duration, Instant};

use downbeat_link::Tensor;

/// A request, checked as far as that is possible without the model.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model's name.
    pub model: String,
    /// Its version; the newest where absent.
    pub version: Option<String>,
    /// Given by the client and given back; may be empty.
    pub id: String,
    /// In the order in which they came.
    pub inputs: Vec<Tensor>,
    /// Names of the outputs that are wanted; all where empty.
    pub outputs: Vec<String>,
    /// What the client asks of the pool.
    pub terms: Terms,
}

/// What a client asks of the pool besides the answer.
#[derive(Clone, Debug)]
pub struct Terms {
    /// When the request came.
    pub arrival: Instant,
    /// When the answer is of no use any more; the model's own deadline where absent.
    pub deadline: Option<Instant>,
    /// Between requests of one deadline: smaller goes first; 0 where not given.
    pub priority: u64,
    /// Who asks, for limits per client: an address, a peer's user, or a name that it gave.
    pub client: String,
    /// The sequence that it belongs to.
    pub sequence: Option<Sequence>,
    /// W3C trace context, as it came.
    pub traceparent: Option<String>,
}

impl Terms {
    /// Of a request that asks for nothing, arriving now.
    #[must_use]
    pub fn of(client: impl Into<String>) -> Self {
        Self {
            arrival: Instant::now(),
            deadline: None,
            priority: 0,
            client: client.into(),
            sequence: None,
            traceparent: None,
        }
    }
}

/// A place in a sequence: its requests go to one worker, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Number or name, unique per model.
    pub id: String,
    /// The first of it.
    pub start: bool,
    /// The last of it.
    pub end: bool,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The version that answered.
    pub version: String,
    /// In the model's order.
    pub outputs: Vec<Tensor>,
    /// Where the time went.
    pub spent: Spent,
}

/// Where a request's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// From its arrival to its start on a worker.
    pub queued: Duration,
    /// On the worker.
    pub computed: Duration,
    /// Requests that were computed together, this one included.
    pub batch: usize,
}

/// Why a request is not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such model or version.
    #[error("{0}")]
    NotFound(String),
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// It is larger than a request may be.
    #[error("{0}")]
    TooLarge(String),
    /// It could not be answered in time, or the queue or the client's share is full: nothing was
    /// begun.
    #[error("{reason}")]
    Full {
        /// Why, in one line.
        reason: String,
        /// When a like request may be taken.
        retry_after: Duration,
    },
    /// The model is not ready.
    #[error("{0}")]
    Unavailable(String),
    /// The deadline passed before the answer was there.
    #[error("{0}")]
    Expired(String),
    /// The client went away.
    #[error("the client went away")]
    Cancelled,
    /// The worker failed.
    #[error("{0}")]
    Failed(String),
}
