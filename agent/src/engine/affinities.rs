//! The CPUs that processes may use, for people to see.
//!
//! Nothing tells of a change, so they are asked for: at each sample for processes that have a class
//! or that work, and for the quiet ones of a full host when their turn comes, as for their `stat`.

use std::collections::HashMap;

use crate::act::{cpu_ranges, sched_getaffinity};
use crate::model::{Process, World};

/// As of the last sample.
#[derive(Debug, Default)]
pub(super) struct Affinities {
    known: HashMap<u32, Known>,
}

#[derive(Debug)]
struct Known {
    start_time: u64,
    ranges: String,
}

impl Affinities {
    /// Asks for those whose turn it is; forgets processes that are gone.
    pub(super) fn sample(&mut self, world: &World) {
        let mut before = std::mem::take(&mut self.known);
        for process in world.processes() {
            let known = before.remove(&process.pid).filter(|known| known.holds_for(process));
            let known = known.unwrap_or_else(|| Known::now(process));
            self.known.insert(process.pid, known);
        }
    }

    /// As a list (`0-3,6`); empty where it cannot be read.
    pub(super) fn of(&self, process: &Process) -> String {
        match self.known.get(&process.pid).filter(|k| k.start_time == process.start_time) {
            Some(known) => known.ranges.clone(),
            // New since the sample.
            None => Known::now(process).ranges,
        }
    }
}

impl Known {
    fn now(process: &Process) -> Self {
        let ranges = sched_getaffinity(process.pid).map(|cpus| cpu_ranges(&cpus));
        Self { start_time: process.start_time, ranges: ranges.unwrap_or_default() }
    }

    fn holds_for(&self, process: &Process) -> bool {
        self.start_time == process.start_time && process.rested > 0.0
    }
}
