//! The supervising loop. It runs on the main thread, because a worker dies with the thread that
//! started it; see [`crate::process`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use downbeat_api::pool::PoolStatus;
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::config::{self, Problem, WorkerConfig};
use crate::confine;
use crate::fleet::Fleet;
use crate::member::{Context as Surroundings, Report};
use crate::paths::Paths;
use crate::scale::Load;
use crate::view::{Snapshot, View};
use crate::{control, process};

/// Where the model store lies unless it is named.
pub const DEFAULT_MODELS: &str = "/usr/share/downbeat/models";

/// From a worker's end to the note about it.
const LAST_WORDS: Duration = Duration::from_millis(5);

/// What the pool was started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of the declarations.
    pub pool_dir: PathBuf,
    /// The run directory.
    pub run_dir: PathBuf,
    /// The built-in workers' program, where it was named.
    pub worker_bin: Option<PathBuf>,
    /// The model store.
    pub models: PathBuf,
}

/// The addresses that the servers got, and why one got none.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    /// REST.
    pub rest: Option<String>,
    /// gRPC.
    pub grpc: Option<String>,
    /// For the status.
    pub problems: Vec<String>,
}

struct Pool {
    settings: Settings,
    paths: Paths,
    fleets: BTreeMap<String, Fleet>,
    started: Instant,
    reports: mpsc::Sender<Report>,
    /// About the configuration, for the status.
    note: Option<String>,
    servers: Servers,
    view: View,
}

/// Runs the pool until SIGTERM or SIGINT. `serve` starts the servers over the given view.
///
/// # Errors
/// When the run directory cannot be used.
pub async fn run(
    settings: Settings,
    serve: impl AsyncFnOnce(View, &Paths) -> Servers,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    process::take_hangup();
    let mut child = signal(SignalKind::child()).context("SIGCHLD")?;
    process::become_subreaper()?;
    let paths = Paths::create(&settings.run_dir)?;
    let listener = paths.listen()?;
    let left_over = process::kill_marked(&paths.run_dir, None);
    if left_over > 0 {
        warn!("killed {left_over} processes that a killed pool had left");
    }
    if let Some(missing) = confine::missing() {
        warn!("{missing}");
    }
    let view = View::default();
    tokio::spawn(control::serve(listener, view.clone()));
    let (reports, mut inbox) = mpsc::channel(256);
    let servers = serve(view.clone(), &paths).await;
    let mut pool = Pool {
        settings,
        paths,
        fleets: BTreeMap::new(),
        started: Instant::now(),
        reports,
        note: None,
        servers,
        view,
    };
    pool.load();
    let mut stopping = false;
    loop {
        let due = pool.step();
        if stopping && pool.fleets.is_empty() {
            break;
        }
        let pause = async {
            match due {
                Some(due) => tokio::time::sleep_until((pool.started + due).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = child.recv() => {
                // A dying worker's last line explains its end; it may still be in the pipe.
                tokio::time::sleep(LAST_WORDS).await;
                pool.reap();
            }
            Some(report) = inbox.recv() => pool.report(report),
            _ = hangup.recv(), if !stopping => pool.load(),
            _ = terminate.recv() => pool.stop(&mut stopping),
            _ = interrupt.recv() => pool.stop(&mut stopping),
            () = pause => {}
        }
    }
    process::kill_marked(&pool.paths.run_dir, None);
    pool.paths.remove_sockets();
    info!("stopped");
    Ok(())
}

impl Pool {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Does everything that is due, publishes the status, and says when to come again.
    fn step(&mut self) -> Option<Duration> {
        let now = self.now();
        let surroundings =
            Surroundings { paths: &self.paths, settings: &self.settings, reports: &self.reports };
        let mut due: Option<Duration> = None;
        for fleet in self.fleets.values_mut() {
            let next = fleet.step(now, &Load::default(), &surroundings);
            due = due.into_iter().chain(next).min();
        }
        self.fleets.retain(|_, fleet| !fleet.gone());
        self.publish();
        due
    }

    fn publish(&self) {
        let notes: Vec<_> =
            self.note.iter().chain(&self.servers.problems).map(String::as_str).collect();
        let status = PoolStatus {
            pid: Some(std::process::id()),
            note: (!notes.is_empty()).then(|| notes.join("; ")),
            rest: self.servers.rest.clone(),
            grpc: self.servers.grpc.clone(),
            workers: self.fleets.values().flat_map(Fleet::status).collect(),
        };
        let models = self
            .fleets
            .iter()
            .filter_map(|(name, fleet)| Some((name.clone(), fleet.model(&self.paths)?)))
            .collect();
        let openai = self
            .fleets
            .iter()
            .filter_map(|(name, fleet)| Some((name.clone(), fleet.openai()?)))
            .collect();
        *self.view.lock() = Snapshot { status, models, openai };
    }

    fn report(&mut self, report: Report) {
        let Report { worker, slot, life, said } = report;
        if let Some(fleet) = self.fleets.get_mut(&worker) {
            fleet.report(slot, life, said);
        }
    }

    fn reap(&mut self) {
        loop {
            let is_worker = |pid: Pid| self.fleets.values().any(|fleet| fleet.owns(pid));
            let Some((pid, status)) = process::reap(is_worker) else {
                return;
            };
            let now = self.now();
            if let Some(fleet) = self.fleets.values_mut().find(|fleet| fleet.owns(pid)) {
                fleet.ended(now, pid, status, &self.paths);
            }
        }
    }

    /// Reads pool.d and follows it; a set with a problem changes nothing.
    fn load(&mut self) {
        match read(&self.settings.pool_dir) {
            Ok((configs, note)) => {
                info!("{} workers declared in {}", configs.len(), self.settings.pool_dir.display());
                if let Some(note) = &note {
                    warn!("{note}");
                }
                self.note = note;
                self.follow(configs);
            }
            Err(problems) => {
                for problem in &problems {
                    error!("{problem}");
                }
                let kept = if self.fleets.is_empty() {
                    "nothing of it runs"
                } else {
                    "what ran before keeps running"
                };
                self.note = Some(format!(
                    "configuration refused, {kept}: {}",
                    config::in_one_line(&problems)
                ));
            }
        }
    }

    fn follow(&mut self, configs: Vec<WorkerConfig>) {
        let now = self.now();
        let mut configs: BTreeMap<_, _> =
            configs.into_iter().map(|config| (config.name.clone(), config)).collect();
        for (name, fleet) in &mut self.fleets {
            match configs.remove(name) {
                Some(config) => fleet.follow(config, now),
                None => fleet.leave(now),
            }
        }
        for (name, config) in configs {
            self.fleets.insert(name, Fleet::new(config));
        }
    }

    /// The first signal stops the workers, the second kills them.
    fn stop(&mut self, stopping: &mut bool) {
        let now = self.now();
        for fleet in self.fleets.values_mut() {
            if *stopping {
                fleet.hurry(now);
            } else {
                fleet.leave(now);
            }
        }
        *stopping = true;
    }
}

/// The declared workers, and a note where there is no folder.
fn read(folder: &Path) -> Result<(Vec<WorkerConfig>, Option<String>), Vec<Problem>> {
    match config::files::read(folder)? {
        Some(sources) => Ok((config::parse(&sources)?, None)),
        None => Ok((
            Vec::new(),
            Some(format!(
                "{}: no such folder, so no worker is declared; make it and put *.toml files there",
                folder.display()
            )),
        )),
    }
}
