//! Answers: the queue's and the workers'.

use std::time::{Duration, Instant};

use downbeat_link::Tensor;
use downbeat_queue::{Cause, Ticket};

use super::State;
use crate::inference::{Refusal, Response, Spent};

/// For refusals that do not say when to come again.
const LATER: Duration = Duration::from_secs(1);

/// The queue's refusal for the client.
pub(crate) fn refusal(refusal: downbeat_queue::Refusal) -> Refusal {
    let downbeat_queue::Refusal { cause, reason, retry_after } = refusal;
    match cause {
        Cause::UnknownModel => Refusal::NotFound(reason),
        Cause::Unavailable => Refusal::Unavailable(reason),
        Cause::Late | Cause::Full | Cause::ClientShare | Cause::Shed => {
            Refusal::Full { cause, reason, retry_after: retry_after.unwrap_or(LATER) }
        }
        Cause::Expired => Refusal::Expired(reason),
        Cause::Sequence => Refusal::Invalid(reason),
        Cause::WorkerLost => Refusal::Failed(reason),
    }
}

impl State {
    /// Answers a request that was never computed.
    pub fn answer(&mut self, ticket: Ticket, outcome: Result<Response, Refusal>) {
        let Some(pending) = self.pending.remove(&ticket) else {
            return;
        };
        // A caller that is gone has no use for it.
        let _ = pending.answer.send(outcome);
    }

    /// Answers a request that its worker computed.
    pub fn respond(
        &mut self,
        ticket: Ticket,
        outcome: Result<Vec<Tensor>, Refusal>,
        version: String,
        batch: usize,
        started: Instant,
        computed: Duration,
    ) {
        let outputs = match outcome {
            Ok(outputs) => outputs,
            Err(refusal) => return self.answer(ticket, Err(refusal)),
        };
        let Some(pending) = self.pending.remove(&ticket) else {
            return;
        };
        let queued = started.saturating_duration_since(pending.arrival);
        let spent = Spent { queued, computed, batch, sound: None };
        let _ = pending.answer.send(Ok(Response { version, outputs, spent }));
    }
}
