//! Host facts, probed once.

use downbeat_api::HostFacts;

use crate::roots::Roots;

/// Looks at the host.
#[must_use]
pub fn probe(_roots: &Roots) -> HostFacts {
    HostFacts {
        kernel: String::new(),
        arch: String::new(),
        cpus: Vec::new(),
        realtime: false,
        eevdf_slice: false,
        uclamp: false,
        deadline: false,
        cgroup2_controllers: Vec::new(),
        findings: Vec::new(),
    }
}
