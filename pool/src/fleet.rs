//! One declared worker: its instances, how many there should be, and their replacement when what is
//! declared changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use downbeat_api::pool::{Worker, WorkerState};
use nix::unistd::Pid;

use crate::config::{Adapter, Instances, Program, WorkerConfig};
use crate::member::{Context, Member, Said};
use crate::paths::Paths;
use crate::program::port;
use crate::rolling::{self, Instance};
use crate::scale::{Load, Scale};
use crate::view::Model;

/// Between two decisions on how many instances there should be.
pub const DECISION: Duration = Duration::from_millis(250);

/// One declared worker and its instances.
pub struct Fleet {
    config: WorkerConfig,
    /// Counts what was declared; instances of an earlier generation are replaced.
    generation: u64,
    members: BTreeMap<usize, Member>,
    scale: Scale,
    wanted: usize,
    decide_at: Duration,
    leaving: bool,
}

impl Fleet {
    /// A worker whose first instances are due at once.
    #[must_use]
    pub fn new(config: WorkerConfig) -> Self {
        let mut scale = Scale::new(config.instances, config.idle);
        let wanted = scale.decide(Duration::ZERO, &Load::default());
        Self {
            config,
            generation: 0,
            members: BTreeMap::new(),
            scale,
            wanted,
            decide_at: Duration::ZERO,
            leaving: false,
        }
    }

    /// What is declared.
    #[must_use]
    pub fn config(&self) -> &WorkerConfig {
        &self.config
    }

    /// Does what is due; returns when to come again, if not by an event alone.
    pub fn step(&mut self, now: Duration, load: &Load, context: &Context<'_>) -> Option<Duration> {
        self.members.retain(|_, member| !member.gone());
        if !self.leaving && self.is_elastic() && now >= self.decide_at {
            self.wanted = self.scale.decide(now, load);
            self.decide_at = now + DECISION;
        }
        let wanted = if self.leaving { 0 } else { self.wanted };
        let instances: Vec<_> =
            self.members.iter().map(|(slot, it)| self.seen(*slot, it)).collect();
        let plan = rolling::plan(wanted, self.overlaps(), &instances);
        for slot in plan.leave {
            if let Some(member) = self.members.get_mut(&slot) {
                member.leave(now);
            }
        }
        for slot in plan.start {
            let member = Member::new(self.config.clone(), slot, self.generation, now);
            self.members.insert(slot, member);
        }
        let due = self.members.values_mut().filter_map(|member| member.step(now, context)).min();
        let decision = (self.is_elastic() && !self.leaving).then_some(self.decide_at);
        due.into_iter().chain(decision).min()
    }

    /// Whether their number follows the load.
    fn is_elastic(&self) -> bool {
        let Instances { min, max, .. } = self.config.instances;
        min != max
    }

    fn seen(&self, slot: usize, member: &Member) -> Instance {
        Instance {
            slot,
            current: member.generation() == self.generation,
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
    pub fn report(&mut self, slot: usize, life: u64, said: Said) {
        if let Some(member) = self.members.get_mut(&slot) {
            member.report(life, said);
        }
    }

    /// Whether one of its instances is this process.
    #[must_use]
    pub fn owns(&self, pid: Pid) -> bool {
        self.members.values().any(|member| member.pid() == Some(pid))
    }

    /// The process of an instance ended; nothing where it is none of its own.
    pub fn ended(&mut self, now: Duration, pid: Pid, status: ExitStatus, paths: &Paths) {
        if let Some(member) = self.members.values_mut().find(|member| member.pid() == Some(pid)) {
            member.ended(now, status, paths);
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
        self.leaving = false;
        for member in self.members.values_mut() {
            member.retry(now);
        }
    }

    /// Stops all instances for good.
    pub fn leave(&mut self, now: Duration) {
        self.leaving = true;
        for member in self.members.values_mut() {
            member.leave(now);
        }
    }

    /// Cuts the patience with instances that are being stopped.
    pub fn hurry(&mut self, now: Duration) {
        for member in self.members.values_mut() {
            member.hurry(now);
        }
    }

    /// Whether it has left.
    #[must_use]
    pub fn gone(&self) -> bool {
        self.leaving && self.members.is_empty()
    }

    /// For the status: a row for each instance, and one for a worker that has none.
    #[must_use]
    pub fn status(&self) -> Vec<Worker> {
        if self.members.is_empty() && !self.leaving {
            let mut row =
                Member::new(self.config.clone(), 0, self.generation, Duration::ZERO).status();
            row.state = WorkerState::Stopped;
            row.note = Some("no instance runs; the next request starts one".into());
            return vec![row];
        }
        self.members.values().map(Member::status).collect()
    }

    /// Addresses (`host:port`) of the instances that take `/v1/*`; nothing where it takes none.
    #[must_use]
    pub fn openai(&self) -> Option<Vec<String>> {
        if !self.config.openai {
            return None;
        }
        if let Some(url) = self.config.adapter.as_ref().and_then(Adapter::url) {
            return Some(vec![url.strip_prefix("http://").unwrap_or(url).into()]);
        }
        let ready = |(_, member): &(&usize, &Member)| member.state() == WorkerState::Ready;
        let address = |(&slot, _): (&usize, &Member)| {
            Some(format!("127.0.0.1:{}", port(&self.config, slot)?))
        };
        Some(self.members.iter().filter(ready).filter_map(address).collect())
    }

    /// As a model that streams, of the Open Inference Protocol.
    #[must_use]
    pub fn model(&self, paths: &Paths) -> Option<Model> {
        if self.config.program != Program::Denoise {
            return None;
        }
        let ready = |member: &&Member| member.state() == WorkerState::Ready;
        let id = self.members.values().find(ready).map(Member::id);
        let socket: PathBuf = paths.socket(id.unwrap_or(&self.config.name)).ok()?;
        Some(Model { ready: id.is_some(), socket, deadline: self.config.deadline })
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
mod tests {
    use super::*;
    use crate::config::DEFAULT_IDLE;

    #[test]
    fn only_what_a_process_knows_of_makes_a_new_one() {
        let config = WorkerConfig::new("w", Program::Model("glyphs".into()));
        let mut fleet = Fleet::new(config.clone());
        let more = Instances { min: 1, max: 4, spare: 1 };
        fleet.follow(WorkerConfig { instances: more, batch: 8, ..config.clone() }, Duration::ZERO);
        assert_eq!(fleet.generation, 0);
        fleet.follow(WorkerConfig { deadline: Some(DEFAULT_IDLE), ..config }, Duration::ZERO);
        assert_eq!(fleet.generation, 1, "its deadline is in its environment");
    }

    #[test]
    fn a_worker_without_an_instance_is_still_shown() {
        let none = Instances { min: 0, max: 1, spare: 0 };
        let config = WorkerConfig::new("w", Program::Model("glyphs".into()));
        let fleet = Fleet::new(WorkerConfig { instances: none, ..config });
        let rows = fleet.status();
        assert_eq!((rows.len(), rows[0].name.as_str()), (1, "w"));
        assert_eq!(rows[0].state, WorkerState::Stopped);
    }
}
