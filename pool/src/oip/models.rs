//! All that the servers ask of the rest of the pool.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use downbeat_api::pool::declared_name;
use tokio::time::timeout_at;
use tracing::debug;

use super::denoise::Denoise;
use super::sound;
use super::statistics::{Counts, Over, Statistics};
use crate::dispatch::Dispatcher;
use crate::inference::{Metadata, Refusal, Request, Response, Terms};
use crate::store::{IndexEntry, State, Store, StoreError, Wish};
use crate::supervise::LOAD_LIMIT;
use crate::view::{Model, Openai, Route, Snapshot, Standing, View};
use crate::wyoming::services::Services;

/// Between two looks at a model that a client has asked for.
const LOOK: Duration = Duration::from_millis(50);

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
    /// Models that let no new request in, as a person asked.
    drained: Arc<Mutex<BTreeSet<String>>>,
}

impl Backend {
    /// Of these, with nothing counted and nothing drained.
    #[must_use]
    pub fn new(view: View, dispatcher: Dispatcher, store: Store) -> Self {
        let (statistics, drained) = Default::default();
        Self { view, dispatcher, store, statistics, drained }
    }

    /// Models that let no new request in.
    pub fn drained(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // A set is whole after each call on it.
        self.drained.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The models, as the servers see them.
#[derive(Clone, Debug)]
pub struct Models(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    backend: Backend,
    denoise: Denoise,
}

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
fn versions(model: &Model) -> Vec<String> {
    match (&model.route, &model.metadata) {
        (Route::Stream { .. }, _) => vec![Denoise::VERSION.into()],
        (Route::Queue { .. }, Some(metadata)) => metadata.versions.clone(),
        (Route::Queue { .. }, None) => Vec::new(),
    }
}

impl Models {
    /// Over the rest of the pool.
    #[must_use]
    pub fn new(backend: Backend) -> Self {
        Self(Arc::new(Inner { backend, denoise: Denoise::default() }))
    }

    /// The rest of the pool.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.0.backend
    }

    /// Where `/v1/*` goes.
    #[must_use]
    pub fn openai(&self) -> Openai {
        let mut workers = self.0.backend.view.lock().openai.clone();
        for name in self.0.backend.drained().iter() {
            // It is there and takes nothing.
            workers.get_mut(name).map(Vec::clear);
        }
        workers
    }

    /// Whether a model takes requests, with what a person said of it.
    fn standing(&self, name: &str, model: &Model) -> Standing {
        if self.0.backend.drained().contains(name) {
            return Standing::Down(format!(
                "it is drained and takes no new request; `downbeat pool load {name}` ends that"
            ));
        }
        model.standing.clone()
    }

    /// What workers do for Wyoming clients.
    #[must_use]
    pub fn wyoming(&self) -> Services {
        self.0.backend.view.lock().wyoming.clone()
    }

    /// Whether all models are ready.
    #[must_use]
    pub fn ready(&self) -> bool {
        let snapshot = self.0.backend.view.lock();
        snapshot.models.values().all(|model| model.standing == Standing::Ready)
    }

    /// Whether one is.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn model_ready(&self, name: &str, version: Option<&str>) -> Result<bool, Refusal> {
        let snapshot = self.0.backend.view.lock();
        let model = self.model(&snapshot, name, version)?;
        Ok(self.standing(name, model) == Standing::Ready)
    }

    /// What one takes and gives.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Unavailable`].
    pub fn metadata(&self, name: &str, version: Option<&str>) -> Result<Metadata, Refusal> {
        let snapshot = self.0.backend.view.lock();
        let model = self.model(&snapshot, name, version)?;
        match (&model.route, &model.metadata, &model.standing) {
            (Route::Stream { .. }, ..) => Ok(Denoise::metadata(name)),
            (Route::Queue { .. }, Some(metadata), _) => Ok(Metadata::clone(metadata)),
            (_, None, Standing::Down(reason) | Standing::Coming(reason)) => {
                Err(Refusal::Unavailable(format!("model `{name}`: {reason}")))
            }
            (_, None, Standing::Ready) => {
                Err(Refusal::Unavailable(format!("model `{name}` does not say what it takes")))
            }
        }
    }

    fn model<'a>(
        &self,
        snapshot: &'a Snapshot,
        name: &str,
        version: Option<&str>,
    ) -> Result<&'a Model, Refusal> {
        if let Some(model) = snapshot.models.get(name) {
            let known = versions(model);
            return match version {
                Some(version) if !known.is_empty() && known.iter().all(|it| it != version) => {
                    Err(Refusal::NotFound(format!(
                        "model `{name}` has no version `{version}`; it has `{}`",
                        known.join("`, `")
                    )))
                }
                _ => Ok(model),
            };
        }
        if snapshot.status.workers.iter().any(|worker| worker.name == name) {
            return Err(Refusal::NotFound(format!(
                "`{name}` is an external command that takes no requests; add `http`, `stdio` or \
                 `oip` to [worker.{name}]"
            )));
        }
        let stored = self.0.backend.store.versions(name);
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
        let sound = sound::lasts(&request.inputs);
        let work = self.dispatch(request);
        let expired =
            |when: &str| Err(Refusal::Expired(format!("the deadline passed before the {when}")));
        let mut outcome = match deadline {
            None => work.await,
            // Work that is late already is never begun; the timer alone would let some through.
            Some(deadline) if deadline <= Instant::now() => expired("work began"),
            Some(deadline) => timeout_at(deadline.into(), work)
                .await
                .unwrap_or_else(|_| expired("answer was there")),
        };
        if let Ok(answer) = &mut outcome
            && answer.spent.sound.is_none()
        {
            answer.spent.sound = sound.or_else(|| sound::lasts(&answer.outputs));
        }
        watch.done(&outcome);
        outcome
    }

    /// Counts a request to a model that could not be read; returns the refusal.
    pub fn unreadable(&self, model: &str, arrival: Instant, refusal: Refusal) -> Refusal {
        let over = Over { at: Instant::now(), spent: arrival.elapsed(), deadline: None };
        self.0.backend.statistics.count(model, &over, &Err(refusal.clone()));
        refusal
    }

    /// Gives a request the deadline of the one on whose behalf it is made, where that is earlier.
    fn inherit(&self, request: &mut Request) -> Result<(), Refusal> {
        let Some(parent) = &request.terms.parent else {
            return Ok(());
        };
        self.model_ready(&request.model, request.version.as_deref())?;
        let inherited = self.0.backend.dispatcher.deadline_of(parent)?;
        let terms = &mut request.terms;
        terms.deadline = terms.deadline.into_iter().chain(inherited).min();
        Ok(())
    }

    async fn dispatch(&self, request: Request) -> Result<Response, Refusal> {
        let name = &request.model;
        let (route, metadata, deadline) = {
            let snapshot = self.0.backend.view.lock();
            let model = self.model(&snapshot, name, request.version.as_deref())?;
            let standing = self.standing(name, model);
            if let Standing::Down(reason) = &standing {
                return Err(Refusal::Unavailable(format!("model `{name}`: {reason}")));
            }
            if let (Standing::Coming(reason), Route::Stream { .. }) = (&standing, &model.route) {
                return Err(Refusal::Unavailable(format!(
                    "model `{name}` is not ready: {reason}; try again"
                )));
            }
            (model.route.clone(), model.metadata.clone(), model.deadline)
        };
        match route {
            Route::Stream { socket } => self.0.denoise.infer(socket, deadline, request).await,
            Route::Queue { .. } => {
                // What declares no tensors looks at them itself.
                if let Some(metadata) = metadata.filter(|it| !it.inputs.is_empty()) {
                    metadata.check(&request)?;
                }
                self.0.backend.dispatcher.infer(request).await
            }
        }
    }

    fn entry(&self, name: &str, model: &Model) -> Entry {
        Entry::of(name, model, self.standing(name, model))
    }

    /// Every model in every version.
    #[must_use]
    pub fn index(&self) -> Vec<Entry> {
        let stored = self.0.backend.store.index();
        let snapshot = self.0.backend.view.lock();
        let mut entries: Vec<_> =
            snapshot.models.iter().map(|(name, model)| self.entry(name, model)).collect();
        for entry in stored {
            let version = entry.version.map(|number| number.to_string()).unwrap_or_default();
            // A declared worker's own versions go by its name.
            let is_its = |(_, model): &(&String, &Model)| matches!(&model.route, Route::Queue { stored: Some(of) } if *of == entry.name);
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

    /// Loads a model of the store, or loads it again, and waits until it takes requests.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Unavailable`].
    pub async fn load(&self, name: &str) -> Result<(), Refusal> {
        let Backend { view, store, .. } = &self.0.backend;
        let drained = self.0.backend.drained().remove(name);
        let stored = match self.stored(name) {
            // One of another kind was never unloaded.
            Err(_) if drained => return Ok(()),
            stored => stored?,
        };
        let target = store.load(&stored, Wish::Newest).map_err(|error| not_stored(&error))?;
        let number = target.artifact.version;
        let version = number.to_string();
        let failed = |entry: &IndexEntry| {
            let same = entry.name == stored && entry.version == Some(number);
            same && entry.state == State::Unavailable
        };
        let until = Instant::now() + LOAD_LIMIT;
        while Instant::now() < until {
            tokio::time::sleep(LOOK).await;
            let standing = {
                let snapshot = view.lock();
                let model = snapshot.models.get(name);
                let model = model.filter(|model| versions(model).contains(&version));
                model.map(|model| model.standing.clone())
            };
            match standing {
                Some(Standing::Ready) => return Ok(()),
                Some(Standing::Down(reason)) => {
                    return Err(Refusal::Unavailable(format!("model `{name}`: {reason}")));
                }
                Some(Standing::Coming(_)) | None => {}
            }
            if let Some(entry) = store.index().into_iter().find(failed) {
                return Err(Refusal::Unavailable(format!("model `{name}`: {}", entry.reason)));
            }
        }
        let seconds = LOAD_LIMIT.as_secs();
        Err(Refusal::Unavailable(format!("model `{name}` is not ready within {seconds} s")))
    }

    /// Unloads a model of the store: what it was asked is answered first.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Unavailable`].
    pub fn unload(&self, name: &str) -> Result<(), Refusal> {
        let stored = self.stored(name)?;
        self.0.backend.store.unload(&stored).map_err(|error| not_stored(&error))
    }

    /// Lets no new request to a model in, until it is loaded again; those that wait and run are
    /// answered.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn drain(&self, name: &str) -> Result<(), Refusal> {
        self.model(&self.0.backend.view.lock(), name, None)?;
        self.0.backend.drained().insert(name.into());
        Ok(())
    }

    /// Names of the last dimension of a model's first output; none where it has none.
    #[must_use]
    pub fn labels(&self, name: &str) -> Vec<String> {
        let described = self.stored(name).map(|name| self.0.backend.store.describe(&name, None));
        described.ok().and_then(Result::ok).map_or_else(Vec::new, |target| target.labels.to_vec())
    }

    /// Whether there is a worker of this name.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], naming those that there are.
    pub fn is_worker(&self, name: &str) -> Result<(), Refusal> {
        let snapshot = self.0.backend.view.lock();
        let names: BTreeSet<_> =
            snapshot.status.workers.iter().map(|worker| declared_name(&worker.name)).collect();
        if names.contains(name) {
            return Ok(());
        }
        let names: Vec<_> = names.into_iter().collect();
        Err(Refusal::NotFound(match crate::config::nearest(name, &names) {
            Some(near) => format!("no worker `{name}`; did you mean `{near}`?"),
            None if names.is_empty() => format!("no worker `{name}`; pool.d declares none"),
            None => format!("no worker `{name}`; those of pool.d: {}", names.join(", ")),
        }))
    }

    /// The name in the model store of what a client calls so.
    fn stored(&self, name: &str) -> Result<String, Refusal> {
        let snapshot = self.0.backend.view.lock();
        match snapshot.models.get(name).map(|model| &model.route) {
            Some(Route::Queue { stored: Some(stored) }) => Ok(stored.clone()),
            Some(_) => Err(Refusal::Unavailable(format!(
                "model `{name}` is no model of the store and loaded while pool.d declares it; \
                 change pool.d"
            ))),
            // The store says what it has.
            None => Ok(name.into()),
        }
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
            self.model(&self.0.backend.view.lock(), name, version)?;
        }
        let wanted = |entry: &Entry| name.is_none_or(|name| name == entry.name);
        let with_counts = |entry: Entry| {
            let counts = self.0.backend.statistics.of(&entry.name);
            (entry, counts)
        };
        let snapshot = self.0.backend.view.lock().models.clone();
        let served = snapshot.iter().map(|(name, model)| self.entry(name, model));
        Ok(served.filter(wanted).map(with_counts).collect())
    }
}

fn not_stored(error: &StoreError) -> Refusal {
    let message = error.to_string();
    match error {
        StoreError::Unknown { .. } | StoreError::Version { .. } => Refusal::NotFound(message),
        StoreError::Unusable { .. } => Refusal::Unavailable(message),
    }
}

/// Counts and logs one request, also one whose future is dropped.
struct Watch {
    models: Models,
    model: String,
    terms: Terms,
    counted: bool,
}

impl Watch {
    fn over(models: &Models, request: &Request) -> Self {
        let (model, terms) = (request.model.clone(), request.terms.clone());
        Self { models: models.clone(), model, terms, counted: false }
    }

    fn done(&mut self, outcome: &Result<Response, Refusal>) {
        self.counted = true;
        let backend = &self.models.0.backend;
        let (arrival, now) = (self.terms.arrival, Instant::now());
        let spent = now.saturating_duration_since(arrival);
        let own = || {
            let snapshot = backend.view.lock();
            // Of a stream it is that of one frame, and a request has many.
            let queued = |model: &&Model| matches!(model.route, Route::Queue { .. });
            snapshot.models.get(&self.model).filter(queued).and_then(|model| model.deadline)
        };
        let asked = self.terms.deadline.map(|it| it.saturating_duration_since(arrival));
        let over = Over { at: now, spent, deadline: asked.or_else(own) };
        backend.statistics.count(&self.model, &over, outcome);
        let (model, client) = (&self.model, &self.terms.client);
        let trace = self.terms.traceparent.as_deref().and_then(super::trace::ids);
        let (trace_id, parent_id) = trace.unzip();
        match outcome {
            Ok(answer) => debug!(
                trace_id, parent_id, model, client, ?spent,
                queued = ?answer.spent.queued, computed = ?answer.spent.computed,
                batch = answer.spent.batch, "answered"
            ),
            Err(refusal) => {
                debug!(trace_id, parent_id, model, client, ?spent, "not answered: {refusal}");
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.counted {
            self.done(&Err(Refusal::Cancelled));
        }
    }
}
