//! Run-queue wait: from runnable (woken or preempted) to running; and who runs where meanwhile.

use core::hint::black_box;

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use downbeat_abi::{BUCKETS, CLASS_SLOTS, Counter, Job, NO_CLASS, Thread, bucket_of};

use crate::maps::{self, BLAME_ON, WAITS, count};
use crate::occupancy::index;
use crate::task::Task;
use crate::{atomic, blame, gate, jobs, occupancy};

/// `TASK_INTERRUPTIBLE`
const INTERRUPTIBLE: u64 = 1;
/// `TASK_UNINTERRUPTIBLE`
const UNINTERRUPTIBLE: u64 = 2;

/// How a thread left its CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It would rather have stayed.
    Runnable,
    /// It sleeps, with these state bits.
    Asleep(u64),
}

/// A thread is being woken, in whatever context wakes it.
#[inline(always)]
pub fn waking(task: Task) {
    let Some(thread) = gate::thread(task.tid()) else {
        return;
    };
    let now = now();
    // SAFETY: the map's own pointer.
    unsafe {
        let runs = (*thread).run_ns != 0;
        // One that only seemed to have been woken on its way to sleep: it slept.
        let slept = !runs && (*thread).woken_ns != 0;
        let ready_ns = if slept { 0 } else { (*thread).ready_ns };
        let job = maps::job((*thread).job);
        if let Some(job) = job {
            jobs::woken(job, task, (*thread).slot, ready_ns, runs, now);
        }
        if runs {
            (*thread).woken_ns = now;
        } else if ready_ns == 0 {
            // One that waits already (preempted on its way to sleep) has waited since then.
            (*thread).woken_ns = 0;
            is_ready(thread, job, task, now, task.cpu());
        }
    }
}

/// A new thread may run.
#[inline(always)]
pub fn born(task: Task) {
    if let Some(thread) = gate::thread(task.tid()) {
        // SAFETY: the map's own pointer.
        unsafe { is_ready(thread, maps::job((*thread).job), task, now(), task.cpu()) };
    }
}

/// A thread moves to another CPU's run queue.
#[inline(always)]
pub fn migrated(task: Task, cpu: u32) {
    if let Some(thread) = gate::thread(task.tid()) {
        // SAFETY: the map's own pointer.
        unsafe { blame::moved(thread, task, now(), cpu) };
    }
}

/// A CPU went from one thread to another. `state` is what `prev` leaves it in; 0 is runnable.
#[inline(always)]
pub fn switched(prev: Task, next: Task, left: impl FnOnce() -> Left) {
    // The idle task's pid 0 is never in the gate.
    let prev_thread = gate::thread(prev.tid());
    let next_thread = gate::thread(next.tid());
    let blames = BLAME_ON.load() != 0 && maps::any_managed();
    if !blames && prev_thread.is_none() && next_thread.is_none() {
        return;
    }
    let now = now();
    if blames && let Some(cpu) = occupancy::here() {
        // SAFETY: the map's own pointer.
        let slot = next_thread.map_or(NO_CLASS, |thread| unsafe { (*thread).slot });
        occupancy::switched(cpu, now, prev, next, slot);
    }
    // SAFETY: the maps' own pointers.
    unsafe {
        if let Some(thread) = prev_thread {
            leaves(thread, prev, left(), now);
        }
        if let Some(thread) = next_thread {
            runs(thread, next, now);
        }
    }
}

/// # Safety
/// `thread` is a live value of `THREADS`.
#[inline(always)]
unsafe fn is_ready(thread: *mut Thread, job: Option<*mut Job>, task: Task, now: u64, cpu: u32) {
    // SAFETY: as the caller promises.
    unsafe {
        (*thread).ready_ns = now;
        (*thread).cpu = cpu;
        if let Some(job) = job {
            blame::begin(thread, job, task, now);
        }
    }
}

/// # Safety
/// As [`is_ready`].
#[inline(always)]
unsafe fn leaves(thread: *mut Thread, task: Task, left: Left, now: u64) {
    // SAFETY: as the caller promises; a helper without conditions.
    unsafe {
        let cpu = bpf_get_smp_processor_id();
        let Thread { run_ns, woken_ns, slot, job, .. } = *thread;
        let job = maps::job(job);
        if run_ns != 0 && run_ns < now {
            ran_in_class(slot, now - run_ns);
            blame::ran(thread, task, cpu, now - run_ns);
        }
        (*thread).run_ns = 0;
        (*thread).ready_ns = 0;
        let sleeps = match left {
            Left::Runnable => {
                is_ready(thread, job, task, now, cpu);
                (*thread).woken_ns = 0;
                None
            }
            Left::Asleep(state) => {
                // Woken since it runs: perhaps between its last look at what it waits for and this
                // switch, and then it is ready. Another wake would show that it was not.
                if woken_ns != 0 {
                    is_ready(thread, job, task, now, cpu);
                }
                Some(state)
            }
        };
        if let Some(job) = job {
            jobs::left(job, task, sleeps, now);
        }
    }
}

/// # Safety
/// As [`is_ready`].
#[inline(always)]
unsafe fn runs(thread: *mut Thread, task: Task, now: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        let Thread { ready_ns, woken_ns, slot, job, .. } = *thread;
        let job: Option<*mut Job> = maps::job(job);
        if ready_ns == 0
            && woken_ns == 0
            && let Some(job) = job
        {
            jobs::runs_unwoken(job, task, slot, now);
        }
        if ready_ns != 0 {
            // A thread may wait on one CPU's clock and run on another's.
            if now < ready_ns {
                count(Counter::DiscardedSamples);
            } else {
                waited(slot, now - ready_ns);
                if let Some(job) = job {
                    blame::settle(thread, job, task, now);
                    jobs::waited(job, now - ready_ns);
                }
            }
        }
        (*thread).ready_ns = 0;
        (*thread).run_ns = now;
        (*thread).woken_ns = 0;
        (*thread).cpu = bpf_get_smp_processor_id();
        if let Some(job) = job {
            jobs::runs(job, task, now);
        }
    }
}

/// Counts a wait of a class.
#[inline(always)]
fn waited(slot: u32, wait_ns: u64) {
    let Some(waits) = WAITS.get_ptr_mut(slot) else {
        return;
    };
    // LLVM knows that the index is in range and would drop the mask by which the verifier
    // learns it.
    let bucket = black_box(bucket_of(wait_ns)) & (BUCKETS - 1);
    // SAFETY: the maps' own pointers, and the indexes are in range.
    unsafe {
        atomic::add((&raw mut (*waits).buckets).cast::<u64>().add(bucket), 1);
        if let Some(cpu) = occupancy::here() {
            let sums = (&raw mut (*cpu).class_waited_ns).cast::<u64>();
            *sums.add(index(slot.into(), CLASS_SLOTS as usize)) += wait_ns;
        }
    }
}

/// Counts CPU time of a class on this CPU.
#[inline(always)]
fn ran_in_class(slot: u32, ns: u64) {
    if slot >= CLASS_SLOTS {
        return;
    }
    if let Some(cpu) = occupancy::here() {
        // SAFETY: the map's own pointer, and the index is in range.
        unsafe {
            let sums = (&raw mut (*cpu).class_ran_ns).cast::<u64>();
            *sums.add(index(slot.into(), CLASS_SLOTS as usize)) += ns;
        }
    }
}

/// Whether the state bits are those of a sleep that its event or a signal ends.
#[inline(always)]
pub const fn is_interruptible(state: u64) -> bool {
    state & INTERRUPTIBLE != 0
}

/// Whether the state bits are those of a sleep that nothing but its event ends.
#[inline(always)]
pub const fn is_uninterruptible(state: u64) -> bool {
    state & UNINTERRUPTIBLE != 0
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without conditions.
    unsafe { bpf_ktime_get_ns() }
}
