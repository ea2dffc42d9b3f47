//! The gate: one bit per pid, so that a thread nobody asked about costs a load and a test; and behind
//! it the records of those that pass, in a hash table of our own. A look-up touches one cache line of
//! each: the kernel's own hash map touches three more, and that was a third of what a switch cost.
//!
//! Before the gate, for a thread that is not on a CPU, are the marks: one bit by where the kernel has its
//! `task_struct`. Its pid there is in a line of memory that a wake needs for nothing else, and to wait
//! for that line was most of what the wake of an unmanaged thread cost. A thread is marked when a managed
//! one makes it, when it first leaves the CPU on which the agent found it, and when it has a CPU although
//! nobody was seen to wake it: of one that the agent put in while it slept, one wake is not seen. Marks
//! stay, since others may have the same. One too many costs a look at the gate; they become as many as
//! the kernel had places for managed threads so far.

use core::ptr::NonNull;

use aya_ebpf::maps::Array;
use downbeat_abi::{GATE_WORD_BITS, NO_JOB, THREAD_PLACES, Thread, thread_home, thread_refuge};

use crate::atomic;
use crate::maps::{GATE, LAST_THREAD, MARK_BITS, MARKS, THREAD_SHIFT, THREADS};
use crate::task::Task;

/// 1 where the thread may be managed, else 0. A pid beyond the bitmap (`pid_max` was raised after the
/// programs were loaded) passes, and its record decides.
#[inline(always)]
pub fn passes(tid: u32) -> u64 {
    bit(&GATE, tid)
}

/// Whether the thread may be managed, as far as its mark tells.
#[inline(always)]
pub fn is_marked(task: Task) -> bool {
    bit(&MARKS, task.mark(MARK_BITS)) != 0
}

/// Marks a managed thread.
#[inline(always)]
pub fn mark(task: Task) {
    set(&MARKS, task.mark(MARK_BITS));
}

/// What is kept of a managed thread. Not an `Option` of a plain pointer: LLVM would leave its inside
/// undefined where there is none, and the verifier refuses to have that put on the stack.
#[inline(always)]
pub fn thread(tid: u32) -> Option<NonNull<Thread>> {
    if passes(tid) != 0 { find(tid) } else { None }
}

/// The same for one that passes the gate, as was asked already, or for nobody, whose id is 0.
#[inline(always)]
pub fn kept(tid: u32) -> Option<NonNull<Thread>> {
    if tid != 0 { find(tid) } else { None }
}

#[inline(always)]
fn find(tid: u32) -> Option<NonNull<Thread>> {
    let home = NonNull::new(record(tid, 0)?)?;
    if owner(home.as_ptr()) as u32 == tid {
        return Some(home);
    }
    let place = place_of(tid);
    if place < THREAD_PLACES { NonNull::new(record(tid, place)?) } else { None }
}

/// Manages a thread; `false` where there is no free record for it.
#[inline(always)]
pub fn admit(tid: u32, slot: u32) -> bool {
    let place = claim(tid);
    if place >= THREAD_PLACES {
        return false;
    }
    let Some(thread) = record(tid, place) else { return false };
    // SAFETY: the map's own pointer, which is this thread's since `claim`.
    unsafe { thread.write(Thread::new(tid, slot, NO_JOB)) };
    set(&GATE, tid);
    true
}

/// Forgets a thread.
#[inline(never)]
pub fn forget(tid: u32) {
    if let Some(word) = GATE.get_ptr_mut(tid / GATE_WORD_BITS) {
        // SAFETY: the map's own pointer, 8-byte aligned.
        unsafe { atomic::and(word, !mask(tid)) };
    }
    for place in 0..THREAD_PLACES {
        let Some(thread) = record(tid, place) else { return };
        let owner = owner(thread);
        if owner as u32 == tid {
            // SAFETY: the map's own pointer, 8-byte aligned.
            unsafe { atomic::swap_if(thread.cast(), owner, 0) };
        }
    }
}

/// At which of its places a thread's record is; [`THREAD_PLACES`] where at none.
#[inline(never)]
fn place_of(tid: u32) -> u32 {
    for place in 1..THREAD_PLACES {
        let Some(thread) = record(tid, place) else { break };
        if owner(thread) as u32 == tid {
            return place;
        }
    }
    THREAD_PLACES
}

/// Takes the first of a thread's places that is free; [`THREAD_PLACES`] where none is.
#[inline(never)]
fn claim(tid: u32) -> u32 {
    for place in 0..THREAD_PLACES {
        let Some(thread) = record(tid, place) else { break };
        // SAFETY: the map's own pointer, 8-byte aligned.
        if unsafe { atomic::swap_if(thread.cast(), 0, tid.into()) } == 0 {
            return place;
        }
    }
    THREAD_PLACES
}

/// A record by a thread's place.
#[inline(always)]
fn record(tid: u32, place: u32) -> Option<*mut Thread> {
    let number = if place == 0 {
        thread_home(tid, LAST_THREAD.load())
    } else {
        thread_refuge(tid, place, THREAD_SHIFT.load())
    };
    THREADS.get_ptr_mut(number)
}

/// The record's first word: its thread, and above it the process.
#[inline(always)]
fn owner(thread: *const Thread) -> u64 {
    // SAFETY: the map's own pointer; volatile, since other CPUs write it.
    unsafe { thread.cast::<u64>().read_volatile() }
}

/// A bit of a bitmap, 0 or 1; 1 beyond its end.
#[inline(always)]
fn bit(bitmap: &Array<u64>, number: u32) -> u64 {
    match bitmap.get_ptr(number / GATE_WORD_BITS) {
        // SAFETY: the map's own pointer; volatile, since other CPUs write it.
        Some(word) => (unsafe { word.read_volatile() } >> (number % GATE_WORD_BITS)) & 1,
        None => 1,
    }
}

#[inline(always)]
fn set(bitmap: &Array<u64>, number: u32) {
    if let Some(word) = bitmap.get_ptr_mut(number / GATE_WORD_BITS) {
        // SAFETY: the map's own pointer, 8-byte aligned.
        unsafe { atomic::or(word, mask(number)) };
    }
}

#[inline(always)]
const fn mask(number: u32) -> u64 {
    1 << (number % GATE_WORD_BITS)
}
