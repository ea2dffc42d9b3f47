//! The system calls and files behind the levers.

mod group;
mod host;
mod rights;
mod sched;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use self::group::Groups;
use self::host::HostFiles;
use self::rights::{Limits, Rights};
use self::sched::{
    getpriority, ioprio_get, ioprio_set, sched_getattr, sched_setaffinity, set_clamp,
};
use super::subject::{Subject, ThreadId};
use super::value::{Lever, Sched, Value};
use crate::roots::Roots;

pub(in crate::act) use self::group::VanishedGroup;
pub use self::sched::{sched_getaffinity, sched_setattr};

/// Reads and sets one lever of one subject. A test stands in for the kernel with its own.
pub trait Control {
    /// The value now.
    ///
    /// # Errors
    /// `ESRCH` or `ENOENT` when the subject is gone; else what the system call says.
    fn read(&self, lever: Lever, subject: &Subject) -> io::Result<Value>;

    /// Sets `value`.
    ///
    /// # Errors
    /// As the system call says: `EPERM` without `CAP_SYS_NICE`, or for real time under
    /// `RT_GROUP_SCHED`; `EBUSY` where a reservation finds no room; `EINVAL` where no CPU of the
    /// set is allowed; `ESRCH` or `ENOENT` when the subject is gone.
    fn write(&self, subject: &Subject, value: &Value) -> io::Result<()>;

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

    /// Whether the subject is there and still the one that is meant.
    fn is_same(&self, subject: &Subject) -> bool;

    /// Whether the thread's last CPU is none of those that it may use: where these change while it
    /// sleeps, it moves only when it wakes (Linux, `affine_move_task`).
    fn has_yet_to_move(&self, _thread: ThreadId) -> bool {
        false
    }

    /// What goes back of `old`, which was read before a value of ours is set, where what is read is
    /// not what somebody chose.
    fn chosen(&self, _subject: &Subject, old: Value) -> Value {
        old
    }

    /// Why `old` could not be put back once `new` is set, where that is so: anyone may lower the
    /// priority of what is theirs, and few may raise it again.
    fn no_way_back(&self, subject: &Subject, old: &Value, new: &Value) -> Option<String>;
}

/// Whether an error says that the subject is gone.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Of a thread, below its folder in `/proc`; where it is set, 0 means the default.
const TIMER_SLACK: &str = "timerslack_ns";

/// The running kernel.
#[derive(Debug)]
pub struct Kernel {
    proc: PathBuf,
    /// The slice that a thread has when nobody chose one: read as "no choice" and never written.
    default_slice: u64,
    groups: Groups,
    host: HostFiles,
    rights: Rights,
}

impl Kernel {
    /// Levers of the running kernel; files are looked for below `roots`.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        // The calling thread has the default unless somebody chose a slice for the agent itself.
        let default_slice = sched_getattr(0).map_or(0, |attr| attr.sched_runtime);
        Self {
            proc: roots.proc.clone(),
            default_slice,
            groups: Groups::new(roots),
            host: HostFiles::new(roots),
            rights: Rights::of_this_process(&roots.proc),
        }
    }

    /// The group below which the agent may make its own. Under systemd the agent's processes move
    /// to a leaf of it.
    ///
    /// # Errors
    /// Why there is none, with the remedy.
    pub fn place_for_groups(&self) -> Result<Arc<str>, String> {
        self.groups.place()
    }

    /// The same group, for a plan: nobody is moved.
    ///
    /// # Errors
    /// Why there is none, with the remedy.
    pub fn where_groups_would_lie(&self) -> Result<Arc<str>, String> {
        self.groups.find_place().map(|(place, _)| place)
    }

    /// The controllers that a group could pass on to groups below it.
    ///
    /// # Errors
    /// When the group is not there.
    pub fn controllers_of(&self, group: &str) -> io::Result<BTreeSet<String>> {
        self.groups.controllers_of(group)
    }

    fn file(&self, tid: u32, name: &str) -> PathBuf {
        self.proc.join(tid.to_string()).join(name)
    }

    /// A thread's value now, by its id alone: for looking, where it does not matter whether the id
    /// is another thread's by now.
    ///
    /// # Errors
    /// As for [`Control::read`].
    pub fn read_of_thread(&self, lever: Lever, tid: u32) -> io::Result<Value> {
        match lever {
            Lever::Sched => self.sched(tid).map(Value::Sched),
            Lever::UclampMin => Ok(Value::UclampMin(sched_getattr(tid)?.sched_util_min)),
            Lever::UclampMax => Ok(Value::UclampMax(sched_getattr(tid)?.sched_util_max)),
            Lever::Affinity => sched_getaffinity(tid).map(Value::Affinity),
            Lever::Ioprio => ioprio_get(tid).map(Value::Ioprio),
            Lever::TimerSlack => self.timer_slack(tid).map(Value::TimerSlack),
            Lever::OomScoreAdj => {
                let text = fs::read_to_string(self.file(tid, "oom_score_adj"))?;
                let value = text.trim().parse().map_err(io::Error::other)?;
                Ok(Value::OomScoreAdj(value))
            }
            Lever::Cgroup => self.groups.of_process(tid).map(Value::Cgroup),
            _ => Err(not_of_this(lever)),
        }
    }

    fn sched(&self, tid: u32) -> io::Result<Sched> {
        let attr = sched_getattr(tid)?;
        let fair = matches!(attr.sched_policy.cast_signed(), libc::SCHED_OTHER | libc::SCHED_BATCH);
        let default = fair && attr.sched_runtime == self.default_slice;
        // The kernel says it here only where the policy uses it.
        let realtime = attr.sched_priority > 0 || attr.sched_policy == libc::SCHED_DEADLINE as u32;
        let nice = if realtime { getpriority(tid)? } else { attr.sched_nice };
        Ok(Sched {
            policy: attr.sched_policy,
            flags: attr.sched_flags,
            nice,
            priority: attr.sched_priority,
            runtime: if default { 0 } else { attr.sched_runtime },
            deadline: attr.sched_deadline,
            period: attr.sched_period,
            timer_slack: None,
        })
    }

    fn write_of_thread(&self, tid: u32, value: &Value) -> io::Result<()> {
        match value {
            Value::Sched(sched) => {
                sched_setattr(tid, sched)?;
                match sched.timer_slack {
                    Some(slack) => self.set_timer_slack(tid, slack),
                    None => Ok(()),
                }
            }
            Value::UclampMin(part) => set_clamp(tid, Some(*part), None),
            Value::UclampMax(part) => set_clamp(tid, None, Some(*part)),
            Value::Affinity(cpus) => sched_setaffinity(tid, cpus),
            Value::Ioprio(priority) => ioprio_set(tid, *priority),
            Value::TimerSlack(slack) => self.set_timer_slack(tid, *slack),
            Value::OomScoreAdj(score) => {
                fs::write(self.file(tid, "oom_score_adj"), score.to_string())
            }
            Value::Cgroup(path) => self.groups.move_process(tid, path),
            other => Err(not_of_this(other.lever())),
        }
    }

    /// A number in a thread's `stat` file.
    fn stat_field(&self, tid: u32, number: usize) -> io::Result<u64> {
        // Not `/proc/TID/stat`: that one sums over all threads of the process at every read, which
        // for a look at each of n threads is n² steps.
        let mut path = self.proc.join(tid.to_string());
        path.extend(["task", &tid.to_string(), "stat"]);
        let mut bytes = [0; 1024];
        let length = File::open(path)?.read(&mut bytes)?;
        let stat = bytes.get(..length).unwrap_or_default();
        field_of(stat, number)
            .ok_or_else(|| io::Error::other(format!("a stat file without its field {number}")))
    }

    fn set_timer_slack(&self, tid: u32, slack: u64) -> io::Result<()> {
        fs::write(self.file(tid, TIMER_SLACK), slack.to_string())
    }
}

fn not_of_this(lever: Lever) -> io::Error {
    let reason = format!("{} is not a lever of this kind of subject", lever.name());
    io::Error::new(io::ErrorKind::Unsupported, reason)
}

impl Control for Kernel {
    fn read(&self, lever: Lever, subject: &Subject) -> io::Result<Value> {
        match subject {
            Subject::Thread(id) => self.read_of_thread(lever, id.tid),
            Subject::Group(id) => self.groups.read(lever, &id.path),
            Subject::Unit(_) => Err(not_of_this(lever)),
            Subject::Irq(_) | Subject::Frequency(_) | Subject::Host => {
                self.host.read(lever, subject)
            }
        }
    }

    fn write(&self, subject: &Subject, value: &Value) -> io::Result<()> {
        match subject {
            Subject::Thread(id) => self.write_of_thread(id.tid, value),
            Subject::Group(id) => self.groups.write(&id.path, value),
            Subject::Unit(_) => Err(not_of_this(value.lever())),
            Subject::Irq(_) | Subject::Frequency(_) | Subject::Host => {
                self.host.write(subject, value)
            }
        }
    }

    fn timer_slack(&self, tid: u32) -> io::Result<u64> {
        let text = fs::read_to_string(self.file(tid, TIMER_SLACK))?;
        text.trim().parse().map_err(io::Error::other)
    }

    fn start_time(&self, tid: u32) -> io::Result<u64> {
        self.stat_field(tid, START_TIME)
    }

    fn is_same(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Thread(id) => self.start_time(id.tid).ok() == Some(id.start_time),
            Subject::Group(id) => self.groups.is_same(id),
            // What is gone of these says so when it is read.
            Subject::Unit(_) | Subject::Irq(_) | Subject::Frequency(_) | Subject::Host => true,
        }
    }

    fn has_yet_to_move(&self, thread: ThreadId) -> bool {
        let last = self.stat_field(thread.tid, LAST_CPU).ok();
        let allowed = sched_getaffinity(thread.tid).ok();
        last.zip(allowed)
            .is_some_and(|(last, allowed)| !allowed.iter().any(|&cpu| u64::from(cpu) == last))
    }

    /// A thread whose CPUs are all that its control group has chose none: the group may have more
    /// later, as when a partition of ours gives its CPUs back. All that there are say that.
    fn chosen(&self, subject: &Subject, old: Value) -> Value {
        let (Value::Affinity(cpus), Some(id)) = (&old, subject.thread()) else { return old };
        let all_of_group = self.groups.cpus_of_process(id.pid).is_some_and(|all| all == *cpus);
        match all_of_group.then(|| self.host.possible_cpus()).flatten() {
            Some(possible) => Value::Affinity(possible),
            None => old,
        }
    }

    fn no_way_back(&self, subject: &Subject, old: &Value, new: &Value) -> Option<String> {
        let id = subject.thread()?;
        if let Value::Cgroup(home) = old {
            return self.groups.no_way_home(home);
        }
        let limits = || Limits::read(&self.proc, id.tid);
        self.rights.no_way_back(old, new, limits)
    }
}

/// Fields of a `stat` file, counted from 1 as in proc_pid_stat(5).
const START_TIME: usize = 22;
const LAST_CPU: usize = 39;

/// The start time in a `stat` file, clock ticks since boot.
#[must_use]
pub fn start_time_of(stat: &[u8]) -> Option<u64> {
    field_of(stat, START_TIME)
}

/// A field behind the name, which is the second. The name may hold spaces and brackets, so the
/// fields are counted from the last bracket.
fn field_of(stat: &[u8], number: usize) -> Option<u64> {
    let end_of_name = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end_of_name + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}
