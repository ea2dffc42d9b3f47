//! The one cause of a missed deadline.
//!
//! The question for each part of a job is: how much of the lateness would have gone without it?
//! A part can take away no more than the lateness, so any part that is as long as the lateness
//! would have saved the deadline on its own; of several such parts, and of several that are too
//! short, the longest is the cause. The thread's own work is a part like the others only when it
//! is longer than its deadline, since then nothing else could have saved it, save a part that is
//! longer still. Reclaim is also running time, and is taken from the thread's own work. Other parts
//! that overlap do no harm, since they are compared and never added up.

mod text;

#[cfg(test)]
mod tests;

use downbeat_api::{Cause, CauseKind, Culprit, CulpritKind, Stalls};

/// Less CPU time missing from a run than this is the clocks' noise, nanoseconds.
const STOLEN_NOISE_NS: u64 = 50_000;

/// … or than this part of the run.
const STOLEN_NOISE_PART: u64 = 20;

/// What is known of one missed deadline. Times are nanoseconds; what is 0 was measured to be 0,
/// what is `None` nobody knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MissFacts {
    /// Deadline after the release.
    pub deadline_ns: u64,
    /// Release to completion.
    pub response_ns: u64,
    /// Release to its first moment on a CPU.
    pub start_ns: u64,
    /// From the moment the timer should have expired to the moment it woke the thread; part of
    /// the response.
    pub late_ns: u64,
    /// Released and not free to start: the job before it was still under way.
    pub behind_ns: u64,
    /// Ready and not running, in all.
    pub wait_ns: u64,
    /// On a CPU, by the clock on the wall.
    pub run_ns: u64,
    /// CPU time that the kernel charged; equal to `run_ns` where nothing else is known.
    pub cost_ns: u64,
    /// Asleep within the job.
    pub stalls: Stalls,
    /// Who ran while it waited. What they leave of `wait_ns` counts as nobody knows whom.
    pub culprits: Vec<Culprit>,
    /// The quota of its control group, where it was used up.
    pub throttled: Option<Throttled>,
    /// What the hypervisor took from the CPU.
    pub steal: Option<Steal>,
    /// Share of the time in which someone waited for memory, 0 to 1.
    pub memory_pressure: Option<f64>,
    /// Share of the time in which someone waited for a disk, 0 to 1.
    pub io_pressure: Option<f64>,
    /// The GPU that its process uses.
    pub gpu: Option<GpuState>,
}

/// A control group that was held back (`cpu.stat`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Throttled {
    /// For how long, within the window.
    pub ns: u64,
    /// The time between the two readings that tell it, the job's time or longer.
    pub window_ns: u64,
    /// The group's path.
    pub cgroup: String,
}

/// CPU time that the hypervisor gave to someone else (`steal` in `/proc/stat`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steal {
    /// For how long, within the window.
    pub ns: u64,
    /// The time between the two readings that tell it.
    pub window_ns: u64,
}

/// What a GPU did at the time of the miss.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuState {
    /// How a person calls it (`GPU 0`).
    pub device: String,
    /// Why it ran slower than it can (the driver's clock event reasons).
    pub slowed: Option<String>,
    /// Another process that used it.
    pub busy_with: Option<String>,
}

impl MissFacts {
    /// How late it was.
    #[must_use]
    pub fn lateness_ns(&self) -> u64 {
        self.response_ns.saturating_sub(self.deadline_ns)
    }

    /// CPU time of the thread's own work. A thread that finds no free memory makes some before it goes
    /// on: the kernel charges it for that (most of reclaim is running, not sleeping).
    #[must_use]
    pub fn own_ns(&self) -> u64 {
        self.cost_ns.saturating_sub(self.stalls.reclaim_ns)
    }

    fn culprits(&self, kinds: &[CulpritKind]) -> Vec<Culprit> {
        self.culprits.iter().filter(|culprit| kinds.contains(&culprit.kind)).cloned().collect()
    }

    fn steal_explains(&self, ns: u64) -> bool {
        self.steal.is_some_and(|steal| steal.ns > 0 && steal.ns >= ns / 2)
    }
}

/// Who counts as having run while the thread waited.
const RUNNERS: [CulpritKind; 6] = [
    CulpritKind::Class,
    CulpritKind::Program,
    CulpritKind::Workload,
    CulpritKind::Kernel,
    CulpritKind::Others,
    CulpritKind::Unknown,
];

const INTERRUPTS: [CulpritKind; 3] =
    [CulpritKind::HardInterrupt, CulpritKind::SoftInterrupt, CulpritKind::Timer];

/// What the response consists of, each with the time that would be gone without it.
#[derive(Debug, Default)]
struct Parts {
    /// Waited behind these, without what throttling explains.
    runners: Vec<Culprit>,
    runners_ns: u64,
    interrupts: Vec<Culprit>,
    interrupts_ns: u64,
    throttled_ns: u64,
    stolen_ns: u64,
    /// The CPU was idle and woke up, or the timer expired late, and no hypervisor explains it.
    late_timer_ns: u64,
    late_cpu_ns: u64,
    memory_ns: u64,
    disk_ns: u64,
    gpu_ns: u64,
    blocked_ns: u64,
    behind_ns: u64,
}

fn sum(culprits: &[Culprit]) -> u64 {
    culprits.iter().fold(0, |sum, culprit| sum.saturating_add(culprit.ns))
}

impl Parts {
    fn of(facts: &MissFacts) -> Self {
        let mut runners = facts.culprits(&RUNNERS);
        let interrupts = facts.culprits(&INTERRUPTS);
        let mut idle_ns = sum(&facts.culprits(&[CulpritKind::Idle]));
        let stolen_waiting = sum(&facts.culprits(&[CulpritKind::Stolen]));
        let untold = facts.wait_ns.saturating_sub(sum(&facts.culprits));
        if untold > 0 {
            let name = String::new();
            runners.push(Culprit { kind: CulpritKind::Unknown, name, ns: untold });
        }
        let throttled_ns = throttled(facts, &mut idle_ns, &mut runners);
        runners.retain(|culprit| culprit.ns > 0);
        let lost = facts.run_ns.saturating_sub(facts.cost_ns);
        let noise = STOLEN_NOISE_NS.max(facts.run_ns / STOLEN_NOISE_PART);
        let mut stolen_ns = stolen_waiting.saturating_add(if lost > noise { lost } else { 0 });
        let (mut late_timer_ns, mut late_cpu_ns) = (facts.late_ns, idle_ns);
        // A guest whose CPU is not run expires its timers late and leaves idle late.
        for late in [&mut late_timer_ns, &mut late_cpu_ns] {
            if *late > 0 && facts.steal_explains(*late) {
                stolen_ns = stolen_ns.saturating_add(std::mem::take(late));
            }
        }
        let Stalls { io_ns, fault_ns, faults: _, reclaim_ns, sleep_ns } = facts.stalls;
        let on_gpu =
            facts.gpu.as_ref().is_some_and(|gpu| gpu.slowed.is_some() || gpu.busy_with.is_some());
        Self {
            runners_ns: sum(&runners),
            runners,
            interrupts_ns: sum(&interrupts),
            interrupts,
            throttled_ns,
            stolen_ns,
            late_timer_ns,
            late_cpu_ns,
            memory_ns: fault_ns.saturating_add(reclaim_ns),
            disk_ns: io_ns,
            gpu_ns: if on_gpu { sleep_ns } else { 0 },
            blocked_ns: if on_gpu { 0 } else { sleep_ns },
            behind_ns: facts.behind_ns,
        }
    }

    /// Every cause but the thread's own work, those that say more before those that say less.
    fn all(&self) -> [(CauseKind, u64); 10] {
        [
            (CauseKind::Throttled, self.throttled_ns),
            (CauseKind::Stolen, self.stolen_ns),
            (CauseKind::Memory, self.memory_ns),
            (CauseKind::Disk, self.disk_ns),
            (CauseKind::Interrupts, self.interrupts_ns),
            (CauseKind::RanBehind, self.runners_ns),
            (CauseKind::Gpu, self.gpu_ns),
            (CauseKind::ReleasedLate, self.late_timer_ns.max(self.late_cpu_ns)),
            (CauseKind::Blocked, self.blocked_ns),
            (CauseKind::JobBefore, self.behind_ns),
        ]
    }
}

/// How much of the wait the quota explains; that much is taken from the idle time and from those
/// who ran meanwhile. A group that may not run leaves its CPU idle or to others, and others would
/// have had to make way for it, so the quota comes first. Idle time is taken for it as a whole;
/// of the time in which others ran, only the share that the job has of the window, since most of
/// a long window's throttling belongs to other jobs.
fn throttled(facts: &MissFacts, idle_ns: &mut u64, runners: &mut [Culprit]) -> u64 {
    let Some(throttled) = &facts.throttled else {
        return 0;
    };
    let from_idle = throttled.ns.min(*idle_ns);
    *idle_ns -= from_idle;
    let window = throttled.window_ns.max(facts.response_ns).max(1);
    let left = u128::from(throttled.ns - from_idle) * u128::from(facts.response_ns);
    // At most `throttled.ns`, since the response is not longer than the window.
    let left = u64::try_from(left / u128::from(window)).unwrap_or(u64::MAX);
    let waited = sum(runners);
    let from_runners = left.min(waited);
    for culprit in runners {
        let part = u128::from(culprit.ns) * u128::from(from_runners);
        let part = u64::try_from(part.div_ceil(u128::from(waited.max(1)))).unwrap_or(u64::MAX);
        culprit.ns = culprit.ns.saturating_sub(part);
    }
    from_idle.saturating_add(from_runners)
}

/// The cause of a miss, with its story. There always is exactly one: where nothing was measured
/// that would explain it, it is the thread's own work.
#[must_use]
pub fn cause(facts: &MissFacts) -> Cause {
    let parts = Parts::of(facts);
    let own = (CauseKind::OwnCost, facts.own_ns());
    let own_alone_is_too_long = own.1 > facts.deadline_ns;
    let first = if own_alone_is_too_long { own } else { (CauseKind::OwnCost, 0) };
    let longest = parts.all().into_iter().fold(first, |best, part| {
        let counts = !own_alone_is_too_long || part.1 > facts.deadline_ns;
        if counts && part.1 > best.1 { part } else { best }
    });
    Cause {
        kind: longest.0,
        text: text::text(longest.0, &parts, facts),
        evidence: text::evidence(&parts, facts),
    }
}
