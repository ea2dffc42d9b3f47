//! The queue's state, and what changes it besides an offer and a start.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::admission::Component;
use crate::edf::{Entry, Key, Lane, Place};
use crate::fairness::Clients;
use crate::load::Meter;
use crate::request::{
    Cancelled, Cause, Event, GroupId, Job, JobId, Limits, ModelId, ModelSpec, Refusal, Ticket,
    WorkerId, WorkerSpec,
};
use crate::sequence::{Demand, Sequence, SequenceKey};
use crate::service::Fit;

pub(crate) struct Model {
    pub spec: ModelSpec,
    pub lane: Lane,
    pub fit: Fit,
    pub meter: Meter,
    pub demand: Demand,
    /// When a job of it last ended, or one was let in to measure it.
    pub measured: Duration,
    pub refused: BTreeMap<Cause, u64>,
}

pub(crate) struct Worker {
    pub spec: WorkerSpec,
    pub jobs: Vec<JobId>,
    pub draining: bool,
    /// Sequences that stick to it.
    pub sequences: usize,
}

pub(crate) struct Running {
    pub job: Job,
    pub started: Duration,
    pub urgent: bool,
    pub entries: Vec<Entry>,
    pub cancelled: BTreeSet<Ticket>,
}

/// Requests that wait and run. All times are since one start, the caller's.
#[derive(Default)]
pub struct Queue {
    pub(crate) limits: Limits,
    pub(crate) models: BTreeMap<ModelId, Model>,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) groups: BTreeMap<GroupId, usize>,
    pub(crate) components: BTreeMap<ModelId, Arc<Component>>,
    pub(crate) jobs: BTreeMap<JobId, Running>,
    pub(crate) sequences: BTreeMap<SequenceKey, Sequence>,
    pub(crate) clients: Clients,
    pub(crate) events: VecDeque<Event>,
    pub(crate) run_queue_delay: Duration,
    pub(crate) idle_check: Duration,
    pub(crate) bytes: u64,
    places: HashMap<Ticket, (ModelId, Place)>,
    running: HashMap<Ticket, JobId>,
    next_model: u32,
    next_ticket: u64,
    next_job: u64,
}

impl Queue {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes a model in.
    pub fn add_model(&mut self, spec: ModelSpec) -> ModelId {
        let id = ModelId(self.next_model);
        self.next_model += 1;
        let model = Model {
            fit: Fit::new(spec.guess, self.limits.quantile),
            spec,
            lane: Lane::default(),
            meter: Meter::default(),
            demand: Demand::default(),
            measured: Duration::ZERO,
            refused: BTreeMap::new(),
        };
        self.models.insert(id, model);
        self.rebuild_components();
        id
    }

    /// Changes a model; what was learned and what waits stays.
    pub fn change_model(&mut self, id: ModelId, spec: ModelSpec) {
        if let Some(model) = self.models.get_mut(&id) {
            model.spec = spec;
        }
    }

    /// Forgets a model; what waits for it is dropped, what runs ends.
    pub fn remove_model(&mut self, id: ModelId) {
        let waiting: Vec<_> = self
            .places
            .iter()
            .filter(|(_, (of, _))| *of == id)
            .map(|(ticket, _)| *ticket)
            .collect();
        let mut waiting = waiting;
        waiting.sort_unstable();
        let name = self.models.get(&id).map_or("?", |model| &model.spec.name).to_owned();
        for ticket in waiting {
            let reason = format!("model `{name}` was unloaded");
            self.drop_waiting(ticket, Cause::Unavailable, reason, None);
        }
        let keys: Vec<_> = self.sequences.keys().filter(|key| key.0 == id).cloned().collect();
        for key in keys {
            self.forget_sequence(&key);
        }
        self.models.remove(&id);
        for worker in self.workers.values_mut() {
            worker.spec.models.retain(|model| *model != id);
        }
        self.rebuild_components();
    }

    /// How many jobs with a deadline the workers of a group may run at a time; a job without one
    /// starts only while fewer run in all. Without a limit each worker is for itself.
    pub fn limit_group(&mut self, group: GroupId, slots: Option<usize>) {
        match slots {
            Some(slots) => self.groups.insert(group, slots.max(1)),
            None => self.groups.remove(&group),
        };
    }

    /// What admission adds to every service time: how long a ready thread waits for a processor
    /// at present.
    pub fn set_run_queue_delay(&mut self, delay: Duration) {
        self.run_queue_delay = delay;
    }

    /// Teaches a service time that was measured elsewhere, as by a warm-up.
    pub fn observe(&mut self, now: Duration, model: ModelId, units: u32, took: Duration) {
        if let Some(model) = self.models.get_mut(&model) {
            model.fit.observe(units, took);
            model.measured = now;
        }
    }

    /// A worker is ready. One that is attached already is replaced as if it had been lost.
    pub fn attach(&mut self, now: Duration, id: WorkerId, spec: WorkerSpec) {
        self.detach(now, id);
        let worker = Worker { spec, jobs: Vec::new(), draining: false, sequences: 0 };
        self.workers.insert(id, worker);
        self.rebuild_components();
    }

    /// A worker gets no new work, the sequences that stick to it apart. [`Self::is_idle`] says
    /// when it has done.
    pub fn drain(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.draining = true;
        }
    }

    /// Whether a worker runs nothing and holds no sequence; also of one that is not attached.
    #[must_use]
    pub fn is_idle(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_none_or(|worker| worker.jobs.is_empty() && worker.sequences == 0)
    }

    /// A worker is no more. What ran on it runs once more elsewhere where that is possible, and is
    /// dropped where not.
    pub fn detach(&mut self, now: Duration, id: WorkerId) {
        let Some(worker) = self.workers.remove(&id) else {
            return;
        };
        self.rebuild_components();
        let mut lost = Vec::new();
        for job in &worker.jobs {
            let Some(running) = self.jobs.remove(job) else {
                continue;
            };
            if let Some(model) = self.models.get_mut(&running.job.model) {
                model.meter.ended(now);
            }
            for entry in running.entries {
                self.running.remove(&entry.ticket);
                self.clients.runs_no_more(&entry.client, now);
                if running.cancelled.contains(&entry.ticket) {
                    self.sequence_of_cancelled(now, &entry);
                } else {
                    lost.push(entry);
                }
            }
        }
        for entry in lost {
            self.run_again(now, entry);
        }
        let held: Vec<_> = self
            .sequences
            .iter()
            .filter(|(_, state)| state.worker == Some(id))
            .map(|(key, _)| key.clone())
            .collect();
        for key in held {
            self.sequence_lost(&key);
        }
    }

    fn run_again(&mut self, now: Duration, mut entry: Entry) {
        let expected = self.models.get(&entry.model).map(|model| model.fit.expected(entry.units));
        let in_time = expected.is_some_and(|expected| {
            entry.deadline.is_none_or(|deadline| now + expected <= deadline)
        });
        let fresh = entry.sequence.as_ref().is_none_or(|step| {
            let key = (entry.model, Arc::clone(&step.id));
            self.sequences.get(&key).is_some_and(|state| !state.begun)
        });
        if in_time && fresh && !entry.retried {
            if let Some(step) = &entry.sequence {
                self.sequence_lost(&(entry.model, Arc::clone(&step.id)));
            }
            entry.retried = true;
            self.put_in(now, entry);
            return;
        }
        let why = if entry.retried {
            "two workers ended while they computed it"
        } else if fresh {
            "its worker ended while it ran, and there is no time for another"
        } else {
            "the worker that held its sequence ended; start the sequence anew"
        };
        let name = self.models.get(&entry.model).map_or("", |model| &model.spec.name);
        let reason = format!("model `{name}`: {why}");
        let refusal = Refusal {
            cause: Cause::WorkerLost,
            reason: reason.clone(),
            retry_after: Some(Duration::ZERO),
        };
        self.count(entry.model, Cause::WorkerLost);
        self.events.push_back(Event::Dropped { ticket: entry.ticket, refusal });
        if let Some(step) = &entry.sequence {
            let key = (entry.model, Arc::clone(&step.id));
            self.give_up_sequence(&key, Cause::WorkerLost, &reason);
        }
    }

    /// A job ended. Returns the requests to be answered: all of it but those that were cancelled;
    /// none for a job that is not there any more. `took` teaches the model's service time; absent
    /// for a job that failed.
    pub fn finished(&mut self, now: Duration, id: JobId, took: Option<Duration>) -> Vec<Ticket> {
        let Some(running) = self.jobs.remove(&id) else {
            return Vec::new();
        };
        if let Some(worker) = self.workers.get_mut(&running.job.worker) {
            worker.jobs.retain(|job| *job != id);
        }
        if let Some(model) = self.models.get_mut(&running.job.model) {
            model.meter.ended(now);
            model.measured = now;
            if let Some(took) = took {
                model.fit.observe(running.job.units, took);
            }
        }
        for entry in &running.entries {
            self.running.remove(&entry.ticket);
            self.clients.runs_no_more(&entry.client, now);
            if let Some(step) = &entry.sequence {
                self.sequence_goes_on(now, &(entry.model, Arc::clone(&step.id)), step.end);
            }
        }
        running.job.tickets.into_iter().filter(|t| !running.cancelled.contains(t)).collect()
    }

    /// The client of a request went away.
    pub fn cancel(&mut self, now: Duration, ticket: Ticket) -> Cancelled {
        if let Some(entry) = self.take_out(ticket) {
            self.leave_sequence(&entry);
            self.sequence_of_cancelled(now, &entry);
            return Cancelled::Waiting;
        }
        let Some(running) = self.running.get(&ticket).and_then(|id| self.jobs.get_mut(id)) else {
            return Cancelled::Unknown;
        };
        if !running.cancelled.insert(ticket) {
            return Cancelled::Unknown;
        }
        Cancelled::Running {
            worker: running.job.worker,
            job: running.job.id,
            alone: running.cancelled.len() == running.entries.len(),
        }
    }

    /// A sequence whose last request was cancelled is over.
    fn sequence_of_cancelled(&mut self, now: Duration, entry: &Entry) {
        let Some(step) = &entry.sequence else {
            return;
        };
        let key = (entry.model, Arc::clone(&step.id));
        if let Some(state) = self.sequences.get_mut(&key) {
            if state.in_flight == Some(entry.ticket) {
                state.in_flight = None;
            }
            state.last = now;
            let done = state.waiting.is_empty() && state.in_flight.is_none();
            if done && (step.end || !state.begun) {
                self.forget_sequence(&key);
            }
        }
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.places.len()
    }

    /// Jobs that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.jobs.len()
    }

    /// What a job of a model is thought to take, on average and cautiously.
    #[must_use]
    pub fn service(&self, model: ModelId, units: u32) -> Option<(Duration, Duration)> {
        let fit = &self.models.get(&model)?.fit;
        Some((fit.expected(units), fit.cautious(units)))
    }

    pub(crate) fn slots_of(&self, model: ModelId) -> usize {
        self.workers
            .values()
            .filter(|worker| !worker.draining && worker.spec.models.contains(&model))
            .map(|worker| worker.spec.concurrency.max(1))
            .sum()
    }

    pub(crate) fn can_run(&self, worker: WorkerId, model: ModelId) -> bool {
        self.workers.get(&worker).is_some_and(|worker| worker.spec.models.contains(&model))
    }

    pub(crate) fn fresh_ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    pub(crate) fn fresh_job(&mut self) -> JobId {
        self.next_job += 1;
        JobId(self.next_job)
    }

    pub(crate) fn count(&mut self, model: ModelId, cause: Cause) {
        if let Some(model) = self.models.get_mut(&model) {
            *model.refused.entry(cause).or_default() += 1;
        }
    }

    /// The deadline of a request that waits or runs; the outer absence says that there is none.
    pub(crate) fn deadline_of(&self, ticket: Ticket) -> Option<Option<Duration>> {
        if let Some((model, place)) = self.places.get(&ticket) {
            return Some(self.models.get(model)?.lane.get(place)?.deadline);
        }
        let running = self.jobs.get(self.running.get(&ticket)?)?;
        Some(running.entries.iter().find(|entry| entry.ticket == ticket)?.deadline)
    }

    pub(crate) fn key_of(&self, ticket: Ticket) -> Option<Key> {
        let (model, place) = self.places.get(&ticket)?;
        Some(self.models.get(model)?.lane.get(place)?.key)
    }

    /// Gives a waiting request an earlier place; says whether it was later.
    pub(crate) fn hurry(&mut self, ticket: Ticket, deadline: Duration) -> bool {
        let Some((id, place)) = self.places.get_mut(&ticket) else {
            return false;
        };
        let Some(model) = self.models.get_mut(id) else {
            return false;
        };
        if model.lane.get(place).is_none_or(|entry| entry.key.deadline <= deadline) {
            return false;
        }
        let Some(mut entry) = model.lane.remove(place) else {
            return false;
        };
        entry.key.deadline = deadline;
        *place = entry.place();
        model.lane.insert(entry);
        true
    }

    /// Puts a request among those that wait.
    pub(crate) fn put_in(&mut self, now: Duration, entry: Entry) {
        let Some(model) = self.models.get_mut(&entry.model) else {
            return;
        };
        self.bytes += entry.bytes;
        self.clients.waits(&entry.client, entry.bytes, now);
        self.places.insert(entry.ticket, (entry.model, entry.place()));
        model.lane.insert(entry);
    }

    /// Takes a request from among those that wait; its sequence still names it.
    pub(crate) fn take_out(&mut self, ticket: Ticket) -> Option<Entry> {
        let (model, place) = self.places.remove(&ticket)?;
        let entry = self.models.get_mut(&model)?.lane.remove(&place)?;
        self.bytes -= entry.bytes;
        self.clients.waits_no_more(&entry.client, entry.bytes);
        Some(entry)
    }

    /// Takes a request that was taken out off its sequence. The next one starts the sequence if
    /// this one was to.
    pub(crate) fn leave_sequence(&mut self, entry: &Entry) {
        let Some(step) = &entry.sequence else {
            return;
        };
        let key = (entry.model, Arc::clone(&step.id));
        let Some(state) = self.sequences.get_mut(&key) else {
            return;
        };
        let Some(at) = state.waiting.iter().position(|ticket| *ticket == entry.ticket) else {
            return;
        };
        state.waiting.remove(at);
        if step.end {
            state.ending = false;
        }
        if state.waiting.is_empty() && state.in_flight.is_none() && !state.begun {
            // Nobody knows anything of it: the next request has to start it.
            self.forget_sequence(&key);
            return;
        }
        if step.start
            && let Some(next) = state.waiting.get(at).copied()
        {
            self.starts_sequence(next);
        }
    }

    /// Makes a waiting request the first of its sequence.
    pub(crate) fn starts_sequence(&mut self, ticket: Ticket) {
        if let Some((model, place)) = self.places.get(&ticket)
            && let Some(entry) = self.models.get_mut(model).and_then(|m| m.lane.get_mut(place))
            && let Some(step) = &mut entry.sequence
        {
            step.start = true;
        }
    }

    /// Drops a request that waits.
    pub(crate) fn drop_waiting(
        &mut self,
        ticket: Ticket,
        cause: Cause,
        reason: String,
        retry_after: Option<Duration>,
    ) {
        let Some(entry) = self.take_out(ticket) else {
            return;
        };
        self.leave_sequence(&entry);
        self.count(entry.model, cause);
        let refusal = Refusal { cause, reason, retry_after };
        self.events.push_back(Event::Dropped { ticket, refusal });
    }

    /// A job starts.
    pub(crate) fn set_off(&mut self, now: Duration, running: Running) {
        let id = running.job.id;
        for entry in &running.entries {
            self.running.insert(entry.ticket, id);
            self.clients.runs(&entry.client);
        }
        if let Some(model) = self.models.get_mut(&running.job.model) {
            model.meter.started(now);
        }
        if let Some(worker) = self.workers.get_mut(&running.job.worker) {
            worker.jobs.push(id);
        }
        self.events.push_back(Event::Start(running.job.clone()));
        self.jobs.insert(id, running);
    }
}
