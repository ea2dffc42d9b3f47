//! Hosts as folders of literal files, each with what a person reads about it.

use std::fmt::Write as _;
use std::fs;

use downbeat_api::State;
use nix::errno::Errno;

use super::trials::Slice;
use super::*;

/// A host: files below `proc`, `sys` and `dev`.
struct Host(tempfile::TempDir);

impl Host {
    fn new(files: &[(&str, &str)]) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = host.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        host
    }

    fn roots(&self) -> Roots {
        Roots {
            proc: self.0.path().join("proc"),
            sys: self.0.path().join("sys"),
            dev: self.0.path().join("dev"),
        }
    }

    fn look(&self, trials: &Trials) -> HostFacts {
        look(&self.roots(), trials)
    }
}

fn trials(release: &str) -> Trials {
    Trials {
        release: release.into(),
        machine: "x86_64".into(),
        realtime: Ok(()),
        slice: Slice::Kept,
        uclamp: Ok(()),
        deadline: Ok(()),
    }
}

/// As a person reads it, one finding after the other.
fn page(facts: &HostFacts) -> String {
    let HostFacts {
        kernel,
        arch,
        cpus,
        topology: _,
        memory: _,
        realtime,
        eevdf_slice,
        uclamp,
        deadline,
        cgroup2_controllers,
        findings,
    } = facts;
    let mut page = format!(
        "{kernel} {arch} cpus {cpus:?}\nrealtime {realtime} slice {eevdf_slice} uclamp {uclamp} \
         deadline {deadline}\ncgroup2 {cgroup2_controllers:?}\n"
    );
    for finding in findings {
        let mark = match finding.state {
            State::Present => '+',
            State::Limited => '~',
            State::Absent => '-',
        };
        writeln!(page, "{mark} {}: {}", finding.id, finding.text).unwrap();
        if let Some(remedy) = &finding.remedy {
            writeln!(page, "    → {remedy}").unwrap();
        }
    }
    page
}

fn find<'a>(facts: &'a HostFacts, id: &str) -> &'a downbeat_api::Finding {
    facts.findings.iter().find(|finding| finding.id == id).unwrap_or_else(|| panic!("no {id}"))
}

const ROOT_STATUS: &str = "Name:\tdownbeatd\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n";

const COMMON: &[(&str, &str)] = &[
    ("proc/self/status", ROOT_STATUS),
    ("proc/sys/kernel/pid_max", "4194304\n"),
    ("proc/sys/kernel/sched_rt_runtime_us", "950000\n"),
    ("proc/sys/kernel/sched_rt_period_us", "1000000\n"),
    ("proc/1/comm", "systemd\n"),
    ("proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
    ("sys/kernel/btf/vmlinux", "BTF"),
    ("sys/kernel/tracing/events/sched/enable", "0\n"),
    ("dev/cpu_dma_latency", ""),
    ("proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec 0 0\n"),
    ("proc/self/cgroup", "0::/system.slice/downbeatd.service\n"),
    ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc\n"),
];

fn with(files: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    COMMON.iter().chain(files).copied().collect()
}

#[test]
fn debian_12_on_two_sockets() {
    let host = Host::new(&with(&[
        ("sys/kernel/security/lockdown", "none [integrity] confidentiality\n"),
        ("sys/devices/system/cpu/online", "0-3\n"),
        ("sys/devices/system/cpu/isolated", "3\n"),
        ("sys/devices/system/cpu/smt/active", "1\n"),
        ("sys/devices/system/cpu/cpu0/cache/index3/shared_cpu_list", "0-1\n"),
        ("sys/devices/system/cpu/cpu1/cache/index3/shared_cpu_list", "0-1\n"),
        ("sys/devices/system/cpu/cpu2/cache/index3/shared_cpu_list", "2-3\n"),
        ("sys/devices/system/cpu/cpu3/cache/index3/shared_cpu_list", "2-3\n"),
        ("sys/devices/system/node/online", "0-1\n"),
        ("sys/devices/system/node/node0/cpulist", "0-1\n"),
        ("sys/devices/system/node/node1/cpulist", "2-3\n"),
        ("proc/stat", "cpu  100 0 50 850 0 0 0 0 0 0\n"),
        ("proc/812/comm", "irqbalance\n"),
        (
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n",
        ),
    ]));
    let facts = host.look(&Trials { slice: Slice::Ignored, ..trials("6.1.0-18-amd64") });
    insta::assert_snapshot!(page(&facts));
}

#[test]
fn hybrid_laptop_with_a_crowd_of_managers() {
    let host = Host::new(&with(&[
        ("sys/devices/system/cpu/online", "0-5\n"),
        ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0-1\n"),
        ("sys/devices/system/cpu/cpu0/cache/index3/shared_cpu_list", "0-5\n"),
        ("sys/devices/cpu_core/cpus", "0-1\n"),
        ("sys/devices/cpu_atom/cpus", "2-5\n"),
        ("sys/kernel/sched_ext/state", "enabled\n"),
        ("sys/kernel/sched_ext/root/ops", "scx_lavd\n"),
        ("proc/700/comm", "rtkit-daemon\n"),
        ("proc/701/comm", "ananicy-cpp\n"),
        ("proc/702/comm", "gamemoded\n"),
        ("proc/703/comm", "system76-schedu\n"),
        ("proc/704/comm", "scx_lavd\n"),
        ("proc/stat", "cpu  100 0 50 850 0 0 0 0 0 0\n"),
    ]));
    insta::assert_snapshot!(page(&host.look(&trials("6.14.4-arch1-1"))));
}

#[test]
fn container_without_sys_or_rights() {
    let host = Host::new(&[
        ("proc/self/status", "Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n"),
        ("proc/1/comm", "tini\n"),
        ("proc/stat", "cpu  100 0 50 850 0 0 0 0 0 0\n"),
        ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu\n\nprocessor\t: 2\nflags\t\t: fpu\n"),
    ]);
    let facts = host.look(&Trials {
        realtime: Err(Errno::EPERM),
        uclamp: Err(Errno::EOPNOTSUPP),
        deadline: Err(Errno::EPERM),
        ..trials("6.8.0-31-generic")
    });
    insta::assert_snapshot!(page(&facts));
}

/// The machine that this was written on: a microVM with version 1 groups, and a v2 tree that has
/// next to nothing.
#[test]
fn micro_vm_with_version_1_groups() {
    let host = Host::new(&[
        ("proc/self/status", "Uid:\t0\t0\t0\t0\nCapEff:\t000001fffeffffff\n"),
        ("proc/sys/kernel/pid_max", "32768\n"),
        ("proc/sys/kernel/sched_rt_runtime_us", "950000\n"),
        ("proc/sys/kernel/sched_rt_period_us", "1000000\n"),
        ("proc/1/comm", "init\n"),
        ("proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
        ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vme hypervisor lahf_lm\n"),
        ("proc/stat", "cpu  87178 0 5732 127616 478 0 95 63 0 0\ncpu0 43043 0 2723 64630\n"),
        (
            "proc/self/mounts",
            "tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0\n\
          cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
          cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0\n\
          cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
          cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,name=systemd 0 0\n\
          cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n",
        ),
        ("proc/self/cgroup", "2:cpu:/\n0::/\n"),
        ("sys/fs/cgroup/unified/cgroup.controllers", "hugetlb\n"),
        ("sys/fs/cgroup/cpu/cpu.rt_runtime_us", "950000\n"),
        ("sys/kernel/btf/vmlinux", "BTF"),
        ("sys/kernel/tracing/events/sched/enable", "0\n"),
        ("sys/devices/system/cpu/online", "0-1\n"),
        ("sys/devices/system/cpu/smt/active", "0\n"),
        ("sys/devices/system/cpu/isolated", "\n"),
        ("sys/devices/system/cpu/cpu0/cpu_capacity", "1024\n"),
        ("sys/devices/system/cpu/cpu1/cpu_capacity", "1024\n"),
        ("sys/devices/system/cpu/cpu0/cache/index3/shared_cpu_list", "0-1\n"),
        ("sys/devices/system/cpu/cpu1/cache/index3/shared_cpu_list", "0-1\n"),
        ("sys/devices/system/node/online", "0\n"),
        ("sys/devices/system/node/node0/cpulist", "0-1\n"),
        ("dev/cpu_dma_latency", ""),
    ]);
    let facts = host.look(&Trials { uclamp: Err(Errno::EOPNOTSUPP), ..trials("6.18.44") });
    insta::assert_snapshot!(page(&facts));
}

#[test]
fn root_that_is_refused_real_time_hears_of_the_groups_budget() {
    let refused = Trials { realtime: Err(Errno::EPERM), ..trials("6.12.9") };
    let v2 = Host::new(&with(&[])).look(&refused);
    let finding = find(&v2, "realtime");
    assert_eq!(finding.state, State::Absent);
    assert!(finding.text.contains("RT_GROUP_SCHED"), "{finding:?}");
    assert!(finding.remedy.as_ref().unwrap().contains("rt_group_sched=0"));
    assert!(!v2.realtime);

    let v1 = Host::new(&[
        ("proc/self/status", ROOT_STATUS),
        ("proc/self/mounts", "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"),
        ("proc/self/cgroup", "4:cpu,cpuacct:/user.slice\n"),
        ("sys/fs/cgroup/cpu,cpuacct/user.slice/cpu.rt_runtime_us", "0\n"),
    ])
    .look(&refused);
    let remedy = find(&v1, "realtime").remedy.clone().unwrap();
    assert!(remedy.contains("cpu.rt_runtime_us"), "{remedy}");
}

#[test]
fn throttling_that_is_off_is_a_limit_with_a_remedy() {
    for runtime in ["-1\n", "1000000\n"] {
        let host = Host::new(&[
            ("proc/sys/kernel/sched_rt_runtime_us", runtime),
            ("proc/sys/kernel/sched_rt_period_us", "1000000\n"),
        ]);
        let facts = host.look(&trials("6.12.9"));
        assert_eq!(find(&facts, "rt_throttling").state, State::Limited);
    }
}

#[test]
fn confidentiality_lockdown_costs_the_waits() {
    let host =
        Host::new(&with(&[("sys/kernel/security/lockdown", "none integrity [confidentiality]\n")]));
    assert_eq!(find(&host.look(&trials("6.12.9")), "lockdown").state, State::Absent);
}

#[test]
fn arm_capacities_are_told_apart() {
    let host = Host::new(&with(&[
        ("sys/devices/system/cpu/online", "0-2\n"),
        ("sys/devices/system/cpu/cpu0/cpu_capacity", "446\n"),
        ("sys/devices/system/cpu/cpu1/cpu_capacity", "1024\n"),
        ("sys/devices/system/cpu/cpu2/cpu_capacity", "446\n"),
        ("sys/devices/system/cpu/cpu0/cache/index2/shared_cpu_list", "0-2\n"),
    ]));
    let facts = host.look(&trials("6.12.9"));
    let text = &find(&facts, "cpus").text;
    assert!(text.contains("capacity 1024 1 | capacity 446 0,2"), "{text}");
}

#[test]
fn an_empty_host_has_a_finding_for_everything_and_loses_no_cpu() {
    let facts = Host::new(&[]).look(&trials(""));
    assert!(!facts.cpus.is_empty());
    for finding in &facts.findings {
        assert!(!finding.text.is_empty() && !finding.text.ends_with('.'), "{finding:?}");
    }
    let mut ids: Vec<&str> = facts.findings.iter().map(|finding| finding.id.as_str()).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "an id twice");
}

#[test]
fn this_machine_can_be_probed() {
    let facts = probe(&Roots::default());
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(facts.kernel, release.trim());
    assert!(!facts.cpus.is_empty());
}
