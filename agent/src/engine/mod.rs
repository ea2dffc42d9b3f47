//! The agent's loop: observe → model → decide → act, and a snapshot for everyone who asks.
//!
//! One thread does all of it, so there is one order of things. Three speeds: an event from the
//! kernel is acted on at once; a sample, once a second, reads what has no events; and the picture of
//! everything is made at each sample as long as somebody looks, else at each fourth.

mod affinities;
mod commands;
mod discovery;
mod explain;
mod home;
mod jobs;
mod ledger;
mod levers;
mod marks;
mod misses;
mod notices;
mod overrides;
mod plan;
mod policy;
mod reload;
mod sample;
mod snapshot;
mod surroundings;
mod threads;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use downbeat_abi::CLASS_SLOTS;
use downbeat_api::pool::PoolStatus;
use downbeat_api::{HostFacts, Mode, Snapshot, Source};
use downbeat_policy::PolicySet;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::act::{Actuator, Kernel, UNDER_WAY, Units};
use crate::model::World;
use crate::model::histogram::Histogram;
use crate::model::overrides::Overrides;
use crate::observe::frames::FrameSocket;
use crate::observe::gpu::GpuReader;
use crate::observe::kernel::{KernelEvent, KernelProbes};
use crate::observe::own::OwnReader;
use crate::observe::process::ProcessReader;
use crate::observe::system::{System, SystemReader};
use crate::own_memory::OwnMemory;
use crate::roots::Roots;
use crate::serve::socket::Command;
use crate::serve::{Onlookers, View};
use crate::supervise::PoolSupervisor;

pub use ledger::Ledger;
pub use notices::{Notices, notice};
pub use policy::{Policy, Slots};
pub use reload::{PolicyFolders, Reading};
#[cfg(test)]
pub(crate) use snapshot::empty as empty_snapshot;

/// How often managed processes are looked at for what no event told.
pub const TICK: Duration = Duration::from_millis(250);

/// Ticks from one sample to the next.
const TICKS_PER_SAMPLE: u64 = 4;

/// Everything that the loop needs, made by `main`.
#[derive(Debug)]
pub struct Parts {
    /// Where the kernel's files are.
    pub roots: Roots,
    /// What the host offers.
    pub host: Arc<HostFacts>,
    /// The host's name.
    pub host_name: String,
    /// Classes and rules.
    pub policy: PolicySet,
    /// The policy's folders, and what they held.
    pub policy_folders: PolicyFolders,
    /// The kernel programs, or why they are not there.
    pub probes: Result<KernelProbes, String>,
    /// The levers; absent when the agent only observes.
    pub actuator: Option<Actuator<Kernel>>,
    /// Asks systemd, where it runs and anything is to be changed.
    pub units: Option<Units>,
    /// The pool's process.
    pub pool: Option<PoolSupervisor>,
    /// What the pool says of itself.
    pub pool_status: watch::Receiver<Option<PoolStatus>>,
    /// Where programs mark their frames, where it could be opened.
    pub frames: Option<FrameSocket>,
    /// What start-up has to say.
    pub notices: Notices,
}

/// The loop's state.
#[derive(Debug)]
pub struct Engine {
    host: Arc<HostFacts>,
    host_name: String,
    policy: Policy,
    slots: Slots,
    policy_folders: PolicyFolders,
    probes: Option<KernelProbes>,
    source: Source,
    actuator: Option<Actuator<Kernel>>,
    mode: Mode,
    pool: Option<PoolSupervisor>,
    pool_status: watch::Receiver<Option<PoolStatus>>,
    notices: Notices,
    reader: ProcessReader,
    system: SystemReader,
    latest_system: System,
    surroundings: surroundings::Surroundings,
    following: jobs::Following,
    marks: marks::Marks,
    gpu: GpuReader,
    own: OwnReader,
    own_memory: OwnMemory,
    affinities: affinities::Affinities,
    world: World,
    overrides: Overrides,
    discoveries: discovery::Discoveries,
    ledger: Ledger,
    levers: levers::Levers,
    exec_to_set: Histogram,
    /// Waits per slot at the last sample, from which the next one's interval is told.
    waits_before: Vec<Histogram>,
    events: Vec<KernelEvent>,
    dropped_before: u64,
    /// A process was gone when the news of its birth came: it may have left children.
    orphans: bool,
    started: Instant,
    tick: u64,
    pace: sample::Pace,
    snapshots: watch::Sender<Arc<Snapshot>>,
    onlookers: Arc<Onlookers>,
}

impl Engine {
    /// Looks at the whole host, acts on what it finds, and publishes the first snapshot.
    #[must_use]
    pub fn start(parts: Parts) -> (Self, View) {
        let Parts { roots, host, host_name, policy, policy_folders, probes, .. } = parts;
        let mut slots = Slots::new(CLASS_SLOTS);
        let policy = Policy::new(policy, &host, &mut slots);
        let source = match &probes {
            Ok(_) => Source::Bpf,
            Err(reason) => Source::Procfs { reason: reason.clone() },
        };
        let mode = if parts.actuator.is_some() { Mode::Engaged } else { Mode::ObserveOnly };
        let sleepers = probes.as_ref().ok().map(KernelProbes::sleepers);
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot::empty(&host, &source, mode)));
        let onlookers = Arc::new(Onlookers::default());
        let now = Instant::now();
        let mut engine = Self {
            reader: ProcessReader::new(&roots),
            system: SystemReader::new(&roots),
            latest_system: System::default(),
            surroundings: surroundings::Surroundings::new(&roots),
            following: jobs::Following::default(),
            marks: marks::Marks::new(parts.frames),
            gpu: GpuReader::new(),
            own: OwnReader::new(&roots),
            own_memory: OwnMemory::default(),
            affinities: affinities::Affinities::default(),
            host,
            host_name,
            policy,
            slots,
            policy_folders,
            probes: probes.ok(),
            source,
            actuator: parts.actuator,
            mode,
            pool: parts.pool,
            pool_status: parts.pool_status,
            notices: parts.notices,
            world: World::default(),
            overrides: Overrides::default(),
            discoveries: discovery::Discoveries::default(),
            ledger: Ledger::default(),
            levers: levers::Levers::new(&roots, mode != Mode::ObserveOnly, parts.units, sleepers),
            exec_to_set: Histogram::default(),
            waits_before: Vec::new(),
            events: Vec::new(),
            dropped_before: 0,
            orphans: false,
            started: now,
            tick: 0,
            pace: sample::Pace::new(now),
            snapshots,
            onlookers: Arc::clone(&onlookers),
        };
        engine.note_limits();
        engine.note_policy();
        engine.note_blindness();
        engine.want_facts();
        engine.consider_all();
        engine.take_in_news(discovery::AT_THE_START);
        engine.sample();
        (engine, View::new(receiver, onlookers))
    }

    /// Runs until SIGTERM or SIGINT, then puts everything back. Returns how many values could not
    /// be put back; they stay in the journal.
    ///
    /// # Errors
    /// When signals or the kernel programs' ring cannot be waited for.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> std::io::Result<u64> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let ring =
            self.probes.as_ref().map(|probes| watch_for_input(probes.as_fd())).transpose()?;
        let frames = self.marks.socket.as_ref();
        let frames = frames.map(|socket| watch_for_input(socket.as_fd())).transpose()?;
        let onlookers = Arc::clone(&self.onlookers);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                result = readable(ring.as_ref()) => { result?; self.on_kernel_events(); }
                result = readable(frames.as_ref()), if self.marks.listens => {
                    result?;
                    self.on_marks();
                }
                _ = tick.tick() => self.on_tick(),
                () = onlookers.asked() => self.look_again(),
                Some(command) = commands.recv() => self.on_command(command),
                () = step(&mut self.pool) => {}
                _ = hang_up.recv() => drop(self.reload()),
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        drop((ring, frames));
        Ok(self.stop().await)
    }

    fn on_tick(&mut self) {
        self.tick += 1;
        // An exit alone does not make the ring readable: its news can wait until now.
        self.on_kernel_events();
        self.on_marks();
        self.tell_runaways();
        self.tell_units();
        self.notice_changed_policy();
        self.expire_overrides();
        self.take_in_news(discovery::AT_A_TICK);
        self.tell_settled_misses();
        if self.tick.is_multiple_of(TICKS_PER_SAMPLE) {
            self.sample();
            return;
        }
        self.watch_surroundings();
        if std::mem::take(&mut self.orphans) || self.probes.is_none() {
            self.look_for_new_processes();
        }
    }

    /// Reads what the kernel programs sent and acts on it.
    fn on_kernel_events(&mut self) {
        let Some(probes) = &mut self.probes else {
            return;
        };
        let mut events = std::mem::take(&mut self.events);
        probes.drain(&mut events);
        for event in events.drain(..) {
            self.on_kernel_event(event);
        }
        self.events = events;
    }

    async fn stop(mut self) -> u64 {
        // The pool first: its workers end before their values would have to go back.
        if let Some(pool) = &mut self.pool {
            pool.stop().await;
        }
        self.disengage();
        // A process that was just being made has its creator's values and is not to be seen yet.
        tokio::time::sleep(UNDER_WAY).await;
        self.disengage();
        let left = self.stop_asking_for_units();
        let finished = self.actuator.take().map(Actuator::finish);
        let left = left
            + finished
                .transpose()
                .unwrap_or_else(|error| {
                    tracing::warn!("removing the journal: {error}");
                    None
                })
                .unwrap_or(0);
        // With something left for a restore, the kernel goes on noting whose children inherit it.
        if let (0, Some(probes)) = (left, &mut self.probes)
            && let Err(error) = probes.end_with_the_process()
        {
            tracing::warn!("{error}");
        }
        left
    }
}

fn watch_for_input(descriptor: BorrowedFd<'_>) -> std::io::Result<AsyncFd<OwnedFd>> {
    let own = descriptor.try_clone_to_owned()?;
    // SAFETY: an OwnedFd is open and names one descriptor for as long as it lives, and the AsyncFd
    // owns it.
    Ok(unsafe { AsyncFd::register_with_interest(own, Interest::READABLE)? })
}

async fn readable(ring: Option<&AsyncFd<OwnedFd>>) -> std::io::Result<()> {
    match ring {
        Some(ring) => {
            ring.readable().await?.clear_ready();
            Ok(())
        }
        None => std::future::pending().await,
    }
}

async fn step(pool: &mut Option<PoolSupervisor>) {
    match pool {
        Some(pool) => pool.step().await,
        None => std::future::pending().await,
    }
}
