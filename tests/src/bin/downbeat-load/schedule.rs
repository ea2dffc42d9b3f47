//! When the jobs of a load are due.

use fastrand::Rng;

/// How the gaps between releases come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gaps {
    /// All alike, but for a share of releases that are left out.
    Regular {
        /// 0 to 1, without 1.
        skip: f64,
    },
    /// Exponential around the period, as of independent events.
    Exponential,
}

/// Release times in ascending order, `CLOCK_MONOTONIC` nanoseconds. The first is one period after
/// the beginning.
#[derive(Clone, Debug)]
pub struct Schedule {
    at: u64,
    end: u64,
    period: u64,
    gaps: Gaps,
    random: Rng,
}

impl Schedule {
    /// From `begin` until `end`, with a (mean) gap of `period`, all in nanoseconds. The same
    /// `seed` gives the same gaps.
    pub fn new(begin: u64, end: u64, period: u64, gaps: Gaps, seed: u64) -> Self {
        Self { at: begin, end, period, gaps, random: Rng::with_seed(seed) }
    }

    /// How many releases there will be, roughly.
    pub fn expected(&self) -> usize {
        usize::try_from(self.end.saturating_sub(self.at) / self.period).unwrap_or(0)
    }

    /// The gap, where all are alike.
    pub fn interval(&self) -> Option<u64> {
        (self.gaps == Gaps::Regular { skip: 0.0 }).then_some(self.period)
    }

    fn gap(&mut self) -> u64 {
        match self.gaps {
            Gaps::Regular { skip } => {
                let mut gap = self.period;
                while self.random.f64() < skip {
                    gap += self.period;
                }
                gap
            }
            // The logarithm's argument lies above 0 and at most at 1.
            Gaps::Exponential => (-(1.0 - self.random.f64()).ln() * self.period as f64) as u64,
        }
    }
}

impl Iterator for Schedule {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.at += self.gap();
        (self.at < self.end).then_some(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: u64 = 100_000_000;

    fn gaps(gaps: Gaps) -> Vec<u64> {
        let all: Vec<u64> = Schedule::new(500, LONG, 1000, gaps, 7).collect();
        assert!(all.last().is_some_and(|&last| last < LONG));
        all.windows(2).map(|two| two[1] - two[0]).collect()
    }

    #[test]
    fn regular_releases_lie_on_the_grid_from_the_beginning() {
        let all: Vec<u64> =
            Schedule::new(500, 4000, 1000, Gaps::Regular { skip: 0.0 }, 7).collect();
        assert_eq!(all, [1500, 2500, 3500]);
    }

    #[test]
    fn skipped_releases_leave_whole_periods() {
        let gaps = gaps(Gaps::Regular { skip: 0.1 });
        assert!(gaps.iter().all(|gap| gap % 1000 == 0));
        let long = gaps.iter().filter(|&&gap| gap > 1000).count() as f64 / gaps.len() as f64;
        assert!((0.09..0.11).contains(&long), "{long}");
    }

    #[test]
    fn exponential_gaps_spread_as_much_as_their_mean() {
        let gaps = gaps(Gaps::Exponential);
        let mean = gaps.iter().sum::<u64>() as f64 / gaps.len() as f64;
        let square = |gap: &u64| (*gap as f64 - mean).powi(2);
        let spread = (gaps.iter().map(square).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((970.0..1030.0).contains(&mean), "{mean}");
        assert!((0.95..1.05).contains(&(spread / mean)), "{spread}");
    }
}
