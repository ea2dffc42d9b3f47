//! Requests to workers and answers back: the queue ([`downbeat_queue`]) with a clock, channels and
//! callers.
//!
//! - The supervisor declares models ([`Dispatcher::declare`]), attaches workers that are ready
//!   ([`Dispatcher::attach`]: a [`Channel`] to a built-in worker, or an adapter to an external one),
//!   takes them out of traffic ([`Dispatcher::drain`], then [`Dispatcher::is_idle`]) and off
//!   ([`Dispatcher::detach`]). A worker whose channel ends, or that its adapter finds gone, is
//!   detached by itself.
//! - The servers call [`Dispatcher::infer`]. To drop its future is to cancel the request, up to and
//!   including work that runs where the worker can stop it.
//! - [`Dispatcher::loads`] is for scaling and for what the pool shows of itself.
//!
//! Every request gets one answer. One whose worker died before it answered runs once more on
//! another, if its deadline allows; else it is told [`Refusal::Failed`].

mod answer;
mod channel;
mod declaration;
mod outage;
mod request;
mod work;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use downbeat_link::Package;
use downbeat_queue::{JobId, Limits, Load, ModelId, Queue, Ticket, WorkerId, WorkerSpec};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

pub use channel::{Channel, ChannelError};
pub use declaration::{Attach, Declaration, Transport};

use crate::adapters::Adapter;
use crate::inference::{Refusal, Request, Response};
use channel::Sender;

/// A wake-up that is later than the timer's own grain was late for want of a processor.
const TIMER_GRAIN: Duration = Duration::from_millis(1);
/// The run-queue delay is measured at least so often.
const MEASURE_EACH: Duration = Duration::from_millis(100);

/// Names an attached worker. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(WorkerId);

/// See the module.
#[derive(Clone)]
pub struct Dispatcher(Arc<Inner>);

struct Inner {
    start: Instant,
    state: Mutex<State>,
    /// Something changed that may make the next look earlier.
    changed: Notify,
}

struct State {
    queue: Queue,
    models: BTreeMap<String, Model>,
    workers: HashMap<WorkerId, Worker>,
    pending: HashMap<Ticket, Pending>,
    jobs: HashMap<JobId, Running>,
    next_worker: u64,
    /// Requests that came without an id.
    unnamed: u64,
    due: Option<Duration>,
}

struct Model {
    id: ModelId,
    declaration: Declaration,
    version: Option<String>,
    /// Requests may be computed together.
    batching: bool,
}

struct Worker {
    version: String,
    link: Link,
    /// Requests that it answered.
    answered: u64,
}

enum Link {
    Channel(Sender),
    Adapter(Arc<Adapter>),
}

struct Pending {
    answer: oneshot::Sender<Result<Response, Refusal>>,
    work: Arc<Work>,
    arrival: Instant,
    deadline: Option<Instant>,
}

/// What is sent to a worker; kept until the answer, since a worker may die.
pub(crate) struct Work {
    pub request: Request,
    pub package: Option<Package>,
}

struct Running {
    worker: WorkerId,
    started: Instant,
    size: usize,
    left: BTreeSet<Ticket>,
    /// Some of it failed: nothing is learned from it.
    failed: bool,
    task: Option<AbortHandle>,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// Without models and workers. Within a runtime: it starts a task that watches over time.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let dispatcher = Self(Arc::new(Inner {
            start: Instant::now(),
            state: Mutex::new(State {
                queue: Queue::new(limits),
                models: BTreeMap::new(),
                workers: HashMap::new(),
                pending: HashMap::new(),
                jobs: HashMap::new(),
                next_worker: 0,
                unnamed: 0,
                due: None,
            }),
            changed: Notify::new(),
        }));
        let weak = Arc::downgrade(&dispatcher.0);
        tokio::spawn(async move {
            let mut delay = Duration::ZERO;
            let mut due = Instant::now() + MEASURE_EACH;
            loop {
                let Some(inner) = weak.upgrade() else {
                    return;
                };
                let woken = tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => true,
                    () = inner.changed.notified() => false,
                };
                if woken {
                    let late = due.elapsed().saturating_sub(TIMER_GRAIN);
                    // Up at once, down over some looks: a busy moment is seldom alone.
                    delay = late.max(delay.mul_f64(0.8));
                }
                let dispatcher = Dispatcher(inner);
                let mut state = dispatcher.lock();
                state.queue.set_run_queue_delay(delay);
                dispatcher.pump(&mut state);
                due = Instant::now() + MEASURE_EACH;
                if let Some(next) = state.due {
                    due = due.min(dispatcher.0.start + next);
                }
            }
        });
        dispatcher
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves a queue that is still whole: every change of it is one call.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// Takes a model in, or changes what is declared of it. What was learned and what waits stays.
    pub fn declare(&self, declaration: Declaration) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let spec = state.spec(&declaration);
        if let Some(model) = state.models.get_mut(&declaration.name) {
            state.queue.change_model(model.id, spec);
            model.declaration = declaration;
        } else {
            let id = state.queue.add_model(spec);
            let model =
                Model { id, version: None, batching: false, declaration: declaration.clone() };
            state.models.insert(declaration.name, model);
        }
        // Another model may have named this one as its cheaper.
        let specs: Vec<_> =
            state.models.values().map(|model| (model.id, state.spec(&model.declaration))).collect();
        for (id, spec) in specs {
            state.queue.change_model(id, spec);
        }
        self.pump(state);
    }

    /// Forgets a model: what waits for it is refused, what runs is answered.
    pub fn forget(&self, name: &str) {
        let mut state = self.lock();
        if let Some(model) = state.models.remove(name) {
            state.queue.remove_model(model.id);
        }
        self.pump(&mut state);
    }

    /// A worker is ready for requests. Within a runtime.
    ///
    /// # Errors
    /// The model is not declared.
    pub fn attach(&self, attach: Attach) -> Result<Handle, Refusal> {
        let Attach { model: name, version, concurrency, transport } = attach;
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(model) = state.models.get_mut(&name) else {
            return Err(unknown(&name));
        };
        state.next_worker += 1;
        let id = WorkerId(state.next_worker);
        model.version = Some(version.clone());
        let (link, receiver) = match transport {
            Transport::Adapter(adapter) => {
                model.batching = false;
                (Link::Adapter(adapter), None)
            }
            Transport::Channel(channel) => {
                model.batching = channel.loaded.batching;
                if let Some(trial) = channel.loaded.trial_ns {
                    let trial = Duration::from_nanos(trial);
                    state.queue.observe(self.now(), model.id, 1, trial);
                }
                (Link::Channel(channel.sender), Some(channel.receiver))
            }
        };
        let spec = WorkerSpec { models: vec![model.id], concurrency, group: None };
        state.workers.insert(id, Worker { version, link, answered: 0 });
        state.queue.attach(self.now(), id, spec);
        self.pump(state);
        if let Some(receiver) = receiver {
            let weak = Arc::downgrade(&self.0);
            tokio::spawn(channel::listen(receiver, weak, Handle(id)));
        }
        Ok(Handle(id))
    }

    /// A worker gets no new work, but for the sequences that it holds.
    pub fn drain(&self, handle: Handle) {
        let mut state = self.lock();
        state.queue.drain(handle.0);
        self.pump(&mut state);
    }

    /// Whether a worker has nothing left to do; true of one that is not attached.
    #[must_use]
    pub fn is_idle(&self, handle: Handle) -> bool {
        self.lock().queue.is_idle(handle.0)
    }

    /// Requests that a worker holds, and how many it has answered since it was attached; nothing for
    /// one that is not attached.
    #[must_use]
    pub fn held(&self, handle: Handle) -> Option<(usize, u64)> {
        let state = self.lock();
        let answered = state.workers.get(&handle.0)?.answered;
        let jobs = state.jobs.values().filter(|running| running.worker == handle.0);
        Some((jobs.map(|running| running.left.len()).sum(), answered))
    }

    /// A worker is gone or is to be ended. What it has not answered runs once more elsewhere if
    /// that is possible.
    pub fn detach(&self, handle: Handle) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.workers.remove(&handle.0);
        state.jobs.retain(|_, running| {
            let lost = running.worker == handle.0;
            if let Some(task) = running.task.take_if(|_| lost) {
                task.abort();
            }
            !lost
        });
        state.queue.detach(self.now(), handle.0);
        self.pump(state);
    }

    /// What one model has to do; nothing for one that is not declared.
    #[must_use]
    pub fn load(&self, model: &str) -> Option<Load> {
        let (state, now) = (self.lock(), self.now());
        state.queue.load(now, state.models.get(model)?.id)
    }

    /// What each model has to do.
    #[must_use]
    pub fn loads(&self) -> BTreeMap<String, Load> {
        let (state, now) = (self.lock(), self.now());
        let load = |model: &Model| state.queue.load(now, model.id).unwrap_or_default();
        state.models.iter().map(|(name, model)| (name.clone(), load(model))).collect()
    }
}

fn unknown(name: &str) -> Refusal {
    Refusal::NotFound(format!("no model `{name}`; see /v2/repository/index for those that are"))
}

#[cfg(test)]
mod tests;
