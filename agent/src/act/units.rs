//! Asks systemd on a thread of its own: an answer may take seconds, and no frame waits for it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::actuator::{Actuator, Cap};
use super::journal::{Journal, UNITS_NAME};
use super::outcome::{Done, Event, Request};
use super::subject::{Key, Subject};
use super::systemd::{self, Systemd};
use super::value::Value;
use crate::roots::Roots;

/// How long after systemd could not be reached it is tried again: early at boot its bus may come
/// after the agent.
const AGAIN: Duration = Duration::from_secs(5);

/// What every unit should have, by its name; a unit that is not named goes back.
pub type UnitRequest = BTreeMap<Arc<str>, Vec<Value>>;

/// The thread that asks, seen from the engine.
#[derive(Debug)]
pub struct Units {
    wanted: Option<Sender<(UnitRequest, u64)>>,
    done: Receiver<Vec<Done>>,
    thread: Option<JoinHandle<u64>>,
}

impl Units {
    /// Starts the thread, which keeps its journal in `run_dir`. It connects when it is first asked
    /// for something.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(run_dir: &Path, roots: &Roots) -> io::Result<Self> {
        let (wanted, requests) = mpsc::channel::<(UnitRequest, u64)>();
        let (answers, done) = mpsc::channel();
        let (run_dir, roots) = (run_dir.to_owned(), roots.clone());
        let work = move || {
            let mut actuator = None;
            let mut before = UnitRequest::new();
            let mut unmet = None;
            let mut refused_before = None;
            while let Some((wanted, now)) = next(&requests, unmet.take(), AGAIN) {
                if actuator.is_none() {
                    match connect(&run_dir, &roots) {
                        Ok(connected) => actuator = Some(connected),
                        Err(error) => {
                            if refused_before.as_ref() != Some(&wanted) {
                                let _ = answers.send(refused(&wanted, &error));
                                refused_before = Some(wanted.clone());
                            }
                            unmet = Some((wanted, now));
                            continue;
                        }
                    }
                }
                let Some(actuator) = &mut actuator else { continue };
                let _ = answers.send(change(actuator, &before, &wanted, now));
                before = wanted;
            }
            if let Some(mut actuator) = actuator {
                let _ = answers.send(actuator.undo_all());
                if let Err(error) = actuator.control().clean_up() {
                    tracing::warn!("removing what systemd noted at run time: {error}");
                }
                return actuator.finish().unwrap_or_else(|error| {
                    tracing::warn!("removing the journal of units: {error}");
                    0
                });
            }
            0
        };
        let thread = thread::Builder::new().name("systemd".into()).spawn(work)?;
        Ok(Self { wanted: Some(wanted), done, thread: Some(thread) })
    }

    /// Asks for what every unit should have; `now` is in clock ticks since boot.
    pub fn ask(&self, wanted: UnitRequest, now: u64) {
        if let Some(sender) = &self.wanted {
            // The thread ends after this sender alone.
            let _ = sender.send((wanted, now));
        }
    }

    /// What was done since the last call.
    #[must_use]
    pub fn done(&self) -> Vec<Done> {
        self.done.try_iter().flatten().collect()
    }

    /// Has everything put back, and waits for that. Says what was done, and how many values could
    /// not be put back.
    #[must_use]
    pub fn stop(mut self) -> (Vec<Done>, u64) {
        self.wanted = None;
        // A panic there has told itself already.
        let left = self.thread.take().and_then(|thread| thread.join().ok());
        (self.done(), left.unwrap_or(0))
    }
}

/// The next request, or after a while the one that was not met; nothing when nobody asks any more.
fn next(
    requests: &Receiver<(UnitRequest, u64)>,
    unmet: Option<(UnitRequest, u64)>,
    again: Duration,
) -> Option<(UnitRequest, u64)> {
    let Some(unmet) = unmet.filter(|(wanted, _)| !wanted.is_empty()) else {
        return requests.recv().ok();
    };
    match requests.recv_timeout(again) {
        Ok(newer) => Some(newer),
        Err(RecvTimeoutError::Timeout) => Some(unmet),
        Err(RecvTimeoutError::Disconnected) => None,
    }
}

fn connect(run_dir: &Path, roots: &Roots) -> io::Result<Actuator<Systemd>> {
    let systemd = Systemd::connect(Path::new(systemd::RUN), roots, false)?;
    let (journal, left) = Journal::open_named(UNITS_NAME, run_dir, roots)?;
    // Units have no real time to be bounded.
    let mut actuator = Actuator::new(systemd, journal, Cap { bandwidth: 0.0, threads: 0 });
    actuator.take_over(left);
    Ok(actuator)
}

fn change(
    actuator: &mut Actuator<Systemd>,
    before: &UnitRequest,
    wanted: &UnitRequest,
    now: u64,
) -> Vec<Done> {
    let mut done = Vec::new();
    for gone in before.keys().filter(|unit| !wanted.contains_key(*unit)) {
        done.extend(actuator.undo(Key::Unit(Arc::clone(gone))));
    }
    let requests: Vec<Request<'_>> = wanted
        .iter()
        .map(|(unit, values)| Request {
            subject: Subject::Unit(Arc::clone(unit)),
            wanted: values,
            otherwise: &[],
        })
        .collect();
    done.extend(actuator.apply(&requests, now));
    if actuator.journalled() == 0
        && let Err(error) = actuator.control().clean_up()
    {
        tracing::warn!("removing what systemd noted at run time: {error}");
    }
    done
}

fn refused(wanted: &UnitRequest, error: &io::Error) -> Vec<Done> {
    let all = wanted.iter().flat_map(|(unit, values)| values.iter().map(move |it| (unit, it)));
    all.map(|(unit, value)| Done {
        subject: Subject::Unit(Arc::clone(unit)),
        lever: value.lever(),
        event: Event::Failed { wanted: value.clone(), reason: error.to_string() },
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_met_is_tried_again_until_something_newer_is_asked() {
        let again = Duration::from_millis(1);
        let request = |unit: &str| Some((UnitRequest::from([(unit.into(), Vec::new())]), 7));
        let (sender, requests) = mpsc::channel();
        assert_eq!(next(&requests, request("old.service"), again), request("old.service"));
        sender.send(request("new.service").unwrap()).unwrap();
        assert_eq!(next(&requests, request("old.service"), again), request("new.service"));
        drop(sender);
        assert_eq!(next(&requests, request("old.service"), again), None, "nobody asks any more");
    }
}
