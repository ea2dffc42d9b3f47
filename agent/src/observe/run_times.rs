//! How long a thread ran and how long it waited to: `/proc/PID/task/TID/schedstat`.

use std::fs;
use std::io;
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
}
