//! Histograms of run-queue waits and other short times, on the scale of [`downbeat_abi`].

use downbeat_abi::{BUCKETS, Waits, bucket_of, upper_bound};
use downbeat_api::WaitSummary;

/// The first bucket of the coarse scale ends just below 1.024 µs.
const COARSE_FIRST: usize = 63;

/// Buckets of the fine scale in one of the coarse scale: a power of two.
const COARSE_STEP: usize = 8;

/// How often times of each length were seen. A quantile is the upper bound of its bucket, at
/// most 1/8 above the true one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    sum_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), sum_ns: 0 }
    }
}

impl Histogram {
    /// From counts by bucket and the sum of what they count, nanoseconds.
    #[must_use]
    pub fn new(waits: &Waits, sum_ns: u64) -> Self {
        Self { buckets: Box::new(waits.buckets), sum_ns }
    }

    /// From counts of consecutive buckets, the first of which is bucket `first`; what lies beyond
    /// the scale counts in its last bucket. `sum_ns` is the sum of what they count.
    #[must_use]
    pub fn from_counts(first: usize, counts: &[u32], sum_ns: u64) -> Self {
        let mut histogram = Self { sum_ns, ..Self::default() };
        for (index, times) in counts.iter().enumerate() {
            histogram.buckets[(first + index).min(BUCKETS - 1)] += u64::from(*times);
        }
        histogram
    }

    /// Counts one time.
    pub fn record(&mut self, ns: u64) {
        self.buckets[bucket_of(ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// What came since `earlier`, a former state of this histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = self.clone();
        for (bucket, before) in difference.buckets.iter_mut().zip(earlier.buckets.iter()) {
            *bucket = bucket.saturating_sub(*before);
        }
        difference.sum_ns = self.sum_ns.saturating_sub(earlier.sum_ns);
        difference
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *bucket = bucket.saturating_add(*more);
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// Times counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum, nanoseconds.
    #[must_use]
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// The time in nanoseconds that a share of `quantile` (0 to 1) of all stays at or below;
    /// absent when nothing was counted.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let count = self.count();
        // At least the first, at most the last; the cast saturates.
        let rank = ((quantile * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        self.buckets.iter().enumerate().find_map(|(bucket, times)| {
            seen += times;
            (seen >= rank).then(|| upper_bound(bucket))
        })
    }

    /// Upper bound of the highest bucket that is not empty, nanoseconds.
    #[must_use]
    pub fn max_ns(&self) -> Option<u64> {
        self.buckets.iter().rposition(|times| *times > 0).map(upper_bound)
    }

    /// The figures that are shown.
    #[must_use]
    pub fn summary(&self) -> WaitSummary {
        WaitSummary {
            count: self.count(),
            sum_ns: self.sum_ns,
            p50_ns: self.quantile(0.5),
            p99_ns: self.quantile(0.99),
            max_ns: self.max_ns(),
        }
    }

    /// `(upper bound in ns, times at or below it)` per power of two from 1 µs on, ascending; the
    /// last bound is `u64::MAX`. Few enough for Prometheus, and exact, since each bound is the
    /// last value of a bucket.
    #[must_use]
    pub fn cumulative(&self) -> Vec<(u64, u64)> {
        let mut seen = 0;
        let mut bounds = Vec::with_capacity((BUCKETS - COARSE_FIRST) / COARSE_STEP + 1);
        for (bucket, times) in self.buckets.iter().enumerate() {
            seen += times;
            if bucket >= COARSE_FIRST && (bucket - COARSE_FIRST).is_multiple_of(COARSE_STEP) {
                bounds.push((upper_bound(bucket), seen));
            }
        }
        bounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for ns in times {
            histogram.record(*ns);
        }
        histogram
    }

    #[test]
    fn an_empty_histogram_has_no_quantiles() {
        assert_eq!(Histogram::default().summary(), WaitSummary::default());
    }

    #[test]
    fn quantiles_are_at_most_an_eighth_too_high() {
        let times: Vec<u64> = (1..=1000).map(|i| i * 10_000).collect();
        let histogram = of(&times);
        for (quantile, exact) in
            [(0.0, 10_000), (0.5, 5_000_000), (0.99, 9_900_000), (1.0, 10_000_000)]
        {
            let told = histogram.quantile(quantile).unwrap();
            assert!(told >= exact && told - exact <= exact / 8, "{quantile}: {told} for {exact}");
        }
        assert_eq!(histogram.sum_ns(), times.iter().sum::<u64>());
    }

    #[test]
    fn counts_from_the_middle_of_the_scale_keep_their_lengths() {
        let first = bucket_of(1_000_000);
        let histogram = Histogram::from_counts(first, &[2, 0, 1], 7);
        let mut expected = of(&[1_000_000, 1_000_000, upper_bound(first + 2)]);
        expected.sum_ns = 7;
        assert_eq!(histogram, expected);
        assert_eq!(Histogram::from_counts(BUCKETS - 1, &[1, 1], 0).count(), 2);
    }

    #[test]
    fn an_interval_is_what_came_since() {
        let before = of(&[1_000, 2_000]);
        let mut after = before.clone();
        after.record(7_000_000);
        assert_eq!(after.since(&before), of(&[7_000_000]));
        let mut merged = before.clone();
        merged.merge(&after.since(&before));
        assert_eq!(merged, after);
    }

    #[test]
    fn cumulative_bounds_ascend_from_a_microsecond_and_end_with_everything() {
        let histogram = of(&[0, 1_000, 1_023, 1_024, 2_000_000, u64::MAX]);
        let bounds = histogram.cumulative();
        assert_eq!(bounds.first(), Some(&(1_023, 3)));
        assert_eq!(bounds.last(), Some(&(u64::MAX, 6)));
        assert!(bounds.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
        assert_eq!(bounds.len(), 25);
    }
}
