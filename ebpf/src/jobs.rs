//! Jobs: from a release to the sleep before the next one.
//!
//! Whether a sleep ended the job shows only when the thread is woken: a release means that it did
//! (at the moment it fell asleep), a wake from inside its process that it did not. A thread that
//! overruns is often woken before it sleeps at all: then the wake is both the end of one job and
//! the start of the next.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use downbeat_abi::{
    BUCKETS, Counter, EventKind, JOB_BUCKETS, JOB_FIRST_BUCKET, Job, Miss, RELEASE_KINDS, RELEASES,
    SleepKind, Story, Thread, WakeKind, bucket_by_steps,
};

use crate::maps::{self, EVENTS, count};
use crate::occupancy::{self, index};
use crate::opaque::opaque;
use crate::span::span;
use crate::task::Task;
use crate::wait::{RUNNABLE, is_interruptible, is_uninterruptible};
use crate::{blame, gate};

/// Softirq vector of the timer wheel (`TIMER_SOFTIRQ`).
const TIMER_VECTOR: u32 = 1;

/// A timer cannot be later than this and believed.
const LATEST_NS: u64 = 10_000_000_000;

/// How a thread is woken.
pub struct Wake {
    /// By what.
    pub kind: WakeKind,
    /// How long ago the release should have been.
    pub late_ns: u64,
}

/// A followed thread was woken, as its record says.
///
/// # Safety
/// `job` and `thread` are live values of their maps.
#[inline(never)]
pub unsafe fn woken(job: *mut Job, thread: *const Thread, task: Task, wake: u8) {
    // SAFETY: as the caller promises.
    unsafe {
        let Thread { ready_ns, run_ns, woken_ns, late_ns, slot, .. } = *thread;
        let slept_ns = (*job).slept_ns;
        let sleep = (*job).sleep;
        let runs = run_ns != 0;
        // It waited already, when it was woken.
        let waited = ready_ns != 0 && ready_ns < woken_ns;
        let can_end = runs || waited || sleep == SleepKind::Waiting as u8;
        if wake == WakeKind::Inside as u8 || !can_end {
            end_sleep(job, sleep, slept_ns, woken_ns);
            return;
        }
        let ended_ns = if runs {
            cut(job, woken_ns);
            woken_ns
        } else if slept_ns != 0 {
            slept_ns
        } else {
            // Preempted after its last look and before its sleep.
            ready_ns
        };
        complete(job, task, slot.into(), ended_ns);
        begin(job, wake - WakeKind::Timer as u8, late_ns.into(), ended_ns, woken_ns);
    }
}

/// How a thread was woken that has a CPU although nobody was seen to wake it. Some hosts keep the
/// programs from running beside processes that they protect; what released the thread is not known
/// then, and counts as what released it before.
///
/// # Safety
/// As [`woken`].
#[inline(always)]
pub unsafe fn unseen_wake(job: *const Job) -> u8 {
    // SAFETY: as the caller promises.
    unsafe {
        if (*job).slept_ns == 0 || (*job).sleep != SleepKind::Waiting as u8 {
            return WakeKind::None as u8;
        }
        count(Counter::UnseenWakes);
        (*job).release + WakeKind::Timer as u8
    }
}

/// The thread waited for a CPU.
///
/// # Safety
/// As [`woken`].
#[inline(always)]
pub unsafe fn waited(job: *mut Job, wait_ns: u64) {
    // SAFETY: as the caller promises.
    unsafe { (*job).story.wait_ns += wait_ns };
}

/// The thread has a CPU.
///
/// # Safety
/// As [`woken`].
#[inline(always)]
pub unsafe fn runs(job: *mut Job, task: Task, now: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        (*job).run_since_ns = now;
        (*job).exec_mark_ns = task.exec_ns();
        (*job).slept_ns = 0;
        if (*job).story.started_ns == 0 {
            (*job).story.started_ns = now;
        }
    }
}

/// The thread leaves its CPU in the state with these bits: to sleep, or to wait for another turn.
///
/// # Safety
/// As [`woken`].
#[inline(always)]
pub unsafe fn left(job: *mut Job, task: Task, state: u64, now: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        let run_since_ns = (*job).run_since_ns;
        if run_since_ns != 0 {
            (*job).run_since_ns = 0;
            (*job).story.run_ns += span(run_since_ns, now);
            let exec_ns = task.exec_ns();
            (*job).story.cost_ns += span((*job).exec_mark_ns, exec_ns);
            (*job).exec_mark_ns = exec_ns;
        }
        if (*job).stalled != 0 && (*job).pending_io_ns != 0 {
            settle_faults(job, task);
        }
        if state == RUNNABLE {
            return;
        }
        let kind = if is_interruptible(state) {
            SleepKind::Waiting
        } else if is_uninterruptible(state) && task.in_iowait() {
            SleepKind::Io
        } else {
            SleepKind::Blocked
        };
        if kind == SleepKind::Io {
            (*job).fault_mark = task.major_faults();
        }
        (*job).sleep = kind as u8;
        (*job).slept_ns = now;
    }
}

/// The current thread begins or ends to reclaim memory for itself.
#[inline(always)]
pub fn reclaims(begins: bool, now: u64) {
    let tid = bpf_get_current_pid_tgid() as u32;
    let Some(thread) = gate::thread(tid) else { return };
    // SAFETY: the maps' own pointers.
    unsafe {
        let thread = thread.as_ptr();
        let Some(job) = maps::job((*thread).job) else { return };
        let since = (*job).reclaim_since_ns;
        (*job).stalled = 1;
        if begins {
            (*job).reclaim_since_ns = now;
        } else if since != 0 {
            (*job).story.reclaim_ns += span(since, now);
            (*job).reclaim_since_ns = 0;
        }
    }
}

/// A timer, an interrupt, or someone outside the thread's process releases it; its own process
/// only helps it on.
#[inline(always)]
pub fn how_woken(task: Task) -> Wake {
    let waker = (bpf_get_current_pid_tgid() >> 32) as u32;
    if let Some(cpu) = occupancy::here() {
        // SAFETY: the map's own pointer.
        unsafe {
            if (*cpu).timer_since_ns != 0 {
                return Wake { kind: WakeKind::Timer, late_ns: (*cpu).timer_late_ns };
            }
            if (*cpu).hard_since_ns != 0 {
                return Wake { kind: WakeKind::Interrupt, late_ns: 0 };
            }
            if (*cpu).soft_since_ns != 0 {
                let timer = (*cpu).soft_vector == TIMER_VECTOR;
                let kind = if timer { WakeKind::Timer } else { WakeKind::Interrupt };
                return Wake { kind, late_ns: 0 };
            }
        }
    }
    let kind = if waker == task.tgid() {
        WakeKind::Inside
    } else if waker == 0 {
        // The idle thread wakes nobody but in interrupts.
        WakeKind::Interrupt
    } else {
        WakeKind::Wake
    };
    Wake { kind, late_ns: 0 }
}

/// Ends the part of the present run that belongs to the job that ends.
#[inline(always)]
unsafe fn cut(job: *mut Job, now: u64) {
    // SAFETY: as the callers promise.
    unsafe {
        let run_since_ns = (*job).run_since_ns;
        if run_since_ns == 0 {
            return;
        }
        let ran_ns = span(run_since_ns, now);
        (*job).story.run_ns += ran_ns;
        // The kernel has not charged the thread up to this moment: the wall's clock stands in.
        (*job).story.cost_ns += ran_ns;
        (*job).exec_mark_ns += ran_ns;
        (*job).run_since_ns = now;
    }
}

/// A sleep within the job is over.
#[inline(always)]
unsafe fn end_sleep(job: *mut Job, sleep: u8, slept_ns: u64, now: u64) {
    if slept_ns == 0 {
        return;
    }
    // SAFETY: as the callers promise.
    unsafe {
        (*job).slept_ns = 0;
        (*job).stalled = 1;
        let ns = span(slept_ns, now);
        if sleep == SleepKind::Io as u8 {
            (*job).pending_io_ns += ns;
        } else {
            (*job).story.sleep_ns += ns;
        }
    }
}

/// Tells time asleep for a page from other time asleep for a disk: a major fault is counted when
/// it is over.
#[inline(always)]
unsafe fn settle_faults(job: *mut Job, task: Task) {
    // SAFETY: as the callers promise.
    unsafe {
        let faults = task.major_faults();
        let pending = (*job).pending_io_ns;
        if faults != (*job).fault_mark {
            (*job).story.faults += faults.wrapping_sub((*job).fault_mark);
            (*job).fault_mark = faults;
            (*job).story.fault_ns += pending;
        } else {
            (*job).story.io_ns += pending;
        }
        (*job).pending_io_ns = 0;
    }
}

/// The job under way, if one is, ended at `ended_ns`.
#[inline(always)]
unsafe fn complete(job: *mut Job, task: Task, slot: u32, ended_ns: u64) {
    // SAFETY: as the callers promise.
    unsafe {
        if (*job).stalled != 0 && (*job).pending_io_ns != 0 {
            settle_faults(job, task);
        }
        let release_ns = (*job).story.release_ns;
        if release_ns == 0 {
            return;
        }
        if ended_ns < release_ns {
            count(Counter::DiscardedSamples);
            return;
        }
        let response_ns = ended_ns - release_ns;
        let cost_ns = (*job).story.cost_ns;
        (*job).jobs += 1;
        (*job).response_sum_ns += response_ns;
        (*job).cost_sum_ns += cost_ns;
        tally(&raw mut (*job).response, response_ns);
        tally(&raw mut (*job).cost, cost_ns);
        let deadline_ns = (*job).deadline_ns;
        if deadline_ns == 0 || response_ns <= deadline_ns {
            return;
        }
        (*job).missed += 1;
        let start_ns = span(release_ns, (*job).story.started_ns);
        if span(start_ns, response_ns) <= deadline_ns {
            (*job).late_starts += 1;
        }
        tell(job, task, slot, ended_ns);
    }
}

/// Counts a time in one of a job's histograms.
#[inline(always)]
unsafe fn tally(buckets: *mut [u32; JOB_BUCKETS], ns: u64) {
    let bucket = bucket_by_steps(ns, opaque).max(JOB_FIRST_BUCKET);
    // LLVM knows the range, and the verifier learns it.
    let bucket = opaque(bucket as u64) as usize & (BUCKETS - 1);
    // SAFETY: a histogram within a value of the map; from where its first bucket would be, had it
    // all of the scale, which is in that value too.
    unsafe { *buckets.cast::<u32>().wrapping_sub(JOB_FIRST_BUCKET).add(bucket) += 1 };
}

/// A job begins with a release of `kind`, a [`downbeat_abi::ReleaseKind`], `late_ns` before now. The thread was free for it since
/// `free_ns`: what it was late before that is not the timer's doing.
#[inline(always)]
unsafe fn begin(job: *mut Job, kind: u8, late_ns: u64, free_ns: u64, now: u64) {
    // SAFETY: as the callers promise.
    unsafe {
        let release_ns = span(late_ns, now);
        let count = (*job).release_count;
        let releases = (&raw mut (*job).releases).cast::<u64>();
        let last_ns = (*job).last_release_ns;
        (*job).last_release_ns = release_ns;
        if last_ns != 0 && release_ns > last_ns {
            let interval_ns = release_ns - last_ns;
            (*job).interval_sum_ns += interval_ns;
            tally(&raw mut (*job).interval, interval_ns);
        }
        *releases.add(index(count, RELEASES)) = release_ns;
        (*job).release_count = count + 1;
        let by_kind = (&raw mut (*job).released).cast::<u64>();
        let of_kind = opaque(kind.into()) as usize & 3;
        if of_kind < RELEASE_KINDS {
            *by_kind.add(of_kind) += 1;
        }
        (*job).release = kind;
        (*job).slept_ns = 0;
        (*job).sleep = SleepKind::Awake as u8;
        let runs = (*job).run_since_ns != 0;
        let story = &raw mut (*job).story;
        (*story).release_ns = release_ns;
        (*story).started_ns = if runs { now } else { 0 };
        (*story).late_ns = span(release_ns.max(free_ns), now);
        // Each for itself: LLVM would call a function that clears byte by byte.
        (&raw mut (*story).wait_ns).write_volatile(0);
        (&raw mut (*story).run_ns).write_volatile(0);
        (&raw mut (*story).cost_ns).write_volatile(0);
        if (*job).stalled != 0 {
            (*job).stalled = 0;
            (*story).io_ns = 0;
            (*story).fault_ns = 0;
            (*story).faults = 0;
            (*story).reclaim_ns = 0;
            (*story).sleep_ns = 0;
            (*story).other_ns = 0;
            (*story).culprit_count = 0;
        }
        (*job).wait_count = 0;
    }
}

/// Sends the story of a job that missed its deadline.
#[inline(always)]
unsafe fn tell(job: *mut Job, task: Task, slot: u32, ended_ns: u64) {
    let Some(mut record) = EVENTS.reserve::<Miss>(0) else {
        count(Counter::DroppedMisses);
        return;
    };
    // SAFETY: as the callers promise; the record is whole after this.
    unsafe {
        (*job).stalled = 1;
        blame::name_culprits(job, task);
        let miss = record.as_mut_ptr();
        (*miss).time_ns = ended_ns;
        (*miss).kind = EventKind::Miss as u32;
        (*miss).tid = task.tid();
        (*miss).tgid = task.tgid();
        (*miss).slot = slot;
        (*miss).release = (*job).release.into();
        (*miss).cpu = task.cpu();
        (*miss).deadline_ns = (*job).deadline_ns;
        let from = (&raw const (*job).story).cast::<u64>();
        let to = (&raw mut (*miss).story).cast::<u64>();
        for word in 0..size_of::<Story>() / size_of::<u64>() {
            to.add(word).write_volatile(from.add(word).read());
        }
    }
    // The next tick is soon enough.
    record.submit(BPF_RB_NO_WAKEUP.into());
}

/// How late a timer may be told to be.
#[inline(always)]
pub const fn believable(late_ns: u64) -> u64 {
    if late_ns <= LATEST_NS { late_ns } else { 0 }
}
