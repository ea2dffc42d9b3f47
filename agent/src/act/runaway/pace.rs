//! Whether a thread paused, from its run time now and then.

use std::time::Duration;

/// One thread since it last paused, as far as that can be seen.
#[derive(Debug)]
pub(super) struct Pace {
    /// Absent before the first look.
    base: Option<Base>,
    limit: Duration,
    /// Time off the CPU that is no pause: the kernel counts that late.
    slack: Duration,
}

/// From when on a thread may have run on end.
#[derive(Clone, Copy, Debug)]
struct Base {
    at: Duration,
    /// Its run time then.
    ran: Duration,
    /// How often it had slept by its own wish, where that was read.
    sleeps: Option<u64>,
}

/// What a look says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was off its CPU since the last look.
    Paused,
    /// It may have run all the time, and is a runaway if it still does then.
    OnEndUntil(Duration),
    /// It ran for so long on end.
    Runaway(Duration),
}

impl Pace {
    pub(super) fn new(limit: Duration, tick: Duration) -> Self {
        Self { base: None, limit, slack: tick + Duration::from_millis(1) }
    }

    /// It is known to have paused: what it ran before says nothing any more.
    pub(super) fn slept(&mut self) {
        if self.base.is_some() {
            self.base = None;
        }
    }

    /// Takes in its run time `ran`, read at `now`. `sleeps` reads how often it slept by its own wish;
    /// that is dear, so it is asked only of a thread that runs much.
    ///
    /// Time off the CPU alone is no pause: the hypervisor may have stolen the CPU, other real-time
    /// threads may have had it, or the kernel holds all of real time to its share.
    pub(super) fn look(
        &mut self,
        now: Duration,
        ran: Duration,
        sleeps: impl FnOnce() -> Option<u64>,
    ) -> Verdict {
        let from = |at, ran, sleeps| Base { at, ran, sleeps };
        let Some(base) = &mut self.base else {
            self.base = Some(from(now, ran, None));
            return Verdict::Paused;
        };
        let elapsed = now.saturating_sub(base.at);
        let had = ran.saturating_sub(base.ran);
        if elapsed.saturating_sub(had) <= self.slack {
            if elapsed >= self.limit {
                return Verdict::Runaway(elapsed);
            }
            base.sleeps = base.sleeps.or_else(sleeps);
            return Verdict::OnEndUntil(base.at + self.limit);
        }
        if had * 4 < elapsed {
            *base = from(now, ran, None);
            return Verdict::Paused;
        }
        let sleeps = sleeps();
        // Without a count from then, a look from now on will tell.
        if sleeps.is_none() || sleeps != base.sleeps {
            *base = from(now, ran, sleeps);
            return Verdict::Paused;
        }
        if had >= self.limit {
            return Verdict::Runaway(had);
        }
        Verdict::OnEndUntil(now + (self.limit - had))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn pace() -> Pace {
        Pace::new(ms(50), ms(4))
    }

    /// Looks each 40 ms, and when a verdict says so, for ten seconds, at a thread whose run time and
    /// sleeps at a millisecond these tell; when it was taken for a runaway.
    fn runaway_at(ran: impl Fn(u64) -> u64, sleeps: impl Fn(u64) -> u64) -> Option<u64> {
        let mut pace = pace();
        let mut now = 0;
        while now < 10_000 {
            let next = match pace.look(ms(now), ms(ran(now)), || Some(sleeps(now))) {
                Verdict::Runaway(_) => return Some(now),
                Verdict::OnEndUntil(due) => u64::try_from(due.as_millis()).unwrap().min(now + 40),
                Verdict::Paused => now + 40,
            };
            now = next.max(now + 1);
        }
        None
    }

    #[test]
    fn one_that_never_pauses_is_a_runaway_when_its_time_is_up() {
        let mut pace = pace();
        let look = |pace: &mut Pace, now, ran| pace.look(ms(now), ms(ran), || None);
        assert_eq!(look(&mut pace, 40, 1000), Verdict::Paused, "nothing is known yet");
        assert_eq!(look(&mut pace, 80, 1037), Verdict::OnEndUntil(ms(90)));
        assert_eq!(look(&mut pace, 90, 1047), Verdict::Runaway(ms(50)));
    }

    #[test]
    fn a_frame_that_takes_most_of_its_period_is_none() {
        // 27 of 33 ms, also where half of every millisecond is stolen.
        let frame = |now: u64| now / 33 * 27 + (now % 33).min(27);
        assert_eq!(runaway_at(frame, |now| (now + 6) / 33), None);
        let stolen = |now: u64| now / 66 * 27 + (now % 66).min(54) / 2;
        assert_eq!(runaway_at(stolen, |now| (now + 12) / 66), None);
    }

    #[test]
    fn a_hog_whose_cpu_is_stolen_is_a_runaway_all_the_same() {
        // A third of the time is stolen, in pieces of 10 ms, and it slept often before.
        let stolen = |now: u64| now / 30 * 20 + (now % 30).min(20);
        let found = runaway_at(stolen, |_| 712).expect("it never sleeps");
        assert!(found <= 160, "{found} ms");
        // Half of it in pieces of 100 ms: later, and not never.
        let halves = |now: u64| now / 200 * 100 + (now % 200).min(100);
        assert!(runaway_at(halves, |_| 712).is_some());
    }

    #[test]
    fn a_pause_starts_the_count_anew() {
        let mut pace = pace();
        let look = |pace: &mut Pace, now, ran, sleeps| pace.look(ms(now), ms(ran), || Some(sleeps));
        look(&mut pace, 0, 0, 5);
        assert_eq!(look(&mut pace, 40, 40, 5), Verdict::OnEndUntil(ms(50)));
        assert_eq!(look(&mut pace, 50, 44, 6), Verdict::Paused);
        assert_eq!(look(&mut pace, 90, 84, 6), Verdict::OnEndUntil(ms(100)));
    }

    #[test]
    fn who_is_known_to_sleep_is_not_read_and_a_runaway_is_found_in_time() {
        let mut pace = pace();
        // Jobs that every look but one happens to find at work, and it slept before each.
        for now in [0, 40] {
            assert_eq!(pace.look(ms(now), ms(now), || Some(now)), Verdict::Paused, "{now} ms");
            pace.slept();
        }
        // From just after the look at 80 ms on it never pauses.
        pace.slept();
        let look = |pace: &mut Pace, now| pace.look(ms(now), ms(1000 + now), || Some(7));
        assert_eq!(look(&mut pace, 120), Verdict::Paused, "nothing is known yet");
        assert_eq!(look(&mut pace, 160), Verdict::OnEndUntil(ms(170)));
        assert_eq!(look(&mut pace, 170), Verdict::Runaway(ms(50)));
    }

    #[test]
    fn who_sleeps_most_of_the_time_costs_no_look_at_its_sleeps() {
        let mut pace = pace();
        for now in (0..1000).step_by(40) {
            let verdict = pace.look(ms(now), ms(now / 5), || panic!("asked at {now} ms"));
            assert_eq!(verdict, Verdict::Paused);
        }
    }
}
