//! What the rest of the host does to everyone's time: pressure, throttling, steal, interrupts.

use serde::{Deserialize, Serialize};

/// What the host's files say of the interval, beyond the CPUs' use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostLoad {
    /// Pressure of the whole host; absent where the kernel has none.
    pub pressure: Option<HostPressure>,
    /// Why `pressure` is absent, with the remedy.
    pub pressure_missing: Option<String>,
    /// One entry per online CPU, in order of its number.
    pub cpu_times: Vec<CpuTime>,
    /// Interrupts by source; absent before the second reading, and where the kernel shows none.
    pub interrupts: Option<Interrupts>,
}

/// Pressure stall information of the whole host (`/proc/pressure`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostPressure {
    /// Waits for a CPU.
    pub cpu: ResourcePressure,
    /// Waits for memory: reclaim, refaults, swap.
    pub memory: ResourcePressure,
    /// Waits for block devices.
    pub io: ResourcePressure,
}

/// Waits for one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResourcePressure {
    /// Time in which at least one task waited.
    pub some: Stall,
    /// Time in which every task that had work waited; absent where it has no meaning (the CPU,
    /// for the whole host) or the kernel does not count it.
    pub full: Option<Stall>,
}

/// A wall-clock time in which tasks waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// Share of the last 10 s, decaying, 0 to 1: slow, but what other tools show.
    pub avg10: f64,
    /// Share of the time since the last reading, 0 to 1; absent on the first.
    pub share: Option<f64>,
    /// Seconds since boot, or since the group was made.
    pub total_seconds: f64,
}

/// Seconds that one CPU has spent in each mode since boot (`/proc/stat`, counted in clock ticks of
/// 10 ms). They add up to the CPU's time online; guest time is part of `user` and `nice`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuTime {
    /// The kernel's number of the CPU.
    pub id: u32,
    /// User code without `nice`.
    pub user: f64,
    /// User code of processes with a positive nice value.
    pub nice: f64,
    /// Kernel code.
    pub system: f64,
    /// Idle.
    pub idle: f64,
    /// Idle with I/O outstanding.
    pub iowait: f64,
    /// Hard interrupts.
    pub irq: f64,
    /// Soft interrupts.
    pub softirq: f64,
    /// Taken by the hypervisor.
    pub steal: f64,
}

/// Interrupts over the time since they were last read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interrupts {
    /// Seconds that the rates cover. On a host with many CPUs and lines they are read less often
    /// than once a second, since reading them costs much.
    pub seconds: f64,
    /// Devices' interrupts, the most frequent first; bounded, and only those that came.
    pub devices: Vec<Interrupt>,
    /// Interrupts of the processor itself (`LOC`, `RES`, `CAL` …), likewise.
    pub system: Vec<Interrupt>,
    /// All kinds of soft interrupts, in the kernel's order.
    pub soft: Vec<SoftInterrupt>,
    /// Devices' interrupts in all, since the agent started.
    pub device_total: u64,
    /// Interrupts of the processor itself, since the agent started.
    pub system_total: u64,
}

/// One line of `/proc/interrupts`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interrupt {
    /// The kernel's number; absent for one of the processor itself.
    pub number: Option<u32>,
    /// What stands first in the line: the number, or `LOC`, `RES` …
    pub label: String,
    /// Who handles it (`virtio0-input.0`), or what it is (`Local timer interrupts`).
    pub name: String,
    /// Interrupts a second on all CPUs.
    pub rate: f64,
    /// `(CPU, interrupts a second)` of the CPUs that took most, the busiest first; bounded.
    pub cpus: Vec<(u32, f64)>,
}

/// One kind of soft interrupt (`/proc/softirqs`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SoftInterrupt {
    /// The kernel's name (`NET_RX`, `TIMER` …).
    pub name: String,
    /// A second, on all CPUs.
    pub rate: f64,
    /// Since the agent started.
    pub total: u64,
    /// As of [`Interrupt::cpus`].
    pub cpus: Vec<(u32, f64)>,
}

/// The share of one CPU that a class's threads used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassCpu {
    /// The kernel's number of the CPU.
    pub cpu: u32,
    /// Share of the interval, 0 to 1.
    pub share: f64,
}

/// The control groups of a class's processes over the interval. A process counts with the group
/// of its main thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassCgroups {
    /// Groups that hold a process of the class.
    pub groups: u32,
    /// Of these, those that were not looked at: beyond the bound of groups a class, or outside of
    /// what is mounted here.
    pub skipped: u32,
    /// Why groups were skipped or nothing is known, with the remedy.
    pub missing: Option<String>,
    /// CPU quota of the groups and of all groups above them; absent where no controller shows it.
    pub throttling: Option<Throttling>,
    /// Waits for a CPU, of the group in which they were longest.
    pub cpu: Option<WorstStall>,
    /// Waits for memory, likewise.
    pub memory: Option<WorstStall>,
    /// Waits for block devices, likewise.
    pub io: Option<WorstStall>,
}

/// What CPU quotas took. The kernel counts each CPU of a group apart, so a group that is held
/// back on four CPUs for 10 ms counts 40 ms; and it counts when the group may run again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throttling {
    /// Groups with a quota among the class's groups and those above them.
    pub limited: u32,
    /// Time held back over the interval, nanoseconds, over all these groups.
    pub recent_ns: u64,
    /// The same since the agent started.
    pub total_ns: u64,
    /// Quota periods that passed since the agent started.
    pub periods: u64,
    /// Of these, those in which a group used up its quota.
    pub throttled_periods: u64,
    /// The group that was held back most in the interval; absent when none was.
    pub worst: Option<GroupTime>,
}

/// A control group and a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupTime {
    /// The group's path, as `/proc/PID/cgroup` shows it.
    pub path: String,
    /// Nanoseconds.
    pub ns: u64,
}

/// The highest pressure among a class's groups.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorstStall {
    /// Share of the interval in which at least one task of the group waited, 0 to 1.
    pub some: f64,
    /// Share in which all of the group's tasks that had work waited; absent where the kernel does
    /// not count it.
    pub full: Option<f64>,
    /// The group's path.
    pub path: String,
}
