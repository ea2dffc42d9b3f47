//! Real time has a bound, and what is refused has a next rung.

use std::collections::VecDeque;

use super::{Actuator, Write};
use crate::act::control::Control;
use crate::act::journal::Change;
use crate::act::outcome::{Done, Event, LeverEntry, Standing};
use crate::act::subject::Subject;
use crate::act::value::{Lever, Value};

/// How much real time the agent gives in all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cap {
    /// Reserved bandwidth (SCHED_DEADLINE), in CPUs.
    pub bandwidth: f64,
    /// Threads under FIFO and RR.
    pub threads: usize,
}

/// The part of what the kernel grants to real time that the agent gives away.
const PART: f64 = 0.80;

/// Threads under FIFO and RR per CPU: far more than frames come from, far fewer than a program has
/// that makes them without end.
const THREADS_PER_CPU: usize = 64;

impl Cap {
    /// For a host with so many CPUs, of which the kernel grants `share` (0 to 1) to real time.
    #[must_use]
    pub fn of(cpus: usize, share: f64) -> Self {
        Self { bandwidth: PART * share * cpus as f64, threads: THREADS_PER_CPU * cpus.max(1) }
    }
}

/// Where a new value leads from, and back to.
pub(super) struct Way<'a> {
    pub(super) subject: &'a Subject,
    /// What is to go back one day.
    pub(super) old: &'a Value,
    /// What is ours there already.
    pub(super) before: Option<&'a Change>,
}

impl<C: Control> Actuator<C> {
    /// The first of `wanted` and its rungs that the cap has room for and that has a way back; the
    /// rungs behind it are left in `rungs`. Nothing when there is none, which is told.
    pub(super) fn first_admitted(
        &mut self,
        way: &Way<'_>,
        wanted: &Value,
        rungs: &mut VecDeque<Value>,
        done: &mut Vec<Done>,
    ) -> Option<Value> {
        let Way { subject, old, before } = *way;
        let mut value = wanted.clone();
        while let Some(reason) = self.obstacle(subject, old, &value) {
            let Some(next) = rungs.pop_front() else {
                self.refuse(subject, wanted.clone(), before.cloned(), reason, done);
                return None;
            };
            let reason = format!("{reason}; {next} in its place");
            let event = Event::Failed { wanted: value, reason };
            done.push(Done { subject: subject.clone(), lever: next.lever(), event });
            value = next;
        }
        Some(value)
    }

    /// Why a value is not to be set, whatever the kernel says.
    fn obstacle(&self, subject: &Subject, old: &Value, value: &Value) -> Option<String> {
        self.over_cap(subject, value).or_else(|| self.control.no_way_back(subject, old, value))
    }

    /// Why there is no room for a value, if it is one of real time.
    fn over_cap(&self, subject: &Subject, value: &Value) -> Option<String> {
        let Value::Sched(wanted) = value else { return None };
        if !wanted.is_realtime() {
            return None;
        }
        let (mut bandwidth, mut threads) = (0.0, 0);
        for (of, levers) in self.subjects.values() {
            let Some(LeverEntry { standing: Standing::Ours(change), .. }) =
                levers.get(&Lever::Sched)
            else {
                continue;
            };
            let Value::Sched(given) = &change.ours else { continue };
            if of != subject {
                bandwidth += given.bandwidth();
                threads += usize::from(given.is_realtime() && !given.is_reservation());
            }
        }
        let Cap { bandwidth: most, threads: most_threads } = self.cap;
        if wanted.is_reservation() && bandwidth + wanted.bandwidth() > most {
            return Some(format!(
                "{:.2} of the {most:.2} CPUs that downbeat reserves in all are taken, and this \
                 would take {:.2}; give fewer classes a reservation, or smaller budgets",
                bandwidth,
                wanted.bandwidth()
            ));
        }
        (!wanted.is_reservation() && threads >= most_threads).then(|| {
            format!(
                "{threads} threads are real-time by downbeat already, its bound on this host; \
                 match fewer threads (`thread = …`)"
            )
        })
    }

    /// Takes the next rung after a refusal; the refusal is told with what comes in its place. A
    /// value that replaces one of ours has none: that one stays.
    pub(super) fn steps_down(
        &mut self,
        write: &mut Write,
        reason: &str,
        done: &mut Vec<Done>,
    ) -> bool {
        if write.before.is_some() {
            return false;
        }
        let next = loop {
            let Some(next) = write.rungs.pop_front() else { return false };
            if self.obstacle(&write.subject, &write.change.old, &next).is_none() {
                break next.beside(&write.now);
            }
        };
        let lever = next.lever();
        let refused = std::mem::replace(&mut write.change.ours, next.clone());
        let reason = format!("{reason}; {next} in its place");
        let event = Event::Failed { wanted: refused, reason };
        done.push(Done { subject: write.subject.clone(), lever, event });
        self.journal.set(&write.subject, &write.change);
        if let Err(error) = self.journal.commit() {
            tracing::warn!("the journal: {error}");
            return false;
        }
        let standing = Standing::Ours(write.change.clone());
        let entry = LeverEntry { wanted: Some(write.wanted.clone()), standing };
        self.note(&write.subject, lever, entry);
        true
    }
}
