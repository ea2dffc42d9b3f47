//! Layouts shared by downbeat's kernel programs and its agent.
//!
//! Everything that crosses a BPF map or the ring buffer is declared here once: `repr(C)`, padding
//! spelled out, sizes and offsets asserted at compile time. `bytemuck` refuses to compile a type
//! with hidden padding, so no byte of kernel stack can leak through one.
#![no_std]

mod blame;
mod buckets;
mod event;
mod job;
mod lineage;

pub use blame::{
    ClassTimes, Cpu, Culprit, CulpritKind, HASHED, KEEP_NS, Label, ONE_WAITING, OWN_PLACES,
    PLACE_MASK, PLACES, SLICES, VICTIMS, credit_in, own_place, place, row_bit, waiting_in,
};
pub use buckets::{BUCKETS, bucket_by_steps, bucket_of, upper_bound};
pub use event::{COMM_LEN, Event, EventKind};
pub use job::{
    CALM_WORDS, JOB_BUCKETS, JOB_CULPRITS, JOB_FIRST_BUCKET, JOB_WAITS, JOBS, Job, JobWait, Miss,
    NO_JOB, RELEASE_KINDS, RELEASES, ReleaseKind, SleepKind, Story,
};
pub use lineage::{LINEAGE_PROCESSES, Origin};

use bytemuck::{Pod, Zeroable};

/// Classes that can have a histogram at the same time; slots are `0..CLASS_SLOTS`.
pub const CLASS_SLOTS: u32 = 64;

/// The slot of a thread that is watched (its events come through the ring) without a class: its
/// waits are not counted.
pub const NO_CLASS: u32 = u16::MAX as u32;

/// Pids that one word of the gate holds.
pub const GATE_WORD_BITS: u32 = u64::BITS;

/// Bytes of one record in the ring beside the event itself (the kernel's record header).
pub const RING_HEADER: usize = 8;

/// Places of the map `THREADS` that a thread id may have; see [`thread_home`] and [`thread_refuge`].
pub const THREAD_PLACES: u32 = 16;

/// Where the record of a thread is looked for first, in a map whose last record has the number
/// `last`, one less than a power of two. Ids that follow each other, as those of one program's
/// threads do, are beside each other: 64 are in one page. Were each in a page of its own, as a hash
/// would have them, a switch would wait for the translation of two addresses, 50 ns of it or more on
/// a virtual machine.
#[must_use]
#[inline(always)]
pub const fn thread_home(tid: u32, last: u32) -> u32 {
    tid & last
}

/// Where it is looked for then, the `n`-th time (1 to [`THREAD_PLACES`] - 1), in a map of
/// `1 << (32 - shift)` records, `shift` being 32 at most. From 1,024 records on these are far apart for
/// each id, and for ids that follow each other: a home that is taken is often among others that are.
#[must_use]
#[inline(always)]
pub const fn thread_refuge(tid: u32, n: u32, shift: u32) -> u32 {
    // Process ids end below 1 << 22.
    ((tid.wrapping_add(n << 22).wrapping_mul(0x9e37_79b9) as u64) >> shift) as u32
}

/// What the kernel keeps of one managed thread: value of the array `THREADS`, which is a hash table
/// of our own: a thread's record is in one of its [`THREAD_PLACES`]. Whoever changes `tid` from 0, by
/// comparing and swapping the first word, has the record. One cache line. Times are `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Thread {
    /// Whose record it is; 0 where nobody has it.
    pub tid: u32,
    /// Its process, where that had more than one thread when it last ran; else 0.
    pub process: u32,
    /// When the thread became runnable without running yet; 0 while it runs, sleeps, or nothing
    /// is known of it.
    pub ready_ns: u64,
    /// Since when it waits on its present CPU; 0 where it is not counted there.
    pub blame_ns: u64,
    /// Since when it runs; 0 while it does not, or before its first switch.
    pub run_ns: u64,
    /// When it was woken last; 0 again when it gets a CPU.
    pub woken_ns: u64,
    /// How late its timer was then.
    pub late_ns: u32,
    /// [`Cpu::slice_count`] when its wait began.
    pub slice: u32,
    /// What the occupant then had had of the CPU while others waited, nanoseconds.
    pub skip_ns: u32,
    /// Class slot, or [`NO_CLASS`]. The agent may change it at any time.
    pub slot: u16,
    /// Where its jobs are kept in `JOBS`, or [`NO_JOB`]. The agent may change it at any time.
    pub job: u16,
    /// The CPU on whose run queue it is, or on which it runs.
    pub cpu: u16,
    /// [`Cpu::generation`] when its wait began, as far as 16 bits tell.
    pub generation: u16,
    /// The row in which it is counted there while `blame_ns` is set.
    pub row: u8,
    /// A [`WakeKind`]: what woke it, as long as its jobs have not been told.
    pub wake: u8,
    /// 1 where it was woken between its last look at what it waits for and its sleep: it is ready,
    /// unless another wake shows that it slept.
    pub unsure: u8,
    /// A [`Siblings`].
    pub siblings: u8,
}

/// Whether a thread's process has other threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Siblings {
    /// Nobody has looked yet.
    Unknown = 0,
    /// It is alone.
    None = 1,
    /// It has, or had since its start.
    Some = 2,
}

/// What woke a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum WakeKind {
    /// Nothing that its jobs have not been told of.
    None = 0,
    /// As [`ReleaseKind::Timer`].
    Timer = 1,
    /// As [`ReleaseKind::Interrupt`].
    Interrupt = 2,
    /// As [`ReleaseKind::Wake`].
    Wake = 3,
    /// Its own process, which only helps it on.
    Inside = 4,
}

impl Thread {
    /// A thread of class `slot` of which nothing is known yet, and whose jobs are kept at `job`.
    #[must_use]
    #[inline]
    pub const fn new(tid: u32, slot: u32, job: u32) -> Self {
        Self {
            tid,
            process: 0,
            ready_ns: 0,
            blame_ns: 0,
            run_ns: 0,
            woken_ns: 0,
            late_ns: 0,
            slice: 0,
            skip_ns: 0,
            slot: slot as u16,
            job: job as u16,
            cpu: 0,
            generation: 0,
            row: 0,
            wake: WakeKind::None as u8,
            unsure: 0,
            siblings: Siblings::Unknown as u8,
        }
    }
}

/// The most parts of the waits of a class; see [`wait_parts`].
pub const MAX_WAIT_PARTS: u32 = 8;

/// Parts of the waits of a class on a host with so many CPUs, a power of two: each CPU counts in the
/// part of its number, modulo this. As long as each has its own, it needs no locked instruction.
#[must_use]
pub const fn wait_parts(cpus: u32) -> u32 {
    if cpus < MAX_WAIT_PARTS { cpus.next_power_of_two() } else { MAX_WAIT_PARTS }
}

/// Run-queue waits of one class, in part: value of the map `WAITS`, whose key is the class slot
/// times [`wait_parts`], plus the part. The kernel only ever adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Waits {
    /// Waits by length; see [`bucket_of`]. Their sum is in [`ClassTimes::waited_ns`].
    pub buckets: [u64; BUCKETS],
}

/// What the kernel programs lost: keys of the map `COUNTERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Events that found the ring full.
    DroppedEvents = 0,
    /// New threads of managed threads that found the map `THREADS` full.
    DroppedThreads = 1,
    /// Times thrown away because the clock had run backwards.
    DiscardedSamples = 2,
    /// Times that a culprit found no place; what it ran then counts as unknown.
    DroppedBlame = 3,
    /// Misses that found the ring full.
    DroppedMisses = 4,
    /// Threads that slept and ran again without a wake-up that was seen.
    UnseenWakes = 5,
    /// Processes made by one of the map `LINEAGE` that found it full.
    DroppedChildren = 6,
}

/// Entries of the map `COUNTERS`.
pub const COUNTERS: u32 = 7;

/// Names of the maps, as in the object.
pub mod map {
    /// Bitmap of managed pids: `u64` words by pid / 64.
    pub const GATE: &str = "GATE";
    /// [`crate::Thread`]; where is told there.
    pub const THREADS: &str = "THREADS";
    /// [`crate::Waits`] by class slot and part.
    pub const WAITS: &str = "WAITS";
    /// `u64` by [`crate::Counter`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring of [`crate::Event`] and [`crate::Miss`].
    pub const EVENTS: &str = "EVENTS";
    /// [`crate::Job`] by [`crate::Thread::job`].
    pub const JOBS: &str = "JOBS";
    /// [`crate::Cpu`] by number.
    pub const CPUS: &str = "CPUS";
    /// [`crate::Origin`] by process.
    pub const LINEAGE: &str = "LINEAGE";
}

/// Names of the read-only globals (all `u32`) that the loader fills before the verifier runs.
///
/// An offset of 0 says that this kernel has no such field, and what needs it is left out.
pub mod global {
    /// 1 to find out whom managed threads wait for.
    pub const BLAME_ON: &str = "BLAME_ON";
    /// 1 to follow jobs.
    pub const JOBS_ON: &str = "JOBS_ON";
    /// log2 of the records in `THREADS`, off 32.
    pub const THREAD_SHIFT: &str = "THREAD_SHIFT";
    /// The number of its last record.
    pub const LAST_THREAD: &str = "LAST_THREAD";
    /// The number of the last of [`crate::wait_parts`].
    pub const LAST_WAIT_PART: &str = "LAST_WAIT_PART";
    /// 1 where several CPUs count in one part.
    pub const WAIT_PARTS_SHARED: &str = "WAIT_PARTS_SHARED";
    /// Offset of `task_struct.signal`.
    pub const TASK_SIGNAL: &str = "TASK_SIGNAL";
    /// Offset of `signal_struct.nr_threads`.
    pub const SIGNAL_THREADS: &str = "SIGNAL_THREADS";
    /// Offset of `signal_struct.live`.
    pub const SIGNAL_LIVE: &str = "SIGNAL_LIVE";
    /// Offset of `task_struct.comm`.
    pub const TASK_COMM: &str = "TASK_COMM";
    /// Offset of `task_struct.flags`.
    pub const TASK_FLAGS: &str = "TASK_FLAGS";
    /// Offset of `task_struct.group_leader`.
    pub const TASK_GROUP_LEADER: &str = "TASK_GROUP_LEADER";
    /// Offset of the CPU's number: `task_struct.thread_info.cpu`, or `task_struct.cpu`.
    pub const TASK_CPU: &str = "TASK_CPU";
    /// Offset of `task_struct.se.sum_exec_runtime`.
    pub const TASK_EXEC: &str = "TASK_EXEC";
    /// Offset of `task_struct.maj_flt`.
    pub const TASK_MAJ_FLT: &str = "TASK_MAJ_FLT";
    /// Offset of the 8-bit word that holds `task_struct.in_iowait`.
    pub const TASK_IN_IOWAIT: &str = "TASK_IN_IOWAIT";
    /// The bit within it.
    pub const IN_IOWAIT_MASK: &str = "IN_IOWAIT_MASK";
    /// Offset of `hrtimer._softexpires`.
    pub const TIMER_EXPIRES: &str = "TIMER_EXPIRES";
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
    assert!(size_of::<Thread>() == 64);
    assert!(offset_of!(Thread, tid) == 0);
    assert!(offset_of!(Thread, ready_ns) == 8);
    assert!(offset_of!(Thread, slot) == 52);
    assert!(offset_of!(Thread, job) == 54);
    assert!(VICTIMS <= 1 << u8::BITS);
    assert!(size_of::<Waits>() == 2048);
    assert!(CLASS_SLOTS.is_power_of_two());
    assert!(Counter::DroppedChildren as u32 + 1 == COUNTERS);
};
