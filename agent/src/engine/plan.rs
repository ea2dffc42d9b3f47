//! What the engine knows for `downbeat plan`. What each value is now is read by whoever answers,
//! off this loop.

use std::collections::BTreeSet;

use downbeat_api::{ByHand, DiscoveredAs, Held, HeldShared, Known, Mode, PlanSubject, Reserved};
use downbeat_policy::ProcessKind;

use super::Engine;
use crate::act::Subject;
use crate::model::{Assigned, Process};
use crate::plan::shared::{Member, Shared};
use crate::plan::{Wish, Wishes, held};

impl Engine {
    /// What every thread with a class should have, and what those have that lost theirs.
    pub(super) fn wishes(&self) -> Wishes {
        let threads = self.world.processes().flat_map(|process| {
            process.threads.iter().filter_map(|(tid, thread)| {
                self.wish(process, *tid, &thread.name, thread.classified)
            })
        });
        let known = Known {
            by_hand: self.known_by_hand(),
            discovered: self.known_discoveries(),
            reserved: self.known_reservations(),
            ..Known::default()
        };
        let when = match self.mode {
            Mode::Engaged => None,
            Mode::Paused => Some("downbeat is paused: this is what `downbeat resume` would do"),
            Mode::ObserveOnly => {
                Some("this agent only observes: this is what one that acts would do")
            }
        };
        let fallbacks = when.into_iter().chain(self.policy.fallbacks());
        Wishes {
            threads: threads.collect(),
            fallbacks: fallbacks.map(ToOwned::to_owned).collect(),
            shared: Shared {
                classes: self.policy.set.classes.clone(),
                active: self.active_classes(),
                members: self.members(),
                held: self.held_beside_threads(),
            },
            known,
        }
    }

    fn active_classes(&self) -> BTreeSet<usize> {
        let threads = self.world.processes().flat_map(|process| process.threads.values());
        threads.filter_map(|thread| Some(thread.classified?.class)).collect()
    }

    fn members(&self) -> Vec<Member> {
        let of = |process: &Process| {
            Some(Member {
                class: process.classified_as_a_whole()?.class,
                cgroup: process.facts.cgroup.clone(),
                unit: process.facts.unit.clone(),
            })
        };
        let ordinary = |process: &&Process| process.facts.kind == ProcessKind::Ordinary;
        self.world.processes().filter(ordinary).filter_map(of).collect()
    }

    fn wish(
        &self,
        process: &Process,
        tid: u32,
        name: &str,
        assigned: Option<Assigned>,
    ) -> Option<Wish> {
        let id = process.thread_id(tid)?;
        let levers = self.actuator.iter().flat_map(|actuator| actuator.levers(tid));
        let held: Vec<Held> = levers.filter_map(|(lever, entry)| held(lever, entry)).collect();
        let target = assigned.and_then(|assigned| {
            self.policy.targets.get(assigned.class).map(|target| (assigned, target))
        });
        if target.is_none() && held.is_empty() {
            return None;
        }
        let wanted = target.map_or_else(Vec::new, |(assigned, target)| {
            self.wanted(id, assigned, target).into_owned()
        });
        // An engaged agent has its groups already, and knows who goes into them.
        let joins = assigned
            .filter(|_| self.mode != Mode::Engaged && process.facts.kind == ProcessKind::Ordinary);
        Some(Wish {
            thread: id,
            process: process.facts.comm.clone(),
            name: name.to_owned(),
            class: target.map(|(_, target)| target.class.clone()),
            because: assigned.map(|assigned| self.because(process, assigned)),
            wanted,
            joins: joins.map(|assigned| assigned.class),
            class_of_process: self.class_of_process(process),
            held,
        })
    }

    /// Name of the class that a process has as a whole.
    pub(super) fn class_of_process(&self, process: &Process) -> Option<String> {
        let assigned = process.classified_as_a_whole()?;
        self.policy.set.classes.get(assigned.class).map(|class| class.name.clone())
    }

    /// Levers of groups, interrupts and the host, and what is known of units.
    fn held_beside_threads(&self) -> Vec<HeldShared> {
        let mut known = Vec::new();
        if let Some(actuator) = &self.actuator {
            for subject in actuator.beside_threads() {
                let Some(shown) = planned_subject(subject) else { continue };
                let levers = actuator.levers(subject.key());
                known.extend(levers.into_iter().filter_map(|(lever, entry)| {
                    Some(HeldShared { subject: shown.clone(), held: held(lever, entry)? })
                }));
            }
        }
        known.extend(self.ledger.units().map(|(unit, held)| HeldShared {
            subject: PlanSubject::Unit { name: unit.to_owned() },
            held: held.clone(),
        }));
        known
    }

    fn known_by_hand(&self) -> Vec<ByHand> {
        let of = |(pid, found): (u32, &crate::model::overrides::Override)| ByHand {
            pid,
            start_time: found.start_time,
            class: found.class.clone(),
            by_uid: found.by_uid,
        };
        self.overrides.iter().map(of).collect()
    }

    fn known_discoveries(&self) -> Vec<DiscoveredAs> {
        let of = |process: &Process| {
            Some(DiscoveredAs {
                pid: process.pid,
                start_time: process.start_time,
                modality: self.discovered_modality(process)?.name().to_owned(),
                because: self.discovered_as(process.pid),
            })
        };
        self.world.processes().filter_map(of).collect()
    }

    fn known_reservations(&self) -> Vec<Reserved> {
        let of = |process: &Process, tid: u32| {
            let learned = self.learned_reservation(tid)?;
            Some(Reserved {
                tid,
                start_time: process.thread_id(tid)?.start_time,
                runtime_ns: learned.runtime,
                deadline_ns: learned.deadline,
                period_ns: learned.period,
            })
        };
        let of_process = |process: &'_ Process| {
            process.threads.keys().filter_map(|tid| of(process, *tid)).collect::<Vec<_>>()
        };
        self.world.processes().flat_map(of_process).collect()
    }
}

/// A subject that is no thread, as a plan names it.
fn planned_subject(subject: &Subject) -> Option<PlanSubject> {
    match subject {
        Subject::Thread(_) => None,
        Subject::Group(id) => Some(PlanSubject::Group { path: id.path.to_string() }),
        Subject::Unit(name) => Some(PlanSubject::Unit { name: name.to_string() }),
        Subject::Irq(_) | Subject::Frequency(_) => {
            Some(PlanSubject::Device { name: subject.to_string() })
        }
        Subject::Host => Some(PlanSubject::Host),
    }
}
