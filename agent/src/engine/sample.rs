//! The slow half of the loop: what has no events is read once a second, and what only people look at
//! when somebody does.

use std::time::{Duration, Instant};

use super::Engine;
use crate::act::Done;
use crate::act::boot_ticks;
use crate::observe::process::ProcessStat;
use crate::observe::system::Births;

/// The parent of all kernel threads.
const KTHREADD: u32 = 2;

/// How long a process may still be giving itself its name, seconds.
const YOUNG: u64 = 10;

/// From one picture to the next while nobody looks.
const UNSEEN: Duration = Duration::from_secs(4);

/// The same while somebody does, and the least between two.
const SEEN: Duration = Duration::from_secs(1);

/// The most pictures from one turn of a quiet process to its next, while somebody looks and while
/// nobody does.
const TURNS: [u64; 2] = [4, 2];

/// A timer may be that much early against another.
const LEEWAY: Duration = Duration::from_millis(100);

/// How long a list of processes counts as complete while the kernel's counts say that none came or
/// went.
const LISTED: Duration = Duration::from_secs(10);

/// When what was done last.
#[derive(Debug)]
pub(super) struct Pace {
    pictured: Instant,
    /// Pictures so far.
    pictures: u64,
    /// What the latest picture covers, seconds.
    interval: f64,
    jobs_read: Instant,
    listed: Listed,
    /// When the threads of processes that are followed were listed last.
    caught_up: Option<Births>,
    /// When somebody may have been born last.
    born: Instant,
}

/// All processes, when they were listed last.
#[derive(Debug)]
struct Listed {
    at: Instant,
    births: Option<Births>,
    pids: Vec<u32>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        let listed = Listed { at: now, births: None, pids: Vec::new() };
        Self {
            pictured: now,
            pictures: 0,
            interval: 0.0,
            jobs_read: now,
            listed,
            caught_up: None,
            born: now,
        }
    }
}

impl Engine {
    /// Reads what has no events, reconciles the picture with it, and publishes it when it is due.
    pub(super) fn sample(&mut self) {
        let now = Instant::now();
        let is_due = self.is_picture_due(now);
        self.recover_from_lost_events();
        // Before anything is listed: who comes meanwhile shows at the next look.
        let births = self.system.births();
        if is_due {
            self.read_host(now, births);
        } else {
            self.look_for_births(now, births);
            self.look_at_the_young(now);
        }
        self.forget_ended_overrides();
        if is_due || births.is_none() || births != self.pace.caught_up {
            if births.is_none() || births != self.pace.caught_up {
                self.pace.born = now;
            }
            self.pace.caught_up = births;
            self.catch_up_with_threads();
        }
        let handed_off = self.verify();
        self.enter(&handed_off);
        if is_due {
            self.sample_surroundings();
        } else {
            self.watch_surroundings();
        }
        if is_due {
            self.read_jobs(now);
        } else {
            self.glance_at_jobs(now);
        }
        self.discover();
        self.renew_reservations();
        self.end_probations();
        self.set_switches();
        self.ask_for_units();
        if is_due {
            self.publish_after(self.pace.interval);
        }
    }

    /// Publishes a picture for somebody who asks, unless the last one is young.
    pub(super) fn look_again(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.pace.pictured) < SEEN {
            return;
        }
        let births = self.system.births();
        self.read_host(now, births);
        self.sample_surroundings();
        if now.saturating_duration_since(self.pace.jobs_read) + LEEWAY >= SEEN {
            self.read_jobs(now);
        }
        self.publish_after(self.pace.interval);
    }

    fn is_picture_due(&self, now: Instant) -> bool {
        let each = if self.onlookers.any() { SEEN } else { UNSEEN };
        self.pace.pictures == 0
            || now.saturating_duration_since(self.pace.pictured) + LEEWAY >= each
    }

    fn read_host(&mut self, now: Instant, births: Option<Births>) {
        let interval = now.saturating_duration_since(self.pace.pictured).as_secs_f64();
        self.pace.pictured = now;
        self.pace.interval = interval;
        self.pace.pictures += 1;
        self.onlookers.made(now);
        self.latest_system = self.system.read();
        self.list(now, births);
        self.fold_processes(interval * procfs::ticks_per_second() as f64);
    }

    pub(super) fn read_jobs(&mut self, now: Instant) {
        self.pace.jobs_read = now;
        self.sample_jobs();
    }

    /// The same, where any can have come since the last look. Of most the kernel programs tell; not of
    /// one that a process without a class makes and that runs no other program.
    fn look_for_births(&mut self, now: Instant, births: Option<Births>) {
        if births.is_some() && births == self.pace.listed.births {
            return;
        }
        self.pace.listed = Listed { at: now, births, pids: self.reader.pids() };
        self.consider_unknown(self.pace.listed.pids.clone());
    }

    /// Lists all processes, where that may give others than the last time.
    fn list(&mut self, now: Instant, births: Option<Births>) {
        let listed = &mut self.pace.listed;
        let is_old = now.saturating_duration_since(listed.at) >= LISTED;
        if births.is_none() || births != listed.births || is_old {
            *listed = Listed { at: now, births, pids: self.reader.pids() };
        }
    }

    /// Processes and threads that were not there a moment ago.
    pub(super) fn look_for_new_processes(&mut self) {
        self.consider_unknown(self.reader.pids());
        self.catch_up_with_threads();
    }

    fn consider_unknown(&mut self, pids: Vec<u32>) {
        for pid in pids {
            if self.world.get(pid).is_none() {
                self.consider(pid);
            }
        }
    }

    /// Reads the `stat` of every process: its use of the CPU, and whether it is still the one that
    /// is known by its id.
    fn fold_processes(&mut self, elapsed_ticks: f64) {
        let pids = std::mem::take(&mut self.pace.listed.pids);
        let alive = |pid: &u32| pids.binary_search(pid).is_ok();
        let gone: Vec<u32> =
            self.world.processes().map(|p| p.pid).filter(|pid| !alive(pid)).collect();
        for pid in gone {
            self.forget_process(pid);
        }
        let young = young_since();
        let turns = TURNS[usize::from(!self.onlookers.any())];
        let mut orphans = Vec::new();
        for &pid in &pids {
            if self.world.rests(pid, self.pace.pictures, turns, elapsed_ticks, young) {
                continue;
            }
            let Ok(stat) = self.reader.stat(pid) else {
                // It ended since the list was made; one that cannot be read stays as it is.
                if !self.reader.is_there(pid) {
                    self.forget_process(pid);
                }
                continue;
            };
            orphans.extend(self.reconcile(pid, &stat).then_some(pid));
            self.world.fold(pid, stat, elapsed_ticks);
        }
        self.pace.listed.pids = pids;
        // Those below them have other ancestors now.
        if !orphans.is_empty() && self.policy.set.needs().ancestors {
            for pid in self.world.descendants(&orphans) {
                self.consider(pid);
            }
        }
    }

    /// Looks at a process anew where it is another than the one that is known; returns whether it has
    /// another parent.
    fn reconcile(&mut self, pid: u32, stat: &ProcessStat) -> bool {
        let known = self.world.get(pid).filter(|known| known.start_time == stat.start_time);
        let Some(known) = known else {
            self.consider(pid);
            return false;
        };
        // No event tells of the name of a process that nobody follows. Kernel threads show their
        // present work in theirs.
        let is_renamed = known.facts.comm != stat.comm && stat.ppid != KTHREADD;
        let is_orphan = known.ppid != stat.ppid;
        if is_renamed || is_orphan {
            self.consider(pid);
        }
        is_orphan
    }

    /// Between two pictures: who began a moment ago may be giving itself its name.
    fn look_at_the_young(&mut self, now: Instant) {
        if now.saturating_duration_since(self.pace.born).as_secs() > YOUNG {
            return;
        }
        let young = young_since();
        let processes = self.world.processes().filter(|process| process.start_time >= young);
        for pid in processes.map(|process| process.pid).collect::<Vec<_>>() {
            if let Ok(stat) = self.reader.stat(pid) {
                self.reconcile(pid, &stat);
            }
        }
    }

    /// After a full ring, every process is looked at: one of them was missed.
    fn recover_from_lost_events(&mut self) {
        let Some(probes) = &self.probes else { return };
        let dropped = probes.counters().dropped_events;
        if dropped == self.dropped_before {
            return;
        }
        tracing::warn!(
            "{} kernel events were lost; every process is looked at again",
            dropped - self.dropped_before
        );
        self.dropped_before = dropped;
        self.consider_all();
    }

    fn verify(&mut self) -> Vec<Done> {
        self.actuator.as_mut().map_or_else(Vec::new, |actuator| actuator.verify(boot_ticks()))
    }
}

/// The start time of a process that is as old as a young one may be, clock ticks since boot.
fn young_since() -> u64 {
    boot_ticks().saturating_sub(YOUNG * procfs::ticks_per_second())
}
