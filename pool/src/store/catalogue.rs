//! Which models there are, which of them are to be loaded, and in which state each is. Pure: what
//! was found in the folder, what the workers report and the time are passed in.
//!
//! The folder is followed with care. What has changed is read only when it has stayed the same for
//! [`SETTLE`], so a file that is still being copied is left alone. What cannot be taken changes
//! nothing of what is served: the version that works goes on, and the index says why the other is
//! not served.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::facts::{
    Artifact, Candidate, Fingerprint, IndexEntry, Report, Scan, StoreError, Target, Wish,
};
use super::model::{Model, Version};

/// How long a model's folder must stay the same before it is read.
pub const SETTLE: Duration = Duration::from_secs(1);

/// After which what could not be read is tried again, though it looks the same.
const RETRY: Duration = Duration::from_secs(30);

/// The models, and what is to become of them.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    models: BTreeMap<String, Model>,
    /// About the folder as a whole.
    note: Option<String>,
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

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;
