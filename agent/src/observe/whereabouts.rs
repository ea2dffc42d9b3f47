//! Whose each process is and which control group it lies in, kept true while it lives.
//!
//! A daemon that starts as root becomes another user, a desktop moves a program into its scope
//! after it started, and no event tells of either. So each process is looked at again, often while
//! its program is young and every few seconds later, within a share of one core.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::pacer::{Purse, cpu_time};
use super::uses::Program;

/// For how long a program is young: it may be becoming what it will be.
const YOUNG: Duration = Duration::from_secs(10);

/// From one look to the next at a young program. The engine's tick comes on top.
const SOON: Duration = Duration::from_millis(500);

/// The same later.
const LATER: Duration = Duration::from_secs(4);

/// The part of one core that looking may take over time: one in this many. A look at both takes some
/// twenty microseconds, nearly all of them the kernel's: a thousand processes just fit in.
const PARTS: u32 = 200;

/// CPU time that may be saved up, for a burst of new processes.
const SAVED: Duration = Duration::from_millis(100);

/// More than the lines of a `status` file up to its groups.
const MAX_STATUS: usize = 1024;

/// More than the longest `cgroup` file: a version 1 host has a dozen lines in it, and a path has at
/// most 4096 bytes.
const MAX_CGROUP: usize = 16 << 10;

/// Which of the two are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// User and group.
    pub owner: bool,
    /// Control group.
    pub place: bool,
}

/// What was read of one process; what is not wanted is left as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearings {
    /// Real uid and gid, each where it could be read.
    pub owner: (Option<u32>, Option<u32>),
    /// Path of its control group.
    pub place: Option<String>,
}

/// Looks at processes again, and tells which are no more what they were.
#[derive(Debug)]
pub struct Whereabouts {
    proc: PathBuf,
    wanted: Wanted,
    known: HashMap<u32, Known>,
    /// When each is looked at next.
    due: BTreeSet<(Instant, u32)>,
    purse: Purse,
}

#[derive(Debug)]
struct Known {
    start_time: u64,
    exe: String,
    young_until: Instant,
    due: Instant,
    bearings: Bearings,
}

impl Whereabouts {
    /// Nothing is wanted yet, so nothing is looked at. `proc` is the kernel's folder of processes.
    #[must_use]
    pub fn new(proc: &Path) -> Self {
        Self {
            proc: proc.into(),
            wanted: Wanted::default(),
            known: HashMap::new(),
            due: BTreeSet::new(),
            purse: Purse::new(PARTS, SAVED),
        }
    }

    /// What is wanted from now on. What is known already is kept: it is compared with what is
    /// there at the next look.
    pub fn want(&mut self, wanted: Wanted) {
        self.wanted = wanted;
        if wanted == Wanted::default() {
            self.known.clear();
            self.due.clear();
        }
    }

    /// A process was read: from now on it is `bearings` that somebody believes of it.
    pub fn note(&mut self, program: Program<'_>, bearings: Bearings, now: Instant) {
        if self.wanted == Wanted::default() {
            return;
        }
        let Program { pid, start_time, exe, age } = program;
        if let Some(known) = self.known.get_mut(&pid)
            && known.start_time == start_time
            && known.exe == exe
        {
            known.bearings = bearings;
            return;
        }
        // One that runs another program than before is as good as new.
        let age = if self.known.contains_key(&pid) { Duration::ZERO } else { age };
        self.forget(pid);
        let young_until = now + YOUNG.saturating_sub(age);
        // Processes that are met together, at the start, are not due together.
        let due = match age < YOUNG {
            true => now + SOON,
            false => now + LATER.mul_f64(f64::from(pid % 16 + 1) / 16.0),
        };
        let known = Known { start_time, exe: exe.to_owned(), young_until, due, bearings };
        self.known.insert(pid, known);
        self.due.insert((due, pid));
    }

    /// A process is gone.
    pub fn forget(&mut self, pid: u32) {
        if let Some(known) = self.known.remove(&pid) {
            self.due.remove(&(known.due, pid));
        }
    }

    /// Looks at what is due, for at most `slice` of CPU time and within the share of a core;
    /// returns the processes that are not what was noted of them.
    pub fn news(&mut self, now: Instant, slice: Duration) -> Vec<u32> {
        let granted = self.purse.granted(now, slice);
        let mut changed = Vec::new();
        let begun = cpu_time();
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

    /// Looks at one process; returns whether it is not what was noted.
    fn look(&mut self, pid: u32, now: Instant) -> bool {
        let Some(known) = self.known.get_mut(&pid) else {
            return false;
        };
        let folder = self.proc.join(pid.to_string());
        let mut found = known.bearings.clone();
        let mut is_there = true;
        if self.wanted.owner {
            match start_of::<MAX_STATUS>(&folder.join("status")) {
                Some(status) => found.owner = owner_in(&status),
                None => is_there = false,
            }
        }
        if self.wanted.place && is_there {
            match start_of::<MAX_CGROUP>(&folder.join("cgroup")) {
                Some(text) => found.place = place_in(&text, None),
                None => is_there = false,
            }
        }
        if !is_there {
            self.known.remove(&pid);
            return false;
        }
        known.due = now + if now < known.young_until { SOON } else { LATER };
        self.due.insert((known.due, pid));
        let is_other = known.bearings != found;
        known.bearings = found;
        is_other
    }
}

/// The real uid and gid of a `status` file. The owner of the folder is root for a process that may
/// not be dumped, as each is that has just changed its user.
#[must_use]
pub fn owner_in(status: &str) -> (Option<u32>, Option<u32>) {
    let first_of = |key: &str| {
        let ids = status.lines().find_map(|line| line.strip_prefix(key))?;
        ids.split_ascii_whitespace().next()?.parse().ok()
    };
    (first_of("Uid:"), first_of("Gid:"))
}

/// A group of the agent's own that a process was moved into, and the one that it came from.
#[derive(Clone, Copy, Debug)]
pub struct Moved<'a> {
    /// Where it is.
    pub to: &'a str,
    /// Where it would be.
    pub from: &'a str,
}

/// A process's control group from its `cgroup` file; one that the agent moved is where it was.
#[must_use]
pub fn place_in(text: &str, moved: Option<Moved<'_>>) -> Option<String> {
    let path_of = |wanted: fn(&str, &str) -> bool| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let from = moved.filter(|moved| id == "0" && moved.to == path).map(|moved| moved.from);
            wanted(id, controllers).then(|| from.unwrap_or(path).to_owned())
        })
    };
    // On a hybrid host the v2 tree may hold everything in its root and say nothing.
    path_of(|id, controllers| id == "0" && controllers.is_empty())
        .filter(|path| path != "/")
        .or_else(|| path_of(|_, controllers| controllers == "name=systemd"))
        .or_else(|| path_of(|_, controllers| controllers.split(',').any(|c| c == "cpu")))
        .or_else(|| path_of(|id, _| id == "0"))
}

/// The first `MOST` bytes of a file that the kernel makes as it is read; nothing when it cannot be
/// read.
fn start_of<const MOST: usize>(path: &Path) -> Option<String> {
    let mut bytes = [0; MOST];
    // One read has all of it, where a reader that looks for the end makes four calls.
    let length = File::open(path).ok()?.read(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(bytes.get(..length)?).into_owned())
}

#[cfg(test)]
mod tests;
