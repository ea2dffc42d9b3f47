//! Processes and threads from `/proc`.

use downbeat_policy::ProcessFacts;

use crate::roots::Roots;

/// One process at one moment.
#[derive(Clone, Debug)]
pub struct ProcessSample {
    /// Process id.
    pub pid: u32,
    /// Parent.
    pub ppid: u32,
    /// Start time, clock ticks since boot.
    pub start_time: u64,
    /// What the rules look at.
    pub facts: ProcessFacts,
    /// Its threads.
    pub threads: Vec<ThreadSample>,
}

/// One thread at one moment.
#[derive(Clone, Debug)]
pub struct ThreadSample {
    /// Thread id.
    pub tid: u32,
    /// The thread's own name.
    pub name: String,
}

/// Reads processes.
#[derive(Debug)]
pub struct ProcessReader {
    _roots: Roots,
}

impl ProcessReader {
    /// A reader below `roots.proc`.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        Self { _roots: roots.clone() }
    }

    /// Every process that can be read; one that vanishes or cannot be read costs only itself.
    pub fn scan(&mut self) -> Vec<ProcessSample> {
        Vec::new()
    }
}
