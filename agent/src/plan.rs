//! What would change, and why: the difference between what is and what is wanted. Changes nothing.
//!
//! The agent makes its own plan from what it knows of each thread; `downbeat plan FILES` makes one
//! for another policy, from `/proc` and from what a running agent knows beside its policy.

pub mod other;
pub mod shared;
mod verdict;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use downbeat_api::{
    Held, HeldState, HeldValue, HostFacts, Known, Plan, PlanStep, PlanSubject, PlannedChange, State,
};

use crate::act::{Control, Kernel, Lever, Subject, ThreadId, Value, is_gone};
use crate::observe::machine::Machine;
use crate::roots::Roots;
use shared::{Place, Shared};
use verdict::{Verdict, verdict};

pub use verdict::held;

/// What one thread should have, and what is known of its levers.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// The thread.
    pub thread: ThreadId,
    /// Name of its process's main thread.
    pub process: String,
    /// Its own name.
    pub name: String,
    /// Its class; absent for one that only has something to lose.
    pub class: Option<String>,
    /// What gave the class, in words.
    pub because: Option<String>,
    /// At most one value per lever.
    pub wanted: Vec<Value>,
    /// Place in [`Shared::classes`] of the class whose own group its process would go into, where
    /// `wanted` does not say so yet.
    pub joins: Option<usize>,
    /// The class of its process's main thread.
    pub class_of_process: Option<String>,
    /// Levers of which something is known.
    pub held: Vec<Held>,
}

/// Everything that a plan is made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    /// Per thread.
    pub threads: Vec<Wish>,
    /// What the host cannot grant, per class that asks for it.
    pub fallbacks: Vec<String>,
    /// For what several processes share.
    pub shared: Shared,
    /// What the agent knows beside its policy; the values that threads hold are in their wishes.
    pub known: Known,
}

/// The whole plan: threads first, then what they share. Reads what everything is now. `groups` is
/// where the agent's own groups lie, or why there can be none.
#[must_use]
pub fn whole(
    wishes: &Wishes,
    host: &HostFacts,
    roots: &Roots,
    kernel: &Kernel,
    groups: Result<Arc<str>, String>,
) -> Plan {
    let read = |lever, subject: &Subject| kernel.read(lever, subject);
    let systemd = host.findings.iter().any(|f| f.id == "systemd" && f.state == State::Present);
    let machine = Machine::read(roots);
    let place = Place { host, machine: &machine, groups, systemd };
    let mut plan = plan(wishes, &wishes.shared.own_groups(&place).of_class, read);
    let of_shared = shared::plan(&wishes.shared, &place, read);
    plan.changes.extend(of_shared.changes);
    plan.settled += of_shared.settled;
    plan.fallbacks.extend(of_shared.fallbacks);
    let (groups, no_groups) = match place.groups {
        Ok(path) => (Some(path.to_string()), None),
        Err(reason) => (None, Some(reason)),
    };
    let shared = wishes.shared.held.clone();
    let held = std::mem::take(&mut plan.known.held);
    plan.known = Known { held, shared, groups, no_groups, ..wishes.known.clone() };
    plan
}

/// The plan for threads. `own_groups` are the groups that classes move their processes into, by the
/// class's place; `read` says what a lever of a thread is now.
#[must_use]
pub fn plan(
    wishes: &Wishes,
    own_groups: &BTreeMap<usize, Arc<str>>,
    read: impl Fn(Lever, &Subject) -> io::Result<Value>,
) -> Plan {
    let mut plan = Plan { fallbacks: wishes.fallbacks.clone(), ..Plan::default() };
    for wish in &wishes.threads {
        let group = wish.joins.and_then(|class| own_groups.get(&class));
        let joins = group.map(|path| Value::Cgroup(Arc::clone(path)));
        // Half of a thread that has ended would be no plan.
        if let Ok(of_thread) = plan_thread(wish, joins.as_ref(), &read) {
            plan.changes.extend(of_thread.changes);
            plan.settled += of_thread.settled;
            plan.known.held.extend(of_thread.known.held);
        }
    }
    plan
}

/// The plan for one thread.
///
/// # Errors
/// When it is gone.
fn plan_thread(
    wish: &Wish,
    joins: Option<&Value>,
    read: impl Fn(Lever, &Subject) -> io::Result<Value>,
) -> io::Result<Plan> {
    let mut plan = Plan::default();
    let ThreadId { pid, tid, start_time } = wish.thread;
    let thread = Subject::from(wish.thread);
    let (process, name) = (wish.process.clone(), wish.name.clone());
    let subject = PlanSubject::Thread { pid, process, tid, name };
    let planned = |lever: &str, now: Option<String>, wanted: String, step| PlannedChange {
        subject: subject.clone(),
        lever: lever.to_owned(),
        now,
        wanted,
        step,
        class: wish.class.clone(),
        because: wish.because.clone(),
    };
    let all = || wish.wanted.iter().chain(joins);
    for wanted in all() {
        let lever = wanted.lever();
        // The kernel keeps one value per process, which is set through its main thread.
        if lever.is_per_process() && tid != pid {
            if let Some(reason) = not_of_process(&wish.class, &wish.class_of_process) {
                let step = PlanStep::LeaveAlone { reason };
                plan.changes.push(planned(lever.name(), None, wanted.to_string(), step));
            }
            continue;
        }
        let known = wish.held.iter().find(|held| held.lever == lever.name());
        let now = match read(lever, &thread) {
            Ok(now) => now,
            Err(error) if is_gone(&error) => return Err(error),
            Err(error) => {
                let step = PlanStep::LeaveAlone { reason: format!("it cannot be read: {error}") };
                plan.changes.push(planned(lever.name(), None, wanted.to_string(), step));
                continue;
            }
        };
        let step = match verdict(&now, wanted, known) {
            Verdict::Settled => {
                plan.settled += 1;
                continue;
            }
            Verdict::Set => PlanStep::Set,
            Verdict::Leave(reason) => PlanStep::LeaveAlone { reason },
        };
        plan.changes.push(planned(lever.name(), Some(now.to_string()), wanted.to_string(), step));
    }
    for held in &wish.held {
        plan.known.held.push(HeldValue { pid, tid, start_time, held: held.clone() });
        let HeldState::Ours { old, ours } = &held.state else { continue };
        if all().any(|wanted| wanted.lever().name() == held.lever) {
            continue;
        }
        let lever = Lever::ALL.into_iter().find(|lever| lever.name() == held.lever);
        let now = lever.and_then(|lever| read(lever, &thread).ok()).map(|now| now.to_string());
        // What someone else changed stays theirs.
        if now.as_ref() == Some(ours) {
            plan.changes.push(planned(&held.lever, now, old.clone(), PlanStep::PutBack));
        }
    }
    Ok(plan)
}

/// Why a lever of which a process has one stays as it is, where another thread than the main one
/// asks for it; nothing where the main thread asks for the same.
#[must_use]
pub fn not_of_process(class: &Option<String>, of_process: &Option<String>) -> Option<String> {
    let whose = match of_process {
        of_process if of_process == class => return None,
        Some(name) => format!("class {name}"),
        None => "no class".to_owned(),
    };
    Some(format!("a process has one for all its threads, and its main thread has {whose}"))
}

#[cfg(test)]
mod tests;
