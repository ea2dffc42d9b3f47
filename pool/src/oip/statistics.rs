//! What was asked of each model and what became of it: for Triton's statistics, for the metrics and
//! for the status.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::inference::{Refusal, Response};

/// Upper bounds of the histograms' buckets in microseconds. They stay as they are: a recording rule
/// over buckets breaks when they move.
pub const BOUNDS_US: [u64; 19] = [
    50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000, 50_000_000,
];

/// What happened so long ago is no longer recent.
pub const RECENT: Duration = Duration::from_secs(60);

/// Over so long requests a second are counted.
const RATE_SPAN: Duration = Duration::from_secs(10);

/// Recent requests of one model that are kept, at most.
const MOST_RECENT: usize = 1024;

/// How often something took place, and how long in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// How often.
    pub count: u64,
    /// How long in all.
    pub time: Duration,
}

impl Total {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time = self.time.saturating_add(time);
    }

    /// The time in nanoseconds.
    pub fn ns(&self) -> u64 {
        u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// How many took how long. Not cumulative; what lies above the last bound is in the total alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// All of them.
    pub total: Total,
    /// By the bucket of [`BOUNDS_US`].
    pub counts: [u64; BOUNDS_US.len()],
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        self.total.add(time);
        let within = |bound: &u64| time <= Duration::from_micros(*bound);
        if let Some(bucket) = BOUNDS_US.iter().position(within) {
            self.counts[bucket] += 1;
        }
    }
}

/// One model's, since the pool started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Of the newest answer; nothing before the first.
    pub last: Option<SystemTime>,
    /// From arrival to answer.
    pub success: Histogram,
    /// From arrival to refusal.
    pub fail: Total,
    /// Of these, those whose client went away.
    pub cancelled: Total,
    /// The same requests by [`Refusal::word`].
    pub refused: BTreeMap<&'static str, u64>,
    /// Of those answered, from arrival to the start on a worker.
    pub queue: Histogram,
    /// On a worker; a request counts the whole time of its batch.
    pub compute: Histogram,
    /// Computations by how many requests each had, and their time.
    pub batches: BTreeMap<usize, Batches>,
    /// Requests with a deadline that could have been answered: no wrong ones, and none that was
    /// given up before its deadline.
    pub with_deadline: u64,
    /// Of these, those that were answered in time.
    pub in_time: u64,
    /// How long the sound lasts that was computed, and its computation.
    pub sound: Option<(Duration, Duration)>,
}

/// Requests that were computed in batches of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batches {
    /// Requests; as many batches as this by the size.
    pub requests: u64,
    /// Sum over the requests.
    pub time: Duration,
}

impl Batches {
    /// Computations, each of which had `size` requests.
    pub fn executions(&self, size: usize) -> u64 {
        self.requests.div_ceil(size.max(1) as u64)
    }
}

impl Counts {
    /// Computations: fewer than requests where several were computed together.
    pub fn executions(&self) -> u64 {
        self.batches.iter().map(|(size, batches)| batches.executions(*size)).sum()
    }
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub struct Over {
    /// When.
    pub at: Instant,
    /// From its arrival.
    pub spent: Duration,
    /// From its arrival to its deadline, where it had one.
    pub deadline: Option<Duration>,
}

impl Over {
    /// Whether it was answered in time; nothing where that says nothing about the pool.
    fn in_time(&self, outcome: &Result<Response, Refusal>) -> Option<bool> {
        let deadline = self.deadline?;
        match outcome {
            Ok(_) => Some(self.spent <= deadline),
            Err(Refusal::Invalid(_) | Refusal::TooLarge(_) | Refusal::NotFound(_)) => None,
            Err(Refusal::Cancelled) if self.spent < deadline => None,
            Err(_) => Some(false),
        }
    }
}

/// One model's requests of the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recent {
    /// Requests a second over the last ten seconds.
    pub rate: f64,
    /// Median from arrival to answer.
    pub p50: Option<Duration>,
    /// 99th percentile of the same.
    pub p99: Option<Duration>,
    /// Requests with a deadline that could have been answered.
    pub with_deadline: u64,
    /// Of these, those that were answered in time.
    pub in_time: u64,
    /// Requests that an answered one was computed together with on average, itself included.
    pub batch: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    /// Of an answer, and how many were computed together.
    answer: Option<(Duration, usize)>,
    in_time: Option<bool>,
}

#[derive(Debug, Default)]
struct Model {
    counts: Counts,
    recent: VecDeque<Sample>,
}

/// All models'.
#[derive(Debug, Default)]
pub struct Statistics(Mutex<BTreeMap<String, Model>>);

impl Statistics {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Model>> {
        // Counting is one call, so a panic elsewhere leaves whole counts.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request.
    pub fn count(&self, model: &str, over: &Over, outcome: &Result<Response, Refusal>) {
        // Names that exist are few; those that do not are as many as a client cares to make up.
        if matches!(outcome, Err(Refusal::NotFound(_))) {
            return;
        }
        let mut all = self.lock();
        if !all.contains_key(model) {
            all.insert(model.into(), Model::default());
        }
        let Some(Model { counts, recent }) = all.get_mut(model) else { return };
        let in_time = over.in_time(outcome);
        counts.with_deadline += u64::from(in_time.is_some());
        counts.in_time += u64::from(in_time == Some(true));
        match outcome {
            Ok(answer) => {
                let spent = &answer.spent;
                counts.last = Some(SystemTime::now());
                counts.success.add(over.spent);
                counts.queue.add(spent.queued);
                counts.compute.add(spent.computed);
                let batches = counts.batches.entry(spent.batch.max(1)).or_default();
                batches.requests += 1;
                batches.time = batches.time.saturating_add(spent.computed);
                if let Some(lasts) = spent.sound {
                    let (sound, computed) = counts.sound.unwrap_or_default();
                    // Its part of a computation that it shared with others.
                    let own =
                        spent.computed / u32::try_from(spent.batch.max(1)).unwrap_or(u32::MAX);
                    counts.sound = Some((sound + lasts, computed + own));
                }
            }
            Err(refusal) => {
                counts.fail.add(over.spent);
                *counts.refused.entry(refusal.word()).or_default() += 1;
                if *refusal == Refusal::Cancelled {
                    counts.cancelled.add(over.spent);
                }
            }
        }
        if recent.len() == MOST_RECENT {
            recent.pop_front();
        }
        let answer = outcome.as_ref().ok().map(|answer| (over.spent, answer.spent.batch.max(1)));
        recent.push_back(Sample { at: over.at, answer, in_time });
    }

    /// One model's.
    pub fn of(&self, model: &str) -> Counts {
        self.lock().get(model).map(|model| model.counts.clone()).unwrap_or_default()
    }

    /// One model's requests of the last minute before `now`, of the newest thousand.
    pub fn recent(&self, model: &str, now: Instant) -> Recent {
        let samples: Vec<Sample> = {
            let all = self.lock();
            let Some(model) = all.get(model) else { return Recent::default() };
            let fresh = |it: &&Sample| now.saturating_duration_since(it.at) < RECENT;
            model.recent.iter().filter(fresh).copied().collect()
        };
        summary(&samples, now)
    }
}

fn summary(samples: &[Sample], now: Instant) -> Recent {
    let age = |sample: &Sample| now.saturating_duration_since(sample.at);
    // With so many that the older ones are forgotten, those that are left span less time.
    let span = match samples.first() {
        Some(first) if samples.len() == MOST_RECENT => age(first).min(RATE_SPAN),
        _ => RATE_SPAN,
    };
    let lately = samples.iter().filter(|it| age(it) <= span).count();
    let answers = || samples.iter().filter_map(|it| it.answer);
    let mut times: Vec<Duration> = answers().map(|(time, _)| time).collect();
    times.sort_unstable();
    let quantile = |percent: usize| {
        let rank = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(rank).copied()
    };
    let together: usize = answers().map(|(_, batch)| batch).sum();
    Recent {
        rate: lately as f64 / span.as_secs_f64().max(1e-3),
        p50: quantile(50),
        p99: quantile(99),
        with_deadline: samples.iter().filter(|it| it.in_time.is_some()).count() as u64,
        in_time: samples.iter().filter(|it| it.in_time == Some(true)).count() as u64,
        batch: (!times.is_empty()).then(|| together as f64 / times.len() as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::Spent;

    const MS: Duration = Duration::from_millis(1);

    fn over(spent: Duration, deadline: Option<Duration>) -> Over {
        Over { at: Instant::now(), spent, deadline }
    }

    fn answer(batch: usize) -> Result<Response, Refusal> {
        let spent = Spent { queued: 2 * MS, computed: 3 * MS, batch, sound: Some(10 * MS) };
        Ok(Response { version: "1".into(), outputs: vec![], spent })
    }

    #[test]
    fn requests_of_one_batch_are_one_execution() {
        let statistics = Statistics::default();
        for batch in [2, 2, 1, 2, 2] {
            statistics.count("m", &over(9 * MS, None), &answer(batch));
        }
        statistics.count("m", &over(MS, None), &Err(Refusal::Cancelled));
        statistics.count("m", &over(MS, None), &Err(Refusal::Invalid("x".into())));
        statistics.count("made up", &over(MS, None), &Err(Refusal::NotFound("x".into())));
        let counts = statistics.of("m");
        assert_eq!(counts.executions(), 3);
        let (success, fail) = (counts.success.total.count, counts.fail.count);
        assert_eq!((success, fail, counts.cancelled.count), (5, 2, 1));
        assert_eq!(counts.refused, [("cancelled", 1), ("invalid", 1)].into());
        assert_eq!(counts.queue.total.ns(), 10_000_000);
        assert_eq!(counts.batches[&2].requests, 4);
        assert_eq!(counts.sound, Some((50 * MS, 9 * MS)));
        assert!(statistics.lock().len() == 1);
    }

    #[test]
    fn attainment_counts_what_could_have_been_in_time() {
        let statistics = Statistics::default();
        let full = Refusal::Full {
            cause: downbeat_queue::Cause::Late,
            reason: "late".into(),
            retry_after: MS,
        };
        let cases = [
            (9 * MS, Some(10 * MS), answer(1), (1, 1)),
            (11 * MS, Some(10 * MS), answer(1), (1, 0)),
            (9 * MS, None, answer(1), (0, 0)),
            (MS, Some(10 * MS), Err(full), (1, 0)),
            (MS, Some(10 * MS), Err(Refusal::Failed("x".into())), (1, 0)),
            (MS, Some(10 * MS), Err(Refusal::Invalid("x".into())), (0, 0)),
            (MS, Some(10 * MS), Err(Refusal::Cancelled), (0, 0)),
            (10 * MS, Some(10 * MS), Err(Refusal::Cancelled), (1, 0)),
        ];
        let mut sum = (0, 0);
        for (spent, deadline, outcome, (asked, met)) in cases {
            statistics.count("m", &over(spent, deadline), &outcome);
            sum = (sum.0 + asked, sum.1 + met);
            let counts = statistics.of("m");
            assert_eq!((counts.with_deadline, counts.in_time), sum, "{outcome:?}");
        }
        let recent = statistics.recent("m", Instant::now());
        assert_eq!((recent.with_deadline, recent.in_time), sum);
    }

    #[test]
    fn a_time_is_in_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        for us in [0, 50, 51, 10_000, 50_000_000, 50_000_001] {
            histogram.add(Duration::from_micros(us));
        }
        assert_eq!(histogram.total.count, 6);
        assert_eq!(histogram.counts.iter().sum::<u64>(), 5);
        assert_eq!((histogram.counts[0], histogram.counts[1], histogram.counts[7]), (2, 1, 1));
        assert!(BOUNDS_US.is_sorted());
    }

    #[test]
    fn what_is_recent_is_of_the_last_minute_and_bounded() {
        let (statistics, start) = (Statistics::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let ask = |ms: u64, spent| {
            statistics.count("m", &Over { at: at(ms), spent, deadline: None }, &answer(2));
        };
        for n in 0..100 {
            ask(n * 100, MS * u32::try_from(n).unwrap());
        }
        let recent = statistics.recent("m", at(9_950));
        assert!((recent.rate - 10.0).abs() < 0.01, "{recent:?}");
        assert_eq!((recent.p50, recent.p99), (Some(49 * MS), Some(98 * MS)));
        assert_eq!(recent.batch, Some(2.0));
        assert_eq!(statistics.recent("m", at(80_000)), Recent::default());
        for n in 0..5000 {
            ask(100_000 + n, MS);
        }
        let recent = statistics.recent("m", at(105_000));
        assert!((recent.rate - 1000.0).abs() < 5.0, "{recent:?}");
        assert_eq!(statistics.lock()["m"].recent.len(), MOST_RECENT);
    }
}
