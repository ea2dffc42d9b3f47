//! The demo's players: agent, pool with microphone and camera, hogs, sound card.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use downbeat_api::pool::{Worker, WorkerState};
use downbeat_api::{Client, Snapshot};
use downbeat_tests::agent::{Agent, Load, Place};
use downbeat_tests::processes::{running_from, sweep, wait_until};
use downbeat_tests::record::{Frames, RecordError, Work};
use downbeat_tests::threads::{self, Table};

use super::janitor::{self, Janitor};
use crate::signals::Signals;
use crate::workspace;

/// The audio worker's name in the pool, and its stream's in reports.
pub const MIC: &str = "mic";
/// The video worker's.
pub const CAMERA: &str = "camera";

/// Channels of the sound card: about 2 ms of computing per frame of 10 ms.
const CHANNELS: &str = "12";
/// CPU time of a camera's frame; beside the hogs, in whose caches it works, it takes half as much
/// again. Little enough that a fair share of the CPUs suffices for all frames: where it does not,
/// frames are dropped, and their work falls to the hogs.
const CAMERA_COST: &str = "5ms";
/// More hog threads than CPUs, as on a machine that is full: enough that both streams are late without
/// downbeat on a fast machine too.
const HOGS_PER_CPU: usize = 4;
const HOG_PROCESSES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(20);
/// Camera frames before the hogs start: by then it has measured its own cost on quiet CPUs.
const FRAMES_BEFORE_HOGS: usize = 5;

/// Everything that the demo runs.
pub struct Scene {
    // In this order they end: the load, the agent with its pool, the folder, the janitor.
    loads: Vec<Load>,
    agent: Agent,
    place: Place,
    hog_records: Vec<PathBuf>,
    _janitor: Janitor,
    /// Hog threads, the bursty one not counted.
    pub hog_threads: usize,
}

impl Scene {
    /// Builds the whole scene from the release programs; all of it ends by itself after
    /// `seconds`. `more_policy` is a further policy file.
    pub fn start(
        seconds: u64,
        listen: &str,
        more_policy: Option<&str>,
        signals: &Signals,
    ) -> Result<Self> {
        let place = Place::from_programs(&workspace::release_programs(), "downbeat-demo.")?;
        let janitor = Janitor::start(&place.path("bin"), &[place.dir(), place.records()])?;
        copy_policies(&place)?;
        if let Some(text) = more_policy {
            place.policy("00-more.toml", text)?;
        }
        place.pool("demo.toml", &pool(seconds))?;

        let mut command = Command::new(place.bin("downbeatd"));
        command.arg("--policy-dir").arg(place.path("policy"));
        command.arg("--pool-dir").arg(place.path("pool.d"));
        command.arg("--run-dir").arg(place.run_dir());
        command.args(["--listen", listen, "--pool-rest", "off", "--pool-grpc", "off"]);
        let agent = Agent::start(command, place.run_dir(), place.path("agent.log"))?;

        let cpus = std::thread::available_parallelism().context("counting CPUs")?.get();
        let mut scene = Self {
            loads: Vec::new(),
            agent,
            place,
            hog_records: Vec::new(),
            _janitor: janitor,
            hog_threads: cpus * HOGS_PER_CPU,
        };
        scene.wait_for_the_camera(signals)?;
        let mic = scene.worker(MIC)?;
        let socket = mic.socket.context("the pool names no socket for its audio worker")?;
        let seconds = seconds.to_string();
        scene.start_hogs(&seconds)?;
        let record = scene.record(MIC);
        let record = record.to_string_lossy();
        let card = ["audio", "--channels", CHANNELS, "--socket", &socket];
        let bounds = ["--seconds", &seconds, "--record", &record];
        scene.loads.push(scene.place.load(&[&card[..], &bounds].concat())?);
        Ok(scene)
    }

    fn start_hogs(&mut self, seconds: &str) -> Result<()> {
        let mut left = self.hog_threads;
        for index in 0..HOG_PROCESSES {
            let threads = left.div_ceil(HOG_PROCESSES - index);
            left -= threads;
            if threads > 0 {
                self.start_hog("hog", &format!("hog-{index}"), threads, seconds)?;
            }
        }
        self.start_hog("bursty", "bursty", 1, seconds)
    }

    fn start_hog(&mut self, kind: &str, name: &str, threads: usize, seconds: &str) -> Result<()> {
        let record = self.record(name);
        let (shown, threads) = (record.to_string_lossy(), threads.to_string());
        let args = [kind, "--threads", &threads, "--record", &shown, "--seconds", seconds];
        self.loads.push(self.place.load(&args)?);
        self.hog_records.push(record);
        Ok(())
    }

    fn wait_for_the_camera(&self, signals: &Signals) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let frames = self.frames(CAMERA).map_or(0, |record| record.frames.len());
            let mic = self.worker(MIC);
            if frames >= FRAMES_BEFORE_HOGS && mic.is_ok() {
                return Ok(());
            }
            if Instant::now() >= end {
                bail!(
                    "the pool's workers did not start: camera frames {frames}, microphone {mic:?}\
                     \n{}",
                    self.agent.log()
                );
            }
            signals.sleep(Duration::from_millis(100))?;
        }
    }

    /// The folder that everything runs from.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// A connection to the agent.
    pub fn client(&self) -> Result<Client> {
        self.agent.client()
    }

    /// A worker of the pool that is ready.
    pub fn worker(&self, name: &str) -> Result<Worker> {
        let snapshot = self.agent.snapshot()?;
        worker_in(&snapshot, name).with_context(|| format!("worker {name}: {:?}", snapshot.pool))
    }

    /// A stream's frames so far.
    pub fn frames(&self, stream: &str) -> Result<Frames, RecordError> {
        Frames::read(&self.record(stream))
    }

    /// The hogs' work so far.
    pub fn work(&self) -> Result<Vec<Work>, RecordError> {
        self.hog_records.iter().map(|path| Work::read(path)).collect()
    }

    fn record(&self, name: &str) -> PathBuf {
        self.place.records().join(name)
    }

    /// Every process of the demo, this one not counted.
    pub fn processes(&self) -> Vec<u32> {
        running_from(&self.place.path("bin")).into_iter().map(|(id, _)| id.tid).collect()
    }

    /// Ends everything and looks for what is left: processes, changed threads, the folders.
    pub fn end(self, before: &Table) -> Vec<String> {
        let Self { loads, agent, place, hog_records: _, _janitor: janitor, hog_threads: _ } = self;
        let programs = &place.path("bin");
        let folders = [place.dir().to_path_buf(), place.records().to_path_buf()];
        drop(loads);
        drop(agent);
        let gone = || running_from(programs).is_empty();
        wait_until(Duration::from_secs(3), gone);
        let mut left = sweep(programs, "downbeatd", janitor::PATIENCE);
        drop(place);
        drop(janitor);
        reap();
        for folder in &folders {
            if folder.exists() {
                left.push(format!("folder {}", folder.display()));
            }
        }
        left.extend(threads::differences(before, &threads::table()));
        left
    }
}

/// Takes the ends of orphans that came to this process as their subreaper.
fn reap() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

fn worker_in(snapshot: &Snapshot, name: &str) -> Option<Worker> {
    let workers = &snapshot.pool.as_ref()?.workers;
    let ready = |w: &&Worker| w.name == name && w.state == WorkerState::Ready && w.pid.is_some();
    workers.iter().find(ready).cloned()
}

/// The policy that ships for the demo, as it is.
fn copy_policies(place: &Place) -> Result<()> {
    let shipped = workspace::root().join("policies/demo");
    let entries = fs::read_dir(&shipped).with_context(|| shipped.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        place.policy(&name, &text)?;
    }
    Ok(())
}

fn pool(seconds: u64) -> String {
    format!(
        "schema = 1\n\n[worker.{MIC}]\nmodel = \"denoise\"\n\n[worker.{CAMERA}]\n\
         command = [\"{{bin}}/downbeat-load\", \"video\", \"--record\", \"{{records}}/{CAMERA}\", \
         \"--cost\", \"{CAMERA_COST}\", \"--seconds\", \"{seconds}\"]\nrestart = \"never\"\n"
    )
}
