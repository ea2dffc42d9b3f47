//! Putting back what a killed agent left changed.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::iter::successors;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::actuator::put_back;
use super::control::{Control, Kernel};
use super::journal::{self, Change, Changes, Found, Past, UNITS_NAME};
use super::lineage::{MEMORY, inherited};
use super::lock::{LockError, RunLock};
use super::outcome::Event;
use super::subject::{Subject, ThreadId};
use super::systemd::{self, Systemd};
use super::value::Lever;
use crate::observe::kernel::{Origin, PinnedLineage, Pins};
use crate::observe::process::{ProcessReader, ProcessStat};
use crate::roots::Roots;

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Old values put back.
    pub restored: u64,
    /// Left alone, since someone else changed the value after us.
    pub handed_off: u64,
    /// Values whose threads or groups are gone.
    pub gone: u64,
    /// What could not be put back, each with its reason.
    pub failed: Vec<String>,
    /// What else there is to say: a journal of an earlier boot, a nice value that stays.
    pub notes: Vec<String>,
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
    let is_empty = !journals(run_dir).iter().any(|path| path.exists());
    if is_empty && Pins::left_in(run_dir, roots).is_empty() {
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
    let mut all = RestoreReport::default();
    let pins = Pins::left_in(run_dir, roots);
    let lineage = Lineage::open(&pins, &mut all.notes);
    for path in journals(run_dir) {
        let unreadable = |source| RestoreError::Unreadable { path: path.clone(), source };
        let (found, past) = journal::read_with_past(&path, roots).map_err(unreadable)?;
        let (changes, not_understood) = match found {
            Found::Nothing => continue,
            Found::Stale => {
                let name = path.display();
                all.notes.push(format!("{name}: a journal of an earlier boot, removed"));
                (Changes::new(), None)
            }
            Found::Changes(changes) => (changes, None),
            Found::Unreadable { reason, understood } => (understood, Some(reason)),
        };
        let Work { mut report, left } = if path.ends_with(UNITS_NAME) {
            put_back_units(changes, roots)
        } else {
            put_back_all(&changes, &past, &lineage, &Kernel::new(roots), roots)
        };
        if let Some(reason) = not_understood {
            report.failed.push(format!(
                "{}: {reason}; the file is kept: the version that wrote it can put back the rest",
                path.display()
            ));
        } else if left.is_empty() && report.failed.is_empty() {
            fs::remove_file(&path).map_err(unreadable)?;
        } else {
            // It can be tried again, with more rights. Where there is no room for that, the file
            // says this and more.
            let _ = journal::keep(&path, &left, roots);
        }
        all.restored += report.restored;
        all.handed_off += report.handed_off;
        all.gone += report.gone;
        all.failed.extend(report.failed);
        all.notes.extend(report.notes);
    }
    // With something left for another attempt, the kernel goes on noting whose children inherit it.
    let own = if all.failed.is_empty() { pins } else { Vec::new() };
    let stale = Pins::stale(roots);
    let removed = own.iter().chain(&stale).map(Pins::remove);
    all.notes.extend(removed.filter_map(Result::err).map(|error| error.to_string()));
    Ok(all)
}

/// What the kernel noted of where processes come from, before the kill and since.
#[derive(Debug, Default)]
struct Lineage(Vec<PinnedLineage>);

impl Lineage {
    fn open(pins: &[Pins], notes: &mut Vec<String>) -> Self {
        let mut open = |pins: &Pins| {
            let told = |error: io::Error| {
                format!("{error}; children whose parents have ended are not found; run as root")
            };
            pins.open().map_err(|error| notes.push(told(error))).ok()
        };
        Self(pins.iter().filter_map(&mut open).collect())
    }

    fn origins(&self, pid: u32) -> Vec<Origin> {
        self.0.iter().filter_map(|map| map.origin(pid)).collect()
    }
}

/// Where a killed agent may have left old values.
#[must_use]
pub fn journals(run_dir: &Path) -> [PathBuf; 2] {
    [journal::FILE_NAME, UNITS_NAME].map(|name| run_dir.join(name))
}

/// What came of the changes in one journal.
#[derive(Debug, Default)]
struct Work {
    report: RestoreReport,
    /// What could not be put back.
    left: Changes,
}

fn put_back_units(changes: Changes, roots: &Roots) -> Work {
    let mut work = Work::default();
    if changes.is_empty() {
        return work;
    }
    let systemd = match Systemd::connect(Path::new(systemd::RUN), roots, true) {
        Ok(systemd) => systemd,
        Err(error) => {
            work.report.failed.push(error.to_string());
            work.left = changes;
            return work;
        }
    };
    for ((subject, _), change) in in_order(&changes) {
        work.enter(subject, change, put_back(&systemd, subject, change));
    }
    if let Err(error) = systemd.clean_up() {
        work.report.failed.push(error.to_string());
    }
    work
}

/// How long a creator whose values went back may take to end a fork that was under way: its child
/// is a copy from before, and not to be seen yet.
pub const UNDER_WAY: Duration = Duration::from_millis(100);

/// How often children are looked for. Those that are made while others are put back are found by
/// another look; only a process that forks faster than all is read needs more than two.
const ROUNDS: usize = 8;

fn put_back_all<C: Control>(
    changes: &Changes,
    past: &[Past],
    lineage: &Lineage,
    control: &C,
    roots: &Roots,
) -> Work {
    let mut work = Work::default();
    // Threads first: a group of the agent's own can only be removed once nobody is in it.
    let is_thread = |change: &&Change| change.ours.lever().is_of_thread();
    for ((subject, _), change) in in_order(changes).filter(|(_, change)| is_thread(change)) {
        work.enter(subject, change, put_back(control, subject, change));
    }
    let heirlooms = Heirlooms::of(changes, past);
    put_back_strays(&heirlooms, changes, |pid| lineage.origins(pid), control, roots, &mut work);
    for ((subject, _), change) in in_order(changes).filter(|(_, change)| !is_thread(change)) {
        work.enter(subject, change, put_back(control, subject, change));
    }
    work
}

/// By lever, a process's main thread after its others, and a group before the one that it is in.
fn in_order(changes: &Changes) -> impl Iterator<Item = (&(Subject, Lever), &Change)> {
    let mut all: Vec<_> = changes.iter().collect();
    all.sort_by(|((a, lever_a), _), ((b, lever_b), _)| {
        let by_main = a.is_main_thread().cmp(&b.is_main_thread());
        by_main.then(b.cmp(a)).then(lever_a.cmp(lever_b))
    });
    all.into_iter()
}

fn put_back_strays<C: Control>(
    heirlooms: &Heirlooms<'_>,
    changes: &Changes,
    origins: impl Fn(u32) -> Vec<Origin>,
    control: &C,
    roots: &Roots,
    work: &mut Work,
) {
    let mut seen: HashSet<(Subject, Lever)> = changes.keys().cloned().collect();
    for round in 0..ROUNDS {
        let mut strays = strays(heirlooms, &origins, control, roots);
        strays.retain(|(thread, change)| {
            seen.insert((Subject::Thread(*thread), change.ours.lever()))
        });
        if strays.is_empty() && round > 0 {
            break;
        }
        for (thread, change) in strays {
            let subject = Subject::Thread(thread);
            work.enter(&subject, &change, put_back(control, &subject, &change));
        }
        thread::sleep(UNDER_WAY);
    }
}

/// One value that children may have from a thread.
struct Heirloom<'a> {
    tid: u32,
    change: &'a Change,
    /// The last start time of a child that can have it; nothing where it is still ours.
    until: Option<u64>,
}

/// What each process may have passed on: first what it still had when the agent ended.
struct Heirlooms<'a>(HashMap<u32, Vec<Heirloom<'a>>>);

impl<'a> Heirlooms<'a> {
    fn of(changes: &'a Changes, past: &'a [Past]) -> Self {
        let mut all: HashMap<u32, Vec<Heirloom<'a>>> = HashMap::new();
        for ((subject, _), change) in changes {
            if let Some(id) = subject.thread() {
                let heirloom = Heirloom { tid: id.tid, change, until: None };
                all.entry(id.pid).or_default().push(heirloom);
            }
        }
        for Past { pid, tid, change, until } in past {
            let heirloom = Heirloom { tid: *tid, change, until: Some(until + MEMORY) };
            all.entry(*pid).or_default().push(heirloom);
        }
        Self(all)
    }

    /// What `pid` may have inherited: from the thread that the kernel saw passing it on, from its
    /// process, and from its ancestors, the nearest first. Where an ancestor is gone, the process's
    /// group and session still carry the id of one.
    fn left_to(
        &self,
        pid: u32,
        origins: &[Origin],
        stats: &HashMap<u32, ProcessStat>,
    ) -> Vec<&Heirloom<'a>> {
        let of = |pid: u32| self.0.get(&pid).into_iter().flatten();
        let exact = |origin: &Origin| {
            let tid = origin.tid;
            of(origin.pid).filter(move |it| it.tid == tid).chain(of(origin.pid))
        };
        let chain = successors(Some(pid), |pid| stats.get(pid).map(|stat| stat.ppid));
        let by_id = stats.get(&pid).map(|stat| [stat.group, stat.session]);
        // A chain of parents that is read while it changes could go round in a circle.
        let ancestors = chain.take(64).chain(by_id.into_iter().flatten());
        origins.iter().flat_map(exact).chain(ancestors.flat_map(of)).collect()
    }
}

impl Heirloom<'_> {
    fn can_be_had_by(&self, thread: ThreadId) -> bool {
        // What was taken from a thread itself is settled.
        let is_own = self.until.is_some() && self.tid == thread.tid;
        let in_time = self.until.is_none_or(|until| thread.start_time <= until);
        !is_own && in_time && thread.start_time >= self.change.since
    }
}

/// Threads and child processes that started after a change and that the agent did not live to
/// note: what they have from their creator is ours, too.
fn strays<C: Control>(
    heirlooms: &Heirlooms<'_>,
    origins: &impl Fn(u32) -> Vec<Origin>,
    control: &C,
    roots: &Roots,
) -> Vec<(ThreadId, Change)> {
    let reader = ProcessReader::new(roots);
    let stats: HashMap<u32, ProcessStat> =
        reader.pids().into_iter().filter_map(|pid| Some((pid, reader.stat(pid).ok()?))).collect();
    let mut found = Vec::new();
    for &pid in stats.keys() {
        let left = heirlooms.left_to(pid, &origins(pid), &stats);
        if left.is_empty() {
            continue;
        }
        for thread in reader.thread_ids(pid) {
            let left = left.iter().filter(|it| it.can_be_had_by(thread)).map(|it| it.change);
            let changes = inherited(control, thread, left);
            found.extend(changes.into_iter().map(|change| (thread, change)));
        }
    }
    found
}

impl Work {
    fn enter(&mut self, subject: &Subject, change: &Change, event: Option<Event>) {
        let report = &mut self.report;
        match event {
            None => report.gone += 1,
            Some(Event::Applied { .. }) => report.restored += 1,
            Some(Event::Restored { old }) => {
                report.restored += 1;
                report.notes.extend(change.kept(&old).map(|kept| format!("{subject}: {kept}")));
            }
            Some(Event::HandedOff { .. }) => report.handed_off += 1,
            Some(Event::Failed { reason, .. }) => {
                let lever = change.ours.lever();
                self.left.insert((subject.clone(), lever), change.clone());
                report.failed.push(format!("{subject} {}: {reason}", lever.name()));
            }
        }
    }
}

impl fmt::Display for RestoreReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { restored, handed_off, gone, failed, notes } = self;
        write!(f, "{restored} put back, {handed_off} left to whoever changed them since, ")?;
        write!(f, "{gone} whose thread or group is gone, {} failed", failed.len())?;
        failed.iter().chain(notes).try_for_each(|line| write!(f, "\n  {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_is_not_understood_is_told_and_kept_and_one_of_another_boot_goes() {
        let (run, roots) = (tempfile::tempdir().unwrap(), Roots::default());
        drop(journal::Journal::open(run.path(), &roots).unwrap());
        let [path, _] = journals(run.path());
        let text = fs::read_to_string(&path).unwrap();
        let older = text.replace("\"schema\":", "\"schema\":9");
        fs::write(&path, &older).unwrap();
        let report = restore(run.path(), &roots).unwrap();
        assert_eq!(report.failed.len(), 1, "{report}");
        assert!(report.failed[0].contains("it has schema 92"), "{report}");
        assert_eq!(fs::read_to_string(&path).unwrap(), older);

        fs::write(&path, "{\"boot_id\":\"another\"}\n").unwrap();
        let report = restore(run.path(), &roots).unwrap();
        assert!(report.notes[0].contains("an earlier boot, removed"), "{report}");
        assert_eq!(
            report,
            RestoreReport { notes: report.notes.clone(), ..RestoreReport::default() }
        );
        assert!(!path.exists());
    }
}
