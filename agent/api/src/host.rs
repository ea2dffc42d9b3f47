//! Facts about the host that decisions rest on, probed once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What this host can do for downbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Kernel release (`uname -r`).
    pub kernel: String,
    /// Machine (`uname -m`).
    pub arch: String,
    /// CPUs the kernel brought online, by number.
    pub cpus: Vec<u32>,
    /// What they share.
    #[serde(default)]
    pub topology: Topology,
    /// Memory that the kernel has, bytes.
    #[serde(default)]
    pub memory: Option<u64>,
    /// SCHED_FIFO and SCHED_RR can be set for this process and so for others.
    pub realtime: bool,
    /// `sched_setattr` keeps a custom EEVDF slice (kernel 6.12).
    pub eevdf_slice: bool,
    /// Utilisation clamps are compiled in (`CONFIG_UCLAMP_TASK`).
    pub uclamp: bool,
    /// SCHED_DEADLINE is there.
    pub deadline: bool,
    /// The cgroup v2 controllers that this host offers.
    pub cgroup2_controllers: Vec<String>,
    /// Everything looked at, in the order of its importance, each with a remedy where it lacks.
    pub findings: Vec<Finding>,
}

/// Groups of online CPUs, each by number and ascending. What the host does not tell is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Topology {
    /// CPUs with at least three quarters of the largest capacity.
    pub performance: Vec<u32>,
    /// The other CPUs; empty where there are none.
    pub efficiency: Vec<u32>,
    /// Per memory node with CPUs.
    #[serde(with = "by_number")]
    pub nodes: BTreeMap<u32, Vec<u32>>,
    /// Those that share a last-level cache, in the order of their first CPUs.
    pub caches: Vec<Vec<u32>>,
    /// The first hardware thread of each core.
    pub smt_first: Vec<u32>,
    /// Kept from the scheduler's balancing (`isolcpus=`).
    pub isolated: Vec<u32>,
    /// The CPUs nearest to each GPU, in the order of the GPUs' PCI addresses.
    pub near_gpus: Vec<Vec<u32>>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable name: `bpf`, `btf`, `realtime`, `rt_throttling`, `eevdf_slice`, `psi` …
    pub id: String,
    /// Whether it is there.
    pub state: State,
    /// What was found, in one line.
    pub text: String,
    /// What to do where something lacks and can be had.
    pub remedy: Option<String>,
}

/// Whether a thing is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// There, and used.
    Present,
    /// There, with a limit that the text names.
    Limited,
    /// Not there; the text says what is lost.
    Absent,
}

/// A map by number as a list of pairs: JSON's keys are texts, and inside an answer with a tag serde
/// does not read a number from one.
mod by_number {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Map = BTreeMap<u32, Vec<u32>>;

    pub(super) fn serialize<S: Serializer>(map: &Map, serializer: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(of: D) -> Result<Map, D::Error> {
        Ok(Vec::<(u32, Vec<u32>)>::deserialize(of)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Response;

    #[test]
    fn facts_arrive_as_they_were_sent() {
        let facts = HostFacts {
            kernel: "6.18".into(),
            arch: "x86_64".into(),
            cpus: vec![0, 1],
            topology: Topology { nodes: [(1, vec![0, 1])].into(), ..Topology::default() },
            memory: None,
            realtime: true,
            eevdf_slice: true,
            uclamp: true,
            deadline: true,
            cgroup2_controllers: Vec::new(),
            findings: Vec::new(),
        };
        let sent = serde_json::to_string(&Response::Host(Box::new(facts.clone()))).unwrap();
        let Response::Host(got) = serde_json::from_str(&sent).unwrap() else { panic!("{sent}") };
        assert_eq!(*got, facts);
    }
}
