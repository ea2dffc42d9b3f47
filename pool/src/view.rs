//! What the pool shows of itself: written by the supervising loop, read by the servers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use downbeat_api::pool::PoolStatus;

use crate::inference::Metadata;

/// A worker as a model of the Open Inference Protocol.
#[derive(Clone, Debug)]
pub struct Model {
    /// Whether it takes requests.
    pub standing: Standing,
    /// What it takes and gives; absent while nothing is known of it.
    pub metadata: Option<Arc<Metadata>>,
    /// How requests reach it.
    pub route: Route,
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

/// How requests reach a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// By the stream socket of the noise remover.
    Stream {
        /// The socket.
        socket: PathBuf,
        /// For frames that have none of their own.
        deadline: Option<Duration>,
    },
    /// By the dispatcher.
    Queue {
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
