//! What the supervisor says of models and workers, and what the queue is told of it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use downbeat_queue::{Guess, ModelSpec};

use super::State;
use super::channel::Channel;
use crate::adapters::{Adapter, denoise};
use crate::config::{Media, Program, WorkerConfig};
use crate::inference::Request;

/// Of the noise remover, by the frame of one channel, until the first recording was measured: about
/// twice what it takes on a slow machine.
const DENOISE_GUESS: Guess =
    Guess { per_unit: Duration::from_micros(300), fixed: Duration::from_millis(1) };

/// What is declared of a model; one worker declaration in pool.d is one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// Its name.
    pub name: String,
    /// What it works on; decides what is shed first.
    pub media: Option<Media>,
    /// For requests that bring none; a model without one takes them as background work.
    pub deadline: Option<Duration>,
    /// Requests computed together, at most.
    pub batch: usize,
    /// The model that takes its requests when there is no time for this one.
    pub cheaper: Option<String>,
    /// How long a worker takes to come up where none may run; absent where one always does.
    pub cold_start: Option<Duration>,
    /// Its workers have a channel: their requests are packed when they come, so also those that
    /// come before the first worker.
    pub channel: bool,
    /// It is the noise remover: a request costs by the frames that it has, of all its channels.
    pub denoise: bool,
}

impl From<&WorkerConfig> for Declaration {
    fn from(config: &WorkerConfig) -> Self {
        Self {
            name: config.name.clone(),
            media: config.media,
            deadline: config.request_deadline(),
            batch: config.batch,
            cheaper: config.cheaper.clone(),
            cold_start: (config.instances.min == 0).then_some(Duration::from_secs(2)),
            channel: matches!(config.program, Program::Model(_)),
            denoise: config.program == Program::Denoise,
        }
    }
}

/// How requests reach a worker.
#[derive(Debug)]
pub enum Transport {
    /// A built-in worker with its model loaded.
    Channel(Channel),
    /// An external one.
    Adapter(Arc<Adapter>),
}

/// A worker that is ready.
#[derive(Debug)]
pub struct Attach {
    /// The model that it runs, as declared.
    pub model: String,
    /// The version that it runs.
    pub version: String,
    /// Requests that it takes at a time; 0 counts as 1.
    pub concurrency: usize,
    /// How they reach it.
    pub transport: Transport,
}

impl State {
    pub(super) fn spec(&self, declaration: &Declaration) -> ModelSpec {
        ModelSpec {
            media: match declaration.media {
                Some(Media::Audio) => downbeat_queue::Media::Audio,
                Some(Media::Video) => downbeat_queue::Media::Video,
                Some(Media::Text | Media::Background) | None => downbeat_queue::Media::Other,
            },
            deadline: declaration.deadline,
            max_batch: u32::try_from(declaration.batch.min(downbeat_link::MAX_REQUESTS))
                .unwrap_or(1),
            cheaper: declaration
                .cheaper
                .as_ref()
                .and_then(|name| self.models.get(name).map(|model| model.id)),
            cold_start: declaration.cold_start,
            guess: if declaration.denoise { DENOISE_GUESS } else { Guess::default() },
            ..ModelSpec::named(declaration.name.clone())
        }
    }
}

/// Units of a request, by which its cost is learned.
pub(super) fn units(declaration: &Declaration, batching: bool, request: &Request) -> u32 {
    if declaration.denoise {
        let extent = denoise::Extent::of(&request.inputs);
        return extent.map_or(1, denoise::Extent::frames_of_all_channels);
    }
    if batching { rows(request) } else { 1 }
}

/// Rows of a batch, as the first input's first dimension says.
fn rows(request: &Request) -> u32 {
    let first = request.outlines().next().and_then(|input| input.shape.first());
    first.map_or(1, |rows| u32::try_from(*rows).unwrap_or(u32::MAX)).max(1)
}

/// Equal for requests whose rows can be put under each other.
pub(super) fn batch_key(request: &Request) -> u64 {
    let mut hasher = DefaultHasher::new();
    for tensor in request.outlines() {
        tensor.name.hash(&mut hasher);
        tensor.datatype.hash(&mut hasher);
        tensor.shape.get(1..).hash(&mut hasher);
    }
    request.outputs.hash(&mut hasher);
    hasher.finish()
}
