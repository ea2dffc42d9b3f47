//! One declared worker: its configuration, its life and what it says of itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use downbeat_api::pool::{Worker, WorkerState};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::{Program, WorkerConfig};
use crate::notify::{self, Message};
use crate::output::{self, LastLine};
use crate::paths::Paths;
use crate::process::{self, SpawnError};
use crate::program::command_line;
use crate::supervise::{Next, Readiness, Supervisor};
use crate::view::Model;

/// A message of a worker, by its name.
pub type Report = (String, Message);

/// One declared worker.
pub struct Member {
    config: WorkerConfig,
    supervisor: Supervisor,
    pid: Option<Pid>,
    socket: Option<PathBuf>,
    latest: Message,
    last_line: LastLine,
    listener: Option<JoinHandle<()>>,
    /// What to become after the end, where the configuration changed.
    successor: Option<WorkerConfig>,
    leaving: bool,
}

impl Member {
    /// A worker that is due at once.
    pub fn new(config: WorkerConfig, now: Duration) -> Self {
        let readiness = match config.program {
            Program::Denoise | Program::Model(_) => Readiness::Notified,
            Program::Command(_) | Program::Elsewhere => Readiness::Alive,
        };
        Self {
            supervisor: Supervisor::new(config.restart, readiness, now),
            config,
            pid: None,
            socket: None,
            latest: Message::default(),
            last_line: LastLine::default(),
            listener: None,
            successor: None,
            leaving: false,
        }
    }

    /// Its process.
    pub fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Does what is due; returns when to come again, if not by an event alone.
    pub fn step(
        &mut self,
        now: Duration,
        paths: &Paths,
        worker_bin: Option<&Path>,
        reports: &mpsc::Sender<Report>,
    ) -> Option<Duration> {
        loop {
            match self.supervisor.next(now) {
                Next::Spawn => self.spawn(now, paths, worker_bin, reports),
                Next::Terminate => self.signal(Signal::SIGTERM),
                Next::Kill => self.signal(Signal::SIGKILL),
                Next::Wait(until) => return Some(until),
                Next::Idle => return None,
            }
        }
    }

    fn spawn(
        &mut self,
        now: Duration,
        paths: &Paths,
        worker_bin: Option<&Path>,
        reports: &mpsc::Sender<Report>,
    ) {
        match self.try_spawn(paths, worker_bin, reports) {
            Ok(pid) => {
                info!(worker = self.config.name, "started as pid {pid}");
                self.pid = Some(pid);
                self.supervisor.spawned(now);
            }
            Err(SpawnError::Lasting(reason)) => {
                warn!(worker = self.config.name, "failed: {reason}");
                self.supervisor.refused(reason);
            }
            Err(SpawnError::Passing(reason)) => {
                warn!(worker = self.config.name, "{reason}");
                self.supervisor.ended(now, false, &reason, fastrand::f64());
            }
        }
    }

    fn try_spawn(
        &mut self,
        paths: &Paths,
        worker_bin: Option<&Path>,
        reports: &mpsc::Sender<Report>,
    ) -> Result<Pid, SpawnError> {
        let name = self.config.name.clone();
        let socket = paths.socket(&name).map_err(SpawnError::Lasting)?;
        let notify = paths.notify(&name).map_err(SpawnError::Lasting)?;
        let line = command_line(&self.config, worker_bin, &socket).map_err(SpawnError::Lasting)?;
        // A fresh socket for each process, so that a dead one's last words are not taken for the
        // new one's.
        self.stop_listening();
        let reporter = notify::bind(&notify)
            .map_err(|error| SpawnError::Passing(format!("{}: {error}", notify.display())))?;
        let spawned = process::spawn(&self.config, &line, &paths.run_dir, &notify)?;
        let reports = reports.clone();
        self.last_line = LastLine::default();
        tokio::spawn(output::copy(name.clone(), spawned.stderr, self.last_line.clone()));
        self.listener = Some(tokio::spawn(async move {
            let mut buffer = [0; notify::MAX_MESSAGE];
            while let Ok(length) = reporter.recv(&mut buffer).await {
                let message = Message::parse(&buffer[..length]);
                if reports.send((name.clone(), message)).await.is_err() {
                    return;
                }
            }
        }));
        self.socket = (self.config.program == Program::Denoise).then_some(socket);
        Ok(spawned.pid)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            process::signal_group(pid, signal);
        }
    }

    /// Takes in what it said.
    pub fn report(&mut self, message: Message) {
        if self.pid.is_none() {
            return;
        }
        if message.ready {
            self.supervisor.ready();
            info!(worker = self.config.name, "ready");
        } else {
            self.latest = message;
        }
    }

    /// Its process ended.
    pub fn ended(&mut self, now: Duration, status: ExitStatus, paths: &Paths) {
        self.pid = None;
        self.latest = Message::default();
        self.stop_listening();
        process::kill_marked(&paths.run_dir, Some(&self.config.name));
        if let Some(socket) = self.socket.take() {
            // A killed worker leaves its socket behind.
            let _ = fs::remove_file(socket);
        }
        if let Ok(notify) = paths.notify(&self.config.name) {
            let _ = fs::remove_file(notify);
        }
        let mut how = process::describe(status);
        if let Some(last) = self.last_line.words(Instant::now()).filter(|_| !status.success()) {
            how = format!("{how}: {last}");
        }
        self.supervisor.ended(now, status.success(), &how, fastrand::f64());
        info!(worker = self.config.name, "{how}");
        if self.supervisor.is_over() && !self.leaving {
            warn!(worker = self.config.name, "{}", self.supervisor.note().unwrap_or_default());
        }
    }

    fn stop_listening(&mut self) {
        if let Some(task) = self.listener.take() {
            task.abort();
        }
    }

    /// Follows a new configuration, `None` where it is declared no more.
    pub fn follow(&mut self, config: Option<WorkerConfig>, now: Duration) {
        if config.as_ref() == Some(&self.config) {
            if self.leaving {
                self.successor = config;
            } else {
                self.supervisor.retry(now);
            }
            return;
        }
        self.successor = config;
        self.leave();
    }

    /// Stops for good.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.supervisor.stop();
    }

    /// Cuts the patience with a worker that is being stopped.
    pub fn hurry(&mut self, now: Duration) {
        self.supervisor.hurry(now);
    }

    /// Whether it has left; then what comes in its place.
    pub fn gone(&mut self) -> Option<Option<WorkerConfig>> {
        (self.leaving && self.pid.is_none() && self.supervisor.is_over())
            .then(|| self.successor.take())
    }

    /// For the status.
    pub fn status(&self) -> Worker {
        Worker {
            name: self.config.name.clone(),
            kind: match &self.config.program {
                Program::Denoise => "denoise".into(),
                Program::Model(name) => name.clone(),
                Program::Command(words) => words.join(" "),
                Program::Elsewhere => "elsewhere".into(),
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

    /// As a model of the Open Inference Protocol; external commands are none.
    pub fn model(&self, paths: &Paths) -> Option<Model> {
        if self.config.program != Program::Denoise {
            return None;
        }
        let ready = self.supervisor.state() == WorkerState::Ready;
        let socket = paths.socket(&self.config.name).ok()?;
        Some(Model { ready, socket, deadline: self.config.deadline })
    }
}
