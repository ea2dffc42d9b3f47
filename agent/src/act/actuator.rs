//! Applies wanted values to threads, remembers what was there, and puts it back.
//!
//! For each lever of each managed thread the actuator knows one of: set by us (with the old
//! value, which is in the journal too), already so, left alone, handed off, refused. Everything
//! that it sets passes the journal first.

use std::collections::HashMap;
use std::io;

use super::control::{Control, is_gone};
use super::journal::{Change, Changes, Journal, ThreadId};
use super::lineage::{Lineage, inherited};
use super::outcome::{Done, Event, LeverEntry, Request, Standing};
use super::value::{Lever, Value};

type Levers = HashMap<Lever, LeverEntry>;

/// A value that is about to be set.
#[derive(Debug)]
struct Write {
    thread: ThreadId,
    change: Change,
    /// What was ours there before, under another policy.
    before: Option<Change>,
}

/// The state of everything that was changed.
#[derive(Debug)]
pub struct Actuator<C> {
    control: C,
    journal: Journal,
    threads: HashMap<u32, (ThreadId, Levers)>,
    lineage: Lineage,
    heirs: u64,
    /// How often `verify` has looked.
    looks: u32,
    /// Refused by the journal alone: tried again.
    unwritten: Vec<(ThreadId, Value)>,
}

impl<C: Control> Actuator<C> {
    /// An actuator that has changed nothing yet.
    #[must_use]
    pub fn new(control: C, journal: Journal) -> Self {
        Self {
            control,
            journal,
            threads: HashMap::new(),
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
            self.unwritten.retain(|(thread, _)| *thread != request.thread);
            self.plan(request, now, &mut writes, &mut done);
        }
        for Write { thread, change, .. } in &writes {
            self.journal.set(*thread, change);
        }
        if let Err(error) = self.journal.commit() {
            let reason = format!("the journal cannot be written, so nothing was set: {error}");
            for write in writes {
                self.unwritten.push((write.thread, write.change.ours.clone()));
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
        let known = self.threads.get(&child.tid).filter(|(id, _)| *id == child);
        let mut left = self.lineage.left_by(creators, child.start_time);
        left.retain(|it| known.is_none_or(|(_, levers)| !levers.contains_key(&it.ours.lever())));
        let is_other = known.is_none();
        let found = inherited(&self.control, child, &left);
        if found.is_empty() {
            return false;
        }
        self.heirs += 1;
        if is_other {
            self.bury(child.tid);
        }
        for change in found {
            self.journal.set(child, &change);
            let lever = change.ours.lever();
            self.note(child, lever, LeverEntry { wanted: None, standing: Standing::Ours(change) });
        }
        // A journal that cannot be written is reported by the next `apply`; nothing is changed
        // here.
        let _ = self.journal.commit();
        true
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
    /// own values (the OOM score) stay.
    pub fn succeed(&mut self, old_tid: u32, pid: u32) {
        let Ok(start_time) = self.control.start_time(pid) else {
            return;
        };
        let thread = ThreadId { pid, tid: pid, start_time };
        let (old_main, heir) = (self.threads.remove(&pid), self.threads.remove(&old_tid));
        let mut levers = Levers::new();
        for (id, of_thread) in [old_main, heir].into_iter().flatten() {
            for (lever, entry) in of_thread {
                let is_ours = matches!(entry.standing, Standing::Ours(_));
                if is_ours {
                    self.journal.forget(id, lever);
                }
                if id.tid == old_tid || lever == Lever::OomScoreAdj {
                    levers.insert(lever, entry);
                }
            }
        }
        for entry in levers.values() {
            if let Standing::Ours(change) = &entry.standing {
                self.journal.set(thread, change);
            }
        }
        if !levers.is_empty() {
            self.threads.insert(pid, (thread, levers));
        }
        self.tidy_journal();
    }

    /// Puts back everything that is still ours on one thread, and forgets what it had. What
    /// someone else changed stays theirs, and what could not be put back stays ours.
    pub fn undo(&mut self, tid: u32) -> Vec<Done> {
        let mut done = Vec::new();
        let Some((thread, mut levers)) = self.threads.remove(&tid) else {
            return done;
        };
        self.unwritten.retain(|(id, _)| *id != thread);
        for lever in Lever::ALL {
            let Some(entry) = levers.get(&lever) else { continue };
            let stays = match &entry.standing {
                // What a child loses again was not set there, so it is not told.
                Standing::Ours(change) if entry.wanted.is_none() => {
                    self.put_back(thread, change, &mut Vec::new())
                }
                Standing::Ours(change) => self.put_back(thread, change, &mut done),
                Standing::HandedOff(_) => true,
                _ => false,
            };
            if !stays {
                levers.remove(&lever);
            }
        }
        if !levers.is_empty() {
            self.threads.insert(tid, (thread, levers));
        }
        // What is put back twice is put back: a lost "forget" does no harm.
        let _ = self.journal.commit();
        done
    }

    /// Puts back everything.
    pub fn undo_all(&mut self) -> Vec<Done> {
        let mut tids: Vec<u32> = self.threads.keys().copied().collect();
        tids.sort_unstable();
        tids.into_iter().flat_map(|tid| self.undo(tid)).collect()
    }

    /// Forgets a thread that has ended. The main thread's end is not its process's: what belongs
    /// to the process as a whole stays ours until that is gone.
    pub fn forget(&mut self, tid: u32) {
        let Some((thread, mut levers)) = self.threads.remove(&tid) else {
            return;
        };
        let process_lives = thread.tid == thread.pid
            && self.control.start_time(tid).ok() == Some(thread.start_time);
        levers.retain(|lever, entry| {
            let stays = process_lives && *lever == Lever::OomScoreAdj;
            if !stays && matches!(entry.standing, Standing::Ours(_)) {
                self.journal.forget(thread, *lever);
            }
            stays
        });
        if !levers.is_empty() {
            self.threads.insert(tid, (thread, levers));
        }
        self.tidy_journal();
    }

    /// Each lever of a thread, for `explain`.
    #[must_use]
    pub fn levers(&self, tid: u32) -> Vec<(Lever, &LeverEntry)> {
        let Some((_, levers)) = self.threads.get(&tid) else {
            return Vec::new();
        };
        Lever::ALL.into_iter().filter_map(|lever| Some((lever, levers.get(&lever)?))).collect()
    }

    /// Whether a lever of the thread was refused or handed off.
    #[must_use]
    pub fn wants_attention(&self, tid: u32) -> bool {
        self.threads.get(&tid).is_some_and(|(_, levers)| {
            levers
                .values()
                .any(|e| matches!(e.standing, Standing::HandedOff(_) | Standing::Refused(_)))
        })
    }

    /// Values that would go back now.
    #[must_use]
    pub fn journalled(&self) -> u64 {
        self.ours().count() as u64
    }

    /// Ends the journal once everything was put back; keeps it when something is still ours.
    ///
    /// # Errors
    /// As `unlink(2)`.
    pub fn finish(self) -> io::Result<()> {
        if self.ours().next().is_none() { self.journal.remove() } else { Ok(()) }
    }

    fn plan(
        &mut self,
        request: &Request<'_>,
        now: u64,
        writes: &mut Vec<Write>,
        done: &mut Vec<Done>,
    ) {
        let thread = request.thread;
        if self.threads.get(&thread.tid).is_some_and(|(known, _)| *known != thread) {
            self.bury(thread.tid);
        }
        self.put_back_unwanted(request, done);
        for wanted in request.wanted {
            let lever = wanted.lever();
            // The kernel keeps one value per process, which is set through its main thread.
            if lever == Lever::OomScoreAdj && thread.tid != thread.pid {
                continue;
            }
            let known = self.threads.get(&thread.tid).and_then(|(_, levers)| levers.get(&lever));
            if known.is_some_and(|entry| is_settled(entry, wanted)) {
                continue;
            }
            let before = match known {
                Some(LeverEntry { standing: Standing::Ours(change), .. }) => Some(change.clone()),
                _ => None,
            };
            let current = match self.control.read(lever, thread.tid) {
                Ok(current) => current,
                Err(error) if is_gone(&error) => return self.forget(thread.tid),
                Err(error) => {
                    self.refuse(thread, wanted.clone(), format!("reading it: {error}"), done);
                    continue;
                }
            };
            let standing = match before {
                Some(change) if !current.agrees_with(&change.ours) => {
                    self.journal.forget(thread, lever);
                    let event = Event::HandedOff { ours: change.ours, theirs: current.clone() };
                    done.push(Done { thread, lever, event });
                    Standing::HandedOff(current)
                }
                Some(change) if current.agrees_with(wanted) => Standing::Ours(change),
                None if current.agrees_with(wanted) => Standing::AlreadySo,
                None if is_realtime(&current) => Standing::RealtimeByOwnWish(current),
                before => {
                    let mut old = before.as_ref().map_or(current, |change| change.old.clone());
                    if let (true, Value::Sched(old)) = (is_realtime(wanted), &mut old)
                        && old.timer_slack.is_none()
                    {
                        old.timer_slack = self.control.timer_slack(thread.tid).ok();
                    }
                    let change = Change { old, ours: wanted.clone(), since: now };
                    writes.push(Write { thread, change: change.clone(), before });
                    Standing::Ours(change)
                }
            };
            self.note(thread, lever, LeverEntry { wanted: Some(wanted.clone()), standing });
        }
    }

    /// A lever that the new request does not name any more goes back.
    fn put_back_unwanted(&mut self, request: &Request<'_>, done: &mut Vec<Done>) {
        let Some((thread, mut levers)) = self.threads.remove(&request.thread.tid) else {
            return;
        };
        levers.retain(|lever, entry| {
            let is_wanted = request.wanted.iter().any(|value| value.lever() == *lever);
            is_wanted
                || match &entry.standing {
                    Standing::Ours(change) => self.put_back(thread, change, done),
                    Standing::HandedOff(_) => true,
                    _ => false,
                }
        });
        self.threads.insert(thread.tid, (thread, levers));
    }

    fn write(&mut self, write: Write, done: &mut Vec<Done>) {
        let Write { thread, change, .. } = &write;
        let (thread, lever) = (*thread, change.ours.lever());
        match self.control.write(thread.tid, &change.ours) {
            Ok(()) => {
                let event = Event::Applied { old: change.old.clone(), new: change.ours.clone() };
                done.push(Done { thread, lever, event });
            }
            Err(error) if is_gone(&error) => self.forget(thread.tid),
            Err(error) => self.fail(write, words(&error, lever), done),
        }
    }

    /// A value that could not be set. What was set there before is still there, and ours.
    fn fail(&mut self, write: Write, reason: String, done: &mut Vec<Done>) {
        let Write { thread, change, before } = write;
        let lever = change.ours.lever();
        self.refuse(thread, change.ours, reason, done);
        self.journal.forget(thread, lever);
        if let Some(before) = before {
            self.journal.set(thread, &before);
            let wanted = Some(before.ours.clone());
            self.note(thread, lever, LeverEntry { wanted, standing: Standing::Ours(before) });
        }
    }

    /// Puts one value back; returns whether it is still ours, since the kernel refused.
    fn put_back(&mut self, thread: ThreadId, change: &Change, done: &mut Vec<Done>) -> bool {
        let lever = change.ours.lever();
        let event = put_back(&self.control, thread, change);
        let failed = matches!(event, Some(Event::Failed { .. }));
        if !failed {
            self.journal.forget(thread, lever);
        }
        done.extend(event.map(|event| Done { thread, lever, event }));
        failed
    }

    /// Forgets a thread whose id is free or another's.
    fn bury(&mut self, tid: u32) {
        let Some((thread, levers)) = self.threads.remove(&tid) else {
            return;
        };
        for (lever, entry) in levers {
            if matches!(entry.standing, Standing::Ours(_)) {
                self.journal.forget(thread, lever);
            }
        }
    }

    fn refuse(&mut self, thread: ThreadId, wanted: Value, reason: String, done: &mut Vec<Done>) {
        let lever = wanted.lever();
        let standing = Standing::Refused(reason.clone());
        self.note(thread, lever, LeverEntry { wanted: Some(wanted.clone()), standing });
        done.push(Done { thread, lever, event: Event::Failed { wanted, reason } });
    }

    fn note(&mut self, thread: ThreadId, lever: Lever, entry: LeverEntry) {
        if let Standing::Ours(change) = &entry.standing {
            self.lineage.note(thread.pid, change, change.since.max(thread.start_time));
        }
        let (_, levers) = self.threads.entry(thread.tid).or_insert_with(|| (thread, Levers::new()));
        levers.insert(lever, entry);
    }

    fn ours(&self) -> impl Iterator<Item = (ThreadId, Lever, &Change)> {
        self.threads.values().flat_map(|(thread, levers)| {
            levers.iter().filter_map(|(lever, entry)| match &entry.standing {
                Standing::Ours(change) => Some((*thread, *lever, change)),
                _ => None,
            })
        })
    }

    fn tidy_journal(&mut self) {
        // Both keep what they could not write for the next attempt.
        let _ = self.journal.commit();
        if self.journal.wants_compaction() {
            let changes: Changes =
                self.ours().map(|(t, lever, change)| ((t, lever), change.clone())).collect();
            let _ = self.journal.compact(&changes);
        }
    }
}

/// Puts one value back if it is still ours and its thread is still the same. Nothing when the
/// thread is gone.
pub(super) fn put_back<C: Control>(
    control: &C,
    thread: ThreadId,
    change: &Change,
) -> Option<Event> {
    if control.start_time(thread.tid).ok()? != thread.start_time {
        return None;
    }
    let lever = change.ours.lever();
    let current = control.read(lever, thread.tid).ok()?;
    if !current.agrees_with(&change.ours) {
        return Some(Event::HandedOff { ours: change.ours.clone(), theirs: current });
    }
    match control.write(thread.tid, &change.old) {
        Ok(()) => Some(Event::Restored { old: change.old.clone() }),
        Err(error) if is_gone(&error) => None,
        Err(error) => {
            Some(Event::Failed { wanted: change.old.clone(), reason: words(&error, lever) })
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

fn is_realtime(value: &Value) -> bool {
    matches!(value, Value::Sched(sched) if sched.is_realtime())
}

/// A system call's error with what it means for this lever.
fn words(error: &io::Error, lever: Lever) -> String {
    let remedy = match (lever, error.raw_os_error()) {
        (Lever::Sched, Some(libc::EPERM)) => {
            "; it needs CAP_SYS_NICE, and under RT_GROUP_SCHED a real-time budget for the \
             thread's cgroup (cpu.rt_runtime_us)"
        }
        (Lever::Affinity, Some(libc::EINVAL)) => {
            "; none of these CPUs is online and allowed by the thread's cpuset"
        }
        (_, Some(libc::EPERM | libc::EACCES)) => {
            "; run downbeatd as root or with CAP_SYS_NICE and CAP_SYS_RESOURCE"
        }
        _ => "",
    };
    let call = match lever {
        Lever::Sched => "sched_setattr",
        Lever::Affinity => "sched_setaffinity",
        Lever::Ioprio => "ioprio_set",
        Lever::OomScoreAdj => "writing oom_score_adj",
    };
    format!("{call}: {error}{remedy}")
}

mod verify;

#[cfg(test)]
mod tests;
