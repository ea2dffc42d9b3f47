//! Threads that lost their real time since they ran on end, and may have it again: a program that
//! loads its model does nothing else for seconds, and carries frames afterwards.

use std::collections::HashMap;
use std::time::Duration;

use crate::act::ThreadId;
use crate::observe::run_times::RunTimes;

/// For so long a thread must be calm before it has its real time again, the first time; twice as
/// long after each time that it ran away again.
const FIRST: Duration = Duration::from_secs(2);

/// … but not longer than this.
const LONGEST: Duration = Duration::from_secs(64);

/// What a look sees of a thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) times: RunTimes,
    /// How often it slept by its own wish.
    pub(super) sleeps: u64,
}

/// All of them, by thread.
#[derive(Debug, Default)]
pub(super) struct Probations {
    threads: HashMap<u32, Probation>,
}

#[derive(Debug)]
struct Probation {
    thread: ThreadId,
    /// How often it lost its real time.
    demotions: u32,
    /// Whether it has none now.
    waits: bool,
    /// The last look.
    last: Option<(Duration, Seen)>,
    /// How long it has been calm.
    calm: Duration,
}

impl Probations {
    /// This thread lost its real time. Returns how long it must be calm to have it again.
    pub(super) fn begin(&mut self, thread: ThreadId) -> Duration {
        let known = self.threads.get(&thread.tid).filter(|known| known.thread == thread);
        let demotions = known.map_or(0, |known| known.demotions) + 1;
        let probation =
            Probation { thread, demotions, waits: true, last: None, calm: Duration::ZERO };
        let needs = probation.needs();
        self.threads.insert(thread.tid, probation);
        needs
    }

    /// Looks at each thread, which `read` does while it lives. Returns those that may have their real
    /// time again. `now` is on any clock that never goes back.
    pub(super) fn look(
        &mut self,
        now: Duration,
        mut read: impl FnMut(ThreadId) -> Option<Seen>,
    ) -> Vec<ThreadId> {
        let mut over = Vec::new();
        self.threads.retain(|_, probation| {
            let Some(seen) = read(probation.thread) else { return false };
            if probation.waits && probation.is_over(now, seen) {
                probation.waits = false;
                over.push(probation.thread);
            }
            true
        });
        over
    }
}

impl Probation {
    fn needs(&self) -> Duration {
        let doubled = 2_u32.saturating_pow(self.demotions.saturating_sub(1));
        FIRST.saturating_mul(doubled).min(LONGEST)
    }

    /// Takes in a look. A thread is calm while it sleeps for at least half of the time: one that
    /// only waits for a CPU is not, nor one whose CPU is stolen by the hypervisor, which counts
    /// neither as running nor as waiting.
    fn is_over(&mut self, now: Duration, seen: Seen) -> bool {
        if let Some((then, before)) = self.last.replace((now, seen)) {
            let elapsed = now.saturating_sub(then);
            let ran = seen.times.ran.saturating_sub(before.times.ran);
            let busy = ran + seen.times.waited.saturating_sub(before.times.waited);
            let sleeps = ran.is_zero() || seen.sleeps > before.sleeps;
            let is_calm = sleeps && busy * 2 <= elapsed;
            self.calm = if is_calm { self.calm + elapsed } else { Duration::ZERO };
        }
        self.calm >= self.needs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREAD: ThreadId = ThreadId { pid: 7, tid: 7, start_time: 1 };

    /// Looks once a second at a thread that ran and waited so many milliseconds in each, and slept
    /// so often; the second in which it may have its real time again.
    fn over_after(probations: &mut Probations, seconds: &[(u64, u64, u64)]) -> Option<usize> {
        let times = RunTimes { ran: Duration::ZERO, waited: Duration::ZERO };
        let mut seen = Seen { times, sleeps: 9 };
        probations.look(Duration::ZERO, |_| Some(seen));
        seconds.iter().enumerate().find_map(|(n, (ran, waited, sleeps))| {
            seen.times.ran += Duration::from_millis(*ran);
            seen.times.waited += Duration::from_millis(*waited);
            seen.sleeps += sleeps;
            let over = probations.look(Duration::from_secs(n as u64 + 1), |_| Some(seen));
            (over == [THREAD]).then_some(n + 1)
        })
    }

    #[test]
    fn a_thread_that_sleeps_again_has_its_real_time_back() {
        let mut probations = Probations::default();
        assert_eq!(probations.begin(THREAD), FIRST);
        let loads_a_model = [(1000, 0, 0), (900, 50, 3), (200, 0, 30), (200, 0, 30)];
        assert_eq!(over_after(&mut probations, &loads_a_model), Some(4));
    }

    #[test]
    fn one_that_only_waits_for_a_cpu_is_not_calm() {
        let mut probations = Probations::default();
        probations.begin(THREAD);
        assert_eq!(over_after(&mut probations, &[(10, 900, 4); 10]), None);
    }

    #[test]
    fn one_whose_cpu_is_stolen_is_not_calm() {
        let mut probations = Probations::default();
        probations.begin(THREAD);
        assert_eq!(over_after(&mut probations, &[(450, 0, 0); 10]), None);
    }

    #[test]
    fn each_time_it_takes_twice_as_long_up_to_a_minute() {
        let mut probations = Probations::default();
        let needs: Vec<u64> = (0..7).map(|_| probations.begin(THREAD).as_secs()).collect();
        assert_eq!(needs, [2, 4, 8, 16, 32, 64, 64]);
        assert_eq!(over_after(&mut probations, &[(0, 0, 0); 100]), Some(64));
        let another = ThreadId { start_time: 2, ..THREAD };
        assert_eq!(probations.begin(another), FIRST, "the id is another thread's");
    }

    #[test]
    fn a_thread_that_ended_is_forgotten() {
        let mut probations = Probations::default();
        probations.begin(THREAD);
        assert_eq!(probations.look(FIRST, |_| None), []);
        assert!(probations.threads.is_empty());
    }
}
