//! What the engine keeps for the levers beyond a thread's fixed values: reservations that are
//! learned, groups of the agent's own, the host's switches, and the watch for runaways.

mod groups;
mod probation;
mod realtime;
mod shown;
mod switches;
mod units;

use std::borrow::Cow;

use downbeat_policy::ProcessKind;

use crate::act::{Lever, ThreadId, Units, Value};
use crate::decide::Target;
use crate::model::Assigned;
use crate::observe::kernel::Sleepers;
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
    /// `acts`: whether anything is to be changed at all; `units` asks systemd, where it runs;
    /// `sleepers` tells which threads sleep, where the kernel programs see that.
    pub(super) fn new(
        roots: &Roots,
        acts: bool,
        units: Option<Units>,
        sleepers: Option<Sleepers>,
    ) -> Self {
        Self {
            roots: roots.clone(),
            machine: Machine::read(roots),
            realtime: realtime::Realtime::new(roots, acts, sleepers),
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
        // A rule may name a kernel thread, and a group may be frozen: the host would stop with it,
        // and the pool with the process that looks after its workers.
        let process = self.world.get(thread.pid);
        let group = group
            .filter(|_| process.is_none_or(|process| process.facts.kind == ProcessKind::Ordinary))
            .filter(|_| !self.is_pool(thread.pid));
        if reserved.is_none() && group.is_none() {
            return Cow::Borrowed(&target.values);
        }
        let mut values = target.values.clone();
        if let Some(sched) = reserved {
            values.retain(|value| value.lever() != Lever::Sched);
            values.insert(0, Value::Sched(sched));
        }
        let group = group.map(|path| Value::Cgroup(path.clone()));
        // A reservation is for all CPUs of its root domain: a thread has to be in the partition, and
        // on its CPUs alone, before the kernel grants one.
        let is_alone = self.levers.groups.target(assigned.class).is_some_and(|it| it.partition);
        if let (true, Some(group)) = (is_alone && target.reservation.is_some(), &group) {
            values.sort_by_key(|value| value.lever() == Lever::Sched);
            values.insert(0, group.clone());
        } else {
            values.extend(group);
        }
        Cow::Owned(values)
    }

    /// Whether this is the pool's own process; its workers are like all others.
    fn is_pool(&self, pid: u32) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.process().0 == Some(pid))
    }
}
