//! Requests that are computed together: as many as the model takes, as long as every one of them,
//! and the most urgent request of each other model of the worker, stays in time.

use std::time::Duration;

use crate::edf::Entry;
use crate::queue::Queue;
use crate::request::{Ticket, WorkerId};

impl Queue {
    /// The batch that begins with `first`: `first` and those that go with it.
    pub(crate) fn batch(&self, now: Duration, first: &Entry, worker: WorkerId) -> Vec<Ticket> {
        let mut tickets = vec![first.ticket];
        let Some(model) = self.models.get(&first.model) else {
            return tickets;
        };
        if first.batch_key.is_none() || first.sequence.is_some() || model.spec.max_batch < 2 {
            return tickets;
        }
        let bound = self.latest_end(now, first, worker);
        let (mut units, mut deadline) =
            (first.units, first.deadline.unwrap_or(Duration::MAX).min(bound));
        let urgent = first.deadline.is_some();
        let mut others: Vec<&Entry> = if urgent {
            model.lane.urgent.values().collect()
        } else {
            model.lane.background.values().flat_map(|entries| entries.values()).collect()
        };
        if !urgent {
            // The same order in which they would start one by one.
            others.sort_by_key(|entry| {
                (self.clients.served(&entry.client), entry.key.priority, entry.ticket)
            });
        }
        for entry in others {
            if entry.ticket == first.ticket
                || entry.batch_key != first.batch_key
                || entry.sequence.is_some()
            {
                continue;
            }
            let grown = units + entry.units;
            if grown > model.spec.max_batch {
                break;
            }
            let due = deadline.min(entry.deadline.unwrap_or(Duration::MAX));
            if now + model.fit.cautious(grown) + self.run_queue_delay > due {
                break;
            }
            (units, deadline) = (grown, due);
            tickets.push(entry.ticket);
        }
        tickets
    }

    /// When the worker must be free again for what other models have waiting on it. A background
    /// batch also ends soon enough for a request that may come.
    fn latest_end(&self, now: Duration, first: &Entry, worker: WorkerId) -> Duration {
        let utterances = self.expected_on(now, worker).map(|expected| expected.latest_start).min();
        let Some(worker) = self.workers.get(&worker) else {
            return Duration::MAX;
        };
        let served = worker.spec.models.iter().filter_map(|id| Some((id, self.models.get(id)?)));
        let mut bound = utterances.unwrap_or(Duration::MAX);
        for (id, model) in served {
            if *id != first.model
                && let Some(head) = model.lane.urgent.values().next()
            {
                let start = head.key.deadline.saturating_sub(model.fit.cautious(head.units));
                bound = bound.min(start.max(now));
            }
            if first.deadline.is_none()
                && let Some(usual) = model.spec.deadline
            {
                bound = bound.min(now + usual / 2);
            }
        }
        bound
    }
}
