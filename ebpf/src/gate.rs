//! The gate: one bit per pid, so that a thread nobody asked about costs a load and a test.

use downbeat_abi::{GATE_WORD_BITS, NO_JOB, Thread};

use crate::atomic;
use crate::maps::{GATE, THREADS};

/// Whether the thread may be managed. A pid beyond the bitmap (`pid_max` was raised after the
/// programs were loaded) passes, and the thread map decides.
#[inline(always)]
pub fn passes(tid: u32) -> bool {
    match GATE.get_ptr(tid / GATE_WORD_BITS) {
        // SAFETY: the map's own pointer; volatile, since other CPUs write it.
        Some(word) => (unsafe { word.read_volatile() } & bit(tid)) != 0,
        None => true,
    }
}

/// What is kept of a managed thread.
#[inline(always)]
pub fn thread(tid: u32) -> Option<*mut Thread> {
    if passes(tid) { THREADS.get_ptr_mut(tid) } else { None }
}

/// Manages a thread; `false` where the thread map is full.
#[inline(always)]
pub fn admit(tid: u32, slot: u32) -> bool {
    if THREADS.insert(tid, Thread::new(slot, NO_JOB), 0).is_err() {
        return false;
    }
    if let Some(word) = GATE.get_ptr_mut(tid / GATE_WORD_BITS) {
        // SAFETY: the map's own pointer, 8-byte aligned.
        unsafe { atomic::or(word, bit(tid)) };
    }
    true
}

/// Forgets a thread.
#[inline(always)]
pub fn forget(tid: u32) {
    if let Some(word) = GATE.get_ptr_mut(tid / GATE_WORD_BITS) {
        // SAFETY: the map's own pointer, 8-byte aligned.
        unsafe { atomic::and(word, !bit(tid)) };
    }
    // An entry that is not there any more is as good as one removed.
    let _ = THREADS.remove(tid);
}

#[inline(always)]
const fn bit(tid: u32) -> u64 {
    1 << (tid % GATE_WORD_BITS)
}
