//! CPUs of a class on this host.

use downbeat_api::HostFacts;
use downbeat_policy::{ChosenCpus, CpuChoice, CpuGroup};

/// The CPUs of a choice that this host has, and what it lacks. Where all CPUs are of one
/// kind, they are both `performance` and `efficiency`: a policy that asks for either means "not the
/// wrong ones".
pub(super) fn cpus(choice: &CpuChoice, host: &HostFacts) -> ChosenCpus {
    let topology = &host.topology;
    let some = |cpus: &Vec<u32>| (!cpus.is_empty()).then(|| cpus.clone());
    let place = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    choice.resolve(&host.cpus, |group| match group {
        CpuGroup::All => Some(host.cpus.clone()),
        CpuGroup::Performance => some(&topology.performance).or_else(|| Some(host.cpus.clone())),
        CpuGroup::Efficiency => some(&topology.efficiency).or_else(|| Some(host.cpus.clone())),
        CpuGroup::Isolated => some(&topology.isolated),
        CpuGroup::SmtFirst => some(&topology.smt_first).or_else(|| Some(host.cpus.clone())),
        CpuGroup::Node(n) => topology.nodes.get(&n).and_then(some),
        CpuGroup::Llc(n) => topology.caches.get(place(n)).and_then(some),
        CpuGroup::NearGpu(n) => topology.near_gpus.get(place(n)).and_then(some),
    })
}

/// What a person should know of a choice that the host cannot follow, or follows in part.
pub(super) fn lacking(class: &str, choice: &CpuChoice, chosen: &ChosenCpus) -> Option<String> {
    let missing = chosen.missing.join(", no ");
    if chosen.cpus.is_empty() {
        let why = if missing.is_empty() {
            "this host has none of them online".to_owned()
        } else {
            format!("this host has no {missing}")
        };
        return Some(format!(
            "class {class} asks for the CPUs {choice}, and {why}: its threads stay where they may \
             run now (see `downbeat doctor` for what there is)"
        ));
    }
    (!missing.is_empty()).then(|| {
        format!(
            "class {class} asks for the CPUs {choice}, and this host has no {missing}: left out"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use downbeat_api::Topology;

    use super::*;

    fn host() -> HostFacts {
        HostFacts {
            kernel: "6.18".into(),
            arch: "x86_64".into(),
            cpus: (0..8).collect(),
            topology: Topology {
                performance: vec![0, 1, 2, 3],
                efficiency: vec![4, 5, 6, 7],
                nodes: BTreeMap::from([(0, (0..8).collect())]),
                caches: vec![vec![0, 1, 2, 3], vec![4, 5, 6, 7]],
                smt_first: vec![0, 2, 4, 5, 6, 7],
                isolated: Vec::new(),
                near_gpus: vec![vec![2, 3]],
            },
            memory: None,
            realtime: true,
            eevdf_slice: true,
            uclamp: true,
            deadline: true,
            cgroup2_controllers: Vec::new(),
            findings: Vec::new(),
        }
    }

    fn chosen(text: &str) -> Vec<u32> {
        cpus(&text.parse().unwrap(), &host()).cpus
    }

    #[test]
    fn every_name_is_found() {
        assert_eq!(chosen("performance"), [0, 1, 2, 3]);
        assert_eq!(chosen("efficiency,!7"), [4, 5, 6]);
        assert_eq!(chosen("performance&smt-first"), [0, 2]);
        assert_eq!(chosen("llc-1,near-gpu-0"), [2, 3, 4, 5, 6, 7]);
        assert_eq!(chosen("all&node-0"), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn cpus_of_one_kind_are_of_both() {
        let host = HostFacts { topology: Topology::default(), ..host() };
        for text in ["performance", "efficiency", "smt-first"] {
            let got = cpus(&text.parse().unwrap(), &host);
            assert_eq!(got.cpus, host.cpus, "{text}");
        }
    }

    #[test]
    fn what_the_host_lacks_is_said() {
        let words = |text: &str| {
            let choice = text.parse().unwrap();
            lacking("voice", &choice, &cpus(&choice, &host()))
        };
        assert_eq!(words("llc-0"), None);
        let none = words("isolated").unwrap();
        assert!(none.contains("no isolated") && none.contains("stay"), "{none}");
        assert!(words("90-99").unwrap().contains("no CPU 90-99"));
        assert!(words("efficiency&near-gpu-0").unwrap().contains("none of them online"));
        assert!(words("0,57").unwrap().contains("no CPU 57: left out"));
        let part = words("0,near-gpu-3").unwrap();
        assert!(part.contains("no near-gpu-3: left out"), "{part}");
    }
}
