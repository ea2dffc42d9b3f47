//! What the pool's log says of each worker, for `downbeat pool logs`: the newest lines, in memory.
//!
//! A layer of the log: every event with a field `worker` is kept, what the worker wrote to its
//! standard error as well as what the pool says of its starts and ends.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use downbeat_api::pool::{LogLine, declared_name};
use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Lines of one declared worker.
const MOST_LINES: usize = 256;

/// Bytes of one line; the rest is cut.
const MOST_BYTES: usize = 1024;

/// Declared workers; of more, those that were silent longest are forgotten.
const MOST_WORKERS: usize = 256;

/// The lines, shared.
#[derive(Clone, Debug)]
pub struct Logs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<Kept>,
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Lines so far; each has its number.
    count: u64,
    workers: BTreeMap<String, VecDeque<(u64, LogLine)>>,
}

impl Default for Logs {
    fn default() -> Self {
        Self(Arc::new(Inner { kept: Mutex::default(), changes: watch::Sender::new(()) }))
    }
}

impl Logs {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Each change leaves it whole, so a panic elsewhere leaves it usable.
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines of a declared worker with a number above `after` (0: all), and the number of the last
    /// line there is.
    #[must_use]
    pub fn after(&self, worker: &str, after: u64) -> (Vec<LogLine>, u64) {
        let kept = self.lock();
        let lines = kept.workers.get(worker).into_iter().flatten();
        let lines = lines.filter(|(number, _)| *number > after).map(|(_, line)| line.clone());
        (lines.collect(), kept.count)
    }

    /// Tells when there may be new lines.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    fn add(&self, instance: String, mut text: String) {
        text.truncate(text.floor_char_boundary(MOST_BYTES));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = declared_name(&instance).to_owned();
        let line = LogLine { unix_time: now.as_secs_f64(), instance, text };
        {
            let mut kept = self.lock();
            kept.count += 1;
            let number = kept.count;
            let lines = kept.workers.entry(name).or_default();
            if lines.len() == MOST_LINES {
                lines.pop_front();
            }
            lines.push_back((number, line));
            if kept.workers.len() > MOST_WORKERS {
                let last = |lines: &VecDeque<(u64, _)>| lines.back().map(|(number, _)| *number);
                let silent = kept.workers.iter().min_by_key(|(_, lines)| last(lines));
                if let Some(name) = silent.map(|(name, _)| name.clone()) {
                    kept.workers.remove(&name);
                }
            }
        }
        self.0.changes.send_replace(());
    }
}

impl<S: Subscriber> Layer<S> for Logs {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut found = Found::default();
        event.record(&mut found);
        if let (Some(worker), Some(text)) = (found.worker, found.text) {
            self.add(worker, text);
        }
    }
}

#[derive(Default)]
struct Found {
    worker: Option<String>,
    text: Option<String>,
}

impl Visit for Found {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "worker" => self.worker = Some(value.into()),
            "message" => self.text = Some(value.into()),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // `Debug` of formatted text, as messages are, is the text itself.
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::{info, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    fn logged(work: impl FnOnce()) -> Logs {
        let logs = Logs::default();
        let subscriber = tracing_subscriber::registry().with(logs.clone());
        tracing::subscriber::with_default(subscriber, work);
        logs
    }

    #[test]
    fn lines_of_all_instances_are_kept_in_order() {
        let logs = logged(|| {
            let id = String::from("mic#2");
            info!(worker = "mic", "started as pid {}", 7);
            warn!(worker = id, "killed: \"stuck\"");
            info!("the pool itself");
            info!(worker = "other", "x");
        });
        let (lines, last) = logs.after("mic", 0);
        let told: Vec<_> = lines.iter().map(|it| (&it.instance[..], &it.text[..])).collect();
        assert_eq!(told, [("mic", "started as pid 7"), ("mic#2", "killed: \"stuck\"")]);
        assert_eq!(logs.after("mic", 1).0, lines[1..]);
        assert_eq!((last, logs.after("mic", last).0.len()), (3, 0));
        assert!(lines[0].unix_time > 1.6e9);
    }

    #[test]
    fn a_flood_and_a_crowd_are_bounded() {
        let logs = logged(|| {
            for n in 0..1000 {
                info!(worker = "loud", "{n} {}", "ä".repeat(4000));
            }
            for n in 0..300 {
                info!(worker = format!("w{n}"), "x");
            }
        });
        assert_eq!(logs.lock().workers.len(), MOST_WORKERS);
        assert_eq!(logs.after("loud", 0).0.len(), 0, "silent longest");
        let logs =
            logged(|| (0..1000).for_each(|n| info!(worker = "loud", "{n}{}", "ä".repeat(999))));
        let (lines, last) = logs.after("loud", 0);
        assert_eq!((lines.len(), last), (MOST_LINES, 1000));
        assert!(lines.iter().all(|line| line.text.len() <= MOST_BYTES));
        assert!(lines[0].text.starts_with("744"), "{}", lines[0].text);
    }
}
