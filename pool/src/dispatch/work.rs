//! Work on its way to a worker, and its answer on its way back.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use downbeat_link::Tensor;
use downbeat_queue::{Event, Job, JobId, Step, Ticket, WorkerId};
use tracing::warn;

use super::{Dispatcher, Handle, Link, Pending, Running, State, Work, answer};
use crate::adapters::AdapterError;
use crate::inference::{Refusal, Request, Sequence};

impl Dispatcher {
    /// Does what the queue wants done.
    pub(super) fn pump(&self, state: &mut State) {
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
        let Some(worker) = state.workers.get(&job.worker) else {
            return;
        };
        let started = Instant::now();
        let (mut works, mut refused) = (Vec::with_capacity(job.tickets.len()), Vec::new());
        let mut left = BTreeSet::new();
        for ticket in &job.tickets {
            let Some(Pending { work, deadline, .. }) = state.pending.get(ticket) else { continue };
            left.insert(*ticket);
            if worker.link.takes(work) {
                works.push((*ticket, Arc::clone(work), *deadline));
            } else {
                refused.push((*ticket, declared_anew()));
            }
        }
        let size = left.len();
        let mut running =
            Running { worker: job.worker, started, size, left, failed: false, task: None };
        match &worker.link {
            Link::Channel(sender) => refused.extend(sender.start(&works, job.sequence.as_ref())),
            Link::Adapter(adapter) => {
                let (adapter, dispatcher) = (Arc::clone(adapter), Arc::downgrade(&self.0));
                let (id, worker, step) = (job.id, job.worker, job.sequence.clone());
                let task = tokio::spawn(async move {
                    for (ticket, work, _) in works {
                        let request = as_in_its_sequence(&work.request, step.as_ref());
                        let outcome = adapter.infer(&request).await;
                        let Some(dispatcher) = dispatcher.upgrade().map(Dispatcher) else {
                            return;
                        };
                        let outcome = match outcome {
                            Ok(outputs) => Ok(outputs),
                            Err(AdapterError::Refused(refusal)) => Err(refusal),
                            Err(AdapterError::Lost(reason)) => {
                                let model = &work.request.model;
                                warn!(
                                    worker = model,
                                    "an instance is not there any more: {reason}"
                                );
                                return dispatcher.detach(Handle(worker));
                            }
                        };
                        dispatcher.completed(id, ticket, outcome, started.elapsed());
                    }
                });
                running.task = Some(task.abort_handle());
            }
        }
        state.jobs.insert(job.id, running);
        for (ticket, refusal) in refused {
            self.complete(state, job.id, ticket, Err(refusal), Duration::ZERO);
        }
    }

    /// A request of a job is answered by its worker, which computed for so long.
    pub(super) fn completed(
        &self,
        job: JobId,
        ticket: Ticket,
        outcome: Result<Vec<Tensor>, Refusal>,
        computed: Duration,
    ) {
        let mut state = self.lock();
        self.complete(&mut state, job, ticket, outcome, computed);
        self.pump(&mut state);
    }

    fn complete(
        &self,
        state: &mut State,
        job: JobId,
        ticket: Ticket,
        outcome: Result<Vec<Tensor>, Refusal>,
        computed: Duration,
    ) {
        let Some(running) = state.jobs.get_mut(&job) else {
            return;
        };
        if !running.left.remove(&ticket) {
            return;
        }
        running.failed |= outcome.is_err();
        let (size, over) = (running.size, running.left.is_empty());
        let (worker, started, failed) = (running.worker, running.started, running.failed);
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
        } else {
            // It is answered: should the worker die, the others run again and it does not.
            state.queue.cancel(now, ticket);
        }
    }

    /// Finds the job of a request that a channel's worker names.
    pub(super) fn job_of(&self, worker: WorkerId, ticket: Ticket) -> Option<JobId> {
        let state = self.lock();
        let found =
            state.jobs.iter().find(|(_, it)| it.worker == worker && it.left.contains(&ticket));
        found.map(|(id, _)| *id)
    }
}

impl Link {
    /// Whether a request that was made ready for a worker of its model can be given to this one:
    /// the model may have been declared anew while it waited.
    fn takes(&self, work: &Work) -> bool {
        match self {
            Self::Channel(_) => work.package.is_some(),
            Self::Adapter(_) => work.request.shared.is_empty(),
        }
    }
}

/// A request that came in the middle of a sequence begins it where all before it were given up.
fn as_in_its_sequence<'a>(request: &'a Request, step: Option<&Step>) -> Cow<'a, Request> {
    let mut request = Cow::Borrowed(request);
    if let (Some(step), Some(own)) = (step, &request.terms.sequence)
        && own.start != step.start
    {
        let begun = Sequence { start: step.start, ..own.clone() };
        request.to_mut().terms.sequence = Some(begun);
    }
    request
}

fn declared_anew() -> Refusal {
    let text =
        "another kind of worker was declared for the model while the request waited; ask again";
    Refusal::Unavailable(text.into())
}
