//! What the CPUs share, by number: the groups that policies name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use downbeat_api::Topology;

use super::text;
use super::topology::parse_list;
use crate::roots::Roots;

/// PCI classes of what computes: displays (VGA 0x0300, 3D 0x0302) and accelerators (0x1200).
const GPU_CLASSES: [&str; 2] = ["0x03", "0x12"];

/// PCI vendors of GPUs that compute: NVIDIA, AMD, Intel. A server's management controller is a
/// display too, and nothing runs near it.
const GPU_VENDORS: [&str; 3] = ["0x10de", "0x1002", "0x8086"];

/// The groups of the `online` CPUs, from `/sys`.
pub(super) fn read(roots: &Roots, online: &[u32]) -> Topology {
    let system = roots.sys.join("devices/system");
    let there = |list: Option<String>| {
        let mut cpus = list.and_then(|list| parse_list(&list)).unwrap_or_default();
        cpus.retain(|cpu| online.contains(cpu));
        cpus.sort_unstable();
        cpus
    };
    let cpu = |id: u32| system.join("cpu").join(format!("cpu{id}"));
    let (performance, efficiency) = kinds(roots, online);

    let nodes =
        text(system.join("node/online")).and_then(|list| parse_list(&list)).unwrap_or_default();
    let nodes: BTreeMap<u32, Vec<u32>> = nodes
        .into_iter()
        .map(|node| (node, there(text(system.join("node").join(format!("node{node}/cpulist"))))))
        .filter(|(_, cpus)| !cpus.is_empty())
        .collect();

    let mut caches: Vec<Vec<u32>> = Vec::new();
    let mut smt_first = Vec::new();
    for id in online {
        // The highest index is the last level; a CPU has at most a handful.
        let last = (0..8)
            .rev()
            .find_map(|index| text(cpu(*id).join(format!("cache/index{index}/shared_cpu_list"))));
        let sharing = there(last);
        if !sharing.is_empty() && !caches.contains(&sharing) {
            caches.push(sharing);
        }
        let siblings = there(text(cpu(*id).join("topology/thread_siblings_list")));
        if siblings.first().is_none_or(|first| first == id) {
            smt_first.push(*id);
        }
    }
    Topology {
        performance,
        efficiency,
        nodes,
        caches,
        smt_first,
        isolated: there(text(system.join("cpu/isolated"))),
        near_gpus: gpus(&roots.sys.join("bus/pci/devices")).into_iter().map(there).collect(),
    }
}

/// CPUs of high and of low capacity: as Intel names them, by the kernel's own measure, or by their
/// highest clock. Where the smallest has three quarters of the largest, all are of one kind: some
/// cores of one kind are allowed a little more than others.
fn kinds(roots: &Roots, online: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let devices = roots.sys.join("devices");
    let intel = text(devices.join("cpu_atom/cpus")).and_then(|list| parse_list(&list));
    if let Some(atoms) = intel {
        return online.iter().partition(|cpu| !atoms.contains(cpu));
    }
    let measured = |file: &str| -> Option<Vec<(u32, u64)>> {
        let of = |cpu: &u32| {
            let path = devices.join(format!("system/cpu/cpu{cpu}/{file}"));
            Some((*cpu, text(path)?.parse().ok()?))
        };
        online.iter().map(of).collect()
    };
    let measured = measured("cpu_capacity")
        .or_else(|| measured("cpufreq/cpuinfo_max_freq"))
        .unwrap_or_default();
    let largest = measured.iter().map(|(_, capacity)| *capacity).max().unwrap_or_default();
    let is_high = |cpu: &&u32| {
        let own = measured.iter().find(|(of, _)| of == *cpu);
        own.is_none_or(|(_, capacity)| u128::from(*capacity) * 4 >= u128::from(largest) * 3)
    };
    online.iter().partition(is_high)
}

/// The CPUs nearest to each GPU, as the kernel lists them, in the order of the GPUs' addresses.
fn gpus(devices: &Path) -> Vec<Option<String>> {
    let Ok(entries) = fs::read_dir(devices) else {
        return Vec::new();
    };
    let mut folders: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    // Addresses have leading zeros (`0000:3b:00.0`), so their order is that of the text.
    folders.sort();
    let is = |folder: &Path, file: &str, starts: &[&str]| {
        text(folder.join(file)).is_some_and(|text| starts.iter().any(|s| text.starts_with(s)))
    };
    let of_gpus = folders
        .into_iter()
        .filter(|folder| is(folder, "class", &GPU_CLASSES) && is(folder, "vendor", &GPU_VENDORS));
    of_gpus.map(|folder| text(folder.join("local_cpulist"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/sys` of literal files.
    fn sys(files: &[(&str, &str)]) -> (tempfile::TempDir, Roots) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join("sys").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let roots = Roots { sys: root.path().join("sys"), ..Roots::default() };
        (root, roots)
    }

    #[test]
    fn two_sockets_with_hardware_threads_and_gpus() {
        let (_root, roots) = sys(&[
            ("devices/system/node/online", "0-2\n"),
            ("devices/system/node/node0/cpulist", "0,2,4,6\n"),
            ("devices/system/node/node1/cpulist", "1,3,5\n"),
            ("devices/system/node/node2/cpulist", "\n"),
            ("devices/system/cpu/isolated", "3,7\n"),
            ("devices/system/cpu/cpu0/topology/thread_siblings_list", "0,4\n"),
            ("devices/system/cpu/cpu4/topology/thread_siblings_list", "0,4\n"),
            ("devices/system/cpu/cpu0/cache/index0/shared_cpu_list", "0,4\n"),
            ("devices/system/cpu/cpu0/cache/index3/shared_cpu_list", "0,2,4,6\n"),
            ("devices/system/cpu/cpu1/cache/index3/shared_cpu_list", "1,3,5\n"),
            ("devices/system/cpu/cpu3/cache/index3/shared_cpu_list", "1,3,5\n"),
            ("bus/pci/devices/0000:03:00.0/class", "0x030000\n"),
            ("bus/pci/devices/0000:03:00.0/vendor", "0x1a03\n"),
            ("bus/pci/devices/0000:03:00.0/local_cpulist", "0-6\n"),
            ("bus/pci/devices/0000:af:00.0/class", "0x030200\n"),
            ("bus/pci/devices/0000:af:00.0/vendor", "0x10de\n"),
            ("bus/pci/devices/0000:af:00.0/local_cpulist", "1,3,5,7\n"),
            ("bus/pci/devices/0000:3b:00.0/class", "0x030200\n"),
            ("bus/pci/devices/0000:3b:00.0/vendor", "0x10de\n"),
            ("bus/pci/devices/0000:3b:00.0/local_cpulist", "0,2,4,6\n"),
            ("bus/pci/devices/0000:00:1f.0/class", "0x060100\n"),
            ("bus/pci/devices/0000:00:1f.0/vendor", "0x8086\n"),
        ]);
        // CPU 7 is not online.
        let online = [0, 1, 2, 3, 4, 5, 6];
        let got = read(&roots, &online);
        assert_eq!(got.performance, online);
        assert!(got.efficiency.is_empty());
        assert_eq!(got.nodes, BTreeMap::from([(0, vec![0, 2, 4, 6]), (1, vec![1, 3, 5])]));
        assert_eq!(got.caches, [vec![0, 2, 4, 6], vec![1, 3, 5]]);
        assert_eq!(got.smt_first, [0, 1, 2, 3, 5, 6]);
        assert_eq!(got.isolated, [3]);
        assert_eq!(got.near_gpus, [vec![0, 2, 4, 6], vec![1, 3, 5]]);
    }

    #[test]
    fn kinds_are_as_intel_names_them_or_by_capacity_or_by_clock() {
        let of = |files: &[(&str, &str)]| {
            let (_root, roots) = sys(files);
            kinds(&roots, &[0, 1, 2, 3])
        };
        assert_eq!(of(&[("devices/cpu_atom/cpus", "2-3\n")]), (vec![0, 1], vec![2, 3]));
        let file = |cpu: u32, name: &str| format!("devices/system/cpu/cpu{cpu}/{name}");
        let four = |name: &str, values: [&'static str; 4]| {
            let files: Vec<(String, &str)> =
                (0..4).map(|cpu| file(cpu, name)).zip(values).collect();
            let files: Vec<(&str, &str)> =
                files.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            of(&files)
        };
        let capacities = four("cpu_capacity", ["446", "1024", "871", "446"]);
        assert_eq!(capacities, (vec![1, 2], vec![0, 3]));
        // Cores of one kind, of which one may be clocked a little higher.
        let equal = four("cpufreq/cpuinfo_max_freq", ["5000000", "5200000", "5000000", "5000000"]);
        assert_eq!(equal, (vec![0, 1, 2, 3], vec![]));
        let clocks = four("cpufreq/cpuinfo_max_freq", ["5000000", "5200000", "3800000", "3800000"]);
        assert_eq!(clocks, (vec![0, 1], vec![2, 3]));
        assert_eq!(of(&[]), (vec![0, 1, 2, 3], vec![]));
    }

    #[test]
    fn a_host_that_tells_nothing_has_cores_of_one_thread() {
        let (_root, roots) = sys(&[]);
        let got = read(&roots, &[0, 1]);
        assert_eq!((got.performance, got.smt_first), (vec![0, 1], vec![0, 1]));
        assert_eq!((got.caches.len(), got.nodes.len(), got.near_gpus.len()), (0, 0, 0));
    }
}
