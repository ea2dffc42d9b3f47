//! The agent's whole way on a guest's kernel, from `doctor` to the pool.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_api::{HostFacts, Source, State};
use downbeat_tests::agent::{Place, said};
use downbeat_tests::processes::{running_from, wait_until};
use nix::sys::signal::Signal;

use super::{Check, NO_BPF, managed, managed_crowd, place, untouched};

/// In the order in which they run.
pub const CHECKS: &[Check] = &[
    ("doctor tells the host facts", doctor),
    ("kernel programs are the source", bpf_is_the_source),
    ("an exec gets its class on every thread", class_on_every_thread),
    ("waits are counted per class", waits_are_counted),
    ("SIGTERM puts back", sigterm_puts_back),
    ("restore puts back after SIGKILL", restore_puts_back),
    ("the pool's audio worker gets ready", pool_gets_ready),
];

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
    managed_crowd(&place, &[]).map(drop)
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
    let (mut agent, crowd) = managed_crowd(&place, &[])?;
    let status = agent.end(Signal::SIGTERM)?;
    ensure!(status.success(), "{status}: {}", agent.log());
    crowd.wait_for(4, untouched()?)
}

fn restore_puts_back() -> Result<()> {
    let place = place()?;
    let (mut agent, crowd) = managed_crowd(&place, NO_BPF)?;
    agent.end(Signal::SIGKILL)?;
    crowd.wait_for(4, managed)?;
    let restored = place.restore()?;
    ensure!(restored.status.success(), "{}", said(&restored));
    crowd.wait_for(4, untouched()?)
}

fn pool_gets_ready() -> Result<()> {
    let place = place()?;
    place.pool("50-test.toml", "schema = 1\n[worker.mic]\nmodel = \"denoise\"\n")?;
    let mut agent = place.start(NO_BPF)?;
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
