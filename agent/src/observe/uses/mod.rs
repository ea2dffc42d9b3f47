//! What each process holds open and has mapped, kept fresh within a share of one core.
//!
//! No event tells when a process opens a device or loads a library, so it is looked at again: 1 s,
//! 5 s and 30 s after it started its program, when most have loaded what they will, and then each
//! minute. Whoever asks gets what was seen last; [`Signs::news`] does the looking and names the
//! processes of which something else is known than before.

mod devices;
mod libraries;
mod sound;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use downbeat_policy::Uses;

use self::devices::DeviceReader;
use super::pacer::{Purse, cpu_time};
use crate::roots::Roots;

/// Ages at which a program is looked at.
const AGES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// From one look to the next after that.
const THEN: Duration = Duration::from_secs(60);

/// The part of one core that looking may take over time: one in this many.
const PARTS: u32 = 1000;

/// CPU time that may be saved up, for a burst of new processes.
const SAVED: Duration = Duration::from_millis(250);

/// How old the list of connections to sound servers may be.
const CONNECTIONS: Duration = Duration::from_secs(2);

/// Which of the two are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Devices.
    pub uses: bool,
    /// Libraries.
    pub maps: bool,
}

/// A program that runs in a process: after an exec it is another.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// Process id.
    pub pid: u32,
    /// The process's start time, clock ticks since boot.
    pub start_time: u64,
    /// Path of the executable.
    pub exe: &'a str,
    /// How long ago the process started.
    pub age: Duration,
}

/// What was seen of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Devices.
    pub uses: Uses,
    /// File names of libraries, in order.
    pub maps: Vec<String>,
}

/// Looks at processes, and remembers.
#[derive(Debug)]
pub struct Signs {
    proc: PathBuf,
    devices: DeviceReader,
    wanted: Wanted,
    known: HashMap<u32, Known>,
    /// When each is looked at next.
    due: BTreeSet<(Instant, u32)>,
    purse: Purse,
    /// Both ends of each connection to a sound server, and when they were listed.
    connections: HashSet<u64>,
    listed: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    start_time: u64,
    exe: String,
    due: Instant,
    looks: usize,
    /// At least once, not only by its age.
    looked: bool,
    seen: Seen,
}

impl Signs {
    /// Nothing is wanted yet, so nothing is looked at.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        Self {
            proc: roots.proc.clone(),
            devices: DeviceReader::new(roots),
            wanted: Wanted::default(),
            known: HashMap::new(),
            due: BTreeSet::new(),
            purse: Purse::new(PARTS, SAVED),
            connections: HashSet::new(),
            listed: None,
        }
    }

    /// What is wanted from now on. What was seen stays where it is still wanted.
    pub fn want(&mut self, wanted: Wanted) {
        if wanted == self.wanted {
            return;
        }
        self.wanted = wanted;
        // What was not looked for was not seen: every process is as if just met.
        self.known.clear();
        self.due.clear();
    }

    /// What was seen of a program last. One that is not known yet will be looked at.
    pub fn of(&mut self, program: Program<'_>, now: Instant) -> Seen {
        if self.wanted == Wanted::default() {
            return Seen::default();
        }
        let Program { pid, start_time, exe, age } = program;
        let before = self.known.get(&pid);
        let is_same = |known: &&Known| known.start_time == start_time && known.exe == exe;
        if let Some(known) = before.filter(is_same) {
            return known.seen.clone();
        }
        // A process that was there before counts its looks from its start; one that runs another
        // program than before is as good as new.
        let age = if before.is_some() { Duration::ZERO } else { age };
        self.forget(pid);
        let looks = AGES.iter().take_while(|at| **at <= age).count();
        let due = match looks {
            0 => now + AGES[0].saturating_sub(age),
            _ => now,
        };
        let exe = exe.to_owned();
        let known = Known { start_time, exe, due, looks, looked: false, seen: Seen::default() };
        self.known.insert(pid, known);
        self.due.insert((due, pid));
        Seen::default()
    }

    /// Processes that will be looked at for the first time.
    #[must_use]
    pub fn unseen(&self) -> usize {
        self.known.values().filter(|known| !known.looked).count()
    }

    /// A process is gone.
    pub fn forget(&mut self, pid: u32) {
        if let Some(known) = self.known.remove(&pid) {
            self.due.remove(&(known.due, pid));
        }
    }

    /// Looks at what is due, for at most `slice` of CPU time and within the share of a core;
    /// returns the processes of which something else is known than before.
    pub fn news(&mut self, now: Instant, slice: Duration) -> Vec<u32> {
        let mut changed = Vec::new();
        let begun = cpu_time();
        let granted = self.purse.granted(now, slice);
        let mut spent = Duration::ZERO;
        while spent < granted
            && let Some(&(due, pid)) = self.due.first()
            && due <= now
        {
            self.due.remove(&(due, pid));
            if self.look(pid, now) {
                changed.push(pid);
            }
            spent = cpu_time().saturating_sub(begun);
        }
        self.purse.spend(spent);
        changed
    }

    /// Looks at one process; returns whether something else was seen than before.
    fn look(&mut self, pid: u32, now: Instant) -> bool {
        let Some(seen) = self.see(pid, now) else {
            self.known.remove(&pid);
            return false;
        };
        let Some(known) = self.known.get_mut(&pid) else {
            return false;
        };
        // From the one age to the next, or the steady pause.
        let pause = match AGES.get(known.looks..) {
            Some([this, next, ..]) => next.saturating_sub(*this),
            _ => THEN,
        };
        known.looks = (known.looks + 1).min(AGES.len());
        known.looked = true;
        known.due = now + pause;
        self.due.insert((known.due, pid));
        std::mem::replace(&mut known.seen, seen) != known.seen
    }

    /// Nothing when the process is gone or may not be looked at.
    fn see(&mut self, pid: u32, now: Instant) -> Option<Seen> {
        let mut seen = Seen::default();
        if self.wanted.uses {
            self.list_connections(now);
            seen.uses = self.devices.read(pid, &self.connections).ok()?;
        }
        if self.wanted.maps {
            seen.maps = libraries::libraries(&self.proc.join(pid.to_string())).ok()?;
        }
        Some(seen)
    }

    fn list_connections(&mut self, now: Instant) {
        if self.listed.is_some_and(|at| now.saturating_duration_since(at) < CONNECTIONS) {
            return;
        }
        match sound::connections() {
            Ok(connections) => self.connections = connections,
            // Said once: it will not get better while this kernel runs.
            Err(error) if self.listed.is_none() => {
                tracing::info!("who is connected to a sound server cannot be told: {error}");
            }
            Err(_) => {}
        }
        self.listed = Some(now);
    }
}

#[cfg(test)]
mod tests;
