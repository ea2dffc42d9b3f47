//! The requests that wait for one model, in the order in which they are to run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::request::{ModelId, Step, Ticket};

/// The order of work with a deadline: deadline, priority, arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub deadline: Duration,
    pub priority: u64,
    pub ticket: Ticket,
}

/// A request that waits or runs.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub ticket: Ticket,
    pub model: ModelId,
    pub client: Arc<str>,
    /// What its client said; absent for background work.
    pub deadline: Option<Duration>,
    /// Where it stands. Its deadline may be earlier than its own: that of one behind it in its
    /// sequence.
    pub key: Key,
    pub units: u32,
    pub bytes: u64,
    pub batch_key: Option<u64>,
    pub sequence: Option<Step>,
    /// It was on a worker that ended.
    pub retried: bool,
    /// Let in against the estimate, to measure anew.
    pub probe: bool,
}

/// Those of one model. Work with a deadline is in its order; background work waits per client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lane {
    pub urgent: BTreeMap<Key, Entry>,
    pub background: BTreeMap<Arc<str>, BTreeMap<(u64, Ticket), Entry>>,
    background_count: usize,
    per_client: BTreeMap<Arc<str>, usize>,
}

impl Lane {
    pub fn len(&self) -> usize {
        self.urgent.len() + self.background_count
    }

    pub fn background_len(&self) -> usize {
        self.background_count
    }

    /// Requests of one client that wait here.
    pub fn len_of(&self, client: &str) -> usize {
        self.per_client.get(client).copied().unwrap_or_default()
    }

    pub fn insert(&mut self, entry: Entry) {
        *self.per_client.entry(Arc::clone(&entry.client)).or_default() += 1;
        if entry.deadline.is_some() {
            self.urgent.insert(entry.key, entry);
        } else {
            self.background_count += 1;
            let of_client = self.background.entry(Arc::clone(&entry.client)).or_default();
            of_client.insert((entry.key.priority, entry.ticket), entry);
        }
    }

    pub fn get(&self, place: &Place) -> Option<&Entry> {
        match place {
            Place::Urgent(key) => self.urgent.get(key),
            Place::Background(client, key) => self.background.get(client)?.get(key),
        }
    }

    /// To change what does not decide its place.
    pub fn get_mut(&mut self, place: &Place) -> Option<&mut Entry> {
        match place {
            Place::Urgent(key) => self.urgent.get_mut(key),
            Place::Background(client, key) => self.background.get_mut(client)?.get_mut(key),
        }
    }

    pub fn remove(&mut self, place: &Place) -> Option<Entry> {
        let entry = match place {
            Place::Urgent(key) => self.urgent.remove(key)?,
            Place::Background(client, key) => {
                let of_client = self.background.get_mut(client)?;
                let entry = of_client.remove(key)?;
                self.background_count -= 1;
                if of_client.is_empty() {
                    self.background.remove(client);
                }
                entry
            }
        };
        if let Some(count) = self.per_client.get_mut(&entry.client) {
            *count -= 1;
            if *count == 0 {
                self.per_client.remove(&entry.client);
            }
        }
        Some(entry)
    }
}

/// Where a waiting request is found within its lane.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Urgent(Key),
    Background(Arc<str>, (u64, Ticket)),
}

impl Entry {
    pub fn place(&self) -> Place {
        if self.deadline.is_some() {
            Place::Urgent(self.key)
        } else {
            Place::Background(Arc::clone(&self.client), (self.key.priority, self.ticket))
        }
    }
}
