//! The agent among a crowd: so many processes, so many managed threads, so many switches.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use downbeat_tests::agent::{Agent, Load, Place};
use downbeat_tests::processes::wait_until;

use super::switches::Switches;
use crate::demo::janitor::Janitor;
use crate::workspace;

/// The managed threads have a job that often.
const EVERY: &str = "50ms";

/// No load lives longer, whatever happens.
const LIVE: &str = "15min";

/// How long the agent may take to find and set all managed threads.
const PATIENCE: Duration = Duration::from_secs(60);

/// The threads that `downbeat-load crowd --every` starts; the processes beside them match nothing.
const POLICY: &str = r#"
schema = 1

[class.managed]
tier = "realtime"
modality = "video"
deadline = "50ms"
sched = "auto"

[[rule]]
name = "managed"
class = "managed"
match = { exe = "{bin}/downbeat-load", cmdline = "* --every *" }
"#;

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Switches a second of the whole host.
    pub switches: u32,
    /// Processes beside those that the host runs anyway.
    pub processes: u32,
    /// Threads that are managed, with a job every 50 ms.
    pub managed: u32,
}

/// All of it; gone when dropped.
#[derive(Debug)]
pub struct Crowd {
    // In this order they end.
    _switches: Switches,
    _loads: Vec<Load>,
    agent: Agent,
    _place: Place,
    _janitor: Janitor,
}

impl Crowd {
    /// Starts everything and waits until the agent has set all managed threads.
    pub fn start(size: Size) -> Result<Self> {
        let place = Place::from_programs(&workspace::release_programs(), "downbeat-bench.")?;
        let janitor = Janitor::start(&place.path("bin"), &[place.dir(), place.records()])?;
        place.policy("00-managed.toml", POLICY)?;
        let mut loads = Vec::new();
        let managed = size.managed.to_string();
        loads.push(place.load(&[
            "crowd",
            "--threads",
            &managed,
            "--every",
            EVERY,
            "--live",
            LIVE,
        ])?);
        for _ in 0..size.processes {
            loads.push(place.load(&["crowd", "--threads", "0", "--live", LIVE])?);
        }
        let switches = Switches::start(size.switches.into())?;

        let mut command = Command::new(place.bin("downbeatd"));
        command.arg("--policy-dir").arg(place.path("policy"));
        command.arg("--pool-dir").arg(place.path("pool.d"));
        command.arg("--run-dir").arg(place.run_dir());
        // A server that nobody asks, as on a host without Prometheus.
        command.args(["--listen", "127.0.0.1:0"]);
        let agent = Agent::start(command, place.run_dir(), place.path("agent.log"))?;
        let crowd =
            Self { _switches: switches, _loads: loads, agent, _place: place, _janitor: janitor };
        let mut seen = 0;
        let all = wait_until(PATIENCE, || {
            seen = crowd.managed().unwrap_or(0);
            // And the main one, which only sleeps.
            seen == size.managed + 1
        });
        anyhow::ensure!(
            all,
            "{seen} of {} threads are managed after {PATIENCE:?}:\n{}",
            size.managed + 1,
            crowd.agent.log()
        );
        Ok(crowd)
    }

    /// The agent's process.
    pub fn agent(&self) -> u32 {
        self.agent.pid()
    }

    fn managed(&self) -> Result<u32> {
        let snapshot = self.agent.snapshot()?;
        let class = snapshot.classes.iter().find(|class| class.name == "managed");
        Ok(class.context("no class `managed`")?.threads)
    }
}
