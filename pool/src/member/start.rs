//! Starting an instance: its process, and its channel or its server's address.

use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use downbeat_link::{Engine, LinkError, Load, ModelNumber};
use nix::unistd::Pid;
use tracing::{info, warn};

use super::{Context, Member, Report, Said};
use crate::adapters;
use crate::config::{self, Program};
use crate::dispatch::{Channel, ChannelError};
use crate::groups::Group;
use crate::launch::Extras;
use crate::notify::{self, Message};
use crate::output::{self, LastLine};
use crate::process::{self, SpawnError};
use crate::program::{command_line, port};

/// A worker has one model, with this number on its channel.
const MODEL: ModelNumber = ModelNumber(1);

/// Processes that were started.
static LIVES: AtomicU64 = AtomicU64::new(0);

/// Between two questions to a server that comes up.
const PROBE: Duration = Duration::from_millis(100);

impl Member {
    pub(super) fn spawn(&mut self, now: Duration, context: &Context<'_>) {
        self.life = LIVES.fetch_add(1, Ordering::Relaxed) + 1;
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
        let Context { paths, settings, reports, .. } = context;
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
        let channel = self.channel_ends()?;
        let extras = Extras {
            read: channel.as_ref().and_then(|(.., load)| load.path.as_deref()),
            // It makes its socket there.
            write: (self.config.program == Program::Denoise).then(|| paths.folder()),
            channel: channel.as_ref().map(|(_, worker, _)| worker),
            notify: Some(&notify),
        };
        let home = self.home.get_or_insert_with(|| context.home(&self.id));
        let (mut command, launch) = home.prepare(&self.config, &line, extras)?;
        self.memory_kills = home.group().map_or(0, Group::memory_kills);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|error| process::spawn_error(&line.program, &error))?;
        let pid = Pid::from_raw(child.id().cast_signed());
        launch.runs_as(pid);
        self.launch = Some(launch);
        let stderr = child.stderr.take().ok_or_else(|| {
            let program = line.program.display();
            SpawnError::Passing(format!("{program}: no pipe for its standard error"))
        })?;
        self.last_line = LastLine::default();
        tokio::spawn(output::copy(self.id.clone(), stderr, self.last_line.clone()));
        let (worker, slot, life) = (self.config.name.clone(), self.slot, self.life);
        let reports = (*reports).clone();
        if let Some((pool, _, load)) = channel {
            let (worker, reports) = (worker.clone(), reports.clone());
            self.greeter = Some(tokio::spawn(async move {
                let said = match Channel::open(pool, load).await {
                    Ok(channel) => Said::Loaded(Box::new(channel)),
                    // Its own end says why.
                    Err(ChannelError::Ended | ChannelError::Link(LinkError::Closed)) => return,
                    // It names the model's file.
                    Err(ChannelError::Load(reason)) => Said::Refused(reason),
                    Err(error) => Said::Refused(format!("the channel to its worker: {error}")),
                };
                let _ = reports.send(Report { worker, slot, life, said }).await;
            }));
        }
        if let Some(base) = self.server() {
            let (worker, reports) = (worker.clone(), reports.clone());
            let health = self.config.adapter.as_ref().and_then(config::Adapter::health);
            let health = health.map(str::to_owned);
            self.greeter = Some(tokio::spawn(async move {
                while adapters::answers(&base, health.as_deref()).await.is_err() {
                    tokio::time::sleep(PROBE).await;
                }
                let said = Said::Answers(Ok(()));
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
        Ok(pid)
    }

    /// The address of the server that its process is.
    fn server(&self) -> Option<String> {
        let port = port(&self.config, self.slot)?;
        Some(format!("http://127.0.0.1:{port}"))
    }

    /// The two ends of a built-in worker's channel, and what it is to load.
    fn channel_ends(&self) -> Result<Option<(OwnedFd, OwnedFd, Load)>, SpawnError> {
        let (Program::Model(_), Some(artifact)) = (&self.config.program, &self.artifact) else {
            return Ok(None);
        };
        let (pool, worker) = downbeat_link::pair()
            .map_err(|error| SpawnError::Passing(format!("its channel: {error}")))?;
        let load = Load {
            model: MODEL,
            name: self.config.name.clone(),
            version: artifact.version.to_string(),
            engine: match self.config.engine {
                config::Engine::Tract => Engine::Tract,
                config::Engine::Ort => Engine::OnnxRuntime { library: None },
            },
            path: Some(artifact.file.clone()),
            sha256: Some(artifact.sha256.0),
            threads: self.config.placement.threads.map_or(1, |n| u16::try_from(n).unwrap_or(1)),
        };
        Ok(Some((pool, worker, load)))
    }
}
