//! Which container a process is in.
//!
//! The engine's name and the id stand in the path of its control group. Name, image, pod and labels
//! only the container's engine knows: a thread of its own asks, over the engine's socket or in its
//! files, and whoever wanted to know gets what is known so far. When an answer is there,
//! [`Containers::news`] names the processes that should be looked at again.

mod engines;
mod http;
mod path;
mod records;

use std::collections::{BTreeSet, HashMap};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use downbeat_policy::ContainerFacts;

pub use engines::{Answer, Places, Question};
pub use path::{ContainerRef, Engine, container_of, unit_of};

/// How long to wait before asking again where no engine knew the container: its process may be
/// there before its engine has written anything down.
const RETRIES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// From one question to the next for the same container otherwise: it may have been renamed.
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// From one look to the next whether an engine has come that was not there when it was asked.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Containers that no engine knew of which that is looked at, at a time.
const MOST_UNKNOWN: usize = 64;

/// Questions that wait for the thread; more are asked later.
const MOST_WAITING: usize = 256;

/// Containers as their engines describe them.
#[derive(Debug)]
pub struct Containers {
    places: Places,
    known: HashMap<String, Known>,
    /// The container of each process that asked.
    of_process: HashMap<u32, String>,
    asker: Option<Asker>,
    looked: Option<Instant>,
}

/// One container.
#[derive(Debug)]
struct Known {
    question: Question,
    facts: Option<ContainerFacts>,
    /// When it is asked for again; absent while a question is under way.
    due: Option<Instant>,
    /// How often no engine knew it.
    failures: usize,
    /// What was there of the engines when they did not know it.
    mark: u64,
    processes: BTreeSet<u32>,
}

/// The thread that asks.
#[derive(Debug)]
struct Asker {
    questions: SyncSender<Question>,
    answers: Receiver<(String, Answer)>,
}

impl Containers {
    /// No container is known, and nobody is asked before someone wants to know.
    #[must_use]
    pub fn new(places: Places) -> Self {
        Self {
            places,
            known: HashMap::new(),
            of_process: HashMap::new(),
            asker: None,
            looked: None,
        }
    }

    /// The container of a process by its control group: engine and id at once, and with `details`
    /// also what its engine has said so far. Never waits.
    pub fn of(&mut self, pid: u32, cgroup: &str, details: bool) -> Option<ContainerFacts> {
        let Some(container) = container_of(cgroup) else {
            self.forget(pid);
            return None;
        };
        let facts = bare(&container);
        if !details {
            return Some(facts);
        }
        let id = container.id.clone();
        if self.of_process.get(&pid) != Some(&id) {
            self.forget(pid);
            self.of_process.insert(pid, id.clone());
        }
        let known = self.known.entry(id).or_insert_with(|| Known {
            question: Question::new(container, cgroup),
            facts: None,
            due: Some(Instant::now()),
            failures: 0,
            mark: 0,
            processes: BTreeSet::new(),
        });
        known.processes.insert(pid);
        Some(known.facts.clone().unwrap_or(facts))
    }

    /// Containers whose engine has not answered yet, and those that no engine knows.
    #[must_use]
    pub fn unnamed(&self) -> (usize, usize) {
        let unnamed = || self.known.values().filter(|known| known.facts.is_none());
        let open = unnamed().filter(|known| known.failures == 0).count();
        (open, unnamed().count() - open)
    }

    /// A process is gone.
    pub fn forget(&mut self, pid: u32) {
        let Some(id) = self.of_process.remove(&pid) else { return };
        if let Some(known) = self.known.get_mut(&id) {
            known.processes.remove(&pid);
            if known.processes.is_empty() {
                self.known.remove(&id);
            }
        }
    }

    /// Takes in answers and asks what is due; returns the processes of containers of which
    /// something else is known than before. Never waits.
    pub fn news(&mut self, now: Instant) -> Vec<u32> {
        let mut changed = Vec::new();
        let answers: Vec<_> =
            self.asker.iter().flat_map(|asker| asker.answers.try_iter()).collect();
        for (id, Answer { facts, by_engine }) in answers {
            let Some(known) = self.known.get_mut(&id) else { continue };
            if by_engine {
                known.due = Some(now + ASK_AGAIN);
                known.failures = 0;
            } else {
                known.due = Some(now + RETRIES.get(known.failures).copied().unwrap_or(ASK_AGAIN));
                known.failures = known.failures.saturating_add(1);
                known.mark = self.places.mark(&known.question);
            }
            // An engine that is being restarted has not forgotten what it said.
            if facts.is_some() && facts != known.facts {
                known.facts = facts;
                changed.extend(&known.processes);
            }
        }
        self.look_for_engines(now);
        self.ask(now);
        changed
    }

    /// Asks again at once where an engine has come since: it may have been started after its
    /// containers, or after the agent.
    fn look_for_engines(&mut self, now: Instant) {
        if self.looked.is_some_and(|at| now.saturating_duration_since(at) < LOOK_AGAIN) {
            return;
        }
        self.looked = Some(now);
        let unknown =
            self.known.values_mut().filter(|known| known.failures > 0 && known.due.is_some());
        for known in unknown.take(MOST_UNKNOWN) {
            let mark = self.places.mark(&known.question);
            if mark != known.mark {
                known.mark = mark;
                // A socket may be there a moment before anyone listens.
                known.failures = 1;
                known.due = Some(now);
            }
        }
    }

    fn ask(&mut self, now: Instant) {
        let is_due = |known: &Known| known.due.is_some_and(|due| due <= now);
        for known in self.known.values_mut().filter(|known| is_due(known)) {
            let asker = match &self.asker {
                Some(asker) => asker,
                None => match Asker::start(self.places.clone()) {
                    Ok(asker) => self.asker.insert(asker),
                    Err(error) => {
                        tracing::warn!("no thread for asking after containers: {error}");
                        return;
                    }
                },
            };
            match asker.questions.try_send(known.question.clone()) {
                Ok(()) => known.due = None,
                Err(TrySendError::Full(_)) => return,
                // It ended, which only a fault of its own can make it do: start another.
                Err(TrySendError::Disconnected(_)) => {
                    self.asker = None;
                    self.known.values_mut().for_each(|known| {
                        known.due.get_or_insert(now + ASK_AGAIN);
                    });
                    return;
                }
            }
        }
    }
}

impl Asker {
    fn start(places: Places) -> std::io::Result<Self> {
        let (questions, asked) = mpsc::sync_channel::<Question>(MOST_WAITING);
        let (answer, answers) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("containers".into()).spawn(move || {
            for question in asked {
                let told = runtime.block_on(places.ask(&question));
                if answer.send((question.container.id, told)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { questions, answers })
    }
}

/// What the path alone says.
fn bare(container: &ContainerRef) -> ContainerFacts {
    ContainerFacts {
        engine: container.engine.map_or("", Engine::name).to_owned(),
        id: container.id.clone(),
        ..ContainerFacts::default()
    }
}

#[cfg(test)]
mod tests;
