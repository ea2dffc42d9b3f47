//! The plan for what several processes share: control groups, units of systemd, the host's switches.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use downbeat_api::{
    Held, HeldShared, HeldState, HostFacts, Plan, PlanStep, PlanSubject, PlannedChange,
};
use downbeat_policy::Class;

use super::verdict::{Verdict, refusal, verdict};
use crate::act::{GroupId, Lever, Subject, Value, is_gone};
use crate::decide::{self, GroupTarget};
use crate::observe::machine::Machine;

/// A process whose main thread has a class.
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
    /// Places in `classes` of those that have threads.
    pub active: BTreeSet<usize>,
    /// Every process with a class of its own; one of which only other threads have a class is none,
    /// since what is shared follows the main thread.
    pub members: Vec<Member>,
    /// What the agent knows of levers that belong to no thread.
    pub held: Vec<HeldShared>,
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

/// Groups of the agent's own.
#[derive(Debug, Default)]
pub struct OwnGroups {
    /// Where each class that adopts moves its processes, by the class's place.
    pub of_class: BTreeMap<usize, Arc<str>>,
    /// What each of the groups needs, with those above.
    values: BTreeMap<Arc<str>, Vec<Value>>,
}

impl Shared {
    /// The groups that the agent makes for these classes; none where it cannot make any.
    #[must_use]
    pub fn own_groups(&self, place: &Place<'_>) -> OwnGroups {
        let mut own = OwnGroups::default();
        let Ok(top) = &place.groups else { return own };
        for (index, class) in self.classes.iter().enumerate() {
            let target = decide::group(class, place.host, place.machine);
            if let Some(target) = target.filter(|target| target.adopt) {
                let path = decide::lay_out(top, &class.name, &target, &mut own.values);
                own.of_class.insert(index, path);
            }
        }
        own
    }

    /// What is known of a lever.
    fn held(&self, subject: &PlanSubject, lever: &str) -> Option<&Held> {
        let is_it = |it: &&HeldShared| it.subject == *subject && it.held.lever == lever;
        self.held.iter().find(is_it).map(|it| &it.held)
    }

    /// Why a group of the agent's own could not be made, or one above it.
    fn unmade(&self, path: &str) -> Option<String> {
        let folder = |path: &str| {
            let held = self.held(&group(path), Lever::Folder.name())?;
            match &held.state {
                HeldState::Refused { reason } => {
                    Some(format!("{path} could not be made: {reason}"))
                }
                _ => None,
            }
        };
        let above = std::iter::successors(Some(path), |path| Some(path.rsplit_once('/')?.0));
        above.filter(|path| !path.is_empty()).find_map(folder)
    }
}

/// The plan for what classes share; `read` says what a lever of a subject is now.
#[must_use]
pub fn plan(
    shared: &Shared,
    place: &Place<'_>,
    read: impl Fn(Lever, &Subject) -> io::Result<Value>,
) -> Plan {
    let mut draft = Draft { shared, plan: Plan::default(), asked: BTreeSet::new() };
    let of_members: BTreeSet<usize> = shared.members.iter().map(|member| member.class).collect();
    plan_own_groups(&mut draft, place, &read);
    for index in &of_members {
        let Some(class) = shared.classes.get(*index) else { continue };
        let Some(target) = decide::group(class, place.host, place.machine) else { continue };
        draft.plan.fallbacks.extend(target.lacking.iter().cloned());
        for Others { subject, path, alone } in others(shared, *index, class, &target, place) {
            let is_unit = matches!(subject, PlanSubject::Unit { .. });
            let values = if is_unit { target.of_unit() } else { target.values.clone() };
            for wanted in values {
                let now = match &path {
                    Some(path) => read(wanted.lever(), &group_of(path)),
                    None => Err(io::ErrorKind::NotFound.into()),
                };
                draft.push(&subject, Some(&class.name), now, &wanted, alone.as_deref());
            }
        }
    }
    plan_switches(&mut draft, &shared.active, place, &read);
    draft.put_back(&read);
    draft.plan
}

/// Groups that are made at once, whether or not their class has processes.
fn plan_own_groups(
    draft: &mut Draft<'_>,
    place: &Place<'_>,
    read: impl Fn(Lever, &Subject) -> io::Result<Value>,
) {
    let own = draft.shared.own_groups(place);
    for (path, values) in &own.values {
        let class = own.of_class.iter().find(|(_, of)| *of == path).map(|(index, _)| *index);
        let class = class.and_then(|index| draft.shared.classes.get(index));
        let unmade = draft.shared.unmade(path);
        let above = path.rsplit_once('/').and_then(|(above, _)| draft.shared.unmade(above));
        for wanted in values {
            // One that is not there would take the others with it: it is not asked for.
            let offered = match wanted {
                Value::Controllers(names) => Some(Value::Controllers(
                    names.iter().filter(|name| has_controller(place.host, name)).cloned().collect(),
                )),
                _ => None,
            };
            let wanted = offered.as_ref().unwrap_or(wanted);
            let now = read(wanted.lever(), &group_of(path));
            // What is passed on by others' wish stays passed on.
            if let Value::Controllers(more) = wanted
                && (more.is_empty()
                    || matches!(&now, Ok(Value::Controllers(now)) if more.is_subset(now)))
            {
                draft.settle(&group(path), wanted);
                continue;
            }
            let hindered = if wanted.lever() == Lever::Folder { &above } else { &unmade };
            let alone = hindered.clone().or_else(|| lacking_controller(wanted, place.host));
            let class = class.map(|class| class.name.as_str());
            draft.push(&group(path), class, now, wanted, alone.as_deref());
        }
    }
}

/// Why a group cannot have a value here: its controller is another hierarchy's, or the kernel's
/// build has none.
fn lacking_controller(wanted: &Value, host: &HostFacts) -> Option<String> {
    if matches!(wanted, Value::Controllers(_) | Value::Folder(_) | Value::Freeze(_)) {
        return None;
    }
    let name = wanted.lever().name();
    let controller = name.split_once('.').map_or(name, |(controller, _)| controller);
    (!has_controller(host, controller))
        .then(|| format!("the version 2 hierarchy has no controller {controller} here"))
}

fn has_controller(host: &HostFacts, name: &str) -> bool {
    host.cgroup2_controllers.iter().any(|known| known == name)
}

fn group(path: &str) -> PlanSubject {
    PlanSubject::Group { path: path.to_owned() }
}

fn group_of(path: &str) -> Subject {
    Subject::Group(GroupId { path: path.into(), inode: 0 })
}

/// What a class asks of a group that is not the agent's.
struct Others {
    subject: PlanSubject,
    /// The group's path, where there is a group.
    path: Option<String>,
    /// Why it would be left alone.
    alone: Option<String>,
}

/// The groups of others that a class sets values of, or would if it could.
fn others(
    shared: &Shared,
    index: usize,
    class: &Class,
    target: &GroupTarget,
    place: &Place<'_>,
) -> Vec<Others> {
    if target.adopt {
        let Err(reason) = &place.groups else { return Vec::new() };
        let subject = group(&format!("a group of class {}", class.name));
        return vec![Others { subject, path: None, alone: Some(reason.clone()) }];
    }
    let mut groups = BTreeMap::new();
    for member in shared.members.iter().filter(|member| member.class == index) {
        let path = member.cgroup.clone().unwrap_or_else(|| "/".to_owned());
        let (subject, alone) = match &member.unit {
            Some(unit) if place.systemd && !path.contains("/user@") => {
                (PlanSubject::Unit { name: unit.clone() }, None)
            }
            _ => (group(&path), Some(NOT_OURS.to_owned())),
        };
        groups.insert(subject, (path, alone));
    }
    groups
        .into_iter()
        .map(|(subject, (path, alone))| Others { subject, path: Some(path), alone })
        .collect()
}

/// Why the group of a process is left alone.
pub const NOT_OURS: &str = "the group belongs to somebody else; `adopt = true` in the class moves \
                            its processes into one of downbeat's own";

fn plan_switches(
    draft: &mut Draft<'_>,
    active: &BTreeSet<usize>,
    place: &Place<'_>,
    read: impl Fn(Lever, &Subject) -> io::Result<Value>,
) {
    let classes = active.iter().filter_map(|index| draft.shared.classes.get(*index));
    let wanted = decide::switches(classes, place.host, place.machine);
    if let Some(us) = wanted.wakeup_latency_us {
        let value = Value::WakeupLatency(Some(us));
        // Only who asked for it can read it: the agent's request is known, and nobody else's.
        let own = draft.shared.held(&PlanSubject::Host, value.lever().name());
        let ours = own.and_then(|held| match &held.state {
            HeldState::Ours { ours, .. } => Some(*ours == value.to_string()),
            _ => None,
        });
        if ours == Some(true) {
            draft.settle(&PlanSubject::Host, &value);
        } else {
            let now = read(value.lever(), &Subject::Host);
            draft.push(&PlanSubject::Host, None, now, &value, None);
        }
    }
    let named = |subject: &Subject| PlanSubject::Device { name: subject.to_string() };
    for (domain, preference) in &wanted.energy {
        let subject = Subject::Frequency(*domain);
        let value = Value::Energy((*preference).to_owned());
        let now = read(value.lever(), &subject);
        draft.push(&named(&subject), None, now, &value, None);
    }
    if wanted.quiet_cpus.is_empty() {
        return;
    }
    for irq in &place.machine.irqs {
        let subject = Subject::Irq(*irq);
        let Ok(Value::IrqAffinity(now)) = read(Lever::IrqAffinity, &subject) else { continue };
        let Some(away) = wanted.away(&now, &place.host.cpus) else { continue };
        let value = Value::IrqAffinity(away.clone());
        if away == now {
            // What is away already stays so by the agent's wish where that set it.
            draft.asked.insert((named(&subject), value.lever().name()));
        } else {
            draft.push(&named(&subject), None, Ok(Value::IrqAffinity(now)), &value, None);
        }
    }
}

/// The plan as far as it has come.
struct Draft<'a> {
    shared: &'a Shared,
    plan: Plan,
    /// What some class asks for.
    asked: BTreeSet<(PlanSubject, &'static str)>,
}

impl Draft<'_> {
    fn settle(&mut self, subject: &PlanSubject, wanted: &Value) {
        self.asked.insert((subject.clone(), wanted.lever().name()));
        self.plan.settled += 1;
    }

    /// Says what would become of a lever; `alone` is why nothing would.
    fn push(
        &mut self,
        subject: &PlanSubject,
        class: Option<&str>,
        now: io::Result<Value>,
        wanted: &Value,
        alone: Option<&str>,
    ) {
        let lever = wanted.lever().name();
        let held = self.shared.held(subject, lever);
        let verdict = now.as_ref().ok().map(|now| verdict(now, wanted, held));
        if verdict == Some(Verdict::Settled) {
            return self.settle(subject, wanted);
        }
        self.asked.insert((subject.clone(), lever));
        let step = match (alone, verdict, &now) {
            (Some(reason), _, _) => PlanStep::LeaveAlone { reason: reason.to_owned() },
            (None, Some(Verdict::Leave(reason)), _) => PlanStep::LeaveAlone { reason },
            // A group that does not exist yet would be made.
            (None, _, Err(error)) if !is_gone(error) => {
                PlanStep::LeaveAlone { reason: format!("it cannot be read: {error}") }
            }
            (None, _, _) => match refusal(wanted, held) {
                Some(reason) => PlanStep::LeaveAlone { reason },
                None => PlanStep::Set,
            },
        };
        let because = match subject {
            PlanSubject::Group { .. } if class.is_none() => "for the groups of classes below it",
            PlanSubject::Group { .. } | PlanSubject::Unit { .. } => "since its processes share it",
            _ => "the whole host shares it, while such a class has threads",
        };
        self.plan.changes.push(PlannedChange {
            subject: subject.clone(),
            lever: lever.to_owned(),
            now: now.ok().map(|now| now.to_string()),
            wanted: wanted.to_string(),
            step,
            class: class.map(ToOwned::to_owned),
            because: Some(because.to_owned()),
        });
    }

    /// What the agent has set and nobody asks for goes back.
    fn put_back(&mut self, read: impl Fn(Lever, &Subject) -> io::Result<Value>) {
        for HeldShared { subject, held } in &self.shared.held {
            let HeldState::Ours { old, ours } = &held.state else { continue };
            let lever = Lever::ALL.into_iter().find(|lever| lever.name() == held.lever);
            let Some(lever) = lever else { continue };
            if self.asked.contains(&(subject.clone(), lever.name())) {
                continue;
            }
            // What systemd and the host's own files say is asked where it is put back.
            if let PlanSubject::Group { path } = subject {
                let now = read(lever, &group_of(path)).map(|now| now.to_string());
                if !now.is_ok_and(|now| now == *ours) {
                    continue;
                }
            }
            self.plan.changes.push(PlannedChange {
                subject: subject.clone(),
                lever: held.lever.clone(),
                now: Some(ours.clone()),
                wanted: old.clone(),
                step: PlanStep::PutBack,
                class: None,
                because: None,
            });
        }
    }
}

#[cfg(test)]
mod tests;
