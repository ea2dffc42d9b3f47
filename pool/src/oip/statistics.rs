//! What was asked of each model and what became of it, as Triton's statistics have it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::inference::{Refusal, Response};

/// How often something took place, and how long in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub count: u64,
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

/// One model's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Of the newest answer; nothing before the first.
    pub last: Option<SystemTime>,
    /// From arrival to answer.
    pub success: Total,
    /// From arrival to refusal.
    pub fail: Total,
    /// Of these, those whose client went away.
    pub cancelled: Total,
    /// From arrival to the start on a worker.
    pub queue: Total,
    /// On a worker; a request counts the whole time of its batch.
    pub compute: Total,
    /// Computations by how many requests each had, and their time.
    pub batches: BTreeMap<usize, Batches>,
}

/// Requests that were computed in batches of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batches {
    /// Requests; as many batches as this by the size.
    pub requests: u64,
    /// Sum over the requests.
    pub time: Duration,
}

impl Counts {
    /// Computations: fewer than requests where several were computed together.
    pub fn executions(&self) -> u64 {
        let batches = |(size, batches): (&usize, &Batches)| batches.requests.div_ceil(*size as u64);
        self.batches.iter().map(batches).sum()
    }
}

/// All models'.
#[derive(Debug, Default)]
pub struct Statistics(Mutex<BTreeMap<String, Counts>>);

impl Statistics {
    /// Counts a request that took `spent` from its arrival.
    pub fn count(&self, model: &str, spent: Duration, outcome: &Result<Response, Refusal>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Names that exist are few; those that do not are as many as a client cares to make up.
        if matches!(outcome, Err(Refusal::NotFound(_))) {
            return;
        }
        if !all.contains_key(model) {
            all.insert(model.into(), Counts::default());
        }
        let Some(counts) = all.get_mut(model) else { return };
        match outcome {
            Ok(answer) => {
                counts.last = Some(SystemTime::now());
                counts.success.add(spent);
                counts.queue.add(answer.spent.queued);
                counts.compute.add(answer.spent.computed);
                let batches = counts.batches.entry(answer.spent.batch.max(1)).or_default();
                batches.requests += 1;
                batches.time = batches.time.saturating_add(answer.spent.computed);
            }
            Err(refusal) => {
                counts.fail.add(spent);
                if *refusal == Refusal::Cancelled {
                    counts.cancelled.add(spent);
                }
            }
        }
    }

    /// One model's.
    pub fn of(&self, model: &str) -> Counts {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(model).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::Spent;

    #[test]
    fn requests_of_one_batch_are_one_execution() {
        let statistics = Statistics::default();
        let answer = |batch| {
            let computed = Duration::from_millis(3);
            let spent = Spent { queued: Duration::from_millis(2), computed, batch };
            Ok(Response { version: "1".into(), outputs: vec![], spent })
        };
        for batch in [2, 2, 1, 2, 2] {
            statistics.count("m", Duration::from_millis(9), &answer(batch));
        }
        statistics.count("m", Duration::from_millis(1), &Err(Refusal::Cancelled));
        statistics.count("m", Duration::from_millis(1), &Err(Refusal::Invalid("x".into())));
        statistics.count("made up", Duration::ZERO, &Err(Refusal::NotFound("x".into())));
        let counts = statistics.of("m");
        assert_eq!(counts.executions(), 3);
        assert_eq!((counts.success.count, counts.fail.count, counts.cancelled.count), (5, 2, 1));
        assert_eq!(counts.queue.ns(), 10_000_000);
        assert_eq!(counts.batches[&2].requests, 4);
        assert!(statistics.0.lock().unwrap().len() == 1);
    }
}
