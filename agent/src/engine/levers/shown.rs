//! What explanations and plans show of groups, units and learned reservations.

use downbeat_api::{LeverState, Mode, PlanSubject, SharedExplanation};
use downbeat_policy::ProcessKind;

use crate::act::{Key, Sched};
use crate::engine::Engine;
use crate::engine::explain::{of_entry, of_held};
use crate::model::Process;
use crate::plan::shared::NOT_OURS;

impl Engine {
    /// The reservation that was learned for a thread.
    pub(in crate::engine) fn learned_reservation(&self, tid: u32) -> Option<Sched> {
        self.levers.realtime.reservation(tid)
    }

    /// What the class of a process asks of the group or unit that the process shares with others.
    pub(in crate::engine) fn explain_shared(&self, process: &Process) -> Vec<SharedExplanation> {
        let class = process.classified_as_a_whole().map(|assigned| assigned.class);
        let ordinary = process.facts.kind == ProcessKind::Ordinary;
        let Some(class) = class.filter(|_| ordinary && self.mode == Mode::Engaged) else {
            return Vec::new();
        };
        let groups = &self.levers.groups;
        let Some(target) = groups.target(class).filter(|it| it.adopt || !it.values.is_empty())
        else {
            return Vec::new();
        };
        let asked = |outcome: &str| -> Vec<LeverState> {
            target
                .values
                .iter()
                .map(|value| LeverState {
                    lever: value.lever().name().to_owned(),
                    old: None,
                    wanted: value.to_string(),
                    instead: None,
                    outcome: outcome.to_owned(),
                })
                .collect()
        };
        let path = process.facts.cgroup.as_deref().unwrap_or("/");
        let group = |path: &str| PlanSubject::Group { path: path.to_owned() };
        let (subject, levers) = if target.adopt {
            match groups.of_class(class) {
                Some(own) => {
                    let levers = self.actuator.iter().flat_map(|actuator| {
                        actuator.levers(Key::Group(own.clone())).into_iter().map(of_entry)
                    });
                    (group(own), levers.collect())
                }
                None => {
                    let reason = groups.no_place().unwrap_or("its group could not be made");
                    (group(path), asked(&format!("failed: nobody is adopted: {reason}")))
                }
            }
        } else {
            match &process.facts.unit {
                Some(unit) if self.levers.units.asks() && !path.contains("/user@") => {
                    let known: Vec<LeverState> = self
                        .ledger
                        .units()
                        .filter(|(name, _)| name == unit)
                        .map(|(_, held)| of_held(held))
                        .collect();
                    let waits = asked("as asked, or systemd has not answered yet");
                    let rest = waits
                        .into_iter()
                        .filter(|it| known.iter().all(|known| known.lever != it.lever));
                    let levers = known.iter().cloned().chain(rest).collect();
                    (PlanSubject::Unit { name: unit.clone() }, levers)
                }
                _ => (group(path), asked(&format!("left alone: {NOT_OURS}"))),
            }
        };
        vec![SharedExplanation { subject, levers }]
    }
}
