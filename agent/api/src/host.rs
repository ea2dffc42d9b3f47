//! Facts about the host that decisions rest on, probed once.

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
