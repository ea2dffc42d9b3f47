//! Why a process is as it is.

use downbeat_api::{Explanation, LeverState, Response, ThreadExplanation};

use super::Engine;
use crate::act::{LeverEntry, Standing};
use crate::model::Process;

impl Engine {
    pub(super) fn explain(&self, pid: u32) -> Response {
        let Some(process) = self.world.process_of(pid) else {
            let message = format!("no process or managed thread {pid}");
            return Response::Error { message };
        };
        let threads = process.threads.keys().map(|tid| self.explain_thread(process, *tid));
        Response::Explain(Box::new(Explanation {
            pid: process.pid,
            name: process.facts.comm.clone(),
            exe: process.facts.exe.clone(),
            threads: threads.collect(),
        }))
    }

    fn explain_thread(&self, process: &Process, tid: u32) -> ThreadExplanation {
        let thread = process.threads.get(&tid);
        let classified = thread.and_then(|thread| thread.classified);
        let class = classified.and_then(|c| self.policy.set.classes.get(c.class));
        let rule = classified.and_then(|c| self.policy.set.rules.get(c.rule));
        let levers = self.actuator.iter().flat_map(|actuator| actuator.levers(tid));
        ThreadExplanation {
            tid,
            name: thread.map_or_else(String::new, |thread| thread.name.clone()),
            class: class.map(|class| class.name.clone()),
            rule: rule.map(|rule| format!("{}, {}", rule.name, rule.origin)),
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
