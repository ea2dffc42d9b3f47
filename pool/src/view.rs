//! What the pool shows of itself: written by the supervising loop, read by the servers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use downbeat_api::pool::{PoolStatus, declared_name};

use crate::inference::Metadata;
use crate::wyoming::services::Services;

/// A worker as a model of the Open Inference Protocol.
#[derive(Clone, Debug)]
pub struct Model {
    /// Whether it takes requests.
    pub standing: Standing,
    /// What it takes and gives; absent while nothing is known of it.
    pub metadata: Option<Arc<Metadata>>,
    /// What it is.
    pub kind: Kind,
    /// From the arrival, for requests that bring none; without it these are background work.
    pub deadline: Option<Duration>,
}

/// Whether a model takes requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Ready,
    /// Not yet: requests that have the time wait for it.
    Coming(String),
    /// It does not, for a reason that waiting does not change.
    Down(String),
}

/// What a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The noise remover.
    Denoise,
    /// Whatever its metadata say.
    Declared {
        /// Its name in the model store, where it lies there.
        stored: Option<String>,
    },
}

/// Workers that take `/v1/*`, each with the addresses (`host:port`) of its ready instances.
pub type Openai = BTreeMap<String, Vec<String>>;

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// For the control socket.
    pub status: PoolStatus,
    /// Models by name.
    pub models: BTreeMap<String, Model>,
    /// Where `/v1/*` goes.
    pub openai: Openai,
    /// Restarts of each declared worker's instances since the pool started, also of those that are
    /// no more.
    pub restarts: BTreeMap<String, u64>,
    /// What workers do for Wyoming clients.
    pub wyoming: Services,
}

/// The current [`Snapshot`], shared.
#[derive(Clone, Debug, Default)]
pub struct View(Arc<Mutex<Snapshot>>);

impl View {
    /// Replaces everything but what is added up.
    pub fn publish(&self, status: PoolStatus, models: BTreeMap<String, Model>, openai: Openai) {
        let mut snapshot = self.lock();
        let before = std::mem::replace(&mut snapshot.status, status);
        let Snapshot { status, restarts, .. } = &mut *snapshot;
        for worker in &status.workers {
            let known = before.workers.iter().find(|it| it.name == worker.name);
            let known = known.map_or(0, |it| it.restarts);
            // With fewer than before it is another one of the same name.
            let new = worker.restarts.checked_sub(known).unwrap_or(worker.restarts);
            if new > 0 {
                *restarts.entry(declared_name(&worker.name).into()).or_default() += new;
            }
        }
        snapshot.models = models;
        snapshot.openai = openai;
    }

    /// Reads or changes it. Must not be held across anything slow.
    pub fn lock(&self) -> MutexGuard<'_, Snapshot> {
        // The value is replaced as a whole, so a panic elsewhere leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use downbeat_api::pool::{Worker, WorkerState};

    fn status(workers: &[(&str, u64)]) -> PoolStatus {
        let worker = |(name, restarts): &(&str, u64)| Worker {
            name: (*name).into(),
            kind: String::new(),
            state: WorkerState::Ready,
            pid: None,
            restarts: *restarts,
            note: None,
            socket: None,
            frames: None,
            missed: None,
            compute_p50_ns: None,
            compute_p99_ns: None,
        };
        PoolStatus { workers: workers.iter().map(worker).collect(), ..PoolStatus::default() }
    }

    #[test]
    fn restarts_add_up_over_instances_that_come_and_go() {
        let view = View::default();
        for workers in [
            &[("a", 0), ("a#2", 0)][..],
            &[("a", 1), ("a#2", 3)],
            &[("a", 1)],
            &[("a", 2), ("a#2", 0), ("b", 0)],
            // Its successor has begun anew and died once already.
            &[("a", 1)],
        ] {
            view.publish(status(workers), BTreeMap::new(), Openai::new());
        }
        assert_eq!(view.lock().restarts, [("a".to_owned(), 6)].into());
    }
}
