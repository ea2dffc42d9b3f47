//! Groups: those of the agent's own, into which a class with `adopt = true` moves its processes,
//! and those of others, which are not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use downbeat_api::{Mode, Severity};

use crate::act::boot_ticks;
use crate::act::{Done, GroupId, Kernel, Key, Lever, Request, Subject, Value};
use crate::decide::{self, GroupTarget};
use crate::engine::Engine;
use crate::engine::notices::notice;
use crate::observe::machine::Machine;
use crate::roots::Roots;

/// Groups as the policy in force wants them.
#[derive(Debug)]
pub(super) struct Groups {
    /// The group below which the agent's own lie, or why there can be none.
    place: Result<Arc<str>, String>,
    /// Per class, what its group should have.
    targets: Vec<Option<GroupTarget>>,
    /// Per class with `adopt`, the path of its group.
    own: BTreeMap<usize, Arc<str>>,
    /// Every group that was made or changed for them, with what it was asked for.
    made: BTreeMap<Arc<str>, Vec<Value>>,
}

impl Groups {
    pub(super) fn new(roots: &Roots, acts: bool) -> Self {
        let place = if acts {
            Kernel::new(roots).place_for_groups()
        } else {
            Err("this agent only observes".into())
        };
        Self { place, targets: Vec::new(), own: BTreeMap::new(), made: BTreeMap::new() }
    }

    /// What the group of a class should have.
    pub(super) fn target(&self, class: usize) -> Option<&GroupTarget> {
        self.targets.get(class)?.as_ref()
    }

    /// Why no group can be made.
    pub(super) fn no_place(&self) -> Option<&str> {
        self.place.as_ref().err().map(String::as_str)
    }

    /// The group of the agent's own that a class's processes go into.
    pub(super) fn of_class(&self, class: usize) -> Option<&Arc<str>> {
        self.own.get(&class)
    }
}

impl Engine {
    /// Makes the groups that the policy in force asks for, before anyone is moved into them.
    pub(in crate::engine) fn prepare_groups(&mut self) {
        if self.actuator.is_none() || self.mode != Mode::Engaged {
            self.forget_groups();
            return;
        }
        self.levers.machine = Machine::read(&self.levers.roots);
        let classes = &self.policy.set.classes;
        let target = |class| decide::group(class, &self.host, &self.levers.machine);
        self.levers.groups.targets = classes.iter().map(target).collect();
        let adopting: Vec<(usize, String, GroupTarget)> = classes
            .iter()
            .enumerate()
            .filter_map(|(at, class)| {
                let target = self.levers.groups.targets.get(at)?.as_ref()?;
                target.adopt.then(|| (at, class.name.clone(), target.clone()))
            })
            .collect();
        self.levers.groups.own.clear();
        let mut said: Vec<String> = Vec::new();
        let targets = self.levers.groups.targets.iter().flatten();
        said.extend(targets.flat_map(|target| target.lacking.iter().cloned()));
        let mut wanted: BTreeMap<Arc<str>, Vec<Value>> = BTreeMap::new();
        match &self.levers.groups.place {
            Ok(place) => {
                for (class, name, target) in &adopting {
                    let path = decide::lay_out(place, name, target, &mut wanted);
                    self.levers.groups.own.insert(*class, path);
                }
            }
            Err(reason) if !adopting.is_empty() => {
                said.push(format!("no class can adopt processes: {reason}"));
            }
            Err(_) => {}
        }
        let say = |text| notice(Severity::Warning, text, None);
        self.notices.set("groups", said.into_iter().map(say).collect());
        let done = self.make(&wanted);
        self.enter(&done);
        // Nobody is moved into a group that could not be made.
        let Some(actuator) = &self.actuator else { return };
        let there = |path: &Arc<str>| {
            let folder = actuator.now(&own(path), Lever::Folder);
            matches!(folder, Ok(Value::Folder(true)))
        };
        self.levers.groups.own.retain(|_, path| there(path));
    }

    /// Brings groups to what is wanted, from the top down, and takes back those that are not.
    fn make(&mut self, wanted: &BTreeMap<Arc<str>, Vec<Value>>) -> Vec<Done> {
        let Some(actuator) = &mut self.actuator else { return Vec::new() };
        let now = boot_ticks();
        let mut done = Vec::new();
        for (path, values) in wanted {
            let mut values = values.clone();
            // What is passed on by others' wish stays passed on.
            for value in &mut values {
                let Value::Controllers(names) = value else { continue };
                if let Ok(Value::Controllers(before)) =
                    actuator.before(&own(path), Lever::Controllers)
                {
                    names.extend(before);
                }
            }
            if self.levers.groups.made.get(path) == Some(&values) {
                continue;
            }
            let subject = own(path);
            let folder = [Value::Folder(true)];
            let is_new = values.contains(&folder[0])
                && !matches!(actuator.now(&subject, Lever::Folder), Ok(Value::Folder(true)));
            if is_new {
                let request = Request { subject: subject.clone(), wanted: &folder, otherwise: &[] };
                done.extend(actuator.apply(&[request], now));
            }
            let mut possible = values.clone();
            for value in &mut possible {
                // A controller that is not there would take the others with it.
                if let Value::Controllers(names) = value
                    && let Ok(offered) = actuator.control().controllers_of(path)
                {
                    names.retain(|name| offered.contains(name));
                }
            }
            let request = Request { subject, wanted: &possible, otherwise: &[] };
            done.extend(actuator.apply(&[request], now));
            self.levers.groups.made.insert(Arc::clone(path), values);
        }
        done
    }

    /// All groups were taken back: whoever is managed again needs them anew.
    pub(in crate::engine) fn forget_groups(&mut self) {
        self.levers.groups.own.clear();
        self.levers.groups.made.clear();
    }

    /// Removes groups that no class asks for any more, once everyone has left them.
    pub(in crate::engine) fn remove_idle_groups(&mut self) {
        let Some(actuator) = &mut self.actuator else { return };
        let groups = &mut self.levers.groups;
        let above = |path: &Arc<str>| {
            groups.own.values().any(|own| own.starts_with(&**path) && own.len() > path.len())
        };
        let kept: BTreeSet<Arc<str>> = groups
            .made
            .keys()
            .filter(|path| groups.own.values().any(|own| own == *path) || above(path))
            .cloned()
            .collect();
        let gone: Vec<Arc<str>> =
            groups.made.keys().rev().filter(|path| !kept.contains(*path)).cloned().collect();
        let mut done = Vec::new();
        for path in gone {
            done.extend(actuator.undo(Key::Group(Arc::clone(&path))));
            groups.made.remove(&path);
        }
        self.enter(&done);
    }
}

/// A group that is known by its name.
fn own(path: &Arc<str>) -> Subject {
    Subject::Group(GroupId { path: Arc::clone(path), inode: 0 })
}
