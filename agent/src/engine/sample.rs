//! The slow half of the loop: what has no events is read once a second.

use std::collections::HashSet;
use std::time::Instant;

use super::{Engine, TICKS_PER_SAMPLE};
use crate::act::Done;
use crate::act::boot_ticks;

/// The parent of all kernel threads.
const KTHREADD: u32 = 2;

/// How long a process may still be giving itself its name, clock ticks.
const YOUNG: u64 = 1000;

impl Engine {
    /// Reads the host, reconciles the picture with it, and publishes a snapshot.
    pub(super) fn sample(&mut self) {
        let now = Instant::now();
        let elapsed = now.duration_since(self.sampled).as_secs_f64();
        self.sampled = now;
        self.latest_system = self.system.read();
        self.recover_from_lost_events();
        self.fold_processes(elapsed * procfs::ticks_per_second() as f64);
        self.forget_ended_overrides();
        self.catch_up_with_threads();
        let handed_off = self.verify();
        self.enter(&handed_off);
        self.sample_surroundings();
        self.sample_jobs();
        self.discover();
        self.renew_reservations();
        self.end_probations();
        self.set_switches();
        self.ask_for_units();
        self.publish_after(elapsed);
    }

    /// Processes and threads that were not there a moment ago.
    pub(super) fn look_for_new_processes(&mut self) {
        for pid in self.reader.pids() {
            if self.world.get(pid).is_none() {
                self.consider(pid);
            }
        }
        self.catch_up_with_threads();
    }

    /// Reads the `stat` of every process: its use of the CPU, and whether it is still the one that
    /// is known by its id.
    fn fold_processes(&mut self, elapsed_ticks: f64) {
        let pids = self.reader.pids();
        let alive: HashSet<u32> = pids.iter().copied().collect();
        let gone: Vec<u32> =
            self.world.processes().map(|p| p.pid).filter(|pid| !alive.contains(pid)).collect();
        for pid in gone {
            self.forget_process(pid);
        }
        let young = boot_ticks().saturating_sub(YOUNG);
        let mut orphans = Vec::new();
        for pid in pids {
            if self.world.rests(pid, self.tick / TICKS_PER_SAMPLE, elapsed_ticks, young) {
                continue;
            }
            let Ok(stat) = self.reader.stat(pid) else {
                continue;
            };
            match self.world.get(pid) {
                Some(known) if known.start_time == stat.start_time => {
                    // No event tells of the name of a process that nobody follows. Kernel threads
                    // show their present work in theirs.
                    let is_renamed = known.facts.comm != stat.comm && stat.ppid != KTHREADD;
                    let is_orphan = known.ppid != stat.ppid;
                    if is_renamed || is_orphan {
                        self.consider(pid);
                    }
                    orphans.extend(is_orphan.then_some(pid));
                }
                _ => {
                    self.consider(pid);
                }
            }
            self.world.fold(pid, stat, elapsed_ticks);
        }
        // Those below them have other ancestors now.
        if !orphans.is_empty() && self.policy.set.needs().ancestors {
            for pid in self.world.descendants(&orphans) {
                self.consider(pid);
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
