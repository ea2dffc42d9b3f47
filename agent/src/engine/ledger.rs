//! What the agent did: counts for metrics, the latest actions for people.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use downbeat_api::{Action, Held, HeldState, LeverCount};

use crate::act::{self, Done, Event, Lever};

/// How many of the latest actions are kept.
const RECENT: usize = 100;

/// Counts and the latest actions since the agent started.
#[derive(Debug, Default)]
pub struct Ledger {
    counts: [Counts; Lever::ALL.len()],
    recent: VecDeque<Action>,
    /// What systemd made of each lever of a unit. Units are changed on a thread of their own, so
    /// its answers are all that is known of them here.
    units: BTreeMap<(Arc<str>, Lever), Held>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    applied: u64,
    failed: u64,
    restored: u64,
    handed_off: u64,
}

/// Whom a batch of actions was about, for people.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Process; 0 for what is none.
    pub pid: u32,
    /// Its name.
    pub name: &'a str,
    /// The class that asked.
    pub class: &'a str,
}

impl Ledger {
    /// Takes in what was done to threads of one process, or to one other subject. Equal actions on several threads become
    /// one line.
    pub fn enter(&mut self, subject: Subject<'_>, done: &[Done], unix_time: f64) {
        let mut lines: Vec<(String, bool, u32)> = Vec::new();
        for done in done {
            let counts = &mut self.counts[done.lever as usize];
            match &done.event {
                Event::Applied { .. } => counts.applied += 1,
                Event::Failed { .. } => counts.failed += 1,
                Event::Restored { .. } => counts.restored += 1,
                Event::HandedOff { .. } => counts.handed_off += 1,
            }
            self.note_unit(done);
            let text = words(done);
            let failed = matches!(done.event, Event::Failed { .. });
            match lines.iter_mut().find(|(known, ..)| *known == text) {
                Some((.., threads)) => *threads += 1,
                None => lines.push((text, failed, 1)),
            }
        }
        for (text, failed, threads) in lines {
            let text = if threads == 1 { text } else { format!("{text} (on {threads} threads)") };
            let Subject { pid, name, class } = subject;
            if failed {
                tracing::warn!(pid, name, class, "{text}");
            } else {
                tracing::debug!(pid, name, class, "{text}");
            }
            self.recent.push_back(Action {
                unix_time,
                pid,
                name: name.to_owned(),
                class: class.to_owned(),
                text,
                failed,
            });
        }
        let surplus = self.recent.len().saturating_sub(RECENT);
        self.recent.drain(..surplus);
    }

    fn note_unit(&mut self, done: &Done) {
        let act::Subject::Unit(unit) = &done.subject else { return };
        let (wanted, state) = match &done.event {
            Event::Applied { old, new } => {
                (new, HeldState::Ours { old: old.to_string(), ours: new.to_string() })
            }
            Event::Failed { wanted, reason } => {
                (wanted, HeldState::Refused { reason: reason.clone() })
            }
            Event::HandedOff { ours, theirs } => {
                (ours, HeldState::HandedOff { theirs: theirs.to_string() })
            }
            Event::Restored { .. } => {
                self.units.remove(&(Arc::clone(unit), done.lever));
                return;
            }
        };
        let lever = done.lever.name().to_owned();
        let held = Held { lever, wanted: Some(wanted.to_string()), state };
        self.units.insert((Arc::clone(unit), done.lever), held);
    }

    /// What is known of the levers of units, by the unit's name.
    pub fn units(&self) -> impl Iterator<Item = (&str, &Held)> {
        self.units.iter().map(|((unit, _), held)| (&**unit, held))
    }

    /// Counts per lever, in the order of [`Lever::ALL`].
    #[must_use]
    pub fn levers(&self) -> Vec<LeverCount> {
        Lever::ALL
            .into_iter()
            .zip(self.counts)
            .map(|(lever, Counts { applied, failed, restored, handed_off })| LeverCount {
                lever: lever.name().to_owned(),
                applied,
                failed,
                restored,
                handed_off,
            })
            .collect()
    }

    /// The latest actions, newest last.
    #[must_use]
    pub fn recent(&self) -> Vec<Action> {
        self.recent.iter().cloned().collect()
    }
}

fn words(done: &Done) -> String {
    let lever = done.lever.name();
    match &done.event {
        Event::Applied { old, new } => format!("{lever} {old} → {new}"),
        Event::Failed { wanted, reason } => format!("{lever} {wanted} refused: {reason}"),
        Event::Restored { old } => format!("{lever} back to {old}"),
        Event::HandedOff { ours, theirs } => {
            format!("{lever} left alone: someone changed {ours} to {theirs}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::{ThreadId, Value};

    fn applied(tid: u32) -> Done {
        let event = Event::Applied { old: Value::OomScoreAdj(0), new: Value::OomScoreAdj(300) };
        let thread = ThreadId { pid: 1, tid, start_time: 0 };
        Done { subject: thread.into(), lever: Lever::OomScoreAdj, event }
    }

    const SUBJECT: Subject<'static> = Subject { pid: 1, name: "it", class: "voice" };

    #[test]
    fn equal_actions_on_several_threads_are_one_line_and_counted_each() {
        let mut ledger = Ledger::default();
        ledger.enter(SUBJECT, &[applied(1), applied(2)], 5.0);
        let recent = ledger.recent();
        assert_eq!(recent.len(), 1);
        assert_eq!(recent[0].text, "oom_score_adj 0 → 300 (on 2 threads)");
        let oom = ledger.levers().into_iter().find(|c| c.lever == "oom_score_adj").unwrap();
        assert_eq!(oom.applied, 2);
    }

    #[test]
    fn what_systemd_made_of_a_unit_is_known_until_it_goes_back() {
        let mut ledger = Ledger::default();
        let unit = act::Subject::Unit("it.service".into());
        let done = |event| Done { subject: unit.clone(), lever: Lever::CpuWeight, event };
        let weight = |weight| Value::CpuWeight(act::CpuShare::Weight(weight));
        let subject = Subject { pid: 0, name: "unit it.service", class: "" };
        let set = Event::Applied { old: weight(100), new: weight(800) };
        ledger.enter(subject, &[done(set)], 1.0);
        let known = |ledger: &Ledger| ledger.units().map(|(_, held)| held.clone()).next();
        let ours = HeldState::Ours { old: "100".into(), ours: "800".into() };
        assert_eq!(known(&ledger).unwrap().state, ours);
        let refused = Event::Failed { wanted: weight(900), reason: "EINVAL".into() };
        ledger.enter(subject, &[done(refused)], 2.0);
        let state = HeldState::Refused { reason: "EINVAL".into() };
        let wanted = Some("900".into());
        assert_eq!(known(&ledger), Some(Held { lever: "cpu.weight".into(), wanted, state }));
        ledger.enter(subject, &[done(Event::Restored { old: weight(100) })], 3.0);
        assert_eq!(known(&ledger), None);
    }

    #[test]
    fn only_the_latest_are_kept() {
        let mut ledger = Ledger::default();
        for tid in 0..1000 {
            ledger.enter(SUBJECT, &[applied(tid)], f64::from(tid));
        }
        let recent = ledger.recent();
        assert_eq!(recent.len(), RECENT);
        assert_eq!(recent.last().unwrap().unix_time, 999.0);
    }
}
