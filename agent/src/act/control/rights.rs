//! What this process may raise again after it lowered it.
//!
//! The kernel's own rules (`user_check_sched_setscheduler` and `ioprio_check_cap`): without
//! `CAP_SYS_NICE` anyone may lower the priority of their own threads, and raise it as far as the
//! thread's resource limits go. An OOM score may always go back to where it was.

use std::fs;
use std::path::Path;

use crate::act::value::{Sched, Value};

/// `CAP_SYS_NICE` and `CAP_SYS_ADMIN` (linux/capability.h).
const SYS_NICE: u32 = 23;
const SYS_ADMIN: u32 = 21;

/// Capabilities of this process that hold on the whole host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    nice: bool,
    admin: bool,
}

/// A thread's own limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// `RLIMIT_NICE`: 20 − the lowest nice value that it may have.
    nice: i64,
    /// `RLIMIT_RTPRIO`.
    realtime: i64,
}

impl Rights {
    /// As `/proc` tells them. In a user namespace of its own a process's capabilities say nothing
    /// about the scheduler, which asks for them in the first one.
    pub(super) fn of_this_process(proc: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(proc.join("self").join(name));
        let first = read("uid_map")
            .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]));
        let effective = read("status").ok().and_then(|text| effective(&text)).unwrap_or(0);
        let has = |bit: u32| first && effective & 1 << bit != 0;
        Self { nice: has(SYS_NICE), admin: has(SYS_ADMIN) }
    }

    /// Why `old` could not be put back once `new` is set, if that is so.
    pub(super) fn no_way_back(
        self,
        old: &Value,
        new: &Value,
        limits: impl FnOnce() -> Limits,
    ) -> Option<String> {
        if self.nice {
            return None;
        }
        match (old, new) {
            (Value::Sched(old), Value::Sched(new)) => sched(old, new, limits()),
            (Value::Ioprio(old), Value::Ioprio(_)) if old >> 13 == 1 && !self.admin => {
                Some(format!("{} could not be put back without CAP_SYS_NICE", Value::Ioprio(*old)))
            }
            _ => None,
        }
    }
}

fn sched(old: &Sched, new: &Sched, limits: Limits) -> Option<String> {
    let was_idle = !old.is_fair() && !old.is_realtime();
    let is_idle = !new.is_fair() && !new.is_realtime();
    let drops_reset = new.resets_on_fork() && !old.resets_on_fork();
    let (refused, limit) = if drops_reset || old.is_reservation() {
        (true, None)
    } else if old.is_realtime() {
        let least = i64::from(old.priority);
        (least > limits.realtime, Some(("RLIMIT_RTPRIO", least)))
    } else {
        let least = 20 - i64::from(old.nice);
        let lower = is_idle && !was_idle || new.is_fair() && old.is_fair() && new.nice > old.nice;
        (lower && least > limits.nice, Some(("RLIMIT_NICE", least)))
    };
    let or_limit = limit.map_or_else(String::new, |(name, least)| {
        format!(", or its process with {name} of {least} at least")
    });
    refused.then(|| {
        format!(
            "`{old}` could not be put back: run downbeatd as root or with CAP_SYS_NICE{or_limit}"
        )
    })
}

impl Limits {
    /// Of a thread; a limit that cannot be read counts as none granted.
    pub(super) fn read(proc: &Path, tid: u32) -> Self {
        let text = fs::read_to_string(proc.join(tid.to_string()).join("limits"));
        Self::parse(&text.unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let soft = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            match line.and_then(|line| line.split_ascii_whitespace().next()) {
                Some("unlimited") => i64::MAX,
                Some(number) => number.parse().unwrap_or(0),
                None => 0,
            }
        };
        Self { nice: soft("Max nice priority"), realtime: soft("Max realtime priority") }
    }
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::value::RESET_ON_FORK;

    const NOBODY: Rights = Rights { nice: false, admin: false };
    const NONE: Limits = Limits { nice: 0, realtime: 0 };

    fn nice(nice: i32) -> Value {
        Value::Sched(Sched { nice, ..Sched::DEFAULT })
    }

    fn idle() -> Value {
        Value::Sched(Sched { policy: libc::SCHED_IDLE.cast_unsigned(), ..Sched::DEFAULT })
    }

    fn fifo(flags: u64) -> Value {
        let policy = libc::SCHED_FIFO.cast_unsigned();
        Value::Sched(Sched { policy, priority: 20, flags, ..Sched::DEFAULT })
    }

    fn refused(old: &Value, new: &Value, limits: Limits) -> bool {
        NOBODY.no_way_back(old, new, || limits).is_some()
    }

    #[test]
    fn what_may_not_be_raised_again_is_not_lowered() {
        assert!(refused(&nice(0), &nice(10), NONE));
        assert!(refused(&nice(0), &idle(), NONE));
        assert!(refused(&nice(0), &fifo(RESET_ON_FORK), Limits { nice: 40, realtime: 99 }));
        assert!(refused(&fifo(0), &nice(0), NONE));
        assert!(refused(&Value::Ioprio(1 << 13), &Value::Ioprio(3 << 13), NONE));
    }

    #[test]
    fn what_has_a_way_back_is_set() {
        assert!(!refused(&nice(5), &nice(0), NONE), "back is down");
        assert!(!refused(&idle(), &nice(0), NONE), "back is down");
        assert!(!refused(&nice(0), &fifo(0), NONE), "its nice value stays beside it");
        assert!(!refused(&nice(0), &idle(), Limits { nice: 20, realtime: 0 }));
        assert!(!refused(&fifo(0), &nice(0), Limits { nice: 0, realtime: 20 }));
        assert!(!refused(&Value::Ioprio(0), &Value::Ioprio(3 << 13), NONE));
        assert!(!refused(&Value::OomScoreAdj(0), &Value::OomScoreAdj(300), NONE));
        let root = Rights { nice: true, admin: true };
        assert_eq!(root.no_way_back(&nice(0), &idle(), || panic!("not asked")), None);
    }

    #[test]
    fn limits_and_capabilities_are_read_as_the_kernel_writes_them() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max nice priority         30                   40                   \n\
                      Max realtime priority     unlimited            unlimited            \n";
        assert_eq!(Limits::parse(limits), Limits { nice: 30, realtime: i64::MAX });
        assert_eq!(Limits::parse(""), NONE);
        assert_eq!(effective("CapPrm:\tff\nCapEff:\t0000000000800000\n"), Some(1 << SYS_NICE));
    }
}
