//! Groups that belong to others: systemd is asked for its units, everyone else's stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use downbeat_api::{Mode, Severity};
use downbeat_policy::ProcessKind;

use crate::act::boot_ticks;
use crate::act::{Subject, UnitRequest, Units};
use crate::engine::Engine;
use crate::engine::notices::notice;
use crate::model::Process;

/// What systemd is asked for at the moment.
#[derive(Debug)]
pub(super) struct Asked {
    units: Option<Units>,
    wanted: UnitRequest,
    /// Per unit, processes in it that no class with these values asked for.
    bystanders: BTreeMap<Arc<str>, usize>,
}

impl Asked {
    pub(super) fn new(units: Option<Units>) -> Self {
        Self { units, wanted: UnitRequest::new(), bystanders: BTreeMap::new() }
    }

    /// Whether systemd can be asked at all.
    pub(super) fn asks(&self) -> bool {
        self.units.is_some()
    }
}

/// Whose a process's group is.
enum Owner {
    /// The system's systemd.
    Unit(Arc<str>),
    /// Somebody else, in words.
    Other(String),
}

impl Engine {
    /// Has systemd bring its units to what the classes of their processes ask for.
    pub(in crate::engine) fn ask_for_units(&mut self) {
        let mut wanted = UnitRequest::new();
        let mut members: BTreeMap<Arc<str>, BTreeSet<u32>> = BTreeMap::new();
        let mut left_alone: BTreeMap<usize, String> = BTreeMap::new();
        if self.mode == Mode::Engaged {
            for process in self.world.followed() {
                if process.facts.kind != ProcessKind::Ordinary || self.is_pool(process.pid) {
                    continue;
                }
                let Some(assigned) = process.classified_as_a_whole() else { continue };
                let class = assigned.class;
                let target = self.levers.groups.target(class);
                let Some(target) = target.filter(|it| !it.adopt && !it.values.is_empty()) else {
                    continue;
                };
                match self.owner_of_group(process) {
                    Owner::Unit(unit) => {
                        members.entry(Arc::clone(&unit)).or_default().insert(process.pid);
                        wanted.entry(unit).or_insert_with(|| target.of_unit());
                    }
                    Owner::Other(whose) => {
                        left_alone.entry(class).or_insert_with(|| {
                            format!("{} ({}) is {whose}", process.facts.comm, process.pid)
                        });
                    }
                }
            }
        }
        let bystanders = |(unit, members): (&Arc<str>, &BTreeSet<u32>)| {
            let inside = |process: &&Process| process.facts.unit.as_deref() == Some(unit);
            let all = self.world.processes().filter(inside).count();
            (Arc::clone(unit), all.saturating_sub(members.len()))
        };
        let bystanders = members.iter().map(bystanders).collect();
        let say = |(class, whose): (usize, String)| {
            let class = self.policy.set.classes.get(class).map_or("", |class| &class.name);
            let text = format!(
                "class {class} names values of its group, and {whose}: that group is left alone"
            );
            notice(Severity::Warning, text, Some("set `adopt = true` in the class"))
        };
        let said = left_alone.into_iter().map(say).collect();
        self.notices.set("others' groups", said);
        let asked = &mut self.levers.units;
        asked.bystanders = bystanders;
        if wanted != asked.wanted
            && let Some(units) = &asked.units
        {
            units.ask(wanted.clone(), boot_ticks());
        }
        asked.wanted = wanted;
    }

    fn owner_of_group(&self, process: &Process) -> Owner {
        let group = process.facts.cgroup.as_deref().unwrap_or("/");
        if self.levers.units.units.is_none() {
            return Owner::Other(format!("in the group {group}, which somebody else made"));
        }
        let by_user = group.contains("/user@");
        let agent = self.world.get(std::process::id());
        let own_unit = agent.and_then(|agent| agent.facts.unit.as_deref());
        match &process.facts.unit {
            Some(unit) if own_unit == Some(unit) => {
                Owner::Other(format!("in {unit}, downbeat's own unit"))
            }
            Some(_) if by_user => {
                Owner::Other(format!("in the group {group} of a user's own systemd"))
            }
            Some(unit) => Owner::Unit(unit.as_str().into()),
            None => Owner::Other(format!("in the group {group}, which is no unit's")),
        }
    }

    /// Tells what systemd did and refused.
    pub(in crate::engine) fn tell_units(&mut self) {
        let done = self.levers.units.units.as_ref().map_or_else(Vec::new, Units::done);
        self.enter(&done);
    }

    /// Has everything put back that systemd was asked for, and waits for it.
    pub(in crate::engine) fn stop_asking_for_units(&mut self) -> u64 {
        let (done, left) = self.levers.units.units.take().map(Units::stop).unwrap_or_default();
        self.enter(&done);
        left
    }

    /// A subject that is no thread, for people. The processes of a unit share its values.
    pub(in crate::engine) fn name_of(&self, subject: &Subject) -> String {
        let Subject::Unit(unit) = subject else { return subject.to_string() };
        match self.levers.units.bystanders.get(unit) {
            Some(1) => format!("{subject} (1 other process shares it)"),
            Some(others @ 2..) => format!("{subject} ({others} other processes share it)"),
            _ => subject.to_string(),
        }
    }
}
