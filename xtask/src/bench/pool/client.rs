//! The client: a process of its own, with a plan in and results out.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_tests::agent::die_with_this_thread;
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::signals::Signals;
use crate::workspace;

/// `SCHED_FIFO` of the client while it stands for devices: that of the demo's sound card.
const DEVICE_PRIORITY: i32 = 80;

/// The client's name.
pub const EXAMPLE: &str = "pool_load";

/// What came of streams.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Results {
    /// Of one CPU, by the client.
    pub client_cpu_seconds: f64,
    pub streams: BTreeMap<String, Told>,
}

impl Results {
    /// What came of one stream.
    pub fn of(&self, stream: &str) -> Result<&Told> {
        self.streams.get(stream).with_context(|| format!("the client told nothing of `{stream}`"))
    }
}

/// What came of a stream; see the client's own words.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Told {
    pub asked: u64,
    pub answered: u64,
    pub in_time: u64,
    pub refused: u64,
    pub failed: u64,
    pub lost: u64,
    pub wrong: u64,
    pub unsent: u64,
    pub attainment: f64,
    pub goodput: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
    pub statuses: BTreeMap<u16, u64>,
    pub note: Option<String>,
}

/// A plan of streams that runs `seconds` after `warm_up`.
pub fn streams(seconds: f64, warm_up: f64, streams: &[Value]) -> Value {
    json!({ "streams": {
        "seconds": seconds, "warm_up": warm_up, "patience": 5.0, "streams": streams,
    } })
}

/// A client at work; killed when dropped.
pub struct Client {
    child: Child,
    // Holds the plan.
    _folder: tempfile::TempDir,
}

impl Client {
    /// Starts it. With streams it stands for the devices whose frames come when they come: in real
    /// time, above all that it measures, where this process may give that.
    pub fn start(plan: &Value) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("downbeat-bench-plan.").tempdir()?;
        let path = folder.path().join("plan.json");
        fs::write(&path, plan.to_string()).with_context(|| path.display().to_string())?;
        let program = workspace::release_programs().join("examples").join(EXAMPLE);
        let mut command = Command::new(&program);
        command.arg(&path).stdin(Stdio::null()).stdout(Stdio::piped());
        die_with_this_thread(&mut command, Signal::SIGKILL);
        let child = command.spawn();
        let child = child.with_context(|| format!("{}: starting it", program.display()))?;
        if plan.get("streams").is_some() {
            let priority = libc::sched_param { sched_priority: DEVICE_PRIORITY };
            let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
            // SAFETY: a system call on a process that is ours; it reads the parameter.
            let _ = unsafe {
                libc::sched_setscheduler(child.id().cast_signed(), policy, &raw const priority)
            };
        }
        Ok(Self { child, _folder: folder })
    }

    /// Waits for its end and reads its results.
    pub fn results<T: DeserializeOwned>(mut self, signals: &Signals) -> Result<T> {
        let mut output = self.child.stdout.take().context("the client has no output")?;
        // Its one line may be more than a pipe holds.
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            output.read_to_string(&mut text).map(|_| text)
        });
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None => signals.sleep(Duration::from_millis(20))?,
            }
        };
        let text = reader.join().map_err(|_| anyhow::anyhow!("reading the client panicked"))??;
        ensure!(status.success(), "the client ended with {status}");
        serde_json::from_str(&text).with_context(|| format!("the client said `{text}`"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a plan to its end.
pub fn run<T: DeserializeOwned>(plan: &Value, signals: &Signals) -> Result<T> {
    Client::start(plan)?.results(signals)
}
