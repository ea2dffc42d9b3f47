//! Looking again at what was set: someone else may have changed it.

use super::{Actuator, Levers};
use crate::act::control::{Control, is_gone};
use crate::act::journal::Change;
use crate::act::outcome::{Done, Event, Standing};

/// From twice as many threads on they take turns.
const AT_A_TIME: usize = 16;

/// The most looks from one turn of a thread to its next.
const MOST_TURNS: usize = 4;

impl<C: Control> Actuator<C> {
    /// Looks whether what we set, or found as wanted, is still so. What someone else changed is
    /// theirs. `now` is in clock ticks since boot; a second between two looks is enough.
    ///
    /// Where many threads are managed, each has its turn at every second to fourth look. Real-time
    /// threads are looked at each time: a wrong value there hurts at once.
    pub fn verify(&mut self, now: u64) -> Vec<Done> {
        let mut done = Vec::new();
        let mut gone = Vec::new();
        self.looks = self.looks.wrapping_add(1);
        let turns = (self.subjects.len() / AT_A_TIME).clamp(1, MOST_TURNS) as u32;
        for (key, (subject, levers)) in &mut self.subjects {
            let number = subject.thread().map_or(self.looks, |id| id.tid);
            let has_turn = number % turns == self.looks % turns;
            if has_turn && !self.control.is_same(subject) {
                gone.push(key.clone());
                continue;
            }
            let looked_at = has_turn || has_realtime(levers);
            for (lever, entry) in levers {
                let change = match &entry.standing {
                    Standing::Ours(change) => Some(change),
                    Standing::AlreadySo if has_turn => None,
                    _ => continue,
                };
                let Some(ours) = change.map(|it| &it.ours).or(entry.wanted.as_ref()) else {
                    continue;
                };
                // Until its turn comes it counts as ours: a child that started meanwhile has it.
                let theirs = if looked_at && (has_turn || !lever.is_per_process()) {
                    match self.control.read(*lever, subject) {
                        Ok(theirs) => Some(theirs),
                        Err(error) if is_gone(&error) => {
                            gone.push(key.clone());
                            break;
                        }
                        Err(_) => continue,
                    }
                } else {
                    None
                };
                let Some(theirs) = theirs.filter(|theirs| !theirs.agrees_with(ours)) else {
                    if let (Some(pid), Some(change)) = (subject.pid(), change) {
                        self.lineage.note(pid, change, now);
                    }
                    continue;
                };
                // It may be another thread's by now.
                if !has_turn && !self.control.is_same(subject) {
                    gone.push(key.clone());
                    break;
                }
                // The watch for runaways tells what it did before the next look.
                let may_be_demoted = |change: &Change| {
                    change.ours.is_realtime() && theirs.agrees_with(&change.to_go_back(&theirs))
                };
                if change.is_some_and(may_be_demoted) && self.doubted.insert(key.clone()) {
                    continue;
                }
                self.doubted.remove(key);
                if change.is_some() {
                    self.journal.forget(subject, *lever);
                }
                let event = Event::HandedOff { ours: ours.clone(), theirs: theirs.clone() };
                done.push(Done { subject: subject.clone(), lever: *lever, event });
                entry.standing = Standing::HandedOff(theirs);
            }
        }
        for key in gone {
            self.bury(&key);
        }
        if !self.doubted.is_empty() {
            let subjects = &self.subjects;
            self.doubted.retain(|key| subjects.contains_key(key));
        }
        self.lineage.expire(now);
        done.extend(self.try_again(now));
        self.tidy_journal();
        done
    }
}

fn has_realtime(levers: &Levers) -> bool {
    levers.values().any(|entry| match &entry.standing {
        Standing::Ours(change) => change.ours.is_realtime(),
        _ => false,
    })
}
