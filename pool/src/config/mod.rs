//! What pool.d declares: parsing and checking, without I/O. Reading the files is [`files`].

pub mod files;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use values::{command, deadline, env, folder, model, restart, worker_name};

/// One file's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Shown in messages.
    pub path: PathBuf,
    /// The file's text.
    pub text: String,
}

/// One error in a file. Its `Display` is `file:line:column: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File.
    pub path: PathBuf,
    /// Line and column in characters, from 1; absent where the file as a whole is meant.
    pub place: Option<(usize, usize)>,
    /// What is wrong, naming the key, and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.message)
    }
}

/// `[worker.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerConfig {
    /// NAME.
    pub name: String,
    /// What runs.
    pub program: Program,
    /// Added to the pool's own environment.
    pub env: BTreeMap<String, String>,
    /// Working directory; `/` where absent.
    pub dir: Option<PathBuf>,
    /// For requests that carry no deadline of their own.
    pub deadline: Option<Duration>,
    /// When an end is answered by a restart.
    pub restart: Restart,
}

/// What a worker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// The built-in noise remover (`model = "denoise"`).
    Denoise,
    /// An external program and its arguments, run without a shell.
    Command(Vec<String>),
}

/// When an end is answered by a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    #[default]
    Always,
    /// After a signal and after an exit with a status other than 0.
    OnFailure,
    /// Never.
    Never,
}

/// Reads all files in the order given; the workers come out in order of their names.
///
/// # Errors
/// Every problem of every file, in file and line order.
pub fn parse(sources: &[Source]) -> Result<Vec<WorkerConfig>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut found: BTreeMap<String, (WorkerConfig, String)> = BTreeMap::new();
    for source in sources {
        let mut file = File { source, problems: Vec::new() };
        for (config, at) in file.workers() {
            let place = file.place(at);
            let here = format!("{}:{}", source.path.display(), place.0);
            if let Some((_, first)) = found.get(&config.name) {
                let message = format!(
                    "[worker.{}] is already declared at {first}; rename one of them",
                    config.name
                );
                file.problem(at, message);
            } else {
                found.insert(config.name.clone(), (config, here));
            }
        }
        file.problems.sort_by_key(|problem| problem.place);
        problems.append(&mut file.problems);
    }
    if problems.is_empty() {
        Ok(found.into_values().map(|(config, _)| config).collect())
    } else {
        Err(problems)
    }
}

/// One file while it is read.
struct File<'a> {
    source: &'a Source,
    problems: Vec<Problem>,
}

const TOP_KEYS: [&str; 2] = ["schema", "worker"];
const WORKER_KEYS: [&str; 6] = ["model", "command", "env", "dir", "deadline", "restart"];

impl File<'_> {
    /// The file's workers, each with the offset of its name.
    fn workers(&mut self) -> Vec<(WorkerConfig, usize)> {
        let (table, errors) = DeTable::parse_recoverable(&self.source.text);
        for error in &errors {
            self.problem(error.span().map_or(0, |span| span.start), error.message().to_owned());
        }
        if !errors.is_empty() {
            return Vec::new();
        }
        let mut found = Vec::new();
        for (key, value) in table.get_ref() {
            match key.get_ref().as_ref() {
                "worker" => match value.get_ref() {
                    DeValue::Table(workers) => {
                        found.extend(workers.iter().filter_map(|(name, value)| {
                            Some((self.worker(name, value)?, name.span().start))
                        }));
                    }
                    other => self.wrong_type("worker", "tables `[worker.NAME]`", other, value),
                },
                "schema" => {
                    if value.get_ref().as_integer().is_none_or(|n| n.as_str() != "1") {
                        self.problem(
                            value.span().start,
                            "`schema`: this version reads schema 1 only; write `schema = 1`".into(),
                        );
                    }
                }
                unknown => self.unknown_key(key.span().start, unknown, &TOP_KEYS, "a pool file"),
            }
        }
        found
    }

    fn worker(
        &mut self,
        name: &Spanned<impl AsRef<str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<WorkerConfig> {
        let at = name.span().start;
        let name = name.get_ref().as_ref();
        if let Err(message) = worker_name(name) {
            self.problem(at, message);
        }
        let DeValue::Table(table) = value.get_ref() else {
            let key = format!("worker.{name}");
            self.wrong_type(&key, &format!("a table `[worker.{name}]`"), value.get_ref(), value);
            return None;
        };
        let before = self.problems.len();
        let (mut program_by_model, mut program_by_command) = (None, None);
        let (mut variables, mut dir, mut limit) = (BTreeMap::new(), None, None);
        let mut policy = Restart::default();
        for (key, value) in table {
            let at = value.span().start;
            match key.get_ref().as_ref() {
                "model" => program_by_model = self.checked(at, "model", model(value.get_ref())),
                "command" => {
                    program_by_command = self.checked(at, "command", command(value.get_ref()));
                }
                "env" => {
                    variables = self.checked(at, "env", env(value.get_ref())).unwrap_or_default();
                }
                "dir" => dir = self.checked(at, "dir", folder(value.get_ref())),
                "deadline" => limit = self.checked(at, "deadline", deadline(value.get_ref())),
                "restart" => {
                    policy =
                        self.checked(at, "restart", restart(value.get_ref())).unwrap_or_default();
                }
                unknown => {
                    self.unknown_key(key.span().start, unknown, &WORKER_KEYS, "a worker");
                }
            }
        }
        let has = |key: &str| table.iter().any(|(k, _)| k.get_ref().as_ref() == key);
        match (has("model"), has("command")) {
            (true, true) => self.problem(
                at,
                format!("[worker.{name}] has both `model` and `command`; keep one of them"),
            ),
            // A misspelt key explains this already.
            (false, false) if self.problems.len() == before => self.problem(
                at,
                format!(
                    "[worker.{name}] runs nothing: add `model = \"denoise\"` or \
                     `command = [\"PROGRAM\", \"ARGUMENT\"]`"
                ),
            ),
            _ => {}
        }
        if self.problems.len() > before {
            return None;
        }
        Some(WorkerConfig {
            name: name.to_owned(),
            program: program_by_model.or(program_by_command)?,
            env: variables,
            dir,
            deadline: limit,
            restart: policy,
        })
    }

    fn checked<T>(&mut self, at: usize, key: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|message| self.problem(at, format!("`{key}`: {message}"))).ok()
    }

    fn wrong_type(
        &mut self,
        key: &str,
        wanted: &str,
        is: &DeValue<'_>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let message = format!("`{key}`: expected {wanted}, found {}", is.type_str());
        self.problem(value.span().start, message);
    }

    fn unknown_key(&mut self, at: usize, key: &str, known: &[&str], of: &str) {
        let hint = match nearest(key, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the keys of {of} are {}", known.join(", ")),
        };
        self.problem(at, format!("unknown key `{key}`: {hint}"));
    }

    fn problem(&mut self, offset: usize, message: String) {
        let place = Some(self.place(offset));
        self.problems.push(Problem { path: self.source.path.clone(), place, message });
    }

    /// Line and column of a byte offset.
    fn place(&self, offset: usize) -> (usize, usize) {
        let before = self.source.text.get(..offset).unwrap_or(&self.source.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// The most similar known word, if any is similar at all.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), *candidate))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Problems as one line for a status: the first, and how many more there are.
#[must_use]
pub fn in_one_line(problems: &[Problem]) -> String {
    match problems {
        [] => String::new(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more, see the log)", rest.len()),
    }
}

#[cfg(test)]
mod tests;
