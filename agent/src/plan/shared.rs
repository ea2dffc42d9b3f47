//! The plan for what several processes share: control groups, units of systemd, the host's switches.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use downbeat_api::{HostFacts, Plan, PlanStep, PlanSubject, PlannedChange};
use downbeat_policy::Class;

use crate::act::{GroupId, Lever, Subject, Value, is_gone};
use crate::decide::{self, GroupTarget};
use crate::observe::machine::Machine;

/// A process of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Place of the class in [`Shared::classes`].
    pub class: usize,
    /// Its control group, where it is known.
    pub cgroup: Option<String>,
    /// Its unit, where it is in one.
    pub unit: Option<String>,
}

/// What the plan for shared things is made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shared {
    /// The classes of the policy.
    pub classes: Vec<Class>,
    /// Every process with a class.
    pub members: Vec<Member>,
}

/// What the host is, as far as the plan for shared things asks.
#[derive(Debug)]
pub struct Place<'a> {
    /// Host facts.
    pub host: &'a HostFacts,
    /// Disks, interrupts, frequency domains.
    pub machine: &'a Machine,
    /// Where the agent's own groups lie, or why there can be none.
    pub groups: Result<Arc<str>, String>,
    /// Whether systemd runs and can be asked for its units.
    pub systemd: bool,
}

/// The plan for what classes share; `read` says what a lever of a subject is now.
#[must_use]
pub fn plan(
    shared: &Shared,
    place: &Place<'_>,
    read: impl Fn(Lever, &Subject) -> io::Result<Value>,
) -> Plan {
    let mut plan = Plan::default();
    let active: BTreeSet<usize> = shared.members.iter().map(|member| member.class).collect();
    for index in &active {
        let Some(class) = shared.classes.get(*index) else { continue };
        let Some(target) = decide::group(class, place.host, place.machine) else { continue };
        plan.fallbacks.extend(target.lacking.iter().cloned());
        for (subject, group, alone) in groups(shared, *index, class, &target, place) {
            for wanted in &target.values {
                let now = match &group {
                    Some(path) => read(wanted.lever(), &group_of(path)),
                    None => Err(io::ErrorKind::NotFound.into()),
                };
                push(&mut plan, &subject, Some(&class.name), now, wanted, alone.as_deref());
            }
        }
    }
    plan_switches(&mut plan, shared, &active, place, read);
    plan
}

fn group_of(path: &str) -> Subject {
    Subject::Group(GroupId { path: path.into(), inode: 0 })
}

/// The groups that a class sets: as what they are shown, their path, and why they would be left
/// alone.
fn groups(
    shared: &Shared,
    index: usize,
    class: &Class,
    target: &GroupTarget,
    place: &Place<'_>,
) -> Vec<(PlanSubject, Option<String>, Option<String>)> {
    if target.adopt {
        let found = match &place.groups {
            Ok(parent) => {
                let path = format!("{parent}/{}", class.name);
                (PlanSubject::Group { path: path.clone() }, Some(path), None)
            }
            Err(reason) => {
                let path = format!("a group of class {}", class.name);
                (PlanSubject::Group { path }, None, Some(reason.clone()))
            }
        };
        return vec![found];
    }
    let mut groups = BTreeMap::new();
    for member in shared.members.iter().filter(|member| member.class == index) {
        let path = member.cgroup.clone().unwrap_or_else(|| "/".to_owned());
        let (subject, alone) = match &member.unit {
            Some(unit) if place.systemd && !path.contains("/user@") => {
                (PlanSubject::Unit { name: unit.clone() }, None)
            }
            _ => {
                let why = "the group belongs to somebody else; `adopt = true` in the class moves \
                           its processes into one of downbeat's own";
                (PlanSubject::Group { path: path.clone() }, Some(why.to_owned()))
            }
        };
        groups.insert(subject, (Some(path), alone));
    }
    groups.into_iter().map(|(subject, (path, alone))| (subject, path, alone)).collect()
}

fn plan_switches(
    plan: &mut Plan,
    shared: &Shared,
    active: &BTreeSet<usize>,
    place: &Place<'_>,
    read: impl Fn(Lever, &Subject) -> io::Result<Value>,
) {
    let classes = active.iter().filter_map(|index| shared.classes.get(*index));
    let wanted = decide::switches(classes, place.host, place.machine);
    if let Some(us) = wanted.wakeup_latency_us {
        let value = Value::WakeupLatency(Some(us));
        let now = read(value.lever(), &Subject::Host);
        push(plan, &PlanSubject::Host, None, now, &value, None);
    }
    let named = |subject: &Subject| PlanSubject::Device { name: subject.to_string() };
    for (domain, preference) in &wanted.energy {
        let subject = Subject::Frequency(*domain);
        let value = Value::Energy((*preference).to_owned());
        let now = read(value.lever(), &subject);
        push(plan, &named(&subject), None, now, &value, None);
    }
    if wanted.quiet_cpus.is_empty() {
        return;
    }
    for irq in &place.machine.irqs {
        let subject = Subject::Irq(*irq);
        let Ok(Value::IrqAffinity(now)) = read(Lever::IrqAffinity, &subject) else { continue };
        if let Some(away) = wanted.away(&now, &place.host.cpus).filter(|away| *away != now) {
            let value = Value::IrqAffinity(away);
            push(plan, &named(&subject), None, Ok(Value::IrqAffinity(now)), &value, None);
        }
    }
}

fn push(
    plan: &mut Plan,
    subject: &PlanSubject,
    class: Option<&str>,
    now: io::Result<Value>,
    wanted: &Value,
    alone: Option<&str>,
) {
    if now.as_ref().is_ok_and(|now| now.agrees_with(wanted)) {
        plan.settled += 1;
        return;
    }
    let step = match (alone, &now) {
        (Some(reason), _) => PlanStep::LeaveAlone { reason: reason.to_owned() },
        // A group that does not exist yet would be made.
        (None, Err(error)) if !is_gone(error) => {
            PlanStep::LeaveAlone { reason: format!("reading it: {error}") }
        }
        (None, _) => PlanStep::Set,
    };
    let because = match subject {
        PlanSubject::Group { .. } | PlanSubject::Unit { .. } => "its processes share it",
        _ => "the whole host shares it, while such a class has threads",
    };
    plan.changes.push(PlannedChange {
        subject: subject.clone(),
        lever: wanted.lever().name().to_owned(),
        now: now.ok().map(|now| now.to_string()),
        wanted: wanted.to_string(),
        step,
        class: class.map(ToOwned::to_owned),
        because: Some(because.to_owned()),
    });
}

#[cfg(test)]
mod tests {
    use downbeat_policy::{PolicySet, Source};

    use super::*;

    fn host() -> HostFacts {
        HostFacts {
            kernel: "6.18".into(),
            arch: "x86_64".into(),
            cpus: vec![0, 1],
            topology: downbeat_api::Topology::default(),
            memory: Some(8 << 30),
            realtime: true,
            eevdf_slice: true,
            uclamp: false,
            deadline: true,
            cgroup2_controllers: Vec::new(),
            findings: Vec::new(),
        }
    }

    fn shared(body: &str, unit: Option<&str>) -> Shared {
        let text = format!("schema = 1\n[class.it]\ntier = \"background\"\n{body}\n");
        let source = Source { path: "test.toml".into(), text };
        let classes = PolicySet::parse(&[source]).unwrap().classes;
        let cgroup = Some("/system.slice/it.service".to_owned());
        let unit = unit.map(ToOwned::to_owned);
        Shared { classes, members: vec![Member { class: 0, cgroup, unit }] }
    }

    fn planned(shared: &Shared, systemd: bool) -> Vec<PlannedChange> {
        let host = host();
        let machine = Machine { page_bytes: 4096, ..Machine::default() };
        let groups = Ok("/downbeat.slice".into());
        let place = Place { host: &host, machine: &machine, groups, systemd };
        plan(shared, &place, |_, _| Err(io::ErrorKind::NotFound.into())).changes
    }

    #[test]
    fn a_unit_is_asked_for_where_systemd_runs_and_left_alone_elsewhere() {
        let shared = shared("cpu = { weight = 50 }", Some("it.service"));
        let [change] = &planned(&shared, true)[..] else { panic!() };
        assert_eq!(change.subject, PlanSubject::Unit { name: "it.service".into() });
        assert_eq!((change.wanted.as_str(), &change.step), ("50", &PlanStep::Set));
        let [change] = &planned(&shared, false)[..] else { panic!() };
        assert!(
            matches!(&change.step, PlanStep::LeaveAlone { reason } if reason.contains("adopt"))
        );
    }

    #[test]
    fn a_class_that_adopts_gets_a_group_of_downbeats_own() {
        let shared = shared("cpu = { weight = 50 }\nadopt = true", None);
        let changes = planned(&shared, false);
        let own = PlanSubject::Group { path: "/downbeat.slice/it".into() };
        assert!(changes.iter().any(|c| c.subject == own && c.step == PlanStep::Set), "{changes:?}");
    }

    #[test]
    fn a_class_without_processes_asks_for_nothing() {
        let shared = Shared { members: Vec::new(), ..shared("wakeup_latency = \"20us\"", None) };
        assert!(planned(&shared, true).is_empty());
    }
}
