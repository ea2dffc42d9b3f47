//! What is checked on a guest's kernel.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_api::{HostFacts, Source, State};
use downbeat_tests::agent::{Agent, Load, Place, said};
use downbeat_tests::guest::Line;
use downbeat_tests::processes::{running_from, wait_until};
use downbeat_tests::threads::{Attributes, FIFO};
use nix::sys::signal::Signal;

const POLICY: &str = r#"
schema = 1

[class.voice]
modality = "audio"
tier = "realtime"
deadline = "10ms"
sched = { policy = "fifo", priority = 7 }
cpus = "1"
io = { class = "best-effort", level = 1 }
memory = { oom = -321 }

[[rule]]
name = "crowd"
class = "voice"
match = { exe = "{bin}/downbeat-load" }
"#;

type Check = fn() -> Result<()>;

const CHECKS: [(&str, Check); 7] = [
    ("doctor tells the host facts", doctor),
    ("kernel programs are the source", bpf_is_the_source),
    ("an exec gets its class on every thread", class_on_every_thread),
    ("waits are counted per class", waits_are_counted),
    ("SIGTERM puts back", sigterm_puts_back),
    ("restore puts back after SIGKILL", restore_puts_back),
    ("the pool's audio worker gets ready", pool_gets_ready),
];

/// Runs every check and tells each one's outcome.
pub fn run_all(tell: impl Fn(Line)) {
    for (name, check) in CHECKS {
        let name = name.to_owned();
        tell(match check() {
            Ok(()) => Line::Ok(name),
            Err(error) => Line::Fail { name, why: format!("{error:#}") },
        });
    }
}

fn place() -> Result<Place> {
    let place = Place::new()?;
    place.policy("50-test.toml", POLICY)?;
    Ok(place)
}

fn crowd(place: &Place) -> Result<Load> {
    place.load(&["crowd", "--threads", "3", "--live", "120s"])
}

fn managed(found: &Attributes) -> bool {
    found.scheduling.policy == FIFO
        && found.scheduling.priority == 7
        && found.affinity == "1"
        && found.oom == -321
}

fn managed_crowd(place: &Place) -> Result<(Agent, Load)> {
    let agent = place.start(&[])?;
    let crowd = crowd(place)?;
    crowd.wait_for(4, managed).with_context(|| agent.log())?;
    Ok((agent, crowd))
}

fn untouched() -> Result<impl Fn(&Attributes) -> bool> {
    let own = Attributes::of(std::process::id())?;
    Ok(move |found: &Attributes| *found == own)
}

fn doctor() -> Result<()> {
    let place = Place::new()?;
    let output = place.downbeat(&["doctor", "--json"])?;
    let told: serde_json::Value =
        serde_json::from_slice(&output.stdout).with_context(|| said(&output))?;
    let facts: HostFacts = serde_json::from_value(told["host"].clone())?;
    let running = nix::sys::utsname::uname()?;
    ensure!(facts.kernel.as_str() == running.release(), "{facts:?}");
    ensure!(facts.cpus == [0, 1] && facts.realtime && facts.deadline, "{facts:?}");
    ensure!(facts.cgroup2_controllers.iter().any(|c| c == "cpu"), "{facts:?}");
    let state = |id: &str| facts.findings.iter().find(|f| f.id == id).map(|f| f.state);
    for id in ["bpf", "btf"] {
        ensure!(state(id).is_none_or(|s| s == State::Present), "{id}: {facts:?}");
    }
    for finding in &facts.findings {
        ensure!(
            finding.state == State::Present || !finding.text.is_empty(),
            "says nothing: {finding:?}"
        );
    }
    Ok(())
}

fn bpf_is_the_source() -> Result<()> {
    let place = place()?;
    let agent = place.start(&[])?;
    let snapshot = agent.snapshot()?;
    ensure!(snapshot.source == Source::Bpf, "{:?}\n{}", snapshot.source, agent.log());
    Ok(())
}

fn class_on_every_thread() -> Result<()> {
    let place = place()?;
    managed_crowd(&place).map(drop)
}

fn waits_are_counted() -> Result<()> {
    let place = place()?;
    let agent = place.start(&[])?;
    let record = place.records().join("bursty");
    let record = record.to_string_lossy();
    // It sleeps and wakes all the time, and each wake is a wait.
    let _load = place.load(&["bursty", "--record", &record, "--seconds", "60"])?;
    agent.wait_for(|snapshot| {
        let wait = snapshot.classes.first()?.wait.as_ref()?;
        let last = wait.buckets.last()?;
        (wait.total.count >= 20 && last.1 == wait.total.count && wait.total.p99_ns.is_some())
            .then_some(())
    })
}

fn sigterm_puts_back() -> Result<()> {
    let place = place()?;
    let (mut agent, crowd) = managed_crowd(&place)?;
    let status = agent.end(Signal::SIGTERM)?;
    ensure!(status.success(), "{status}: {}", agent.log());
    crowd.wait_for(4, untouched()?)
}

fn restore_puts_back() -> Result<()> {
    let place = place()?;
    let (mut agent, crowd) = managed_crowd(&place)?;
    agent.end(Signal::SIGKILL)?;
    crowd.wait_for(4, managed)?;
    let restored = place.restore()?;
    ensure!(restored.status.success(), "{}", said(&restored));
    crowd.wait_for(4, untouched()?)
}

fn pool_gets_ready() -> Result<()> {
    let place = place()?;
    place.pool("50-test.toml", "schema = 1\n[worker.mic]\nmodel = \"denoise\"\n")?;
    let mut agent = place.start(&[])?;
    agent.wait_for(|snapshot| {
        let pool = snapshot.pool.as_ref()?;
        let ready =
            |w: &downbeat_api::pool::Worker| w.state == downbeat_api::pool::WorkerState::Ready;
        pool.workers.iter().any(ready).then_some(())
    })?;
    agent.end(Signal::SIGKILL)?;
    let bin = place.path("bin");
    wait_until(Duration::from_secs(10), || running_from(&bin).is_empty());
    let left = running_from(&bin);
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
