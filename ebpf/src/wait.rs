//! Run-queue wait: from runnable (woken or preempted) to running.

use core::hint::black_box;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::BtfTracePointContext;
use downbeat_abi::{BUCKETS, Counter, Thread, bucket_of};

use crate::atomic;
use crate::gate;
use crate::maps::{SWITCH_HAS_STATE, WAITS, count};
use crate::task::Task;

/// A thread became runnable.
#[inline(always)]
pub fn woken(task: Task) {
    let Some(thread) = gate::thread(task.tid()) else {
        return;
    };
    // SAFETY: the map's own pointer.
    unsafe {
        // A thread that waits already (preempted on its way to sleep, then woken) has waited
        // since then. One that is woken while it runs gets a time here that its next
        // `switched` overwrites before it could count.
        if (*thread).ready_ns == 0 {
            (*thread).ready_ns = bpf_ktime_get_ns();
        }
    }
}

/// A CPU went from one thread to another.
#[inline(always)]
pub fn switched(ctx: &BtfTracePointContext, prev: Task, next: Task) {
    // The idle task's pid 0 is never in the gate.
    let prev_thread = gate::thread(prev.tid());
    let next_thread = gate::thread(next.tid());
    if let Some(thread) = prev_thread {
        let ready_ns = if is_still_runnable(ctx, prev) { unsafe { bpf_ktime_get_ns() } } else { 0 };
        // SAFETY: the map's own pointer.
        unsafe { (*thread).ready_ns = ready_ns };
    }
    if let Some(thread) = next_thread {
        // SAFETY: the map's own pointer, which the verifier has proved to be one.
        unsafe { runs(thread) };
    }
}

/// Whether the thread that leaves the CPU would rather stay.
#[inline(always)]
fn is_still_runnable(ctx: &BtfTracePointContext, prev: Task) -> bool {
    let preempted: u64 = ctx.arg(0);
    if preempted & 0xff != 0 {
        return true;
    }
    // The verifier knows the global's value and drops the branch that the kernel lacks.
    let state = if SWITCH_HAS_STATE.load() != 0 { ctx.arg(3) } else { prev.state() };
    state == 0
}

/// Counts the wait of a thread that now runs.
///
/// # Safety
/// `thread` is a live value of `THREADS`.
#[inline(always)]
unsafe fn runs(thread: *mut Thread) {
    // SAFETY: as the caller promises.
    let Thread { ready_ns, slot, .. } = unsafe { *thread };
    if ready_ns == 0 {
        return;
    }
    // SAFETY: as above.
    unsafe { (*thread).ready_ns = 0 };
    let Some(waits) = WAITS.get_ptr_mut(slot) else {
        return;
    };
    // SAFETY: a helper without conditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // A thread may wait on one CPU's clock and run on another's.
    if now < ready_ns {
        count(Counter::DiscardedSamples);
        return;
    }
    let wait_ns = now - ready_ns;
    // LLVM knows that the index is in range and would drop the mask by which the verifier
    // learns it.
    let bucket = black_box(bucket_of(wait_ns)) & (BUCKETS - 1);
    // SAFETY: the map's own pointer, and the index is in range.
    unsafe {
        atomic::add((&raw mut (*waits).buckets).cast::<u64>().add(bucket), 1);
        atomic::add(&raw mut (*waits).sum_ns, wait_ns);
    }
}
