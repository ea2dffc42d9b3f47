//! Reading the policy: at the start, on request, and when its files change.
//!
//! A set of files becomes the policy as a whole or not at all: while it is read, the policy in force
//! stays as it is, and a bad set never replaces a good one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
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
        Self { folders, in_force, digest, state, watch, unsettled: Some(Instant::now()) }
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

    fn found(&self) -> Found {
        Found::in_folders(&self.folders, &self.in_force)
    }
}

impl Engine {
    /// Reads the policy anew if its files have changed.
    pub(super) fn notice_changed_policy(&mut self) {
        match self.policy_folders.settled(Instant::now()) {
            Ok(false) => {}
            Ok(true) => {
                let found = self.policy_folders.found();
                // A file may have been written as it was.
                if found.digest != self.policy_folders.digest {
                    tracing::info!("the policy's files have changed");
                    // Nobody asked: what is wrong is told to everyone who looks.
                    drop(self.take_over(found.parsed()));
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

    #[test]
    fn a_folder_that_vanishes_is_no_policy_and_one_that_was_never_there_is() {
        let shipped = folder("schema = 1\n");
        let own = folder("schema = 1\n");
        let folders = [shipped.path().to_path_buf(), own.path().to_path_buf()];
        let never = [shipped.path().to_path_buf(), own.path().join("not yet")];
        let found = Found::in_folders(&never, &never[..1]).parsed();
        assert!(found.outcome.is_ok() && found.folders == never[..1], "{found:?}");

        let reading = Reading::of(&folders);
        let known = PolicyFolders::new(folders.to_vec(), &reading);
        fs::remove_dir_all(own.path()).unwrap();
        let found = known.found().parsed();
        assert_ne!(found.digest, known.digest);
        let problems = found.outcome.unwrap_err();
        assert_eq!(problems[0].file, own.path().display().to_string());
        assert!(problems[0].message.contains("mkdir"), "{problems:?}");
    }

    #[test]
    fn of_a_flood_of_mistakes_some_are_told_and_the_rest_counted() {
        let many: String = (0..5000).map(|i| format!("x{i} = 1\n")).collect();
        let reading = Reading::of(&[folder(&format!("schema = 1\n{many}")).path()]);
        let told = reading.outcome.unwrap_err().len();
        assert_eq!((told, reading.more), (MOST_PROBLEMS, 5000 - MOST_PROBLEMS as u64));
        let reading = Reading::of(&[folder("schema = 1\nx = 1\n").path()]);
        assert_eq!((reading.outcome.unwrap_err().len(), reading.more), (1, 0));
    }

    /// The looks of 250 ms each at which a change was read.
    fn read_at(folders: &mut PolicyFolders, looks: u32, mut between: impl FnMut(u32)) -> Vec<u32> {
        let start = Instant::now();
        let mut read = Vec::new();
        for look in 0..looks {
            between(look);
            if folders.settled(start + Duration::from_millis(250) * look).unwrap() {
                read.push(look);
            }
        }
        read
    }

    fn watched(folder: &tempfile::TempDir) -> PolicyFolders {
        let folders = vec![folder.path().to_path_buf()];
        let reading = Reading::of(&folders);
        let mut folders = PolicyFolders::new(folders, &reading);
        assert_eq!(read_at(&mut folders, 4, |_| {}), [0], "what changed meanwhile");
        folders
    }

    #[test]
    fn a_change_is_read_when_it_is_over_and_within_a_second_if_it_never_is() {
        let place = folder("schema = 1\n");
        let mut folders = watched(&place);
        let change = |_| fs::write(place.path().join("a.toml"), "schema = 1\n").unwrap();
        let once = |look: u32| (look < 2).then(|| change(look)).unwrap_or_default();
        assert_eq!(read_at(&mut folders, 10, once), [2]);
        let read = read_at(&mut folders, 12, change);
        assert_eq!(read, [4, 9], "changed at every look");
    }

    #[test]
    fn a_file_that_is_being_written_is_waited_for_up_to_a_second() {
        let place = folder("schema = 1\n");
        let mut folders = watched(&place);
        let mut writer = None;
        let read = read_at(&mut folders, 6, |look| match look {
            0 => writer = Some(fs::File::create(place.path().join("b.toml")).unwrap()),
            2 => drop(writer.take()),
            _ => {}
        });
        assert_eq!(read, [3]);
        let mut writer = None;
        let read = read_at(&mut folders, 12, |look| match look {
            0 => writer = Some(fs::File::create(place.path().join("c.toml")).unwrap()),
            8 => drop(writer.take()),
            _ => {}
        });
        assert_eq!(read, [4, 9], "one that stays open, and is closed at last");
    }
}
