//! CPUs: which are online, and what they share.

use std::collections::BTreeMap;

use downbeat_api::Finding;

use super::finding::{limited, present};
use super::text;
use crate::roots::Roots;

/// What CPUs share, each list as the kernel writes it (`0-3,6`).
#[derive(Debug, Default)]
pub(super) struct Topology {
    /// Online CPUs by number; never empty.
    pub(super) online: Vec<u32>,
    /// Whether hardware threads share a core.
    smt: bool,
    /// CPUs of each memory node.
    nodes: Vec<String>,
    /// CPUs that share a last-level cache.
    caches: Vec<String>,
    /// CPUs by capacity, largest first, where they differ.
    capacities: Vec<(String, String)>,
    /// CPUs kept from the scheduler's balancing (`isolcpus=`).
    isolated: Option<String>,
    /// The CPU has a hypervisor under it.
    virtual_machine: bool,
}

impl Topology {
    /// From `/sys/devices/system` and `/proc`; where they are missing, the CPUs that this process
    /// counts.
    pub(super) fn read(roots: &Roots) -> Self {
        let system = roots.sys.join("devices/system");
        let cpuinfo = text(roots.proc.join("cpuinfo")).unwrap_or_default();
        let online = text(system.join("cpu/online"))
            .and_then(|list| parse_list(&list))
            .filter(|cpus| !cpus.is_empty())
            .or_else(|| processors(&cpuinfo))
            .unwrap_or_else(counted);
        let cpu = |id: u32| system.join("cpu").join(format!("cpu{id}"));
        let smt = text(system.join("cpu/smt/active")).as_deref() == Some("1")
            || online.iter().any(|id| {
                let siblings = text(cpu(*id).join("topology/thread_siblings_list"));
                siblings.and_then(|list| parse_list(&list)).is_some_and(|list| list.len() > 1)
            });
        let nodes = text(system.join("node/online"))
            .and_then(|list| parse_list(&list))
            .unwrap_or_default()
            .into_iter()
            .filter_map(|node| text(system.join("node").join(format!("node{node}/cpulist"))))
            .filter(|cpus| !cpus.is_empty())
            .collect();
        let mut caches: Vec<String> = Vec::new();
        for id in &online {
            // The highest index is the last level; a CPU has at most a handful.
            let last = (0..8).rev().find_map(|index| {
                text(cpu(*id).join(format!("cache/index{index}/shared_cpu_list")))
            });
            if let Some(shared) = last
                && !caches.contains(&shared)
            {
                caches.push(shared);
            }
        }
        let virtual_machine = cpuinfo
            .lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|flags| flags.split_ascii_whitespace().any(|flag| flag == "hypervisor"));
        Self {
            capacities: capacities(roots, &online),
            isolated: text(system.join("cpu/isolated")).filter(|list| !list.is_empty()),
            online,
            smt,
            nodes,
            caches,
            virtual_machine,
        }
    }

    /// CPUs, and whether a hypervisor takes time from them.
    pub(super) fn findings(&self, roots: &Roots) -> Vec<Finding> {
        let mut findings = vec![self.cpus()];
        if let Some(isolated) = &self.isolated {
            findings.push(present(
                "isolated",
                format!("CPUs {isolated} are isolated: only what is pinned there runs there"),
            ));
        }
        findings.push(self.steal(roots));
        findings
    }

    fn cpus(&self) -> Finding {
        let mut words = vec![match self.online.len() {
            1 => "one CPU".to_owned(),
            count => format!("{count} CPUs"),
        }];
        if self.smt {
            words.push("hardware threads share cores".into());
        }
        if self.nodes.len() > 1 {
            words.push(format!("memory nodes {}", self.nodes.join(" | ")));
        }
        if self.caches.len() > 1 {
            words.push(format!("last-level caches {}", self.caches.join(" | ")));
        }
        if self.capacities.len() > 1 {
            let kinds: Vec<String> =
                self.capacities.iter().map(|(kind, cpus)| format!("{kind} {cpus}")).collect();
            words.push(format!("unequal CPUs: {}", kinds.join(" | ")));
        }
        if self.caches.is_empty() && self.nodes.is_empty() {
            words.push("what they share is not shown here (no /sys)".into());
            return limited("cpus", words.join(", "), Some("in a container mount the host's /sys"));
        }
        present("cpus", words.join(", "))
    }

    fn steal(&self, roots: &Roots) -> Finding {
        let id = "virtual_machine";
        let share = stolen(&text(roots.proc.join("stat")).unwrap_or_default());
        match share {
            Some(share) if share > 0.0 => limited(
                id,
                format!(
                    "a hypervisor took {:.2} % of the CPU time since boot; no priority here \
                     brings that back",
                    share * 100.0
                ),
                Some("give the machine dedicated CPUs where frames must not be late"),
            ),
            _ if self.virtual_machine => {
                limited(id, "a hypervisor is underneath, and has taken no time so far", None)
            }
            _ => present(id, "no hypervisor is seen underneath"),
        }
    }
}

/// Share of the first `cpu` line's time that was stolen.
fn stolen(stat: &str) -> Option<f64> {
    let counters: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_ascii_whitespace()
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    let total: f64 = counters.iter().map(|ticks| *ticks as f64).sum();
    let steal = *counters.get(7)? as f64;
    (total > 0.0).then(|| steal / total)
}

/// Kinds of CPUs, largest first, where there is more than one: Intel names its two, others give
/// each CPU a capacity.
fn capacities(roots: &Roots, online: &[u32]) -> Vec<(String, String)> {
    let devices = roots.sys.join("devices");
    let intel = ["core", "atom"].map(|kind| text(devices.join(format!("cpu_{kind}/cpus"))));
    if let [Some(core), Some(atom)] = intel {
        return vec![("performance".into(), core), ("efficiency".into(), atom)];
    }
    let mut by_capacity: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for id in online {
        let path = devices.join(format!("system/cpu/cpu{id}/cpu_capacity"));
        if let Some(capacity) = text(path).and_then(|text| text.parse().ok()) {
            by_capacity.entry(capacity).or_default().push(*id);
        }
    }
    if by_capacity.len() < 2 {
        return Vec::new();
    }
    by_capacity
        .into_iter()
        .rev()
        .map(|(capacity, cpus)| {
            let cpus: Vec<String> = cpus.iter().map(u32::to_string).collect();
            (format!("capacity {capacity}"), cpus.join(","))
        })
        .collect()
}

/// Online CPUs by `/proc/cpuinfo`, which on every architecture here has a `processor` line each.
fn processors(cpuinfo: &str) -> Option<Vec<u32>> {
    let cpus: Vec<u32> = cpuinfo
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "processor").then(|| value.trim().parse().ok())?
        })
        .collect();
    (!cpus.is_empty()).then_some(cpus)
}

/// CPUs that this process may use, numbered from 0: all that is known without `/sys`.
fn counted() -> Vec<u32> {
    let count = std::thread::available_parallelism().map_or(1, |count| count.get().min(4096));
    (0..count as u32).collect()
}

/// The kernel's list format, for files of the kernel itself: anything else gives nothing.
pub(super) fn parse_list(list: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in list.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        // No kernel has more CPUs than this, and a damaged file must not fill the memory.
        if first > last || last > 65_535 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists_are_read_and_others_refused() {
        assert_eq!(parse_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_list(""), Some(vec![]));
        for wrong in ["a", "3-1", "0-4294967295", "1--2"] {
            assert_eq!(parse_list(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn steal_is_the_eighth_counter() {
        assert_eq!(stolen("cpu  10 0 10 70 0 0 0 10 0 0\n"), Some(0.1));
        assert_eq!(stolen("cpu  10 0 10\n"), None);
        assert_eq!(stolen("cpu  0 0 0 0 0 0 0 0\n"), None);
    }
}
