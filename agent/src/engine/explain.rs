//! Why a process is as it is.

use downbeat_api::{Explanation, Held, HeldState, LeverState, Response, ThreadExplanation};

use super::Engine;
use super::overrides::kept_out;
use crate::act::{Lever, LeverEntry, Standing};
use crate::model::{Assigned, By, Process};
use crate::plan::other::{by_hand, by_rule};
use crate::plan::{held, not_of_process};

impl Engine {
    pub(super) fn explain(&self, pid: u32) -> Response {
        let Some(process) = self.process_of_any(pid) else {
            let message = format!("no process or thread {pid}");
            return Response::Error { message };
        };
        let latest = self.snapshots.borrow();
        let threads = process.threads.keys().map(|tid| self.explain_thread(process, *tid));
        let actions = self.ledger.recent().into_iter().filter(|done| done.pid == process.pid);
        let jobs = latest.jobs.iter().filter(|jobs| jobs.pid == process.pid);
        let missed = |miss: &&downbeat_api::Miss| miss.pid == process.pid;
        Response::Explain(Box::new(Explanation {
            pid: process.pid,
            name: process.facts.comm.clone(),
            exe: process.facts.exe.clone(),
            mode: self.mode,
            kept_out: kept_out(process).map(ToOwned::to_owned),
            by_hand: self.override_of(process),
            evidence: self.evidence_for(process),
            threads: threads.collect(),
            actions: actions.collect(),
            jobs: jobs.cloned().collect(),
            latest_miss: latest.misses.iter().rev().find(missed).cloned(),
            shared: self.explain_shared(process),
        }))
    }

    /// The process of a thread, whether or not the thread has a class.
    pub(super) fn process_of_any(&self, tid: u32) -> Option<&Process> {
        let has = |process: &&Process| process.threads.contains_key(&tid);
        let unlisted = || self.world.get(self.reader.process_of(tid)?);
        self.world.process_of(tid).or_else(|| self.world.processes().find(has)).or_else(unlisted)
    }

    /// What gave a process's thread its class, in words, with file and line where that is a rule.
    pub(super) fn because(&self, process: &Process, assigned: Assigned) -> String {
        match assigned.by {
            By::Rule(rule) => match self.policy.set.rules.get(rule) {
                Some(rule) => by_rule(rule),
                None => "by a rule of an earlier policy".to_owned(),
            },
            By::Hand => match self.override_of(process) {
                Some(found) => by_hand(found.by_uid),
                None => "by hand".to_owned(),
            },
            By::Discovery => self.discovered_as(process.pid),
        }
    }

    fn explain_thread(&self, process: &Process, tid: u32) -> ThreadExplanation {
        let thread = process.threads.get(&tid);
        let assigned = thread.and_then(|thread| thread.classified);
        let class = assigned.and_then(|a| self.policy.set.classes.get(a.class));
        let rule = assigned.and_then(|a| self.policy.set.rules.get(a.rule()?));
        let levers = self.actuator.iter().flat_map(|actuator| actuator.levers(tid));
        let levers = levers.map(of_entry).chain(self.only_of_process(process, tid, assigned));
        ThreadExplanation {
            tid,
            name: thread.map_or_else(String::new, |thread| thread.name.clone()),
            class: class.map(|class| class.name.clone()),
            rule: rule.map(|rule| format!("{}, {}", rule.name, rule.origin)),
            because: assigned.map(|assigned| self.because(process, assigned)),
            levers: levers.collect(),
        }
    }

    /// Levers that a thread's class asks for and that a process has once, where its main thread has
    /// another class.
    fn only_of_process(
        &self,
        process: &Process,
        tid: u32,
        assigned: Option<Assigned>,
    ) -> Vec<LeverState> {
        let of_class = assigned.and_then(|it| Some((it, self.policy.targets.get(it.class)?)));
        let (Some(id), Some((assigned, target))) = (process.thread_id(tid), of_class) else {
            return Vec::new();
        };
        let class = Some(target.class.clone());
        let Some(reason) = not_of_process(&class, &self.class_of_process(process)) else {
            return Vec::new();
        };
        let wanted = self.wanted(id, assigned, target);
        let once = wanted.iter().filter(|value| value.lever().is_per_process());
        once.map(|value| LeverState {
            lever: value.lever().name().to_owned(),
            wanted: value.to_string(),
            outcome: format!("left alone: {reason}"),
            ..LeverState::default()
        })
        .collect()
    }
}

/// One lever as the actuator knows it.
pub(super) fn of_entry((lever, entry): (Lever, &LeverEntry)) -> LeverState {
    if let Standing::RealtimeByOwnWish(own) = &entry.standing {
        return LeverState {
            lever: lever.name().to_owned(),
            old: None,
            wanted: entry.wanted.as_ref().map_or_else(String::new, ToString::to_string),
            instead: None,
            outcome: format!(
                "left alone: {own} by its own wish, and real time is never taken away"
            ),
        };
    }
    // Every other standing is held.
    held(lever, entry).as_ref().map(of_held).unwrap_or_default()
}

/// One lever as it is held.
pub(super) fn of_held(held: &Held) -> LeverState {
    let Held { lever, wanted, state } = held;
    let mut shown = LeverState {
        lever: lever.clone(),
        wanted: wanted.clone().unwrap_or_else(|| "as before".to_owned()),
        ..LeverState::default()
    };
    shown.outcome = match state {
        HeldState::Ours { old, ours } => {
            shown.old = Some(old.clone());
            shown.instead = wanted.as_ref().filter(|it| *it != ours).map(|_| ours.clone());
            match (&shown.instead, wanted) {
                (Some(_), Some(wanted)) => format!("set in place of {wanted}, which was refused"),
                _ => "set".into(),
            }
        }
        HeldState::AlreadySo => "already so".into(),
        HeldState::HandedOff { theirs } => {
            format!("left alone: someone else changed it to {theirs}")
        }
        HeldState::Refused { reason } => format!("failed: {reason}"),
    };
    shown
}
