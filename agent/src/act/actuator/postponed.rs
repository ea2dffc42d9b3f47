//! What was refused for a reason that passes: it is tried again.

use std::collections::HashMap;
use std::io;

use super::{Actuator, Write};
use crate::act::control::Control;
use crate::act::outcome::{Done, Event, Request, Standing};
use crate::act::subject::{Key, Subject};
use crate::act::value::Value;

/// Looks from one attempt with a full journal to the next.
const LOOKS_PER_ATTEMPT: u32 = 5;

/// A value that is to be tried again.
#[derive(Debug)]
pub(super) struct Postponed {
    pub(super) subject: Subject,
    wanted: Value,
    until: Until,
}

/// What it waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Until {
    /// It was refused by the journal alone.
    JournalHasRoom,
    /// The thread sleeps on a CPU that it may not use any more.
    HasMoved,
}

impl<C: Control> Actuator<C> {
    pub(super) fn postpone(&mut self, subject: &Subject, wanted: &Value, until: Until) {
        let (subject, wanted) = (subject.clone(), wanted.clone());
        self.postponed.push(Postponed { subject, wanted, until });
    }

    /// Whether a reservation was refused only since the thread has not woken since it got other
    /// CPUs: the kernel compares them with the root domain of the CPU that it last ran on.
    pub(super) fn is_too_early(&self, error: &io::Error, write: &Write) -> bool {
        let reserves = matches!(&write.change.ours, Value::Sched(sched) if sched.is_reservation());
        let refused = error.raw_os_error() == Some(libc::EPERM);
        let asleep = || write.subject.thread().is_some_and(|id| self.control.has_yet_to_move(id));
        reserves && refused && asleep()
    }

    /// Sets what nothing is in the way of any more. It is told when it comes to another end.
    pub(super) fn try_again(&mut self, now: u64) -> Vec<Done> {
        let journals_turn = self.looks.is_multiple_of(LOOKS_PER_ATTEMPT);
        let control = &self.control;
        let is_due = |it: &mut Postponed| match it.until {
            Until::JournalHasRoom => journals_turn,
            Until::HasMoved => !it.subject.thread().is_some_and(|id| control.has_yet_to_move(id)),
        };
        let due: Vec<Postponed> = self.postponed.extract_if(.., is_due).collect();
        if due.is_empty() {
            return Vec::new();
        }
        let mut wanted: HashMap<Key, (Subject, Vec<Value>)> = HashMap::new();
        for Postponed { subject, wanted: value, .. } in due {
            let key = subject.key();
            let known = self.subjects.get_mut(&key).filter(|(id, _)| *id == subject);
            let Some((_, levers)) = known else { continue };
            let lever = value.lever();
            let (_, all) = wanted.entry(key).or_insert_with(|| {
                // All that the subject should have: what a request does not name goes back.
                (subject, levers.values().filter_map(|entry| entry.wanted.clone()).collect())
            });
            all.retain(|other| other.lever() != lever);
            all.push(value);
            // Else it would count as settled. What is ours there already stays ours.
            let Some(entry) = levers.get_mut(&lever) else { continue };
            match &entry.standing {
                Standing::Refused(_) => drop(levers.remove(&lever)),
                Standing::Ours(change) => entry.wanted = Some(change.ours.clone()),
                _ => {}
            }
        }
        let requests: Vec<Request<'_>> = wanted
            .values()
            .map(|(subject, wanted)| Request { subject: subject.clone(), wanted, otherwise: &[] })
            .collect();
        let mut done = self.apply(&requests, now);
        done.retain(|it| match &it.event {
            Event::Failed { wanted, .. } => {
                !self.postponed.iter().any(|other| other.is(&it.subject, wanted))
            }
            _ => true,
        });
        done
    }
}

impl Postponed {
    fn is(&self, subject: &Subject, wanted: &Value) -> bool {
        self.subject == *subject && self.wanted == *wanted
    }
}
