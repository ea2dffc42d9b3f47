//! What pool and worker say to each other.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::codec::PackageHead;
use crate::error::LinkError;
use crate::package::Package;
use crate::tensor::{Tensor, TensorSpec};

/// Requests in one message, at most.
pub const MAX_REQUESTS: usize = 64;

/// A loaded model on one channel, by a number that the pool chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelNumber(pub u32);

/// A request on one channel, by a number that the pool chooses and never uses twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestNumber(pub u64);

/// From the pool to a worker. `T` is [`Package`] where it is sent and `Vec<Tensor>` where it came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToWorker<T = Vec<Tensor>> {
    /// Load a model: answered by [`ToPool::Loaded`] or [`ToPool::LoadFailed`].
    Load(Load),
    /// Forget a model and its sequences, after the requests that came before: answered by
    /// [`ToPool::Unloaded`].
    Unload(ModelNumber),
    /// Compute. Each request is answered once, by [`ToPool::Done`] or [`ToPool::Failed`]. Those of
    /// one message may be computed together.
    Infer(Infer<T>),
    /// The answer is of no use any more. A request that has not begun is answered by
    /// [`FailureKind::Cancelled`]; for one that has, or is answered already, nothing changes.
    Cancel(RequestNumber),
    /// Answer what came before, then leave: the worker closes the channel and ends.
    Drain,
}

/// From a worker to the pool. `T` is [`Package`] where it is sent and `Vec<Tensor>` where it came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToPool<T = Vec<Tensor>> {
    /// The first message: who speaks. Nothing is sent to a worker before it.
    Hello(Hello),
    /// A model is ready for requests.
    Loaded(Loaded),
    /// A model cannot be loaded. The worker and its other models go on.
    LoadFailed {
        /// Which.
        model: ModelNumber,
        /// Why, with the file's path and the remedy.
        reason: String,
    },
    /// A model is forgotten, its memory free.
    Unloaded(ModelNumber),
    /// One computation is done.
    Done(Done<T>),
    /// A request is answered without outputs.
    Failed {
        /// Which.
        id: RequestNumber,
        /// In one word.
        kind: FailureKind,
        /// In a sentence, for the client.
        reason: String,
    },
}

/// A model to load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Its number from now on; one that is loaded already is refused.
    pub model: ModelNumber,
    /// Its name, for messages.
    pub name: String,
    /// Its version, for messages.
    pub version: String,
    /// What computes it.
    pub engine: Engine,
    /// The folder of this version, which holds `model.onnx`, or the file itself; absent for models
    /// that are built in.
    pub path: Option<PathBuf>,
    /// SHA-256 of the file's contents. What is read is compared with it before it is loaded: the
    /// file may have changed since it was checked. Absent: taken as it is.
    pub sha256: Option<[u8; 32]>,
    /// Threads that one computation may use, 1 at least. Engines that compute on the calling thread
    /// alone (tract, RNNoise) use one whatever this says.
    pub threads: u16,
}

/// What computes a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Engine {
    /// ONNX by tract, in the worker.
    Tract,
    /// ONNX by a library of ONNX Runtime that is found when the model is loaded.
    OnnxRuntime {
        /// The library's file; looked for by its usual name where absent.
        library: Option<PathBuf>,
    },
    /// RNNoise, whose weights are in the worker.
    Denoise,
}

/// Requests for one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Infer<T = Vec<Tensor>> {
    /// The model.
    pub model: ModelNumber,
    /// 1 to [`MAX_REQUESTS`]. A model with [`Loaded::batching`] computes those of like shape
    /// together, another one after the other.
    pub requests: Vec<Work<T>>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work<T = Vec<Tensor>> {
    /// Its number.
    pub id: RequestNumber,
    /// When its answer is of no use any more, nanoseconds of `CLOCK_MONOTONIC`. One that has not
    /// begun by then is answered by [`FailureKind::Expired`].
    pub deadline_ns: Option<u64>,
    /// Names of the outputs that are wanted; all where empty.
    pub outputs: Vec<String>,
    /// The sequence that it belongs to.
    pub sequence: Option<SequencePlace>,
    /// Its tensors.
    pub inputs: T,
}

/// A place in a sequence, whose state the worker keeps from one request to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequencePlace {
    /// Unique for the model on this worker.
    pub id: String,
    /// The first of it: a state that was kept under this name is forgotten.
    pub start: bool,
    /// The last of it: the state is forgotten afterwards.
    pub end: bool,
}

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The channel's language: [`VERSION`](crate::VERSION).
    pub version: u16,
    /// The worker's process.
    pub pid: u32,
    /// Name that it was given.
    pub name: String,
    /// Engines that it has: `tract`, `onnxruntime`, `denoise`.
    pub engines: Vec<String>,
}

/// A model that is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Which.
    pub model: ModelNumber,
    /// What computes it, with its version.
    pub engine: String,
    /// What it takes. Where [`Self::batching`], the first dimension of each is -1 and counts the
    /// items.
    pub inputs: Vec<TensorSpec>,
    /// What it gives.
    pub outputs: Vec<TensorSpec>,
    /// Whether requests of one message are computed together, along the first dimension.
    pub batching: bool,
    /// Wall time of a first computation with zeros, nanoseconds: what one item costs, roughly.
    /// Absent where the shapes are not known well enough for one.
    pub trial_ns: Option<u64>,
}

/// One computation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done<T = Vec<Tensor>> {
    /// The requests that were computed together.
    pub answers: Vec<Answer<T>>,
    /// When it began, nanoseconds of `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// From beginning to end, nanoseconds.
    pub wall_ns: u64,
    /// CPU time of all the worker's threads meanwhile, nanoseconds. What is missing to
    /// [`Self::wall_ns`] on one thread is time without a CPU.
    pub cpu_ns: u64,
}

/// What one request gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer<T = Vec<Tensor>> {
    /// Its number.
    pub id: RequestNumber,
    /// Those that it wanted, in the model's order.
    pub outputs: T,
}

/// Why a request has no outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// Its tensors are not what the model takes: the client's fault.
    Invalid,
    /// Its deadline passed before it began.
    Expired,
    /// It was cancelled before it began.
    Cancelled,
    /// The model is not loaded here.
    NotLoaded,
    /// The sequence that it goes on with is not known here: the worker is new, or forgot the
    /// sequence since too many others were begun.
    UnknownSequence,
    /// The engine failed.
    Engine,
}

/// Messages of one direction.
pub trait Message: Serialize + sealed::Sealed {
    /// As they come out at the other end.
    type Received;

    /// Whether tensors in it may lie in files of clients ([`SharedInput`](crate::SharedInput)).
    #[doc(hidden)]
    const REGIONS: bool;

    /// The tensors in it, in the order in which they are encoded.
    #[doc(hidden)]
    fn packages(&self) -> impl Iterator<Item = &Package>;

    /// From the bytes of a head; `open` is called with the packages in their order.
    #[doc(hidden)]
    fn decode(
        head: &[u8],
        open: impl FnMut(PackageHead) -> Result<Vec<Tensor>, LinkError>,
    ) -> Result<Self::Received, LinkError>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ToWorker<super::Package> {}
    impl Sealed for super::ToPool<super::Package> {}
}

impl Message for ToWorker<Package> {
    type Received = ToWorker;
    const REGIONS: bool = true;

    fn packages(&self) -> impl Iterator<Item = &Package> {
        let requests = match self {
            Self::Infer(infer) => infer.requests.as_slice(),
            Self::Load(_) | Self::Unload(_) | Self::Cancel(_) | Self::Drain => &[],
        };
        requests.iter().map(|request| &request.inputs)
    }

    fn decode(
        head: &[u8],
        mut open: impl FnMut(PackageHead) -> Result<Vec<Tensor>, LinkError>,
    ) -> Result<ToWorker, LinkError> {
        Ok(match read::<ToWorker<PackageHead>>(head)? {
            ToWorker::Load(load) => ToWorker::Load(load),
            ToWorker::Unload(model) => ToWorker::Unload(model),
            ToWorker::Cancel(id) => ToWorker::Cancel(id),
            ToWorker::Drain => ToWorker::Drain,
            ToWorker::Infer(Infer { model, requests }) => {
                few(requests.len())?;
                let requests = requests.into_iter().map(|request| {
                    let Work { id, deadline_ns, outputs, sequence, inputs } = request;
                    Ok(Work { id, deadline_ns, outputs, sequence, inputs: open(inputs)? })
                });
                let requests = requests.collect::<Result<_, LinkError>>()?;
                ToWorker::Infer(Infer { model, requests })
            }
        })
    }
}

impl Message for ToPool<Package> {
    type Received = ToPool;
    // A worker has none, and one that did could have the pool read anything.
    const REGIONS: bool = false;

    fn packages(&self) -> impl Iterator<Item = &Package> {
        let answers = match self {
            Self::Done(done) => done.answers.as_slice(),
            Self::Hello(_)
            | Self::Loaded(_)
            | Self::LoadFailed { .. }
            | Self::Unloaded(_)
            | Self::Failed { .. } => &[],
        };
        answers.iter().map(|answer| &answer.outputs)
    }

    fn decode(
        head: &[u8],
        mut open: impl FnMut(PackageHead) -> Result<Vec<Tensor>, LinkError>,
    ) -> Result<ToPool, LinkError> {
        Ok(match read::<ToPool<PackageHead>>(head)? {
            ToPool::Hello(hello) => ToPool::Hello(hello),
            ToPool::Loaded(loaded) => ToPool::Loaded(loaded),
            ToPool::LoadFailed { model, reason } => ToPool::LoadFailed { model, reason },
            ToPool::Unloaded(model) => ToPool::Unloaded(model),
            ToPool::Failed { id, kind, reason } => ToPool::Failed { id, kind, reason },
            ToPool::Done(Done { answers, started_ns, wall_ns, cpu_ns }) => {
                few(answers.len())?;
                let answers = answers
                    .into_iter()
                    .map(|Answer { id, outputs }| Ok(Answer { id, outputs: open(outputs)? }));
                let answers = answers.collect::<Result<_, LinkError>>()?;
                ToPool::Done(Done { answers, started_ns, wall_ns, cpu_ns })
            }
        })
    }
}

fn few(requests: usize) -> Result<(), LinkError> {
    if requests > MAX_REQUESTS {
        return Err(LinkError::Requests(requests));
    }
    Ok(())
}

/// All of the bytes are the message.
fn read<'a, T: Deserialize<'a>>(head: &'a [u8]) -> Result<T, LinkError> {
    match postcard::take_from_bytes(head).map_err(LinkError::Decode)? {
        (message, []) => Ok(message),
        (_, _) => Err(LinkError::Decode(postcard::Error::DeserializeBadEncoding)),
    }
}
