//! Layouts shared by downbeat's kernel programs and its agent.
//!
//! Everything that crosses a BPF map or the ring buffer is declared here once: `repr(C)`, padding
//! spelled out, sizes and offsets asserted at compile time. `bytemuck` refuses to compile a type
//! with hidden padding, so no byte of kernel stack can leak through one.
#![no_std]

mod buckets;
mod event;

pub use buckets::{BUCKETS, bucket_of, upper_bound};
pub use event::{COMM_LEN, Event, EventKind};

use bytemuck::{Pod, Zeroable};

/// Classes that can have a histogram at the same time; slots are `0..CLASS_SLOTS`.
pub const CLASS_SLOTS: u32 = 64;

/// The slot of a thread that is watched (its events come through the ring) without a class: its
/// waits are not counted.
pub const NO_CLASS: u32 = u32::MAX;

/// Pids that one word of the gate holds.
pub const GATE_WORD_BITS: u32 = u64::BITS;

/// Bytes of one record in the ring beside the event itself (the kernel's record header).
pub const RING_HEADER: usize = 8;

/// What the kernel keeps of one managed thread: value of the map `THREADS`, whose key is the
/// thread id as `u32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Thread {
    /// When the thread became runnable without running yet, `CLOCK_MONOTONIC` nanoseconds; 0
    /// while it runs, sleeps, or nothing is known of it.
    pub ready_ns: u64,
    /// Class slot, or [`NO_CLASS`].
    pub slot: u32,
    /// Always 0.
    pub padding: u32,
}

impl Thread {
    /// A thread of class `slot` of which nothing is known yet.
    #[must_use]
    #[inline]
    pub const fn new(slot: u32) -> Self {
        Self { ready_ns: 0, slot, padding: 0 }
    }
}

/// Run-queue waits of one class: value of the map `WAITS`, whose key is the class slot. The
/// kernel only ever adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Waits {
    /// Waits by length; see [`bucket_of`].
    pub buckets: [u64; BUCKETS],
    /// Sum of all waits, nanoseconds.
    pub sum_ns: u64,
}

/// What the kernel programs lost: keys of the map `COUNTERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Events that found the ring full.
    DroppedEvents = 0,
    /// New threads of managed threads that found the map `THREADS` full.
    DroppedThreads = 1,
    /// Waits thrown away because the clock had run backwards.
    DiscardedSamples = 2,
}

/// Entries of the map `COUNTERS`.
pub const COUNTERS: u32 = 3;

/// Names of the maps, as in the object.
pub mod map {
    /// Bitmap of managed pids: `u64` words by pid / 64.
    pub const GATE: &str = "GATE";
    /// [`crate::Thread`] by thread id.
    pub const THREADS: &str = "THREADS";
    /// [`crate::Waits`] by class slot.
    pub const WAITS: &str = "WAITS";
    /// `u64` by [`crate::Counter`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring of [`crate::Event`].
    pub const EVENTS: &str = "EVENTS";
}

/// Names of the read-only globals (all `u32`) that the loader fills before the verifier runs.
pub mod global {
    /// Offset of `task_struct.pid`.
    pub const TASK_PID: &str = "TASK_PID";
    /// Offset of `task_struct.tgid`.
    pub const TASK_TGID: &str = "TASK_TGID";
    /// Offset of `task_struct.real_parent`.
    pub const TASK_REAL_PARENT: &str = "TASK_REAL_PARENT";
    /// Offset of `task_struct.__state` (`state` before 5.14); unused where [`SWITCH_HAS_STATE`].
    pub const TASK_STATE: &str = "TASK_STATE";
    /// 1 where `sched_switch` hands over the previous state as its 4th argument (kernel 5.18).
    pub const SWITCH_HAS_STATE: &str = "SWITCH_HAS_STATE";
    /// Bytes of unread events from which on an event that could wait wakes the reader.
    pub const RING_WAKE_BYTES: &str = "RING_WAKE_BYTES";
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Thread>() == 16);
    assert!(offset_of!(Thread, ready_ns) == 0);
    assert!(offset_of!(Thread, slot) == 8);
    assert!(size_of::<Waits>() == 2056);
    assert!(offset_of!(Waits, sum_ns) == 2048);
    assert!(CLASS_SLOTS.is_power_of_two());
    assert!(Counter::DiscardedSamples as u32 + 1 == COUNTERS);
};
