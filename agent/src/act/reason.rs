//! What a refusal means, and what to do about it.

use std::io;

use super::value::{Lever, Value};

/// An error with what it means for this value.
pub(super) fn words(error: &io::Error, value: &Value) -> String {
    // Where the rim knows more than the error number, it says so itself.
    if error.raw_os_error().is_none() {
        return error.to_string();
    }
    format!("{}: {error}{}", call(value.lever()), remedy(error, value))
}

/// Of a reservation for a thread that sleeps on a CPU that it may not use any more.
pub(super) fn too_early(error: &io::Error) -> String {
    format!(
        "{}: {error}; it sleeps, and counts for the CPU that it last ran on, which it may not use \
         any more: it is asked again once the thread has woken",
        call(Lever::Sched)
    )
}

fn call(lever: Lever) -> &'static str {
    match lever {
        Lever::Sched | Lever::UclampMin | Lever::UclampMax => "sched_setattr",
        Lever::Affinity => "sched_setaffinity",
        Lever::Ioprio => "ioprio_set",
        Lever::TimerSlack => "writing timerslack_ns",
        Lever::OomScoreAdj => "writing oom_score_adj",
        Lever::Cgroup => "writing cgroup.procs",
        Lever::Freeze => "writing cgroup.freeze",
        Lever::CpuWeight => "writing cpu.weight",
        Lever::CpuMax => "writing cpu.max",
        Lever::MemoryMin => "writing memory.min",
        Lever::MemoryLow => "writing memory.low",
        Lever::MemoryHigh => "writing memory.high",
        Lever::MemoryMax => "writing memory.max",
        Lever::IoWeight => "writing io.weight",
        Lever::IoMax => "writing io.max",
        Lever::IoLatency => "writing io.latency",
        Lever::Cpuset => "writing cpuset.cpus",
        Lever::Controllers => "writing cgroup.subtree_control",
        Lever::Folder => "making or removing the group",
        Lever::IrqAffinity => "writing smp_affinity_list",
        Lever::Energy => "writing energy_performance_preference",
        Lever::WakeupLatency => "writing cpu_dma_latency",
    }
}

fn remedy(error: &io::Error, value: &Value) -> &'static str {
    let reserves = matches!(value, Value::Sched(sched) if sched.is_reservation());
    match (value.lever(), error.raw_os_error()) {
        (Lever::Sched, Some(libc::EBUSY)) if reserves => {
            "; the kernel has no room for this reservation beside the others"
        }
        (Lever::Sched, Some(libc::EPERM)) if reserves => {
            "; a reservation needs CAP_SYS_NICE and a thread that may use every CPU of its root \
             domain: give the class no `cpus`, or `partition = true` with them"
        }
        (Lever::Sched, Some(libc::EINVAL)) if reserves => {
            "; budget, deadline and period must not shrink in this order, nor be below 1 us or \
             beyond the bounds in /proc/sys/kernel/sched_deadline_period_*"
        }
        (Lever::Sched, Some(libc::EPERM)) => {
            "; it needs CAP_SYS_NICE, and under RT_GROUP_SCHED a real-time budget for the \
             thread's cgroup (cpu.rt_runtime_us)"
        }
        (Lever::UclampMin | Lever::UclampMax, Some(libc::EOPNOTSUPP)) => {
            "; the kernel lacks CONFIG_UCLAMP_TASK"
        }
        (Lever::Affinity, Some(libc::EINVAL)) => {
            "; none of these CPUs is online and allowed by the thread's cpuset"
        }
        (Lever::Affinity, Some(libc::EBUSY)) => {
            "; the thread holds a reservation, which needs every CPU of its root domain"
        }
        (Lever::IrqAffinity, Some(libc::EIO | libc::EINVAL | libc::ENOSPC)) => {
            "; this interrupt cannot be moved there"
        }
        (Lever::Energy, Some(libc::EBUSY)) => {
            "; the performance governor holds it, see scaling_governor"
        }
        (Lever::Folder | Lever::Controllers, Some(libc::EROFS | libc::EACCES)) => {
            "; under systemd the agent's unit needs Delegate=yes, in a container /sys/fs/cgroup \
             must be writable"
        }
        (_, Some(libc::EPERM | libc::EACCES)) => {
            "; run downbeatd as root or with CAP_SYS_NICE and CAP_SYS_RESOURCE; where it is root, a \
             container that drops these, a seccomp filter or a file system mounted read-only \
             refuses it (`downbeat doctor`)"
        }
        _ => "",
    }
}
