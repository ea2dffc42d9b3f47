//! What the store speaks of: files as they were found, what can be loaded, and what is wanted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::description::{ModelDescription, Sha256};

/// One file, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Of the file that the name means now.
    pub inode: u64,
    /// Length.
    pub bytes: u64,
    /// Since 1970.
    pub modified: Duration,
    /// Of the inode, since 1970; no program can set it.
    pub changed: Duration,
}

/// A model's folder, seen from outside.
#[derive(Clone, Debug)]
pub struct Fingerprint {
    /// Since the newest change in it.
    pub age: Duration,
    /// By path from the model folder; nothing where the name leads nowhere.
    pub stamps: BTreeMap<String, Option<Stamp>>,
}

/// The model folder at one moment.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// By name.
    pub models: BTreeMap<String, Fingerprint>,
}

/// A model's folder as it was read.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its description.
    pub description: Arc<ModelDescription>,
    /// Names of the first output's last dimension; empty where it has none.
    pub labels: Arc<[String]>,
    /// What can be loaded, or why it cannot.
    pub versions: BTreeMap<u32, Result<Arc<Artifact>, String>>,
}

/// One version's file, with the checksum that it had when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The model's name.
    pub model: String,
    /// Its version.
    pub version: u32,
    /// The file.
    pub file: PathBuf,
    /// Of the file; whoever loads it compares again.
    pub sha256: Sha256,
    /// Its length.
    pub bytes: u64,
}

/// What workers should run for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The file.
    pub artifact: Arc<Artifact>,
    /// Its description.
    pub description: Arc<ModelDescription>,
    /// Names of the first output's last dimension; empty where it has none.
    pub labels: Arc<[String]>,
}

/// What became of an artifact in the workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A worker answers requests with it.
    Ready,
    /// It cannot be loaded; why.
    Failed(String),
    /// No worker has it any more.
    Stopped,
}

/// Which version is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The newest by number that can be served.
    Newest,
    /// This one.
    Version(u32),
}

/// A model version's state, with the names of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It answers.
    Ready,
    /// It will answer.
    Loading,
    /// It does not answer.
    Unavailable,
}

impl State {
    /// The protocol's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "READY",
            Self::Loading => "LOADING",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}

/// One line of the repository's index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The model.
    pub name: String,
    /// Its version; nothing where none could be read.
    pub version: Option<u32>,
    /// Its state.
    pub state: State,
    /// Why; empty where there is nothing to say.
    pub reason: String,
}

/// Why a model cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such model.
    #[error("no model `{name}`; the model folder has {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Names that there are, or `none`.
        known: String,
    },
    /// There is no such version.
    #[error("model `{name}` has no version {version}; it has {known}")]
    Version {
        /// The model.
        name: String,
        /// What was asked for.
        version: String,
        /// Versions that there are, or `none`.
        known: String,
    },
    /// It is there and cannot be loaded.
    #[error("model `{name}` cannot be loaded: {reason}")]
    Unusable {
        /// The model.
        name: String,
        /// Why, with the remedy.
        reason: String,
    },
}
