//! The picture that everyone sees, put together from all parts.

use std::collections::HashMap;
use std::sync::Arc;

use downbeat_api::pool::{PoolStatus, Worker};
use downbeat_api::{
    Actions, Class, Cost, GpuView, HostFacts, HostLoad, Memory, Misses, Mode, PolicyState, Process,
    SCHEMA, Snapshot, Source, Wait,
};

use super::threads::unix_time;
use super::{Engine, Policy};
use crate::act::Sched;
use crate::decide::Target;
use crate::model;
use crate::model::histogram::Histogram;
use crate::observe::kernel::KernelProbes;

/// Seconds below which the agent's own use of the CPU over them says nothing.
const LEAST_INTERVAL: f64 = 0.5;

/// A picture without anything in it.
pub fn empty(host: &HostFacts, source: &Source, mode: Mode) -> Snapshot {
    Snapshot {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: String::new(),
        kernel: host.kernel.clone(),
        tick: 0,
        unix_time: unix_time(),
        uptime: 0.0,
        interval: 0.0,
        mode,
        source: source.clone(),
        notices: Vec::new(),
        cpus: Vec::new(),
        load: [0.0; 3],
        memory: Memory::default(),
        pressure: None,
        host_load: HostLoad::default(),
        policy: PolicyState::default(),
        overrides: Vec::new(),
        classes: Vec::new(),
        jobs: Vec::new(),
        blame: Vec::new(),
        misses: Vec::new(),
        causes: Vec::new(),
        processes: Vec::new(),
        gpu: GpuView::default(),
        pool: None,
        actions: Actions::default(),
        cost: Cost::default(),
    }
}

impl Engine {
    /// Publishes a picture whose rates are those of the last sample.
    pub(super) fn publish(&mut self) {
        let latest = Arc::clone(&self.snapshots.borrow());
        // By name, since a reload may have put other classes in their places.
        let wait_of = |target: &Target| {
            let class = latest.classes.iter().find(|class| class.name == target.class);
            class.and_then(|class| class.wait.clone())
        };
        let classes = self.classes(self.policy.targets.iter().map(wait_of).collect());
        let gpu = latest.gpu.clone();
        let processes = self.processes(&gpu);
        let mut next = Snapshot { classes, processes, ..(*latest).clone() };
        next.mode = self.mode;
        next.notices = self.notices.all();
        next.policy = self.policy_folders.state.clone();
        next.overrides = self.list_overrides();
        next.actions = self.actions();
        next.unix_time = unix_time();
        self.show_jobs(&mut next);
        self.snapshots.send_replace(Arc::new(next));
    }

    /// Publishes a picture at the end of a sample that covers `interval` seconds.
    pub(super) fn publish_after(&mut self, interval: f64) {
        let own = self.own.read();
        self.own_memory.look();
        let gpu = self.gpu.read();
        let waits = self.waits();
        self.affinities.sample(&self.world);
        let before = Arc::clone(&self.snapshots.borrow());
        // Before the first sample lies the start-up, which no interval covers.
        let cpu = (interval >= LEAST_INTERVAL)
            .then(|| (own.cpu_seconds - before.cost.cpu_seconds) / interval);
        let now = self.started.elapsed();
        let bpf = self.probes.as_mut().map(|probes| probes.cost(now));
        let system = self.latest_system.clone();
        let mut snapshot = Snapshot {
            host: self.host_name.clone(),
            tick: self.tick,
            uptime: now.as_secs_f64(),
            interval,
            notices: self.notices.all(),
            cpus: system.cpus,
            load: system.load,
            memory: system.memory,
            pressure: self.surroundings.averages(),
            host_load: self.surroundings.load().clone(),
            policy: self.policy_folders.state.clone(),
            overrides: self.list_overrides(),
            classes: self.classes(waits),
            processes: self.processes(&gpu),
            gpu,
            pool: self.pool_status(),
            actions: self.actions(),
            cost: Cost { cpu_seconds: own.cpu_seconds, cpu, rss: own.rss, bpf },
            ..empty(&self.host, &self.source, self.mode)
        };
        self.show_jobs(&mut snapshot);
        self.show_class_cpus(&mut snapshot, interval);
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    /// Per class, the waits of the interval and since start.
    fn waits(&mut self) -> Vec<Option<Wait>> {
        let Some(probes) = &self.probes else {
            return vec![None; self.policy.targets.len()];
        };
        let before = &mut self.waits_before;
        let wait_of = |slot: &Option<u32>| slot.and_then(|slot| wait_of(probes, slot, before));
        self.policy.slots.iter().map(wait_of).collect()
    }

    fn classes(&self, waits: Vec<Option<Wait>>) -> Vec<Class> {
        let totals = self.world.totals(self.policy.targets.len());
        let misses = self.misses();
        let policy = self.policy.set.classes.iter().zip(&self.policy.targets);
        policy
            .zip(totals)
            .zip(waits)
            .enumerate()
            .map(|(index, (((class, target), total), wait))| Class {
                name: class.name.clone(),
                modality: class.modality.name().to_owned(),
                tier: class.tier.name().to_owned(),
                deadline_ns: Policy::named_deadline_ns(class),
                sched: target.words.clone(),
                processes: total.processes,
                threads: total.threads,
                cpu: total.cpu,
                wait,
                misses: misses.get(&index).copied(),
                jobs: None,
                cpus: None,
                cgroups: self.surroundings.of_class(&class.name).cloned(),
            })
            .collect()
    }

    /// Frames that the pool's workers count themselves, by the class of each worker.
    fn misses(&self) -> HashMap<usize, Misses> {
        let mut misses: HashMap<usize, Misses> = HashMap::new();
        let status = self.pool_status.borrow();
        for worker in status.iter().flat_map(|status| &status.workers) {
            let Worker { pid: Some(pid), frames: Some(frames), missed, .. } = worker else {
                continue;
            };
            let process = self.world.get(*pid);
            if let Some(classified) = process.and_then(model::Process::classified) {
                let sum = misses.entry(classified.class).or_default();
                sum.frames += frames;
                sum.missed += missed.unwrap_or(0);
            }
        }
        misses
    }

    fn processes(&self, gpu: &GpuView) -> Vec<Process> {
        let mut gpu_memory: HashMap<u32, u64> = HashMap::new();
        for process in gpu.devices.iter().flat_map(|device| &device.processes) {
            if let Some(memory) = process.memory {
                *gpu_memory.entry(process.pid).or_default() += memory;
            }
        }
        let mut processes: Vec<Process> = self
            .world
            .processes()
            .map(|process| self.process(process, gpu_memory.get(&process.pid).copied()))
            .collect();
        processes.sort_by(|a, b| {
            let by_class = b.class.is_some().cmp(&a.class.is_some());
            by_class.then(b.cpu.total_cmp(&a.cpu)).then(a.pid.cmp(&b.pid))
        });
        processes
    }

    fn process(&self, process: &model::Process, gpu_memory: Option<u64>) -> Process {
        let classified = process.classified();
        let class = classified.and_then(|c| self.policy.set.classes.get(c.class));
        let rule = classified.and_then(|c| self.policy.set.rules.get(c.rule()?));
        let facts = &process.facts;
        let stat = process.stat.as_ref();
        let attention = self.actuator.as_ref().is_some_and(|actuator| {
            classified.is_some() && process.threads.keys().any(|tid| actuator.wants_attention(*tid))
        });
        let command = if facts.cmdline.is_empty() {
            format!("[{}]", facts.comm)
        } else {
            facts.cmdline.clone()
        };
        Process {
            pid: process.pid,
            ppid: stat.map_or(0, |stat| stat.ppid),
            start_time: process.start_time,
            name: facts.comm.clone(),
            command,
            user: facts.user.clone().unwrap_or_else(|| facts.uid.to_string()),
            class: class.map(|class| class.name.clone()),
            rule: rule.map(|rule| rule.name.clone()),
            threads: stat.map_or(0, |stat| stat.threads),
            managed: u32::try_from(process.managed_threads()).unwrap_or(u32::MAX),
            state: stat.map_or('?', |stat| stat.state),
            cpu: process.cpu,
            rss: stat.map_or(0, |stat| stat.rss),
            gpu_memory,
            sched: stat.map_or_else(String::new, |stat| {
                let (policy, priority) = (stat.policy, stat.priority);
                Sched { policy, priority, ..Sched::DEFAULT }.to_string()
            }),
            nice: stat.map_or(0, |stat| stat.nice),
            affinity: self.affinities.of(process),
            attention,
        }
    }

    fn pool_status(&self) -> Option<PoolStatus> {
        let (pid, note) = self.pool.as_ref()?.process();
        let said = self.pool_status.borrow().clone().unwrap_or_default();
        let note = note.map(ToOwned::to_owned).or(said.note);
        Some(PoolStatus { pid, note, ..said })
    }

    fn actions(&self) -> Actions {
        let exec_to_set = (self.exec_to_set.count() > 0).then(|| self.exec_to_set.summary());
        Actions {
            levers: self.ledger.levers(),
            journalled: self.actuator.as_ref().map_or(0, crate::act::Actuator::journalled),
            journal_failures: self.actuator.as_ref().map(crate::act::Actuator::journal_failures),
            exec_to_set,
            recent: self.ledger.recent(),
        }
    }
}

/// The waits of one slot, and what they were before, which is replaced.
fn wait_of(probes: &KernelProbes, slot: u32, before: &mut Vec<Histogram>) -> Option<Wait> {
    let total = probes.waits(slot).ok()?;
    let index = slot as usize;
    if before.len() <= index {
        before.resize_with(index + 1, Histogram::default);
    }
    let previous = std::mem::replace(&mut before[index], total.clone());
    let recent = total.since(&previous).summary();
    Some(Wait { recent, total: total.summary(), buckets: total.cumulative() })
}
