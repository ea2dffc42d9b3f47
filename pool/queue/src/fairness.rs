//! Clients: what each has waiting and running, so that none takes everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// For so long after a refusal a client counts as one that competes.
const COMPETES: Duration = Duration::from_secs(5);
/// A client with nothing here is forgotten after so long.
const FORGET: Duration = Duration::from_secs(60);
/// Clients are looked through for forgotten ones when there are so many more than the last time.
const SWEEP: usize = 256;

#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    pub waiting: usize,
    pub running: usize,
    /// Memory of what waits.
    pub bytes: u64,
    /// Background service that it had: the client with the least goes next.
    served: Duration,
    last_seen: Duration,
    last_refused: Option<Duration>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Clients {
    all: BTreeMap<Arc<str>, Client>,
    /// Of the background job that started last; newcomers begin there, without credit.
    level: Duration,
    sweep_at: usize,
}

impl Clients {
    pub fn get(&self, name: &str) -> Option<&Client> {
        self.all.get(name)
    }

    fn at(&mut self, name: &Arc<str>) -> &mut Client {
        let level = self.level;
        self.all
            .entry(Arc::clone(name))
            .or_insert_with(|| Client { served: level, ..Client::default() })
    }

    pub fn waits(&mut self, name: &Arc<str>, bytes: u64, now: Duration) {
        let level = self.level;
        let client = self.at(name);
        if client.waiting == 0 && client.running == 0 {
            client.served = client.served.max(level);
        }
        client.waiting += 1;
        client.bytes += bytes;
        client.last_seen = now;
        if self.all.len() > self.sweep_at + SWEEP {
            self.all.retain(|_, client| {
                client.waiting > 0 || client.running > 0 || client.last_seen + FORGET > now
            });
            self.sweep_at = self.all.len();
        }
    }

    pub fn waits_no_more(&mut self, name: &Arc<str>, bytes: u64) {
        let client = self.at(name);
        client.waiting = client.waiting.saturating_sub(1);
        client.bytes = client.bytes.saturating_sub(bytes);
    }

    pub fn runs(&mut self, name: &Arc<str>) {
        self.at(name).running += 1;
    }

    pub fn runs_no_more(&mut self, name: &Arc<str>, now: Duration) {
        let client = self.at(name);
        client.running = client.running.saturating_sub(1);
        client.last_seen = now;
    }

    /// Background work of `name` starts.
    pub fn serve(&mut self, name: &Arc<str>, expected: Duration) {
        let client = self.at(name);
        let before = client.served;
        client.served = before + expected;
        self.level = self.level.max(before);
    }

    pub fn served(&self, name: &str) -> Duration {
        self.all.get(name).map_or(self.level, |client| client.served)
    }

    /// A request of `name` that an idle pool would have served was refused.
    pub fn refused(&mut self, name: &Arc<str>, now: Duration) {
        let client = self.at(name);
        client.last_refused = Some(now);
        client.last_seen = now;
    }

    /// How many clients compete with `name`, itself included, where others were refused lately.
    pub fn competitors(&self, name: &str, now: Duration) -> Option<usize> {
        let others = self
            .all
            .iter()
            .filter(|(other, client)| {
                &***other != name
                    && client.last_refused.is_some_and(|refused| refused + COMPETES > now)
            })
            .count();
        (others > 0).then_some(others + 1)
    }
}
