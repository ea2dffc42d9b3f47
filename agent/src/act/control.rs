//! The system calls behind the levers.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

use nix::errno::Errno;

use super::value::{Lever, Sched, Value};
use crate::roots::Roots;

/// Reads and sets one lever of one thread. A test stands in for the kernel with its own.
pub trait Control {
    /// The value now.
    ///
    /// # Errors
    /// `ESRCH` or `ENOENT` when the thread is gone; else what the system call says.
    fn read(&self, lever: Lever, tid: u32) -> io::Result<Value>;

    /// Sets `value`.
    ///
    /// # Errors
    /// As the system call says: `EPERM` without `CAP_SYS_NICE`, or for real time under
    /// `RT_GROUP_SCHED`; `EINVAL` where no CPU of the set is allowed; `ESRCH` when it is gone.
    fn write(&self, tid: u32, value: &Value) -> io::Result<()>;

    /// The thread's timer slack, nanoseconds.
    ///
    /// # Errors
    /// As for [`Self::read`]; `EPERM` without `CAP_SYS_NICE`.
    fn timer_slack(&self, tid: u32) -> io::Result<u64>;

    /// The thread's start time in clock ticks since boot.
    ///
    /// # Errors
    /// When the thread is gone.
    fn start_time(&self, tid: u32) -> io::Result<u64>;
}

/// Whether an error says that the thread is gone.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Of a thread, below its folder in `/proc`; where it is set, 0 means the default.
const TIMER_SLACK: &str = "timerslack_ns";

/// The running kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    proc: PathBuf,
    /// The slice that a thread has when nobody chose one: read as "no choice" and never written.
    default_slice: u64,
}

impl Kernel {
    /// Levers of the running kernel; files are looked for below `roots.proc`.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        // The calling thread has the default unless somebody chose a slice for the agent itself.
        let default_slice = sched_getattr(0).map_or(0, |attr| attr.sched_runtime);
        Self { proc: roots.proc.clone(), default_slice }
    }

    fn file(&self, tid: u32, name: &str) -> PathBuf {
        self.proc.join(tid.to_string()).join(name)
    }
}

impl Control for Kernel {
    fn read(&self, lever: Lever, tid: u32) -> io::Result<Value> {
        match lever {
            Lever::Sched => {
                let attr = sched_getattr(tid)?;
                let fair = matches!(
                    attr.sched_policy.cast_signed(),
                    libc::SCHED_OTHER | libc::SCHED_BATCH
                );
                let default = fair && attr.sched_runtime == self.default_slice;
                Ok(Value::Sched(Sched {
                    policy: attr.sched_policy,
                    flags: attr.sched_flags,
                    nice: attr.sched_nice,
                    priority: attr.sched_priority,
                    runtime: if default { 0 } else { attr.sched_runtime },
                    deadline: attr.sched_deadline,
                    period: attr.sched_period,
                    timer_slack: None,
                }))
            }
            Lever::Affinity => sched_getaffinity(tid).map(Value::Affinity),
            Lever::Ioprio => ioprio_get(tid).map(Value::Ioprio),
            Lever::OomScoreAdj => {
                let text = fs::read_to_string(self.file(tid, "oom_score_adj"))?;
                let value = text.trim().parse().map_err(io::Error::other)?;
                Ok(Value::OomScoreAdj(value))
            }
        }
    }

    fn write(&self, tid: u32, value: &Value) -> io::Result<()> {
        match value {
            Value::Sched(sched) => {
                sched_setattr(tid, sched)?;
                match sched.timer_slack {
                    Some(slack) => fs::write(self.file(tid, TIMER_SLACK), slack.to_string()),
                    None => Ok(()),
                }
            }
            Value::Affinity(cpus) => sched_setaffinity(tid, cpus),
            Value::Ioprio(priority) => ioprio_set(tid, *priority),
            Value::OomScoreAdj(score) => {
                fs::write(self.file(tid, "oom_score_adj"), score.to_string())
            }
        }
    }

    fn timer_slack(&self, tid: u32) -> io::Result<u64> {
        let text = fs::read_to_string(self.file(tid, TIMER_SLACK))?;
        text.trim().parse().map_err(io::Error::other)
    }

    fn start_time(&self, tid: u32) -> io::Result<u64> {
        // Not `/proc/TID/stat`: that one sums over all threads of the process at every read, which
        // for a look at each of n threads is n² steps.
        let mut path = self.proc.join(tid.to_string());
        path.extend(["task", &tid.to_string(), "stat"]);
        let mut bytes = [0; 1024];
        let length = File::open(path)?.read(&mut bytes)?;
        let stat = bytes.get(..length).unwrap_or_default();
        start_time_of(stat).ok_or_else(|| io::Error::other("a stat file without a start time"))
    }
}

/// Field 22 of a `stat` file. The name in field 2 may hold spaces and brackets, so the fields are
/// counted from the last bracket.
#[must_use]
pub fn start_time_of(stat: &[u8]) -> Option<u64> {
    let end_of_name = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end_of_name + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn sched_getattr(tid: u32) -> io::Result<libc::sched_attr> {
    // SAFETY: sched_attr is plain integers, for which zero is a valid value.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: the kernel writes at most `size` bytes to `attr`, which lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, tid, &raw mut attr, size, 0) };
    check(result).map(|_| attr)
}

fn sched_setattr(tid: u32, sched: &Sched) -> io::Result<()> {
    // Only what the policy uses may be given: the kernel refuses a priority for OTHER.
    let fair = matches!(sched.policy.cast_signed(), libc::SCHED_OTHER | libc::SCHED_BATCH);
    let deadline = sched.policy.cast_signed() == libc::SCHED_DEADLINE;
    // SAFETY: sched_attr is plain integers, for which zero is a valid value.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    attr.size = size_of::<libc::sched_attr>() as u32;
    attr.sched_policy = sched.policy;
    attr.sched_flags = sched.flags;
    attr.sched_nice = sched.nice;
    attr.sched_priority = sched.priority;
    attr.sched_runtime = if fair || deadline { sched.runtime } else { 0 };
    attr.sched_deadline = if deadline { sched.deadline } else { 0 };
    attr.sched_period = if deadline { sched.period } else { 0 };
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

fn sched_setaffinity(tid: u32, cpus: &[u32]) -> io::Result<()> {
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

/// `IOPRIO_WHO_PROCESS`: one thread, by its id (linux/ioprio.h).
const IOPRIO_WHO_PROCESS: i32 = 1;

fn ioprio_get(tid: u32) -> io::Result<u16> {
    // SAFETY: takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) };
    // The kernel's value has 16 bits.
    check(result).map(|value| value as u16)
}

fn ioprio_set(tid: u32, priority: u16) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_name_full_of_brackets() {
        let stat = b"7 (a ) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 424242 1 2 3";
        assert_eq!(start_time_of(stat), Some(424_242));
        assert_eq!(start_time_of(b"7 (a"), None);
        assert_eq!(start_time_of(b"7 (a) S 1"), None);
    }

    /// On a thread of its own, since it changes that thread.
    fn on_a_thread(body: impl FnOnce(&Kernel, u32) + Send + 'static) {
        std::thread::spawn(move || {
            let tid = nix::unistd::gettid().as_raw().cast_unsigned();
            body(&Kernel::new(&Roots::default()), tid);
        })
        .join()
        .expect("the body panicked");
    }

    #[test]
    fn a_nice_value_set_is_the_nice_value_read() {
        on_a_thread(|kernel, tid| {
            let nicer = Value::Sched(Sched { nice: 7, ..Sched::DEFAULT });
            kernel.write(tid, &nicer).unwrap();
            assert!(kernel.read(Lever::Sched, tid).unwrap().agrees_with(&nicer));
        });
    }

    #[test]
    fn a_timer_slack_of_its_own_survives_real_time() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        on_a_thread(|kernel, tid| {
            fs::write(kernel.file(tid, TIMER_SLACK), "1234567").unwrap();
            let old = Sched { timer_slack: kernel.timer_slack(tid).ok(), ..Sched::DEFAULT };
            let policy = libc::SCHED_FIFO.cast_unsigned();
            let fifo = Sched { policy, priority: 1, ..Sched::DEFAULT };
            kernel.write(tid, &Value::Sched(fifo)).unwrap();
            kernel.write(tid, &Value::Sched(old)).unwrap();
            assert_eq!(kernel.timer_slack(tid).unwrap(), 1_234_567);
        });
    }

    #[test]
    fn an_affinity_set_is_the_affinity_read() {
        on_a_thread(|kernel, tid| {
            let Value::Affinity(all) = kernel.read(Lever::Affinity, tid).unwrap() else {
                panic!("another lever's value");
            };
            let one = Value::Affinity(vec![*all.last().unwrap()]);
            kernel.write(tid, &one).unwrap();
            assert_eq!(kernel.read(Lever::Affinity, tid).unwrap(), one);
        });
    }

    #[test]
    fn an_io_priority_set_is_the_io_priority_read() {
        on_a_thread(|kernel, tid| {
            let idle = Value::Ioprio(3 << 13);
            kernel.write(tid, &idle).unwrap();
            assert_eq!(kernel.read(Lever::Ioprio, tid).unwrap(), idle);
        });
    }

    #[test]
    fn a_thread_that_is_gone_is_recognised() {
        let kernel = Kernel::new(&Roots::default());
        // Above the kernel's largest possible pid (PID_MAX_LIMIT, 4 194 304).
        let nobody = 4_194_305;
        for lever in Lever::ALL {
            let error = kernel.read(lever, nobody).unwrap_err();
            assert!(is_gone(&error), "{lever:?}: {error}");
        }
        assert!(is_gone(&kernel.start_time(nobody).unwrap_err()));
    }

    #[test]
    fn a_cpu_beyond_every_kernel_is_refused() {
        on_a_thread(|kernel, tid| {
            let error = kernel.write(tid, &Value::Affinity(vec![100_000])).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        });
    }
}
