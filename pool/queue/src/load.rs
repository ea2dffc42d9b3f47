//! What each model has to do, for whoever scales its workers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::queue::Queue;
use crate::request::{Cause, ModelId};

/// Over so long arrivals and busy workers are averaged: workers are added within a second.
const SPAN: f64 = 1.0;

/// What a model has to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests with a deadline that wait.
    pub waiting: usize,
    /// Requests without one that wait.
    pub background: usize,
    /// Jobs that run.
    pub running: usize,
    /// Jobs that its workers could run at a time; those that are drained do not count.
    pub slots: usize,
    /// Requests per second over the last second or so, refused ones included.
    pub arrival_rate: f64,
    /// Jobs that ran at a time on average over the last second or so.
    pub busy: f64,
    /// What a request of one unit takes, in seconds.
    pub service: f64,
    /// The least time, in seconds, between the end that is foreseen for a waiting request and its
    /// deadline; negative where it will be late, absent where none waits.
    pub slack: Option<f64>,
    /// Requests refused and dropped since the start.
    pub refused: BTreeMap<Cause, u64>,
}

/// Averages that fade.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    at: Duration,
    arrivals: f64,
    running: f64,
    busy: f64,
}

impl Meter {
    fn pass(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        let keep = (-passed / SPAN).exp();
        self.arrivals *= keep;
        self.busy = self.busy * keep + self.running * (1.0 - keep);
        self.at = self.at.max(now);
    }

    pub fn arrived(&mut self, now: Duration) {
        self.pass(now);
        self.arrivals += 1.0;
    }

    pub fn started(&mut self, now: Duration) {
        self.pass(now);
        self.running += 1.0;
    }

    pub fn ended(&mut self, now: Duration) {
        self.pass(now);
        self.running = (self.running - 1.0).max(0.0);
    }

    fn read(mut self, now: Duration) -> (f64, f64) {
        self.pass(now);
        (self.arrivals / SPAN, self.busy)
    }
}

impl Queue {
    /// What a model has to do; nothing for one that is not there.
    #[must_use]
    pub fn load(&self, now: Duration, id: ModelId) -> Option<Load> {
        let model = self.models.get(&id)?;
        let (arrival_rate, busy) = model.meter.read(now);
        let background = model.lane.background_len();
        let waiting = model.lane.len() - background;
        Some(Load {
            waiting,
            background,
            running: self.jobs.values().filter(|running| running.job.model == id).count(),
            slots: self.slots_of(id),
            arrival_rate,
            busy,
            service: model.fit.expected(1).as_secs_f64(),
            slack: if waiting > 0 { self.least_slack(now, id) } else { None },
            refused: model.refused.clone(),
        })
    }
}
