//! All that the servers ask of the rest of the pool.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::time::timeout_at;

use super::shared::Regions;
use super::sound;
use super::statistics::{Counts, Over, Statistics};
use super::watch::Watch;
use crate::adapters::denoise;
use crate::dispatch::Dispatcher;
use crate::inference::{Metadata, Refusal, Request, Response, SoundAt};
use crate::store::{State, Store};
use crate::view::{Kind, Model, Openai, Snapshot, Standing, View};
use crate::wyoming::services::Services;

/// What the servers ask.
#[derive(Clone, Debug)]
pub struct Backend {
    /// What the supervisor shows.
    pub view: View,
    /// Where requests go.
    pub dispatcher: Dispatcher,
    /// The model folder.
    pub store: Store,
    /// What became of requests.
    pub statistics: Arc<Statistics>,
    /// Memory that clients share.
    pub regions: Arc<Regions>,
    /// Models that let no new request in, as a person asked.
    drained: Arc<Mutex<BTreeSet<String>>>,
}

impl Backend {
    /// Of these, with nothing counted and nothing drained.
    #[must_use]
    pub fn new(view: View, dispatcher: Dispatcher, store: Store) -> Self {
        let (statistics, regions, drained) = Default::default();
        Self { view, dispatcher, store, statistics, regions, drained }
    }

    /// Models that let no new request in.
    pub fn drained(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // A set is whole after each call on it.
        self.drained.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The models, as the servers see them.
#[derive(Clone, Debug)]
pub struct Models(Arc<Backend>);

/// One version of a model in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The model.
    pub name: String,
    /// Its version; empty where none is known.
    pub version: String,
    /// Where it stands.
    pub state: State,
    /// Why it does not take requests.
    pub reason: String,
}

impl Entry {
    /// Its state by the protocol's name.
    #[must_use]
    pub fn state(&self) -> &'static str {
        self.state.name()
    }

    /// Whether it takes requests.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.state == State::Ready
    }

    fn of(name: &str, model: &Model, standing: Standing) -> Self {
        let (state, reason) = match standing {
            Standing::Ready => (State::Ready, String::new()),
            Standing::Coming(reason) => (State::Loading, reason),
            Standing::Down(reason) => (State::Unavailable, reason),
        };
        let version = versions(model).pop().unwrap_or_default();
        Self { name: name.into(), version, state, reason }
    }
}

/// Those that can be asked for, the newest last.
pub(super) fn versions(model: &Model) -> Vec<String> {
    model.metadata.as_ref().map(|metadata| metadata.versions.clone()).unwrap_or_default()
}

impl Models {
    /// Over the rest of the pool.
    #[must_use]
    pub fn new(backend: Backend) -> Self {
        Self(Arc::new(backend))
    }

    /// The rest of the pool.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.0
    }

    /// Where `/v1/*` goes.
    #[must_use]
    pub fn openai(&self) -> Openai {
        let mut workers = self.0.view.lock().openai.clone();
        for name in self.0.drained().iter() {
            // It is there and takes nothing.
            workers.get_mut(name).map(Vec::clear);
        }
        workers
    }

    /// Whether a model takes requests, with what a person said of it.
    fn standing(&self, name: &str, model: &Model) -> Standing {
        if self.0.drained().contains(name) {
            return Standing::Down(format!(
                "it is drained and takes no new request; `downbeat pool load {name}` ends that"
            ));
        }
        model.standing.clone()
    }

    /// What workers do for Wyoming clients.
    #[must_use]
    pub fn wyoming(&self) -> Services {
        self.0.view.lock().wyoming.clone()
    }

    /// Whether all models are ready.
    #[must_use]
    pub fn ready(&self) -> bool {
        let snapshot = self.0.view.lock();
        snapshot.models.values().all(|model| model.standing == Standing::Ready)
    }

    /// Whether one is.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn model_ready(&self, name: &str, version: Option<&str>) -> Result<bool, Refusal> {
        let snapshot = self.0.view.lock();
        let model = self.model(&snapshot, name, version)?;
        Ok(self.standing(name, model) == Standing::Ready)
    }

    /// What one takes and gives.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Unavailable`].
    pub fn metadata(&self, name: &str, version: Option<&str>) -> Result<Metadata, Refusal> {
        let snapshot = self.0.view.lock();
        let model = self.model(&snapshot, name, version)?;
        match (&model.metadata, &model.standing) {
            (Some(metadata), _) => Ok(Metadata::clone(metadata)),
            (None, Standing::Down(reason) | Standing::Coming(reason)) => {
                Err(Refusal::Unavailable(format!("model `{name}`: {reason}")))
            }
            (None, Standing::Ready) => {
                Err(Refusal::Unavailable(format!("model `{name}` does not say what it takes")))
            }
        }
    }

    pub(super) fn model<'a>(
        &self,
        snapshot: &'a Snapshot,
        name: &str,
        version: Option<&str>,
    ) -> Result<&'a Model, Refusal> {
        if let Some(model) = snapshot.models.get(name) {
            let Some(version) = version else {
                return Ok(model);
            };
            let known = versions(model);
            if known.is_empty() || known.iter().any(|it| it == version) {
                return Ok(model);
            }
            return Err(Refusal::NotFound(format!(
                "model `{name}` has no version `{version}`; it has `{}`",
                known.join("`, `")
            )));
        }
        if snapshot.status.workers.iter().any(|worker| worker.name == name) {
            return Err(Refusal::NotFound(format!(
                "`{name}` is an external command that takes no requests; add `http`, `stdio` or \
                 `oip` to [worker.{name}]"
            )));
        }
        let stored = self.0.store.versions(name);
        if !stored.is_empty() {
            return Err(Refusal::NotFound(format!(
                "model `{name}` is not loaded; load it, or declare it in pool.d"
            )));
        }
        let known: Vec<_> = snapshot.models.keys().map(String::as_str).collect();
        Err(Refusal::NotFound(match known.as_slice() {
            [] => format!("no model `{name}`; pool.d declares none"),
            known => format!("no model `{name}`; those of pool.d: {}", known.join(", ")),
        }))
    }

    /// Answers a request. To drop the future is to cancel it.
    ///
    /// # Errors
    /// Every [`Refusal`].
    pub async fn infer(&self, mut request: Request) -> Result<Response, Refusal> {
        let mut watch = Watch::over(self, &request);
        if let Err(refusal) = self.inherit(&mut request) {
            let outcome = Err(refusal);
            watch.done(&outcome);
            return outcome;
        }
        watch.terms.deadline = request.terms.deadline;
        let deadline = request.terms.deadline;
        let work = self.dispatch(request);
        let expired =
            |when: &str| Err(Refusal::Expired(format!("the deadline passed before the {when}")));
        let outcome = match deadline {
            None => work.await,
            // Work that is late already is never begun; the timer alone would let some through.
            Some(deadline) if deadline <= Instant::now() => expired("work began"),
            Some(deadline) => timeout_at(deadline.into(), work)
                .await
                .unwrap_or_else(|_| expired("answer was there")),
        };
        watch.done(&outcome);
        outcome
    }

    /// Counts a request to a model that could not be read; returns the refusal.
    pub fn unreadable(&self, model: &str, arrival: Instant, refusal: Refusal) -> Refusal {
        let over = Over { at: Instant::now(), spent: arrival.elapsed(), deadline: None };
        self.0.statistics.count(model, &over, &Err(refusal.clone()));
        refusal
    }

    /// Gives a request the deadline of the one on whose behalf it is made, where that is earlier.
    fn inherit(&self, request: &mut Request) -> Result<(), Refusal> {
        let Some(parent) = &request.terms.parent else {
            return Ok(());
        };
        self.model_ready(&request.model, request.version.as_deref())?;
        let inherited = self.0.dispatcher.deadline_of(parent)?;
        let terms = &mut request.terms;
        terms.deadline = terms.deadline.into_iter().chain(inherited).min();
        Ok(())
    }

    async fn dispatch(&self, request: Request) -> Result<Response, Refusal> {
        let (kind, metadata) = {
            let name = &request.model;
            let snapshot = self.0.view.lock();
            let model = self.model(&snapshot, name, request.version.as_deref())?;
            if let Standing::Down(reason) = self.standing(name, model) {
                return Err(Refusal::Unavailable(format!("model `{name}`: {reason}")));
            }
            (model.kind.clone(), model.metadata.clone())
        };
        if !request.shared.is_empty() && !self.0.dispatcher.reads_shared(&request.model) {
            return Err(Refusal::Invalid(format!(
                "model `{}` does not read inputs from shared memory, which only models of built-in \
                 workers do: send the data",
                request.model
            )));
        }
        let (taken, given) = match metadata.as_ref().and_then(|metadata| metadata.sound) {
            Some(SoundAt::Input(rate)) => (Some(rate), None),
            Some(SoundAt::Output(rate)) => (None, Some(rate)),
            None => (None, None),
        };
        let sound = match (kind, metadata) {
            (Kind::Denoise, _) => Some(denoise::check(&request)?.lasts()),
            (Kind::Declared { .. }, metadata) => {
                // What declares no tensors looks at them itself.
                if let Some(metadata) = metadata.filter(|it| !it.inputs.is_empty()) {
                    metadata.check(&request)?;
                }
                let shared = || sound::shared_lasts(&request.shared, taken);
                sound::lasts(&request.inputs, taken).or_else(shared)
            }
        };
        let mut answer = self.0.dispatcher.infer(request).await?;
        answer.spent.sound = sound.or_else(|| sound::lasts(&answer.outputs, given));
        Ok(answer)
    }

    fn entry(&self, name: &str, model: &Model) -> Entry {
        Entry::of(name, model, self.standing(name, model))
    }

    /// Every model in every version.
    #[must_use]
    pub fn index(&self) -> Vec<Entry> {
        let stored = self.0.store.index();
        let snapshot = self.0.view.lock();
        let mut entries: Vec<_> =
            snapshot.models.iter().map(|(name, model)| self.entry(name, model)).collect();
        for entry in stored {
            let version = entry.version.map(|number| number.to_string()).unwrap_or_default();
            // A declared worker's own versions go by its name.
            let is_its = |(_, model): &(&String, &Model)| matches!(&model.kind, Kind::Declared { stored: Some(of) } if *of == entry.name);
            let mut names: Vec<_> =
                snapshot.models.iter().filter(is_its).map(|(name, _)| name.clone()).collect();
            if names.is_empty() && !snapshot.models.contains_key(&entry.name) {
                names.push(entry.name.clone());
            }
            for name in names {
                if entries.iter().any(|it| it.name == name && it.version == version) {
                    continue;
                }
                let (state, reason) = (entry.state, entry.reason.clone());
                entries.push(Entry { name, version: version.clone(), state, reason });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// Of one model, or of all.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn statistics(
        &self,
        name: Option<&str>,
        version: Option<&str>,
    ) -> Result<Vec<(Entry, Counts)>, Refusal> {
        if let Some(name) = name {
            self.model(&self.0.view.lock(), name, version)?;
        }
        let wanted = |entry: &Entry| name.is_none_or(|name| name == entry.name);
        let with_counts = |entry: Entry| {
            let counts = self.0.statistics.of(&entry.name);
            (entry, counts)
        };
        let snapshot = self.0.view.lock().models.clone();
        let served = snapshot.iter().map(|(name, model)| self.entry(name, model));
        Ok(served.filter(wanted).map(with_counts).collect())
    }
}
