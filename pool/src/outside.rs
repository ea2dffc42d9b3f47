//! Workers without a process that is kept running here: servers that someone else runs, and
//! programs that are started for each job.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::adapters::{Adapter, answers};
use crate::config::{self, Program, WorkerConfig};
use crate::dispatch::{Attach, Dispatcher, Handle, Transport};
use crate::member::{Context, DRAIN_LOOK, Report, Said, instance_id};
use crate::program::command_line;
use crate::view::Standing;

/// Requests that a server elsewhere takes at a time: it has a queue of its own.
const ELSEWHERE: usize = 8;

/// Between two looks at a server elsewhere.
const LOOK: Duration = Duration::from_secs(2);

/// Whether a worker is one of these.
#[must_use]
pub fn is_outside(config: &WorkerConfig) -> bool {
    config.program == Program::Elsewhere
        || matches!(config.adapter, Some(config::Adapter::Stdio(_)))
}

/// Where such a worker stands, and its places in the dispatcher.
#[derive(Default)]
pub struct Outside {
    /// As it was attached.
    config: Option<WorkerConfig>,
    handles: Vec<Handle>,
    /// Those that are drained, each with the time when its work is given up.
    leaving: Vec<(Handle, Duration)>,
    /// Whether it can be used; nothing while that is not known.
    usable: Option<Result<(), String>>,
    /// Counts its declarations, so that an earlier one's prober is not believed.
    life: u64,
    prober: Option<JoinHandle<()>>,
}

impl Outside {
    /// Does what is due for what is declared, nothing where it is to leave; returns when to come
    /// again.
    pub fn step(
        &mut self,
        now: Duration,
        declared: Option<&WorkerConfig>,
        patience: Duration,
        context: &Context<'_>,
    ) -> Option<Duration> {
        if self.config.as_ref() != declared {
            let until = now + patience;
            self.drain(until, context.dispatcher);
            self.config = declared.cloned();
            self.retry();
        }
        if declared.is_none() {
            // Those that were leaving already have no more time than the rest.
            self.hurry(now + patience);
        }
        if let Some(config) = self.config.clone() {
            let asked = config.program == Program::Elsewhere;
            if self.usable.is_none() && (!asked || self.ask(&config, context)) {
                let there = program_is_there(&config);
                if let Err(reason) = &there {
                    warn!(worker = config.name, "failed: {reason}");
                }
                self.usable = Some(there);
            }
            match &self.usable {
                Some(Ok(())) if self.handles.is_empty() => self.attach(&config, context),
                Some(Err(_)) => self.drain(now + patience, context.dispatcher),
                _ => {}
            }
        }
        self.leaving.retain(|(handle, until)| {
            let over = now >= *until || context.dispatcher.is_idle(*handle);
            if over {
                context.dispatcher.detach(*handle);
            }
            !over
        });
        (!self.leaving.is_empty()).then_some(now + DRAIN_LOOK)
    }

    /// Starts asking a server elsewhere, unless there is nothing to ask; then it counts as there.
    fn ask(&mut self, config: &WorkerConfig, context: &Context<'_>) -> bool {
        let adapter = config.adapter.as_ref();
        let health = adapter.and_then(|it| Some((it.url()?.to_owned(), it.health()?.to_owned())));
        let Some((url, path)) = health else {
            return true;
        };
        if self.prober.is_none() {
            let report = (config.name.clone(), self.life);
            let reports = context.reports.clone();
            self.prober = Some(tokio::spawn(probe(url, path, report, reports)));
        }
        false
    }

    fn attach(&mut self, config: &WorkerConfig, context: &Context<'_>) {
        if !config.takes_requests() {
            return;
        }
        let (workers, concurrency) = match config.program {
            Program::Elsewhere => (1, ELSEWHERE),
            // A process each.
            _ => (config.instances.max, 1),
        };
        for slot in 0..workers {
            let home = || context.home(&instance_id(&config.name, slot));
            let Some(adapter) = Adapter::new(config, None, home) else {
                return;
            };
            let attach = Attach {
                model: config.name.clone(),
                version: "1".into(),
                concurrency,
                transport: Transport::Adapter(Arc::new(adapter)),
            };
            match context.dispatcher.attach(attach) {
                Ok(handle) => self.handles.push(handle),
                Err(refusal) => warn!(worker = config.name, "gets no requests: {refusal}"),
            }
        }
        info!(worker = config.name, "ready");
    }

    fn drain(&mut self, until: Duration, dispatcher: &Dispatcher) {
        for handle in self.handles.drain(..) {
            dispatcher.drain(handle);
            self.leaving.push((handle, until));
        }
    }

    /// Gives up what is drained at `until`, if not before.
    pub fn hurry(&mut self, until: Duration) {
        for (_, at) in &mut self.leaving {
            *at = until.min(*at);
        }
    }

    /// Takes in what its prober saw.
    pub fn reached(&mut self, life: u64, answer: Result<(), String>) {
        if life == self.life {
            self.usable = Some(answer);
        }
    }

    /// Looks anew whether it can be used.
    pub fn retry(&mut self) {
        self.usable = None;
        self.life += 1;
        if let Some(prober) = self.prober.take() {
            prober.abort();
        }
    }

    /// Whether it takes requests.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match &self.usable {
            Some(Ok(())) => Standing::Ready,
            Some(Err(reason)) => Standing::Down(reason.clone()),
            None => Standing::Coming("it has not answered yet".into()),
        }
    }

    /// Whether nothing of it is left.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.handles.is_empty() && self.leaving.is_empty()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.retry();
    }
}

fn program_is_there(config: &WorkerConfig) -> Result<(), String> {
    if config.program == Program::Elsewhere {
        return Ok(());
    }
    command_line(config, &config.name, 0, None, Path::new("")).map(drop)
}

/// Asks a server again and again, and tells what is new.
async fn probe(
    url: String,
    path: String,
    (worker, life): (String, u64),
    reports: mpsc::Sender<Report>,
) {
    let mut last = None;
    loop {
        let answer = answers(&url, Some(&path)).await;
        if last.as_ref() != Some(&answer) {
            last = Some(answer.clone());
            let said = Said::Answers(answer);
            let report = Report { worker: worker.clone(), slot: 0, life, said };
            if reports.send(report).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
