//! What pool.d declares: parsing and checking, without I/O. Reading the files is [`files`].

mod adapter;
mod declaration;
mod file;
pub mod files;
mod placement;
mod values;
mod wyoming;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use downbeat_link::TensorSpec;

pub use adapter::{Adapter, Http, HttpBody, Oip, Stdio, StdioFraming};
use file::File;
pub use placement::{CpuList, Placement, Sandbox};
pub use wyoming::{Wyoming, WyomingService};

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
    /// How requests reach it; absent for built-in workers, which have a channel, and for commands
    /// that take no requests.
    pub adapter: Option<Adapter>,
    /// Whether `/v1/*` is passed on to it; only with [`Adapter::Http`].
    pub openai: bool,
    /// What it does for clients of the Wyoming protocol.
    pub wyoming: Option<Wyoming>,
    /// Inputs of an external worker, as declared; the adapter's own where empty.
    pub inputs: Vec<TensorSpec>,
    /// Outputs of an external worker, as declared; the adapter's own where empty.
    pub outputs: Vec<TensorSpec>,
    /// What computes a model of the store.
    pub engine: Engine,
    /// How many processes.
    pub instances: Instances,
    /// What it works on; decides what is shed first.
    pub media: Option<Media>,
    /// The worker that takes its requests when there is no time for this one.
    pub cheaper: Option<String>,
    /// Requests computed together, at most; 1 to 1024.
    pub batch: usize,
    /// For requests that carry no deadline of their own.
    pub deadline: Option<Duration>,
    /// An instance beyond `instances.min` without work for so long is stopped.
    pub idle: Duration,
    /// Where it runs and what it may do.
    pub placement: Placement,
    /// Added to the pool's own environment.
    pub env: BTreeMap<String, String>,
    /// Working directory; `/` where absent.
    pub dir: Option<PathBuf>,
    /// When an end is answered by a restart.
    pub restart: Restart,
}

impl WorkerConfig {
    /// One with every key left out.
    #[must_use]
    pub fn new(name: impl Into<String>, program: Program) -> Self {
        let built_in = program.is_built_in();
        Self {
            name: name.into(),
            program,
            adapter: None,
            openai: false,
            wyoming: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
            engine: Engine::default(),
            instances: Instances::default(),
            media: None,
            cheaper: None,
            batch: 1,
            deadline: None,
            idle: DEFAULT_IDLE,
            placement: Placement::of(built_in),
            env: BTreeMap::new(),
            dir: None,
            restart: Restart::default(),
        }
    }

    /// The folder of the library that computes it, where it names one: it must be able to read it.
    #[must_use]
    pub fn library_folder(&self) -> Option<&Path> {
        let named = self.env.get("ORT_DYLIB_PATH").filter(|_| self.engine == Engine::Ort)?;
        Path::new(named).parent().filter(|folder| folder.is_absolute())
    }

    /// When the answer to a request is due that says nothing of it; absent for background work, and
    /// for the noise remover, whose deadline is that of one frame of a stream.
    #[must_use]
    pub fn request_deadline(&self) -> Option<Duration> {
        let none = self.program == Program::Denoise || self.media == Some(Media::Background);
        self.deadline.filter(|_| !none)
    }

    /// Whether it is a model whose requests wait in the queue.
    #[must_use]
    pub fn takes_requests(&self) -> bool {
        match (&self.program, &self.adapter) {
            (Program::Model(_) | Program::Denoise, _) => true,
            (_, None) => false,
            (_, Some(Adapter::Http(http))) => http.path.is_some(),
            (_, Some(Adapter::Stdio(_) | Adapter::Oip(_))) => true,
        }
    }
}

/// See [`WorkerConfig::idle`].
pub const DEFAULT_IDLE: Duration = Duration::from_secs(60);

/// What a worker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// The built-in noise remover (`model = "denoise"`).
    Denoise,
    /// A model of the store, by its name, in a built-in worker.
    Model(String),
    /// An external program and its arguments, run without a shell. `{port}` in an argument stands
    /// for the instance's port.
    Command(Vec<String>),
    /// Nothing: a server that someone else runs, reached through the adapter's `url`.
    Elsewhere,
}

impl Program {
    /// Whether downbeat-worker runs it.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        matches!(self, Self::Denoise | Self::Model(_))
    }
}

/// What computes a model of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// tract: on the calling thread, without foreign code.
    #[default]
    Tract,
    /// ONNX Runtime, from a dynamic library on this host.
    Ort,
}

impl Engine {
    /// As in pool.d.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tract => "tract",
            Self::Ort => "ort",
        }
    }
}

/// How many processes a worker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instances {
    /// Always; 0: the first request starts one.
    pub min: usize,
    /// At most; 1 to 64.
    pub max: usize,
    /// Ready ones beyond those that have work, as long as `max` allows.
    pub spare: usize,
}

impl Default for Instances {
    fn default() -> Self {
        Self { min: 1, max: 1, spare: 0 }
    }
}

/// What a worker works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// Never shed in the middle of an utterance.
    Audio,
    /// The oldest frame is shed first.
    Video,
    /// Like a person's question: late is better than never, within its deadline.
    Text,
    /// Takes what is left.
    Background,
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

/// A worker that was read, and where.
struct Found {
    config: WorkerConfig,
    /// Offset of its name.
    at: usize,
    /// Offset of its `cheaper`.
    cheaper_at: usize,
}

/// Reads all files in the order given; the workers come out in order of their names.
///
/// # Errors
/// Every problem of every file, in file and line order.
pub fn parse(sources: &[Source]) -> Result<Vec<WorkerConfig>, Vec<Problem>> {
    let mut files: Vec<File<'_>> = sources.iter().map(File::new).collect();
    let mut found: BTreeMap<String, (usize, Found)> = BTreeMap::new();
    let mut declared = BTreeSet::new();
    for (index, file) in files.iter_mut().enumerate() {
        let (workers, names) = file.workers();
        declared.extend(names);
        for worker in workers {
            if let Some((other, first)) = found.get(&worker.config.name) {
                let at = if *other == index {
                    file.place(first.at).0
                } else {
                    place(&sources[*other].text, first.at).0
                };
                let message = format!(
                    "[worker.{}] is already declared at {}:{at}; rename one of them",
                    worker.config.name,
                    sources[*other].path.display()
                );
                file.problem(worker.at, message);
            } else {
                found.insert(worker.config.name.clone(), (index, worker));
            }
        }
    }
    for (index, worker) in found.values() {
        if let Some(message) = cheaper_problem(&worker.config, &found, &declared) {
            files[*index].problem(worker.cheaper_at, message);
        }
    }
    let mut problems = Vec::new();
    for file in &mut files {
        problems.append(&mut file.take_problems());
    }
    if problems.is_empty() {
        Ok(found.into_values().map(|(_, worker)| worker.config).collect())
    } else {
        Err(problems)
    }
}

/// What is wrong with a worker's `cheaper`. One that could not be read has its own problems.
fn cheaper_problem(
    config: &WorkerConfig,
    found: &BTreeMap<String, (usize, Found)>,
    declared: &BTreeSet<String>,
) -> Option<String> {
    let wanted = config.cheaper.as_ref()?;
    if !declared.contains(wanted) {
        let names: Vec<_> = declared.iter().map(String::as_str).collect();
        let hint = match nearest(wanted, &names) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("declare [worker.{wanted}], or leave `cheaper` out"),
        };
        return Some(format!("`cheaper`: no worker `{wanted}` is declared: {hint}"));
    }
    let mut passed = BTreeSet::new();
    let mut next = Some(wanted);
    while let Some(name) = next {
        if *name == config.name {
            return Some(format!(
                "`cheaper`: leads back to `{}` itself; the cheapest worker has no `cheaper`",
                config.name
            ));
        }
        if !passed.insert(name) {
            return None;
        }
        next = found.get(name).and_then(|(_, worker)| worker.config.cheaper.as_ref());
    }
    None
}

/// Line and column, from 1, of a byte offset.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The most similar known word, if any is similar at all.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
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
