//! How much background work an arrangement leaves, against the same load without downbeat.
//!
//! A stream that comes late drops frames, and what it does not compute the background work gets.
//! So the plain ratio credits the arrangement that misses frames with the work that it failed to
//! do. The second ratio is of the work per CPU-second that the frames left: the CPU time that the
//! streams used (by the kernel's clock of their processes), that the hypervisor took and that
//! programs outside the demo used are taken off what the CPUs had. Not taken off are the agent's
//! own CPU time, idle CPUs, lost caches: what an arrangement costs counts against it. What a
//! frame costs is in the report beside it, so that nothing hides there either.
//!
//! A shared machine is faster in one minute than in the next. Rounds are therefore compared with
//! the disengaged round of the same turn, seconds apart, and the median of these ratios counts.

use serde::Serialize;

use super::report::{Arrangement, Round};

/// One arrangement's background work against disengaged.
#[derive(Clone, Debug, Serialize)]
pub struct WorkComparison {
    /// Which is compared.
    pub arrangement: Arrangement,
    /// Work per second.
    pub plain: Ratio,
    /// Work per CPU-second that neither the frames nor anything outside the demo took.
    pub per_cpu_second_left: Ratio,
}

/// Ratios of pairs of rounds; 1 is no difference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Median of the pairs.
    pub median: f64,
    /// The pair in which it was lowest.
    pub lowest: f64,
    /// The pair in which it was highest.
    pub highest: f64,
    /// Each pair, in order of time.
    pub pairs: Vec<f64>,
}

impl WorkComparison {
    /// Compares the rounds of `arrangement` with the disengaged ones of the same turns; nothing
    /// where there are none.
    pub fn new(arrangement: Arrangement, rounds: &[Round]) -> Option<Self> {
        let of = |which| rounds.iter().filter(move |round| round.arrangement == which);
        let ratio = |measure: fn(&Round) -> Option<f64>| {
            let pairs = of(arrangement).zip(of(Arrangement::Disengaged));
            Ratio::new(
                pairs
                    .filter_map(|(with, without)| Some(measure(with)? / measure(without)?))
                    .filter(|ratio| ratio.is_finite())
                    .collect(),
            )
        };
        Some(Self {
            arrangement,
            plain: ratio(|round| Some(round.work_per_second))?,
            per_cpu_second_left: ratio(Round::work_per_cpu_second_left)?,
        })
    }
}

impl Ratio {
    fn new(pairs: Vec<f64>) -> Option<Self> {
        Some(Self {
            median: (!pairs.is_empty()).then(|| median(pairs.clone()))?,
            lowest: pairs.iter().copied().min_by(f64::total_cmp)?,
            highest: pairs.iter().copied().max_by(f64::total_cmp)?,
            pairs,
        })
    }
}

impl Round {
    /// Units of background work per CPU-second that neither the streams, the hypervisor nor other
    /// programs took; nothing where they took it all.
    pub fn work_per_cpu_second_left(&self) -> Option<f64> {
        let streams: f64 = self.streams.iter().map(|stream| stream.cpu_seconds).sum();
        let left = self.cpus as f64 * (1.0 - self.steal - self.others) - streams / self.seconds;
        (left > 0.0).then(|| self.work_per_second / left)
    }
}

/// The middle value, or the mean of the two middle ones; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Stream;
    use super::*;

    /// Of 2 s on 2 CPUs.
    fn round(arrangement: Arrangement, work_per_second: f64, stream_cpu_seconds: f64) -> Round {
        let stream = |cpu_seconds| Stream {
            name: "mic".into(),
            deadline_ns: 10,
            frames: Vec::new(),
            cpu_seconds,
        };
        Round {
            arrangement,
            seconds: 2.0,
            cpus: 2,
            steal: 0.0,
            others: 0.0,
            work_per_second,
            late_jobs: Vec::new(),
            streams: vec![stream(stream_cpu_seconds / 2.0), stream(stream_cpu_seconds / 2.0)],
        }
    }

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn work_that_fell_to_the_hogs_from_dropped_frames_is_no_loss_when_they_are_computed() {
        // 100 units a CPU-second, be it 1.8 CPUs that are left or 1.6.
        let rounds =
            [round(Arrangement::Disengaged, 180.0, 0.4), round(Arrangement::Engaged, 160.0, 0.8)];
        let work = WorkComparison::new(Arrangement::Engaged, &rounds).unwrap();
        assert!(close(work.plain.median, 160.0 / 180.0), "{work:?}");
        assert!(close(work.per_cpu_second_left.median, 1.0), "{work:?}");
    }

    #[test]
    fn cpu_time_that_nobody_used_is_a_loss_in_both_ratios() {
        let rounds =
            [round(Arrangement::Disengaged, 180.0, 0.4), round(Arrangement::Engaged, 90.0, 0.4)];
        let work = WorkComparison::new(Arrangement::Engaged, &rounds).unwrap();
        assert!(close(work.plain.median, 0.5), "{work:?}");
        assert!(close(work.per_cpu_second_left.median, 0.5), "{work:?}");
    }

    #[test]
    fn rounds_are_compared_within_their_turn_and_whatever_the_order_in_it() {
        // A machine twice as fast in the second turn: medians of each would say something else.
        let rounds = [
            round(Arrangement::Disengaged, 100.0, 0.0),
            round(Arrangement::Engaged, 99.0, 0.0),
            round(Arrangement::Engaged, 198.0, 0.0),
            round(Arrangement::Disengaged, 200.0, 0.0),
            round(Arrangement::Disengaged, 100.0, 0.0),
            round(Arrangement::Engaged, 97.0, 0.0),
        ];
        let plain = WorkComparison::new(Arrangement::Engaged, &rounds).unwrap().plain;
        assert_eq!(plain.pairs, [0.99, 0.99, 0.97]);
        assert_eq!((plain.median, plain.lowest, plain.highest), (0.99, 0.97, 0.99));
    }

    #[test]
    fn time_taken_from_outside_was_not_left_and_without_rounds_there_is_nothing_to_compare() {
        let mut stolen = round(Arrangement::Disengaged, 90.0, 0.4);
        (stolen.steal, stolen.others) = (0.3, 0.2);
        let left = stolen.work_per_cpu_second_left().unwrap();
        assert!(close(left, 90.0 / 0.8), "{left}");
        stolen.steal = 0.75;
        assert_eq!(stolen.work_per_cpu_second_left(), None);
        assert!(WorkComparison::new(Arrangement::Engaged, &[stolen]).is_none());
    }
}
