//! Applies wanted values to threads, groups and the host, remembers what was there, and puts it
//! back.
//!
//! For each lever of each managed subject the actuator knows one of: set by us (with the old
//! value, which is in the journal too), already so, left alone, handed off, refused. Everything
//! that it sets passes the journal first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;

use super::control::{Control, is_gone};
use super::journal::{Change, Changes, Journal};
use super::lineage::Lineage;
use super::outcome::{Done, Event, LeverEntry, Request, Standing};
use super::reason::{too_early, words};
use super::subject::{Key, Subject};
use super::value::{Lever, Value};

type Levers = HashMap<Lever, LeverEntry>;

/// A value that is about to be set.
#[derive(Debug)]
struct Write {
    subject: Subject,
    change: Change,
    /// What is there until then.
    now: Value,
    /// What was ours there before, under another policy.
    before: Option<Change>,
    /// What was asked for: the change is a later rung where that was refused.
    wanted: Value,
    /// What is tried next.
    rungs: VecDeque<Value>,
}

/// The state of everything that was changed.
#[derive(Debug)]
pub struct Actuator<C> {
    control: C,
    journal: Journal,
    subjects: HashMap<Key, (Subject, Levers)>,
    cap: Cap,
    lineage: Lineage,
    heirs: u64,
    /// How often `verify` has looked.
    looks: u32,
    postponed: Vec<Postponed>,
    /// Had at the last look what it had before us, in place of real time: the watch for runaways may
    /// have done that and not told yet.
    doubted: HashSet<Key>,
}

impl<C: Control> Actuator<C> {
    /// An actuator that has changed nothing yet, and gives real time as far as `cap`.
    #[must_use]
    pub fn new(control: C, journal: Journal, cap: Cap) -> Self {
        Self {
            control,
            journal,
            subjects: HashMap::new(),
            cap,
            lineage: Lineage::default(),
            heirs: 0,
            looks: 0,
            postponed: Vec::new(),
            doubted: HashSet::new(),
        }
    }

    /// Brings threads to what is wanted: reads, journals, sets, in this order, with one write to
    /// the journal for all of them. `now` is in clock ticks since boot.
    pub fn apply(&mut self, requests: &[Request<'_>], now: u64) -> Vec<Done> {
        let mut done = Vec::new();
        let mut writes = Vec::new();
        // A journal that was full may have room again.
        self.tidy_journal();
        let (main, others): (Vec<_>, Vec<_>) =
            requests.iter().partition(|request| request.subject.is_main_thread());
        for request in others.into_iter().chain(main) {
            self.put_back_unwanted(request, &mut done);
        }
        for request in requests {
            self.postponed.retain(|it| it.subject != request.subject);
            self.plan(request, now, &mut writes, &mut done);
        }
        for Write { subject, change, .. } in &writes {
            self.journal.set(subject, change);
        }
        if let Err(error) = self.journal.commit() {
            let reason = format!("the journal cannot be written, so nothing was set: {error}");
            for write in writes {
                self.postpone(&write.subject, &write.wanted, Until::JournalHasRoom);
                self.fail(write, reason.clone(), &mut done);
            }
            return done;
        }
        for write in writes {
            self.write(write, &mut done);
        }
        self.tidy_journal();
        done
    }

    fn plan(
        &mut self,
        request: &Request<'_>,
        now: u64,
        writes: &mut Vec<Write>,
        done: &mut Vec<Done>,
    ) {
        let subject = &request.subject;
        let key = subject.key();
        if self.subjects.get(&key).is_some_and(|(known, _)| known != subject) {
            self.bury(&key);
        }
        for wanted in request.wanted {
            let lever = wanted.lever();
            // The kernel keeps one value per process, which is set through its main thread.
            let of_another = subject.thread().is_some_and(|id| id.tid != id.pid);
            if lever.is_per_process() && of_another {
                continue;
            }
            let known = self.subjects.get(&key).and_then(|(_, levers)| levers.get(&lever));
            if known.is_some_and(|entry| is_settled(entry, wanted)) {
                continue;
            }
            let mut before = match known {
                Some(LeverEntry { standing: Standing::Ours(change), .. }) => Some(change.clone()),
                _ => None,
            };
            let current = match self.control.read(lever, subject) {
                Ok(current) => current,
                Err(error) if self.has_ended(subject, &error) => return self.forget(key),
                Err(error) => {
                    let reason = format!("it cannot be read: {error}");
                    self.refuse(subject, wanted.clone(), before, reason, done);
                    continue;
                }
            };
            let standing = match &before {
                Some(change) if !current.agrees_with(&change.ours) => {
                    self.journal.forget(subject, lever);
                    let (ours, theirs) = (change.ours.clone(), current.clone());
                    let event = Event::HandedOff { ours, theirs };
                    done.push(Done { subject: subject.clone(), lever, event });
                    Standing::HandedOff(current)
                }
                Some(change) if current.agrees_with(wanted) => Standing::Ours(change.clone()),
                None if current.agrees_with(wanted) => Standing::AlreadySo,
                None if current.is_realtime() => Standing::RealtimeByOwnWish(current),
                _ => {
                    let mut rungs: VecDeque<Value> = request
                        .otherwise
                        .iter()
                        .filter(|other| other.lever() == lever)
                        .cloned()
                        .collect();
                    if let Some(before) = &mut before {
                        before.old = before.to_go_back(&current);
                    }
                    let old = before.as_ref().map_or_else(|| current.clone(), |it| it.old.clone());
                    let way = Way { subject, old: &old, before: before.as_ref() };
                    let Some(first) = self.first_admitted(&way, wanted, &mut rungs, done) else {
                        continue;
                    };
                    let first = first.beside(&current);
                    let mut old = if before.is_some() {
                        old
                    } else {
                        self.control.chosen(subject, old.as_far_as(&first))
                    };
                    if let (true, Value::Sched(old), Some(id)) =
                        (first.is_realtime(), &mut old, subject.thread())
                        && old.timer_slack.is_none()
                    {
                        old.timer_slack = self.control.timer_slack(id.tid).ok();
                    }
                    let change = Change { old, ours: first, since: now };
                    let (subject, wanted) = (subject.clone(), wanted.clone());
                    let standing = Standing::Ours(change.clone());
                    writes.push(Write { subject, change, now: current, before, wanted, rungs });
                    standing
                }
            };
            self.note(subject, lever, LeverEntry { wanted: Some(wanted.clone()), standing });
        }
    }

    fn write(&mut self, mut write: Write, done: &mut Vec<Done>) {
        loop {
            let Write { subject, change, .. } = &write;
            let lever = change.ours.lever();
            match self.control.write(subject, &change.ours) {
                Ok(()) => {
                    let (old, new) = (change.old.clone(), change.ours.clone());
                    let event = Event::Applied { old, new };
                    return done.push(Done { subject: subject.clone(), lever, event });
                }
                Err(error) if self.has_ended(subject, &error) => {
                    return self.forget(subject.key());
                }
                Err(error) => {
                    let mut reason = words(&error, &change.ours);
                    if self.is_too_early(&error, &write) {
                        reason = too_early(&error);
                        self.postpone(&write.subject, &write.wanted, Until::HasMoved);
                    }
                    self.take_back_a_part(&write);
                    if !self.steps_down(&mut write, &reason, done) {
                        return self.fail(write, reason, done);
                    }
                }
            }
        }
    }

    /// Whether an error says that the subject is gone, and not only a file of it.
    fn has_ended(&self, subject: &Subject, error: &io::Error) -> bool {
        is_gone(error) && !self.control.is_same(subject)
    }

    /// Some values are several writes, of which the first may have been taken before one was
    /// refused: a group's controllers, a quota and its burst, limits by device.
    fn take_back_a_part(&self, write: &Write) {
        let Write { subject, change, now, .. } = write;
        let before = now.clone().as_far_as(&change.ours);
        let found = self.control.read(change.ours.lever(), subject);
        if found.is_ok_and(|found| !found.agrees_with(&before))
            && let Err(error) = self.control.write(subject, &before)
        {
            tracing::warn!("{subject}: {before} cannot be put back after a refusal: {error}");
        }
    }

    /// A value that could not be set. What was set there before is still there, and ours.
    fn fail(&mut self, write: Write, reason: String, done: &mut Vec<Done>) {
        let Write { subject, change, before, wanted, .. } = write;
        self.journal.forget(&subject, change.ours.lever());
        if let Some(before) = &before {
            self.journal.set(&subject, before);
        }
        self.refuse(&subject, wanted, before, reason, done);
    }

    /// Tells a refusal. What was set there `before` stays ours, as what is wanted there.
    fn refuse(
        &mut self,
        subject: &Subject,
        wanted: Value,
        before: Option<Change>,
        reason: String,
        done: &mut Vec<Done>,
    ) {
        let lever = wanted.lever();
        let entry = match before {
            Some(before) => {
                LeverEntry { wanted: Some(before.ours.clone()), standing: Standing::Ours(before) }
            }
            None => LeverEntry {
                wanted: Some(wanted.clone()),
                standing: Standing::Refused(reason.clone()),
            },
        };
        self.note(subject, lever, entry);
        let event = Event::Failed { wanted, reason };
        done.push(Done { subject: subject.clone(), lever, event });
    }

    fn note(&mut self, subject: &Subject, lever: Lever, entry: LeverEntry) {
        if let (Standing::Ours(change), Some(id)) = (&entry.standing, subject.thread()) {
            self.lineage.note(id.pid, change, change.since.max(id.start_time));
        }
        let fresh = || (subject.clone(), Levers::new());
        let (_, levers) = self.subjects.entry(subject.key()).or_insert_with(fresh);
        levers.insert(lever, entry);
    }

    fn ours(&self) -> impl Iterator<Item = (&Subject, Lever, &Change)> {
        self.subjects.values().flat_map(|(subject, levers)| {
            levers.iter().filter_map(move |(lever, entry)| match &entry.standing {
                Standing::Ours(change) => Some((subject, *lever, change)),
                _ => None,
            })
        })
    }

    fn tidy_journal(&mut self) {
        // Both keep what they could not write for the next attempt.
        let _ = self.journal.commit();
        if self.journal.wants_compaction() {
            let changes: Changes =
                self.ours().map(|(s, lever, c)| ((s.clone(), lever), c.clone())).collect();
            let _ = self.journal.compact(&changes, &self.lineage.past());
        }
    }
}

/// Whether nothing is to be done for `wanted`: it was asked for before and came to an end.
fn is_settled(entry: &LeverEntry, wanted: &Value) -> bool {
    match &entry.standing {
        // What was already so and is not any more was changed by someone else: theirs.
        Standing::Ours(_) | Standing::Refused(_) | Standing::AlreadySo => {
            entry.wanted.as_ref() == Some(wanted)
        }
        Standing::RealtimeByOwnWish(_) => false,
        Standing::HandedOff(_) => true,
    }
}

mod back;
mod kin;
mod ladder;
mod postponed;
mod query;
mod verify;

use ladder::Way;
use postponed::{Postponed, Until};

pub(super) use back::put_back;
pub use ladder::Cap;

#[cfg(test)]
mod tests;
