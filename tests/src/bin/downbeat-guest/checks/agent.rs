//! The agent's whole way on a guest's kernel, from `doctor` to the pool.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_api::pool::{Worker, WorkerState};
use downbeat_api::{HostFacts, Source, State};
use downbeat_tests::agent::{Agent, PATIENCE, Place, said};
use downbeat_tests::processes::{ThreadId, alive, running_from, signal, wait_until};
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
    ("nobody outlives a killed pool", || nobody_outlives(&["downbeat-pool"])),
    ("nobody outlives a killed agent", || nobody_outlives(&["downbeatd"])),
    ("nobody outlives both", || nobody_outlives(&["downbeatd", "downbeat-pool"])),
    ("a worker's group ends with it, and its memory is bounded", groups_of_workers),
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
        let ready = |worker: &Worker| worker.state == WorkerState::Ready;
        pool.workers.iter().any(ready).then_some(())
    })?;
    agent.end(Signal::SIGKILL)?;
    let bin = place.path("bin");
    wait_until(Duration::from_secs(10), || running_from(&bin).is_empty());
    let left = running_from(&bin);
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

const FAMILIES: &str = "schema = 1\n[worker.mic]\nmodel = \"denoise\"\n\
    [worker.family]\nmemory = \"64MiB\"\n\
    command = [\"{bin}/downbeat-load\", \"family\", \"--bare\", \"--live\", \"600s\"]\n";

/// A pool with a worker whose last descendant is in a session of its own, without its marks, and no
/// child of anybody here.
fn with_families() -> Result<(Place, Agent)> {
    let place = place()?;
    place.pool("50-test.toml", FAMILIES)?;
    let agent = place.start(NO_BPF)?;
    agent.wait_for(|snapshot| {
        let pool = snapshot.pool.as_ref()?;
        let ready = |it: &&Worker| it.state == WorkerState::Ready;
        (pool.workers.iter().filter(ready).count() == 2).then_some(())
    })?;
    // The head and the last one; those between have ended.
    let there = wait_until(PATIENCE, || running(&place, "downbeat-load").len() == 2);
    ensure!(there, "{:?}\n{}", running_from(&place.path("bin")), agent.log());
    Ok((place, agent))
}

fn running(place: &Place, program: &str) -> Vec<ThreadId> {
    let all = running_from(&place.path("bin")).into_iter();
    all.filter(|(_, exe)| exe.ends_with(program)).map(|(id, _)| id).collect()
}

fn nobody_outlives(programs: &[&str]) -> Result<()> {
    let (place, mut agent) = with_families()?;
    let workers = [running(&place, "downbeat-load"), running(&place, "downbeat-worker")].concat();
    for program in programs {
        // Its keeper is a process of the same program, and is to do its work.
        let pool = agent.snapshot().ok().and_then(|it| it.pool?.pid);
        let own = |id: &ThreadId| *program != "downbeat-pool" || Some(id.tid) == pool;
        running(&place, program).into_iter().filter(own).for_each(|id| signal(id, Signal::SIGKILL));
    }
    let gone = wait_until(PATIENCE, || workers.iter().all(|id| !alive(*id)));
    ensure!(gone, "left: {:?}\n{}", running_from(&place.path("bin")), agent.log());
    if programs.contains(&"downbeatd") {
        agent.wait(PATIENCE)?;
        let empty = || running_from(&place.path("bin")).is_empty();
        ensure!(wait_until(PATIENCE, empty), "left: {:?}", running_from(&place.path("bin")));
        return Ok(());
    }
    // It comes back, and goes for good with the agent.
    let again = wait_until(PATIENCE, || running(&place, "downbeat-load").len() == 2);
    ensure!(again, "{}", agent.log());
    agent.end(Signal::SIGTERM)?;
    let left = running_from(&place.path("bin"));
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

fn groups_of_workers() -> Result<()> {
    let (place, mut agent) = with_families()?;
    let family = running(&place, "downbeat-load");
    let group = |id: &ThreadId| fs::read_to_string(format!("/proc/{}/cgroup", id.tid));
    for id in &family {
        let found = group(id)?;
        ensure!(found.trim_end().ends_with("/worker-family"), "{found}\n{}", agent.log());
    }
    let path = group(&family[0])?.trim().trim_start_matches("0::/").to_owned();
    let folder = Path::new("/sys/fs/cgroup").join(path);
    let limit = fs::read_to_string(folder.join("memory.max"))?;
    ensure!(limit.trim() == (64 << 20).to_string(), "memory.max is {limit}");
    let pid = agent
        .snapshot()?
        .pool
        .and_then(|pool| pool.workers.iter().find(|it| it.name == "family").and_then(|it| it.pid));
    let head = family.iter().find(|id| Some(id.tid) == pid).context("no head")?;
    signal(*head, Signal::SIGKILL);
    let gone = wait_until(PATIENCE, || family.iter().all(|id| !alive(*id)));
    ensure!(gone, "left: {:?}\n{}", running_from(&place.path("bin")), agent.log());
    agent.end(Signal::SIGTERM)?;
    let above = folder.parent().context("no group above")?;
    ensure!(!above.exists(), "{} is still there\n{}", above.display(), agent.log());
    Ok(())
}
