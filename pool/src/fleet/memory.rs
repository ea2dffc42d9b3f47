//! What a worker's instances take of the memory, and when they are unloaded for another's.

use std::time::Duration;

use downbeat_api::pool::WorkerState;
use downbeat_queue::Load as QueueLoad;
use tracing::{info, warn};

use super::{Fleet, LEAST_RATE};
use crate::member::Member;
use crate::memory::{Hold, Idle};

/// Between two looks at the memory of its instances.
const MEMORY_LOOK: Duration = Duration::from_secs(1);

/// Without work for so long it may be unloaded for another.
const REST: Duration = Duration::from_secs(2);

/// Bytes of an instance for each of its model's file, before one was seen: the file itself while it
/// is read, and what is made of it.
const PER_FILE: u64 = 2;

/// Bytes of an instance without a model.
const BARE: u64 = 24 << 20;

/// What is known of the memory that an instance takes, and what follows from it.
#[derive(Debug, Default)]
pub struct Memory {
    /// The most that one was seen with, bytes.
    pub most: Option<u64>,
    /// When it was last looked at.
    pub looked: Option<Duration>,
    /// When the worker last had something to do.
    pub used: Duration,
    /// It was unloaded to make room, until the next request.
    pub unloaded: bool,
    /// Why nothing is started at the moment.
    pub hold: Option<Hold>,
    /// There is room for the start that is due.
    pub cleared: bool,
}

impl Memory {
    /// Whether something may change that no event tells.
    pub fn is_waiting(&self) -> bool {
        self.hold.is_some() || self.unloaded
    }
}

impl Fleet {
    /// Notes when it has work, and now and then what its instances take.
    pub(super) fn look_at_memory(&mut self, now: Duration, load: Option<&QueueLoad>) {
        let works = |load: &QueueLoad| {
            load.running + load.waiting + load.background > 0 || load.arrival_rate >= LEAST_RATE
        };
        if load.is_some_and(works) {
            self.memory.used = now;
            // Whatever came after it was unloaded asks for it again, and what was refused since its
            // deadline is too near does too: it had rested, so that no arrival of before counts.
            self.memory.unloaded = false;
        }
        let due = self.memory.looked.is_none_or(|at| now >= at + MEMORY_LOOK);
        if due && !self.members.is_empty() {
            self.memory.looked = Some(now);
            let most = self.members.values().filter_map(Member::resident).max();
            self.memory.most = self.memory.most.max(most);
        }
    }

    /// Bytes that an instance will take, where that is known: what one was seen with, else what its
    /// file says.
    fn estimate(&self) -> Option<u64> {
        let file = self.artifact().map(|it| it.bytes.saturating_mul(PER_FILE).saturating_add(BARE));
        let need = self.memory.most.or(file)?;
        Some(self.config.placement.memory.map_or(need, |cap| need.min(cap)))
    }

    /// Bytes that the starts that are due will take, where there are any and that is known.
    #[must_use]
    pub fn needs(&self) -> Option<u64> {
        // Those that are replaced stay until others are ready.
        let there = self.members.iter().map(|(slot, member)| self.seen(*slot, member));
        let there = there.filter(|it| it.current && !it.leaving).count();
        let missing = self.wanted_now().saturating_sub(there);
        let missing = u64::try_from(missing).ok().filter(|missing| *missing > 0)?;
        Some(self.estimate()?.saturating_mul(missing))
    }

    /// Whether those that are due may start; not before it was asked whether there is room.
    pub(super) fn may_start(&self) -> bool {
        self.memory.cleared || self.estimate().is_none()
    }

    /// Says why the next start has to wait, or that it has not.
    pub fn hold(&mut self, hold: Option<Hold>) {
        if let (Some(Hold::Soon(reason) | Hold::Short(reason)), None) = (&hold, &self.memory.hold) {
            warn!(worker = self.config.name, "{reason}");
        }
        self.memory.cleared = hold.is_none() && self.needs().is_some();
        self.memory.hold = hold;
    }

    /// Bytes of instances that are on their way out.
    #[must_use]
    pub fn leaving_memory(&self) -> u64 {
        let leaving = self.members.values().filter(|it| it.is_leaving());
        leaving.filter_map(Member::resident).sum()
    }

    /// What unloading it would give; nothing where it has work, or is to run always. `on_demand`:
    /// a client loaded it, and nobody declares it.
    #[must_use]
    pub fn idle(&self, now: Duration, on_demand: bool) -> Option<Idle> {
        let asked = on_demand || self.config.instances.min == 0;
        let rests = now.saturating_sub(self.memory.used) >= REST;
        let ready = |it: &Member| it.state() == WorkerState::Ready && !it.is_leaving();
        let all_ready = !self.members.is_empty() && self.members.values().all(ready);
        let idle = asked && rests && all_ready && self.config.instances.spare == 0;
        let memory = self.members.values().filter_map(Member::resident).sum();
        let name = self.config.name.clone();
        (idle && self.leaving.is_none()).then_some(Idle { name, used: self.memory.used, memory })
    }

    /// Stops its instances until the next request.
    pub fn unload(&mut self) {
        info!(worker = self.config.name, "unloaded to make room for another");
        self.memory.unloaded = true;
    }
}
