//! How long a thread ran and how long it waited to: `/proc/PID/task/TID/schedstat`; and how often it
//! slept by its own wish: `status` beside it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::roots::Roots;

/// Since the thread's start. See `Documentation/scheduler/sched-stats.rst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunTimes {
    /// On a CPU; up to the last tick for a thread that has one now.
    pub ran: Duration,
    /// On a run queue without running.
    pub waited: Duration,
}

impl RunTimes {
    /// Reads a thread's.
    ///
    /// # Errors
    /// When the thread is gone, or the kernel was built without `CONFIG_SCHED_INFO`.
    pub fn read(roots: &Roots, pid: u32, tid: u32) -> io::Result<Self> {
        let path = roots.proc.join(format!("{pid}/task/{tid}/schedstat"));
        let text = fs::read_to_string(&path)?;
        Self::parse(&text).ok_or_else(|| {
            io::Error::other(format!("{}: not three numbers: {text:?}", path.display()))
        })
    }

    /// From the text of a `schedstat` file.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_ascii_whitespace().map(|field| field.parse().ok());
        let mut next = || fields.next()?.map(Duration::from_nanos);
        Some(Self { ran: next()?, waited: next()? })
    }
}

/// How often a thread left its CPU by its own wish, to sleep or to wait, since its start; a thread
/// that is preempted, that yields or whose CPU is stolen by the hypervisor did not. Dear beside
/// [`RunTimes::read`]: the kernel writes some sixty lines. `proc` is where it is mounted.
///
/// # Errors
/// When the thread is gone, has ended and waits for its parent, or the kernel does not count.
pub fn voluntary_switches(proc: &Path, pid: u32, tid: u32) -> io::Result<u64> {
    let path = proc.join(format!("{pid}/task/{tid}/status"));
    let text = fs::read_to_string(&path)?;
    parse_switches(&text).ok_or_else(|| {
        io::Error::other(format!(
            "{}: no voluntary_ctxt_switches of a living thread in it",
            path.display()
        ))
    })
}

fn parse_switches(status: &str) -> Option<u64> {
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    if state.is_some_and(|state| state.trim_start().starts_with(['Z', 'X'])) {
        return None;
    }
    // Among the last lines. A thread's name, in the first, has no line ends in it.
    let line = status.lines().rev().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_two_numbers_are_nanoseconds() {
        let times = RunTimes::parse("1500000 20 7\n").unwrap();
        assert_eq!(times.ran, Duration::from_micros(1500));
        assert_eq!(times.waited, Duration::from_nanos(20));
        assert_eq!(RunTimes::parse("1500000"), None);
        assert_eq!(RunTimes::parse("-1 2 3"), None);
    }

    #[test]
    fn switches_by_the_threads_own_wish_are_not_those_that_it_suffered() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n";
        assert_eq!(parse_switches(status), Some(150));
        assert_eq!(parse_switches(&status.replace("\nvol", "\nState:\tZ (zombie)\nvol")), None);
        assert_eq!(parse_switches("Name:\tx\nnonvoluntary_ctxt_switches:\t545\n"), None);
    }
}
