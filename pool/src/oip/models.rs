//! All that the servers ask of the rest of the pool.

use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout_at;
use tracing::debug;

use super::denoise::Denoise;
use super::statistics::{Counts, Statistics};
use crate::inference::{Metadata, Refusal, Request, Response, Terms};
use crate::view::{Openai, View};

/// The models, as the servers see them.
#[derive(Clone, Debug)]
pub struct Models(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    view: View,
    denoise: Denoise,
    statistics: Statistics,
}

/// One version of a model in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The model.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it takes requests.
    pub ready: bool,
    /// Why it does not.
    pub reason: String,
}

impl Entry {
    /// Its state by the protocol's name.
    #[must_use]
    pub fn state(&self) -> &'static str {
        if self.ready { "READY" } else { "UNAVAILABLE" }
    }
}

impl Models {
    /// Over what the pool shows of itself.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self(Arc::new(Inner {
            view,
            denoise: Denoise::default(),
            statistics: Statistics::default(),
        }))
    }

    /// Where `/v1/*` goes.
    #[must_use]
    pub fn openai(&self) -> Openai {
        self.0.view.lock().openai.clone()
    }

    /// Whether all models are ready.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.0.view.lock().models.values().all(|model| model.ready)
    }

    /// Whether one is.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn model_ready(&self, name: &str, version: Option<&str>) -> Result<bool, Refusal> {
        Ok(self.model(name, version)?.ready)
    }

    /// What one takes and gives.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn metadata(&self, name: &str, version: Option<&str>) -> Result<Metadata, Refusal> {
        self.model(name, version)?;
        Ok(Denoise::metadata(name))
    }

    fn model(&self, name: &str, version: Option<&str>) -> Result<crate::view::Model, Refusal> {
        let snapshot = self.0.view.lock();
        if let Some(model) = snapshot.models.get(name) {
            return match version {
                None | Some(Denoise::VERSION) => Ok(model.clone()),
                Some(version) => Err(Refusal::NotFound(format!(
                    "model `{name}` has no version `{version}`; it has `{}`",
                    Denoise::VERSION
                ))),
            };
        }
        if snapshot.status.workers.iter().any(|worker| worker.name == name) {
            return Err(Refusal::NotFound(format!(
                "`{name}` is an external command; only built-in workers are models"
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
        let model = self.model(&request.model, request.version.as_deref())?;
        if !model.ready {
            return Err(Refusal::Unavailable(format!(
                "model `{}` is not ready; try again",
                request.model
            )));
        }
        self.0.denoise.infer(&model, request).await
    }

    /// Every model in every version.
    #[must_use]
    pub fn index(&self) -> Vec<Entry> {
        let entry = |(name, model): (&String, &crate::view::Model)| Entry {
            name: name.clone(),
            version: Denoise::VERSION.into(),
            ready: model.ready,
            reason: if model.ready { String::new() } else { "its worker is not ready".into() },
        };
        self.0.view.lock().models.iter().map(entry).collect()
    }

    /// Loads a model, or loads it again.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Unavailable`].
    pub fn load(&self, name: &str) -> Result<(), Refusal> {
        self.model(name, None)?;
        Err(declared(name))
    }

    /// Unloads a model.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Unavailable`].
    pub fn unload(&self, name: &str) -> Result<(), Refusal> {
        self.model(name, None)?;
        Err(declared(name))
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
            self.model(name, version)?;
        }
        let wanted = |entry: &Entry| name.is_none_or(|name| name == entry.name);
        let with_counts = |entry: Entry| {
            let counts = self.0.statistics.of(&entry.name);
            (entry, counts)
        };
        Ok(self.index().into_iter().filter(wanted).map(with_counts).collect())
    }
}

fn declared(name: &str) -> Refusal {
    Refusal::Unavailable(format!(
        "model `{name}` is built in and loaded while pool.d declares it; change pool.d"
    ))
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
