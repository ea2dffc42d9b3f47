//! What a lever belongs to: a thread, a control group, a unit of systemd, or a part of the host.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A thread beyond doubt: ids are reused, start times are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ThreadId {
    /// Its process (thread-group id).
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Start time in clock ticks since boot (`stat` field 22).
    pub start_time: u64,
}

/// A version 2 control group beyond doubt: names are reused, inode numbers of one boot are not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupId {
    /// Its path as `/proc/PID/cgroup` shows it.
    pub path: Arc<str>,
    /// Its folder's inode number; 0 for a group of the agent's own, which is known by its name.
    pub inode: u64,
}

/// What a value is set on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// One thread.
    Thread(ThreadId),
    /// A control group whose files the agent writes itself.
    Group(GroupId),
    /// A unit or scope of systemd, by its whole name: systemd is asked.
    Unit(Arc<str>),
    /// An interrupt, by its number.
    Irq(u32),
    /// A CPU frequency domain, by the number in `cpufreq/policyN`.
    Frequency(u32),
    /// The host as a whole.
    Host,
}

/// Where a subject is found again: its name without what tells it from a successor of that name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// By thread id.
    Thread(u32),
    /// By path.
    Group(Arc<str>),
    /// By name.
    Unit(Arc<str>),
    /// By number.
    Irq(u32),
    /// By number.
    Frequency(u32),
    /// There is one.
    Host,
}

impl Subject {
    /// Where it is found again.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Thread(id) => Key::Thread(id.tid),
            Self::Group(id) => Key::Group(Arc::clone(&id.path)),
            Self::Unit(name) => Key::Unit(Arc::clone(name)),
            Self::Irq(number) => Key::Irq(*number),
            Self::Frequency(number) => Key::Frequency(*number),
            Self::Host => Key::Host,
        }
    }

    /// The thread, if it is one.
    #[must_use]
    pub fn thread(&self) -> Option<ThreadId> {
        match self {
            Self::Thread(id) => Some(*id),
            _ => None,
        }
    }

    /// Whether it is a process's main thread, with which the whole process moves to another control
    /// group. What the others have from us goes back before that: the group that they leave may
    /// have CPUs that the other lacks, and then the kernel changes what they have.
    #[must_use]
    pub fn is_main_thread(&self) -> bool {
        self.thread().is_some_and(|id| id.tid == id.pid)
    }

    /// The process, if it is a thread of one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.thread().map(|id| id.pid)
    }
}

impl From<ThreadId> for Subject {
    fn from(id: ThreadId) -> Self {
        Self::Thread(id)
    }
}

impl From<u32> for Key {
    fn from(tid: u32) -> Self {
        Self::Thread(tid)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thread(id) => write!(f, "thread {}", id.tid),
            Self::Group(id) => write!(f, "cgroup {}", id.path),
            Self::Unit(name) => write!(f, "unit {name}"),
            Self::Irq(number) => write!(f, "irq {number}"),
            Self::Frequency(number) => write!(f, "cpufreq policy{number}"),
            Self::Host => write!(f, "host"),
        }
    }
}
