//! Reading the policy: at the start, on request, and when its files change.
//!
//! A set of files becomes the policy as a whole or not at all: while it is read, the policy in force
//! stays as it is, and a bad set never replaces a good one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use downbeat_api::{MOST_PROBLEMS, PolicyProblem, PolicyRefusal, PolicyState, Response, Severity};
use downbeat_policy::{PolicySet, Problem, Source};

use super::commands::counted;
use super::notices::notice;
use super::threads::unix_time;
use super::{Engine, Policy};
use crate::observe::policy_files::{PolicyFilesError, read_folders, shell_word};
use crate::observe::policy_watch::PolicyWatch;

/// Problems that become notices; the rest are counted there.
const NOTICED: usize = 8;

/// Bytes of policies that are understood within a millisecond or two. More are left to a thread: a
/// megabyte of mistakes takes seconds, and events do not wait.
const QUICK: usize = 64 << 10;

/// A change is read at the latest after this, whoever still writes or goes on changing things.
const SETTLED: Duration = Duration::from_secs(1);

/// What the policy folders held at one moment.
#[derive(Debug)]
pub struct Reading {
    /// Classes and rules, or what is wrong: at most [`MOST_PROBLEMS`].
    pub outcome: Result<PolicySet, Vec<PolicyProblem>>,
    /// Problems beyond those.
    pub more: u64,
    /// Files.
    files: u64,
    /// Folders that are there.
    folders: Vec<PathBuf>,
    /// The same for the same content.
    digest: u64,
}

/// The same before anyone understood it.
#[derive(Debug)]
struct Found {
    outcome: Result<Vec<Source>, Vec<PolicyProblem>>,
    folders: Vec<PathBuf>,
    digest: u64,
}

impl Found {
    /// Looks into `folders`; one of `known` that is not there any more is a problem.
    fn in_folders<P: AsRef<Path>>(folders: &[P], known: &[PathBuf]) -> Self {
        let folders: Vec<&Path> = folders.iter().map(AsRef::as_ref).collect();
        let found = read_folders(&folders);
        let missing = found.as_ref().map_or(&[][..], |found| &found.missing_folders);
        let is_there = |folder: &Path| !missing.iter().any(|missing| missing == folder);
        let gone: Vec<PolicyProblem> = known
            .iter()
            .filter(|folder| !is_there(folder))
            .map(|folder| vanished(folder))
            .collect();
        let there = folders.iter().filter(|folder| is_there(folder));
        let there = there.map(|folder| folder.to_path_buf()).collect();
        let mut digest = DefaultHasher::new();
        let outcome = match found {
            Ok(found) if gone.is_empty() => {
                for source in &found.sources {
                    (&source.path, &source.text).hash(&mut digest);
                }
                Ok(found.sources)
            }
            Ok(_) => Err(gone),
            Err(errors) => Err(errors.iter().map(of_file).collect()),
        };
        for problem in outcome.as_ref().err().into_iter().flatten() {
            problem.to_string().hash(&mut digest);
        }
        Self { outcome, folders: there, digest: digest.finish() }
    }

    fn bytes(&self) -> usize {
        self.outcome.iter().flatten().map(|source| source.text.len()).sum()
    }

    fn parsed(self) -> Reading {
        let Self { outcome, folders, digest } = self;
        let files = outcome.as_ref().map_or(0, |sources| sources.len() as u64);
        let mut more = 0;
        let outcome = outcome
            .and_then(|sources| {
                PolicySet::parse(&sources)
                    .map_err(|problems| problems.iter().map(in_file).collect::<Vec<_>>())
            })
            .map_err(|mut problems| {
                more = problems.len().saturating_sub(MOST_PROBLEMS) as u64;
                problems.truncate(MOST_PROBLEMS);
                problems
            });
        Reading { outcome, more, files, folders, digest }
    }
}

impl Reading {
    /// Reads and parses the policy in `folders`.
    #[must_use]
    pub fn of<P: AsRef<Path>>(folders: &[P]) -> Self {
        Found::in_folders(folders, &[]).parsed()
    }
}

/// A folder that held policies and is gone is a mistake, or a copy that is under way: nobody
/// writes a policy by taking all of it away.
fn vanished(folder: &Path) -> PolicyProblem {
    let message = format!(
        "the folder was there and is gone, which is no policy; put it back, or if nothing is to \
         be managed from it: `mkdir {}`",
        shell_word(folder)
    );
    PolicyProblem { file: folder.display().to_string(), message, ..PolicyProblem::default() }
}

fn in_file(problem: &Problem) -> PolicyProblem {
    PolicyProblem {
        file: problem.path.display().to_string(),
        line: Some(problem.line as u64),
        column: Some(problem.column as u64),
        message: problem.message.clone(),
    }
}

fn of_file(error: &PolicyFilesError) -> PolicyProblem {
    let (path, line) = match error {
        PolicyFilesError::Unreadable { path, .. }
        | PolicyFilesError::WritableByOthers { path, .. }
        | PolicyFilesError::ForeignOwner { path, .. }
        | PolicyFilesError::NotAFile { path }
        | PolicyFilesError::TooLarge { path } => (path, None),
        PolicyFilesError::NotUtf8 { path, line } => (path, Some(*line as u64)),
    };
    let mut problem =
        PolicyProblem { file: path.display().to_string(), line, ..PolicyProblem::default() };
    // Its words begin with the place, which has fields of its own here.
    let words = error.to_string();
    let place = problem.to_string();
    problem.message = words.strip_prefix(&place).unwrap_or(&words).to_owned();
    problem
}

/// The policy's folders, and how their last reading went.
#[derive(Debug)]
pub struct PolicyFolders {
    folders: Vec<PathBuf>,
    /// Those of them that the policy in force came from.
    in_force: Vec<PathBuf>,
    /// Of the last reading, taken over or not.
    digest: u64,
    /// For everyone who asks.
    pub(super) state: PolicyState,
    watch: std::io::Result<PolicyWatch>,
    /// Since when something changes that was not read yet.
    unsettled: Option<Instant>,
    /// A large set that is being understood.
    under_way: Option<JoinHandle<Reading>>,
}

impl PolicyFolders {
    /// Watches `folders`, whose content was just read as `reading`.
    #[must_use]
    pub fn new(folders: Vec<PathBuf>, reading: &Reading) -> Self {
        let rules = reading.outcome.as_ref().map_or(0, |set| set.rules.len() as u64);
        let state = PolicyState {
            read_at: unix_time(),
            rules,
            files: reading.files,
            accepted: 1,
            ..PolicyState::default()
        };
        let watch = PolicyWatch::new(&folders);
        // What changed between the reading and now is seen as a change.
        let (digest, in_force) = (reading.digest, reading.folders.clone());
        Self {
            folders,
            in_force,
            digest,
            state,
            watch,
            unsettled: Some(Instant::now()),
            under_way: None,
        }
    }

    /// Whether a change has settled and is to be read: nothing new is found and no policy is being
    /// written, so that a set that is being copied is read as a whole. Or it took too long.
    fn settled(&mut self, now: Instant) -> std::io::Result<bool> {
        let Ok(watch) = &mut self.watch else {
            return Ok(false);
        };
        let changed = watch.changed()?;
        if changed {
            self.unsettled.get_or_insert(now);
        }
        let Some(since) = self.unsettled else {
            return Ok(false);
        };
        let is_over = now.saturating_duration_since(since) >= SETTLED;
        if is_over {
            watch.give_up_on_writers();
        }
        let is_settled = is_over || !(changed || watch.is_being_written());
        if is_settled {
            self.unsettled = None;
        }
        Ok(is_settled)
    }

    /// A set that changed, once it is read and understood: at this call or, a large one, at a later
    /// one. Nothing for one that is as the last one was.
    fn changed(&mut self, now: Instant) -> std::io::Result<Option<Reading>> {
        if let Some(thread) = self.under_way.take_if(|thread| thread.is_finished()) {
            // A panic there has told itself, and the set is not understood.
            return Ok(thread.join().ok());
        }
        if self.under_way.is_some() || !self.settled(now)? {
            return Ok(None);
        }
        let found = self.found();
        // A file may have been written as it was.
        if found.digest == self.digest {
            return Ok(None);
        }
        if found.bytes() <= QUICK {
            return Ok(Some(found.parsed()));
        }
        match thread::Builder::new().name("policy".into()).spawn(|| found.parsed()) {
            Ok(thread) => self.under_way = Some(thread),
            Err(error) => {
                tracing::warn!("no thread for reading the policy, which waits: {error}");
                self.unsettled = Some(now);
            }
        }
        Ok(None)
    }

    fn found(&self) -> Found {
        Found::in_folders(&self.folders, &self.in_force)
    }
}

impl Engine {
    /// Reads the policy anew if its files have changed.
    pub(super) fn notice_changed_policy(&mut self) {
        match self.policy_folders.changed(Instant::now()) {
            Ok(None) => {}
            Ok(Some(reading)) => {
                tracing::info!("the policy's files have changed");
                // Nobody asked: what is wrong is told to everyone who looks.
                drop(self.take_over(reading));
                self.publish();
            }
            Err(error) => {
                self.policy_folders.watch = Err(error);
                self.note_blindness();
            }
        }
    }

    /// Reads the policy anew, and has the pool read its declarations.
    pub(super) fn reload(&mut self) -> Response {
        // What is being understood is older than what is there now.
        self.policy_folders.under_way = None;
        let reading = self.policy_folders.found().parsed();
        let before = self.applied();
        let response = match self.take_over(reading) {
            Ok(()) => {
                let PolicyState { rules, files, .. } = self.policy_folders.state;
                let (rules, files) = (counted(rules, "rule"), counted(files, "file"));
                let set = counted(self.applied() - before, "value");
                let message = format!("policy read anew: {rules} in {files}; {set} set");
                Response::Done { message }
            }
            Err(problems) => {
                let standing = self.policy_folders.state.standing.as_ref();
                Response::Refused { problems, more: standing.map_or(0, |refusal| refusal.more) }
            }
        };
        if let Some(pool) = &self.pool {
            pool.reload();
        }
        self.publish();
        response
    }

    /// Puts a good set in force; a bad one is told and changes nothing.
    fn take_over(&mut self, reading: Reading) -> Result<(), Vec<PolicyProblem>> {
        let Reading { outcome, more, files, folders, digest } = reading;
        self.policy_folders.digest = digest;
        let state = &mut self.policy_folders.state;
        let now = unix_time();
        match outcome {
            Ok(set) => {
                self.policy_folders.in_force = folders;
                state.read_at = now;
                state.rules = set.rules.len() as u64;
                state.files = files;
                state.accepted += 1;
                state.standing = None;
                self.policy = Policy::new(set, &self.host, &mut self.slots);
                let policy = &self.policy;
                self.overrides.find_classes(|name| policy.class_named(name));
                self.forget_old_classes();
                self.notices.set("reload", Vec::new());
                self.note_policy();
                self.want_facts();
                self.consider_all();
                tracing::info!("policy read anew: {} rules", self.policy.set.rules.len());
                Ok(())
            }
            Err(problems) => {
                state.refused += 1;
                state.standing = Some(PolicyRefusal { at: now, problems: problems.clone(), more });
                tracing::error!("the policy on disk is refused; the one in force stays");
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                if more > 0 {
                    tracing::error!("and {more} more problems");
                }
                self.note_refusal(&problems, more);
                Err(problems)
            }
        }
    }

    fn note_refusal(&mut self, problems: &[PolicyProblem], more: u64) {
        let remedy = Some("mend the file; until then the earlier policy stays in force");
        let say = |problem: &PolicyProblem| {
            notice(Severity::Error, format!("policy refused: {problem}"), remedy)
        };
        let mut said: Vec<_> = problems.iter().take(NOTICED).map(say).collect();
        let more = more + problems.len().saturating_sub(NOTICED) as u64;
        if more > 0 {
            let more = format!("policy refused: {more} more problems");
            let remedy = Some("`downbeat check` on the folder tells all");
            said.push(notice(Severity::Error, more, remedy));
        }
        self.notices.set("reload", said);
    }

    /// Says so where changes of the files are not noticed.
    pub(super) fn note_blindness(&mut self) {
        let Err(error) = &self.policy_folders.watch else {
            return;
        };
        let text = format!("changes of policy files are not noticed: inotify: {error}");
        let remedy =
            Some("raise fs.inotify.max_user_instances, or run `downbeat reload` after a change");
        tracing::warn!("{text}");
        self.notices.set("policy watch", vec![notice(Severity::Warning, text, remedy)]);
    }

    /// What the policy in force leaves to be said.
    pub(super) fn note_policy(&mut self) {
        let mut said = Vec::new();
        if self.policy.set.rules.is_empty() {
            let name = |folder: &PathBuf| {
                let missing = if folder.exists() { "" } else { " (which does not exist)" };
                format!("{}{missing}", folder.display())
            };
            let folders: Vec<String> = self.policy_folders.folders.iter().map(name).collect();
            said.push(notice(
                Severity::Warning,
                format!("no rules in {}: nothing is managed", folders.join(" or ")),
                Some("copy a policy there (policies/ in the sources)"),
            ));
        }
        said.extend(self.policy.fallbacks().map(|text| notice(Severity::Warning, text, None)));
        said.extend(self.policy.unmeasured().map(|class| {
            let text = format!("class {class} is one too many: its waits are not measured");
            notice(Severity::Warning, text, Some("use fewer classes, and restart downbeatd"))
        }));
        self.notices.set("policy", said);
    }
}

#[cfg(test)]
mod tests;
