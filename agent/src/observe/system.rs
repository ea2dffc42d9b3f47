//! CPUs, load, memory and pressure of the host.

use downbeat_api::{Cpu, Memory, Pressure};

use crate::roots::Roots;

/// The host at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct System {
    /// One entry per online CPU, by number, over the time since the last read; empty on the first
    /// read, since fractions since boot would say nothing about now.
    pub cpus: Vec<Cpu>,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Memory.
    pub memory: Memory,
    /// Pressure, where the kernel has it.
    pub pressure: Option<Pressure>,
}

/// Reads the host below a root.
#[derive(Debug)]
pub struct SystemReader {
    roots: Roots,
}

impl SystemReader {
    /// A reader below `roots.proc`.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        Self { roots: roots.clone() }
    }

    /// The host now. What cannot be read stays at its default.
    pub fn read(&mut self) -> System {
        let _ = &self.roots;
        System::default()
    }
}
