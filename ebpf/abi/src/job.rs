//! Jobs: what a thread does from its release until it sleeps and waits for the next one.

use bytemuck::{Pod, Zeroable};

use crate::{Culprit, PLACES};

/// Threads whose jobs can be followed at the same time, by default; fewer than [`NO_JOB`].
pub const JOBS: u32 = 2_048;

/// `Thread::job` of a thread whose jobs are not followed.
pub const NO_JOB: u32 = u16::MAX as u32;

/// The first bucket of [`bucket_of`]'s scale that jobs use: what is shorter than 1.024 µs counts
/// as that.
pub const JOB_FIRST_BUCKET: usize = 64;

/// Buckets of a job's histograms: `crate::bucket_of(ns) - JOB_FIRST_BUCKET`, at least 0.
pub const JOB_BUCKETS: usize = crate::BUCKETS - JOB_FIRST_BUCKET;

/// Release times kept of each thread: a power of two.
pub const RELEASES: usize = 64;

/// Waits kept of one job: a power of two.
pub const JOB_WAITS: usize = 4;

/// Culprits kept of one job.
pub const JOB_CULPRITS: usize = 4;

/// What released a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ReleaseKind {
    /// A timer expired.
    Timer = 0,
    /// Woken in a hard or soft interrupt.
    Interrupt = 1,
    /// Woken by a thread of another process.
    Wake = 2,
}

/// Kinds of release.
pub const RELEASE_KINDS: usize = 3;

/// Why a thread sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SleepKind {
    /// It does not, as far as is known.
    Awake = 0,
    /// Interruptible: it may wait for its next release, or for something within its job.
    Waiting = 1,
    /// Uninterruptible, with a disk's work outstanding.
    Io = 2,
    /// Uninterruptible for another reason, stopped, or traced.
    Blocked = 3,
}

/// The story of one job, up to now or whole. Times are `CLOCK_MONOTONIC` nanoseconds, spans
/// nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Story {
    /// When it was released; 0 where none is under way.
    pub release_ns: u64,
    /// When it first ran; 0 before.
    pub started_ns: u64,
    /// From the moment its timer should have expired to the wake-up.
    pub late_ns: u64,
    /// Ready and not running.
    pub wait_ns: u64,
    /// On a CPU, by the clock on the wall.
    pub run_ns: u64,
    /// CPU time as the kernel charges it, without what a hypervisor stole.
    pub cost_ns: u64,
    /// Asleep for a disk.
    pub io_ns: u64,
    /// Asleep for a page that had to be read.
    pub fault_ns: u64,
    /// Major faults.
    pub faults: u64,
    /// Reclaiming memory.
    pub reclaim_ns: u64,
    /// Asleep for anything else.
    pub sleep_ns: u64,
    /// Waited for culprits that `culprits` had no place for.
    pub other_ns: u64,
    /// How many of `culprits` are taken; the rest says nothing.
    pub culprit_count: u64,
    /// Who ran while it waited, in no order.
    pub culprits: [Culprit; JOB_CULPRITS],
}

/// The words of a story that a job without stalls and misses fills.
pub const CALM_WORDS: usize = 6;

/// A wait within a job: who had the CPU meanwhile is in that CPU's [`crate::Cpu::slices`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct JobWait {
    /// Nanoseconds.
    pub ns: u64,
    /// Number of the CPU.
    pub cpu: u32,
    /// Its first slice.
    pub from: u32,
    /// The first slice after it.
    pub to: u32,
    /// What of the first slice was before it, nanoseconds.
    pub skip_ns: u32,
}

/// What is known of one thread's jobs: value of the array `JOBS`, whose index is
/// [`crate::Thread::job`]. What each job touches comes first, in three cache lines and one of each
/// histogram. The agent writes `deadline_ns`, and all of it before the index is in
/// use; the kernel programs write the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Job {
    /// A job that takes longer is a miss; 0 for none.
    pub deadline_ns: u64,
    /// Since when the thread sleeps; 0 while it does not.
    pub slept_ns: u64,
    /// From when on running counts for the job under way; 0 while the thread does not run.
    pub run_since_ns: u64,
    /// `sum_exec_runtime` at that moment.
    pub exec_mark_ns: u64,
    /// The last release; 0 before the first.
    pub last_release_ns: u64,
    /// Releases since the start; the next goes to `releases[count % RELEASES]`.
    pub release_count: u64,
    /// Waits kept of the job under way, and those that were not.
    pub wait_count: u64,
    /// A [`SleepKind`].
    pub sleep: u8,
    /// A [`ReleaseKind`]: of the job under way.
    pub release: u8,
    /// 1 where the story of the job under way has anything after its first [`CALM_WORDS`] words, or
    /// will have.
    pub stalled: u8,
    /// Always 0.
    pub padding: [u8; 5],
    /// Jobs completed.
    pub jobs: u64,
    /// Sums of what the histograms count, nanoseconds.
    pub response_sum_ns: u64,
    /// As above.
    pub cost_sum_ns: u64,
    /// As above.
    pub interval_sum_ns: u64,
    /// Releases by [`ReleaseKind`].
    pub released: [u64; RELEASE_KINDS],
    /// Jobs that were later than the deadline.
    pub missed: u64,
    /// The job under way.
    pub story: Story,
    /// Slept for a disk since it was last known whether for a page.
    pub pending_io_ns: u64,
    /// Since when the thread reclaims memory; 0 while it does not.
    pub reclaim_since_ns: u64,
    /// `maj_flt` before the last sleep for a disk.
    pub fault_mark: u64,
    /// Of the jobs that were too late, those that would have been in time had they started at once.
    pub late_starts: u64,
    /// The longest waits of the job under way.
    pub waits: [JobWait; JOB_WAITS],
    /// While a miss is told: how long each place had the CPU in those waits, nanoseconds.
    pub had_ns: [u64; PLACES],
    /// … places that are not dealt with yet, as bits.
    pub places_left: u64,
    /// … what is left of [`JobWait::skip_ns`].
    pub skip_left_ns: u64,
    /// … what of the wait is told, nanoseconds.
    pub told_ns: u64,
    /// Always 0: what follows begins with a cache line.
    pub more_padding: [u64; 3],
    /// The latest release times.
    pub releases: [u64; RELEASES],
    /// Release to completion.
    pub response: [u32; JOB_BUCKETS],
    /// CPU time.
    pub cost: [u32; JOB_BUCKETS],
    /// From release to release.
    pub interval: [u32; JOB_BUCKETS],
}

/// A deadline missed: record of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Miss {
    /// When the job was completed.
    pub time_ns: u64,
    /// [`crate::EventKind::Miss`].
    pub kind: u32,
    /// Thread.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Its class slot, or [`crate::NO_CLASS`].
    pub slot: u32,
    /// A [`ReleaseKind`].
    pub release: u32,
    /// The CPU on which it ran last.
    pub cpu: u32,
    /// The deadline that it missed.
    pub deadline_ns: u64,
    /// The job.
    pub story: Story,
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Story>() == 104 + 32 * JOB_CULPRITS);
    assert!(offset_of!(Story, culprits) == 104);
    assert!(offset_of!(Story, io_ns) == CALM_WORDS * size_of::<u64>());
    // What each job touches begins with cache lines of 64 bytes.
    assert!(offset_of!(Job, jobs) == 64);
    assert!(offset_of!(Job, story) == 128);
    assert!(offset_of!(Job, releases) == 832);
    assert!(offset_of!(Job, response) == 832 + 8 * RELEASES);
    assert!(size_of::<Job>() == 832 + 8 * RELEASES + 12 * JOB_BUCKETS);
    assert!(size_of::<Job>().is_multiple_of(64));
    assert!(JOB_WAITS.is_power_of_two());
    assert!(crate::PLACE_MASK + 1 - PLACES <= RELEASES);
    assert!(size_of::<Miss>() == 272);
    assert!(offset_of!(Miss, story) == 40);
    assert!(RELEASES.is_power_of_two());
    assert!(JOB_BUCKETS == 192);
};
