//! One instance of a declared worker: a process, its life and what it says of itself.

mod start;

use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use downbeat_api::pool::{Worker, WorkerState};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::adapters::{Adapter, DenoiseWorker};
use crate::attachment::{Attachment, EXTERNAL_BOUND, OWN_BOUND};
use crate::config::{self, Program, WorkerConfig};
use crate::dispatch::{Attach, Channel, Dispatcher, Transport};
use crate::groups::{Group, Groups};
use crate::launch::{Home, Launch, Launches};
use crate::memory;
use crate::notify::Message;
use crate::output::LastLine;
use crate::paths::Paths;
use crate::process;
use crate::program::port;
use crate::progress::Verdict;
use crate::run::Settings;
use crate::store::{Artifact, Store};
use crate::supervise::{Next, Readiness, Sentence, Supervisor};

/// Between two looks at an instance that is being drained.
pub const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// What an instance says.
#[derive(Debug)]
pub enum Said {
    /// On its notification socket.
    Notified(Message),
    /// On its channel: its model is loaded.
    Loaded(Box<Channel>),
    /// Its model cannot be loaded.
    Refused(String),
    /// Its server answers, or does not.
    Answers(Result<(), String>),
}

/// From whom: the worker's name, the instance's slot and which of its lives.
#[derive(Debug)]
pub struct Report {
    /// The worker.
    pub worker: String,
    /// The instance.
    pub slot: usize,
    /// Counts the pool's processes: another instance may have taken the slot since.
    pub life: u64,
    /// What it said.
    pub said: Said,
}

/// What instances need of the pool.
pub struct Context<'a> {
    /// The pool's files.
    pub paths: &'a Paths,
    /// What the pool was started with.
    pub settings: &'a Settings,
    /// Control groups of the workers.
    pub groups: &'a Groups,
    /// Processes that were started.
    pub launches: &'a Launches,
    /// Where requests come from.
    pub dispatcher: &'a Dispatcher,
    /// Where models lie.
    pub store: &'a Store,
    /// Where what they say goes.
    pub reports: &'a mpsc::Sender<Report>,
}

impl Context<'_> {
    /// Where instance `id` lives.
    #[must_use]
    pub fn home(&self, id: &str) -> Home {
        Home::new(id, self.paths, self.groups, self.launches)
    }
}

/// One instance.
pub struct Member {
    config: WorkerConfig,
    slot: usize,
    id: String,
    generation: u64,
    /// The model's file that it loads.
    artifact: Option<Arc<Artifact>>,
    supervisor: Supervisor,
    life: u64,
    pid: Option<Pid>,
    socket: Option<PathBuf>,
    latest: Message,
    last_line: LastLine,
    /// From its first start on.
    home: Option<Home>,
    /// While its process runs.
    launch: Option<Launch>,
    /// How often the kernel had killed in its group for its limit of memory when it was started.
    memory_kills: u64,
    listener: Option<JoinHandle<()>>,
    /// While it is greeted and loads its model, or is asked whether it answers.
    greeter: Option<JoinHandle<()>>,
    /// Its channel, from when its model is loaded until it is attached.
    channel: Option<Box<Channel>>,
    /// While it is in traffic.
    attachment: Option<Attachment>,
    /// Why it does not get on, where that is nothing to kill it for.
    trouble: Option<String>,
    /// It is to leave, and its work is given up at this time.
    leave_by: Option<Duration>,
}

/// An instance's name: the worker's, and from the second on its number.
#[must_use]
pub fn instance_id(worker: &str, slot: usize) -> String {
    if slot == 0 { worker.to_owned() } else { format!("{worker}#{}", slot + 1) }
}

impl Member {
    /// An instance that is due at once.
    #[must_use]
    pub fn new(
        config: WorkerConfig,
        slot: usize,
        generation: u64,
        artifact: Option<Arc<Artifact>>,
        now: Duration,
    ) -> Self {
        let readiness = match (&config.program, &config.adapter) {
            (Program::Denoise, _) => Readiness::Notified,
            (Program::Model(_), _) => Readiness::Loaded,
            (_, Some(config::Adapter::Http(_) | config::Adapter::Oip(_))) => Readiness::Loaded,
            (Program::Command(_) | Program::Elsewhere, _) => Readiness::Alive,
        };
        Self {
            supervisor: Supervisor::new(config.restart, readiness, now),
            id: instance_id(&config.name, slot),
            config,
            slot,
            generation,
            artifact,
            life: 0,
            pid: None,
            socket: None,
            latest: Message::default(),
            last_line: LastLine::default(),
            home: None,
            launch: None,
            memory_kills: 0,
            listener: None,
            greeter: None,
            channel: None,
            attachment: None,
            trouble: None,
            leave_by: None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Which declaration it runs.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The model's file that it loads.
    #[must_use]
    pub fn artifact(&self) -> Option<&Arc<Artifact>> {
        self.artifact.as_ref()
    }

    /// Whether it gets requests.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.attachment.is_some()
    }

    /// Why it is down, or how it last ended.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.supervisor.note()
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> WorkerState {
        self.supervisor.state()
    }

    /// Whether the last process that was started for it has this number.
    #[must_use]
    pub fn has_life(&self, life: u64) -> bool {
        self.life == life
    }

    /// Whether it was told to leave.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leave_by.is_some()
    }

    /// Does what is due; returns when to come again, if not by an event alone.
    pub fn step(&mut self, now: Duration, context: &Context<'_>) -> Option<Duration> {
        if self.pid.is_none()
            && let Some(attachment) = self.attachment.take()
        {
            context.dispatcher.detach(attachment.handle());
        }
        let drained = self.drain(now, context.dispatcher);
        let watched = self.watch(now, context.dispatcher);
        let life = loop {
            match self.supervisor.next(now) {
                Next::Spawn => self.spawn(now, context),
                Next::Terminate => self.signal(Signal::SIGTERM),
                Next::Kill => self.signal(Signal::SIGKILL),
                Next::Wait(until) => break Some(until),
                Next::Idle => break None,
            }
        };
        self.attach(now, context);
        let attached = self.attachment.as_ref().map(Attachment::due);
        [drained, watched, attached, life].into_iter().flatten().min()
    }

    /// Lets one that is to leave answer what it has, and stops it then.
    fn drain(&mut self, now: Duration, dispatcher: &Dispatcher) -> Option<Duration> {
        let until = self.leave_by?;
        if let Some(attachment) = &self.attachment {
            dispatcher.drain(attachment.handle());
            if now < until && !dispatcher.is_idle(attachment.handle()) {
                return Some(now + DRAIN_LOOK);
            }
            dispatcher.detach(attachment.handle());
            self.attachment = None;
        }
        self.supervisor.stop();
        None
    }

    /// Has one that holds work and does not get on with it killed.
    fn watch(&mut self, now: Duration, dispatcher: &Dispatcher) -> Option<Duration> {
        let (attachment, pid) = (self.attachment.as_mut()?, self.pid?);
        if now < attachment.due() {
            return Some(attachment.due());
        }
        let model = matches!(self.config.program, Program::Model(_));
        if !model && dispatcher.held(attachment.handle()).is_none() {
            // It was taken for gone, and its process is still there: a server that starts itself
            // anew, for one. It gets requests again.
            self.attachment = None;
            return Some(now);
        }
        match attachment.watch(now, pid, dispatcher) {
            Verdict::Well => self.trouble = None,
            Verdict::Waiting(why) => self.trouble = Some(why),
            Verdict::Stuck(why) => {
                warn!(worker = self.id, "killed: {why}");
                self.supervisor.condemn(Sentence::Passing(format!("killed: {why}")));
            }
        }
        Some(attachment.due())
    }

    /// Puts one that is ready into traffic.
    fn attach(&mut self, now: Duration, context: &Context<'_>) {
        if self.attachment.is_some()
            || self.is_leaving()
            || self.state() != WorkerState::Ready
            || !self.config.takes_requests()
        {
            return;
        }
        let (transport, bound) = match (&self.config.program, self.channel.take()) {
            (Program::Model(_), Some(channel)) => (Transport::Channel(*channel), OWN_BOUND),
            (Program::Denoise, _) => {
                let Some(socket) = self.socket.clone() else { return };
                let worker = DenoiseWorker::new(&self.config.name, socket, self.config.deadline);
                (Transport::Adapter(Arc::new(Adapter::Denoise(worker))), OWN_BOUND)
            }
            (Program::Command(_), _) => {
                let port = port(&self.config, self.slot);
                match Adapter::new(&self.config, port, || context.home(&self.id)) {
                    Some(adapter) => (Transport::Adapter(Arc::new(adapter)), EXTERNAL_BOUND),
                    None => return,
                }
            }
            _ => return,
        };
        let version = self.artifact.as_ref().map_or(1, |artifact| artifact.version).to_string();
        // One job at a time: what waits is better in the queue, which knows the deadlines.
        let attach = Attach { model: self.config.name.clone(), version, concurrency: 1, transport };
        match context.dispatcher.attach(attach) {
            Ok(handle) => self.attachment = Some(Attachment::new(handle, bound, now)),
            Err(refusal) => warn!(worker = self.id, "gets no requests: {refusal}"),
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            process::signal_group(pid, signal);
        }
    }

    /// Bytes that its process and, in its control group, all that it started have in memory.
    #[must_use]
    pub fn resident(&self) -> Option<u64> {
        let pid = self.pid?.as_raw().cast_unsigned();
        let group = self.home.as_ref().and_then(Home::group).and_then(Group::anonymous);
        memory::resident(pid).max(group)
    }

    /// Takes in what its last process said; once that has ended it is too late.
    pub fn report(&mut self, said: Said) {
        if self.pid.is_none() {
            return;
        }
        match said {
            // A model's worker greets the pool before it has a model.
            Said::Notified(message)
                if message.ready && matches!(self.config.program, Program::Model(_)) => {}
            Said::Loaded(channel) => {
                info!(worker = self.id, "ready: {}", channel.loaded.engine);
                self.channel = Some(channel);
                self.supervisor.ready();
            }
            Said::Answers(Ok(())) => {
                info!(worker = self.id, "ready: it answers");
                self.supervisor.ready();
            }
            Said::Answers(Err(_)) => {}
            Said::Refused(reason) => self.supervisor.condemn(Sentence::Lasting(reason)),
            Said::Notified(message) if message.ready => {
                self.supervisor.ready();
                info!(worker = self.id, "ready");
            }
            Said::Notified(message) => self.latest = message,
        }
    }

    /// Takes note of its process's end, if that has come.
    pub fn reap(&mut self, now: Duration, paths: &Paths) {
        if let Some(status) = self.pid.and_then(process::reap) {
            self.ended(now, status, paths);
        }
    }

    fn ended(&mut self, now: Duration, status: ExitStatus, paths: &Paths) {
        self.pid = None;
        self.latest = Message::default();
        self.stop_listening();
        let mut how = process::describe(status);
        if let Some(group) = self.home.as_ref().and_then(Home::group) {
            // What it started may have left its process group.
            group.end();
            if group.memory_kills() > self.memory_kills {
                how.push_str(", since it used more than its `memory`");
            }
        }
        if let Some(socket) = self.socket.take() {
            // A killed worker leaves its socket behind.
            let _ = fs::remove_file(socket);
        }
        if let Ok(notify) = paths.notify(&self.id) {
            let _ = fs::remove_file(notify);
        }
        // With its temporary folder.
        self.launch = None;
        if let Some(last) = self.last_line.words(Instant::now()).filter(|_| !status.success()) {
            how = format!("{how}: {last}");
        }
        self.supervisor.ended(now, status.success(), &how, fastrand::f64());
        info!(worker = self.id, "{how}");
        self.trouble = None;
        if self.supervisor.is_over() && !self.is_leaving() {
            warn!(worker = self.id, "{}", self.supervisor.note().unwrap_or_default());
        }
    }

    fn stop_listening(&mut self) {
        self.channel = None;
        if let Some(task) = self.greeter.take() {
            task.abort();
        }
        if let Some(task) = self.listener.take() {
            task.abort();
        }
    }

    /// Gives one that is down another chance.
    pub fn retry(&mut self, now: Duration) {
        if !self.is_leaving() {
            self.supervisor.retry(now);
        }
    }

    /// Stops for good, when it has answered what it has, or else at `until`.
    pub fn leave(&mut self, until: Duration) {
        self.leave_by = Some(self.leave_by.map_or(until, |before| before.min(until)));
    }

    /// Cuts the patience with one that is being stopped.
    pub fn hurry(&mut self, now: Duration) {
        self.leave(now);
        self.supervisor.hurry(now);
    }

    /// Whether it has left.
    #[must_use]
    pub fn gone(&self) -> bool {
        self.is_leaving() && self.pid.is_none() && self.supervisor.is_over()
    }

    /// For the status.
    #[must_use]
    pub fn status(&self) -> Worker {
        Worker {
            name: self.id.clone(),
            kind: match &self.config.program {
                Program::Denoise => "denoise".into(),
                Program::Model(name) => name.clone(),
                Program::Command(words) => words.join(" "),
                Program::Elsewhere => self
                    .config
                    .adapter
                    .as_ref()
                    .and_then(|it| it.url())
                    .unwrap_or("elsewhere")
                    .into(),
            },
            state: self.supervisor.state(),
            pid: self.pid.map(|pid| pid.as_raw().cast_unsigned()),
            restarts: self.supervisor.restarts(),
            note: self.trouble.as_deref().or(self.supervisor.note()).map(str::to_owned),
            socket: self.socket.as_ref().map(|path| path.display().to_string()),
            frames: self.latest.frames,
            missed: self.latest.missed,
            compute_p50_ns: self.latest.compute_p50_ns,
            compute_p99_ns: self.latest.compute_p99_ns,
        }
    }
}
