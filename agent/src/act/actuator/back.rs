//! The way back: one value, one subject, or everything.

use std::io;

use super::Actuator;
use crate::act::control::{Control, VanishedGroup, is_gone};
use crate::act::journal::Change;
use crate::act::outcome::{Done, Event, LeverEntry, Request, Standing};
use crate::act::reason::words;
use crate::act::subject::{Key, Subject, ThreadId};
use crate::act::value::{Lever, Value};

impl<C: Control> Actuator<C> {
    /// Puts back everything that is still ours on one subject, and forgets what it had. What
    /// someone else changed stays theirs, and what could not be put back stays ours.
    pub fn undo(&mut self, key: impl Into<Key>) -> Vec<Done> {
        let key = key.into();
        let mut done = Vec::new();
        let Some((subject, mut levers)) = self.subjects.remove(&key) else {
            return done;
        };
        self.postponed.retain(|it| it.subject != subject);
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

    /// Puts back everything: threads first, those that move their process last of them, since a group of the agent's own can only go once
    /// nobody is in it, and a group before the one that it is in.
    pub fn undo_all(&mut self) -> Vec<Done> {
        let is_thread = |key: &&Key| matches!(key, Key::Thread(_));
        let (mut keys, mut others): (Vec<Key>, Vec<Key>) =
            self.subjects.keys().cloned().partition(|key| is_thread(&key));
        keys.sort_by_cached_key(|key| {
            let is_main = self.subjects.get(key).is_some_and(|(it, _)| it.is_main_thread());
            (is_main, key.clone())
        });
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
            self.refuse(&subject, wanted, None, reason.to_owned(), &mut done);
            self.doubted.remove(&subject.key());
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
        let process_lives = subject.is_main_thread() && self.control.is_same(&subject);
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

    /// A lever that the new request does not name any more goes back.
    pub(super) fn put_back_unwanted(&mut self, request: &Request<'_>, done: &mut Vec<Done>) {
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
    pub(super) fn bury(&mut self, key: &Key) {
        let Some((subject, levers)) = self.subjects.remove(key) else {
            return;
        };
        for (lever, entry) in levers {
            if matches!(entry.standing, Standing::Ours(_)) {
                self.journal.forget(&subject, lever);
            }
        }
    }
}

/// Puts one value back if it is still ours and its subject is still the same. Nothing when that is
/// gone. A nice value that someone else set meanwhile stays.
pub(in crate::act) fn put_back<C: Control>(
    control: &C,
    subject: &Subject,
    change: &Change,
) -> Option<Event> {
    if !control.is_same(subject) {
        return None;
    }
    let lever = change.ours.lever();
    let current = match control.read(lever, subject) {
        Ok(current) => current,
        // A lever that went with its controller is gone as well.
        Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::Unsupported => return None,
        Err(error) => {
            let reason = format!("it cannot be read: {error}");
            return Some(Event::Failed { wanted: change.old.clone(), reason });
        }
    };
    // What is back already is set once more: a restore that was cut short may have done it in part.
    if !current.agrees_with(&change.ours) && !current.agrees_with(&change.old) {
        return Some(Event::HandedOff { ours: change.ours.clone(), theirs: current });
    }
    let old = change.to_go_back(&current);
    match control.write(subject, &old) {
        Ok(()) => {
            if let Some(kept) = change.kept(&old) {
                tracing::info!("{subject}: {kept}");
            }
            Some(Event::Restored { old })
        }
        Err(error) if is_gone(&error) => None,
        Err(error) => {
            if VanishedGroup::is(&error)
                && let Some(old) = nearest_home(control, subject, &change.old)
            {
                tracing::warn!("{error}: {subject} went to {old}, the nearest that is left");
                return Some(Event::Restored { old });
            }
            let reason = words(&error, &old);
            Some(Event::Failed { wanted: old, reason })
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
