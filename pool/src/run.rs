//! The supervising loop. It runs on the main thread, because a worker dies with the thread that
//! started it; see [`crate::process`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use downbeat_api::peer::Rights;
use downbeat_api::pool::PoolStatus;
use downbeat_queue::{Limits, Order};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::budget::oversubscribed;
use crate::config::{self, Problem, Program, WorkerConfig};
use crate::confine;
use crate::dispatch::Dispatcher;
use crate::fleet::{DRAIN, Fleet};
use crate::groups::Groups;
use crate::launch::Launches;
use crate::logs::Logs;
use crate::member::{Context as Surroundings, Report};
use crate::memory::{self, Hold, Idle, Room};
use crate::oip::{Backend, Models};
use crate::paths::Paths;
use crate::store::{Store, StoreError, Target, Wish};
use crate::view::View;
use crate::wyoming::Door;
use crate::{control, keeper, process};

/// Where the model store lies unless it is named.
pub const DEFAULT_MODELS: &str = "/usr/share/downbeat/models";

/// From a worker's end to the note about it.
const LAST_WORDS: Duration = Duration::from_millis(5);

/// Between two tries to remove the control group of an instance that has left, whose last processes
/// are ending.
const SWEEP: Duration = Duration::from_millis(50);

/// How long work goes on when the pool itself is to stop.
const LAST_WORK: Duration = Duration::from_secs(1);

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
    /// Group whose members may look at the control socket.
    pub read_group: String,
    /// Group whose members may also load, unload and drain there.
    pub change_group: String,
    /// The control group that was handed over for the workers.
    pub group: Option<PathBuf>,
    /// Where the kernel says how much memory is free: `/proc/meminfo`.
    pub meminfo: PathBuf,
    /// In which order requests run.
    pub order: Order,
}

/// The addresses that the servers got, and why one got none.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    /// REST.
    pub rest: Option<String>,
    /// gRPC.
    pub grpc: Option<String>,
    /// Wyoming.
    pub wyoming: Door,
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
    /// Declared threads that have too few CPUs, for the status.
    oversubscribed: Vec<String>,
    servers: Servers,
    view: View,
    dispatcher: Dispatcher,
    store: Store,
    groups: Groups,
    launches: Launches,
    /// Models that clients loaded and pool.d does not declare.
    on_demand: BTreeSet<String>,
}

/// Runs the pool until SIGTERM or SIGINT. `serve` starts the servers; `logs` has what the pool's log
/// says of its workers.
///
/// # Errors
/// When the run directory cannot be used.
pub async fn run(
    settings: Settings,
    logs: Logs,
    serve: impl AsyncFnOnce(Backend, &Paths) -> Servers,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    process::take_hangup();
    let mut child = signal(SignalKind::child()).context("SIGCHLD")?;
    process::become_subreaper()?;
    let paths = Paths::create(&settings.run_dir)?;
    let rights = Rights::of_groups(&settings.read_group, &settings.change_group);
    let listener = paths.listen()?;
    control::give(&paths, &rights);
    let groups = match &settings.group {
        Some(folder) => Groups::open(folder).unwrap_or_else(|reason| {
            warn!("workers have no control groups of their own: {reason}");
            Groups::default()
        }),
        None => Groups::default(),
    };
    // Before anything starts a thread.
    let keeper = keeper::start(paths.folder(), &paths.run_dir, settings.group.as_deref());
    let keeper = keeper.inspect_err(|error| {
        warn!("no keeper, so what outlives a killed pool is ended by the next one: {error}");
    });
    let left_over = groups.clear() + process::kill_marked(&paths.run_dir, None);
    if left_over > 0 {
        warn!("killed {left_over} processes that a killed pool had left");
    }
    if let Some(missing) = confine::missing() {
        warn!("{missing}");
    }
    let view = View::default();
    let (reports, mut inbox) = mpsc::channel(256);
    let dispatcher = Dispatcher::new(Limits { order: settings.order, ..Limits::default() });
    let store = Store::new(&settings.models);
    let mut models = store.changes();
    // What lies there is known before it is asked for.
    let first = store.clone();
    tokio::task::spawn_blocking(move || first.look()).await.context("the model folder")?;
    tokio::spawn(store.clone().watch());
    let backend = Backend::new(view.clone(), dispatcher.clone(), store.clone());
    tokio::spawn(control::serve(listener, Models::new(backend.clone()), logs, rights));
    let servers = serve(backend, &paths).await;
    let mut pool = Pool {
        settings,
        paths,
        fleets: BTreeMap::new(),
        started: Instant::now(),
        reports,
        note: None,
        oversubscribed: Vec::new(),
        servers,
        view,
        dispatcher,
        store,
        groups,
        launches: Launches::default(),
        on_demand: BTreeSet::new(),
    };
    pool.load();
    let mut stopping = false;
    loop {
        let due = pool.step();
        if pool.servers.wyoming.open_if_wanted().await {
            pool.publish();
        }
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
            Ok(()) = models.changed(), if !stopping => pool.aim(),
            _ = hangup.recv(), if !stopping => pool.load(),
            _ = terminate.recv() => pool.stop(&mut stopping),
            _ = interrupt.recv() => pool.stop(&mut stopping),
            () = pause => {}
        }
    }
    pool.groups.clear();
    process::kill_marked(&pool.paths.run_dir, Some(std::process::id()));
    pool.groups.clear();
    pool.paths.remove_sockets();
    drop(keeper);
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
        self.make_room(now);
        let surroundings = Surroundings {
            paths: &self.paths,
            settings: &self.settings,
            dispatcher: &self.dispatcher,
            store: &self.store,
            groups: &self.groups,
            launches: &self.launches,
            reports: &self.reports,
        };
        let loads = self.dispatcher.loads();
        let mut due: Option<Duration> = None;
        for (name, fleet) in &mut self.fleets {
            let next = fleet.step(now, loads.get(name), &surroundings);
            due = due.into_iter().chain(next).min();
        }
        self.fleets.retain(|_, fleet| !fleet.gone());
        if self.groups.sweep() {
            due = due.into_iter().chain([now + SWEEP]).min();
        }
        self.publish();
        due
    }

    /// Unloads idle models for those that are to start, where memory is short.
    fn make_room(&mut self, now: Duration) {
        let needs: BTreeMap<String, Option<u64>> =
            self.fleets.iter().map(|(name, fleet)| (name.clone(), fleet.needs())).collect();
        let host = || memory::available(&self.settings.meminfo);
        let host = needs.values().any(Option::is_some).then(host).flatten();
        let free = host.into_iter().chain(self.groups.room()).min();
        let mut free = free.unwrap_or(u64::MAX);
        for (name, need) in needs {
            let hold = need.and_then(|need| self.room_for(&name, need, &mut free, now));
            if let Some(fleet) = self.fleets.get_mut(&name) {
                fleet.hold(hold);
            }
        }
    }

    /// Why a worker that needs so much has to wait; what it takes is no longer `free`.
    fn room_for(&mut self, name: &str, need: u64, free: &mut u64, now: Duration) -> Option<Hold> {
        let others = self.fleets.iter().filter(|(other, _)| *other != name);
        let idle: Vec<Idle> =
            others.filter_map(|(other, it)| it.idle(now, self.on_demand.contains(other))).collect();
        let coming = self.fleets.values().map(Fleet::leaving_memory).sum();
        match memory::make(need, *free, coming, &idle) {
            Room::Enough => {
                // Two that start at once do not both get it.
                *free = free.saturating_sub(need);
                None
            }
            Room::Coming => Some(Hold::Soon("waits for memory that is being freed".into())),
            Room::After(names) => {
                let gone = self.fleets.iter_mut().filter(|(name, _)| names.contains(name));
                gone.for_each(|(_, fleet)| fleet.unload());
                let names = names.join(", ");
                Some(Hold::Soon(format!("waits for the memory of {names}, which had no work")))
            }
            Room::None => Some(Hold::Short(format!(
                "needs about {}, {} are free, and no idle model can be unloaded; stop something, or \
                 run it where there is more memory",
                memory::megabytes(need),
                memory::megabytes(*free)
            ))),
        }
    }

    fn publish(&self) {
        // A folder of models matters to those who ask for one.
        let asked = self.fleets.values().any(|fleet| fleet.stored().is_some());
        let folder = self.store.note().filter(|_| asked);
        let notes: Vec<_> = self
            .note
            .iter()
            .chain(&self.oversubscribed)
            .chain(&folder)
            .chain(&self.servers.problems)
            .chain(self.servers.wyoming.problems())
            .map(String::as_str)
            .collect();
        let status = PoolStatus {
            pid: Some(std::process::id()),
            note: (!notes.is_empty()).then(|| notes.join("; ")),
            rest: self.servers.rest.clone(),
            grpc: self.servers.grpc.clone(),
            wyoming: self.servers.wyoming.address().map(str::to_owned),
            workers: self.fleets.values().flat_map(Fleet::status).collect(),
            // They are counted where requests come in.
            models: Vec::new(),
        };
        let models = self
            .fleets
            .iter()
            .filter_map(|(name, fleet)| Some((name.clone(), fleet.model()?)))
            .collect();
        let openai = self
            .fleets
            .iter()
            .filter_map(|(name, fleet)| Some((name.clone(), fleet.openai()?)))
            .collect();
        self.view.publish(status, models, openai);
        let wyoming = self.fleets.iter();
        let wyoming = wyoming.filter_map(|(name, fleet)| Some((name.clone(), fleet.wyoming()?)));
        self.view.lock().wyoming = wyoming.collect();
    }

    fn report(&mut self, report: Report) {
        let Report { worker, slot, life, said } = report;
        if let Some(fleet) = self.fleets.get_mut(&worker) {
            fleet.report(slot, life, said, &self.store);
        }
    }

    fn reap(&mut self) {
        let now = self.now();
        for fleet in self.fleets.values_mut() {
            fleet.reap(now, &self.paths);
        }
        process::look_after_orphans(&self.paths.run_dir, &self.launches);
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
                None => fleet.leave(now, DRAIN),
            }
        }
        for (name, config) in configs {
            self.fleets.insert(name, Fleet::new(config));
        }
        self.on_demand.clear();
        self.tell_of_oversubscription();
        let declared = self.fleets.values().filter(|fleet| !fleet.is_leaving());
        let wishes = declared.filter_map(|fleet| Some((fleet.stored()?.into(), Wish::Newest)));
        self.store.declare(&wishes.collect());
        self.aim();
    }

    fn tell_of_oversubscription(&mut self) {
        let declared = self.fleets.values().filter(|fleet| !fleet.is_leaving());
        let configs: Vec<_> = declared.map(Fleet::config).collect();
        self.oversubscribed = confine::allowed_cpus()
            .map_or_else(|_| Vec::new(), |cpus| oversubscribed(&configs, &cpus));
        for text in &self.oversubscribed {
            warn!("{text}");
        }
    }

    /// Follows what the model folder has, and what clients loaded of it.
    fn aim(&mut self) {
        let now = self.now();
        let targets = self.store.targets();
        for name in &self.on_demand {
            if !targets.contains_key(name)
                && let Some(fleet) = self.fleets.get_mut(name)
            {
                fleet.leave(now, DRAIN);
            }
        }
        self.on_demand.retain(|name| targets.contains_key(name));
        for (name, target) in &targets {
            let runs = |fleet: &Fleet| fleet.stored() == Some(name) && !fleet.is_leaving();
            if self.fleets.values().any(runs) {
                continue;
            }
            let program = Program::Model(name.clone());
            let batch = target.description.max_batch as usize;
            let config = WorkerConfig { batch, ..WorkerConfig::new(name.clone(), program) };
            match self.fleets.get_mut(name) {
                Some(fleet) if fleet.is_leaving() => fleet.follow(config, now),
                // Another worker has the name.
                Some(_) => continue,
                None => {
                    self.fleets.insert(name.clone(), Fleet::new(config));
                }
            }
            self.on_demand.insert(name.clone());
        }
        for fleet in self.fleets.values_mut() {
            let Some(name) = fleet.stored().map(str::to_owned) else {
                continue;
            };
            let target = targets.get(&name).cloned();
            fleet.aim(target.ok_or_else(|| missing(&self.store, &name)), now);
        }
    }

    /// The first signal stops the workers, the second kills them.
    fn stop(&mut self, stopping: &mut bool) {
        let now = self.now();
        for fleet in self.fleets.values_mut() {
            if *stopping {
                fleet.hurry(now);
            } else {
                fleet.leave(now, LAST_WORK);
            }
        }
        *stopping = true;
    }
}

/// Why there is nothing to load for a model.
fn missing(store: &Store, name: &str) -> String {
    let error = match store.describe(name, None) {
        Ok(Target { .. }) => return format!("model `{name}` is unloaded; load it again"),
        Err(error) => error,
    };
    if let StoreError::Unknown { .. } = error {
        let names: Vec<_> = store.index().into_iter().map(|entry| entry.name).collect();
        let near: Vec<_> = names.iter().map(String::as_str).filter(|it| *it != name).collect();
        let hint = match config::nearest(name, &near) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None if near.is_empty() => {
                "put the model there, or name its folder with --models".into()
            }
            None => format!("the models there are {}", near.join(", ")),
        };
        return format!("model `{name}`: {} has no such folder; {hint}", store.root().display());
    }
    error.to_string()
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
