//! Whether a thread paused, from its run time now and then.

use std::time::Duration;

/// One thread's run time since it last paused, as far as that can be seen.
#[derive(Debug)]
pub(super) struct Pace {
    /// When it is known to have run from, and its run time then; absent before the first look.
    base: Option<(Duration, Duration)>,
    limit: Duration,
    /// Time off the CPU that is no pause: the kernel counts that late.
    slack: Duration,
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

    /// Takes in its run time `ran`, read at `now`.
    pub(super) fn look(&mut self, now: Duration, ran: Duration) -> Verdict {
        let Some((from, ran_then)) = self.base else {
            self.base = Some((now, ran));
            return Verdict::Paused;
        };
        let on_end = now.saturating_sub(from);
        let off = on_end.saturating_sub(ran.saturating_sub(ran_then));
        if off > self.slack {
            self.base = Some((now, ran));
            return Verdict::Paused;
        }
        if on_end >= self.limit {
            return Verdict::Runaway(on_end);
        }
        Verdict::OnEndUntil(from + self.limit)
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

    #[test]
    fn one_that_never_pauses_is_a_runaway_when_its_time_is_up() {
        let mut pace = pace();
        assert_eq!(pace.look(ms(40), ms(1000)), Verdict::Paused, "nothing is known yet");
        assert_eq!(pace.look(ms(80), ms(1037)), Verdict::OnEndUntil(ms(90)));
        assert_eq!(pace.look(ms(90), ms(1047)), Verdict::Runaway(ms(50)));
    }

    #[test]
    fn a_frame_that_takes_most_of_its_period_is_none() {
        // 27 of 33 ms, looked at each 40 ms, for ten seconds.
        let mut pace = pace();
        let ran = |now: u64| ms(now / 33 * 27 + (now % 33).min(27));
        for now in (0..10_000).step_by(40) {
            let verdict = pace.look(ms(now), ran(now));
            assert!(!matches!(verdict, Verdict::Runaway(_)), "at {now} ms");
            if let Verdict::OnEndUntil(due) = verdict {
                let due = u64::try_from(due.as_millis()).unwrap();
                let again = pace.look(ms(due), ran(due));
                assert!(!matches!(again, Verdict::Runaway(_)), "at {due} ms");
            }
        }
    }

    #[test]
    fn a_pause_starts_the_count_anew() {
        let mut pace = pace();
        pace.look(ms(0), ms(0));
        assert_eq!(pace.look(ms(40), ms(40)), Verdict::OnEndUntil(ms(50)));
        assert_eq!(pace.look(ms(50), ms(44)), Verdict::Paused);
        assert_eq!(pace.look(ms(90), ms(84)), Verdict::OnEndUntil(ms(100)));
    }
}
