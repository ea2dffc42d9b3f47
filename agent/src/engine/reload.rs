//! Reading the policy: at the start, on request, and when its files change.
//!
//! A set of files becomes the policy as a whole or not at all: while it is read, the policy in force
//! stays as it is, and a bad set never replaces a good one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use downbeat_api::{PolicyProblem, PolicyRefusal, PolicyState, Response, Severity};
use downbeat_policy::{PolicySet, Problem};

use super::commands::counted;
use super::notices::notice;
use super::threads::unix_time;
use super::{Engine, Policy};
use crate::observe::policy_files::{PolicyFilesError, read_folders};
use crate::observe::policy_watch::PolicyWatch;

/// Problems that become notices; the rest are counted there, and all are in the snapshot.
const NOTICED: usize = 8;

/// What the policy folders held at one moment.
#[derive(Debug)]
pub struct Reading {
    /// Classes and rules, or everything that is wrong.
    pub outcome: Result<PolicySet, Vec<PolicyProblem>>,
    /// Files.
    files: u64,
    /// The same for the same content.
    digest: u64,
}

impl Reading {
    /// Reads and parses the policy in `folders`.
    #[must_use]
    pub fn of<P: AsRef<Path>>(folders: &[P]) -> Self {
        let folders: Vec<&Path> = folders.iter().map(AsRef::as_ref).collect();
        let mut digest = DefaultHasher::new();
        match read_folders(&folders) {
            Ok(found) => {
                for source in &found.sources {
                    (&source.path, &source.text).hash(&mut digest);
                }
                let outcome = PolicySet::parse(&found.sources);
                let outcome = outcome.map_err(|problems| problems.iter().map(in_file).collect());
                Self { outcome, files: found.sources.len() as u64, digest: digest.finish() }
            }
            Err(errors) => {
                let problems: Vec<PolicyProblem> = errors.iter().map(of_file).collect();
                for problem in &problems {
                    problem.to_string().hash(&mut digest);
                }
                Self { outcome: Err(problems), files: 0, digest: digest.finish() }
            }
        }
    }
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
    /// Of the last reading, taken over or not.
    digest: u64,
    /// For everyone who asks.
    pub(super) state: PolicyState,
    watch: std::io::Result<PolicyWatch>,
    /// Something changed at the last look: it is read once a look finds nothing new, so that a
    /// set that is being copied is read as a whole.
    unsettled: bool,
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
        Self { folders, digest: reading.digest, state, watch, unsettled: true }
    }

    /// Whether a change has settled and is to be read.
    fn settled(&mut self) -> std::io::Result<bool> {
        let Ok(watch) = &mut self.watch else {
            return Ok(false);
        };
        let changed = watch.changed()?;
        let was_unsettled = std::mem::replace(&mut self.unsettled, changed);
        Ok(was_unsettled && !changed)
    }
}

impl Engine {
    /// Reads the policy anew if its files have changed.
    pub(super) fn notice_changed_policy(&mut self) {
        match self.policy_folders.settled() {
            Ok(false) => {}
            Ok(true) => {
                let reading = Reading::of(&self.policy_folders.folders);
                // An editor's own files, or a file written as it was.
                if reading.digest != self.policy_folders.digest {
                    tracing::info!("the policy's files have changed");
                    // Nobody asked: what is wrong is told to everyone who looks.
                    drop(self.take_over(reading));
                    self.publish();
                }
            }
            Err(error) => {
                self.policy_folders.watch = Err(error);
                self.note_blindness();
            }
        }
    }

    /// Reads the policy anew, and has the pool read its declarations.
    pub(super) fn reload(&mut self) -> Response {
        let reading = Reading::of(&self.policy_folders.folders);
        let before = self.applied();
        let response = match self.take_over(reading) {
            Ok(()) => {
                let PolicyState { rules, files, .. } = self.policy_folders.state;
                let (rules, files) = (counted(rules, "rule"), counted(files, "file"));
                let set = counted(self.applied() - before, "value");
                let message = format!("policy read anew: {rules} in {files}; {set} set");
                Response::Done { message }
            }
            Err(problems) => Response::Refused { problems },
        };
        if let Some(pool) = &self.pool {
            pool.reload();
        }
        self.publish();
        response
    }

    /// Puts a good set in force; a bad one is told and changes nothing.
    fn take_over(&mut self, reading: Reading) -> Result<(), Vec<PolicyProblem>> {
        let Reading { outcome, files, digest } = reading;
        self.policy_folders.digest = digest;
        let state = &mut self.policy_folders.state;
        let now = unix_time();
        match outcome {
            Ok(set) => {
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
                state.standing = Some(PolicyRefusal { at: now, problems: problems.clone() });
                tracing::error!("the policy on disk is refused; the one in force stays");
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                self.note_refusal(&problems);
                Err(problems)
            }
        }
    }

    fn note_refusal(&mut self, problems: &[PolicyProblem]) {
        let remedy = Some("mend the file; until then the earlier policy stays in force");
        let say = |problem: &PolicyProblem| {
            notice(Severity::Error, format!("policy refused: {problem}"), remedy)
        };
        let mut said: Vec<_> = problems.iter().take(NOTICED).map(say).collect();
        if problems.len() > NOTICED {
            let more = format!("policy refused: {} more problems", problems.len() - NOTICED);
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
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        folder
    }

    #[test]
    fn a_problem_has_its_place_in_fields_and_not_twice() {
        let folder = folder("schema = 1\nclas = 2\n");
        let problems = Reading::of(&[folder.path()]).outcome.unwrap_err();
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert_eq!(problem.file, folder.path().join("a.toml").display().to_string());
        assert_eq!((problem.line, problem.column), (Some(2), Some(1)));
        assert!(problem.message.contains("clas"), "{problem}");

        let file = folder.path().join("a.toml");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        let problems = Reading::of(&[folder.path()]).outcome.unwrap_err();
        assert_eq!(problems[0].line, None);
        assert!(problems[0].message.starts_with("group or others can write it"), "{problems:?}");
    }

    #[test]
    fn the_digest_tells_content_and_not_time() {
        let folder = folder("schema = 1\n");
        let before = Reading::of(&[folder.path()]).digest;
        fs::write(folder.path().join("a.toml"), "schema = 1\n").unwrap();
        assert_eq!(Reading::of(&[folder.path()]).digest, before);
        fs::write(folder.path().join("a.toml"), "schema = 1\n#\n").unwrap();
        assert_ne!(Reading::of(&[folder.path()]).digest, before);
    }
}
