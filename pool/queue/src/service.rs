//! How long a job takes, learned from those that ended: `a·n + b` for `n` units.

use std::time::Duration;

use crate::request::Guess;

/// What one more measurement leaves of the weight of those before: half after 69 of them.
const KEEP: f64 = 0.99;
/// Deviations beyond so many times the usual one count as that many.
const CLIP: f64 = 4.0;
/// Measurements whose spread makes the margin.
const WINDOW: usize = 128;
/// The first measurements (a cold cache, a lazy library) are replaced fast.
const YOUNG: u64 = 8;

/// The service time of one model. The line is fitted by least squares on measurements that fade
/// slowly; a single wild one moves it by a few usual deviations only, a lasting change moves it all
/// the way.
#[derive(Clone, Debug)]
pub struct Fit {
    guess: Guess,
    quantile: f64,
    weight: f64,
    units: f64,
    seconds: f64,
    units_squared: f64,
    units_seconds: f64,
    deviation: f64,
    /// Measured over expected, the last [`WINDOW`] of them.
    ratios: Vec<f64>,
    next_ratio: usize,
    margin: f64,
    observations: u64,
}

impl Fit {
    /// Knows nothing but a guess.
    #[must_use]
    pub fn new(guess: Guess, quantile: f64) -> Self {
        Self {
            guess,
            quantile: quantile.clamp(0.5, 1.0),
            weight: 0.0,
            units: 0.0,
            seconds: 0.0,
            units_squared: 0.0,
            units_seconds: 0.0,
            deviation: 0.0,
            ratios: Vec::new(),
            next_ratio: 0,
            margin: 1.0,
            observations: 0,
        }
    }

    /// Measurements so far.
    #[must_use]
    pub fn observations(&self) -> u64 {
        self.observations
    }

    /// A job of `units` took so long.
    pub fn observe(&mut self, units: u32, took: Duration) {
        let n = f64::from(units.max(1));
        let measured = took.as_secs_f64();
        let taken = if self.observations < YOUNG {
            measured
        } else {
            let expected = self.mean(n);
            let usual = self.deviation.max(expected * 0.05);
            let off = measured - expected;
            self.deviation = usual * 0.9 + off.abs().min(usual * CLIP) * 0.1;
            expected + off.clamp(-usual * CLIP, usual * CLIP)
        };
        let keep = if self.observations < YOUNG { 0.8 } else { KEEP };
        for sum in [
            &mut self.weight,
            &mut self.units,
            &mut self.seconds,
            &mut self.units_squared,
            &mut self.units_seconds,
        ] {
            *sum *= keep;
        }
        self.weight += 1.0;
        self.units += n;
        self.seconds += taken;
        self.units_squared += n * n;
        self.units_seconds += n * taken;
        if self.observations < YOUNG {
            self.deviation = self.deviation * 0.5 + (measured - self.mean(n)).abs() * 0.5;
        }
        self.observations += 1;
        let ratio = measured / self.mean(n).max(1e-9);
        if self.ratios.len() < WINDOW {
            self.ratios.push(ratio);
        } else {
            self.ratios[self.next_ratio] = ratio;
            self.next_ratio = (self.next_ratio + 1) % WINDOW;
        }
        // Sorting 128 numbers at each completion would cost more than the look-ups that use it.
        if self.observations < 16 || self.observations.is_multiple_of(8) || ratio > self.margin {
            self.margin = self.spread();
        }
    }

    fn spread(&self) -> f64 {
        let mut sorted = self.ratios.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of at most 128"
        )]
        let at = ((sorted.len() as f64 * self.quantile).ceil() as usize).saturating_sub(1);
        sorted.get(at).copied().unwrap_or(1.0).clamp(1.0, 10.0)
    }

    fn mean(&self, n: f64) -> f64 {
        if self.weight == 0.0 {
            return self.guess.fixed.as_secs_f64() + self.guess.per_unit.as_secs_f64() * n;
        }
        let (units, seconds) = (self.units / self.weight, self.seconds / self.weight);
        let spread = self.units_squared / self.weight - units * units;
        if spread < 1e-3 * units * units {
            // One size only: larger ones are thought to cost in proportion (so a batch is never
            // late on a hope), smaller ones to save half of it.
            let part = n / units;
            return seconds * if part >= 1.0 { part } else { 0.5 + 0.5 * part };
        }
        let slope = (self.units_seconds / self.weight - units * seconds) / spread;
        let slope = slope.clamp(0.0, seconds / units);
        seconds + slope * (n - units)
    }

    /// What a job of `units` takes on average.
    #[must_use]
    pub fn expected(&self, units: u32) -> Duration {
        duration(self.mean(f64::from(units.max(1))))
    }

    /// What a job of `units` takes at most, in all but the slowest few of a hundred.
    #[must_use]
    pub fn cautious(&self, units: u32) -> Duration {
        duration(self.mean(f64::from(units.max(1))) * self.margin)
    }
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(is: Duration, wanted_us: f64, part: f64) {
        let is = is.as_secs_f64() * 1e6;
        assert!((is - wanted_us).abs() <= wanted_us * part, "{is} µs, wanted about {wanted_us}");
    }

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn learns_slope_and_constant() {
        let mut fit = Fit::new(Guess::default(), 0.95);
        for round in 0..200 {
            let n = [1, 2, 4, 8][round % 4];
            fit.observe(n, us(300 + 100 * u64::from(n)));
        }
        close(fit.expected(1), 400.0, 0.02);
        close(fit.expected(8), 1100.0, 0.02);
        close(fit.expected(16), 1900.0, 0.03);
    }

    #[test]
    fn one_wild_measurement_moves_it_little_and_a_lasting_change_all_the_way() {
        let mut fit = Fit::new(Guess::default(), 0.95);
        for round in 0..200 {
            fit.observe(1, us(1000 + round % 7 * 10));
        }
        fit.observe(1, us(500_000));
        close(fit.expected(1), 1030.0, 0.03);
        close(fit.cautious(1), 1060.0, 0.05);
        for _ in 0..400 {
            fit.observe(1, us(3000));
        }
        close(fit.expected(1), 3000.0, 0.05);
    }

    #[test]
    fn the_margin_covers_the_quantile() {
        let mut fit = Fit::new(Guess::default(), 0.95);
        for round in 0..1000_u64 {
            // One in ten takes twice as long.
            fit.observe(1, us(if round % 10 == 0 { 2000 } else { 1000 }));
        }
        assert!(fit.cautious(1) >= us(1900), "{:?}", fit.cautious(1));
    }

    #[test]
    fn of_one_size_seen_larger_ones_cost_in_proportion() {
        let mut fit = Fit::new(Guess::default(), 0.95);
        for _ in 0..20 {
            fit.observe(4, us(4000));
        }
        close(fit.expected(8), 8000.0, 0.01);
        close(fit.expected(1), 2500.0, 0.01);
    }

    #[test]
    fn knows_the_guess_until_the_first_measurement() {
        let guess = Guess { per_unit: us(10), fixed: us(5) };
        let mut fit = Fit::new(guess, 0.95);
        close(fit.expected(3), 35.0, 0.001);
        fit.observe(1, us(700));
        close(fit.expected(1), 700.0, 0.001);
    }
}
