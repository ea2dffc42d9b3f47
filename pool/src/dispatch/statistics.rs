//! What became of a model's requests, in the terms of Triton's statistics call.

use std::collections::BTreeMap;
use std::time::Duration;

use super::answer::Computed;
use crate::inference::Refusal;

/// How often, and how long in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// How often.
    pub count: u64,
    /// How long in all.
    pub time: Duration,
}

impl Counter {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time += time;
    }
}

/// Since the model was declared. There is no response cache, so nothing is counted for one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelStatistics {
    /// Answered; from arrival to answer.
    pub success: Counter,
    /// Everything else but cancelled ones.
    pub fail: Counter,
    /// Given up by their clients.
    pub cancelled: Counter,
    /// Of those answered: from arrival to their start on a worker.
    pub queue: Counter,
    /// Of those answered: from the start to the beginning of the computation.
    pub compute_input: Counter,
    /// Of those answered: the computation.
    pub compute_infer: Counter,
    /// Of those answered: from the end of the computation to the answer.
    pub compute_output: Counter,
    /// Jobs by the number of their requests.
    pub batches: BTreeMap<usize, Counter>,
}

impl ModelStatistics {
    pub(super) fn succeeded(&mut self, total: Duration, queued: Duration, computed: Computed) {
        self.success.add(total);
        self.queue.add(queued);
        self.compute_input.add(computed.input);
        self.compute_infer.add(computed.infer);
        let output = total.saturating_sub(queued + computed.input + computed.infer);
        self.compute_output.add(output);
    }

    pub(super) fn refused(&mut self, refusal: &Refusal, total: Duration) {
        match refusal {
            Refusal::Cancelled => self.cancelled.add(total),
            _ => self.fail.add(total),
        }
    }

    pub(super) fn executed(&mut self, size: usize, took: Duration) {
        self.batches.entry(size).or_default().add(took);
    }
}
