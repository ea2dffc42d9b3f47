//! One tick's view of the whole host: the same on the socket, in `status --json`, in the TUI and
//! behind `/metrics`.

use serde::{Deserialize, Serialize};

use crate::pool::PoolStatus;
use crate::pressure::{ClassCgroups, ClassCpu, HostLoad};
use crate::{CauseKind, ClassBlame, JobSummary, Miss, Override, PolicyState, ThreadJobs};

/// Everything the agent knew at the end of one tick.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`crate::SCHEMA`] of the agent that wrote it.
    pub schema: u32,
    /// The agent's version.
    pub version: String,
    /// Host name.
    pub host: String,
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// Counts ticks since the agent started.
    pub tick: u64,
    /// Wall-clock time of the tick, seconds since 1970.
    pub unix_time: f64,
    /// Seconds since the agent started.
    pub uptime: f64,
    /// Seconds that the rates in this snapshot cover.
    pub interval: f64,
    /// What the agent does with its decisions.
    pub mode: Mode,
    /// Where the agent's view of the scheduler comes from.
    pub source: Source,
    /// What the person at the screen should know; empty on a good day.
    pub notices: Vec<Notice>,
    /// One entry per online CPU, in order of its number.
    pub cpus: Vec<Cpu>,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Memory of the host.
    pub memory: Memory,
    /// Pressure stall information, absent where the kernel has none (`CONFIG_PSI`).
    pub pressure: Option<Pressure>,
    /// What else the host does to everyone's time.
    #[serde(default)]
    pub host_load: HostLoad,
    /// The policy in force, and what was refused since.
    #[serde(default)]
    pub policy: PolicyState,
    /// Classes that people gave to single processes by hand, by process id.
    #[serde(default)]
    pub overrides: Vec<Override>,
    /// Every class of the policy in force, in policy order.
    pub classes: Vec<Class>,
    /// Threads whose jobs the kernel programs follow, by class and then by process.
    #[serde(default)]
    pub jobs: Vec<ThreadJobs>,
    /// Who ran while classes waited, in policy order; a class that never waited is not there.
    #[serde(default)]
    pub blame: Vec<ClassBlame>,
    /// The latest misses, newest last; at most 32. More by [`crate::Request::Misses`].
    #[serde(default)]
    pub misses: Vec<Miss>,
    /// Misses by cause since the agent started; causes that never came are not there.
    #[serde(default)]
    pub causes: Vec<CauseCount>,
    /// Processes, those with a class first, then by CPU use.
    pub processes: Vec<Process>,
    /// GPUs.
    pub gpu: GpuView,
    /// The pool, absent when the agent runs none.
    pub pool: Option<PoolStatus>,
    /// What the agent did since it started.
    pub actions: Actions,
    /// What watching costs.
    pub cost: Cost,
}

/// What the agent does with its decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Decisions are applied.
    Engaged,
    /// A user paused it (`downbeat pause`): everything was put back, and it only watches.
    Paused,
    /// Started with `--observe-only`: it never changes anything.
    ObserveOnly,
}

/// Where the agent's view of the scheduler comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Source {
    /// Kernel programs: events within milliseconds and run-queue waits.
    Bpf,
    /// `/proc` alone: a scan per tick, no waits per class.
    Procfs {
        /// Why the kernel programs are not there, with the remedy.
        reason: String,
    },
}

/// Something a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// How bad it is.
    pub severity: Severity,
    /// What is the case.
    pub text: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// How bad a [`Notice`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Something works less well than it could.
    Warning,
    /// Something that was asked for is not done.
    Error,
}

/// One CPU's use over the interval, as fractions of it (`busy` is the sum of all but idle).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// The kernel's number of the CPU.
    pub id: u32,
    /// Everything but idle, I/O wait and steal.
    pub busy: f64,
    /// User code, `nice` included.
    pub user: f64,
    /// Kernel code.
    pub system: f64,
    /// Hard and soft interrupts.
    pub irq: f64,
    /// Idle with I/O outstanding.
    pub iowait: f64,
    /// Taken by the hypervisor.
    pub steal: f64,
}

/// Host memory in bytes (`/proc/meminfo`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// MemTotal.
    pub total: u64,
    /// MemAvailable.
    pub available: u64,
    /// SwapTotal.
    pub swap_total: u64,
    /// SwapFree.
    pub swap_free: u64,
}

/// Share of the last 10 s in which some task waited (`/proc/pressure/*`, `some avg10`), 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// For a CPU.
    pub cpu: f64,
    /// For memory.
    pub memory: f64,
    /// For I/O.
    pub io: f64,
}

/// A class of the policy and how its members fare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Class {
    /// Name in the policy.
    pub name: String,
    /// `audio`, `video`, … as the policy says.
    pub modality: String,
    /// `realtime`, `interactive` or `background`.
    pub tier: String,
    /// The policy's deadline, nanoseconds.
    pub deadline_ns: Option<u64>,
    /// What its threads get, in words (`fifo 20`, `nice 5`, `idle`).
    pub sched: String,
    /// Processes with at least one thread in the class.
    pub processes: u32,
    /// Threads in the class.
    pub threads: u32,
    /// CPU use in CPUs (1.0 = one CPU full).
    pub cpu: f64,
    /// Run-queue wait; absent without the kernel programs.
    pub wait: Option<Wait>,
    /// Deadline misses; absent where nothing measures them.
    pub misses: Option<Misses>,
    /// Jobs of its threads; absent without the kernel programs.
    #[serde(default)]
    pub jobs: Option<ClassJobs>,
    /// Which share of each CPU its threads used; absent where nothing counts it exactly.
    #[serde(default)]
    pub cpus: Option<Vec<ClassCpu>>,
    /// Its processes' control groups; absent when it has no process.
    #[serde(default)]
    pub cgroups: Option<ClassCgroups>,
}

/// Jobs of a class's threads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassJobs {
    /// Over the interval.
    pub recent: JobSummary,
    /// Since the agent started.
    pub total: JobSummary,
    /// Response times since the agent started, as in [`Wait::buckets`].
    pub response_buckets: Vec<(u64, u64)>,
}

/// Misses of one class with one cause since the agent started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseCount {
    /// Class; absent for threads that are only watched.
    pub class: Option<String>,
    /// Cause.
    pub cause: CauseKind,
    /// Misses.
    pub misses: u64,
}

/// Run-queue wait of a class: from runnable (woken or preempted) to running.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wait {
    /// Over the interval.
    pub recent: WaitSummary,
    /// Since the agent started.
    pub total: WaitSummary,
    /// Since the agent started, as `(upper bound in ns, waits at or below it)`, cumulative and
    /// ascending; for Prometheus. The last bound is `u64::MAX`.
    pub buckets: Vec<(u64, u64)>,
}

/// A histogram's summary. Quantiles are upper bounds of their bucket (relative error ≤ 1/8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WaitSummary {
    /// Waits counted.
    pub count: u64,
    /// Their sum, nanoseconds.
    pub sum_ns: u64,
    /// Median; absent when nothing was counted.
    pub p50_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// Upper bound of the highest bucket that is not empty.
    pub max_ns: Option<u64>,
}

/// Frames and those that came late, since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misses {
    /// Frames completed.
    pub frames: u64,
    /// Of these, later than the deadline.
    pub missed: u64,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Process id (thread-group id).
    pub pid: u32,
    /// Parent.
    pub ppid: u32,
    /// Start time in clock ticks since boot (`/proc/PID/stat` field 22): with `pid` it names a
    /// process beyond doubt.
    pub start_time: u64,
    /// The main thread's name.
    pub name: String,
    /// Command line, arguments joined by spaces; the name in brackets for a kernel thread.
    pub command: String,
    /// Owner's name, or the uid where it has none.
    pub user: String,
    /// Class of its main thread, or of the first thread with one.
    pub class: Option<String>,
    /// Name of the rule that gave the class.
    pub rule: Option<String>,
    /// Threads.
    pub threads: u32,
    /// Threads with a class.
    pub managed: u32,
    /// The kernel's one-letter state of the main thread.
    pub state: char,
    /// CPU use in CPUs over the interval.
    pub cpu: f64,
    /// Resident memory, bytes.
    pub rss: u64,
    /// GPU memory over all GPUs, bytes.
    pub gpu_memory: Option<u64>,
    /// Scheduling of the main thread in words: `other`, `fifo 20`, `idle` …
    pub sched: String,
    /// Nice value of the main thread, −20 to 19.
    pub nice: i32,
    /// CPUs that the main thread may use, as a list (`0-3,6`).
    pub affinity: String,
    /// A lever failed or was taken over by someone else; see `explain`.
    pub attention: bool,
}

/// GPUs, or why none are shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuView {
    /// One per device, in the driver's order.
    pub devices: Vec<Gpu>,
    /// One line when there is no driver or it failed.
    pub note: Option<String>,
}

/// One GPU. What a device does not report is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// Driver's index.
    pub index: u32,
    /// Stable identifier.
    pub uuid: String,
    /// Marketing name.
    pub name: String,
    /// Share of time in which a kernel ran, 0 to 1.
    pub utilization: Option<f64>,
    /// Share of time in which memory was read or written, 0 to 1.
    pub memory_utilization: Option<f64>,
    /// Memory in use, bytes.
    pub memory_used: Option<u64>,
    /// Memory in all, bytes.
    pub memory_total: Option<u64>,
    /// Degrees Celsius.
    pub temperature: Option<f64>,
    /// Watts.
    pub power: Option<f64>,
    /// Power limit, watts.
    pub power_limit: Option<f64>,
    /// Why it runs slower than it could, in a few words each (`power cap`, `heat`); empty also
    /// where the driver does not tell.
    #[serde(default)]
    pub slowed: Vec<String>,
    /// Processes with a context on the device.
    pub processes: Vec<GpuProcess>,
}

/// A process on a GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuProcess {
    /// Process id.
    pub pid: u32,
    /// Memory in use, bytes; absent where the driver hides it.
    pub memory: Option<u64>,
    /// Share of the GPU's busiest engine that it used since the last look, 0 to 1; absent where the
    /// driver does not tell.
    #[serde(default)]
    pub utilization: Option<f64>,
}

/// What the agent did since it started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Actions {
    /// Per lever (`sched`, `affinity`, `ioprio`, `oom_score_adj`), in a fixed order.
    pub levers: Vec<LeverCount>,
    /// Entries in the journal: values that would go back now.
    pub journalled: u64,
    /// Writes to the journal that failed, so that nothing was set; absent where nothing is changed.
    #[serde(default)]
    pub journal_failures: Option<u64>,
    /// From the exec in the kernel to the last thread set.
    pub exec_to_set: Option<WaitSummary>,
    /// The latest actions, newest last; bounded.
    pub recent: Vec<Action>,
}

/// Counts of one lever since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeverCount {
    /// Lever.
    pub lever: String,
    /// Values set.
    pub applied: u64,
    /// Refused by the kernel.
    pub failed: u64,
    /// Old values put back.
    pub restored: u64,
    /// Left alone, since someone else changed the value after us.
    pub handed_off: u64,
}

/// One change, as a person reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// Wall-clock time, seconds since 1970.
    pub unix_time: f64,
    /// Process.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Class that asked for it.
    pub class: String,
    /// What happened (`sched other → fifo 20 on 4 threads`).
    pub text: String,
    /// The kernel refused it.
    pub failed: bool,
}

/// What watching costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The agent's own CPU time since it started, seconds.
    pub cpu_seconds: f64,
    /// The same over the interval, in CPUs; absent until there is an interval that is long enough.
    #[serde(default)]
    pub cpu: Option<f64>,
    /// Resident memory, bytes.
    pub rss: u64,
    /// Kernel programs; absent without them.
    pub bpf: Option<BpfCost>,
}

/// What the kernel programs cost and lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BpfCost {
    /// Per program.
    pub programs: Vec<BpfProgram>,
    /// Events that did not fit into the ring, since start.
    pub dropped_events: u64,
    /// Managed threads that did not fit into the thread map, since start.
    pub dropped_threads: u64,
    /// Samples thrown away because the clock ran backwards, since start.
    pub discarded_samples: u64,
    /// Threads whose jobs are not followed since the table of jobs was full, since start.
    #[serde(default)]
    pub dropped_jobs: u64,
    /// Culprits that did not fit into the table of blame, since start; their time counts as
    /// [`crate::CulpritKind::Unknown`].
    #[serde(default)]
    pub dropped_blame: u64,
    /// Times that a thread ran again after a sleep without a wake-up that was seen, since start.
    #[serde(default)]
    pub unseen_wakes: u64,
    /// Processes whose origin found no place: should the agent be killed, `downbeat restore` finds
    /// them by their parents alone.
    #[serde(default)]
    pub dropped_children: u64,
    /// Memory of all maps, bytes.
    pub map_bytes: u64,
}

/// One kernel program's run statistics (`bpf_enable_stats`, kernel 5.8). They are switched on for
/// a part of the time only, since they cost about 25 ns an event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BpfProgram {
    /// Program name.
    pub name: String,
    /// Runs since start, scaled up from the sampled time.
    pub runs: u64,
    /// Run time since start in seconds, scaled likewise.
    pub run_seconds: f64,
    /// Mean of one run over the samples, nanoseconds; absent before the first sample.
    pub mean_ns: Option<f64>,
}
