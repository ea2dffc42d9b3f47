//! Real time, slices, clamps, reservations, pressure and wake-up latency.

use std::io::ErrorKind;

use downbeat_api::Finding;
use nix::errno::Errno;

use super::cgroup::Cgroups;
use super::finding::{absent, limited, present};
use super::privilege::Privileges;
use super::text;
use super::trials::{Slice, Trials};
use crate::roots::Roots;

/// What the scheduler can do for a thread, in order of importance.
pub(super) fn findings(
    roots: &Roots,
    trials: &Trials,
    privileges: &Privileges,
    cgroups: &Cgroups,
) -> Vec<Finding> {
    vec![
        realtime(trials.realtime, privileges, cgroups),
        throttling(roots),
        deadline(trials.deadline, privileges),
        slice(trials.slice),
        uclamp(trials.uclamp),
        pressure(roots),
        dma_latency(roots),
    ]
}

fn realtime(trial: Result<(), Errno>, privileges: &Privileges, cgroups: &Cgroups) -> Finding {
    let id = "realtime";
    let lost = "SCHED_FIFO and SCHED_RR cannot be set; real-time classes get nice values instead";
    let privileged = privileges.root() || privileges.has("CAP_SYS_NICE");
    match trial {
        Ok(()) if privileges.has("CAP_SYS_NICE") => {
            present(id, "SCHED_FIFO was set on a thread of this process")
        }
        Ok(()) => limited(
            id,
            "SCHED_FIFO was set on a thread of this process by its RLIMIT_RTPRIO; without \
             CAP_SYS_NICE other users' threads cannot have it",
            Some("run downbeatd as root, or give its unit AmbientCapabilities=CAP_SYS_NICE"),
        ),
        // The kernel's answer where the group has no real-time budget (CONFIG_RT_GROUP_SCHED).
        Err(Errno::EPERM) if privileged => {
            let remedy = if cgroups.rt_runtime.is_some() {
                "give the group of downbeatd, and of each process that is to be real-time, a \
                 budget in its cpu.rt_runtime_us (a v1 file), or boot with rt_group_sched=0 \
                 (kernel 6.16)"
            } else {
                "start downbeatd in the root cgroup, boot with rt_group_sched=0 (kernel 6.16), or \
                 use a kernel without CONFIG_RT_GROUP_SCHED; in a container let its seccomp \
                 profile pass sched_setattr"
            };
            absent(
                id,
                format!(
                    "the kernel refuses SCHED_FIFO even with CAP_SYS_NICE: this group has no \
                     real-time budget (RT_GROUP_SCHED), or a seccomp filter forbids it. {lost}"
                ),
                Some(remedy),
            )
        }
        Err(Errno::EPERM) => absent(
            id,
            format!("no permission (CAP_SYS_NICE): {lost}"),
            Some("run downbeatd as root, or give its unit AmbientCapabilities=CAP_SYS_NICE"),
        ),
        Err(errno) => absent(id, format!("sched_setattr: {errno}: {lost}"), None),
    }
}

/// The part of each CPU that the kernel grants to real time, 0 to 1; all of it where throttling is
/// off or cannot be read.
pub fn realtime_share(roots: &Roots) -> f64 {
    match throttle(roots) {
        Some((runtime, period)) if runtime >= 0 && runtime < period => {
            runtime as f64 / period as f64
        }
        _ => 1.0,
    }
}

/// Microseconds of real time, and of each period.
fn throttle(roots: &Roots) -> Option<(i64, i64)> {
    let number = |name: &str| {
        text(roots.proc.join("sys/kernel").join(name)).and_then(|text| text.parse::<i64>().ok())
    };
    number("sched_rt_runtime_us").zip(number("sched_rt_period_us"))
}

fn throttling(roots: &Roots) -> Finding {
    let id = "rt_throttling";
    let Some((runtime, period)) = throttle(roots) else {
        return limited(
            id,
            "/proc/sys/kernel/sched_rt_runtime_us cannot be read: whether a runaway real-time \
             thread is stopped is not known",
            None,
        );
    };
    if runtime < 0 || runtime >= period {
        return limited(
            id,
            "real-time throttling is off: a runaway real-time thread can take its CPU for good",
            Some("sysctl kernel.sched_rt_runtime_us=950000"),
        );
    }
    present(
        id,
        format!("real-time threads get at most {runtime} µs of each {period} µs, then others run"),
    )
}

fn deadline(trial: Result<(), Errno>, privileges: &Privileges) -> Finding {
    let id = "deadline";
    let lost =
        "no reservations (SCHED_DEADLINE): classes that ask for one get a real-time priority";
    match trial {
        Ok(()) => present(id, "SCHED_DEADLINE was set on a thread of this process"),
        Err(Errno::EPERM) if !privileges.has("CAP_SYS_NICE") => absent(
            id,
            format!("no permission (CAP_SYS_NICE): {lost}"),
            Some("run downbeatd as root, or give its unit AmbientCapabilities=CAP_SYS_NICE"),
        ),
        Err(Errno::EPERM) => absent(
            id,
            format!("refused, since this process may not use every CPU of its root domain: {lost}"),
            Some("start downbeatd without an affinity of its own"),
        ),
        Err(Errno::EBUSY) => limited(
            id,
            "the bandwidth is taken by other reservations at the moment",
            Some("end what holds them, or raise kernel.sched_rt_runtime_us"),
        ),
        Err(errno) => absent(id, format!("sched_setattr: {errno}: {lost}"), None),
    }
}

fn slice(trial: Slice) -> Finding {
    let id = "eevdf_slice";
    match trial {
        Slice::Kept => present(id, "a thread keeps a slice of its own"),
        Slice::Ignored => absent(
            id,
            "the kernel ignores a thread's slice: interactive classes get nice values alone",
            Some("use kernel 6.12 or later"),
        ),
        Slice::Refused(errno) => absent(
            id,
            format!("sched_setattr: {errno}: interactive classes get nice values alone"),
            None,
        ),
    }
}

fn uclamp(trial: Result<(), Errno>) -> Finding {
    let id = "uclamp";
    match trial {
        Ok(()) => present(id, "utilisation clamps can be set"),
        Err(Errno::EOPNOTSUPP) => absent(
            id,
            "no utilisation clamps: frames cannot ask for a faster CPU or a higher \
             frequency",
            Some("use a kernel with CONFIG_UCLAMP_TASK=y, where the hardware changes frequency"),
        ),
        Err(errno) => absent(id, format!("sched_setattr: {errno}: no utilisation clamps"), None),
    }
}

fn pressure(roots: &Roots) -> Finding {
    let id = "psi";
    let lost = "pressure is not shown";
    match std::fs::read(roots.proc.join("pressure/cpu")) {
        Ok(_) => present(id, "pressure of CPU, memory and I/O is measured"),
        Err(error) if error.kind() == ErrorKind::NotFound => absent(
            id,
            format!("no /proc/pressure: {lost}"),
            Some("boot with psi=1, or use a kernel with CONFIG_PSI=y"),
        ),
        Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
            absent(id, format!("switched off in the kernel: {lost}"), Some("boot with psi=1"))
        }
        Err(error) => absent(id, format!("/proc/pressure/cpu: {error}: {lost}"), None),
    }
}

fn dma_latency(roots: &Roots) -> Finding {
    let id = "cpu_dma_latency";
    let path = roots.dev.join("cpu_dma_latency");
    let lost = "CPUs cannot be kept from deep sleep, so a wake-up may cost 100 µs more";
    if !path.exists() {
        return absent(
            id,
            format!("no /dev/cpu_dma_latency: {lost}"),
            Some("in a container pass the device through"),
        );
    }
    // Opening it would already set a request, so the permission alone is asked for.
    match nix::unistd::access(&path, nix::unistd::AccessFlags::W_OK) {
        Ok(()) => present(id, "deep sleep of CPUs can be bounded through /dev/cpu_dma_latency"),
        Err(errno) => limited(
            id,
            format!("/dev/cpu_dma_latency: {errno}: {lost}"),
            Some("run downbeatd as root, or give its user write access by a udev rule"),
        ),
    }
}
