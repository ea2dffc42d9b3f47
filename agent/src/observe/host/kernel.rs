//! The kernel: its version, what BPF needs of it, and drivers.

use downbeat_api::Finding;

use super::finding::{absent, limited, present};
use super::privilege::Privileges;
use super::text;
use crate::observe::kernel::{bpf_fs, is_bpf_fs};
use crate::roots::Roots;

/// The oldest kernel that is tested (Debian 12's).
const TESTED_FROM: (u32, u32) = (6, 1);

/// Major and minor of a release such as `6.12.9-cloud-amd64`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Kernel release and machine.
pub(super) fn version(release: &str, machine: &str) -> Finding {
    let text = format!("Linux {release} on {machine}");
    match parse_release(release) {
        Some(version) if version < TESTED_FROM => limited(
            "kernel",
            format!("{text}: older than 6.1, which is the oldest that is tested"),
            Some("use kernel 6.1 or later; 6.12 and later also keep a custom slice per thread"),
        ),
        _ => present("kernel", text),
    }
}

/// What kernel programs need. Nothing is loaded here: the agent reports what attached.
pub(super) fn findings(roots: &Roots, privileges: &Privileges) -> Vec<Finding> {
    vec![bpf(privileges), pins(roots), btf(roots), tracepoints(roots), lockdown(roots)]
}

fn bpf(privileges: &Privileges) -> Finding {
    let missing: Vec<&str> =
        ["CAP_BPF", "CAP_PERFMON"].into_iter().filter(|name| !privileges.has(name)).collect();
    if missing.is_empty() {
        return present("bpf", "this process may load kernel programs");
    }
    absent(
        "bpf",
        format!(
            "without {} no kernel program loads: threads are found by a scan of /proc each tick, \
             and run-queue waits are not measured",
            missing.join(" and ")
        ),
        Some("run downbeatd as root, or give its unit AmbientCapabilities=CAP_BPF CAP_PERFMON"),
    )
}

/// Where the kernel's note of who comes from whom outlives a kill of the agent.
fn pins(roots: &Roots) -> Finding {
    if is_bpf_fs(&bpf_fs(roots)) {
        let text =
            "kernel objects can be pinned: after a kill `downbeat restore` finds every child";
        return present("bpffs", text);
    }
    limited(
        "bpffs",
        "no BPF file system in /sys/fs/bpf: after a kill of the agent, a child that left its parent, \
         group and session is not found and keeps what it inherited",
        Some("mount -t bpf bpf /sys/fs/bpf, in a container the host's, and start downbeatd again"),
    )
}

fn btf(roots: &Roots) -> Finding {
    if roots.sys.join("kernel/btf/vmlinux").exists() {
        return present("btf", "the kernel describes its types in /sys/kernel/btf/vmlinux");
    }
    absent(
        "btf",
        "no /sys/kernel/btf/vmlinux: without the kernel's types kernel programs do not load, and /proc \
         is scanned instead",
        Some(
            "start downbeatd with --btf FILE (this kernel's BTF, or its vmlinux with debug \
             information), or use a kernel with CONFIG_DEBUG_INFO_BTF=y (every distribution's has \
             it), and in a container mount the host's /sys",
        ),
    )
}

fn tracepoints(roots: &Roots) -> Finding {
    let places = ["kernel/tracing", "kernel/debug/tracing"];
    if places.iter().any(|place| roots.sys.join(place).join("events/sched").exists()) {
        return present("tracepoints", "scheduler tracepoints are listed by tracefs");
    }
    limited(
        "tracepoints",
        "tracefs is not visible here; kernel programs attach without it where BTF is there",
        Some("mount -t tracefs tracefs /sys/kernel/tracing"),
    )
}

fn lockdown(roots: &Roots) -> Finding {
    let id = "lockdown";
    let modes = text(roots.sys.join("kernel/security/lockdown")).unwrap_or_default();
    let mode = modes.split(['[', ']']).nth(1).unwrap_or("none");
    match mode {
        "none" => present(id, "the kernel is not locked down"),
        "confidentiality" => absent(
            id,
            "the kernel is locked down for confidentiality: kernel programs may not read it, so \
             run-queue waits are not measured",
            Some("boot with lockdown=integrity, or without lockdown="),
        ),
        other => {
            present(id, format!("the kernel is locked down ({other}), which costs nothing here"))
        }
    }
}

/// The highest pid, which bounds the bitmap of managed threads.
pub(super) fn pid_max(roots: &Roots) -> Finding {
    match text(roots.proc.join("sys/kernel/pid_max")) {
        Some(limit) => present("pid_max", format!("pids stay below {limit}")),
        None => limited(
            "pid_max",
            "/proc/sys/kernel/pid_max cannot be read; the kernel's own maximum is assumed",
            None,
        ),
    }
}

/// The NVIDIA kernel driver; whether its library answers is NVML's to say.
pub(super) fn nvidia(roots: &Roots) -> Finding {
    let id = "nvidia";
    let version = text(roots.proc.join("driver/nvidia/version")).and_then(|text| {
        // `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue …`, or `… Open Kernel
        // Module for x86_64  550.54.15  Release Build …`.
        let is_version = |word: &&str| {
            word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.')
        };
        text.lines().next()?.split_ascii_whitespace().find(is_version).map(str::to_owned)
    });
    if let Some(version) = version {
        return present(id, format!("NVIDIA driver {version}"));
    }
    if roots.dev.join("nvidiactl").exists() {
        return limited(
            id,
            "/dev/nvidiactl is there, the driver's version is not shown here",
            None,
        );
    }
    absent(
        id,
        "no NVIDIA driver is loaded: no GPU is shown",
        Some(
            "where the host has an NVIDIA GPU, install its driver (Debian: nvidia-driver) and \
              load it with modprobe nvidia",
        ),
    )
}
