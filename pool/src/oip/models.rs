//! All that the servers ask of the rest of the pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;
use tracing::debug;

use super::denoise::Denoise;
use super::statistics::{Counts, Statistics};
use crate::dispatch::Dispatcher;
use crate::inference::{Metadata, Refusal, Request, Response, Terms};
use crate::store::{State, Store, StoreError, Wish};
use crate::supervise::LOAD_LIMIT;
use crate::view::{Model, Openai, Route, Snapshot, Standing, View};

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
}

/// The models, as the servers see them.
#[derive(Clone, Debug)]
pub struct Models(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    backend: Backend,
    denoise: Denoise,
    statistics: Statistics,
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

    fn of(name: &str, model: &Model) -> Self {
        let (state, reason) = match &model.standing {
            Standing::Ready => (State::Ready, ""),
            Standing::Coming(reason) => (State::Loading, reason.as_str()),
            Standing::Down(reason) => (State::Unavailable, reason.as_str()),
        };
        let version = versions(model).pop().unwrap_or_default();
        Self { name: name.into(), version, state, reason: reason.into() }
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
        let (denoise, statistics) = (Denoise::default(), Statistics::default());
        Self(Arc::new(Inner { backend, denoise, statistics }))
    }

    /// Where `/v1/*` goes.
    #[must_use]
    pub fn openai(&self) -> Openai {
        self.0.backend.view.lock().openai.clone()
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
        Ok(self.model(&snapshot, name, version)?.standing == Standing::Ready)
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
    pub async fn infer(&self, request: Request) -> Result<Response, Refusal> {
        let mut watch = Watch::over(self, &request.model, &request.terms);
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

    async fn dispatch(&self, request: Request) -> Result<Response, Refusal> {
        let name = &request.model;
        let (route, metadata) = {
            let snapshot = self.0.backend.view.lock();
            let model = self.model(&snapshot, name, request.version.as_deref())?;
            if let Standing::Down(reason) = &model.standing {
                return Err(Refusal::Unavailable(format!("model `{name}`: {reason}")));
            }
            if let (Standing::Coming(reason), Route::Stream { .. }) =
                (&model.standing, &model.route)
            {
                return Err(Refusal::Unavailable(format!(
                    "model `{name}` is not ready: {reason}; try again"
                )));
            }
            (model.route.clone(), model.metadata.clone())
        };
        match route {
            Route::Stream { socket, deadline } => {
                self.0.denoise.infer(socket, deadline, request).await
            }
            Route::Queue { .. } => {
                // What declares no tensors looks at them itself.
                if let Some(metadata) = metadata.filter(|it| !it.inputs.is_empty()) {
                    metadata.check(&request)?;
                }
                self.0.backend.dispatcher.infer(request).await
            }
        }
    }

    /// Every model in every version.
    #[must_use]
    pub fn index(&self) -> Vec<Entry> {
        let stored = self.0.backend.store.index();
        let snapshot = self.0.backend.view.lock();
        let mut entries: Vec<_> =
            snapshot.models.iter().map(|(name, model)| Entry::of(name, model)).collect();
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
        let stored = self.stored(name)?;
        let target = store.load(&stored, Wish::Newest).map_err(|error| not_stored(&error))?;
        let version = target.artifact.version.to_string();
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
            let counts = self.0.statistics.of(&entry.name);
            (entry, counts)
        };
        let snapshot = self.0.backend.view.lock().models.clone();
        let served = snapshot.iter().map(|(name, model)| Entry::of(name, model));
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
    fn over(models: &Models, model: &str, terms: &Terms) -> Self {
        Self { models: models.clone(), model: model.into(), terms: terms.clone(), counted: false }
    }

    fn done(&mut self, outcome: &Result<Response, Refusal>) {
        self.counted = true;
        let spent = Instant::now().saturating_duration_since(self.terms.arrival);
        self.models.0.statistics.count(&self.model, spent, outcome);
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
