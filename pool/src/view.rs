//! What the pool shows of itself: written by the supervising loop, read by the servers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use downbeat_api::pool::PoolStatus;

/// A built-in worker as a model of the Open Inference Protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Whether it takes requests.
    pub ready: bool,
    /// Its stream socket.
    pub socket: PathBuf,
    /// For its requests.
    pub deadline: Option<Duration>,
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
}

/// The current [`Snapshot`], shared.
#[derive(Clone, Debug, Default)]
pub struct View(Arc<Mutex<Snapshot>>);

impl View {
    /// Reads or changes it. Must not be held across anything slow.
    pub fn lock(&self) -> MutexGuard<'_, Snapshot> {
        // The value is replaced as a whole, so a panic elsewhere leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
