//! Jobs, deadlines and blame: what the kernel programs saw of threads that work in periods.
//!
//! A job is what a thread does from its release (a timer expires, a device or the network
//! interrupts, someone outside its process wakes it) until it goes back to sleep and waits for the
//! next release. All times are `CLOCK_MONOTONIC` nanoseconds.

use serde::{Deserialize, Serialize};

use crate::WaitSummary;

/// Jobs of one thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThreadJobs {
    /// Thread.
    pub tid: u32,
    /// Its process.
    pub pid: u32,
    /// The thread's own name.
    pub thread: String,
    /// The process's name.
    pub process: String,
    /// Class; absent for a thread that is only watched.
    pub class: Option<String>,
    /// What released it most often in the interval; absent without a release.
    pub release: Option<Release>,
    /// How regular its releases are; absent until enough were seen.
    pub rhythm: Option<Rhythm>,
    /// Its deadline, nanoseconds after the release.
    pub deadline_ns: Option<u64>,
    /// For how long it has not slept, seconds: as long as it does not, its jobs cannot be told
    /// apart, and it shows neither jobs nor misses. Only from 2 s on, and only for a thread with a
    /// deadline or a class that is realtime or interactive.
    #[serde(default)]
    pub awake: Option<f64>,
    /// Counts and times over the interval.
    pub recent: JobSummary,
    /// The same since the thread is watched.
    pub total: JobSummary,
}

/// Jobs of one thread or class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobSummary {
    /// Jobs completed.
    pub jobs: u64,
    /// Of these, completed after their deadline.
    pub missed: u64,
    /// Of the missed ones, those that would have been in time had they started when released.
    pub late_starts: u64,
    /// Release to completion.
    pub response: WaitSummary,
    /// CPU time.
    pub cost: WaitSummary,
    /// From one release to the next.
    pub interval: WaitSummary,
}

/// What releases a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    /// A timer of its own.
    Timer,
    /// A hard or soft interrupt: a device, the network.
    Interrupt,
    /// Another process, or the kernel on its behalf.
    Wake,
    /// The program says so itself (`FRAME_BEGIN`).
    Marked,
}

/// How regular releases are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Rhythm {
    /// They come on a beat.
    Periodic {
        /// Nanoseconds between two beats.
        period_ns: u64,
        /// Median distance of a release from its beat, nanoseconds.
        jitter_ns: u64,
        /// Share of beats without a release, 0 to 1.
        skipped: f64,
    },
    /// They do not.
    Aperiodic {
        /// Median interval, nanoseconds.
        median_ns: u64,
    },
}

/// Who ran while threads of one class were ready and did not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassBlame {
    /// The class that waited; absent for threads that are only watched.
    pub class: Option<String>,
    /// Culprits over the interval, the worst first.
    pub recent: Vec<Culprit>,
    /// Since the agent started, the worst first; beyond a bound the smallest are one entry of
    /// kind [`CulpritKind::Others`].
    pub total: Vec<Culprit>,
}

/// Someone who had the CPU, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Culprit {
    /// What it is.
    pub kind: CulpritKind,
    /// Class, program, interrupt or kernel thread by name; empty where the kind says it all.
    pub name: String,
    /// How long, nanoseconds (summed over all that waited for it).
    pub ns: u64,
}

/// What a culprit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CulpritKind {
    /// A class of the policy.
    Class,
    /// A program without a class, by name.
    Program,
    /// Other threads of the process that waited.
    Workload,
    /// A kernel thread.
    Kernel,
    /// A hard interrupt, by name.
    HardInterrupt,
    /// A soft interrupt, by name.
    SoftInterrupt,
    /// The timer interrupt.
    Timer,
    /// Nobody: the CPU was idle and still waking up.
    Idle,
    /// The hypervisor ran something else.
    Stolen,
    /// Known culprits that did not fit into the list, together.
    Others,
    /// Nobody knows: the record of who ran did not reach back so far.
    Unknown,
}

/// One deadline that was missed, and its story.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Miss {
    /// Counts misses since the agent started.
    pub id: u64,
    /// Wall-clock time of the completion, seconds since 1970.
    pub unix_time: f64,
    /// Thread.
    pub tid: u32,
    /// Its process.
    pub pid: u32,
    /// The thread's own name.
    pub thread: String,
    /// The process's name.
    pub process: String,
    /// Class at that time.
    pub class: Option<String>,
    /// Deadline after the release, nanoseconds.
    pub deadline_ns: u64,
    /// When it was released, `CLOCK_MONOTONIC`.
    pub release_ns: u64,
    /// What released it.
    pub release: Release,
    /// Release to completion.
    pub response_ns: u64,
    /// Release to its first moment on a CPU.
    pub start_ns: u64,
    /// From the moment the timer should have expired, or the thread was done with the job before,
    /// whichever was later, to the moment it was woken.
    pub late_ns: u64,
    /// Ready and not running, in all.
    pub wait_ns: u64,
    /// On a CPU, by the clock on the wall.
    pub run_ns: u64,
    /// CPU time that the kernel charged it: less than `run_ns` by what the hypervisor stole.
    pub cost_ns: u64,
    /// Asleep within the job, by reason.
    pub stalls: Stalls,
    /// Who ran while it waited, the worst first.
    pub culprits: Vec<Culprit>,
    /// The one cause.
    pub cause: Cause,
}

/// Time within a job in which the thread could not run, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalls {
    /// Waiting for a disk.
    pub io_ns: u64,
    /// Waiting for a page that had to be read (major faults).
    pub fault_ns: u64,
    /// Major faults that the thread slept for.
    pub faults: u64,
    /// Reclaiming memory for itself. This time is also running or waiting time.
    pub reclaim_ns: u64,
    /// Asleep for something else: a lock, a helper of the same process, a signal.
    pub sleep_ns: u64,
}

/// Why a deadline was missed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Which of the few.
    pub kind: CauseKind,
    /// The same for a person, with the figures (`waited 4.1 ms of 10.0 ms behind ffmpeg`).
    pub text: String,
    /// What it was taken from, one figure a line.
    pub evidence: Vec<String>,
}

/// The causes that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// Someone else had the CPU.
    RanBehind,
    /// Its cgroup's quota was used up.
    Throttled,
    /// The hypervisor ran something else.
    Stolen,
    /// Interrupts had the CPU.
    Interrupts,
    /// Memory reclaim or a major fault.
    Memory,
    /// A disk.
    Disk,
    /// A lock, or a helper of the same process.
    Blocked,
    /// Its own work takes longer than its deadline.
    OwnCost,
    /// The GPU: it ran slower (clock event) or for someone else.
    Gpu,
    /// The timer expired late.
    ReleasedLate,
    /// The job before it was still under way when it was released.
    JobBefore,
}

impl CauseKind {
    /// Every cause.
    pub const ALL: [Self; 11] = [
        Self::RanBehind,
        Self::Throttled,
        Self::Stolen,
        Self::Interrupts,
        Self::Memory,
        Self::Disk,
        Self::Blocked,
        Self::OwnCost,
        Self::Gpu,
        Self::ReleasedLate,
        Self::JobBefore,
    ];

    /// The name in metrics and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RanBehind => "ran_behind",
            Self::Throttled => "throttled",
            Self::Stolen => "stolen",
            Self::Interrupts => "interrupts",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Blocked => "blocked",
            Self::OwnCost => "own_cost",
            Self::Gpu => "gpu",
            Self::ReleasedLate => "released_late",
            Self::JobBefore => "job_before",
        }
    }
}
