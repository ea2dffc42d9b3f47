//! What would change, and why: the difference between what is and what is wanted. Changes nothing.
//!
//! The agent makes its own plan from what it knows of each thread; `downbeat plan FILES` makes one
//! for another policy, from `/proc` and from what a running agent says that it holds.

pub mod shared;

use std::collections::{BTreeSet, HashMap};
use std::io;

use downbeat_api::{HeldValue, HostFacts, Plan, PlanStep, PlanSubject, PlannedChange, State};
use downbeat_policy::PolicySet;

use crate::act::{Control, Kernel, Lever, LeverEntry, Standing, Subject, ThreadId, Value, is_gone};
use crate::decide::{self, Target};
use crate::observe::machine::Machine;
use crate::observe::process::ProcessSample;
use crate::roots::Roots;
use shared::{Member, Place, Shared};

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
    /// What gave the class.
    pub because: Option<String>,
    /// At most one value per lever.
    pub wanted: Vec<Value>,
    /// Levers of which something is known.
    pub held: Vec<Held>,
}

/// What is known of one lever of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its name.
    pub lever: String,
    /// Where it stands.
    pub state: HeldState,
}

/// Where a lever stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldState {
    /// Set by downbeat.
    Ours {
        /// What it was before.
        old: String,
        /// What it was set to.
        ours: String,
    },
    /// Not to be touched, for this reason.
    Settled(String),
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
}

impl Held {
    /// What an actuator knows of a lever; nothing where it holds nothing and refuses nothing.
    #[must_use]
    pub fn of(lever: Lever, entry: &LeverEntry) -> Option<Self> {
        let state = match &entry.standing {
            Standing::Ours(change) => {
                HeldState::Ours { old: change.old.to_string(), ours: change.ours.to_string() }
            }
            Standing::HandedOff(theirs) => HeldState::Settled(format!(
                "someone changed it to {theirs} after downbeat had set it"
            )),
            Standing::Refused(reason) => HeldState::Settled(format!("refused: {reason}")),
            // What is there now says the same, or more.
            Standing::AlreadySo | Standing::RealtimeByOwnWish(_) => return None,
        };
        Some(Self { lever: lever.name().to_owned(), state })
    }
}

/// The whole plan: threads first, then what they share. Reads what everything is now.
#[must_use]
pub fn whole(wishes: &Wishes, host: &HostFacts, roots: &Roots, kernel: &Kernel) -> Plan {
    let read = |lever, subject: &Subject| kernel.read(lever, subject);
    let mut plan = plan(wishes, read);
    let systemd = host.findings.iter().any(|f| f.id == "systemd" && f.state == State::Present);
    let machine = Machine::read(roots);
    let groups = kernel.place_for_groups();
    let place = Place { host, machine: &machine, groups, systemd };
    let of_shared = shared::plan(&wishes.shared, &place, read);
    plan.changes.extend(of_shared.changes);
    plan.settled += of_shared.settled;
    plan.fallbacks.extend(of_shared.fallbacks);
    plan
}

/// The plan for threads. `read` says what a lever of a thread is now.
#[must_use]
pub fn plan(wishes: &Wishes, read: impl Fn(Lever, &Subject) -> io::Result<Value>) -> Plan {
    let mut plan = Plan { fallbacks: wishes.fallbacks.clone(), ..Plan::default() };
    for wish in &wishes.threads {
        // Half of a thread that has ended would be no plan.
        if let Ok(of_thread) = plan_thread(wish, &read) {
            plan.changes.extend(of_thread.changes);
            plan.settled += of_thread.settled;
            plan.held.extend(of_thread.held);
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
    for wanted in &wish.wanted {
        let lever = wanted.lever();
        // The kernel keeps one value per process, which is set through its main thread.
        if lever.is_per_process() && tid != pid {
            continue;
        }
        let known = wish.held.iter().find(|held| held.lever == lever.name());
        let leave = |now, reason: String| {
            let step = PlanStep::LeaveAlone { reason };
            planned(lever.name(), now, wanted.to_string(), step)
        };
        let now = match read(lever, &thread) {
            Ok(now) => now,
            Err(error) if is_gone(&error) => return Err(error),
            Err(error) => {
                plan.changes.push(leave(None, format!("reading it: {error}")));
                continue;
            }
        };
        if now.agrees_with(wanted) {
            plan.settled += 1;
            continue;
        }
        let shown = Some(now.to_string());
        let change = match known.map(|held| &held.state) {
            Some(HeldState::Settled(reason)) => leave(shown, reason.clone()),
            Some(HeldState::Ours { ours, .. }) if *ours != now.to_string() => {
                leave(shown, "someone changed it after downbeat had set it".into())
            }
            None if is_realtime(&now) => {
                let own = "it is real-time by its own wish, which is never taken away";
                leave(shown, own.into())
            }
            Some(HeldState::Ours { .. }) | None => {
                planned(lever.name(), shown, wanted.to_string(), PlanStep::Set)
            }
        };
        plan.changes.push(change);
    }
    for held in &wish.held {
        let HeldState::Ours { old, ours } = &held.state else { continue };
        plan.held.push(HeldValue {
            pid,
            tid,
            start_time,
            lever: held.lever.clone(),
            old: old.clone(),
            ours: ours.clone(),
        });
        if wish.wanted.iter().any(|wanted| wanted.lever().name() == held.lever) {
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

fn is_realtime(value: &Value) -> bool {
    matches!(value, Value::Sched(sched) if sched.is_realtime())
}

/// What `policy` wants of `processes` on this host; `held` is what a running agent has set under
/// another policy.
#[must_use]
pub fn wishes_of(
    policy: &PolicySet,
    host: &HostFacts,
    processes: &[ProcessSample],
    held: &[HeldValue],
) -> Wishes {
    let targets: Vec<Target> =
        policy.classes.iter().map(|class| decide::target(class, host)).collect();
    let mut held_of: HashMap<(u32, u64), Vec<Held>> = HashMap::new();
    for HeldValue { pid: _, tid, start_time, lever, old, ours } in held {
        let state = HeldState::Ours { old: old.clone(), ours: ours.clone() };
        let held = Held { lever: lever.clone(), state };
        held_of.entry((*tid, *start_time)).or_default().push(held);
    }
    let (mut threads, mut members) = (Vec::new(), Vec::new());
    for process in processes {
        let mut classes = BTreeSet::new();
        for thread in &process.threads {
            let found = policy.classify(&process.facts, &thread.name);
            let held = held_of.remove(&(thread.tid, thread.start_time)).unwrap_or_default();
            if found.is_none() && held.is_empty() {
                continue;
            }
            classes.extend(found.map(|found| found.class));
            let target = found.and_then(|found| targets.get(found.class));
            let rule = found.and_then(|found| policy.rules.get(found.rule));
            threads.push(Wish {
                thread: ThreadId {
                    pid: process.pid,
                    tid: thread.tid,
                    start_time: thread.start_time,
                },
                process: process.facts.comm.clone(),
                name: thread.name.clone(),
                class: target.map(|target| target.class.clone()),
                because: rule.map(|rule| format!("{}, {}", rule.name, rule.origin)),
                wanted: target.map_or_else(Vec::new, |target| target.values.clone()),
                held,
            });
        }
        members.extend(classes.into_iter().map(|class| Member {
            class,
            cgroup: process.facts.cgroup.clone(),
            unit: process.facts.unit.clone(),
        }));
    }
    let fallbacks = targets.into_iter().filter_map(|target| target.fallback).collect();
    let shared = Shared { classes: policy.classes.clone(), members };
    Wishes { threads, fallbacks, shared }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREAD: ThreadId = ThreadId { pid: 10, tid: 10, start_time: 5 };

    fn wish(wanted: Vec<Value>, held: Vec<Held>) -> Wishes {
        let wish = Wish {
            thread: THREAD,
            process: "it".into(),
            name: "it".into(),
            class: Some("voice".into()),
            because: Some("a rule, a.toml:3".into()),
            wanted,
            held,
        };
        Wishes { threads: vec![wish], ..Wishes::default() }
    }

    fn oom(state: HeldState) -> Held {
        Held { lever: Lever::OomScoreAdj.name().into(), state }
    }

    fn ours() -> Held {
        oom(HeldState::Ours { old: "0".into(), ours: "300".into() })
    }

    fn steps(wishes: &Wishes, now: i16) -> Vec<(Option<String>, String, PlanStep)> {
        let plan = plan(wishes, |_, _| Ok(Value::OomScoreAdj(now)));
        plan.changes.into_iter().map(|c| (c.now, c.wanted, c.step)).collect()
    }

    #[test]
    fn what_differs_would_be_set_and_what_agrees_not() {
        let wanted = || wish(vec![Value::OomScoreAdj(300)], Vec::new());
        assert_eq!(steps(&wanted(), 0), [(Some("0".into()), "300".into(), PlanStep::Set)]);
        assert_eq!(steps(&wanted(), 300), []);
        assert_eq!(plan(&wanted(), |_, _| Ok(Value::OomScoreAdj(300))).settled, 1);
    }

    #[test]
    fn what_no_class_asks_for_any_more_would_go_back() {
        let no_more = wish(Vec::new(), vec![ours()]);
        assert_eq!(steps(&no_more, 300), [(Some("300".into()), "0".into(), PlanStep::PutBack)]);
        assert_eq!(steps(&no_more, 7), [], "someone else changed it: theirs");
    }

    #[test]
    fn what_others_changed_and_what_was_refused_would_be_left_alone() {
        let reason = |found: &[(Option<String>, String, PlanStep)]| match found {
            [(_, _, PlanStep::LeaveAlone { reason })] => reason.clone(),
            other => panic!("{other:?}"),
        };
        let wanted = vec![Value::OomScoreAdj(500)];
        assert!(reason(&steps(&wish(wanted.clone(), vec![ours()]), 7)).contains("someone"));
        let refused = oom(HeldState::Settled("refused: EPERM".into()));
        assert_eq!(reason(&steps(&wish(wanted.clone(), vec![refused]), 7)), "refused: EPERM");
        assert_eq!(
            steps(&wish(wanted, vec![ours()]), 300),
            [(Some("300".into()), "500".into(), PlanStep::Set)],
            "what is ours may be changed"
        );
    }

    #[test]
    fn a_thread_that_is_gone_has_no_plan_and_one_that_is_hidden_says_so() {
        let wanted = wish(vec![Value::OomScoreAdj(300)], vec![ours()]);
        let gone = plan(&wanted, |_, _| Err(io::Error::from_raw_os_error(libc::ESRCH)));
        assert_eq!(gone, Plan::default());
        let hidden = plan(&wanted, |_, _| Err(io::Error::from_raw_os_error(libc::EACCES)));
        assert!(matches!(&hidden.changes[0].step, PlanStep::LeaveAlone { .. }), "{hidden:?}");
    }
}
