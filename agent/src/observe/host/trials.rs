//! What only trying can answer, tried on a thread that ends right after.
//!
//! Whether the kernel lets this process set a real-time policy, keep a slice, clamp or reserve
//! depends on privileges, limits, cgroups, seccomp and the kernel's configuration at once. The
//! thread that tries inherits nothing to others and is gone when [`Trials::run`] returns, so
//! nothing is left changed.

use std::time::{Duration, Instant};

use nix::errno::Errno;

/// What the trials gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trials {
    /// `uname -r`.
    pub(super) release: String,
    /// `uname -m`.
    pub(super) machine: String,
    /// SCHED_FIFO at the lowest priority.
    pub(super) realtime: Result<(), Errno>,
    /// A slice of 2 ms on SCHED_OTHER.
    pub(super) slice: Slice,
    /// A lower clamp of 0, which changes nothing.
    pub(super) uclamp: Result<(), Errno>,
    /// A reservation of 1 ms each 25 ms.
    pub(super) deadline: Result<(), Errno>,
}

/// What came of setting a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slice {
    /// Read back as set.
    Kept,
    /// Accepted and not read back: before kernel 6.12.
    Ignored,
    /// Refused.
    Refused(Errno),
}

const SLICE_NS: u64 = 2_000_000;
const RESERVED_NS: u64 = 1_000_000;
const PERIOD_NS: u64 = 25_000_000;

/// Beyond what the kernel keeps a reservation's bandwidth for, in case its timer is late.
const LET_GO: Duration = Duration::from_millis(2);

/// A thread that was held up in its trial is not waited for any longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

impl Trials {
    /// Tries everything once; takes some milliseconds.
    pub(super) fn run() -> Self {
        let (release, machine) = match nix::sys::utsname::uname() {
            Ok(name) => (
                name.release().to_string_lossy().into_owned(),
                name.machine().to_string_lossy().into_owned(),
            ),
            Err(_) => (String::new(), String::new()),
        };
        let tried = std::thread::Builder::new()
            .name("downbeat-trial".into())
            .spawn(try_scheduling)
            .ok()
            .and_then(|thread| thread.join().ok());
        // Without a thread nothing was tried, and nothing may be relied on.
        let (realtime, slice, uclamp, deadline) = tried.unwrap_or((
            Err(Errno::EAGAIN),
            Slice::Refused(Errno::EAGAIN),
            Err(Errno::EAGAIN),
            Err(Errno::EAGAIN),
        ));
        Self { release, machine, realtime, slice, uclamp, deadline }
    }
}

type Scheduling = (Result<(), Errno>, Slice, Result<(), Errno>, Result<(), Errno>);

/// Runs on the trial's own thread. Each policy is put back before the next trial.
fn try_scheduling() -> Scheduling {
    // As an ordinary thread with the nice value and fork flag that it came with, since changing
    // either may need a permission that is not on trial.
    let other = match get() {
        Ok(now) => Attributes {
            sched_flags: now.sched_flags & SCHED_FLAG_RESET_ON_FORK,
            sched_nice: now.sched_nice,
            ..Attributes::of(libc::SCHED_OTHER)
        },
        Err(errno) => return (Err(errno), Slice::Refused(errno), Err(errno), Err(errno)),
    };

    let wanted = Attributes { sched_runtime: SLICE_NS, ..other };
    let slice = match set(&wanted).and_then(|()| get()) {
        Ok(read) if read.sched_runtime == SLICE_NS => Slice::Kept,
        Ok(_) => Slice::Ignored,
        Err(errno) => Slice::Refused(errno),
    };

    let uclamp = set(&Attributes {
        sched_flags: other.sched_flags
            | SCHED_FLAG_KEEP_POLICY
            | SCHED_FLAG_KEEP_PARAMS
            | SCHED_FLAG_UTIL_CLAMP_MIN,
        ..other
    });

    let realtime = set(&Attributes {
        sched_flags: other.sched_flags,
        sched_priority: 1,
        ..Attributes::of(libc::SCHED_FIFO)
    });
    let put_back = if realtime.is_ok() { set(&other) } else { Ok(()) };

    let begun = Instant::now();
    // Were the thread still real-time, nothing more would be tried on it.
    let deadline = put_back.and_then(|()| {
        set(&Attributes {
            sched_flags: other.sched_flags,
            sched_runtime: RESERVED_NS,
            sched_deadline: PERIOD_NS,
            sched_period: PERIOD_NS,
            ..Attributes::of(libc::SCHED_DEADLINE)
        })
    });
    // Kernel 6.12 makes up its account of reservations anew whenever anyone reads
    // sched_rt_runtime_us, which is read next. It leaves out a thread that ended in one, takes its
    // bandwidth off once more when that falls due, and from then on finds the account full: it
    // refuses every other reservation, and to switch a CPU off, as each suspend does. It falls due
    // when a thread that uses no more than it reserved would have run that long.
    if deadline.is_ok() && set(&other).is_ok() {
        let due = begun.elapsed() * (PERIOD_NS / RESERVED_NS) as u32;
        std::thread::sleep((due + LET_GO).min(LONGEST_WAIT));
    }
    (realtime, slice, uclamp, deadline)
}

// linux/sched.h; the libc crate does not have them for every target.
const SCHED_FLAG_RESET_ON_FORK: u64 = 0x01;
const SCHED_FLAG_KEEP_POLICY: u64 = 0x08;
const SCHED_FLAG_KEEP_PARAMS: u64 = 0x10;
const SCHED_FLAG_UTIL_CLAMP_MIN: u64 = 0x20;

/// The kernel's `sched_attr` in its second version (kernel 5.3): libc's lacks the clamps, and
/// without their room the kernel says EINVAL before it looks whether it has them.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    size: u32,
    sched_policy: u32,
    sched_flags: u64,
    sched_nice: i32,
    sched_priority: u32,
    sched_runtime: u64,
    sched_deadline: u64,
    sched_period: u64,
    sched_util_min: u32,
    sched_util_max: u32,
}

const SIZE: u32 = 56;
const _: () = assert!(size_of::<Attributes>() == SIZE as usize);

impl Attributes {
    fn of(policy: i32) -> Self {
        Self { size: SIZE, sched_policy: policy.cast_unsigned(), ..Self::default() }
    }
}

fn set(attributes: &Attributes) -> Result<(), Errno> {
    // SAFETY: the pointer is to a whole `sched_attr` whose `size` is its own; the kernel only
    // reads it. Thread 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const *attributes, 0) };
    Errno::result(result).map(drop)
}

fn get() -> Result<Attributes, Errno> {
    let mut attributes = Attributes::default();
    // SAFETY: the pointer is to a whole `sched_attr` and the size passed is its own, so the kernel
    // writes no further. Thread 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) };
    Errno::result(result).map(|_| attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trying_leaves_the_caller_as_it_was() {
        let before = get().unwrap();
        let first = Trials::run();
        let after = get().unwrap();
        assert_eq!(
            (before.sched_policy, before.sched_nice, before.sched_priority),
            (after.sched_policy, after.sched_nice, after.sched_priority)
        );
        assert_eq!(before.sched_runtime, after.sched_runtime);
        assert_eq!(first, Trials::run());
        assert!(first.release.contains('.'));
    }
}
