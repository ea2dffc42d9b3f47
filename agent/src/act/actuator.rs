//! Applies wanted values to threads, groups and the host, remembers what was there, and puts it
//! back.
//!
//! For each lever of each managed subject the actuator knows one of: set by us (with the old
//! value, which is in the journal too), already so, left alone, handed off, refused. Everything
//! that it sets passes the journal first.

use std::collections::{HashMap, VecDeque};
use std::io;

use super::control::{Control, VanishedGroup, is_gone};
use super::journal::{Change, Changes, Journal};
use super::lineage::{Lineage, inherited};
use super::outcome::{Done, Event, LeverEntry, Request, Standing};
use super::reason::words;
use super::subject::{Key, Subject, ThreadId};
use super::value::{Lever, Value};

type Levers = HashMap<Lever, LeverEntry>;

/// A value that is about to be set.
#[derive(Debug)]
struct Write {
    subject: Subject,
    change: Change,
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
    /// Refused by the journal alone: tried again.
    unwritten: Vec<(Subject, Value)>,
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
            unwritten: Vec::new(),
        }
    }

    /// Brings threads to what is wanted: reads, journals, sets, in this order, with one write to
    /// the journal for all of them. `now` is in clock ticks since boot.
    pub fn apply(&mut self, requests: &[Request<'_>], now: u64) -> Vec<Done> {
        let mut done = Vec::new();
        let mut writes = Vec::new();
        // A journal that was full may have room again.
        self.tidy_journal();
        for request in requests {
            self.unwritten.retain(|(subject, _)| *subject != request.subject);
            self.plan(request, now, &mut writes, &mut done);
        }
        for Write { subject, change, .. } in &writes {
            self.journal.set(subject, change);
        }
        if let Err(error) = self.journal.commit() {
            let reason = format!("the journal cannot be written, so nothing was set: {error}");
            for write in writes {
                self.unwritten.push((write.subject.clone(), write.wanted.clone()));
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

    /// Notes what `child` has from us through whoever made it, so that it goes back to what its
    /// creator had before; `creators` are the processes that may have passed it on. Returns whether
    /// there was anything. Levers of the child that are known stay as they are.
    pub fn inherit(&mut self, child: ThreadId, creators: &[u32]) -> bool {
        let subject = Subject::Thread(child);
        let known = self.subjects.get(&subject.key()).filter(|(known, _)| *known == subject);
        let mut left = self.lineage.left_by(creators, child.start_time);
        left.retain(|it| known.is_none_or(|(_, levers)| !levers.contains_key(&it.ours.lever())));
        let is_other = known.is_none();
        let found = inherited(&self.control, child, &left);
        if found.is_empty() {
            return false;
        }
        self.heirs += 1;
        if is_other {
            self.bury(&subject.key());
        }
        for change in found {
            self.journal.set(&subject, &change);
            let entry = LeverEntry { wanted: None, standing: Standing::Ours(change.clone()) };
            self.note(&subject, change.ours.lever(), entry);
        }
        // A journal that cannot be written is reported by the next `apply`; nothing is changed
        // here.
        let _ = self.journal.commit();
        true
    }

    /// Notes what a predecessor could not put back: it is ours, and nobody asks for it.
    pub fn take_over(&mut self, left: Changes) {
        for ((subject, lever), change) in left {
            let entry = LeverEntry { wanted: None, standing: Standing::Ours(change) };
            self.note(&subject, lever, entry);
        }
    }

    /// How many children were found to have something from us.
    #[must_use]
    pub fn heirs(&self) -> u64 {
        self.heirs
    }

    /// Notes that the process `parent` made the process `child`, which ended before anyone looked
    /// at it: what its own children inherited came from `parent`.
    pub fn pass_on(&mut self, parent: u32, child: u32) {
        self.lineage.pass_on(parent, child);
    }

    /// A thread that was not the main one called exec: the kernel ended all others and gave it the
    /// main thread's id and start time. What it had from us it has under its new id; the process's
    /// own values (the OOM score, the group) stay.
    pub fn succeed(&mut self, old_tid: u32, pid: u32) {
        let Ok(start_time) = self.control.start_time(pid) else {
            return;
        };
        let subject = Subject::Thread(ThreadId { pid, tid: pid, start_time });
        let mut remove = |tid| self.subjects.remove(&Key::Thread(tid));
        let (old_main, heir) = (remove(pid), remove(old_tid));
        let mut levers = Levers::new();
        for (id, of_thread) in [old_main, heir].into_iter().flatten() {
            for (lever, entry) in of_thread {
                let is_ours = matches!(entry.standing, Standing::Ours(_));
                if is_ours {
                    self.journal.forget(&id, lever);
                }
                if id.key() == Key::Thread(old_tid) || lever.is_per_process() {
                    levers.insert(lever, entry);
                }
            }
        }
        for entry in levers.values() {
            if let Standing::Ours(change) = &entry.standing {
                self.journal.set(&subject, change);
            }
        }
        if !levers.is_empty() {
            self.subjects.insert(subject.key(), (subject, levers));
        }
        self.tidy_journal();
    }

    /// Puts back everything that is still ours on one subject, and forgets what it had. What
    /// someone else changed stays theirs, and what could not be put back stays ours.
    pub fn undo(&mut self, key: impl Into<Key>) -> Vec<Done> {
        let key = key.into();
        let mut done = Vec::new();
        let Some((subject, mut levers)) = self.subjects.remove(&key) else {
            return done;
        };
        self.unwritten.retain(|(id, _)| *id != subject);
        for lever in Lever::ALL {
            let Some(entry) = levers.get(&lever) else { continue };
            let stays = match &entry.standing {
                // What a child loses again was not set there, so it is not told.
                Standing::Ours(change) if entry.wanted.is_none() => {
                    self.put_back(&subject, change, &mut Vec::new())
                }
                Standing::Ours(change) => self.put_back(&subject, change, &mut done),
                Standing::HandedOff(_) => true,
                _ => false,
            };
            if !stays {
                levers.remove(&lever);
            }
        }
        if !levers.is_empty() {
            self.subjects.insert(key, (subject, levers));
        }
        // What is put back twice is put back: a lost "forget" does no harm.
        let _ = self.journal.commit();
        done
    }

    /// Puts back everything: threads first, since a group of the agent's own can only go once
    /// nobody is in it, and a group before the one that it is in.
    pub fn undo_all(&mut self) -> Vec<Done> {
        let is_thread = |key: &&Key| matches!(key, Key::Thread(_));
        let (mut keys, mut others): (Vec<Key>, Vec<Key>) =
            self.subjects.keys().cloned().partition(|key| is_thread(&key));
        keys.sort_unstable();
        others.sort_unstable_by(|a, b| b.cmp(a));
        keys.extend(others);
        keys.into_iter().flat_map(|key| self.undo(key)).collect()
    }

    /// A thread lost its scheduling, since it ran for too long on end: what it had before is back,
    /// and it is not asked for again under this policy before [`Actuator::forgive`].
    pub fn demoted(&mut self, thread: ThreadId, reason: &str) -> Vec<Done> {
        let (mut done, subject) = (Vec::new(), Subject::Thread(thread));
        let known = self.subjects.get(&subject.key()).filter(|(known, _)| *known == subject);
        let entry = known.and_then(|(_, levers)| levers.get(&Lever::Sched)).cloned();
        if let Some(LeverEntry { wanted: Some(wanted), standing: Standing::Ours(_) }) = entry {
            self.journal.forget(&subject, Lever::Sched);
            self.refuse(&subject, wanted, reason.to_owned(), &mut done);
            self.tidy_journal();
        }
        done
    }

    /// What was refused of a thread's scheduling is tried again when it is asked for next.
    pub fn forgive(&mut self, thread: ThreadId) {
        let subject = Subject::Thread(thread);
        if let Some((known, levers)) = self.subjects.get_mut(&subject.key())
            && *known == subject
        {
            let is_refused = |entry: &LeverEntry| matches!(entry.standing, Standing::Refused(_));
            levers.retain(|lever, entry| *lever != Lever::Sched || !is_refused(entry));
        }
    }

    /// Forgets a thread that has ended. The main thread's end is not its process's: what belongs
    /// to the process as a whole stays ours until that is gone.
    pub fn forget(&mut self, key: impl Into<Key>) {
        let key = key.into();
        let Some((subject, mut levers)) = self.subjects.remove(&key) else {
            return;
        };
        let is_main = subject.thread().is_some_and(|id| id.tid == id.pid);
        let process_lives = is_main && self.control.is_same(&subject);
        levers.retain(|lever, entry| {
            let stays = process_lives && lever.is_per_process();
            if !stays && matches!(entry.standing, Standing::Ours(_)) {
                self.journal.forget(&subject, *lever);
            }
            stays
        });
        if !levers.is_empty() {
            self.subjects.insert(key, (subject, levers));
        }
        self.tidy_journal();
    }

    /// Ends the journal once everything was put back; keeps it when something is still ours, and
    /// says how many values that are.
    ///
    /// # Errors
    /// As `unlink(2)`.
    pub fn finish(self) -> io::Result<u64> {
        let left = self.journalled();
        if left == 0 {
            self.journal.remove()?;
        }
        Ok(left)
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
        self.put_back_unwanted(request, done);
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
            let before = match known {
                Some(LeverEntry { standing: Standing::Ours(change), .. }) => Some(change.clone()),
                _ => None,
            };
            let current = match self.control.read(lever, subject) {
                Ok(current) => current,
                Err(error) if is_gone(&error) => return self.forget(key),
                Err(error) => {
                    self.refuse(subject, wanted.clone(), format!("reading it: {error}"), done);
                    continue;
                }
            };
            let standing = match before {
                Some(change) if !current.agrees_with(&change.ours) => {
                    self.journal.forget(subject, lever);
                    let event = Event::HandedOff { ours: change.ours, theirs: current.clone() };
                    done.push(Done { subject: subject.clone(), lever, event });
                    Standing::HandedOff(current)
                }
                Some(change) if current.agrees_with(wanted) => Standing::Ours(change),
                None if current.agrees_with(wanted) => Standing::AlreadySo,
                None if current.is_realtime() => Standing::RealtimeByOwnWish(current),
                before => {
                    let mut rungs: VecDeque<Value> = request
                        .otherwise
                        .iter()
                        .filter(|other| other.lever() == lever)
                        .cloned()
                        .collect();
                    let Some(first) = self.first_admitted(subject, wanted, &mut rungs, done) else {
                        continue;
                    };
                    let mut old = match &before {
                        Some(change) => change.old.clone(),
                        None => current.as_far_as(&first),
                    };
                    if let (true, Value::Sched(old), Some(id)) =
                        (first.is_realtime(), &mut old, subject.thread())
                        && old.timer_slack.is_none()
                    {
                        old.timer_slack = self.control.timer_slack(id.tid).ok();
                    }
                    let change = Change { old, ours: first, since: now };
                    let (subject, wanted) = (subject.clone(), wanted.clone());
                    writes.push(Write { subject, change: change.clone(), before, wanted, rungs });
                    Standing::Ours(change)
                }
            };
            self.note(subject, lever, LeverEntry { wanted: Some(wanted.clone()), standing });
        }
    }

    /// A lever that the new request does not name any more goes back.
    fn put_back_unwanted(&mut self, request: &Request<'_>, done: &mut Vec<Done>) {
        let key = request.subject.key();
        let Some((subject, mut levers)) = self.subjects.remove(&key) else {
            return;
        };
        levers.retain(|lever, entry| {
            let is_wanted = request.wanted.iter().any(|value| value.lever() == *lever);
            is_wanted
                || match &entry.standing {
                    Standing::Ours(change) => self.put_back(&subject, change, done),
                    Standing::HandedOff(_) => true,
                    _ => false,
                }
        });
        self.subjects.insert(key, (subject, levers));
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
                Err(error) if is_gone(&error) => return self.forget(subject.key()),
                Err(error) => {
                    let reason = words(&error, &change.ours);
                    if !self.steps_down(&mut write, &reason, done) {
                        return self.fail(write, reason, done);
                    }
                }
            }
        }
    }

    /// A value that could not be set. What was set there before is still there, and ours.
    fn fail(&mut self, write: Write, reason: String, done: &mut Vec<Done>) {
        let Write { subject, change, before, wanted, .. } = write;
        let lever = change.ours.lever();
        self.refuse(&subject, wanted, reason, done);
        self.journal.forget(&subject, lever);
        if let Some(before) = before {
            self.journal.set(&subject, &before);
            let wanted = Some(before.ours.clone());
            self.note(&subject, lever, LeverEntry { wanted, standing: Standing::Ours(before) });
        }
    }

    /// Puts one value back; returns whether it is still ours, since the kernel refused.
    fn put_back(&mut self, subject: &Subject, change: &Change, done: &mut Vec<Done>) -> bool {
        let lever = change.ours.lever();
        let event = put_back(&self.control, subject, change);
        let failed = matches!(event, Some(Event::Failed { .. }));
        if !failed {
            self.journal.forget(subject, lever);
        }
        done.extend(event.map(|event| Done { subject: subject.clone(), lever, event }));
        failed
    }

    /// Forgets a subject whose name is free or another's.
    fn bury(&mut self, key: &Key) {
        let Some((subject, levers)) = self.subjects.remove(key) else {
            return;
        };
        for (lever, entry) in levers {
            if matches!(entry.standing, Standing::Ours(_)) {
                self.journal.forget(&subject, lever);
            }
        }
    }

    fn refuse(&mut self, subject: &Subject, wanted: Value, reason: String, done: &mut Vec<Done>) {
        let lever = wanted.lever();
        let standing = Standing::Refused(reason.clone());
        self.note(subject, lever, LeverEntry { wanted: Some(wanted.clone()), standing });
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
            let _ = self.journal.compact(&changes);
        }
    }
}

/// Puts one value back if it is still ours and its subject is still the same. Nothing when that is
/// gone.
pub(super) fn put_back<C: Control>(
    control: &C,
    subject: &Subject,
    change: &Change,
) -> Option<Event> {
    if !control.is_same(subject) {
        return None;
    }
    let lever = change.ours.lever();
    let current = control.read(lever, subject).ok()?;
    if !current.agrees_with(&change.ours) {
        return Some(Event::HandedOff { ours: change.ours.clone(), theirs: current });
    }
    match control.write(subject, &change.old) {
        Ok(()) => Some(Event::Restored { old: change.old.clone() }),
        Err(error) if is_gone(&error) => None,
        Err(error) => {
            if VanishedGroup::is(&error)
                && let Some(old) = nearest_home(control, subject, &change.old)
            {
                tracing::warn!("{error}: {subject} went to {old}, the nearest that is left");
                return Some(Event::Restored { old });
            }
            let reason = words(&error, &change.old);
            Some(Event::Failed { wanted: change.old.clone(), reason })
        }
    }
}

/// Moves a process whose group has gone to the nearest group above it that takes it; returns which
/// that is. The root takes every process.
fn nearest_home<C: Control>(control: &C, subject: &Subject, home: &Value) -> Option<Value> {
    let Value::Cgroup(path) = home else { return None };
    let above = std::iter::successors(path.rsplit_once('/'), |(above, _)| above.rsplit_once('/'));
    above
        .map(|(above, _)| Value::Cgroup(if above.is_empty() { "/" } else { above }.into()))
        .find(|home| control.write(subject, home).is_ok())
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

mod ladder;
mod query;
mod verify;

pub use ladder::Cap;

#[cfg(test)]
mod tests;
