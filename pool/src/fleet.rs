//! One declared worker: its instances, how many there should be, and their replacement when what is
//! declared changes.

mod memory;
mod shown;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use downbeat_api::pool::WorkerState;
use downbeat_queue::{Cause, Load as QueueLoad};

use crate::config::{Adapter, Instances, Program, WorkerConfig};
use crate::dispatch::Declaration;
use crate::member::{Context, Member, Said};
use crate::outside::{Outside, is_outside};
use crate::paths::Paths;
use crate::rolling::{self, Instance};
use crate::scale::{Load, Scale};
use crate::store::{Artifact, Report, Store, Target};
use crate::view::Standing;
use memory::Memory;

/// Between two decisions on how many instances there should be.
pub const DECISION: Duration = Duration::from_millis(250);

/// Requests a second that count as none: some seconds after the last one.
const LEAST_RATE: f64 = 0.01;

/// How long one that was unloaded takes to come up, until that is measured.
const COLD_START: Duration = Duration::from_secs(2);

/// How long an instance that is to leave may go on with what it has.
pub const DRAIN: Duration = Duration::from_secs(10);

/// One declared worker and its instances.
pub struct Fleet {
    config: WorkerConfig,
    /// Counts what was declared; instances of an earlier generation are replaced.
    generation: u64,
    /// What its instances are to load, or why there is nothing; for models of the store.
    target: Result<Target, String>,
    members: BTreeMap<usize, Member>,
    outside: Outside,
    scale: Scale,
    wanted: usize,
    decide_at: Duration,
    /// Requests that were refused for want of an instance, when that was last looked at.
    refused: u64,
    /// What the dispatcher was told.
    declared: Option<Declaration>,
    /// What the store was told that is served.
    served: Option<Arc<Artifact>>,
    /// How long its instances may go on with what they have, when it is to leave.
    leaving: Option<Duration>,
    memory: Memory,
}

impl Fleet {
    /// A worker whose first instances are due at once; those of a model of the store, when
    /// [`Self::aim`] says what to load.
    #[must_use]
    pub fn new(config: WorkerConfig) -> Self {
        let mut scale = Scale::new(config.instances, config.idle);
        let wanted = scale.decide(Duration::ZERO, &Load::default());
        Self {
            config,
            generation: 0,
            target: Err("the model folder has not been read yet".into()),
            members: BTreeMap::new(),
            outside: Outside::default(),
            scale,
            wanted,
            decide_at: Duration::ZERO,
            refused: 0,
            declared: None,
            served: None,
            leaving: None,
            memory: Memory::default(),
        }
    }

    /// What is declared.
    #[must_use]
    pub fn config(&self) -> &WorkerConfig {
        &self.config
    }

    /// The model of the store that it runs.
    #[must_use]
    pub fn stored(&self) -> Option<&str> {
        match &self.config.program {
            Program::Model(name) => Some(name),
            _ => None,
        }
    }

    /// What its instances are to load, or why there is nothing. Those that run go on until others
    /// are ready.
    pub fn aim(&mut self, target: Result<Target, String>, now: Duration) {
        if target == self.target {
            return;
        }
        self.target = target;
        for member in self.members.values_mut() {
            member.retry(now);
        }
    }

    fn artifact(&self) -> Option<&Arc<Artifact>> {
        self.stored()?;
        Some(&self.target.as_ref().ok()?.artifact)
    }

    /// Does what is due; returns when to come again, if not by an event alone.
    pub fn step(
        &mut self,
        now: Duration,
        load: Option<&QueueLoad>,
        context: &Context<'_>,
    ) -> Option<Duration> {
        self.declare(context);
        self.members.retain(|_, member| !member.gone());
        self.look_at_memory(now, load);
        if self.leaving.is_none() && self.is_elastic() && now >= self.decide_at {
            let load = load.map(|load| self.load(load)).unwrap_or_default();
            self.wanted = self.scale.decide(now, &load);
            self.decide_at = now + DECISION;
        }
        let outside = Some(&self.config).filter(|it| self.leaving.is_none() && is_outside(it));
        let patience = self.leaving.unwrap_or(DRAIN);
        let outside = self.outside.step(now, outside, patience, context);
        let instances: Vec<_> =
            self.members.iter().map(|(slot, it)| self.seen(*slot, it)).collect();
        let plan = rolling::plan(self.wanted_now(), self.overlaps(), &instances);
        for slot in plan.leave {
            if let Some(member) = self.members.get_mut(&slot) {
                member.leave(now + patience);
            }
        }
        let asks = !plan.start.is_empty() && !self.may_start();
        let start = if asks { Vec::new() } else { plan.start };
        self.memory.cleared = false;
        for slot in start {
            let artifact = self.artifact().cloned();
            let member = Member::new(self.config.clone(), slot, self.generation, artifact, now);
            self.members.insert(slot, member);
        }
        let due = self.members.values_mut().filter_map(|member| member.step(now, context)).min();
        self.report_served(context.store);
        if self.declared.is_some()
            && let Standing::Down(reason) = self.standing()
        {
            // What waits would wait in vain.
            context.dispatcher.refuse_waiting(&self.config.name, &reason);
        }
        let decision = (self.is_elastic() && self.leaving.is_none()).then_some(self.decide_at);
        // One that asks for room is told at once.
        let asks = (asks && self.memory.hold.is_none()).then_some(now);
        let held = self.memory.is_waiting().then_some(now + DECISION).or(asks);
        // One that had ended before it was to leave has left by now, and no event will tell of it.
        let left = self.members.values().any(Member::gone).then_some(now);
        due.into_iter().chain(decision).chain(outside).chain(held).chain(left).min()
    }

    fn wanted_now(&self) -> usize {
        let nothing = self.stored().is_some() && self.target.is_err();
        let none = self.leaving.is_some() || nothing || self.memory.unloaded;
        if none || is_outside(&self.config) { 0 } else { self.wanted }
    }

    /// Tells the dispatcher what is new.
    fn declare(&mut self, context: &Context<'_>) {
        let takes = self.leaving.is_none() && self.config.takes_requests();
        let declaration = takes.then(|| {
            let mut declaration = Declaration::from(&self.config);
            if self.memory.unloaded {
                declaration.cold_start.get_or_insert(COLD_START);
            }
            declaration
        });
        if declaration == self.declared {
            return;
        }
        match &declaration {
            Some(declaration) => context.dispatcher.declare(declaration.clone()),
            None => context.dispatcher.forget(&self.config.name),
        }
        self.declared = declaration;
    }

    /// Tells the store which file answers requests.
    fn report_served(&mut self, store: &Store) {
        let serving = |current: bool| {
            self.members.values().find(|member| {
                member.is_attached()
                    && !member.is_leaving()
                    && (member.artifact() == self.artifact()) == current
            })
        };
        let served = serving(true).or_else(|| serving(false)).and_then(Member::artifact).cloned();
        if served == self.served {
            return;
        }
        if let Some(before) = std::mem::replace(&mut self.served, served) {
            store.report(&before, Report::Stopped);
        }
        if let Some(artifact) = &self.served {
            store.report(artifact, Report::Ready);
        }
    }

    /// The queue's figures as those that scaling knows.
    fn load(&mut self, load: &QueueLoad) -> Load {
        let for_want = [Cause::Late, Cause::Expired, Cause::Full, Cause::Unavailable];
        let refused = for_want.iter().filter_map(|cause| load.refused.get(cause)).sum();
        let more = refused > std::mem::replace(&mut self.refused, refused);
        Load {
            queued: load.waiting + load.background,
            busy: load.running,
            // It is an average that fades and never ends by itself.
            arrivals: if load.arrival_rate < LEAST_RATE { 0.0 } else { load.arrival_rate },
            service: Duration::try_from_secs_f64(load.service).ok(),
            late: more || load.slack.is_some_and(|slack| slack < 0.0),
        }
    }

    /// Whether their number follows the load.
    fn is_elastic(&self) -> bool {
        let Instances { min, max, .. } = self.config.instances;
        min != max
    }

    fn seen(&self, slot: usize, member: &Member) -> Instance {
        Instance {
            slot,
            current: member.generation() == self.generation && member.artifact() == self.artifact(),
            ready: member.state() == WorkerState::Ready,
            leaving: member.is_leaving(),
        }
    }

    /// Whether old and new instances can run side by side: not where both need one socket or port.
    fn overlaps(&self) -> bool {
        match (&self.config.program, &self.config.adapter) {
            (Program::Denoise | Program::Elsewhere, _) | (Program::Command(_), None) => false,
            (Program::Command(words), Some(Adapter::Http(_) | Adapter::Oip(_))) => {
                words.iter().any(|word| word.contains("{port}"))
            }
            (Program::Model(_), _) | (Program::Command(_), Some(Adapter::Stdio(_))) => true,
        }
    }

    /// Takes in what an instance said.
    pub fn report(&mut self, slot: usize, life: u64, said: Said, store: &Store) {
        if is_outside(&self.config) {
            if let Said::Answers(answer) = said {
                self.outside.reached(life, answer);
            }
            return;
        }
        let Some(member) = self.members.get_mut(&slot).filter(|it| it.has_life(life)) else {
            return;
        };
        if let (Said::Refused(reason), Some(artifact)) = (&said, member.artifact()) {
            store.report(artifact, Report::Failed(reason.clone()));
        }
        member.report(said);
    }

    /// Takes note of instances whose processes have ended.
    pub fn reap(&mut self, now: Duration, paths: &Paths) {
        for member in self.members.values_mut() {
            member.reap(now, paths);
        }
    }

    /// Follows what is declared now. Instances are replaced only where their processes would differ.
    pub fn follow(&mut self, config: WorkerConfig, now: Duration) {
        if process_part(&config) != process_part(&self.config) {
            self.generation += 1;
        }
        if config.instances != self.config.instances || config.idle != self.config.idle {
            self.scale = Scale::new(config.instances, config.idle);
            self.wanted = self.wanted.clamp(config.instances.min, config.instances.max);
            self.decide_at = now;
        }
        self.config = config;
        self.leaving = None;
        self.memory.unloaded = false;
        for member in self.members.values_mut() {
            member.retry(now);
        }
        if matches!(self.outside.standing(), Standing::Down(_)) {
            self.outside.retry();
        }
    }

    /// Stops all instances for good; they may go on with what they have for `patience`.
    pub fn leave(&mut self, now: Duration, patience: Duration) {
        self.leaving = Some(patience);
        for member in self.members.values_mut() {
            member.leave(now + patience);
        }
    }

    /// Whether it is to leave.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Cuts the patience with instances that are being stopped.
    pub fn hurry(&mut self, now: Duration) {
        for member in self.members.values_mut() {
            member.hurry(now);
        }
        self.outside.hurry(now);
    }

    /// Whether it has left.
    #[must_use]
    pub fn gone(&self) -> bool {
        self.leaving.is_some() && self.members.is_empty() && self.outside.is_gone()
    }
}

/// A configuration without what concerns the pool alone and no process of the worker.
fn process_part(config: &WorkerConfig) -> WorkerConfig {
    WorkerConfig {
        instances: Instances::default(),
        idle: Duration::ZERO,
        media: None,
        cheaper: None,
        batch: 1,
        restart: config.restart,
        ..config.clone()
    }
}

#[cfg(test)]
mod tests;
