//! Host facts, probed once.
//!
//! Two parts: [`Trials`] makes the few syscalls that only trying can answer, on a thread of its
//! own that ends right after; everything else is read from files below [`Roots`]. Nothing that is
//! missing is an error: it becomes a finding that says what is lost, and what would bring it.

mod cgroup;
mod cpu_groups;
mod finding;
mod kernel;
mod managers;
mod privilege;
mod scheduling;
mod topology;
mod trials;

#[cfg(test)]
mod tests;

use std::path::Path;

use downbeat_api::HostFacts;

use crate::roots::Roots;
use privilege::Privileges;
pub use scheduling::realtime_share;
use topology::Topology;
use trials::Trials;

/// Looks at the host.
#[must_use]
pub fn probe(roots: &Roots) -> HostFacts {
    look(roots, &Trials::run())
}

/// The facts that follow from the files and from what the trials gave.
fn look(roots: &Roots, trials: &Trials) -> HostFacts {
    let privileges = Privileges::read(roots);
    let topology = Topology::read(roots);
    let cgroups = cgroup::Cgroups::read(roots);
    let release = &trials.release;

    let mut findings = vec![kernel::version(release, &trials.machine), privileges.finding()];
    findings.extend(kernel::findings(roots, &privileges));
    findings.extend(scheduling::findings(roots, trials, &privileges, &cgroups));
    findings.push(cgroups.finding());
    findings.extend(topology.findings(roots));
    findings.push(kernel::pid_max(roots));
    findings.push(kernel::nvidia(roots));
    findings.extend(managers::findings(roots));

    HostFacts {
        kernel: release.clone(),
        arch: trials.machine.clone(),
        topology: cpu_groups::read(roots, &topology.online),
        cpus: topology.online,
        memory: memory(roots),
        realtime: trials.realtime.is_ok(),
        eevdf_slice: trials.slice == trials::Slice::Kept,
        uclamp: trials.uclamp.is_ok(),
        deadline: trials.deadline.is_ok(),
        cgroup2_controllers: cgroups.v2_controllers,
        findings,
    }
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn memory(roots: &Roots) -> Option<u64> {
    let meminfo = text(roots.proc.join("meminfo"))?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// A small file's text without the white space around it; nothing when it is not there.
fn text(path: impl AsRef<Path>) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}
