//! What will end when, if nothing else comes: the work that waits is laid out in its order on the
//! workers that can do it, with learned service times. A request is taken if it is in time there
//! and makes nobody late who was taken before.

use std::sync::Arc;
use std::time::Duration;

use crate::edf::Entry;
use crate::queue::{Queue, Running};
use crate::request::{GroupId, ModelId, Ticket, WorkerId};

/// Models and workers that wait for each other: no work outside them changes when theirs ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Component {
    pub models: Vec<ModelId>,
    pub workers: Vec<WorkerId>,
}

/// One job at a time.
struct Slot {
    worker: WorkerId,
    group: Option<GroupId>,
    draining: bool,
    free: Duration,
}

/// A batch that could still grow.
struct Open {
    model: ModelId,
    key: u64,
    slot: usize,
    start: Duration,
    units: u32,
    end: Duration,
    deadline: Duration,
}

/// What is foreseen.
#[derive(Debug, Default)]
pub(crate) struct Forecast {
    /// When the newcomer ends, cautiously; absent where no worker could run it.
    pub end: Option<Duration>,
    /// Requests that will be late, the newcomer apart.
    pub late: Vec<Ticket>,
    /// Work of the newcomer's client ahead of it, itself included.
    pub own_work: Duration,
    /// That client had nothing else here.
    pub alone: bool,
    /// Jobs at a time.
    pub slots: usize,
    /// Least time between end and deadline, per model.
    slack: Vec<(ModelId, f64)>,
}

impl Queue {
    /// Lays out what waits in the component of `model`, with `newcomer` and without those named.
    pub(crate) fn forecast(
        &self,
        now: Duration,
        model: ModelId,
        newcomer: Option<&Entry>,
        without: &[Ticket],
    ) -> Forecast {
        let mut forecast = Forecast { alone: true, ..Forecast::default() };
        let Some(component) = self.components.get(&model) else {
            return forecast;
        };
        let (mut slots, mut groups) = self.slots(now, component);
        forecast.slots = slots.iter().filter(|slot| !slot.draining).count();
        for running in component
            .workers
            .iter()
            .filter_map(|id| self.workers.get(id))
            .flat_map(|worker| &worker.jobs)
            .filter_map(|id| self.jobs.get(id))
        {
            if newcomer.is_some_and(|new| running.entries.iter().any(|e| e.client == new.client)) {
                forecast.own_work += self.remaining(now, running);
                forecast.alone = false;
            }
        }
        let mut open: Vec<Open> = Vec::new();
        let mut lanes: Vec<_> = component
            .models
            .iter()
            .filter_map(|id| Some(self.models.get(id)?.lane.urgent.values().peekable()))
            .collect();
        let mut newcomer_left = newcomer;
        loop {
            let next_lane = lanes
                .iter_mut()
                .enumerate()
                .filter_map(|(at, lane)| Some((lane.peek()?.key, at)))
                .min();
            let (entry, is_new) = match (next_lane, newcomer_left) {
                (Some((key, _)), Some(new)) if new.key < key => {
                    newcomer_left = None;
                    (new, true)
                }
                (Some((_, at)), _) => match lanes[at].next() {
                    Some(entry) => (entry, false),
                    None => continue,
                },
                (None, Some(new)) => {
                    newcomer_left = None;
                    (new, true)
                }
                (None, None) => break,
            };
            if without.contains(&entry.ticket) {
                continue;
            }
            let ours = newcomer.filter(|new| newcomer_left.is_some() && new.client == entry.client);
            let Some((end, cost)) = self.place(entry, &mut slots, &mut groups, &mut open) else {
                continue;
            };
            let deadline = entry.deadline.unwrap_or(Duration::MAX);
            if is_new {
                forecast.end = Some(end);
                forecast.own_work += cost;
                continue;
            }
            if ours.is_some() {
                forecast.own_work += cost;
                forecast.alone = false;
            }
            if end > deadline {
                forecast.late.push(entry.ticket);
            }
            let slack = deadline.as_secs_f64() - end.as_secs_f64();
            match forecast.slack.iter_mut().find(|(model, _)| *model == entry.model) {
                Some((_, least)) => *least = least.min(slack),
                None => forecast.slack.push((entry.model, slack)),
            }
        }
        forecast
    }

    /// Puts one request into the plan: its cautious end and what it costs on average.
    fn place(
        &self,
        entry: &Entry,
        slots: &mut [Slot],
        groups: &mut [(GroupId, Vec<Duration>)],
        open: &mut Vec<Open>,
    ) -> Option<(Duration, Duration)> {
        let model = self.models.get(&entry.model)?;
        let fit = &model.fit;
        let deadline = entry.deadline.unwrap_or(Duration::MAX);
        let batched =
            entry.batch_key.filter(|_| model.spec.max_batch > 1 && entry.sequence.is_none());
        if let Some(key) = batched {
            let grown = open.iter_mut().find(|batch| {
                let units = batch.units + entry.units;
                batch.model == entry.model
                    && batch.key == key
                    && units <= model.spec.max_batch
                    && batch.start + fit.cautious(units) <= batch.deadline.min(deadline)
            });
            if let Some(batch) = grown {
                let before = fit.expected(batch.units);
                batch.units += entry.units;
                let cost = fit.expected(batch.units).saturating_sub(before);
                batch.deadline = batch.deadline.min(deadline);
                if slots[batch.slot].free == batch.end {
                    slots[batch.slot].free += cost;
                    batch.end += cost;
                }
                return Some((batch.start + fit.cautious(batch.units), cost));
            }
        }
        let sticky = entry.sequence.as_ref().and_then(|step| {
            self.sequences.get(&(entry.model, Arc::clone(&step.id))).and_then(|s| s.worker)
        });
        let group_free = |groups: &[(GroupId, Vec<Duration>)], group: Option<GroupId>| {
            group.and_then(|id| {
                let (_, free) = groups.iter().find(|(of, _)| *of == id)?;
                free.iter().min().copied()
            })
        };
        let (at, start) = slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| match sticky {
                Some(worker) => slot.worker == worker,
                None => !slot.draining && self.can_run(slot.worker, entry.model),
            })
            .map(|(at, slot)| {
                (at, group_free(groups, slot.group).unwrap_or_default().max(slot.free))
            })
            .min_by_key(|(_, start)| *start)?;
        let cost = fit.expected(entry.units);
        let protected =
            || self.is_protected(entry.model, entry.sequence.as_ref().map(|step| &step.id));
        // What cannot be in time any more is dropped before it starts and costs nothing.
        if start + cost <= deadline || protected() {
            slots[at].free = start + cost;
            let group = slots[at].group;
            if let Some(free) = groups
                .iter_mut()
                .find(|(of, _)| Some(*of) == group)
                .and_then(|(_, free)| free.iter_mut().min())
            {
                *free = start + cost;
            }
            if let Some(key) = batched {
                open.push(Open {
                    model: entry.model,
                    key,
                    slot: at,
                    start,
                    units: entry.units,
                    end: start + cost,
                    deadline,
                });
            }
        }
        Some((start + fit.cautious(entry.units), cost))
    }

    fn slots(
        &self,
        now: Duration,
        component: &Component,
    ) -> (Vec<Slot>, Vec<(GroupId, Vec<Duration>)>) {
        let ready = now + self.run_queue_delay;
        let mut slots = Vec::new();
        let mut groups: Vec<(GroupId, Vec<Duration>)> = Vec::new();
        for id in &component.workers {
            let Some(worker) = self.workers.get(id) else {
                continue;
            };
            let group = worker.spec.group;
            if let Some(group) = group
                && !groups.iter().any(|(of, _)| *of == group)
                && let Some(&size) = self.groups.get(&group)
            {
                groups.push((group, vec![ready; size]));
            }
            let mut slot =
                |free| slots.push(Slot { worker: *id, group, draining: worker.draining, free });
            for running in worker.jobs.iter().filter_map(|job| self.jobs.get(job)) {
                let end = ready + self.remaining(now, running);
                slot(end);
                // Background work holds no processor against work with a deadline.
                if running.urgent
                    && let Some((_, free)) = groups.iter_mut().find(|(of, _)| Some(*of) == group)
                    && let Some(free) = free.iter_mut().min()
                {
                    *free = end;
                }
            }
            for _ in worker.jobs.len()..worker.spec.concurrency.max(1) {
                slot(ready);
            }
        }
        (slots, groups)
    }

    /// How long a job will still run.
    pub(crate) fn remaining(&self, now: Duration, running: &Running) -> Duration {
        let Some(model) = self.models.get(&running.job.model) else {
            return Duration::ZERO;
        };
        let ran = now.saturating_sub(running.started);
        let (mean, most) =
            (model.fit.expected(running.job.units), model.fit.cautious(running.job.units));
        if ran < mean {
            mean - ran
        } else if ran < most {
            most - ran
        } else {
            // Beyond all that is known: the longer it ran, the longer it will.
            ran / 2
        }
    }

    pub(crate) fn least_slack(&self, now: Duration, model: ModelId) -> Option<f64> {
        let forecast = self.forecast(now, model, None, &[]);
        forecast.slack.iter().find(|(of, _)| *of == model).map(|(_, least)| *least)
    }

    /// Finds the components anew, after workers came or went.
    pub(crate) fn rebuild_components(&mut self) {
        self.components.clear();
        for &model in self.models.keys() {
            if self.components.contains_key(&model) {
                continue;
            }
            let mut component = Component { models: vec![model], workers: Vec::new() };
            loop {
                let before = component.models.len() + component.workers.len();
                for (&id, worker) in &self.workers {
                    let joined = worker.spec.models.iter().any(|m| component.models.contains(m))
                        || worker.spec.group.is_some_and(|group| {
                            component.workers.iter().any(|other| {
                                self.workers.get(other).and_then(|w| w.spec.group) == Some(group)
                            })
                        });
                    if joined && !component.workers.contains(&id) {
                        component.workers.push(id);
                        for model in &worker.spec.models {
                            if !component.models.contains(model) {
                                component.models.push(*model);
                            }
                        }
                    }
                }
                if component.models.len() + component.workers.len() == before {
                    break;
                }
            }
            let component = Arc::new(component);
            for model in &component.models {
                self.components.insert(*model, Arc::clone(&component));
            }
        }
    }
}
