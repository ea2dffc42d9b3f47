//! Processes and threads as last seen, with the class of each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use downbeat_policy::{Classified, ProcessFacts};

use crate::act::ThreadId;
use crate::observe::process::{ProcessSample, ProcessStat};

/// From twice as many processes on, quiet ones take turns.
const AT_A_TIME: u64 = 128;

/// How far up ancestors are followed: as far as rules look.
const MOST_GENERATIONS: usize = 17;

/// Every process that is known.
#[derive(Debug, Default)]
pub struct World {
    processes: BTreeMap<u32, Process>,
    /// Process of each thread that has a class.
    managed: HashMap<u32, u32>,
    /// Processes with a thread that has a class, or that may get one.
    followed: BTreeSet<u32>,
}

/// One process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Its parent when its facts were read.
    pub ppid: u32,
    /// Start time, clock ticks since boot.
    pub start_time: u64,
    /// What the rules look at.
    pub facts: ProcessFacts,
    /// The latest `stat`; absent before the first sample.
    pub stat: Option<ProcessStat>,
    /// CPU use between the last two samples, in CPUs.
    pub cpu: f64,
    /// Clock ticks of the samples that it was left out of since its last `stat`.
    pub rested: f64,
    /// Threads, as last listed; complete only for a process with a class.
    pub threads: BTreeMap<u32, Thread>,
    /// Its threads without a class may get one by another name, so they are followed as well.
    pub watched: bool,
}

/// One thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its own name.
    pub name: String,
    /// Start time, clock ticks since boot.
    pub start_time: u64,
    /// Its class and what gave it.
    pub classified: Option<Assigned>,
}

/// A thread's class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Place in the classes of the policy in force.
    pub class: usize,
    /// What gave it.
    pub by: By,
}

/// What gave a thread its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The rule at this place in the policy in force.
    Rule(usize),
    /// A person, for this one process (`downbeat set`).
    Hand,
    /// Nobody: what was seen of it shows what it works on (`[auto]`).
    Discovery,
}

impl Assigned {
    /// The place of the rule, where one gave the class.
    #[must_use]
    pub fn rule(self) -> Option<usize> {
        match self.by {
            By::Rule(rule) => Some(rule),
            By::Hand | By::Discovery => None,
        }
    }
}

impl From<Classified> for Assigned {
    fn from(Classified { class, rule }: Classified) -> Self {
        Self { class, by: By::Rule(rule) }
    }
}

/// Sums over a class.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassTotals {
    /// Processes with at least one thread in the class.
    pub processes: u32,
    /// Threads in the class.
    pub threads: u32,
    /// CPU use of the processes whose main class it is, in CPUs.
    pub cpu: f64,
}

impl World {
    /// Takes in a process with its threads and the class of each, in place of what was known.
    /// Returns the threads that had a class and are not listed any more.
    pub fn insert(
        &mut self,
        sample: &ProcessSample,
        watched: bool,
        classify: impl Fn(&ProcessFacts, &str) -> Option<Assigned>,
    ) -> Vec<u32> {
        let threads: BTreeMap<u32, Thread> = sample
            .threads
            .iter()
            .map(|thread| {
                let classified = classify(&sample.facts, &thread.name);
                let name = thread.name.clone();
                (thread.tid, Thread { name, start_time: thread.start_time, classified })
            })
            .collect();
        let before = self.processes.remove(&sample.pid);
        let gone: Vec<u32> = before
            .iter()
            .flat_map(|process| &process.threads)
            .filter(|(tid, thread)| thread.classified.is_some() && !threads.contains_key(tid))
            .map(|(tid, _)| *tid)
            .collect();
        for tid in before.iter().flat_map(|process| process.threads.keys()) {
            self.managed.remove(tid);
        }
        for (tid, thread) in &threads {
            if thread.classified.is_some() {
                self.managed.insert(*tid, sample.pid);
            }
        }
        // The same process keeps its CPU account through an exec.
        let (stat, cpu, rested) = before
            .filter(|process| process.start_time == sample.start_time)
            .map_or((None, 0.0, 0.0), |process| (process.stat, process.cpu, process.rested));
        let process = Process {
            pid: sample.pid,
            ppid: sample.ppid,
            start_time: sample.start_time,
            facts: sample.facts.clone(),
            stat,
            cpu,
            rested,
            threads,
            watched,
        };
        self.processes.insert(sample.pid, process);
        self.follow(sample.pid);
        gone
    }

    /// Takes in one thread of a known process.
    pub fn insert_thread(&mut self, pid: u32, tid: u32, thread: Thread) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        if thread.classified.is_some() {
            self.managed.insert(tid, pid);
        } else {
            self.managed.remove(&tid);
        }
        process.threads.insert(tid, thread);
        self.follow(pid);
    }

    /// Keeps `followed` as it should be after a change of one process.
    fn follow(&mut self, pid: u32) {
        let has_class = |thread: &Thread| thread.classified.is_some();
        let is_followed = self
            .processes
            .get(&pid)
            .is_some_and(|process| process.watched || process.threads.values().any(has_class));
        if is_followed {
            self.followed.insert(pid);
        } else {
            self.followed.remove(&pid);
        }
    }

    /// Folds in a `stat`; `elapsed` is in clock ticks since the last one of any process. Nothing
    /// happens for a process that is not known.
    pub fn fold(&mut self, pid: u32, stat: ProcessStat, elapsed: f64) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        let elapsed = elapsed + std::mem::take(&mut process.rested);
        process.cpu = match &process.stat {
            Some(before) if elapsed > 0.0 => {
                stat.cpu_ticks.saturating_sub(before.cpu_ticks) as f64 / elapsed
            }
            _ => 0.0,
        };
        process.stat = Some(stat);
    }

    /// Whether a process can be left out of the sample `sample`, which covers `elapsed` clock ticks:
    /// on a host with many processes, those that nobody follows, that are older than `young` (a
    /// start time) and that did nothing at the last sample take turns, at each `most` samples at least.
    pub fn rests(&mut self, pid: u32, sample: u64, most: u64, elapsed: f64, young: u64) -> bool {
        let turns = (self.processes.len() as u64 / AT_A_TIME).clamp(1, most.max(1));
        let Some(process) = self.processes.get_mut(&pid) else {
            return false;
        };
        let quiet = process.stat.is_some() && process.cpu == 0.0 && process.start_time < young;
        let has_turn = u64::from(pid) % turns == sample % turns;
        let rests = quiet && !has_turn && !process.watched && process.managed_threads() == 0;
        if rests {
            process.rested += elapsed;
        }
        rests
    }

    /// Forgets a process; returns its threads that had a class.
    pub fn remove(&mut self, pid: u32) -> Vec<u32> {
        self.followed.remove(&pid);
        let Some(process) = self.processes.remove(&pid) else {
            return Vec::new();
        };
        process.threads.into_keys().filter(|tid| self.managed.remove(tid).is_some()).collect()
    }

    /// Forgets one thread.
    pub fn remove_thread(&mut self, tid: u32) {
        if let Some(pid) = self.managed.remove(&tid)
            && let Some(process) = self.processes.get_mut(&pid)
        {
            process.threads.remove(&tid);
            self.follow(pid);
        }
    }

    /// A process by its id.
    #[must_use]
    pub fn get(&self, pid: u32) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// The process of a thread that has a class, or of a main thread.
    #[must_use]
    pub fn process_of(&self, tid: u32) -> Option<&Process> {
        let pid = self.managed.get(&tid).copied().unwrap_or(tid);
        self.processes.get(&pid)
    }

    /// Processes below one of `above`, and not among them.
    #[must_use]
    pub fn descendants(&self, above: &[u32]) -> Vec<u32> {
        let descends = |process: &&Process| {
            let mut at = process.ppid;
            // A chain that was read piece by piece may, for a moment, lead in a circle.
            for _ in 0..MOST_GENERATIONS {
                if above.contains(&at) {
                    return true;
                }
                let Some(next) = self.processes.get(&at) else { return false };
                at = next.ppid;
            }
            false
        };
        let pids = self.processes.values().filter(descends).map(|process| process.pid);
        pids.filter(|pid| !above.contains(pid)).collect()
    }

    /// Every process, by its id.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.values()
    }

    /// Processes whose threads are followed: at least one has a class, or may get one.
    #[must_use]
    pub fn followed_pids(&self) -> Vec<u32> {
        self.followed.iter().copied().collect()
    }

    /// The same processes.
    pub fn followed(&self) -> impl Iterator<Item = &Process> {
        self.followed.iter().filter_map(|pid| self.processes.get(pid))
    }

    /// Sums over each of `classes` classes.
    #[must_use]
    pub fn totals(&self, classes: usize) -> Vec<ClassTotals> {
        let mut totals = vec![ClassTotals::default(); classes];
        for process in self.processes.values() {
            let mut seen = vec![false; classes];
            for class in process.threads.values().filter_map(|t| Some(t.classified?.class)) {
                let Some(total) = totals.get_mut(class) else {
                    continue;
                };
                total.threads += 1;
                if !std::mem::replace(&mut seen[class], true) {
                    total.processes += 1;
                }
            }
            let main = process.classified().and_then(|c| totals.get_mut(c.class));
            if let Some(total) = main {
                total.cpu += process.cpu;
            }
        }
        totals
    }
}

impl Process {
    /// The class that it is shown with: its main thread's, or that of the first thread that has one.
    #[must_use]
    pub fn classified(&self) -> Option<Assigned> {
        let of_any = || self.threads.values().find_map(|thread| thread.classified);
        self.classified_as_a_whole().or_else(of_any)
    }

    /// The class of its main thread, which levers follow that belong to a process and not to a
    /// thread: a rule for one thread must not move or freeze all the others.
    #[must_use]
    pub fn classified_as_a_whole(&self) -> Option<Assigned> {
        self.threads.get(&self.pid).and_then(|thread| thread.classified)
    }

    /// Threads that have a class.
    #[must_use]
    pub fn managed_threads(&self) -> usize {
        self.threads.values().filter(|thread| thread.classified.is_some()).count()
    }

    /// A thread's id beyond doubt.
    #[must_use]
    pub fn thread_id(&self, tid: u32) -> Option<ThreadId> {
        let thread = self.threads.get(&tid)?;
        Some(ThreadId { pid: self.pid, tid, start_time: thread.start_time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::process::ThreadSample;

    const VOICE: Assigned = Assigned { class: 0, by: By::Rule(0) };

    fn sample(pid: u32, threads: &[(u32, &str)]) -> ProcessSample {
        let threads = threads
            .iter()
            .map(|(tid, name)| ThreadSample { tid: *tid, name: (*name).into(), start_time: 5 })
            .collect();
        let facts = ProcessFacts { comm: "it".into(), ..ProcessFacts::default() };
        ProcessSample { pid, ppid: 1, group: 1, session: 1, start_time: 5, facts, threads }
    }

    fn by_name(_: &ProcessFacts, thread: &str) -> Option<Assigned> {
        (thread == "audio").then_some(VOICE)
    }

    fn stat(cpu_ticks: u64) -> ProcessStat {
        ProcessStat {
            ppid: 1,
            is_kernel: false,
            group: 1,
            session: 1,
            start_time: 5,
            comm: "it".into(),
            state: 'S',
            threads: 2,
            cpu_ticks,
            rss: 0,
            nice: 0,
            policy: 0,
            priority: 0,
        }
    }

    #[test]
    fn a_class_counts_its_threads_and_their_processes() {
        let mut world = World::default();
        world.insert(&sample(10, &[(10, "main"), (11, "audio"), (12, "audio")]), false, by_name);
        world.insert(&sample(20, &[(20, "main")]), false, by_name);
        let totals = world.totals(1)[0];
        assert_eq!((totals.processes, totals.threads), (1, 2));
        assert_eq!(world.followed_pids(), [10]);
        assert_eq!(world.process_of(12).unwrap().pid, 10);
    }

    #[test]
    fn threads_that_vanish_are_told() {
        let mut world = World::default();
        world.insert(&sample(10, &[(10, "main"), (11, "audio")]), false, by_name);
        assert_eq!(world.insert(&sample(10, &[(10, "main")]), false, by_name), [11]);
        assert!(world.followed_pids().is_empty());
    }

    #[test]
    fn cpu_use_is_the_difference_of_two_samples() {
        let mut world = World::default();
        world.insert(&sample(10, &[(10, "audio")]), false, by_name);
        world.fold(10, stat(100), 100.0);
        assert_eq!(world.get(10).unwrap().cpu, 0.0, "one sample says nothing");
        world.fold(10, stat(150), 100.0);
        assert_eq!(world.totals(1)[0].cpu, 0.5);
        world.insert(&sample(10, &[(10, "audio")]), false, by_name);
        world.fold(10, stat(160), 100.0);
        assert_eq!(world.get(10).unwrap().cpu, 0.1, "an exec starts no new account");
    }

    #[test]
    fn quiet_processes_of_a_full_host_take_turns_and_lose_no_time() {
        let mut world = World::default();
        for pid in 1000..1600 {
            let class = if pid == 1001 { "audio" } else { "main" };
            world.insert(&sample(pid, &[(pid, class)]), false, by_name);
            world.fold(pid, stat(100), 100.0);
            world.fold(pid, stat(if pid == 1005 { 150 } else { 100 }), 100.0);
        }
        let mut rest = |pid, at| world.rests(pid, at, 4, 100.0, 6);
        assert!(!rest(1000, 0) && rest(1000, 1) && rest(1000, 2) && rest(1000, 3));
        assert!(!rest(1001, 2), "it has a class");
        assert!(!rest(1005, 2), "it works");
        assert!(!world.rests(1002, 1, 4, 100.0, 5), "it may still be starting");
        world.fold(1000, stat(300), 100.0);
        assert_eq!(world.get(1000).unwrap().cpu, 0.5, "over all four samples");
    }

    #[test]
    fn a_thread_leaves_with_its_process() {
        let mut world = World::default();
        world.insert(&sample(10, &[(10, "main"), (11, "audio")]), false, by_name);
        assert_eq!(world.remove(10), [11]);
        assert!(world.remove(10).is_empty());
        assert_eq!(world.processes().count(), 0);
    }

    #[test]
    fn a_watched_process_is_followed_without_a_class() {
        let mut world = World::default();
        world.insert(&sample(10, &[(10, "main")]), true, by_name);
        world.insert(&sample(20, &[(20, "main")]), false, by_name);
        assert_eq!(world.followed_pids(), [10]);
    }

    #[test]
    fn who_is_followed_is_kept_through_every_change() {
        let mut world = World::default();
        let followed = |world: &World| world.followed().map(|it| it.pid).collect::<Vec<_>>();
        world.insert(&sample(10, &[(10, "main")]), false, by_name);
        assert!(followed(&world).is_empty());
        let thread = |classified| Thread { name: "it".into(), start_time: 5, classified };
        world.insert_thread(10, 11, thread(Some(VOICE)));
        assert_eq!(followed(&world), [10]);
        world.insert_thread(10, 12, thread(Some(VOICE)));
        world.remove_thread(11);
        assert_eq!(followed(&world), [10]);
        world.insert_thread(10, 12, thread(None));
        assert!(followed(&world).is_empty());
        world.insert(&sample(10, &[(10, "audio")]), false, by_name);
        assert_eq!(followed(&world), [10]);
        world.remove(10);
        assert_eq!((followed(&world), world.followed_pids()), (vec![], vec![]));
    }

    #[test]
    fn descendants_are_found_whatever_the_parents_say() {
        let mut world = World::default();
        for (pid, ppid) in [(1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (30, 31), (31, 30)] {
            world.insert(&ProcessSample { ppid, ..sample(pid, &[]) }, false, by_name);
        }
        assert_eq!(world.descendants(&[10]), [11, 12]);
        assert_eq!(world.descendants(&[10, 11]), [12]);
        assert_eq!(world.descendants(&[1]), [10, 11, 12, 20]);
        assert!(world.descendants(&[12]).is_empty());
    }
}
