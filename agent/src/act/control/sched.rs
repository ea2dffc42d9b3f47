//! The system calls on one thread.

use std::io;

use nix::errno::Errno;

use crate::act::value::Sched;

// linux/sched.h; the libc crate does not have them for every target.
const KEEP_ALL: u64 = 0x08 | 0x10;
const UTIL_CLAMP_MIN: u64 = 0x20;
const UTIL_CLAMP_MAX: u64 = 0x40;

/// The whole of the largest CPU, the scale of the clamps.
const CAPACITY: u32 = 1024;

/// The kernel's `sched_attr` in its second version (kernel 5.3): libc's lacks the clamps.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Attributes {
    size: u32,
    pub(super) sched_policy: u32,
    pub(super) sched_flags: u64,
    pub(super) sched_nice: i32,
    pub(super) sched_priority: u32,
    pub(super) sched_runtime: u64,
    pub(super) sched_deadline: u64,
    pub(super) sched_period: u64,
    pub(super) sched_util_min: u32,
    pub(super) sched_util_max: u32,
}

const SIZE: u32 = 56;
const _: () = assert!(size_of::<Attributes>() == SIZE as usize);

/// What the scheduler knows of a thread; 0 is the calling one.
pub(super) fn sched_getattr(tid: u32) -> io::Result<Attributes> {
    let mut attr = Attributes::default();
    // SAFETY: the kernel writes at most `SIZE` bytes to `attr`, which lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attr, SIZE, 0) };
    check(result).map(|_| attr)
}

/// Sets policy, priority, nice value, slice and reservation.
///
/// # Errors
/// As sched_setattr(2).
pub fn sched_setattr(tid: u32, sched: &Sched) -> io::Result<()> {
    // Only what the policy uses may be given: the kernel refuses a priority for OTHER.
    let fair = matches!(sched.policy.cast_signed(), libc::SCHED_OTHER | libc::SCHED_BATCH);
    let deadline = sched.policy.cast_signed() == libc::SCHED_DEADLINE;
    set(
        tid,
        Attributes {
            sched_policy: sched.policy,
            sched_flags: sched.flags,
            sched_nice: sched.nice,
            sched_priority: sched.priority,
            sched_runtime: if fair || deadline { sched.runtime } else { 0 },
            sched_deadline: if deadline { sched.deadline } else { 0 },
            sched_period: if deadline { sched.period } else { 0 },
            ..Attributes::default()
        },
    )
}

/// Sets one clamp and leaves everything else. What is the default becomes "nobody chose" again
/// (kernel 5.11), so that the kernel's own default for real-time threads holds.
pub(super) fn set_clamp(tid: u32, min: Option<u32>, max: Option<u32>) -> io::Result<()> {
    let clamp = |value: Option<u32>, default: u32| match value {
        Some(value) if value == default => u32::MAX,
        Some(value) => value,
        None => 0,
    };
    let flags = if min.is_some() { UTIL_CLAMP_MIN } else { 0 }
        | if max.is_some() { UTIL_CLAMP_MAX } else { 0 };
    let attributes = Attributes {
        sched_flags: KEEP_ALL | flags,
        sched_util_min: clamp(min, 0),
        sched_util_max: clamp(max, CAPACITY),
        ..Attributes::default()
    };
    set(tid, attributes)
}

fn set(tid: u32, attributes: Attributes) -> io::Result<()> {
    let attr = Attributes { size: SIZE, ..attributes };
    // SAFETY: the kernel reads `attr.size` bytes from `attr`, which lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const attr, 0) };
    check(result).map(drop)
}

/// Largest CPU number + 1 that is asked for; the kernel's own limit (`CONFIG_NR_CPUS`) is 8192.
const MAX_CPUS: usize = 8192;
const MASK_WORDS: usize = MAX_CPUS / u64::BITS as usize;

/// The CPUs that a thread may use, ascending.
///
/// # Errors
/// When the thread is gone.
pub fn sched_getaffinity(tid: u32) -> io::Result<Vec<u32>> {
    let mut mask = [0_u64; MASK_WORDS];
    // SAFETY: the kernel writes at most the given number of bytes to `mask`.
    let result = unsafe {
        libc::syscall(libc::SYS_sched_getaffinity, tid, size_of_val(&mask), mask.as_mut_ptr())
    };
    // The kernel says how many bytes its own masks have; the rest is zero.
    let known = u32::try_from(check(result)? * 8).unwrap_or(0).min(MAX_CPUS as u32);
    let words = mask.iter().zip((0..known).step_by(u64::BITS as usize));
    Ok(words.flat_map(|(word, first)| bits(*word).map(move |bit| first + bit)).collect())
}

/// The places of the ones, ascending.
fn bits(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
}

pub(super) fn sched_setaffinity(tid: u32, cpus: &[u32]) -> io::Result<()> {
    let mut mask = [0_u64; MASK_WORDS];
    for &cpu in cpus {
        let word = mask
            .get_mut(cpu as usize / 64)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        *word |= 1 << (cpu % 64);
    }
    // SAFETY: the kernel reads the given number of bytes from `mask`.
    let result = unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, tid, size_of_val(&mask), mask.as_ptr())
    };
    check(result).map(drop)
}

/// A thread's nice value, which the kernel keeps also while the policy has no use for it.
pub(super) fn getpriority(tid: u32) -> io::Result<i32> {
    // SAFETY: takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid) };
    // The system call itself returns 20 − nice, so that no value looks like an error.
    check(result).map(|value| 20 - value as i32)
}

/// `IOPRIO_WHO_PROCESS`: one thread, by its id (linux/ioprio.h).
const IOPRIO_WHO_PROCESS: i32 = 1;

pub(super) fn ioprio_get(tid: u32) -> io::Result<u16> {
    // SAFETY: takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) };
    // The kernel's value has 16 bits.
    check(result).map(|value| value as u16)
}

pub(super) fn ioprio_set(tid: u32, priority: u16) -> io::Result<()> {
    // Class "none" is only accepted with level 0, and some kernels read it back with level 4.
    let priority = if priority >> 13 == 0 { 0 } else { priority };
    // SAFETY: takes no pointers.
    let result = unsafe {
        libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, i32::from(priority))
    };
    check(result).map(drop)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    Errno::result(result).map_err(io::Error::from)
}
