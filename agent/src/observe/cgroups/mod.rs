//! What control groups did to each class: quotas and pressure. They are read and never changed.
//!
//! A quota above a process holds it back as much as one of its own group, so every group up to the
//! root is looked at. Few groups have a quota, and only these are read at each tick; which ones
//! they are, and pressure, is read at the sample.

mod mounts;
mod stat;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use downbeat_api::{ClassCgroups, GroupTime, Throttling, WorstStall};

pub use mounts::{Hierarchies, Membership, Mount};
pub use stat::{CpuStat, Version};

use super::pacer::{Pacer, cpu_time};
use super::pressure::{read_pressure, share};
use crate::roots::Roots;

/// Groups a class whose files are read: the busiest ones.
const GROUPS: usize = 32;

/// Samples from one look at a process's groups to the next.
const LOOK_AGAIN: u64 = 16;

/// The part of one core that reading the groups' pressure may take.
const PARTS: u32 = 500;

/// The resources and their files in a group's folder.
const PRESSURE: [(&str, &str); 3] =
    [("cpu", "cpu.pressure"), ("memory", "memory.pressure"), ("io", "io.pressure")];

/// A process of a class. One with threads in two classes is a member of both.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Class.
    pub class: &'a str,
    /// Process.
    pub pid: u32,
    /// Its start time, clock ticks since boot.
    pub start_time: u64,
    /// Its use of the CPU, in CPUs.
    pub cpu: f64,
}

/// Time that a quota took from a class's processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// Class.
    pub class: Arc<str>,
    /// The group with the quota.
    pub path: Arc<str>,
    /// Monotonic time of the reading before.
    pub from_ns: u64,
    /// Monotonic time of the reading.
    pub to_ns: u64,
    /// What was counted between them, summed over CPUs.
    pub ns: u64,
}

/// Reads groups below a root.
#[derive(Debug)]
pub struct CgroupReader {
    roots: Roots,
    hierarchies: Hierarchies,
    /// Whether quotas can be seen at all.
    counts_quotas: bool,
    samples: u64,
    processes: HashMap<u32, Known>,
    groups: BTreeMap<PathBuf, Group>,
    classes: BTreeMap<Arc<str>, ClassState>,
    pacer: Pacer,
}

/// A process whose groups were looked at.
#[derive(Debug)]
struct Known {
    start_time: u64,
    sample: u64,
    membership: Membership,
}

/// One group on disk.
#[derive(Debug)]
struct Group {
    path: Arc<str>,
    limited: bool,
    stat: Option<(u64, CpuStat)>,
    /// Per resource, when its totals were read and what they were, in microseconds.
    totals: BTreeMap<&'static str, (u64, u64, Option<u64>)>,
    /// Per resource, the shares of `some` and `full` between the last two readings.
    shares: BTreeMap<&'static str, (f64, Option<f64>)>,
}

impl Group {
    fn new(path: &str) -> Self {
        Self {
            path: path.into(),
            limited: false,
            stat: None,
            totals: BTreeMap::new(),
            shares: BTreeMap::new(),
        }
    }

    fn read_pressure(&mut self, folder: &Path, now_ns: u64) {
        self.shares.clear();
        for (resource, file) in PRESSURE {
            // A group's pressure may be off (`cgroup.pressure`), or the group gone.
            let Ok(file) = read_pressure(&folder.join(file)) else {
                self.totals.remove(resource);
                continue;
            };
            let (some, full) = (file.some.total_us, file.full.map(|line| line.total_us));
            let before = self.totals.insert(resource, (now_ns, some, full));
            let Some((then_ns, some_before, full_before)) = before else {
                continue;
            };
            let elapsed_ns = now_ns.saturating_sub(then_ns);
            if let Some(some) = share(some_before, some, elapsed_ns) {
                let full = full_before.zip(full).and_then(|(b, n)| share(b, n, elapsed_ns));
                self.shares.insert(resource, (some, full));
            }
        }
    }
}

/// One class, met since the agent started.
#[derive(Debug, Default)]
struct ClassState {
    /// Groups with a quota above its processes.
    limited: Vec<PathBuf>,
    /// Groups whose pressure counts.
    pressed: Vec<PathBuf>,
    recent: BTreeMap<Arc<str>, u64>,
    total: CpuStat,
    worst: BTreeMap<&'static str, WorstStall>,
}

impl CgroupReader {
    /// A reader below `roots`.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        Self {
            roots: roots.clone(),
            hierarchies: Hierarchies::default(),
            counts_quotas: false,
            samples: 0,
            processes: HashMap::new(),
            groups: BTreeMap::new(),
            classes: BTreeMap::new(),
            pacer: Pacer::new(PARTS),
        }
    }

    /// Reads the groups that have a quota; `now_ns` is monotonic. What is told is from the last
    /// reading on, and only where there is something to tell.
    pub fn tick(&mut self, now_ns: u64) -> Vec<Throttle> {
        let mut told = Vec::new();
        for (folder, group) in self.groups.iter_mut().filter(|(_, group)| group.limited) {
            let Some(stat) = stat::cpu_stat(folder) else {
                group.stat = None;
                continue;
            };
            let Some((from_ns, before)) = group.stat.replace((now_ns, stat)) else {
                continue;
            };
            let passed = stat.since(before);
            for (class, state) in &mut self.classes {
                if !state.limited.contains(folder) {
                    continue;
                }
                state.total.periods += passed.periods;
                state.total.throttled_periods += passed.throttled_periods;
                state.total.throttled_ns += passed.throttled_ns;
                if passed.throttled_ns > 0 {
                    *state.recent.entry(Arc::clone(&group.path)).or_default() +=
                        passed.throttled_ns;
                    told.push(Throttle {
                        class: Arc::clone(class),
                        path: Arc::clone(&group.path),
                        from_ns,
                        to_ns: now_ns,
                        ns: passed.throttled_ns,
                    });
                }
            }
        }
        told
    }

    /// Looks at who is where, and ends the interval: what the groups of each class that has a
    /// member did since the last call. [`CgroupReader::tick`] is to be called just before, so that
    /// the interval is complete.
    pub fn sample(
        &mut self,
        now_ns: u64,
        members: &[Member<'_>],
    ) -> BTreeMap<String, ClassCgroups> {
        if self.samples.is_multiple_of(LOOK_AGAIN) {
            self.hierarchies.refresh(&self.roots, std::process::id());
            self.counts_quotas = self.counts_quotas();
        }
        self.samples += 1;
        self.look_at(members);
        let mut told = self.assign(members);
        self.look_for_quotas(now_ns);
        if self.pacer.is_due(now_ns) {
            let begun = cpu_time();
            self.read_pressure(now_ns);
            self.pacer.spent(now_ns, cpu_time().saturating_sub(begun));
        }
        for (class, told) in &mut told {
            if let Some(state) = self.classes.get_mut(class.as_str()) {
                told.throttling = self.counts_quotas.then(|| state.throttling());
                let worst = |resource| state.worst.get(resource).cloned();
                told.cpu = worst("cpu");
                told.memory = worst("memory");
                told.io = worst("io");
            }
        }
        for state in self.classes.values_mut() {
            state.recent.clear();
        }
        told
    }

    fn counts_quotas(&self) -> bool {
        let offers_cpu = |mount: &Mount| {
            let controllers = std::fs::read_to_string(mount.point.join("cgroup.controllers"));
            controllers.is_ok_and(|list| list.split_ascii_whitespace().any(|name| name == "cpu"))
        };
        !self.hierarchies.v1_cpu.is_empty() || self.hierarchies.v2.iter().any(offers_cpu)
    }

    /// Finds the groups of new processes, and again now and then of those that are known: they
    /// are seldom moved.
    fn look_at(&mut self, members: &[Member<'_>]) {
        let alive: HashSet<u32> = members.iter().map(|member| member.pid).collect();
        self.processes.retain(|pid, _| alive.contains(pid));
        for member in members {
            let fresh = |known: &Known| {
                known.start_time == member.start_time && self.samples - known.sample < LOOK_AGAIN
            };
            if self.processes.get(&member.pid).is_some_and(fresh) {
                continue;
            }
            let path = self.roots.proc.join(member.pid.to_string()).join("cgroup");
            let Ok(text) = std::fs::read_to_string(path) else {
                continue;
            };
            let known = Known {
                start_time: member.start_time,
                // Not all in the same sample, though many were met in the first.
                sample: self.samples - u64::from(member.pid) % (LOOK_AGAIN / 2).min(self.samples),
                membership: Membership::parse(&text),
            };
            self.processes.insert(member.pid, known);
        }
    }

    /// Gives each class the groups of its busiest members.
    fn assign(&mut self, members: &[Member<'_>]) -> BTreeMap<String, ClassCgroups> {
        let mut by_class: BTreeMap<&str, HashMap<&Membership, f64>> = BTreeMap::new();
        for member in members {
            let groups = by_class.entry(member.class).or_default();
            if let Some(known) = self.processes.get(&member.pid) {
                *groups.entry(&known.membership).or_default() += member.cpu;
            }
        }
        for state in self.classes.values_mut() {
            state.limited.clear();
            state.pressed.clear();
        }
        let mut told = BTreeMap::new();
        let mut used: HashSet<PathBuf> = HashSet::new();
        for (class, groups) in by_class {
            let mut groups: Vec<(&Membership, f64)> = groups.into_iter().collect();
            groups.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
            let all = groups.len();
            groups.truncate(GROUPS);
            let state = self.classes.entry(class.into()).or_default();
            let mut outside = 0;
            for (membership, _) in &groups {
                let places = self.hierarchies.places(membership);
                outside += usize::from(places.is_empty());
                for (path, folder) in places.limiting {
                    let group = self.groups.entry(folder.clone());
                    group.or_insert_with(|| Group::new(&path));
                    used.insert(folder.clone());
                    state.limited.push(folder);
                }
                if let Some((path, folder)) = places.pressed {
                    let group = self.groups.entry(folder.clone());
                    group.or_insert_with(|| Group::new(&path));
                    used.insert(folder.clone());
                    state.pressed.push(folder);
                }
            }
            for folders in [&mut state.limited, &mut state.pressed] {
                folders.sort_unstable();
                folders.dedup();
            }
            let skipped = outside + (all - groups.len());
            let told_of = ClassCgroups {
                groups: count(all),
                skipped: count(skipped),
                missing: self.hierarchies.missing(self.counts_quotas, all, outside),
                ..ClassCgroups::default()
            };
            told.insert(class.to_owned(), told_of);
        }
        self.groups.retain(|folder, _| used.contains(folder));
        told
    }

    /// Finds out which groups have a quota; their counters start here.
    fn look_for_quotas(&mut self, now_ns: u64) {
        let candidates: HashSet<PathBuf> =
            self.classes.values().flat_map(|state| &state.limited).cloned().collect();
        for (folder, group) in &mut self.groups {
            group.limited =
                candidates.contains(folder) && stat::is_limited(folder, self.hierarchies.version());
            if !group.limited {
                group.stat = None;
            } else if group.stat.is_none() {
                group.stat = stat::cpu_stat(folder).map(|stat| (now_ns, stat));
            }
        }
        for state in self.classes.values_mut() {
            let groups = &self.groups;
            state.limited.retain(|folder| groups.get(folder).is_some_and(|group| group.limited));
        }
    }

    fn read_pressure(&mut self, now_ns: u64) {
        let pressed: HashSet<&PathBuf> =
            self.classes.values().flat_map(|state| &state.pressed).collect();
        for (folder, group) in &mut self.groups {
            if pressed.contains(folder) {
                group.read_pressure(folder, now_ns);
            }
        }
        for state in self.classes.values_mut() {
            state.worst.clear();
            for group in state.pressed.iter().filter_map(|folder| self.groups.get(folder)) {
                for (resource, (some, full)) in &group.shares {
                    if state.worst.get(resource).is_none_or(|worst| *some > worst.some) {
                        let path = group.path.to_string();
                        let worst = WorstStall { some: *some, full: *full, path };
                        state.worst.insert(*resource, worst);
                    }
                }
            }
        }
    }
}

impl ClassState {
    fn throttling(&self) -> Throttling {
        let worst = self.recent.iter().max_by_key(|(_, ns)| **ns);
        Throttling {
            limited: count(self.limited.len()),
            recent_ns: self.recent.values().sum(),
            total_ns: self.total.throttled_ns,
            periods: self.total.periods,
            throttled_periods: self.total.throttled_periods,
            worst: worst.map(|(path, ns)| GroupTime { path: path.to_string(), ns: *ns }),
        }
    }
}

/// Where a process's groups are on disk.
#[derive(Debug, Default)]
struct Places {
    /// The groups whose quota holds it back.
    limiting: Vec<(String, PathBuf)>,
    /// The group whose pressure is its own.
    pressed: Option<(String, PathBuf)>,
}

impl Places {
    fn is_empty(&self) -> bool {
        self.limiting.is_empty() && self.pressed.is_none()
    }
}

impl Hierarchies {
    /// Which files quotas have on this host: the controller is in one hierarchy alone.
    fn version(&self) -> Version {
        if self.v1_cpu.is_empty() { Version::V2 } else { Version::V1 }
    }

    fn places(&self, membership: &Membership) -> Places {
        let (mounts, group) = match self.version() {
            Version::V1 => (&self.v1_cpu, &membership.v1_cpu),
            Version::V2 => (&self.v2, &membership.v2),
        };
        let lineage = |(mounts, group): (&Vec<Mount>, &Option<String>)| {
            let group = group.as_deref()?;
            mounts.iter().map(|mount| mount.lineage(group)).find(|found| !found.is_empty())
        };
        let limiting = lineage((mounts, group)).unwrap_or_default();
        let own = lineage((&self.v2, &membership.v2)).and_then(|found| found.into_iter().next());
        // The root of the hierarchy, which alone has no type, shows the whole host's pressure.
        let pressed = own.filter(|(_, folder)| folder.join("cgroup.type").exists());
        Places { limiting, pressed }
    }

    /// Why not everything is known of a class with `all` groups, `outside` of them out of reach.
    fn missing(&self, counts_quotas: bool, all: usize, outside: usize) -> Option<String> {
        if self.v2.is_empty() && self.v1_cpu.is_empty() {
            return Some(
                "no control group hierarchy is mounted here; mount -t cgroup2 none /sys/fs/cgroup, \
                 in a container the host's /sys/fs/cgroup"
                    .into(),
            );
        }
        if outside > 0 {
            return Some(format!(
                "{outside} of {all} groups lie outside of what is mounted here; run the agent in \
                 the host's cgroup namespace (docker run --cgroupns=host) with the host's \
                 /sys/fs/cgroup"
            ));
        }
        if !counts_quotas {
            return Some(
                "no mounted hierarchy holds the cpu controller, so quotas are not seen".into(),
            );
        }
        (all > GROUPS).then(|| format!("the {GROUPS} busiest of {all} groups are looked at"))
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
