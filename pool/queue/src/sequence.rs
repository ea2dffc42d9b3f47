//! Sequences: their requests go to one worker, in order, one at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::queue::Queue;
use crate::request::{Cause, Event, Media, ModelId, Refusal, Ticket, WorkerId};

pub(crate) type SequenceKey = (ModelId, Arc<str>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Sequence {
    /// Where it is; chosen when its first request starts.
    pub worker: Option<WorkerId>,
    pub waiting: VecDeque<Ticket>,
    pub in_flight: Option<Ticket>,
    /// A request of it was answered, so its worker knows something that no other does.
    pub begun: bool,
    /// Its last request was taken.
    pub ending: bool,
    /// When something of it last came or ended.
    pub last: Duration,
    last_arrival: Option<Duration>,
    /// Between its requests, and from each to its deadline.
    rhythm: Option<Rhythm>,
}

/// What is known of the next request of a sequence.
#[derive(Clone, Copy, Debug)]
struct Rhythm {
    interval: Duration,
    slack: Duration,
    units: u32,
}

/// A request that is expected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// When.
    pub at: Duration,
    /// When it counts as not coming.
    pub until: Duration,
    /// When it must start to be in time.
    pub latest_start: Duration,
    /// What it takes, cautiously.
    pub takes: Duration,
}

/// What an open sequence of a model takes of a worker, on average.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demand {
    part: f64,
    seen: u64,
}

impl Demand {
    fn observe(&mut self, part: f64) {
        let new = if self.seen < 16 { 0.3 } else { 0.05 };
        self.part = if self.seen == 0 { part } else { self.part * (1.0 - new) + part * new };
        self.seen += 1;
    }
}

/// An utterance that said nothing for so long takes nothing of its worker.
const SILENT: Duration = Duration::from_secs(1);
/// What of its workers a model's utterances may take together.
const FILLED: f64 = 0.95;

impl Queue {
    /// A request of a sequence is taken.
    pub(crate) fn sequence_grows(
        &mut self,
        now: Duration,
        key: &SequenceKey,
        ticket: Ticket,
        end: bool,
        slack: Option<Duration>,
        units: u32,
    ) {
        let state = self.sequences.entry(key.clone()).or_default();
        let before = state.last_arrival.replace(now);
        state.waiting.push_back(ticket);
        state.ending = end;
        state.last = now;
        if let (Some(before), Some(slack), Some(model)) =
            (before, slack, self.models.get_mut(&key.0))
        {
            let passed = now.saturating_sub(before);
            let interval = state.rhythm.map_or(passed, |known| known.interval * 7 / 8 + passed / 8);
            state.rhythm = Some(Rhythm { interval, slack, units });
            // Pieces sent in one go are as dense as their deadlines, not as their arrivals.
            let interval = now.saturating_sub(before).max(slack).as_secs_f64().max(1e-6);
            model.demand.observe((model.fit.expected(units).as_secs_f64() / interval).min(1.0));
        }
        // One behind that is due earlier makes those before it as urgent as itself.
        if let Some(place) = self.key_of(ticket) {
            let ahead: Vec<_> = self.sequences[key].waiting.iter().rev().skip(1).copied().collect();
            for ticket in ahead {
                if !self.hurry(ticket, place.deadline) {
                    break;
                }
            }
        }
    }

    /// The next pieces of the utterances that stick to a worker, where that has nothing of them.
    pub(crate) fn expected_on(
        &self,
        now: Duration,
        worker: WorkerId,
    ) -> impl Iterator<Item = Expected> {
        let has_any = self.workers.get(&worker).is_some_and(|found| found.sequences > 0);
        let all = has_any.then(|| self.sequences.iter()).into_iter().flatten();
        all.filter_map(move |((id, _), state)| {
            let quiet = state.waiting.is_empty() && state.in_flight.is_none() && !state.ending;
            if state.worker != Some(worker) || !quiet {
                return None;
            }
            let model = self.models.get(id).filter(|m| m.spec.media == Media::Audio)?;
            let rhythm = state.rhythm?;
            let at = state.last_arrival? + rhythm.interval;
            let until = at + rhythm.interval / 4;
            let takes = model.fit.cautious(rhythm.units);
            let latest_start = (at + rhythm.slack).saturating_sub(takes);
            (until > now).then_some(Expected { at, until, latest_start, takes })
        })
    }

    /// Whether one more utterance would be more than the model's workers can keep up with.
    pub(crate) fn too_many_utterances(&self, now: Duration, model: ModelId) -> bool {
        let Some(found) = self.models.get(&model) else {
            return false;
        };
        let open = self
            .sequences
            .range((model, Arc::from(""))..)
            .take_while(|((of, _), _)| *of == model)
            .filter(|(_, state)| !state.ending && state.last + SILENT > now)
            .count();
        #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
        let (wanted, have) =
            ((open + 1) as f64 * found.demand.part, self.slots_of(model) as f64 * FILLED);
        open > 0 && found.demand.seen > 4 && wanted > have
    }

    /// Whether a request must not be shed: a later piece of an utterance that began.
    pub(crate) fn is_protected(&self, model: ModelId, sequence: Option<&Arc<str>>) -> bool {
        let audio = self.models.get(&model).is_some_and(|found| found.spec.media == Media::Audio);
        audio
            && sequence.is_some_and(|id| {
                self.sequences
                    .get(&(model, Arc::clone(id)))
                    .is_some_and(|state| state.begun || state.in_flight.is_some())
            })
    }

    /// A request of a sequence ended on its worker.
    pub(crate) fn sequence_goes_on(&mut self, now: Duration, key: &SequenceKey, end: bool) {
        let Some(state) = self.sequences.get_mut(key) else {
            return;
        };
        state.in_flight = None;
        state.begun = true;
        state.last = now;
        if end && state.waiting.is_empty() {
            self.forget_sequence(key);
        }
    }

    pub(crate) fn forget_sequence(&mut self, key: &SequenceKey) -> Option<Sequence> {
        let state = self.sequences.remove(key)?;
        if let Some(worker) = state.worker.and_then(|id| self.workers.get_mut(&id)) {
            worker.sequences = worker.sequences.saturating_sub(1);
        }
        Some(state)
    }

    /// Gives up what waits of a sequence, and the sequence.
    pub(crate) fn give_up_sequence(&mut self, key: &SequenceKey, cause: Cause, reason: &str) {
        let Some(state) = self.forget_sequence(key) else {
            return;
        };
        for ticket in &state.waiting {
            if self.take_out(*ticket).is_some() {
                let refusal =
                    Refusal { cause, reason: reason.to_owned(), retry_after: Some(Duration::ZERO) };
                self.events.push_back(Event::Dropped { ticket: *ticket, refusal });
            }
        }
        if let Some(worker) = state.worker {
            let (model, id) = key.clone();
            self.events.push_back(Event::SequenceClosed { worker, model, id });
        }
    }

    /// Forgets sequences of which nothing was heard for too long.
    pub(crate) fn forget_idle_sequences(&mut self, now: Duration) {
        if now < self.idle_check {
            return;
        }
        let mut next = now + Duration::from_secs(1);
        let mut idle = Vec::new();
        for (key, state) in &self.sequences {
            let limit = self.models.get(&key.0).map_or(Duration::ZERO, |m| m.spec.sequence_idle);
            let end = state.last + limit;
            if state.waiting.is_empty() && state.in_flight.is_none() {
                if end <= now {
                    idle.push(key.clone());
                } else {
                    next = next.min(end);
                }
            }
        }
        self.idle_check = next;
        for key in idle {
            self.give_up_sequence(&key, Cause::Sequence, "the sequence went idle");
        }
    }

    /// The worker of a sequence ended. One that never got an answer starts anew elsewhere, with all
    /// that waits of it; of one that did, nobody else knows what came before.
    pub(crate) fn sequence_lost(&mut self, key: &SequenceKey) -> bool {
        let Some(state) = self.sequences.get_mut(key) else {
            return false;
        };
        if state.begun {
            let reason = format!("the worker that held sequence `{}` ended; start it anew", key.1);
            self.give_up_sequence(key, Cause::WorkerLost, &reason);
            return false;
        }
        state.worker = None;
        if let Some(ticket) = state.in_flight.take() {
            state.waiting.push_front(ticket);
        }
        if let Some(front) = state.waiting.front().copied() {
            self.starts_sequence(front);
        }
        true
    }
}
