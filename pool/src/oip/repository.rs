//! What clients and people change: which models are loaded, and which let requests in.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use downbeat_api::pool::declared_name;

use super::models::{Backend, Models, versions};
use crate::inference::Refusal;
use crate::store::{IndexEntry, State, StoreError, Wish};
use crate::supervise::LOAD_LIMIT;
use crate::view::{Kind, Standing};

/// Between two looks at a model that a client has asked for.
const LOOK: Duration = Duration::from_millis(50);

impl Models {
    /// Loads a model of the store, or loads it again, and waits until it takes requests.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Unavailable`].
    pub async fn load(&self, name: &str) -> Result<(), Refusal> {
        let Backend { view, store, .. } = self.backend();
        let drained = self.backend().drained().remove(name);
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
        self.backend().store.unload(&stored).map_err(|error| not_stored(&error))
    }

    /// Lets no new request to a model in, until it is loaded again; those that wait and run are
    /// answered.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn drain(&self, name: &str) -> Result<(), Refusal> {
        self.model(&self.backend().view.lock(), name, None)?;
        self.backend().drained().insert(name.into());
        Ok(())
    }

    /// Names of the last dimension of a model's first output; none where it has none.
    #[must_use]
    pub fn labels(&self, name: &str) -> Vec<String> {
        let described = self.stored(name).map(|name| self.backend().store.describe(&name, None));
        described.ok().and_then(Result::ok).map_or_else(Vec::new, |target| target.labels.to_vec())
    }

    /// Whether there is a worker of this name.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], naming those that there are.
    pub fn is_worker(&self, name: &str) -> Result<(), Refusal> {
        let snapshot = self.backend().view.lock();
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
        let snapshot = self.backend().view.lock();
        match snapshot.models.get(name).map(|model| &model.kind) {
            Some(Kind::Declared { stored: Some(stored) }) => Ok(stored.clone()),
            Some(_) => Err(Refusal::Unavailable(format!(
                "model `{name}` is no model of the store and loaded while pool.d declares it; \
                 change pool.d"
            ))),
            // The store says what it has.
            None => Ok(name.into()),
        }
    }
}

fn not_stored(error: &StoreError) -> Refusal {
    let message = error.to_string();
    match error {
        StoreError::Unknown { .. } | StoreError::Version { .. } => Refusal::NotFound(message),
        StoreError::Unusable { .. } => Refusal::Unavailable(message),
    }
}
