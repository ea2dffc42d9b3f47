//! A request on its way in: taken by the queue or refused, and given up when its caller goes away.

use std::sync::Arc;
use std::time::Instant;

use downbeat_link::Package;
use downbeat_queue::{Cancelled, Offer, Step, Ticket};
use tokio::sync::oneshot;

use super::declaration::{batch_key, units};
use super::{Dispatcher, Link, Pending, State, Work, Worker, answer, unknown};
use crate::inference::{Refusal, Request, Response};

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
    /// Answers a request. To drop the future is to cancel it.
    ///
    /// # Errors
    /// Every [`Refusal`].
    pub async fn infer(&self, mut request: Request) -> Result<Response, Refusal> {
        let name = request.model.clone();
        let (channel, batching) = {
            let mut state = self.lock();
            state.unnamed += u64::from(request.id.is_empty());
            let number = state.unnamed;
            let model = state.models.get(&name).ok_or_else(|| unknown(&name))?;
            if request.id.is_empty() && !model.declaration.channel {
                // An external worker may ask others on its behalf, and has to call it something.
                request.id = format!("downbeat-{}-{number}", std::process::id());
            }
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
        let package =
            channel.then(|| Package::with(request.inputs.clone(), &request.shared)).transpose();
        let package = package.map_err(|error| Refusal::Invalid(error.to_string()))?;
        let (answer, mut answered) = oneshot::channel();
        let ticket = self.submit(Work { request, package }, batching, answer)?;
        let mut guard = Guard { dispatcher: self, ticket, armed: true };
        let outcome = (&mut answered).await;
        guard.armed = false;
        outcome.unwrap_or_else(|_| Err(Refusal::Failed("the request was lost; try again".into())))
    }

    /// Whether the workers of a model, and of the cheaper ones that may take its place, read inputs
    /// where their client shares them.
    #[must_use]
    pub fn reads_shared(&self, model: &str) -> bool {
        let state = self.lock();
        let mut next = Some(model);
        // No more than there are, should they lead in a circle.
        for _ in 0..state.models.len() {
            let Some(name) = next else { break };
            let Some(model) = state.models.get(name).filter(|it| it.declaration.channel) else {
                return false;
            };
            next = model.declaration.cheaper.as_deref();
        }
        true
    }

    /// When the answer to a request that waits or runs is of no use any more; nothing inside where it
    /// has no deadline.
    ///
    /// # Errors
    /// [`Refusal::Expired`] where no request goes by this id.
    pub fn deadline_of(&self, id: &str) -> Result<Option<Instant>, Refusal> {
        let state = self.lock();
        let ticket = state.named(id)?;
        Ok(state.pending.get(&ticket).and_then(|pending| pending.deadline))
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
        let parent = terms.parent.as_ref().map(|id| state.named(id)).transpose()?;
        let Some(model) = state.models.get(&work.request.model) else {
            return Err(unknown(&work.request.model));
        };
        let own = model.declaration.deadline;
        let deadline = terms.deadline.or_else(|| Some(terms.arrival + own?));
        let offer = Offer {
            model: model.id,
            client: terms.client.as_str().into(),
            deadline: deadline.map(since),
            priority: terms.priority,
            units: units(&model.declaration, batching, &work.request),
            bytes: work.request.outlines().map(|input| input.bytes).sum(),
            batch_key: batching.then(|| batch_key(&work.request)),
            sequence: terms.sequence.as_ref().map(|sequence| Step {
                id: sequence.id.as_str().into(),
                start: sequence.start,
                end: sequence.end,
            }),
            parent,
        };
        let arrival = terms.arrival;
        let admitted = match state.queue.offer(self.now(), offer) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.pump(state);
                return Err(answer::refusal(refusal));
            }
        };
        // The queue may have found an earlier one: that of the request on whose behalf this is made.
        let deadline = admitted.deadline.map(|deadline| self.0.start + deadline);
        let pending = Pending { answer, work: Arc::new(work), arrival, deadline };
        state.pending.insert(admitted.ticket, pending);
        self.pump(state);
        Ok(admitted.ticket)
    }

    /// The caller of a request went away.
    fn cancel(&self, ticket: Ticket) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.pending.remove(&ticket);
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
        self.pump(state);
    }
}

impl State {
    /// The request that goes by an id. Clients choose their ids, so several may: then that with the
    /// earliest deadline, which is in time for all of them.
    fn named(&self, id: &str) -> Result<Ticket, Refusal> {
        let of_that_name = self.pending.iter().filter(|(_, it)| it.work.request.id == id);
        let found = of_that_name
            .min_by_key(|(ticket, it)| (it.deadline.is_none(), it.deadline, **ticket))
            .map(|(ticket, _)| *ticket);
        found.ok_or_else(|| {
            Refusal::Expired(format!(
                "the request `{id}`, on whose behalf this one is made (`parent`), does not wait and \
                 does not run: it was answered or given up, or never came"
            ))
        })
    }
}
