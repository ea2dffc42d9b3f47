//! Over one request, from the door to its end.

use std::time::Instant;

use tracing::debug;

use super::models::Models;
use super::statistics::Over;
use super::trace;
use crate::inference::{Refusal, Request, Response, Terms};

/// Counts and logs one request, also one whose future is dropped.
pub(super) struct Watch {
    models: Models,
    model: String,
    /// With the deadline that it inherited, once that is known.
    pub terms: Terms,
    counted: bool,
}

impl Watch {
    pub fn over(models: &Models, request: &Request) -> Self {
        let (model, terms) = (request.model.clone(), request.terms.clone());
        Self { models: models.clone(), model, terms, counted: false }
    }

    pub fn done(&mut self, outcome: &Result<Response, Refusal>) {
        self.counted = true;
        let backend = self.models.backend();
        let (arrival, now) = (self.terms.arrival, Instant::now());
        let spent = now.saturating_duration_since(arrival);
        let own = || {
            let snapshot = backend.view.lock();
            snapshot.models.get(&self.model).and_then(|model| model.deadline)
        };
        let asked = self.terms.deadline.map(|it| it.saturating_duration_since(arrival));
        let over = Over { at: now, spent, deadline: asked.or_else(own) };
        backend.statistics.count(&self.model, &over, outcome);
        let (model, client) = (&self.model, &self.terms.client);
        let trace = self.terms.traceparent.as_deref().and_then(trace::ids);
        let (trace_id, parent_id) = trace.unzip();
        match outcome {
            Ok(answer) => debug!(
                trace_id, parent_id, model, client, ?spent,
                queued = ?answer.spent.queued, computed = ?answer.spent.computed,
                batch = answer.spent.batch, "answered"
            ),
            Err(refusal) => {
                debug!(trace_id, parent_id, model, client, ?spent, "not answered: {refusal}");
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.counted {
            self.done(&Err(Refusal::Cancelled));
        }
    }
}
