//! The model store: a folder of models, followed as it changes.
//!
//! ```text
//! MODELS/NAME/model.toml            what the model is: inputs, outputs, checksums by version
//! MODELS/NAME/labels.txt            names of its outputs, where model.toml says so
//! MODELS/NAME/VERSION/model.onnx    VERSION is a whole number from 1
//! ```
//!
//! [`Store::watch`] looks at the folder once a second. The supervisor tells what pool.d asks for
//! ([`Store::declare`]), starts workers for what [`Store::targets`] gives whenever
//! [`Store::changes`] says that something may be new, and tells what became of them
//! ([`Store::report`]): an old worker stops only when its successor is ready. The protocols show
//! [`Store::index`] and [`Store::describe`], and pass on [`Store::load`] and [`Store::unload`].
//!
//! [`catalogue`] and [`model`] decide and do no I/O, [`files`] reads, [`description`] is
//! `model.toml`, [`facts`] are the types between them.

mod catalogue;
mod description;
mod facts;
mod files;
mod model;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use description::{Media, ModelDescription, Platform, Sha256};
pub use facts::{Artifact, IndexEntry, Report, State, StoreError, Target, Wish};

use catalogue::Catalogue;

/// Between two looks at the folder.
const PERIOD: Duration = Duration::from_secs(1);

/// The store of one folder; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    root: Arc<Path>,
    catalogue: Arc<Mutex<Catalogue>>,
    started: Instant,
    changes: watch::Sender<()>,
}

impl Store {
    /// Of a folder, which may not exist yet. Nothing is read before [`Self::look`].
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.into(),
            catalogue: Arc::default(),
            started: Instant::now(),
            changes: watch::Sender::new(()),
        }
    }

    /// Follows the folder for ever. Reading happens on threads for blocking work, since a
    /// checksum of a large file takes seconds.
    pub async fn watch(self) {
        loop {
            let store = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || store.look()).await {
                tracing::error!("{}: looking at the models: {error}", self.root.display());
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Looks at the folder once, and reads what has changed and settled. It blocks.
    pub fn look(&self) {
        let now = self.started.elapsed();
        let before = self.lock().index();
        let to_read = self.lock().observe(files::scan(&self.root), now);
        for name in to_read {
            // The lock is not held: the file may be long.
            let read = files::read(&self.root, &name);
            let again = files::scan(&self.root).unwrap_or_default();
            self.lock().take(&name, read, again.models.get(&name), self.started.elapsed());
        }
        let after = self.lock().index();
        for entry in after.iter().filter(|entry| !before.contains(entry)) {
            let IndexEntry { name, version, state, reason } = entry;
            let version = version.map(|number| format!(" version {number}")).unwrap_or_default();
            tracing::info!("model {name}{version}: {} {reason}", state.name());
        }
        if before != after {
            self.changes.send_replace(());
        }
    }

    /// Tells when targets or states may have changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// What pool.d asks for, by model; see [`Wish`]. What failed gets another chance.
    pub fn declare(&self, wishes: &BTreeMap<String, Wish>) {
        self.lock().declare(wishes);
        self.changes.send_replace(());
    }

    /// Asks for a model, as a client may; the answer is what will be served.
    ///
    /// # Errors
    /// When there is no such model or version, or none that can be loaded.
    pub fn load(&self, name: &str, wish: Wish) -> Result<Target, StoreError> {
        let target = self.lock().load(name, wish);
        self.changes.send_replace(());
        target
    }

    /// Takes a wish back, as a client may.
    ///
    /// # Errors
    /// When there is no such model.
    pub fn unload(&self, name: &str) -> Result<(), StoreError> {
        let done = self.lock().unload(name);
        self.changes.send_replace(());
        done
    }

    /// What the workers say of an artifact.
    pub fn report(&self, artifact: &Artifact, report: Report) {
        self.lock().report(artifact, report);
        self.changes.send_replace(());
    }

    /// What workers should run, by model.
    #[must_use]
    pub fn targets(&self) -> BTreeMap<String, Target> {
        self.lock().targets()
    }

    /// What is known of a model, loaded or not; its newest servable version unless asked.
    ///
    /// # Errors
    /// When there is no such model or version, or nothing of it can be read.
    pub fn describe(&self, name: &str, version: Option<u32>) -> Result<Target, StoreError> {
        self.lock().describe(name, version)
    }

    /// Every version of a model that is in the folder, oldest first.
    #[must_use]
    pub fn versions(&self, name: &str) -> Vec<u32> {
        self.lock().versions(name)
    }

    /// Every version of every model.
    #[must_use]
    pub fn index(&self) -> Vec<IndexEntry> {
        self.lock().index()
    }

    /// About the folder as a whole, for the status: why it cannot be read.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        self.lock().note().map(str::to_owned)
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.root.to_path_buf()
    }

    fn lock(&self) -> MutexGuard<'_, Catalogue> {
        // Each call leaves it whole, so a panic elsewhere leaves it usable.
        self.catalogue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
