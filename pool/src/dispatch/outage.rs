//! A model whose workers are down for good.

use std::collections::BTreeSet;

use downbeat_queue::Ticket;

use super::Dispatcher;
use crate::inference::Refusal;

impl Dispatcher {
    /// Refuses what waits for a model that no worker will come up for. What runs is answered.
    pub fn refuse_waiting(&self, model: &str, reason: &str) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let running: BTreeSet<Ticket> =
            state.jobs.values().flat_map(|job| job.left.iter().copied()).collect();
        let waits = |ticket: &Ticket| !running.contains(ticket);
        let of_model = state.pending.iter().filter(|(_, it)| it.work.request.model == model);
        let tickets: Vec<Ticket> = of_model.map(|(ticket, _)| *ticket).filter(waits).collect();
        for ticket in &tickets {
            state.queue.cancel(self.now(), *ticket);
            let reason = format!("model `{model}`: {reason}");
            state.answer(*ticket, Err(Refusal::Unavailable(reason)));
        }
        if !tickets.is_empty() {
            self.pump(state);
        }
    }
}
