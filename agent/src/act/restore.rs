//! Putting back what a killed agent left changed.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::actuator::{is_inherited, put_back};
use super::control::{Control, Kernel};
use super::journal::{self, Change, Changes, Found, ThreadId};
use super::lock::{LockError, RunLock};
use super::outcome::Event;
use super::value::Lever;
use crate::observe::process::ProcessReader;
use crate::roots::Roots;

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Old values put back.
    pub restored: u64,
    /// Left alone, since someone else changed the value after us.
    pub handed_off: u64,
    /// Values whose threads are gone.
    pub gone: u64,
    /// What could not be put back, each with its reason.
    pub failed: Vec<String>,
}

/// Why nothing could be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// An agent is alive and owns the journal.
    #[error(
        "an agent is running (pid {pid}) and puts back everything itself: stop it, or use \
         `downbeat pause`"
    )]
    AgentRunning {
        /// Its process.
        pid: u32,
    },
    /// The run directory cannot be used.
    #[error(transparent)]
    Lock(LockError),
    /// The journal cannot be read.
    #[error("{path}: {source}; run as the user that the agent ran as")]
    Unreadable {
        /// The journal.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Puts back what a killed agent left changed, from its journal in `run_dir`. Takes the run
/// directory's lock, so that no agent starts meanwhile.
///
/// # Errors
/// [`RestoreError`]; a single value that cannot be put back is in the report instead.
pub fn restore(run_dir: &Path, roots: &Roots) -> Result<RestoreReport, RestoreError> {
    if !run_dir.join(journal::FILE_NAME).exists() {
        return Ok(RestoreReport::default());
    }
    let _lock = RunLock::acquire(run_dir).map_err(|error| match error {
        LockError::Held { pid, .. } => RestoreError::AgentRunning { pid },
        other => RestoreError::Lock(other),
    })?;
    restore_locked(run_dir, roots)
}

/// The same for a caller that holds the lock.
///
/// # Errors
/// [`RestoreError::Unreadable`].
pub fn restore_locked(run_dir: &Path, roots: &Roots) -> Result<RestoreReport, RestoreError> {
    let path = run_dir.join(journal::FILE_NAME);
    let unreadable = |source| RestoreError::Unreadable { path: path.clone(), source };
    let report = match journal::read(run_dir, roots).map_err(unreadable)? {
        Found::Nothing => return Ok(RestoreReport::default()),
        Found::Stale => RestoreReport::default(),
        Found::Changes(changes) => put_back_all(&changes, &Kernel::new(roots), roots),
    };
    // What failed can be tried again, with more rights.
    if report.failed.is_empty() {
        fs::remove_file(&path).map_err(unreadable)?;
    }
    Ok(report)
}

fn put_back_all<C: Control>(changes: &Changes, control: &C, roots: &Roots) -> RestoreReport {
    let mut report = RestoreReport::default();
    // Children first, while their creators still tell which values are ours.
    for (thread, change) in inherited(changes, control, roots) {
        report.count(thread, change.ours.lever(), put_back(control, thread, &change));
    }
    for ((thread, lever), change) in changes {
        report.count(*thread, *lever, put_back(control, *thread, change));
    }
    report
}

/// Threads and child processes that started after a change and that the agent did not live to
/// note: what they have from their creator is ours, too.
fn inherited<C: Control>(changes: &Changes, control: &C, roots: &Roots) -> Vec<(ThreadId, Change)> {
    let mut by_process: HashMap<u32, Vec<&Change>> = HashMap::new();
    for ((thread, _), change) in changes {
        by_process.entry(thread.pid).or_default().push(change);
    }
    let reader = ProcessReader::new(roots);
    let parents: HashMap<u32, u32> = reader
        .pids()
        .into_iter()
        .filter_map(|pid| Some((pid, reader.stat(pid).ok()?.ppid)))
        .collect();
    let mut found = Vec::new();
    for &pid in parents.keys() {
        let Some(heirlooms) = nearest(pid, &parents, &by_process) else {
            continue;
        };
        for thread in reader.thread_ids(pid) {
            for change in heirlooms.iter().filter(|change| thread.start_time >= change.since) {
                let lever = change.ours.lever();
                if changes.contains_key(&(thread, lever)) {
                    continue;
                }
                let Ok(current) = control.read(lever, thread.tid) else {
                    continue;
                };
                let ours = is_inherited(&current, &change.ours);
                if ours && !current.agrees_with(&change.old) {
                    let change = Change { ours: current, ..(*change).clone() };
                    found.push((thread, change));
                }
            }
        }
    }
    found
}

/// The changes of a process or of its nearest ancestor that has any.
fn nearest<'a>(
    pid: u32,
    parents: &HashMap<u32, u32>,
    by_process: &'a HashMap<u32, Vec<&'a Change>>,
) -> Option<&'a Vec<&'a Change>> {
    let mut pid = pid;
    // A chain of parents that is read while it changes could go round in a circle.
    for _ in 0..64 {
        if let Some(changes) = by_process.get(&pid) {
            return Some(changes);
        }
        pid = *parents.get(&pid)?;
    }
    None
}

impl RestoreReport {
    fn count(&mut self, thread: ThreadId, lever: Lever, event: Option<Event>) {
        match event {
            None => self.gone += 1,
            Some(Event::Restored { .. } | Event::Applied { .. }) => self.restored += 1,
            Some(Event::HandedOff { .. }) => self.handed_off += 1,
            Some(Event::Failed { reason, .. }) => {
                self.failed.push(format!("thread {} {}: {reason}", thread.tid, lever.name()));
            }
        }
    }
}

impl fmt::Display for RestoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { restored, handed_off, gone, failed } = self;
        write!(f, "{restored} put back, {handed_off} left to whoever changed them since, ")?;
        write!(f, "{gone} whose thread is gone, {} failed", failed.len())?;
        failed.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}
