//! A built-in worker: its channel with one model loaded.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use downbeat_link::{
    AsyncReceiver, AsyncSender, FailureKind, Infer, LinkError, Load, Loaded, ModelNumber, Package,
    RequestNumber, SequencePlace, ToPool, ToWorker, async_pool_end,
};
use downbeat_queue::{Step, Ticket};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{Dispatcher, Handle, Inner, Work};
use crate::clock::monotonic_ns;
use crate::inference::Refusal;

/// A worker that is ready: it said hello and loaded its model.
#[derive(Debug)]
pub struct Channel {
    pub(super) sender: Sender,
    pub(super) receiver: AsyncReceiver<ToPool<Package>>,
    /// What the model takes and gives.
    pub loaded: Loaded,
}

/// Why a worker's channel cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The channel itself.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The worker ended.
    #[error("the worker ended before its model was loaded")]
    Ended,
    /// The worker cannot load it.
    #[error("{0}")]
    Load(String),
    /// The worker speaks another language.
    #[error(
        "the worker speaks version {is} of the channel and the pool {wanted}; install both from one build"
    )]
    Version {
        /// What it speaks.
        is: u16,
        /// What is spoken here.
        wanted: u16,
    },
}

impl Channel {
    /// Waits for a worker's hello, has it load a model and waits until that is ready. Without a
    /// limit in time: the supervisor ends a worker that does not come up.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub async fn open(socket: OwnedFd, load: Load) -> Result<Self, ChannelError> {
        let (sender, mut receiver) = async_pool_end(socket)?;
        let model = load.model;
        match receiver.receive().await? {
            Some(ToPool::Hello(hello)) if hello.version == downbeat_link::VERSION => {}
            Some(ToPool::Hello(hello)) => {
                let wanted = downbeat_link::VERSION;
                return Err(ChannelError::Version { is: hello.version, wanted });
            }
            _ => return Err(ChannelError::Ended),
        }
        sender.send(&ToWorker::Load(load)).await?;
        loop {
            match receiver.receive().await? {
                Some(ToPool::Loaded(loaded)) if loaded.model == model => {
                    return Ok(Self { sender: Sender::new(sender, model), receiver, loaded });
                }
                Some(ToPool::LoadFailed { reason, .. }) => return Err(ChannelError::Load(reason)),
                Some(_) => {}
                None => return Err(ChannelError::Ended),
            }
        }
    }
}

/// Sends without waiting: what finds no room is sent by a task, in order.
#[derive(Debug)]
pub(super) struct Sender {
    model: ModelNumber,
    direct: AsyncSender<ToWorker<Package>>,
    overflow: mpsc::UnboundedSender<ToWorker<Package>>,
    waiting: Arc<AtomicUsize>,
}

/// A request on its way to a worker, and when its answer is of no use any more.
pub(super) type Given = (Ticket, Arc<Work>, Option<Instant>);

impl Sender {
    fn new(direct: AsyncSender<ToWorker<Package>>, model: ModelNumber) -> Self {
        let (overflow, mut rest) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let (sender, left) = (direct.clone(), Arc::clone(&waiting));
        tokio::spawn(async move {
            while let Some(message) = rest.recv().await {
                match sender.send(&message).await {
                    // A worker that is gone is noticed by its listener.
                    Ok(()) | Err(LinkError::Closed) => {}
                    Err(error) => {
                        // Its requests go to another worker, as those of one that died.
                        warn!("a worker cannot be told of its work, it is let go: {error}");
                        sender.close();
                    }
                }
                left.fetch_sub(1, Ordering::AcqRel);
            }
        });
        Self { model, direct, overflow, waiting }
    }

    fn send(&self, message: ToWorker<Package>) -> Result<(), LinkError> {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.direct.check(&message)?;
        } else {
            match self.direct.try_send(&message) {
                Ok(true) | Err(LinkError::Closed) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(error),
            }
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        // Its task ends with this sender only.
        let _ = self.overflow.send(message);
        Ok(())
    }

    pub fn cancel(&self, ticket: Ticket) {
        if let Err(error) = self.send(ToWorker::Cancel(RequestNumber(ticket.0))) {
            // It computes what nobody waits for.
            debug!("a worker cannot be told that a request was given up: {error}");
        }
    }

    /// Gives work to the worker, and gives back the requests that cannot be sent, with the reason.
    pub fn start(&self, works: &[Given], sequence: Option<&Step>) -> Vec<(Ticket, Refusal)> {
        if works.is_empty() {
            return vec![];
        }
        match self.send(ToWorker::Infer(self.infer(works, sequence))) {
            Ok(()) => vec![],
            // One client's names are too long, and those of the others in the batch are not.
            Err(LinkError::TooLong(_)) if works.len() > 1 => {
                works.chunks(1).flat_map(|alone| self.start(alone, sequence)).collect()
            }
            Err(error) => {
                let text = error.to_string();
                let refusal = match error {
                    LinkError::Call { .. } => Refusal::Unavailable(text),
                    _ => Refusal::Invalid(text),
                };
                works.iter().map(|(ticket, ..)| (*ticket, refusal.clone())).collect()
            }
        }
    }

    fn infer(&self, works: &[Given], sequence: Option<&Step>) -> Infer<Package> {
        let deadline_ns = |deadline: Instant| {
            let left = deadline.saturating_duration_since(Instant::now());
            monotonic_ns().saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX))
        };
        let requests = works.iter().filter_map(|(ticket, work, deadline)| {
            Some(downbeat_link::Work {
                id: RequestNumber(ticket.0),
                // A piece of an utterance is computed late rather than never.
                deadline_ns: deadline.filter(|_| sequence.is_none()).map(deadline_ns),
                outputs: work.request.outputs.clone(),
                sequence: sequence.map(|step| SequencePlace {
                    id: step.id.to_string(),
                    start: step.start,
                    end: step.end,
                }),
                inputs: work.package.clone()?,
            })
        });
        Infer { model: self.model, requests: requests.collect() }
    }
}

/// Takes a worker's answers until it ends; then it is detached.
pub(super) async fn listen(
    mut receiver: AsyncReceiver<ToPool<Package>>,
    dispatcher: Weak<Inner>,
    handle: Handle,
) {
    loop {
        let message = receiver.receive().await;
        let Some(inner) = dispatcher.upgrade() else {
            return;
        };
        let dispatcher = Dispatcher(inner);
        match message {
            Ok(Some(message)) => take(&dispatcher, handle, message),
            Ok(None) => return dispatcher.detach(handle),
            Err(error) => {
                warn!("a worker's channel broke, it is let go: {error}");
                return dispatcher.detach(handle);
            }
        }
    }
}

fn take(dispatcher: &Dispatcher, handle: Handle, message: ToPool) {
    let complete = |id: RequestNumber, outcome, computed| {
        let ticket = Ticket(id.0);
        // One that nobody waits for any more, or that it was never given.
        if let Some(job) = dispatcher.job_of(handle.0, ticket) {
            dispatcher.completed(job, ticket, outcome, computed);
        }
    };
    match message {
        ToPool::Done(done) => {
            // It cannot have computed for longer than since it began, whatever it says.
            let since = monotonic_ns().saturating_sub(done.started_ns);
            let computed = Duration::from_nanos(done.wall_ns.min(since));
            for answer in done.answers {
                complete(answer.id, Ok(answer.outputs), computed);
            }
        }
        ToPool::Failed { id, kind, reason } => {
            let refusal = match kind {
                FailureKind::Invalid | FailureKind::UnknownSequence => Refusal::Invalid(reason),
                FailureKind::Expired => Refusal::Expired(reason),
                FailureKind::Cancelled => Refusal::Cancelled,
                FailureKind::NotLoaded => Refusal::Unavailable(reason),
                FailureKind::Engine => Refusal::Failed(reason),
            };
            complete(id, Err(refusal), Duration::ZERO);
        }
        ToPool::Hello(_) | ToPool::Loaded(_) | ToPool::LoadFailed { .. } | ToPool::Unloaded(_) => {}
    }
}
