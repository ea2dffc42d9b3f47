//! Why a process is as it is.

use downbeat_api::{Explanation, LeverState, Response, ThreadExplanation};

use super::Engine;
use crate::act::{LeverEntry, Standing};
use crate::model::{Assigned, By, Process};

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
            by_hand: self.override_of(process),
            evidence: self.evidence_for(process),
            threads: threads.collect(),
            actions: actions.collect(),
            jobs: jobs.cloned().collect(),
            latest_miss: latest.misses.iter().rev().find(missed).cloned(),
        }))
    }

    /// The process of a thread, whether or not the thread has a class.
    pub(super) fn process_of_any(&self, tid: u32) -> Option<&Process> {
        let has = |process: &&Process| process.threads.contains_key(&tid);
        let unlisted = || self.world.get(self.reader.process_of(tid)?);
        self.world.process_of(tid).or_else(|| self.world.processes().find(has)).or_else(unlisted)
    }

    /// What gave a process's thread its class, with file and line where that is a rule.
    pub(super) fn because(&self, process: &Process, assigned: Assigned) -> String {
        match assigned.by {
            By::Rule(rule) => match self.policy.set.rules.get(rule) {
                Some(rule) => format!("{}, {}", rule.name, rule.origin),
                None => "a rule of an earlier policy".to_owned(),
            },
            By::Hand => match self.override_of(process) {
                Some(by_hand) => format!("set by hand, by uid {}", by_hand.by_uid),
                None => "set by hand".to_owned(),
            },
            By::Discovery => self.discovered_as(process.pid),
        }
    }

    fn explain_thread(&self, process: &Process, tid: u32) -> ThreadExplanation {
        let thread = process.threads.get(&tid);
        let assigned = thread.and_then(|thread| thread.classified);
        let class = assigned.and_then(|a| self.policy.set.classes.get(a.class));
        let rule = assigned.filter(|a| a.rule().is_some());
        let levers = self.actuator.iter().flat_map(|actuator| actuator.levers(tid));
        ThreadExplanation {
            tid,
            name: thread.map_or_else(String::new, |thread| thread.name.clone()),
            class: class.map(|class| class.name.clone()),
            rule: rule.map(|assigned| self.because(process, assigned)),
            levers: levers
                .map(|(lever, entry)| LeverState {
                    lever: lever.name().to_owned(),
                    old: old_value(entry),
                    wanted: entry
                        .wanted
                        .as_ref()
                        .map_or_else(|| "as before".to_owned(), ToString::to_string),
                    outcome: outcome(&entry.standing),
                })
                .collect(),
        }
    }
}

fn old_value(entry: &LeverEntry) -> Option<String> {
    match &entry.standing {
        Standing::Ours(change) => Some(change.old.to_string()),
        _ => None,
    }
}

fn outcome(standing: &Standing) -> String {
    match standing {
        Standing::Ours(_) => "set".into(),
        Standing::AlreadySo => "already so".into(),
        Standing::RealtimeByOwnWish(own) => {
            format!("left alone: {own} by its own wish, and real time is never taken away")
        }
        Standing::HandedOff(theirs) => {
            format!("left alone: someone changed it to {theirs} after downbeat had set it")
        }
        Standing::Refused(reason) => format!("failed: {reason}"),
    }
}
