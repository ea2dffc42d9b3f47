//! Classes by hand: `downbeat set` and `downbeat release`.

use downbeat_api::{LONGEST_SET, Mode, Response};
use downbeat_policy::ProcessKind;

use super::Engine;
use super::commands::counted;
use super::threads::{monotonic_ns, unix_time};
use crate::model::Process;
use crate::model::overrides::{MOST, Override};

/// Names in a message; a policy may have hundreds of classes.
const NAMED: usize = 12;

impl Engine {
    /// Gives a process a class, whatever the rules say.
    pub(super) fn set_by_hand(
        &mut self,
        pid: u32,
        class: &str,
        seconds: Option<u64>,
        by_uid: u32,
    ) -> Response {
        if self.mode == Mode::ObserveOnly {
            return super::commands::observe_only();
        }
        if seconds.is_some_and(|seconds| !(1..=LONGEST_SET).contains(&seconds)) {
            return refuse(format!("a time of 1 s to {} days", LONGEST_SET / 86_400));
        }
        let Some(index) = self.policy.class_named(class) else {
            return refuse(self.no_such_class(class));
        };
        // Now, since nothing may be known yet of a process that has just been started.
        self.consider(pid);
        let Some(process) = self.world.get(pid) else {
            return refuse(match self.reader.process_of(pid) {
                Some(process) if process != pid => {
                    format!("{pid} is a thread of process {process}: name the process")
                }
                _ => format!("no process {pid}"),
            });
        };
        if let Some(whose) = kept_out(process) {
            return refuse(format!("{} ({pid}) is {whose}", process.facts.comm));
        }
        let (start_time, name) = (process.start_time, process.facts.comm.clone());
        let wanted = Override {
            start_time,
            class: class.to_owned(),
            index: Some(index),
            until_ns: seconds.map(|s| monotonic_ns().saturating_add(s * 1_000_000_000)),
            since_unix: unix_time(),
            by_uid,
        };
        if !self.overrides.set(pid, wanted) {
            return refuse(format!(
                "{MOST} processes have a class by hand already: release one, or write a rule"
            ));
        }
        let threads = self.consider(pid);
        self.publish();
        let span =
            seconds.map_or_else(|| "until it ends".to_owned(), |s| format!("for {}", span(s)));
        let paused =
            if self.mode == Mode::Paused { "; downbeat is paused: not yet set" } else { "" };
        tracing::info!(pid, name, class, by_uid, "class by hand, {span}");
        let threads = counted(threads as u64, "thread");
        let message = format!("{name} ({pid}) is {class} {span}, on {threads}{paused}");
        Response::Done { message }
    }

    /// Takes back what [`Self::set_by_hand`] gave.
    pub(super) fn release(&mut self, pid: u32) -> Response {
        let Some(was) = self.overrides.release(pid) else {
            return refuse(format!(
                "process {pid} has no class by hand; `downbeat status` lists those that have"
            ));
        };
        self.consider(pid);
        self.publish();
        let now = self.class_name_of(pid);
        let now = now.map_or_else(
            || "no rule matches it, and all is put back".to_owned(),
            |class| format!("{class} by its rule"),
        );
        tracing::info!(pid, class = was.class, "class by hand released");
        Response::Done { message: format!("{pid} is no longer {} by hand: {now}", was.class) }
    }

    /// Ends classes by hand whose time is over.
    pub(super) fn expire_overrides(&mut self) {
        for pid in self.overrides.expire(monotonic_ns()) {
            tracing::info!(pid, "the time of its class by hand is over");
            self.consider(pid);
        }
    }

    /// Forgets classes by hand of processes that are gone.
    pub(super) fn forget_ended_overrides(&mut self) {
        let world = &self.world;
        self.overrides.keep_living(|pid, start_time| {
            world.get(pid).is_some_and(|process| process.start_time == start_time)
        });
    }

    /// All classes by hand, for everyone who asks.
    pub(super) fn list_overrides(&self) -> Vec<downbeat_api::Override> {
        self.overrides.iter().map(|(pid, found)| self.show_override(pid, found)).collect()
    }

    /// The class by hand of a process, for everyone who asks.
    pub(super) fn override_of(&self, process: &Process) -> Option<downbeat_api::Override> {
        let found = self.overrides.get(process.pid, process.start_time)?;
        Some(self.show_override(process.pid, found))
    }

    fn show_override(&self, pid: u32, found: &Override) -> downbeat_api::Override {
        let left = |until: u64| until.saturating_sub(monotonic_ns()) as f64 / 1e9;
        let process = self.world.get(pid);
        downbeat_api::Override {
            pid,
            start_time: found.start_time,
            name: process.map_or_else(String::new, |process| process.facts.comm.clone()),
            class: found.class.clone(),
            in_force: found.index.is_some(),
            by_uid: found.by_uid,
            since: found.since_unix,
            left: found.until_ns.map(left),
        }
    }

    fn class_name_of(&self, pid: u32) -> Option<&str> {
        let assigned = self.world.get(pid)?.classified()?;
        Some(&self.policy.set.classes.get(assigned.class)?.name)
    }

    fn no_such_class(&self, class: &str) -> String {
        let classes = &self.policy.set.classes;
        let mut names: Vec<&str> =
            classes.iter().take(NAMED).map(|class| class.name.as_str()).collect();
        if classes.len() > NAMED {
            names.push("…");
        }
        if names.is_empty() {
            return "the policy in force has no class at all; write one first".to_owned();
        }
        format!("no class {class:?} in the policy in force; it has {}", names.join(", "))
    }
}

/// Why no class is for a process, or only by a rule that names it by `comm`.
pub(super) fn kept_out(process: &Process) -> Option<&'static str> {
    match process.facts.kind {
        ProcessKind::Ordinary => None,
        ProcessKind::Kernel => Some("a kernel thread: name it by `comm` in a rule if you must"),
        ProcessKind::KeptOut if process.pid == 1 => Some("process 1, without which nothing runs"),
        ProcessKind::KeptOut => Some("downbeat itself, which has to stay able to put all back"),
    }
}

/// A time in its two largest units: `1 h 30 min`.
fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, unit) in UNITS {
        if rest >= size && parts.len() < 2 {
            parts.push(format!("{} {unit}", rest / size));
            rest %= size;
        }
    }
    parts.join(" ")
}

fn refuse(message: String) -> Response {
    Response::Error { message }
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn times_are_told_in_two_units() {
        let told = [1, 600, 5_400, 90_061, 2_592_000].map(span);
        assert_eq!(told, ["1 s", "10 min", "1 h 30 min", "1 d 1 h", "30 d"]);
    }
}
