//! A ready instance in traffic: its requests, and whether it gets on with them.

use std::fs;
use std::time::Duration;

use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::dispatch::{Dispatcher, Handle};
use crate::progress::{Doing, Look, Progress, Verdict};

/// Between two looks at an instance that holds work, and between two at one that is being drained.
const WATCH: Duration = Duration::from_secs(1);

/// Without progress for so long, a worker of our own is stuck: it computes, or it is starved.
pub const OWN_BOUND: Duration = Duration::from_secs(5);

/// The same for an external one, which may wait for a device or for another server.
pub const EXTERNAL_BOUND: Duration = Duration::from_secs(60);

/// An instance that the dispatcher gives work to.
pub struct Attachment {
    handle: Handle,
    progress: Progress,
    watch_at: Duration,
}

impl Attachment {
    /// Of an instance that was attached at `now`; `bound` as for [`Progress`].
    #[must_use]
    pub fn new(handle: Handle, bound: Duration, now: Duration) -> Self {
        Self { handle, progress: Progress::new(bound), watch_at: now + WATCH }
    }

    /// Its name in the dispatcher.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// When the next look is due.
    #[must_use]
    pub fn due(&self) -> Duration {
        self.watch_at
    }

    /// Looks at the instance's processes, which is due.
    pub fn watch(&mut self, now: Duration, leader: Pid, dispatcher: &Dispatcher) -> Verdict {
        self.watch_at = now + WATCH;
        let Some((held, completed)) = dispatcher.held(self.handle) else {
            return Verdict::Stuck("closed its channel and goes on running".into());
        };
        // Nobody reads /proc for those that have nothing to do.
        let seen = (held > 0).then(|| processes(leader)).flatten();
        let (cpu, doing) = seen.unwrap_or((Duration::ZERO, Doing::Sleeping));
        self.progress.look(Look { at: now, held, completed, cpu, doing })
    }
}

/// CPU time of a process and all that it started and that still run, and what the busiest of their
/// threads does; nothing where the process is gone.
fn processes(leader: Pid) -> Option<(Duration, Doing)> {
    let ticks_per_second =
        sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
    let millis = 1000 / ticks_per_second.filter(|ticks| *ticks > 0).unwrap_or(100);
    let mut ticks = 0;
    let mut doing = Doing::Sleeping;
    let mut left = vec![leader.as_raw()];
    let mut seen = 0;
    while let Some(pid) = left.pop() {
        let Some((_, used)) = stat(&format!("/proc/{pid}/stat")) else {
            if pid == leader.as_raw() {
                return None;
            }
            continue;
        };
        ticks += used;
        seen += 1;
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let folder = task.path();
            match stat(&folder.join("stat").display().to_string()) {
                Some(('R', _)) => doing = Doing::Runnable,
                Some(('D', _)) if doing == Doing::Sleeping => doing = Doing::Blocked,
                _ => {}
            }
            let children = fs::read_to_string(folder.join("children")).unwrap_or_default();
            left.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        // A worker that starts processes faster than they are read has progress anyway.
        if seen > 1000 {
            break;
        }
    }
    Some((Duration::from_millis(ticks * millis), doing))
}

/// State and CPU time, in ticks, of a `stat` file.
fn stat(path: &str) -> Option<(char, u64)> {
    parse(&fs::read_to_string(path).ok()?)
}

fn parse(text: &str) -> Option<(char, u64)> {
    // The name before may hold spaces and brackets.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    // Field 3 was the state; 14 and 15 are user and system time.
    let mut times = fields.skip(10).map(str::parse::<u64>);
    Some((state, times.next()?.ok()? + times.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_file_is_read_whatever_the_name() {
        let text = "7 (a) b) R) S 1 7 7 0 -1 4194560 0 0 0 0 12 30 5 6 20 0 1 0 9 0 0\n";
        assert_eq!(parse(text), Some(('S', 42)));
        assert_eq!(parse("7 (a) S 1"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn children_count_with_their_parent() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "while :; do :; done & wait"])
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        // The child that burns is the shell's, which itself waits.
        let mut most = Duration::ZERO;
        while most < Duration::from_millis(50) {
            most = most.max(processes(pid).unwrap().0);
            std::thread::sleep(Duration::from_millis(20));
        }
        let busy: Vec<_> = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            .unwrap()
            .split_whitespace()
            .map(|pid| Pid::from_raw(pid.parse().unwrap()))
            .collect();
        for pid in busy {
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        child.wait().unwrap();
        assert_eq!(processes(pid), None);
    }
}
