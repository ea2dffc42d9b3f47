//! What children have from us through whoever made them, and what a thread takes along through exec.

use super::{Actuator, Levers};
use crate::act::control::Control;
use crate::act::journal::Changes;
use crate::act::lineage::inherited;
use crate::act::outcome::{LeverEntry, Standing};
use crate::act::subject::{Key, Subject, ThreadId};

impl<C: Control> Actuator<C> {
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
}
