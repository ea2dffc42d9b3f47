//! Processes as `/proc` shows them. One that vanishes or cannot be read costs only itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A thread or process beyond doubt: numbers are used again, start times are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadId {
    /// Thread id; a process's is its main thread's.
    pub tid: u32,
    /// Clock ticks since boot.
    pub start_time: u64,
}

/// From `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The thread's name.
    pub name: String,
    /// One-letter state.
    pub state: char,
    /// Parent process.
    pub ppid: u32,
    /// CPU time used, user and system, clock ticks.
    pub cpu_ticks: u64,
    /// Clock ticks since boot.
    pub start_time: u64,
    /// Resident memory, pages.
    pub rss_pages: u64,
}

impl Stat {
    /// Of a process.
    ///
    /// # Errors
    /// The kernel's reason; not found when it is gone.
    pub fn of(pid: u32) -> io::Result<Self> {
        Self::read(&format!("/proc/{pid}/stat"))
    }

    /// Of one thread.
    ///
    /// # Errors
    /// The kernel's reason; not found when it is gone.
    pub fn of_thread(pid: u32, tid: u32) -> io::Result<Self> {
        Self::read(&format!("/proc/{pid}/task/{tid}/stat"))
    }

    fn read(path: &str) -> io::Result<Self> {
        Self::parse(&fs::read_to_string(path)?).ok_or(io::ErrorKind::InvalidData.into())
    }

    /// The name stands in parentheses and may itself hold parentheses and spaces.
    fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(") ")?;
        let (_, name) = head.split_once('(')?;
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            name: name.to_owned(),
            state: fields.first()?.chars().next()?,
            ppid: fields.get(1)?.parse().ok()?,
            cpu_ticks: number(11)? + number(12)?,
            start_time: number(19)?,
            rss_pages: number(21)?,
        })
    }
}

/// Every process id.
#[must_use]
pub fn pids() -> Vec<u32> {
    numbers(Path::new("/proc"))
}

/// The threads of a process; none when it is gone.
#[must_use]
pub fn tids(pid: u32) -> Vec<u32> {
    numbers(&PathBuf::from(format!("/proc/{pid}/task")))
}

fn numbers(dir: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Living processes whose executable lies in `dir`, deleted or not.
#[must_use]
pub fn running_from(dir: &Path) -> Vec<(ThreadId, PathBuf)> {
    pids()
        .into_iter()
        .filter_map(|pid| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            let stat = Stat::of(pid).ok()?;
            (exe.starts_with(dir) && stat.state != 'Z')
                .then_some((ThreadId { tid: pid, start_time: stat.start_time }, exe))
        })
        .collect()
}

/// True while the very process lives (a zombie does not).
#[must_use]
pub fn alive(id: ThreadId) -> bool {
    Stat::of(id.tid).is_ok_and(|stat| stat.start_time == id.start_time && stat.state != 'Z')
}

/// Sends `signal` to the very process, if it lives.
pub fn signal(id: ThreadId, signal: Signal) {
    if let (true, Ok(pid)) = (alive(id), i32::try_from(id.tid)) {
        // Gone between look and signal is what was wanted.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Ends everything that runs from `dir`: what its `chief` (a file name) starts it is first asked
/// to put in order itself, then everything left is killed. Returns what had to be killed.
pub fn sweep(dir: &Path, chief: &str, patience: Duration) -> Vec<String> {
    let chiefs = || {
        running_from(dir).into_iter().filter(|(_, exe)| exe.file_name().is_some_and(|n| n == chief))
    };
    for (id, _) in chiefs() {
        signal(id, Signal::SIGTERM);
    }
    wait_until(patience, || chiefs().next().is_none());
    let mut killed = Vec::new();
    // Twice, since something that was just being started may have been missed.
    for _ in 0..2 {
        for (id, exe) in running_from(dir) {
            killed.push(format!("process {} ({})", id.tid, exe.display()));
            signal(id, Signal::SIGKILL);
        }
        wait_until(Duration::from_secs(2), || running_from(dir).is_empty());
    }
    killed
}

/// Polls until `done` or the time is over; true when done.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::Stat;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_one_name() {
        let text = "7 (a) (b c) S 1 7 7 0 -1 4194560 0 0 0 0 5 6 0 0 20 0 1 0 99 1000 42 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.state, stat.ppid), ("a) (b c", 'S', 1));
        assert_eq!((stat.cpu_ticks, stat.start_time, stat.rss_pages), (11, 99, 42));
    }

    #[test]
    fn this_process_is_alive_and_reads_itself() {
        let stat = Stat::of(std::process::id()).unwrap();
        assert!(stat.rss_pages > 0 && stat.start_time > 0);
    }
}
