//! What the kernel programs cost. The kernel's run statistics cost about 25 ns an event
//! themselves, so they are on for one second of eight, and what ran in between is estimated from
//! the rate in the last window. Pure.

use std::time::Duration;

use downbeat_api::BpfProgram;

/// How long the statistics stay on.
const WINDOW: Duration = Duration::from_secs(1);

/// How long they stay off.
const PAUSE: Duration = Duration::from_secs(7);

/// One program's counters as the kernel shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    pub(super) count: u64,
    pub(super) time_ns: u64,
}

impl Runs {
    fn since(self, earlier: Self) -> Self {
        Self {
            count: self.count.saturating_sub(earlier.count),
            time_ns: self.time_ns.saturating_sub(earlier.time_ns),
        }
    }
}

/// What should become of the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Leave them as they are.
    Keep,
    /// Switch them on; then [`CostSampler::opened`].
    Open,
    /// Read the counters, switch them off; then [`CostSampler::closed`].
    Close,
}

/// Turns counters that are only sometimes on into totals since the start.
#[derive(Debug)]
pub(super) struct CostSampler {
    phase: Phase,
    programs: Vec<Estimate>,
}

#[derive(Debug)]
enum Phase {
    /// Off since then; `None` before the first window.
    Off(Option<Duration>),
    /// On since then.
    On(Duration),
}

#[derive(Clone, Copy, Debug, Default)]
struct Estimate {
    /// Totals up to the start of the present phase.
    count: f64,
    time_ns: f64,
    /// Per second, in the last window.
    count_rate: f64,
    time_rate: f64,
    /// Counters at the start of the window, if one is open.
    at_open: Runs,
    /// What the windows saw, without estimates.
    sampled: Runs,
}

impl CostSampler {
    pub(super) fn new(programs: usize) -> Self {
        Self { phase: Phase::Off(None), programs: vec![Estimate::default(); programs] }
    }

    /// What is due at `now`.
    pub(super) fn step(&self, now: Duration) -> Step {
        match self.phase {
            Phase::Off(None) => Step::Open,
            Phase::Off(Some(since)) if now.saturating_sub(since) >= PAUSE => Step::Open,
            Phase::On(since) if now.saturating_sub(since) >= WINDOW => Step::Close,
            Phase::Off(_) | Phase::On(_) => Step::Keep,
        }
    }

    /// The statistics are on since `now`, and the counters stood at `runs`.
    pub(super) fn opened(&mut self, now: Duration, runs: &[Runs]) {
        let off = match self.phase {
            Phase::Off(Some(since)) => now.saturating_sub(since).as_secs_f64(),
            Phase::Off(None) | Phase::On(_) => 0.0,
        };
        for (program, runs) in self.programs.iter_mut().zip(runs) {
            program.count += program.count_rate * off;
            program.time_ns += program.time_rate * off;
            program.at_open = *runs;
        }
        self.phase = Phase::On(now);
    }

    /// The statistics are off since `now`, and the counters stood at `runs`.
    pub(super) fn closed(&mut self, now: Duration, runs: &[Runs]) {
        let Phase::On(since) = self.phase else { return };
        let on = now.saturating_sub(since).as_secs_f64().max(f64::EPSILON);
        for (program, runs) in self.programs.iter_mut().zip(runs) {
            let seen = runs.since(program.at_open);
            program.count += seen.count as f64;
            program.time_ns += seen.time_ns as f64;
            program.count_rate = seen.count as f64 / on;
            program.time_rate = seen.time_ns as f64 / on;
            program.sampled.count += seen.count;
            program.sampled.time_ns += seen.time_ns;
        }
        self.phase = Phase::Off(Some(now));
    }

    /// Totals at `now`, in the order of `names`; never less than before. `runs` are the counters
    /// while the statistics are on, else unused.
    pub(super) fn totals(&self, now: Duration, names: &[&str], runs: &[Runs]) -> Vec<BpfProgram> {
        let programs = self.programs.iter().zip(names).enumerate();
        programs
            .map(|(index, (program, name))| {
                let (mut count, mut time_ns) = (program.count, program.time_ns);
                let mut sampled = program.sampled;
                match self.phase {
                    Phase::On(_) => {
                        let seen =
                            runs.get(index).map_or(Runs::default(), |r| r.since(program.at_open));
                        count += seen.count as f64;
                        time_ns += seen.time_ns as f64;
                        sampled.count += seen.count;
                        sampled.time_ns += seen.time_ns;
                    }
                    Phase::Off(since) => {
                        let off = now.saturating_sub(since.unwrap_or(now)).as_secs_f64();
                        count += program.count_rate * off;
                        time_ns += program.time_rate * off;
                    }
                }
                BpfProgram {
                    name: (*name).to_owned(),
                    runs: count as u64,
                    run_seconds: time_ns / 1e9,
                    mean_ns: (sampled.count > 0)
                        .then(|| sampled.time_ns as f64 / sampled.count as f64),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn runs(count: u64) -> [Runs; 1] {
        [Runs { count, time_ns: count * 50 }]
    }

    fn total(sampler: &CostSampler, now: f64, count: u64) -> BpfProgram {
        sampler.totals(at(now), &["sched_switch"], &runs(count)).remove(0)
    }

    #[test]
    fn statistics_are_on_for_a_second_of_eight() {
        let mut sampler = CostSampler::new(1);
        let mut on = 0;
        for tick in 0..320 {
            let now = at(f64::from(tick) * 0.25);
            match sampler.step(now) {
                Step::Open => sampler.opened(now, &runs(0)),
                Step::Close => sampler.closed(now, &runs(0)),
                Step::Keep => {}
            }
            on += u32::from(matches!(sampler.phase, Phase::On(_)));
        }
        assert_eq!(on, 40);
    }

    #[test]
    fn a_steady_rate_is_told_as_if_it_had_been_counted_all_along() {
        let mut sampler = CostSampler::new(1);
        sampler.opened(at(0.0), &runs(0));
        assert_eq!(total(&sampler, 0.5, 500).runs, 500);
        sampler.closed(at(1.0), &runs(1_000));
        assert_eq!(total(&sampler, 4.0, 0).runs, 4_000);
        sampler.opened(at(8.0), &runs(1_000));
        sampler.closed(at(9.0), &runs(2_000));
        let told = total(&sampler, 10.0, 0);
        assert_eq!(told.runs, 10_000);
        assert!((told.run_seconds - 10_000.0 * 50e-9).abs() < 1e-9);
        assert_eq!(told.mean_ns, Some(50.0));
    }

    #[test]
    fn totals_never_fall_when_the_load_goes() {
        let mut sampler = CostSampler::new(1);
        sampler.opened(at(0.0), &runs(0));
        sampler.closed(at(1.0), &runs(1_000));
        let before = total(&sampler, 8.0, 0).runs;
        sampler.opened(at(8.0), &runs(1_000));
        sampler.closed(at(9.0), &runs(1_000));
        assert_eq!(total(&sampler, 9.0, 0).runs, before);
        assert_eq!(total(&sampler, 15.0, 0).runs, before);
    }

    #[test]
    fn nothing_is_claimed_before_the_first_window() {
        let sampler = CostSampler::new(1);
        assert_eq!(total(&sampler, 3.0, 0).mean_ns, None);
    }
}
