//! Which work starts next, where, and with whom in one batch.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::edf::{Entry, Place};
use crate::queue::{Queue, Running, Worker};
use crate::request::{Cause, Event, Job, ModelId, WorkerId, brief};
use crate::sequence::SequenceKey;

/// How often what is late but must not be dropped is looked at.
const LATE_CHECK: Duration = Duration::from_millis(100);

/// What may start.
struct Choice {
    place: Place,
    model: ModelId,
    worker: WorkerId,
}

impl Queue {
    /// What is to be done now; to be called until it returns nothing, after every other call and
    /// at [`Self::next_due`].
    pub fn poll(&mut self, now: Duration) -> Option<Event> {
        if self.events.is_empty() {
            self.drop_expired(now);
            self.forget_idle_sequences(now);
        }
        while self.events.is_empty() && self.start_one(now) {}
        self.events.pop_front()
    }

    /// When to poll again even if nothing happens; nothing where that is not needed.
    #[must_use]
    pub fn next_due(&self, now: Duration) -> Option<Duration> {
        let expiries = self.models.values().filter_map(|model| {
            let (key, _) = model.lane.urgent.first_key_value()?;
            Some(if key.deadline > now { key.deadline } else { now + LATE_CHECK })
        });
        let idle = (!self.sequences.is_empty()).then_some(self.idle_check);
        let held = self.workers.keys().flat_map(|&worker| self.expected_on(now, worker));
        let held = held.filter(|_| self.waiting() > 0).map(|expected| expected.until);
        expiries.chain(idle).chain(held).min()
    }

    /// Starts or drops one request; says whether it did either.
    fn start_one(&mut self, now: Duration) -> bool {
        for urgent in [true, false] {
            // Who has its share of what runs lets others go first, and goes where there are none.
            for shared in [true, false] {
                let choice = if urgent {
                    self.choose_urgent(now, shared)
                } else {
                    self.choose_background(now, shared)
                };
                if let Some(choice) = choice {
                    self.start(now, &choice);
                    return true;
                }
            }
        }
        false
    }

    fn choose_urgent(&self, now: Duration, shared: bool) -> Option<Choice> {
        let mut best: Option<(_, Choice)> = None;
        for (&id, model) in &self.models {
            if model.lane.urgent.is_empty() || !self.has_free_worker(id, true) {
                continue;
            }
            for (key, entry) in &model.lane.urgent {
                if best.as_ref().is_some_and(|(least, _)| least < key) {
                    break;
                }
                if shared && self.has_its_share(entry) {
                    continue;
                }
                if let Some(worker) = self.worker_for(now, entry, true) {
                    best = Some((*key, Choice { place: Place::Urgent(*key), model: id, worker }));
                    break;
                }
            }
        }
        best.map(|(_, choice)| choice)
    }

    fn choose_background(&self, now: Duration, shared: bool) -> Option<Choice> {
        let mut best: Option<((Duration, u64, _), Choice)> = None;
        for (&id, model) in &self.models {
            if model.lane.background.is_empty() || !self.has_free_worker(id, false) {
                continue;
            }
            for (client, entries) in &model.lane.background {
                let found = entries.iter().find_map(|(key, entry)| {
                    if shared && self.has_its_share(entry) {
                        return None;
                    }
                    Some((*key, self.worker_for(now, entry, false)?))
                });
                let Some((key, worker)) = found else {
                    continue;
                };
                let rank = (self.clients.served(client), key.0, key.1);
                if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                    let place = Place::Background(Arc::clone(client), key);
                    best = Some((rank, Choice { place, model: id, worker }));
                }
            }
        }
        best.map(|(_, choice)| choice)
    }

    fn has_its_share(&self, entry: &Entry) -> bool {
        let slots = self.components.get(&entry.model).map_or(1, |component| {
            component
                .workers
                .iter()
                .filter_map(|id| self.workers.get(id))
                .map(|worker| worker.spec.concurrency.max(1))
                .sum()
        });
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a part of a number of workers"
        )]
        let share = ((slots as f64 * self.limits.client_share).ceil() as usize).max(1);
        self.clients.get(&entry.client).is_some_and(|client| client.running >= share)
    }

    fn has_free_worker(&self, model: ModelId, urgent: bool) -> bool {
        self.workers
            .values()
            .any(|worker| worker.spec.models.contains(&model) && self.is_free(worker, urgent))
    }

    fn is_free(&self, worker: &Worker, urgent: bool) -> bool {
        if worker.jobs.len() >= worker.spec.concurrency.max(1) {
            return false;
        }
        let Some(group) = worker.spec.group else {
            return true;
        };
        let Some(&slots) = self.groups.get(&group) else {
            return true;
        };
        let running = self
            .workers
            .values()
            .filter(|other| other.spec.group == Some(group))
            .flat_map(|other| &other.jobs)
            .filter(|id| !urgent || self.jobs.get(id).is_some_and(|running| running.urgent))
            .count();
        running < slots
    }

    /// Where a request may start now.
    fn worker_for(&self, now: Duration, entry: &Entry, urgent: bool) -> Option<WorkerId> {
        if let Some(step) = &entry.sequence {
            let state = self.sequences.get(&(entry.model, Arc::clone(&step.id)))?;
            if state.in_flight.is_some() || state.waiting.front() != Some(&entry.ticket) {
                return None;
            }
            if let Some(id) = state.worker {
                return self.is_free(self.workers.get(&id)?, urgent).then_some(id);
            }
        }
        // Those that hold sequences are left free for these as long as there are others.
        self.workers
            .iter()
            .filter(|(_, worker)| {
                !worker.draining
                    && worker.spec.models.contains(&entry.model)
                    && self.is_free(worker, urgent)
            })
            .filter(|(id, worker)| {
                worker.sequences == 0 || !self.would_be_in_the_way(now, entry, **id)
            })
            .min_by_key(|(id, worker)| (worker.sequences, worker.jobs.len(), **id))
            .map(|(id, _)| *id)
    }

    /// Whether a request would make the next piece of an utterance late that sticks to the worker,
    /// and can wait: it is in time after that piece as well, or on another worker.
    fn would_be_in_the_way(&self, now: Duration, entry: &Entry, worker: WorkerId) -> bool {
        let Some(model) = self.models.get(&entry.model).filter(|_| entry.sequence.is_none()) else {
            return false;
        };
        let takes = model.fit.cautious(entry.units);
        let elsewhere = || {
            self.workers.iter().any(|(id, other)| {
                *id != worker
                    && !other.draining
                    && other.sequences == 0
                    && other.spec.models.contains(&entry.model)
            })
        };
        self.expected_on(now, worker).any(|expected| {
            let collides = now + takes > expected.latest_start;
            let can_wait = match entry.deadline {
                Some(deadline) => {
                    expected.until.max(expected.at + expected.takes) + takes <= deadline
                }
                None => elsewhere(),
            };
            collides && can_wait
        })
    }

    fn start(&mut self, now: Duration, choice: &Choice) {
        let Some(model) = self.models.get(&choice.model) else {
            return;
        };
        let Some(first) = model.lane.get(&choice.place).cloned() else {
            return;
        };
        let sequence = first.sequence.as_ref().map(|step| &step.id);
        let expected = model.fit.expected(first.units);
        let sure = first.probe || self.is_protected(choice.model, sequence);
        if let Some(deadline) = first.deadline
            && now + expected > deadline
            && !sure
        {
            let reason = format!(
                "it takes {} and its deadline is in {}; it was not begun",
                brief(expected),
                brief(deadline.saturating_sub(now))
            );
            self.expire(first.ticket, Cause::Late, reason);
            return;
        }
        let batch = self.batch(now, &first, choice.worker);
        let mut entries = Vec::with_capacity(batch.len());
        for ticket in batch {
            entries.extend(self.take_out(ticket));
        }
        if let Some(step) = &first.sequence {
            self.sequence_starts(&(choice.model, Arc::clone(&step.id)), choice.worker);
        }
        let units = entries.iter().map(|entry| entry.units).sum();
        let urgent = first.deadline.is_some();
        if !urgent {
            let cost = self.service(choice.model, units).map(|(mean, _)| mean).unwrap_or_default();
            for entry in &entries {
                let part = cost.mul_f64(f64::from(entry.units) / f64::from(units.max(1)));
                self.clients.serve(&entry.client, part.max(Duration::from_nanos(1)));
            }
        }
        let job = Job {
            id: self.fresh_job(),
            worker: choice.worker,
            model: choice.model,
            tickets: entries.iter().map(|entry| entry.ticket).collect(),
            units,
            deadline: entries.iter().filter_map(|entry| entry.deadline).min(),
            sequence: first.sequence,
        };
        let cancelled = BTreeSet::new();
        self.set_off(now, Running { job, started: now, urgent, entries, cancelled });
    }

    fn sequence_starts(&mut self, key: &SequenceKey, worker: WorkerId) {
        let Some(state) = self.sequences.get_mut(key) else {
            return;
        };
        state.in_flight = state.waiting.pop_front();
        if state.worker.replace(worker).is_none()
            && let Some(worker) = self.workers.get_mut(&worker)
        {
            worker.sequences += 1;
        }
    }

    /// The sequence that a waiting request begins, where it is an utterance.
    pub(crate) fn starts_utterance(&self, ticket: crate::Ticket) -> Option<SequenceKey> {
        let (key, state) =
            self.sequences.iter().find(|(_, state)| state.waiting.front() == Some(&ticket))?;
        let audio = self.models.get(&key.0)?.spec.media == crate::Media::Audio;
        (audio && !state.begun && state.in_flight.is_none()).then(|| key.clone())
    }
}
