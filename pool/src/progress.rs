//! Whether a worker that holds work gets on with it: pure, with the time and what was seen of the
//! process passed in.
//!
//! A worker is never asked whether it lives: one that computes for a second cannot answer, and one
//! that hangs may have a thread that answers. Progress is a completion, or CPU time. A worker
//! without either that wants a CPU and gets none is starved, which no restart helps; one in an
//! uninterruptible sleep cannot be killed before it leaves it; one that sleeps or is stopped while it
//! holds work is stuck.

use std::time::Duration;

/// Less CPU time than this between two looks is a timer that ticks, not work: the kernel counts
/// `/proc/PID/stat` in steps of 10 ms.
const LEAST_CPU: Duration = Duration::from_millis(10);

/// In an uninterruptible sleep a worker has so many times the usual bound: a disk or a driver may
/// come back.
const BLOCKED_FACTOR: u32 = 4;

/// What the threads of a worker do, the busiest of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// On a CPU, or waiting for one.
    Runnable,
    /// In an uninterruptible sleep (D).
    Blocked,
    /// Waiting for something, or stopped.
    Sleeping,
}

/// One look at a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// When.
    pub at: Duration,
    /// Requests that it holds.
    pub held: usize,
    /// Requests that it answered since its start.
    pub completed: u64,
    /// CPU time of it and of the processes that it started.
    pub cpu: Duration,
    /// What its threads do.
    pub doing: Doing,
}

/// What a look means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds nothing, or gets on.
    Well,
    /// Not its own fault, so it is left alone; in words, for the status.
    Waiting(String),
    /// To be killed and started again; in words, for the status.
    Stuck(String),
}

/// One worker's progress from look to look.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Without progress for longer, it is stuck.
    bound: Duration,
    /// The look that last saw progress.
    last: Option<Look>,
}

impl Progress {
    /// Of a worker that may hold work without progress for `bound`.
    #[must_use]
    pub fn new(bound: Duration) -> Self {
        Self { bound, last: None }
    }

    /// Takes in a look.
    pub fn look(&mut self, look: Look) -> Verdict {
        let Some(last) = self.last.filter(|_| look.held > 0) else {
            self.last = Some(look);
            return Verdict::Well;
        };
        let computed = look.cpu.saturating_sub(last.cpu) >= LEAST_CPU;
        if look.completed != last.completed || last.held == 0 || computed {
            self.last = Some(look);
            return Verdict::Well;
        }
        let quiet = look.at.saturating_sub(last.at);
        if quiet < self.bound {
            return Verdict::Well;
        }
        let (held, seconds) = (look.held, quiet.as_secs_f64());
        let requests = if held == 1 { "1 request".into() } else { format!("{held} requests") };
        let held = format!("holds {requests} for {seconds:.1} s without an answer");
        match look.doing {
            Doing::Runnable => Verdict::Waiting(format!("{held}: it wants a CPU and gets none")),
            Doing::Blocked if quiet < self.bound.saturating_mul(BLOCKED_FACTOR) => {
                Verdict::Waiting(format!("{held}: blocked in the kernel, on a disk or a driver"))
            }
            Doing::Blocked => Verdict::Stuck(format!("{held}, blocked in the kernel")),
            Doing::Sleeping => Verdict::Stuck(format!("{held} and without CPU time")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUND: Duration = Duration::from_secs(5);

    fn look(at: u64, held: usize, completed: u64, cpu: u64, doing: Doing) -> Look {
        let (at, cpu) = (Duration::from_secs(at), Duration::from_millis(cpu));
        Look { at, held, completed, cpu, doing }
    }

    #[test]
    fn idle_for_an_hour_is_well() {
        let mut progress = Progress::new(BOUND);
        for at in [0, 60, 3600] {
            assert_eq!(progress.look(look(at, 0, 7, 0, Doing::Sleeping)), Verdict::Well);
        }
        // The bound begins with the work, not with the last answer.
        assert_eq!(progress.look(look(3601, 1, 7, 0, Doing::Sleeping)), Verdict::Well);
        assert_eq!(progress.look(look(3605, 1, 7, 0, Doing::Sleeping)), Verdict::Well);
    }

    #[test]
    fn a_sleeper_that_holds_work_is_stuck_after_the_bound() {
        let mut progress = Progress::new(BOUND);
        progress.look(look(0, 2, 7, 100, Doing::Runnable));
        assert_eq!(progress.look(look(4, 2, 7, 105, Doing::Sleeping)), Verdict::Well);
        let Verdict::Stuck(reason) = progress.look(look(5, 2, 7, 105, Doing::Sleeping)) else {
            panic!("not stuck");
        };
        assert_eq!(reason, "holds 2 requests for 5.0 s without an answer and without CPU time");
    }

    #[test]
    fn answers_and_cpu_time_are_progress() {
        let mut progress = Progress::new(BOUND);
        progress.look(look(0, 1, 0, 0, Doing::Sleeping));
        for at in 1..100 {
            // Every 4 s an answer, in turn with some work.
            let (completed, cpu) = (at / 8, 10 * (at / 4));
            let verdict = progress.look(look(at, 1, completed, cpu, Doing::Sleeping));
            assert_eq!(verdict, Verdict::Well, "at {at} s");
        }
    }

    #[test]
    fn the_starved_are_left_alone_and_the_blocked_get_longer() {
        let mut progress = Progress::new(BOUND);
        progress.look(look(0, 1, 0, 0, Doing::Runnable));
        let starved = progress.look(look(500, 1, 0, 0, Doing::Runnable));
        assert!(matches!(starved, Verdict::Waiting(reason) if reason.contains("gets none")));
        let mut progress = Progress::new(BOUND);
        progress.look(look(0, 1, 0, 0, Doing::Blocked));
        assert!(matches!(progress.look(look(19, 1, 0, 0, Doing::Blocked)), Verdict::Waiting(_)));
        assert!(matches!(progress.look(look(20, 1, 0, 0, Doing::Blocked)), Verdict::Stuck(_)));
    }

    proptest! {
        #[test]
        fn nothing_is_stuck_before_the_bound(steps in prop::collection::vec((0..3000u64, 0..3usize, 0..2u64, 0..30u64, 0..3_usize), 1..60)) {
            let mut progress = Progress::new(BOUND);
            let (mut now, mut done, mut cpu) = (0, 0, 0);
            for (pass, held, more, used, doing) in steps {
                now += pass;
                done += more;
                cpu += used;
                let doing = [Doing::Runnable, Doing::Blocked, Doing::Sleeping][doing];
                let at = Duration::from_millis(now);
                let cpu = Duration::from_millis(cpu);
                let verdict = progress.look(Look { at, held, completed: done, cpu, doing });
                if held == 0 {
                    prop_assert_eq!(verdict, Verdict::Well);
                } else if matches!(verdict, Verdict::Stuck(_)) {
                    prop_assert!(doing != Doing::Runnable);
                    prop_assert!(now >= 5000);
                    prop_assert!(more == 0);
                }
            }
        }
    }
}
