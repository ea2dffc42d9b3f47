//! What goes into the queue and what comes out of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A model, as [`crate::Queue::add_model`] numbered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(pub u32);

/// A worker; the number is the caller's and unique among those attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

/// A request that was taken. Tickets rise in the order of arrival and are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One piece of work on one worker: a request, or several as a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Workers that share processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// What a model works on; it decides what is given up when there is too much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Media {
    /// A sequence is an utterance: once it began, nothing of it is shed.
    Audio,
    /// Frames: the newest is worth most, so the oldest that waits goes first.
    Video,
    /// Whatever came first stays.
    #[default]
    Other,
}

/// What a service time is thought to be before the first one was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guess {
    /// For each unit (row of a batch).
    pub per_unit: Duration,
    /// For each job.
    pub fixed: Duration,
}

impl Default for Guess {
    fn default() -> Self {
        Self { per_unit: Duration::from_millis(1), fixed: Duration::ZERO }
    }
}

/// A model as the queue knows it.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// For messages.
    pub name: String,
    /// What it works on.
    pub media: Media,
    /// From arrival, for requests that bring no deadline; without it these are background work.
    pub deadline: Option<Duration>,
    /// Most units in one job; 0 and 1 mean that requests are never put together.
    pub max_batch: u32,
    /// Most requests waiting.
    pub max_queue: usize,
    /// Tried where this model would be late.
    pub cheaper: Option<ModelId>,
    /// Until the first measurement.
    pub guess: Guess,
    /// How long a worker takes to come up, where one is started on demand. Without it a request
    /// with a deadline is refused while there is no worker.
    pub cold_start: Option<Duration>,
    /// A sequence of which nothing was heard for so long is forgotten.
    pub sequence_idle: Duration,
}

impl ModelSpec {
    /// A model of which nothing but the name is known.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            media: Media::Other,
            deadline: None,
            max_batch: 1,
            max_queue: 1000,
            cheaper: None,
            guess: Guess::default(),
            cold_start: None,
            sequence_idle: Duration::from_secs(30),
        }
    }
}

/// A worker as the queue knows it.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    /// The models that it can run.
    pub models: Vec<ModelId>,
    /// Jobs that it takes at a time; 0 counts as 1.
    pub concurrency: usize,
    /// With whom it shares processors; alone where absent.
    pub group: Option<GroupId>,
}

/// A place in a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Unique per model.
    pub id: Arc<str>,
    /// The first of it.
    pub start: bool,
    /// The last of it.
    pub end: bool,
}

/// A request that asks to be taken.
#[derive(Clone, Debug)]
pub struct Offer {
    /// For which model.
    pub model: ModelId,
    /// Who asks.
    pub client: Arc<str>,
    /// When its answer is of no use any more; the model's own where absent. What has neither is
    /// background work.
    pub deadline: Option<Duration>,
    /// Among requests of one deadline the smaller goes first.
    pub priority: u64,
    /// Rows; 0 counts as 1.
    pub units: u32,
    /// Memory that it holds while it waits.
    pub bytes: u64,
    /// Requests of one model with the same key may be computed together; alone where absent.
    pub batch_key: Option<u64>,
    /// Its place in a sequence.
    pub sequence: Option<Step>,
    /// The request on whose behalf it is made; it has that one's deadline or an earlier one.
    pub parent: Option<Ticket>,
}

impl Offer {
    /// One unit for `model`, without deadline.
    #[must_use]
    pub fn new(model: ModelId, client: impl Into<Arc<str>>) -> Self {
        Self {
            model,
            client: client.into(),
            deadline: None,
            priority: 0,
            units: 1,
            bytes: 0,
            batch_key: None,
            sequence: None,
            parent: None,
        }
    }

    /// The same with a deadline.
    #[must_use]
    pub fn by(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// A request that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Names it from now on.
    pub ticket: Ticket,
    /// The model that will run: the cheaper one where the one that was asked for would be late.
    pub model: ModelId,
    /// When its answer is of no use any more.
    pub deadline: Option<Duration>,
}

/// Work to be started at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// To be named when it is finished.
    pub id: JobId,
    /// Where.
    pub worker: WorkerId,
    /// Which model.
    pub model: ModelId,
    /// The requests that it answers, in order of their deadlines; never empty.
    pub tickets: Vec<Ticket>,
    /// Rows of all of them.
    pub units: u32,
    /// The earliest of their deadlines.
    pub deadline: Option<Duration>,
    /// The sequence, where it belongs to one; it has one ticket then.
    pub sequence: Option<Step>,
}

/// What the queue wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Start this.
    Start(Job),
    /// Answer this request with a refusal. It is gone from the queue.
    Dropped {
        /// Which.
        ticket: Ticket,
        /// Why.
        refusal: Refusal,
    },
    /// A sequence went idle: its worker may forget it.
    SequenceClosed {
        /// Where it was.
        worker: WorkerId,
        /// Of which model.
        model: ModelId,
        /// Its name.
        id: Arc<str>,
    },
}

/// What became of a request that its client does not want any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It was waiting and is gone.
    Waiting,
    /// It runs; its job's end will not name it.
    Running {
        /// On whom.
        worker: WorkerId,
        /// As part of this.
        job: JobId,
        /// Nobody else waits for the job: the worker may be told to stop it.
        alone: bool,
    },
    /// It was answered, dropped or cancelled before.
    Unknown,
}

/// Why a request is refused or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// There is no such model.
    UnknownModel,
    /// No worker runs the model.
    Unavailable,
    /// Its answer would come after its deadline.
    Late,
    /// Its deadline passed.
    Expired,
    /// Too many requests wait.
    Full,
    /// Its client has its share.
    ClientShare,
    /// It gave way to others.
    Shed,
    /// It belongs to a sequence that is not there.
    Sequence,
    /// Its worker ended while it ran.
    WorkerLost,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 9] = [
        Self::UnknownModel,
        Self::Unavailable,
        Self::Late,
        Self::Expired,
        Self::Full,
        Self::ClientShare,
        Self::Shed,
        Self::Sequence,
        Self::WorkerLost,
    ];

    /// One word, for labels.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::UnknownModel => "unknown-model",
            Self::Unavailable => "unavailable",
            Self::Late => "late",
            Self::Expired => "expired",
            Self::Full => "full",
            Self::ClientShare => "client-share",
            Self::Shed => "shed",
            Self::Sequence => "sequence",
            Self::WorkerLost => "worker-lost",
        }
    }
}

/// A request is not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why, in one word.
    pub cause: Cause,
    /// Why, in one line.
    pub reason: String,
    /// When a like request may be taken, from now; absent where waiting does not help.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Refusal {}

/// In which order requests run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The earliest deadline first.
    #[default]
    Deadline,
    /// As they came, as if none had a deadline: nothing is refused for want of time, and nothing is
    /// put aside for anything else. To compare with; nobody wants to be served so.
    Arrival,
}

/// Bounds that hold for all models.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Which of the waiting requests is next.
    pub order: Order,
    /// Memory of all requests that wait.
    pub bytes: u64,
    /// The part of a queue, of the memory of what waits, and of what runs, that one client may have:
    /// above 0, at most 1.
    pub client_share: f64,
    /// The quantile of measured service times against which a request's slack is held: 0 to 1.
    pub quantile: f64,
    /// How late the next piece of an utterance may be before the utterance is given up whole.
    pub utterance_patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            order: Order::Deadline,
            bytes: 512 << 20,
            client_share: 0.5,
            quantile: 0.95,
            utterance_patience: Duration::from_secs(2),
        }
    }
}

/// A time for people: three digits at most and a unit.
pub(crate) fn brief(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ..10.0 => format!("{ms:.2} ms"),
        10.0..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1e3),
    }
}
