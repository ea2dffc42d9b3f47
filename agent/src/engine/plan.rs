//! What the engine knows for `downbeat plan`. What each value is now is read by whoever answers,
//! off this loop.

use std::collections::BTreeSet;

use downbeat_policy::ProcessKind;

use super::Engine;
use crate::model::{Assigned, Process};
use crate::plan::shared::{Member, Shared};
use crate::plan::{Held, Wish, Wishes};

impl Engine {
    /// What every thread with a class should have, and what those have that lost theirs.
    pub(super) fn wishes(&self) -> Wishes {
        let threads = self.world.processes().flat_map(|process| {
            process.threads.iter().filter_map(|(tid, thread)| {
                self.wish(process, *tid, &thread.name, thread.classified)
            })
        });
        Wishes {
            threads: threads.collect(),
            fallbacks: self.policy.fallbacks().map(ToOwned::to_owned).collect(),
            shared: Shared { classes: self.policy.set.classes.clone(), members: self.members() },
        }
    }

    fn members(&self) -> Vec<Member> {
        let of = |process: &Process| {
            let threads = process.threads.values();
            let classes: BTreeSet<usize> =
                threads.filter_map(|t| Some(t.classified?.class)).collect();
            let (cgroup, unit) = (process.facts.cgroup.clone(), process.facts.unit.clone());
            let member = move |class| Member { class, cgroup: cgroup.clone(), unit: unit.clone() };
            classes.into_iter().map(member)
        };
        let ordinary = |process: &&Process| process.facts.kind == ProcessKind::Ordinary;
        self.world.processes().filter(ordinary).flat_map(of).collect()
    }

    fn wish(
        &self,
        process: &Process,
        tid: u32,
        name: &str,
        assigned: Option<Assigned>,
    ) -> Option<Wish> {
        let levers = self.actuator.iter().flat_map(|actuator| actuator.levers(tid));
        let held: Vec<Held> = levers.filter_map(|(lever, entry)| Held::of(lever, entry)).collect();
        let target = assigned.and_then(|assigned| self.policy.targets.get(assigned.class));
        if target.is_none() && held.is_empty() {
            return None;
        }
        Some(Wish {
            thread: process.thread_id(tid)?,
            process: process.facts.comm.clone(),
            name: name.to_owned(),
            class: target.map(|target| target.class.clone()),
            because: assigned.map(|assigned| self.because(process, assigned)),
            wanted: target.map_or_else(Vec::new, |target| target.values.clone()),
            held,
        })
    }
}
