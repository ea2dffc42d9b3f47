//! Who else sets priorities, affinities or the scheduler itself on this host.

use std::collections::BTreeSet;
use std::fs;

use downbeat_api::Finding;

use super::finding::{absent, limited, present};
use super::text;
use crate::roots::Roots;

/// Bytes that the kernel keeps of a thread's name.
const COMM_LENGTH: usize = 15;

/// Daemons by name, what they do, and what to do.
const DAEMONS: [(&str, &str, Option<&str>); 9] = [
    (
        "rtkit-daemon",
        "gives real-time priority to desktop audio that asks for it; such threads are left alone",
        None,
    ),
    (
        "ananicy",
        "sets nice and policy by name every few seconds; what it changes is then its own",
        Some(
            "systemctl disable --now ananicy, or keep rules for the same programs in one of the two",
        ),
    ),
    (
        "ananicy-cpp",
        "sets nice and policy by name; what it changes is then its own",
        Some(
            "systemctl disable --now ananicy-cpp, or keep rules for the same programs in one of the two",
        ),
    ),
    ("gamemoded", "raises games while they ask for it; what it changes is then its own", None),
    (
        "system76-scheduler",
        "sets nice and policy by name and by focus; what it changes is then its own",
        Some(
            "systemctl disable --now com.system76.Scheduler, or keep rules for the same programs in one of the two",
        ),
    ),
    (
        "tuned",
        "sets power and scheduler tunables, with a cpu-partitioning profile also affinities",
        None,
    ),
    ("uresourced", "gives the active session's cgroups a share", None),
    (
        "irqbalance",
        "moves interrupts between CPUs, also onto those that frames run on",
        Some(
            "name the CPUs of real-time classes in IRQBALANCE_BANNED_CPULIST (/etc/default/irqbalance)",
        ),
    ),
    ("auto-cpufreq", "sets governor and energy preference by load", None),
];

/// systemd, the daemons above and a loaded scheduler, each its own finding.
pub(super) fn findings(roots: &Roots) -> Vec<Finding> {
    let names = thread_names(roots);
    let mut findings = vec![init(roots)];
    for (name, what, remedy) in DAEMONS {
        if names.contains(&name[..name.len().min(COMM_LENGTH)]) {
            findings.push(limited(
                &format!("manager.{name}"),
                format!("{name} runs: it {what}"),
                remedy,
            ));
        }
    }
    findings.push(sched_ext(roots, &names));
    if findings.iter().all(|finding| !finding.id.starts_with("manager.")) {
        findings.push(present("managers", "nobody else is seen setting priorities here"));
    }
    findings
}

fn init(roots: &Roots) -> Finding {
    match text(roots.proc.join("1/comm")).as_deref() {
        Some("systemd") => {
            present("systemd", "systemd is pid 1: packaging/systemd has a unit for downbeatd")
        }
        Some(other) => absent(
            "systemd",
            format!("pid 1 is {other}, not systemd: it has to start downbeatd, or you"),
            None,
        ),
        None => absent("systemd", "pid 1 cannot be seen here", None),
    }
}

fn sched_ext(roots: &Roots, names: &BTreeSet<String>) -> Finding {
    let folder = roots.sys.join("kernel/sched_ext");
    let program = names.iter().find(|name| name.starts_with("scx_"));
    match text(folder.join("state")).as_deref() {
        Some("enabled") => {
            let ops = text(folder.join("root/ops")).or_else(|| program.cloned());
            limited(
                "manager.sched_ext",
                format!(
                    "a sched_ext scheduler ({}) has taken over ordinary threads: nice and slice \
                     mean what it makes of them; real-time policies still come first",
                    ops.as_deref().unwrap_or("unnamed")
                ),
                Some("stop it (systemctl stop scx, or its process) for the kernel's own scheduler"),
            )
        }
        Some(_) => present("sched_ext", "the kernel can load a scheduler, and none is loaded"),
        None => absent(
            "sched_ext",
            "this kernel cannot load a scheduler (kernel 6.12 with CONFIG_SCHED_CLASS_EXT can); \
             downbeat does not need it",
            None,
        ),
    }
}

fn thread_names(roots: &Roots) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(&roots.proc) else {
        return BTreeSet::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .filter_map(|entry| text(entry.path().join("comm")))
        .collect()
}
