//! What travels between the pool and its workers: tensors, and the channel that carries them.
//!
//! A channel is a Unix `SOCK_SEQPACKET` socket: one message is one packet, whole or not at all, in
//! order. [`ToWorker`] goes one way and [`ToPool`] the other. Each end has a sending half, which may
//! be cloned, and a receiving half: [`worker_end`] waits in the call, [`async_pool_end`] (feature
//! `async`) in a tokio runtime.
//!
//! # What a conversation looks like
//!
//! ```text
//! worker → pool   Hello                       who speaks, and which engines it has
//! pool → worker   Load { model: 1, … }
//! worker → pool   Loaded { model: 1, inputs, outputs, batching, … }   or LoadFailed
//! pool → worker   Infer { model: 1, requests: [7, 8, 9] }
//! worker → pool   Done { answers: [7, 9], … }   Failed { id: 8, Expired, … }
//! pool → worker   Cancel(10)                  counts where 10 has not begun
//! pool → worker   Drain                       the worker answers what it has, and leaves
//! ```
//!
//! Each request of an `Infer` is answered exactly once, unless the worker dies: then the channel
//! ends (`receive` gives nothing), and what is unanswered is the pool's to give to another worker or
//! to refuse.
//!
//! # Tensors
//!
//! They are sent as a [`Package`], made where they come in. A tensor up to [`INLINE`] bytes travels
//! in the message; the larger ones of a request are written to one memory file, which is sealed and
//! whose descriptor travels along: the only copy on the way. The other end checks the seals and the
//! length before it maps the file, so neither a short nor a changing file can hurt it, and hands the
//! tensors on as [`Bytes`](bytes::Bytes) that keep the mapping alive. Types, shapes and lengths are
//! checked at both ends.
//!
//! Inputs may also lie in shared memory of the client's own ([`SharedInput`]): the worker gets the
//! client's file and reads it once. What is missing there when it does is that client's error.
//!
//! # Example
//!
//! ```
//! use bytes::Bytes;
//! use downbeat_link::{
//!     Answer, DataType, Done, Infer, ModelNumber, Package, RequestNumber, Tensor, ToPool,
//!     ToWorker, Work,
//! };
//!
//! # fn main() -> Result<(), downbeat_link::LinkError> {
//! let (pool, worker) = downbeat_link::pair()?;
//! let (to_worker, mut from_worker) = downbeat_link::pool_end(pool)?;
//! let (to_pool, mut from_pool) = downbeat_link::worker_end(worker)?;
//!
//! let picture = Tensor {
//!     name: "image".into(),
//!     datatype: DataType::Fp32,
//!     shape: vec![1, 3, 160, 160],
//!     data: Bytes::from(vec![0; 3 * 160 * 160 * 4]),
//! };
//! // Made once; it can be sent again should this worker die.
//! let inputs = Package::new(vec![picture])?;
//! to_worker.send(&ToWorker::Infer(Infer {
//!     model: ModelNumber(1),
//!     requests: vec![Work {
//!         id: RequestNumber(7),
//!         deadline_ns: None,
//!         outputs: vec![],
//!         sequence: None,
//!         inputs: inputs.clone(),
//!     }],
//! }))?;
//!
//! // The worker's side.
//! let Some(ToWorker::Infer(infer)) = from_pool.receive()? else { unreachable!() };
//! let outputs = Package::new(infer.requests[0].inputs.clone())?;
//! to_pool.send(&ToPool::Done(Done {
//!     answers: vec![Answer { id: infer.requests[0].id, outputs }],
//!     started_ns: 0,
//!     wall_ns: 0,
//!     cpu_ns: 0,
//! }))?;
//!
//! let Some(ToPool::Done(done)) = from_worker.receive()? else { unreachable!() };
//! assert_eq!(done.answers[0].outputs[0].data.len(), 3 * 160 * 160 * 4);
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "async")]
mod asynchronous;
mod blocking;
mod codec;
mod error;
mod message;
mod package;
mod region;
mod shared;
mod socket;
mod tensor;

#[cfg(feature = "async")]
pub use asynchronous::{
    AsyncPoolEnd, AsyncReceiver, AsyncSender, AsyncWorkerEnd, async_pool_end, async_worker_end,
};
pub use blocking::{PoolEnd, Receiver, Sender, WorkerEnd, pool_end, worker_end};
pub use codec::{MAX_DESCRIPTORS, MAX_MESSAGE, VERSION};
pub use error::LinkError;
pub use message::{
    Answer, Done, Engine, FailureKind, Hello, Infer, Load, Loaded, MAX_REQUESTS, Message,
    ModelNumber, RequestNumber, SequencePlace, ToPool, ToWorker, Work,
};
pub use package::{INLINE, MAX_PACKAGE, MAX_TENSORS, Package};
pub use region::{MAX_REGIONS, Region, SharedInput};
pub use socket::{connect, pair};
pub use tensor::{
    DataType, MAX_DIMENSIONS, Tensor, TensorError, TensorSpec, checked_shape, elements,
};
