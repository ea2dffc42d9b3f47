//! Requests to workers and answers back: the queue ([`downbeat_queue`]) with a clock, channels and
//! callers.
//!
//! - The supervisor declares models ([`Dispatcher::declare`]), attaches workers that are ready
//!   ([`Dispatcher::attach`]: a [`Channel`] to a built-in worker, or an adapter to an external one),
//!   takes them out of traffic ([`Dispatcher::drain`], then [`Dispatcher::is_idle`]) and off
//!   ([`Dispatcher::detach`]). A worker whose channel ends is detached by itself.
//! - The servers call [`Dispatcher::infer`]. To drop its future is to cancel the request, up to and
//!   including work that runs where the worker can stop it.
//! - [`Dispatcher::loads`] is for scaling, [`Dispatcher::statistics`] for Triton's statistics call.
//!
//! Every request gets one answer. One whose worker died before it answered runs once more on
//! another, if its deadline allows; else it is told [`Refusal::Failed`].

mod answer;
mod channel;
mod declaration;
mod statistics;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use downbeat_link::{Package, Tensor};
use downbeat_queue::{
    Cancelled, Event, Job, JobId, Limits, Load, ModelId, Offer, Queue, Step, Ticket, WorkerId,
    WorkerSpec,
};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

pub use channel::{Channel, ChannelError};
pub use declaration::{Attach, Declaration, Transport};
pub use statistics::{Counter, ModelStatistics};

use crate::adapters::Adapter;
use crate::inference::{Refusal, Request, Response};
use channel::Sender;
use declaration::{batch_key, rows};

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
    names: HashMap<ModelId, String>,
    workers: HashMap<WorkerId, Worker>,
    pending: HashMap<Ticket, Pending>,
    jobs: HashMap<JobId, Running>,
    next_worker: u64,
    due: Option<Duration>,
}

struct Model {
    id: ModelId,
    declaration: Declaration,
    version: Option<String>,
    /// Requests may be computed together.
    batching: bool,
    statistics: ModelStatistics,
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
    started: Option<Instant>,
    deadline: Option<Instant>,
}

/// What is sent to a worker; kept until the answer, since a worker may die.
pub(crate) struct Work {
    pub request: Request,
    pub package: Option<Package>,
}

struct Running {
    model: ModelId,
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

/// Cancels a request whose caller goes away.
struct Guard<'a> {
    dispatcher: &'a Dispatcher,
    ticket: Ticket,
    armed: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.dispatcher.cancel(self.ticket);
        }
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
                names: HashMap::new(),
                workers: HashMap::new(),
                pending: HashMap::new(),
                jobs: HashMap::new(),
                next_worker: 0,
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
            state.names.insert(id, declaration.name.clone());
            let model = Model {
                id,
                version: None,
                batching: false,
                statistics: ModelStatistics::default(),
                declaration: declaration.clone(),
            };
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
            state.names.remove(&model.id);
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

    /// Answers a request. To drop the future is to cancel it.
    ///
    /// # Errors
    /// Every [`Refusal`].
    pub async fn infer(&self, request: Request) -> Result<Response, Refusal> {
        let name = request.model.clone();
        let (channel, batching) = {
            let state = self.lock();
            let model = state.models.get(&name).ok_or_else(|| unknown(&name))?;
            if let (Some(asked), Some(is)) = (&request.version, &model.version)
                && asked != is
            {
                return Err(Refusal::NotFound(format!(
                    "model `{name}` has no version `{asked}` that is loaded; it has `{is}`"
                )));
            }
            (model.declaration.channel, model.batching)
        };
        // Before the lock: a large tensor is copied here, once.
        let package = channel.then(|| Package::new(request.inputs.clone())).transpose();
        let package = package.map_err(|error| Refusal::Invalid(error.to_string()))?;
        let (answer, mut answered) = oneshot::channel();
        let ticket = self.submit(Work { request, package }, batching, answer)?;
        let mut guard = Guard { dispatcher: self, ticket, armed: true };
        let outcome = (&mut answered).await;
        guard.armed = false;
        outcome.unwrap_or_else(|_| Err(Refusal::Failed("the request was lost; try again".into())))
    }

    fn submit(
        &self,
        work: Work,
        batching: bool,
        answer: oneshot::Sender<Result<Response, Refusal>>,
    ) -> Result<Ticket, Refusal> {
        let terms = &work.request.terms;
        let since = |at: Instant| at.saturating_duration_since(self.0.start);
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(model) = state.models.get_mut(&work.request.model) else {
            return Err(unknown(&work.request.model));
        };
        let own = model.declaration.deadline.filter(|_| !model.declaration.is_background());
        let deadline = terms.deadline.or_else(|| Some(terms.arrival + own?));
        let offer = Offer {
            model: model.id,
            client: terms.client.as_str().into(),
            deadline: deadline.map(since),
            priority: terms.priority,
            units: if batching { rows(&work.request.inputs) } else { 1 },
            bytes: work.request.inputs.iter().map(|tensor| tensor.data.len() as u64).sum(),
            batch_key: batching.then(|| batch_key(&work.request)),
            sequence: terms.sequence.as_ref().map(|sequence| Step {
                id: sequence.id.as_str().into(),
                start: sequence.start,
                end: sequence.end,
            }),
            parent: None,
        };
        let arrival = terms.arrival;
        let admitted = match state.queue.offer(self.now(), offer) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let refusal = answer::refusal(refusal);
                model.statistics.refused(&refusal, arrival.elapsed());
                self.pump(state);
                return Err(refusal);
            }
        };
        let pending = Pending { answer, work: Arc::new(work), arrival, started: None, deadline };
        state.pending.insert(admitted.ticket, pending);
        self.pump(state);
        Ok(admitted.ticket)
    }

    /// The caller of a request went away.
    fn cancel(&self, ticket: Ticket) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let pending = state.pending.remove(&ticket);
        if let Cancelled::Running { worker, job, alone } = state.queue.cancel(self.now(), ticket) {
            if let Some(Worker { link: Link::Channel(sender), .. }) = state.workers.get(&worker) {
                sender.cancel(ticket);
            } else if alone && let Some(running) = state.jobs.remove(&job) {
                if let Some(task) = running.task {
                    task.abort();
                }
                state.queue.finished(self.now(), job, None);
            }
        }
        if let Some(pending) = pending
            && let Some(model) = state.models.get_mut(&pending.work.request.model)
        {
            model.statistics.refused(&Refusal::Cancelled, pending.arrival.elapsed());
        }
        self.pump(state);
    }

    /// What each model has to do.
    #[must_use]
    pub fn loads(&self) -> BTreeMap<String, Load> {
        let (state, now) = (self.lock(), self.now());
        let load = |model: &Model| state.queue.load(now, model.id).unwrap_or_default();
        state.models.iter().map(|(name, model)| (name.clone(), load(model))).collect()
    }

    /// What became of a model's requests; nothing for one that is not declared.
    #[must_use]
    pub fn statistics(&self, model: &str) -> Option<ModelStatistics> {
        Some(self.lock().models.get(model)?.statistics.clone())
    }

    /// Does what the queue wants done.
    fn pump(&self, state: &mut State) {
        while let Some(event) = state.queue.poll(self.now()) {
            match event {
                Event::Start(job) => self.start(state, &job),
                Event::Dropped { ticket, refusal } => {
                    state.answer(ticket, Err(answer::refusal(refusal)));
                }
                // Workers of the channel forget old sequences by themselves.
                Event::SequenceClosed { .. } => {}
            }
        }
        let due = state.queue.next_due(self.now());
        let earlier = due.is_some_and(|due| state.due.is_none_or(|before| due < before));
        state.due = due;
        if earlier {
            self.0.changed.notify_one();
        }
    }

    fn start(&self, state: &mut State, job: &Job) {
        let started = Instant::now();
        let mut works = Vec::with_capacity(job.tickets.len());
        for ticket in &job.tickets {
            if let Some(pending) = state.pending.get_mut(ticket) {
                pending.started = Some(started);
                works.push((*ticket, Arc::clone(&pending.work), pending.deadline));
            }
        }
        let mut running = Running {
            model: job.model,
            worker: job.worker,
            started,
            size: works.len(),
            left: works.iter().map(|(ticket, ..)| *ticket).collect(),
            failed: false,
            task: None,
        };
        let Some(worker) = state.workers.get(&job.worker) else {
            return;
        };
        match &worker.link {
            Link::Channel(sender) => sender.start(works, job.sequence.as_ref()),
            Link::Adapter(adapter) => {
                let (adapter, dispatcher) = (Arc::clone(adapter), Arc::downgrade(&self.0));
                let id = job.id;
                let task = tokio::spawn(async move {
                    for (ticket, work, _) in works {
                        let outcome = adapter.infer(&work.request).await;
                        let Some(inner) = dispatcher.upgrade() else {
                            return;
                        };
                        let spent = answer::Computed::adapter(started);
                        Dispatcher(inner).completed(id, ticket, outcome, spent);
                    }
                });
                running.task = Some(task.abort_handle());
            }
        }
        state.jobs.insert(job.id, running);
    }

    /// A request of a job is answered by its worker.
    fn completed(
        &self,
        job: JobId,
        ticket: Ticket,
        outcome: Result<Vec<Tensor>, Refusal>,
        computed: answer::Computed,
    ) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(running) = state.jobs.get_mut(&job) else {
            return;
        };
        if !running.left.remove(&ticket) {
            return;
        }
        running.failed |= outcome.is_err();
        let (size, over) = (running.size, running.left.is_empty());
        let (id, worker, started, failed) =
            (running.model, running.worker, running.started, running.failed);
        let version = state.workers.get_mut(&worker).map(|worker| {
            worker.answered += 1;
            worker.version.clone()
        });
        let version = version.unwrap_or_default();
        state.respond(ticket, outcome, version, size, started, computed);
        let now = self.now();
        if over {
            state.jobs.remove(&job);
            let took = (!failed).then(|| started.elapsed());
            state.queue.finished(now, job, took);
            if let Some(name) = state.names.get(&id)
                && let Some(model) = state.models.get_mut(name)
            {
                model.statistics.executed(size, started.elapsed());
            }
        } else {
            // It is answered: should the worker die, the others run again and it does not.
            state.queue.cancel(now, ticket);
        }
        self.pump(state);
    }

    /// Finds the job of a request that a channel's worker names.
    fn job_of(&self, worker: WorkerId, ticket: Ticket) -> Option<JobId> {
        let state = self.lock();
        let found =
            state.jobs.iter().find(|(_, it)| it.worker == worker && it.left.contains(&ticket));
        found.map(|(id, _)| *id)
    }
}

fn unknown(name: &str) -> Refusal {
    Refusal::NotFound(format!("no model `{name}`; see /v2/repository/index for those that are"))
}

#[cfg(test)]
mod tests;
