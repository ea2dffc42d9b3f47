//! One instance of a declared worker: a process, its life and what it says of itself.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use downbeat_api::pool::{Worker, WorkerState};
use downbeat_link::{Engine, Load, ModelNumber};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, chown};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::channel::{self, Failure, Ready};
use crate::config::{self, Program, Sandbox, WorkerConfig};
use crate::confine::{self, Confinement, Needs};
use crate::notify::{self, Message};
use crate::output::{self, LastLine};
use crate::paths::Paths;
use crate::process::{self, SpawnError};
use crate::program::{CommandLine, command_line};
use crate::run::Settings;
use crate::supervise::{Next, Readiness, Sentence, Supervisor};

/// A worker has one model, with this number on its channel.
const MODEL: ModelNumber = ModelNumber(1);

/// The machine's NUMA nodes.
const NODES: &str = "/sys/devices/system/node";

/// What an instance says.
#[derive(Debug)]
pub enum Said {
    /// On its notification socket.
    Notified(Message),
    /// On its channel: its model is loaded.
    Loaded(Box<Ready>),
    /// Its model cannot be loaded.
    Refused(String),
}

/// From whom: the worker's name, the instance's slot and which of its lives.
#[derive(Debug)]
pub struct Report {
    /// The worker.
    pub worker: String,
    /// The instance.
    pub slot: usize,
    /// Counts its processes.
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
    /// Where what they say goes.
    pub reports: &'a mpsc::Sender<Report>,
}

/// One instance.
pub struct Member {
    config: WorkerConfig,
    slot: usize,
    id: String,
    generation: u64,
    supervisor: Supervisor,
    life: u64,
    pid: Option<Pid>,
    socket: Option<PathBuf>,
    latest: Message,
    last_line: LastLine,
    /// While it may write nowhere else.
    temporary: Option<PathBuf>,
    listener: Option<JoinHandle<()>>,
    /// While it is greeted and loads its model.
    greeter: Option<JoinHandle<()>>,
    /// Its channel, once its model is loaded.
    channel: Option<Box<Ready>>,
    leaving: bool,
}

/// An instance's name: the worker's, and from the second on its number.
#[must_use]
pub fn instance_id(worker: &str, slot: usize) -> String {
    if slot == 0 { worker.to_owned() } else { format!("{worker}#{}", slot + 1) }
}

impl Member {
    /// An instance that is due at once.
    #[must_use]
    pub fn new(config: WorkerConfig, slot: usize, generation: u64, now: Duration) -> Self {
        let readiness = match config.program {
            Program::Denoise => Readiness::Notified,
            Program::Model(_) => Readiness::Loaded,
            Program::Command(_) | Program::Elsewhere => Readiness::Alive,
        };
        Self {
            supervisor: Supervisor::new(config.restart, readiness, now),
            id: instance_id(&config.name, slot),
            config,
            slot,
            generation,
            life: 0,
            pid: None,
            socket: None,
            latest: Message::default(),
            last_line: LastLine::default(),
            temporary: None,
            listener: None,
            greeter: None,
            channel: None,
            leaving: false,
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

    /// The channel for its requests, while it is ready; to be taken once.
    pub fn take_channel(&mut self) -> Option<Box<Ready>> {
        self.channel.take()
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> WorkerState {
        self.supervisor.state()
    }

    /// Whether it was told to leave.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Does what is due; returns when to come again, if not by an event alone.
    pub fn step(&mut self, now: Duration, context: &Context<'_>) -> Option<Duration> {
        loop {
            match self.supervisor.next(now) {
                Next::Spawn => self.spawn(now, context),
                Next::Terminate => self.signal(Signal::SIGTERM),
                Next::Kill => self.signal(Signal::SIGKILL),
                Next::Wait(until) => return Some(until),
                Next::Idle => return None,
            }
        }
    }

    fn spawn(&mut self, now: Duration, context: &Context<'_>) {
        self.life += 1;
        match self.try_spawn(context) {
            Ok(pid) => {
                info!(worker = self.id, "started as pid {pid}");
                self.pid = Some(pid);
                self.supervisor.spawned(now);
            }
            Err(SpawnError::Lasting(reason)) => {
                warn!(worker = self.id, "failed: {reason}");
                self.supervisor.refused(reason);
            }
            Err(SpawnError::Passing(reason)) => {
                warn!(worker = self.id, "{reason}");
                self.supervisor.ended(now, false, &reason, fastrand::f64());
            }
        }
    }

    fn try_spawn(&mut self, context: &Context<'_>) -> Result<Pid, SpawnError> {
        let Context { paths, settings, reports } = context;
        let socket = paths.socket(&self.id).map_err(SpawnError::Lasting)?;
        let notify = paths.notify(&self.id).map_err(SpawnError::Lasting)?;
        let worker_bin = settings.worker_bin.as_deref();
        let line = command_line(&self.config, &self.id, self.slot, worker_bin, &socket)
            .map_err(SpawnError::Lasting)?;
        // A fresh socket for each process, so that a dead one's last words are not taken for the
        // new one's.
        self.stop_listening();
        let reporter = notify::bind(&notify)
            .map_err(|error| SpawnError::Passing(format!("{}: {error}", notify.display())))?;
        let channel = self.channel_ends(&settings.models)?;
        let confinement = self.confinement(context, &line, channel.as_ref().map(|it| &it.2))?;
        if let Some((user, group)) = confinement.user {
            for path in [Some(&notify), self.temporary.as_ref()].into_iter().flatten() {
                chown(path, Some(user), Some(group)).map_err(|errno| {
                    SpawnError::Lasting(format!("`user`: chown {}: {errno}", path.display()))
                })?;
            }
        }
        let inherited = channel.as_ref().map(|(_, worker, _)| worker);
        let spawned = process::spawn(
            &self.config,
            &self.id,
            &line,
            &paths.run_dir,
            &notify,
            inherited,
            confinement,
        )?;
        self.last_line = LastLine::default();
        tokio::spawn(output::copy(self.id.clone(), spawned.stderr, self.last_line.clone()));
        let (worker, slot, life) = (self.config.name.clone(), self.slot, self.life);
        let reports = (*reports).clone();
        if let Some((pool, _, load)) = channel {
            let (worker, reports) = (worker.clone(), reports.clone());
            self.greeter = Some(tokio::spawn(async move {
                let said = match channel::load(pool, load).await {
                    Ok(ready) => Said::Loaded(Box::new(ready)),
                    Err(Failure::Refused(reason)) => Said::Refused(reason),
                    Err(Failure::Ended) => return,
                };
                let _ = reports.send(Report { worker, slot, life, said }).await;
            }));
        }
        self.listener = Some(tokio::spawn(async move {
            let mut buffer = [0; notify::MAX_MESSAGE];
            while let Ok(length) = reporter.recv(&mut buffer).await {
                let said = Said::Notified(Message::parse(&buffer[..length]));
                let report = Report { worker: worker.clone(), slot, life, said };
                if reports.send(report).await.is_err() {
                    return;
                }
            }
        }));
        self.socket = (self.config.program == Program::Denoise).then_some(socket);
        Ok(spawned.pid)
    }

    /// The two ends of a built-in worker's channel, and what it is to load.
    fn channel_ends(&self, models: &Path) -> Result<Option<(OwnedFd, OwnedFd, Load)>, SpawnError> {
        let Program::Model(name) = &self.config.program else {
            return Ok(None);
        };
        let (version, path) = channel::newest(models, name).map_err(SpawnError::Lasting)?;
        let (pool, worker) = downbeat_link::pair()
            .map_err(|error| SpawnError::Passing(format!("its channel: {error}")))?;
        let load = Load {
            model: MODEL,
            name: self.config.name.clone(),
            version: version.to_string(),
            engine: match self.config.engine {
                config::Engine::Tract => Engine::Tract,
                config::Engine::Ort => Engine::OnnxRuntime { library: None },
            },
            path: Some(path),
            threads: self.config.placement.threads.map_or(1, |n| u16::try_from(n).unwrap_or(1)),
        };
        Ok(Some((pool, worker, load)))
    }

    /// Where it runs and what it may do. A confined one gets a temporary folder of its own.
    fn confinement(
        &mut self,
        context: &Context<'_>,
        line: &CommandLine,
        load: Option<&Load>,
    ) -> Result<Confinement, SpawnError> {
        let placement = &self.config.placement;
        let mut needs = Needs { read: vec![line.program.clone()], write: Vec::new() };
        needs.read.extend(load.and_then(|load| load.path.clone()));
        needs.read.extend(self.config.dir.clone());
        if placement.sandbox != Sandbox::Off {
            let folder = context.paths.temporary(&self.id);
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(SpawnError::Passing(format!("{}: {error}", folder.display())));
                }
                _ => {}
            }
            needs.write.push(folder.clone());
            self.temporary = Some(folder);
        }
        if self.config.program == Program::Denoise {
            // It makes its socket there.
            needs.write.push(context.paths.folder().to_owned());
        }
        let mut confinement =
            confine::prepare(placement, &needs, Path::new(NODES)).map_err(SpawnError::Lasting)?;
        if let Some(folder) = &self.temporary {
            confinement.env.insert("TMPDIR", folder.display().to_string());
        }
        Ok(confinement)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            process::signal_group(pid, signal);
        }
    }

    /// Takes in what it said; what an earlier process of it said is too late.
    pub fn report(&mut self, life: u64, said: Said) {
        if self.pid.is_none() || life != self.life {
            return;
        }
        match said {
            // A model's worker greets the pool before it has a model.
            Said::Notified(message)
                if message.ready && matches!(self.config.program, Program::Model(_)) => {}
            Said::Loaded(ready) => {
                info!(worker = self.id, "ready: {}", ready.loaded.engine);
                self.channel = Some(ready);
                self.supervisor.ready();
            }
            Said::Refused(reason) => self.supervisor.condemn(Sentence::Lasting(reason)),
            Said::Notified(message) if message.ready => {
                self.supervisor.ready();
                info!(worker = self.id, "ready");
            }
            Said::Notified(message) => self.latest = message,
        }
    }

    /// Its process ended.
    pub fn ended(&mut self, now: Duration, status: ExitStatus, paths: &Paths) {
        self.pid = None;
        self.latest = Message::default();
        self.stop_listening();
        process::kill_marked(&paths.run_dir, Some(&self.id));
        if let Some(socket) = self.socket.take() {
            // A killed worker leaves its socket behind.
            let _ = fs::remove_file(socket);
        }
        if let Some(folder) = self.temporary.take() {
            let _ = fs::remove_dir_all(folder);
        }
        if let Ok(notify) = paths.notify(&self.id) {
            let _ = fs::remove_file(notify);
        }
        let mut how = process::describe(status);
        if let Some(last) = self.last_line.words(Instant::now()).filter(|_| !status.success()) {
            how = format!("{how}: {last}");
        }
        self.supervisor.ended(now, status.success(), &how, fastrand::f64());
        info!(worker = self.id, "{how}");
        if self.supervisor.is_over() && !self.leaving {
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
        if !self.leaving {
            self.supervisor.retry(now);
        }
    }

    /// Stops for good.
    pub fn leave(&mut self, _now: Duration) {
        self.leaving = true;
        self.supervisor.stop();
    }

    /// Cuts the patience with one that is being stopped.
    pub fn hurry(&mut self, now: Duration) {
        self.supervisor.hurry(now);
    }

    /// Whether it has left.
    #[must_use]
    pub fn gone(&self) -> bool {
        self.leaving && self.pid.is_none() && self.supervisor.is_over()
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
            note: self.supervisor.note().map(str::to_owned),
            socket: self.socket.as_ref().map(|path| path.display().to_string()),
            frames: self.latest.frames,
            missed: self.latest.missed,
            compute_p50_ns: self.latest.compute_p50_ns,
            compute_p99_ns: self.latest.compute_p99_ns,
        }
    }
}
