//! Which models there are, which of them are to be loaded, and in which state each is. Pure: what
//! was found in the folder, what the workers report and the time are passed in.
//!
//! The folder is followed with care. What has changed is read only when it has stayed the same for
//! [`SETTLE`], so a file that is still being copied is left alone. What cannot be taken changes
//! nothing of what is served: the version that works goes on, and the index says why the other is
//! not served.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::description::{ModelDescription, Sha256};

/// How long a model's folder must stay the same before it is read.
pub const SETTLE: Duration = Duration::from_secs(1);

/// After which what could not be read is tried again, though it looks the same.
const RETRY: Duration = Duration::from_secs(30);

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
    /// Of the file; whoever loads it should compare again.
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

/// The models, and what is to become of them.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    models: BTreeMap<String, Model>,
    /// About the folder as a whole.
    note: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Model {
    /// As seen last; nothing where the folder is not there.
    seen: Option<BTreeMap<String, Option<Stamp>>>,
    /// When it may be read, if it still looks so.
    due: Duration,
    /// Whether this look of it was read, or is being read.
    settled: bool,
    /// Why the folder as it is now was not taken.
    problem: Option<String>,
    /// As taken last.
    taken: Option<(Arc<ModelDescription>, Arc<[String]>)>,
    versions: BTreeMap<u32, Version>,
    wish: Option<Wish>,
}

/// One version.
#[derive(Clone, Debug, Default)]
struct Version {
    /// What can be loaded; with a problem beside it, what was loaded before the file became bad.
    target: Option<Target>,
    /// What is wrong with the file as it is now.
    problem: Option<String>,
    /// What the workers say of the target.
    report: Option<Report>,
}

impl Version {
    fn is_ready(&self) -> bool {
        self.target.is_some() && self.report == Some(Report::Ready)
    }

    /// Whether workers could be started with it.
    fn is_good(&self) -> bool {
        let failed = matches!(self.report, Some(Report::Failed(_)));
        self.target.is_some() && self.problem.is_none() && !failed
    }
}

impl Catalogue {
    /// Takes a look at the folder, `now` on any clock that only goes forward, and says which
    /// models to read. Each must be followed by [`Self::take`].
    pub fn observe(&mut self, scan: Result<Scan, String>, now: Duration) -> Vec<String> {
        let mut scan = match scan {
            Ok(scan) => scan,
            // A folder that cannot be seen is not an empty one: everything goes on.
            Err(reason) => {
                self.note = Some(reason);
                return Vec::new();
            }
        };
        self.note = None;
        for name in scan.models.keys() {
            self.models.entry(name.clone()).or_default();
        }
        let mut to_read = Vec::new();
        for (name, model) in &mut self.models {
            let found = scan.models.remove(name);
            let age = found.as_ref().map_or(Duration::ZERO, |print| print.age);
            let found = found.map(|print| print.stamps);
            if model.seen != found {
                // What nobody has touched for so long is not being written now.
                let at_rest = model.seen.is_none() && model.taken.is_none() && age >= SETTLE;
                model.due = if at_rest { now } else { now + SETTLE };
                model.seen = found;
                model.settled = false;
            }
            if model.settled || now < model.due {
                continue;
            }
            model.settled = true;
            if model.seen.is_some() {
                to_read.push(name.clone());
            } else {
                *model = Model { wish: model.wish, settled: true, ..Model::default() };
            }
        }
        self.models
            .retain(|_, model| model.seen.is_some() || !model.settled || model.wish.is_some());
        to_read
    }

    /// Takes what was read of a model's folder. `again` is how the folder looked after reading:
    /// what changed meanwhile is not taken, and read again when it has settled.
    pub fn take(
        &mut self,
        name: &str,
        read: Result<Candidate, String>,
        again: Option<&Fingerprint>,
        now: Duration,
    ) {
        let Some(model) = self.models.get_mut(name) else {
            return;
        };
        let after = again.map(|print| &print.stamps);
        if model.seen.as_ref() != after {
            model.seen = after.cloned();
            model.due = now + SETTLE;
            model.settled = false;
            return;
        }
        let candidate = match read {
            Ok(candidate) => candidate,
            Err(reason) => {
                model.problem = Some(reason);
                // Perhaps it was only a moment without memory or open files.
                model.settled = false;
                model.due = now + RETRY;
                return;
            }
        };
        model.problem = None;
        let mut before = std::mem::take(&mut model.versions);
        for (number, version) in candidate.versions {
            let old = before.remove(&number).unwrap_or_default();
            let new = match version {
                Ok(artifact) => {
                    let same = old.target.as_ref().is_some_and(|it| it.artifact == artifact);
                    let target = Target {
                        artifact,
                        description: Arc::clone(&candidate.description),
                        labels: Arc::clone(&candidate.labels),
                    };
                    // Of another file nothing is known yet.
                    let report = old.report.filter(|_| same);
                    Version { target: Some(target), problem: None, report }
                }
                Err(problem) => Version { problem: Some(problem), ..old.kept_if_ready() },
            };
            model.versions.insert(number, new);
        }
        model.taken = Some((candidate.description, candidate.labels));
    }

    /// What pool.d asks for, by model. It replaces what it asked for before, and what clients
    /// loaded and unloaded; what failed gets another chance.
    pub fn declare(&mut self, wishes: &BTreeMap<String, Wish>) {
        for name in wishes.keys() {
            self.models.entry(name.clone()).or_default();
        }
        for (name, model) in &mut self.models {
            model.wish = wishes.get(name).copied();
            model.forgive();
        }
    }

    /// Asks for a model, as a client may; the answer is what will be served.
    ///
    /// # Errors
    /// When there is no such model or version, or none that can be loaded.
    pub fn load(&mut self, name: &str, wish: Wish) -> Result<Target, StoreError> {
        self.known(name)?;
        if let Wish::Version(version) = wish {
            self.version(name, version)?;
        }
        let Some(model) = self.models.get_mut(name) else {
            return Err(self.unknown(name));
        };
        let before = model.wish.replace(wish);
        model.forgive();
        match model.best() {
            Some(target)
                if wish == Wish::Newest || wish == Wish::Version(target.artifact.version) =>
            {
                Ok(target.clone())
            }
            _ => {
                model.wish = before;
                let reason = model.reason(wish);
                Err(StoreError::Unusable { name: name.into(), reason })
            }
        }
    }

    /// Takes a wish back, as a client may.
    ///
    /// # Errors
    /// When there is no such model.
    pub fn unload(&mut self, name: &str) -> Result<(), StoreError> {
        self.known(name)?;
        if let Some(model) = self.models.get_mut(name) {
            model.wish = None;
        }
        Ok(())
    }

    /// What the workers say of an artifact. Nothing is noted of one that was replaced since.
    pub fn report(&mut self, artifact: &Artifact, report: Report) {
        let version = self
            .models
            .get_mut(&artifact.model)
            .and_then(|model| model.versions.get_mut(&artifact.version));
        let Some(version) = version else {
            return;
        };
        if version.target.as_ref().is_some_and(|target| *target.artifact == *artifact) {
            version.report = match report {
                Report::Stopped => match version.report.take() {
                    // It stopped because it failed.
                    Some(Report::Failed(reason)) => Some(Report::Failed(reason)),
                    _ => None,
                },
                other => Some(other),
            };
        }
    }

    /// What workers should run, by model. Where a target changes, the old one goes on until the
    /// new one is ready; if the new one fails, the old one is the target again.
    #[must_use]
    pub fn targets(&self) -> BTreeMap<String, Target> {
        let wanted = self.models.iter().filter(|(_, model)| model.wish.is_some());
        wanted.filter_map(|(name, model)| Some((name.clone(), model.best()?.clone()))).collect()
    }

    /// What is known of a model, loaded or not: the version asked for, or the one that is or
    /// would be served.
    ///
    /// # Errors
    /// When there is no such model or version, or nothing of it can be read.
    pub fn describe(&self, name: &str, version: Option<u32>) -> Result<Target, StoreError> {
        let model = self.known(name)?;
        let (found, wish) = match version {
            Some(number) => (self.version(name, number)?.target.as_ref(), Wish::Version(number)),
            None => (model.best(), Wish::Newest),
        };
        found
            .cloned()
            .ok_or_else(|| StoreError::Unusable { name: name.into(), reason: model.reason(wish) })
    }

    /// Every version of a model that is in the folder, oldest first.
    #[must_use]
    pub fn versions(&self, name: &str) -> Vec<u32> {
        self.models
            .get(name)
            .map(|model| model.versions.keys().copied().collect())
            .unwrap_or_default()
    }

    /// About the folder as a whole, for the status.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Every version of every model, by name and number.
    #[must_use]
    pub fn index(&self) -> Vec<IndexEntry> {
        self.models.iter().flat_map(|(name, model)| model.index(name)).collect()
    }

    fn known(&self, name: &str) -> Result<&Model, StoreError> {
        // A wish alone makes no model.
        let model = self.models.get(name).filter(|it| it.seen.is_some() || it.taken.is_some());
        model.ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> StoreError {
        let there = self.models.iter().filter(|(_, model)| model.seen.is_some());
        let known = listed(there.map(|(name, _)| name.clone()));
        StoreError::Unknown { name: name.into(), known }
    }

    fn version(&self, name: &str, version: u32) -> Result<&Version, StoreError> {
        let model = self.known(name)?;
        model.versions.get(&version).ok_or_else(|| StoreError::Version {
            name: name.into(),
            version: version.to_string(),
            known: listed(model.versions.keys().map(u32::to_string)),
        })
    }
}

impl Version {
    /// What goes on being served although its file is bad now; else nothing.
    fn kept_if_ready(self) -> Self {
        if self.is_ready() { self } else { Self::default() }
    }
}

impl Model {
    /// What is to be served, or would be.
    fn best(&self) -> Option<&Target> {
        let wished = |number: u32| match self.wish {
            Some(Wish::Version(version)) => version == number,
            Some(Wish::Newest) | None => true,
        };
        let newest_first = || self.versions.iter().rev();
        let good = newest_first().find(|(number, it)| wished(**number) && it.is_good());
        // Better an old answer than none.
        let (_, version) = good.or_else(|| newest_first().find(|(_, it)| it.is_ready()))?;
        version.target.as_ref()
    }

    /// Gives what failed another chance.
    fn forgive(&mut self) {
        for version in self.versions.values_mut() {
            if matches!(version.report, Some(Report::Failed(_))) {
                version.report = None;
            }
        }
    }

    /// Why a wish cannot be fulfilled.
    fn reason(&self, wish: Wish) -> String {
        let version = match wish {
            Wish::Version(number) => self.versions.get(&number),
            Wish::Newest => self.versions.values().next_back(),
        };
        let of_version = version.and_then(|version| match (&version.problem, &version.report) {
            (Some(problem), _) => Some(problem.clone()),
            (None, Some(Report::Failed(reason))) => Some(reason.clone()),
            _ => None,
        });
        of_version.or_else(|| self.problem.clone()).unwrap_or_else(|| self.unread().into())
    }

    /// Why there is nothing to say of it yet.
    fn unread(&self) -> &'static str {
        if self.seen.is_none() {
            "its folder is not there; put it into the model folder"
        } else {
            "its folder has just changed; it is read when it has stayed the same for a second"
        }
    }

    fn index(&self, name: &str) -> Vec<IndexEntry> {
        let entry =
            |version, state, reason| IndexEntry { name: name.into(), version, state, reason };
        if self.versions.is_empty() {
            return vec![match (&self.problem, self.seen.is_some()) {
                (Some(problem), _) => entry(None, State::Unavailable, problem.clone()),
                (None, true) => entry(None, State::Loading, self.unread().into()),
                (None, false) => entry(None, State::Unavailable, self.unread().into()),
            }];
        }
        let target = self.wish.and(self.best()).map(|target| target.artifact.version);
        let describe = |(&number, version): (&u32, &Version)| {
            let is_target = target == Some(number);
            let mut reasons: Vec<&str> = version.problem.as_deref().into_iter().collect();
            // What keeps the folder as it is now from being taken is told where it matters.
            if is_target || target.is_none() {
                reasons.extend(self.problem.as_deref());
            }
            let state = match &version.report {
                Some(Report::Ready) if version.target.is_some() => State::Ready,
                Some(Report::Failed(reason)) => {
                    reasons.push(reason);
                    State::Unavailable
                }
                _ if is_target => State::Loading,
                _ => {
                    if reasons.is_empty() {
                        reasons.push("unloaded");
                    }
                    State::Unavailable
                }
            };
            entry(Some(number), state, reasons.join("; "))
        };
        self.versions.iter().map(describe).collect()
    }
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;
