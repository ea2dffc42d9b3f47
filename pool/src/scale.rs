//! How many instances a worker should have: pure, decided anew at every look, with the load and the
//! time passed in.
//!
//! More at once, fewer after a while: what is missing costs deadlines now, what is too much costs
//! memory. Three things ask for instances, and the largest counts: the rate of arrivals times what
//! one costs, work that will be late with those that there are, and warm spares beside those that
//! are busy.

use std::time::Duration;

use crate::config::Instances;

/// The part of an instance's time that arrivals may take; the rest absorbs that they come in
/// bunches.
const FILL: f64 = 0.7;

/// A worker's load over the last moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests that wait.
    pub queued: usize,
    /// Instances that compute.
    pub busy: usize,
    /// Requests a second, as they came lately.
    pub arrivals: f64,
    /// What one request costs an instance; absent while nothing was measured.
    pub service: Option<Duration>,
    /// Whether work was refused, dropped or will be late for want of an instance.
    pub late: bool,
}

/// What a worker should have.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    limits: Instances,
    idle: Duration,
    /// What the load asks for, and since when it asks for no more than that.
    wanted: usize,
    lower_since: Option<Duration>,
}

impl Scale {
    /// Of a worker with nothing to do; an instance too many is kept for `idle`.
    #[must_use]
    pub fn new(limits: Instances, idle: Duration) -> Self {
        let wanted = limits.min.max(limits.spare.min(limits.max));
        Self { limits, idle, wanted, lower_since: None }
    }

    /// How many instances it should have at `now`.
    pub fn decide(&mut self, now: Duration, load: &Load) -> usize {
        let asked = self.asked(load);
        if asked >= self.wanted {
            self.wanted = asked;
            self.lower_since = None;
        } else {
            let since = *self.lower_since.get_or_insert(now);
            if now.saturating_sub(since) >= self.idle {
                self.wanted = asked;
                self.lower_since = None;
            }
        }
        self.wanted
    }

    fn asked(&self, load: &Load) -> usize {
        let cost = load.service.map_or(0.0, |service| service.as_secs_f64());
        // `as` saturates and takes what is no number as 0.
        let by_rate = (load.arrivals.max(0.0) * cost / FILL).ceil() as usize;
        let waiting = usize::from(load.queued > 0);
        let by_slack = if load.late { self.wanted.max(load.busy) + 1 } else { waiting };
        let by_spare = load.busy + self.limits.spare;
        // By rate alone the last would stay as long as anything comes at all, which is right; with
        // nothing for long the rate is 0.
        by_rate.max(by_slack).max(by_spare).clamp(self.limits.min, self.limits.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn scale(min: usize, max: usize, spare: usize) -> Scale {
        Scale::new(Instances { min, max, spare }, ms(10_000))
    }

    fn load(arrivals: f64, service_ms: u64) -> Load {
        Load { arrivals, service: Some(ms(service_ms)), ..Load::default() }
    }

    #[test]
    fn the_rate_asks_for_as_many_as_it_fills_to_seven_tenths() {
        let mut worker = scale(1, 8, 0);
        assert_eq!(worker.decide(ms(0), &load(10.0, 50)), 1);
        assert_eq!(worker.decide(ms(1), &load(30.0, 50)), 3);
        assert_eq!(worker.decide(ms(2), &load(1e9, 50)), 8);
    }

    #[test]
    fn work_that_will_be_late_asks_for_one_more_at_each_look() {
        let mut worker = scale(1, 3, 0);
        let late = Load { queued: 9, busy: 1, late: true, ..Load::default() };
        let counts: Vec<_> = (0..4).map(|look| worker.decide(ms(250 * look), &late)).collect();
        assert_eq!(counts, [2, 3, 3, 3]);
    }

    #[test]
    fn background_work_starts_its_worker_and_an_idle_one_goes() {
        let mut worker = scale(0, 1, 0);
        assert_eq!(worker.decide(ms(0), &Load::default()), 0);
        assert_eq!(worker.decide(ms(1), &Load { queued: 1, ..Load::default() }), 1);
        assert_eq!(worker.decide(ms(2), &Load { busy: 1, ..Load::default() }), 1);
        assert_eq!(worker.decide(ms(100), &Load::default()), 1);
        assert_eq!(worker.decide(ms(10_099), &Load::default()), 1);
        assert_eq!(worker.decide(ms(10_100), &Load::default()), 0);
    }

    #[test]
    fn spares_stand_beside_those_that_are_busy() {
        let mut worker = scale(1, 4, 1);
        assert_eq!(worker.decide(ms(0), &Load { busy: 1, ..Load::default() }), 2);
        assert_eq!(worker.decide(ms(1), &Load { busy: 2, ..Load::default() }), 3);
        assert_eq!(worker.decide(ms(2), &Load { busy: 4, ..Load::default() }), 4);
    }

    #[test]
    fn a_pause_in_between_does_not_count_as_idle() {
        let mut worker = scale(1, 4, 0);
        worker.decide(ms(0), &load(30.0, 50));
        for second in 1..60 {
            let now = if second % 9 == 0 { load(30.0, 50) } else { Load::default() };
            assert_eq!(worker.decide(ms(1000 * second), &now), 3, "at {second} s");
        }
    }

    proptest! {
        #[test]
        fn it_stays_in_its_limits(
            min in 0..5usize, more in 0..5usize, spare in 0..9usize,
            looks in prop::collection::vec((0..9999u64, 0..99usize, 0..9usize, any::<f64>(), any::<bool>()), 0..50),
        ) {
            let limits = Instances { min, max: (min + more).max(1), spare };
            let mut worker = Scale::new(limits, ms(1000));
            let mut now = 0;
            for (pass, queued, busy, arrivals, late) in looks {
                now += pass;
                let load = Load { queued, busy, arrivals, service: Some(ms(pass)), late };
                let count = worker.decide(ms(now), &load);
                prop_assert!((limits.min..=limits.max).contains(&count));
                prop_assert!(queued == 0 || count > 0, "work waits and nothing is there");
            }
        }
    }
}
