//! What the rules look at in one process.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use downbeat_policy::{ContainerFacts, ParentFacts, ProcessFacts, ProcessKind};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Gid, Group, Uid, User};

use super::{ProcessReader, ProcessStat};
use crate::observe::containers::unit_of;
use crate::observe::uses::{Program, Seen};
use crate::observe::whereabouts::{Bearings, Moved, owner_in, place_in};

/// How much of a command line is read; what comes behind is of no use to rules or people, and a
/// process may have megabytes of it.
const MAX_CMDLINE: u64 = 4096;

/// How much of an environment is read.
const MAX_ENVIRON: u64 = 64 << 10;

/// How far up a process's ancestors are followed, its parent not counted.
const MOST_ANCESTORS: usize = 16;

impl ProcessReader {
    /// What the rules look at.
    pub(super) fn facts(&mut self, pid: u32, stat: &ProcessStat, status: &str) -> ProcessFacts {
        let owner = owner_in(status);
        let (uid, gid) = (owner.0.unwrap_or(u32::MAX), owner.1);
        let exe = self.exe(pid);
        let cgroup = place_in(&self.cgroup(pid), None);
        // The kernel's own threads have no program to change who they are.
        if !stat.is_kernel {
            let age = age(stat.start_time);
            let exe = exe.as_deref().unwrap_or_default();
            let program = Program { pid, start_time: stat.start_time, exe, age };
            let bearings = Bearings { owner, place: cgroup.clone() };
            self.whereabouts.note(program, bearings, Instant::now());
        }
        let container = self.container(pid, cgroup.as_deref());
        let (parent, ancestors) = self.lineage(stat.ppid);
        let Seen { uses, maps } = self.seen(pid, stat.start_time, exe.as_deref());
        ProcessFacts {
            kind: kind(pid, stat),
            comm: stat.comm.clone(),
            cmdline: self.cmdline(pid),
            uid,
            user: self.user(uid),
            gid,
            group: gid.and_then(|gid| self.group(gid)),
            unit: cgroup.as_deref().and_then(unit_of),
            container,
            cgroup,
            parent,
            ancestors,
            env: self.env(pid),
            uses,
            maps,
            exe,
        }
    }

    fn exe(&self, pid: u32) -> Option<String> {
        let target = fs::read_link(self.path(pid, "exe")).ok()?;
        let target = target.to_string_lossy();
        // The kernel's mark for a file that was replaced while it runs, as package upgrades do.
        Some(target.strip_suffix(" (deleted)").unwrap_or(&target).to_owned())
    }

    fn cmdline(&self, pid: u32) -> String {
        let mut bytes = read_at_most(&self.path(pid, "cmdline"), MAX_CMDLINE);
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        for byte in &mut bytes {
            if *byte == 0 {
                *byte = b' ';
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn user(&mut self, uid: u32) -> Option<String> {
        self.users
            .entry(uid)
            .or_insert_with(|| User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|u| u.name))
            .clone()
    }

    fn group(&mut self, gid: u32) -> Option<String> {
        self.groups
            .entry(gid)
            .or_insert_with(|| Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|g| g.name))
            .clone()
    }

    /// The text of its `cgroup` file.
    fn cgroup(&self, pid: u32) -> String {
        fs::read_to_string(self.path(pid, "cgroup")).unwrap_or_default()
    }

    /// Takes back from the facts of a process what the agent itself changed by moving it into a
    /// group of its own: to the rules it is what it would be without.
    pub fn see_at_home(&mut self, pid: u32, facts: &mut ProcessFacts, moved: Moved<'_>) {
        facts.cgroup = place_in(&self.cgroup(pid), Some(moved));
        facts.unit = facts.cgroup.as_deref().and_then(unit_of);
        facts.container = self.container(pid, facts.cgroup.as_deref());
    }

    fn container(&mut self, pid: u32, cgroup: Option<&str>) -> Option<ContainerFacts> {
        self.containers.of(pid, cgroup?, self.needs.containers)
    }

    /// The parent, and those above it where a rule asks for them.
    fn lineage(&self, ppid: u32) -> (Option<ParentFacts>, Vec<ParentFacts>) {
        let Some((parent, mut above)) = self.relative(ppid) else {
            return (None, Vec::new());
        };
        let mut ancestors = Vec::new();
        while self.needs.ancestors && ancestors.len() < MOST_ANCESTORS {
            let Some((ancestor, next)) = self.relative(above) else { break };
            ancestors.push(ancestor);
            above = next;
        }
        (Some(parent), ancestors)
    }

    /// A process as an ancestor, and its own parent.
    fn relative(&self, pid: u32) -> Option<(ParentFacts, u32)> {
        if pid == 0 {
            return None;
        }
        let stat = self.stat(pid).ok()?;
        Some((ParentFacts { exe: self.exe(pid), comm: stat.comm }, stat.ppid))
    }

    /// The environment that its program was started with, of it what rules ask for.
    fn env(&self, pid: u32) -> Vec<(String, String)> {
        let wanted = &self.needs.env;
        if wanted.is_empty() {
            return Vec::new();
        }
        let bytes = read_at_most(&self.path(pid, "environ"), MAX_ENVIRON);
        let text = String::from_utf8_lossy(&bytes);
        text.split('\0')
            .filter_map(|entry| entry.split_once('='))
            .filter(|(name, _)| wanted.contains(*name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// Devices and libraries as seen last. A kernel thread has neither an executable nor any of
    /// these.
    fn seen(&mut self, pid: u32, start_time: u64, exe: Option<&str>) -> Seen {
        let Some(exe) = exe else { return Seen::default() };
        let program = Program { pid, start_time, exe, age: age(start_time) };
        self.signs.of(program, Instant::now())
    }
}

fn kind(pid: u32, stat: &ProcessStat) -> ProcessKind {
    if pid == 1 || pid == std::process::id() {
        ProcessKind::KeptOut
    } else if stat.is_kernel {
        ProcessKind::Kernel
    } else {
        ProcessKind::Ordinary
    }
}

/// How long ago something started, from its start time in clock ticks since boot.
fn age(start_time: u64) -> Duration {
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    let start = Duration::from_secs_f64(start_time as f64 / procfs::ticks_per_second() as f64);
    since_boot.saturating_sub(start)
}

/// The first bytes of a file; none when it cannot be read.
fn read_at_most(path: &Path, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)) {
        Ok(_) => bytes,
        Err(_) => Vec::new(),
    }
}
