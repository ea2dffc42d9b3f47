//! What the engine keeps for the levers beyond a thread's fixed values: reservations that are
//! learned, groups of the agent's own, the host's switches, and the watch for runaways.

mod groups;
mod probation;
mod realtime;
mod switches;
mod units;

use std::borrow::Cow;

use downbeat_policy::ProcessKind;

use crate::act::{Lever, ThreadId, Units, Value};
use crate::decide::Target;
use crate::model::Assigned;
use crate::observe::machine::Machine;
use crate::roots::Roots;

use super::Engine;

/// The state of all of them.
#[derive(Debug)]
pub(super) struct Levers {
    roots: Roots,
    machine: Machine,
    realtime: realtime::Realtime,
    groups: groups::Groups,
    switches: switches::Set,
    units: units::Asked,
}

impl Levers {
    /// `acts`: whether anything is to be changed at all; `units` asks systemd, where it runs.
    pub(super) fn new(roots: &Roots, acts: bool, units: Option<Units>) -> Self {
        Self {
            roots: roots.clone(),
            machine: Machine::read(roots),
            realtime: realtime::Realtime::new(roots, acts),
            groups: groups::Groups::new(roots, acts),
            switches: switches::Set::default(),
            units: units::Asked::new(units),
        }
    }
}

impl Engine {
    /// What a thread of a class should have: the class's values, its own reservation, and the
    /// group.
    pub(super) fn wanted<'a>(
        &'a self,
        thread: ThreadId,
        assigned: Assigned,
        target: &'a Target,
    ) -> Cow<'a, [Value]> {
        let reserved = self.levers.realtime.reservation(thread.tid);
        let reserved = reserved.filter(|_| target.reservation.is_some());
        let group = self.levers.groups.of_class(assigned.class);
        // A rule may name a kernel thread, and a group may be frozen: the host would stop with it.
        let process = self.world.get(thread.pid);
        let group = group
            .filter(|_| process.is_none_or(|process| process.facts.kind == ProcessKind::Ordinary));
        if reserved.is_none() && group.is_none() {
            return Cow::Borrowed(&target.values);
        }
        let mut values = target.values.clone();
        if let Some(sched) = reserved {
            values.retain(|value| value.lever() != Lever::Sched);
            values.insert(0, Value::Sched(sched));
        }
        values.extend(group.map(|path| Value::Cgroup(path.clone())));
        Cow::Owned(values)
    }
}
