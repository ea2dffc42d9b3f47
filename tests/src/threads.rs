//! What the kernel says a thread has: everything that downbeat may change, read past downbeat.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use crate::processes::{Stat, ThreadId, tids};

/// SCHED_OTHER.
pub const OTHER: u32 = 0;
/// SCHED_FIFO.
pub const FIFO: u32 = 1;
/// SCHED_RR.
pub const ROUND_ROBIN: u32 = 2;
/// SCHED_BATCH.
pub const BATCH: u32 = 3;
/// SCHED_IDLE.
pub const IDLE: u32 = 5;
/// SCHED_DEADLINE
pub const DEADLINE: u32 = 6;

const RESET_ON_FORK: u64 = 1;

/// `struct sched_attr` in its first size, which every kernel since 3.14 reads and writes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// A thread's scheduling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduling {
    /// Policy; see sched(7).
    pub policy: u32,
    /// Real-time priority, 1 to 99; 0 for other policies.
    pub priority: u32,
    /// Nice value; 0 for real-time policies.
    pub nice: i32,
    /// Children start as SCHED_OTHER.
    pub reset_on_fork: bool,
}

impl Scheduling {
    /// A real-time FIFO priority whose children start as SCHED_OTHER.
    #[must_use]
    pub fn fifo(priority: u32) -> Self {
        Self { policy: FIFO, priority, nice: 0, reset_on_fork: true }
    }

    /// Reads `tid`'s (0: the calling thread's).
    ///
    /// # Errors
    /// `ESRCH` for a thread that is gone.
    pub fn of(tid: u32) -> io::Result<Self> {
        let mut attr = SchedAttr::default();
        // SAFETY: the kernel writes at most the given size into `attr`, which has that size.
        let done = unsafe {
            libc::syscall(
                libc::SYS_sched_getattr,
                tid as libc::pid_t,
                &raw mut attr,
                size_of::<SchedAttr>() as libc::c_uint,
                0,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        let real_time = attr.policy == FIFO || attr.policy == ROUND_ROBIN;
        Ok(Self {
            policy: attr.policy,
            priority: attr.priority,
            nice: if real_time { 0 } else { attr.nice },
            reset_on_fork: attr.flags & RESET_ON_FORK != 0,
        })
    }

    /// Gives it to `tid` (0: the calling thread).
    ///
    /// # Errors
    /// `EPERM` without the right to, `ESRCH` for a thread that is gone.
    pub fn apply(&self, tid: u32) -> io::Result<()> {
        let attr = SchedAttr {
            size: size_of::<SchedAttr>() as u32,
            policy: self.policy,
            flags: if self.reset_on_fork { RESET_ON_FORK } else { 0 },
            nice: self.nice,
            priority: self.priority,
            ..SchedAttr::default()
        };
        // SAFETY: the kernel only reads `attr`, which names its own size.
        let done = unsafe {
            libc::syscall(libc::SYS_sched_setattr, tid as libc::pid_t, &raw const attr, 0)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Everything that downbeat may change on a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Scheduling.
    pub scheduling: Scheduling,
    /// CPUs, as the kernel writes them (`0-3,6`).
    pub affinity: String,
    /// ioprio_get(2)'s value.
    pub ioprio: i64,
    /// `oom_score_adj` of its process.
    pub oom: i32,
}

impl Attributes {
    /// Reads `tid`'s.
    ///
    /// # Errors
    /// `ESRCH` or a missing file for a thread that is gone.
    pub fn of(tid: u32) -> io::Result<Self> {
        const IOPRIO_WHO_PROCESS: libc::c_int = 1;
        let scheduling = Scheduling::of(tid)?;
        let status = fs::read_to_string(format!("/proc/{tid}/status"))?;
        let affinity = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .map(|list| list.trim().to_owned())
            .ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: no pointers.
        let ioprio =
            unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid as libc::c_int) };
        if ioprio < 0 {
            return Err(io::Error::last_os_error());
        }
        let oom = fs::read_to_string(format!("/proc/{tid}/oom_score_adj"))?;
        let oom = oom.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Self { scheduling, affinity, ioprio, oom })
    }
}

/// All threads of the host and what they have.
pub type Table = BTreeMap<ThreadId, (String, Attributes)>;

/// Reads every thread that can be read. Left out: `kworker` threads, whose values the kernel
/// itself changes as it hands them from one queue to another.
#[must_use]
pub fn table() -> Table {
    let mut table = Table::new();
    for pid in crate::processes::pids() {
        for tid in tids(pid) {
            let Ok(stat) = Stat::of_thread(pid, tid) else {
                continue;
            };
            if stat.name.starts_with("kworker/") {
                continue;
            }
            if let Ok(attributes) = Attributes::of(tid) {
                let id = ThreadId { tid, start_time: stat.start_time };
                table.insert(id, (stat.name, attributes));
            }
        }
    }
    table
}

/// What differs between two tables on threads that are in both, in words.
#[must_use]
pub fn differences(before: &Table, after: &Table) -> Vec<String> {
    before
        .iter()
        .filter_map(|(id, (name, old))| {
            let (_, new) = after.get(id)?;
            (old != new).then(|| format!("thread {} ({name}): {old:?} is now {new:?}", id.tid))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_thread_is_found_and_an_unchanged_one_is_not() {
        let (tell, told) = std::sync::mpsc::channel();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw() as u32).unwrap();
            wait.recv().unwrap();
        });
        let tid = told.recv().unwrap();
        let mine = |table: &Table| -> Table {
            table.iter().filter(|(id, _)| id.tid == tid).map(|(i, v)| (*i, v.clone())).collect()
        };
        let before = mine(&table());
        assert_eq!(before.len(), 1);
        assert_eq!(differences(&before, &mine(&table())), Vec::<String>::new());
        let batch = Scheduling { policy: BATCH, priority: 0, nice: 3, reset_on_fork: false };
        batch.apply(tid).unwrap();
        assert_eq!(Scheduling::of(tid).unwrap(), batch);
        let found = differences(&before, &mine(&table()));
        assert_eq!(found.len(), 1, "{found:?}");
        go_on.send(()).unwrap();
        thread.join().unwrap();
    }
}
