//! What another policy than the one in force would want.

use std::collections::{BTreeSet, HashMap};

use downbeat_api::{ByHand, DiscoveredAs, Held, HeldValue, HostFacts, Known, Reserved};
use downbeat_policy::{PolicySet, ProcessKind, Rule, SchedPolicy};

use super::shared::{Member, Shared};
use super::{Wish, Wishes};
use crate::act::{Lever, RESET_ON_FORK, Sched, ThreadId, Value};
use crate::decide::{self, Target};
use crate::observe::process::{ProcessSample, ThreadSample};

/// What gave a class, in words.
#[must_use]
pub fn by_rule(rule: &Rule) -> String {
    // A rule without a name is called by its number, as `rule 5`.
    let name = rule.name.strip_prefix("rule ").unwrap_or(&rule.name);
    format!("by rule {name}, {}", rule.origin)
}

/// The same for a class by hand.
#[must_use]
pub fn by_hand(uid: u32) -> String {
    format!("by hand, by uid {uid}")
}

/// What `policy` wants of `processes` on this host; `known` is what a running agent knows.
#[must_use]
pub fn wishes_of(
    policy: &PolicySet,
    host: &HostFacts,
    processes: &[ProcessSample],
    known: &Known,
) -> Wishes {
    let targets: Vec<Target> =
        policy.classes.iter().map(|class| decide::target(class, host)).collect();
    let mut held_of: HashMap<(u32, u64), Vec<Held>> = HashMap::new();
    for HeldValue { pid: _, tid, start_time, held } in &known.held {
        held_of.entry((*tid, *start_time)).or_default().push(held.clone());
    }
    let given = Given { policy, known };
    let (mut threads, mut members, mut active) = (Vec::new(), Vec::new(), BTreeSet::new());
    for process in processes {
        let of_process = given.to_process(process);
        let of = |thread| of_process.clone().or_else(|| given.to_thread(process, thread));
        let main = process.threads.iter().find(|thread| thread.tid == process.pid);
        let of_main = main.and_then(of).map(|(class, _)| class);
        let class_of_process = of_main.and_then(|class| targets.get(class));
        for thread in &process.threads {
            let found = of(thread);
            let held = held_of.remove(&(thread.tid, thread.start_time)).unwrap_or_default();
            if found.is_none() && held.is_empty() {
                continue;
            }
            let (class, because) = found.unzip();
            active.extend(class);
            let target = class.and_then(|class| targets.get(class));
            threads.push(Wish {
                thread: ThreadId {
                    pid: process.pid,
                    tid: thread.tid,
                    start_time: thread.start_time,
                },
                process: process.facts.comm.clone(),
                name: thread.name.clone(),
                class: target.map(|target| target.class.clone()),
                because,
                wanted: target.map_or_else(Vec::new, |target| given.values(target, thread)),
                joins: class.filter(|_| process.facts.kind == ProcessKind::Ordinary),
                class_of_process: class_of_process.map(|target| target.class.clone()),
                held,
            });
        }
        let of_main = of_main.filter(|_| process.facts.kind == ProcessKind::Ordinary);
        members.extend(of_main.map(|class| Member {
            class,
            cgroup: process.facts.cgroup.clone(),
            unit: process.facts.unit.clone(),
        }));
    }
    let mut fallbacks: Vec<String> =
        targets.into_iter().filter_map(|target| target.fallback).collect();
    if policy.auto.enabled && known.discovered.is_empty() {
        fallbacks.push(
            "discovery is on in this policy, and nothing was discovered so far: programs that no \
             rule names may get a class that is not in this plan (`downbeat discover` looks)"
                .to_owned(),
        );
    }
    let (classes, held) = (policy.classes.clone(), known.shared.clone());
    let shared = Shared { classes, active, members, held };
    Wishes { threads, fallbacks, shared, known: known.clone() }
}

/// What gives a class under another policy.
struct Given<'a> {
    policy: &'a PolicySet,
    known: &'a Known,
}

impl Given<'_> {
    /// By hand, which goes before every rule.
    fn to_process(&self, process: &ProcessSample) -> Option<(usize, String)> {
        let is_of = |it: &&ByHand| (it.pid, it.start_time) == (process.pid, process.start_time);
        let ByHand { class, by_uid, .. } = self.known.by_hand.iter().find(is_of)?;
        let class = self.policy.classes.iter().position(|known| known.name == *class)?;
        Some((class, by_hand(*by_uid)))
    }

    /// By the first rule, or else by what was discovered.
    fn to_thread(&self, process: &ProcessSample, thread: &ThreadSample) -> Option<(usize, String)> {
        if let Some(found) = self.policy.classify(&process.facts, &thread.name) {
            return Some((found.class, by_rule(self.policy.rules.get(found.rule)?)));
        }
        if !self.policy.auto.enabled || process.facts.kind != ProcessKind::Ordinary {
            return None;
        }
        let is_of =
            |it: &&DiscoveredAs| (it.pid, it.start_time) == (process.pid, process.start_time);
        let found = self.known.discovered.iter().find(is_of)?;
        let mut classes = self.policy.auto.classes.iter();
        let (_, class) = classes.find(|(modality, _)| modality.name() == found.modality)?;
        Some((*class, found.because.clone()))
    }

    /// The class's values, with the thread's own reservation where that was learned.
    fn values(&self, target: &Target, thread: &ThreadSample) -> Vec<Value> {
        let mut values = target.values.clone();
        let is_of = |it: &&Reserved| (it.tid, it.start_time) == (thread.tid, thread.start_time);
        let learned = target.reservation.and_then(|_| self.known.reserved.iter().find(is_of));
        if let Some(Reserved { runtime_ns, deadline_ns, period_ns, .. }) = learned {
            values.retain(|value| value.lever() != Lever::Sched);
            let sched = Sched {
                policy: Sched::policy_number(SchedPolicy::Deadline),
                flags: RESET_ON_FORK,
                runtime: *runtime_ns,
                deadline: *deadline_ns,
                period: *period_ns,
                ..Sched::DEFAULT
            };
            values.insert(0, Value::Sched(sched));
        }
        values
    }
}
