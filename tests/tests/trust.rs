//! What the agent does on a machine that matters: it takes back what runs away, and groups and
//! their members are as before when it ends, however it ends.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_api::Request;
use downbeat_tests::agent::{PATIENCE, Place, said};
use downbeat_tests::processes::{running_from, wait_until};
use downbeat_tests::skip::root_or_skip;
use downbeat_tests::threads::{FIFO, Scheduling};
use nix::sys::signal::Signal;

const SPINNER: &str = r#"
schema = 1

[class.frames]
tier = "realtime"
deadline = "10ms"
sched = { policy = "fifo", priority = 7 }

[[rule]]
name = "spinner"
class = "frames"
match = { exe = "{bin}/downbeat-load" }
"#;

/// It is real-time for as long as it takes to see that it never pauses.
#[test]
fn a_runaway_loses_its_real_time_and_it_is_said() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    place.policy("50-test.toml", SPINNER)?;
    let agent = place.start(&["--no-bpf"])?;
    let record = place.records().join("spinner").to_string_lossy().into_owned();
    let load = place.load(&["hog", "--threads", "1", "--seconds", "30", "--record", &record])?;
    let is_fifo = || load.attributes().into_iter().any(|thread| thread.scheduling.policy == FIFO);
    // On a busy host this test may not run while it is real-time: the agent has to tell.
    let told = || -> Option<u64> {
        let log = agent.log();
        let (_, rest) = log.split_once("it had a CPU for ")?;
        rest.split_once(" ms on end")?.0.parse().ok()
    };
    ensure!(wait_until(PATIENCE, || told().is_some()), "not told:\n{}", agent.log());
    ensure!(wait_until(PATIENCE, || !is_fifo()), "still real-time\n{}", agent.log());
    // Looks come each 40 ms, and a busy host adds to that.
    let had = told().unwrap_or_default();
    ensure!((50..300).contains(&had), "{had} ms");
    std::thread::sleep(Duration::from_secs(2));
    ensure!(!is_fifo(), "it was given real time again\n{}", agent.log());
    Ok(())
}

const STARTER: &str = r#"
schema = 1

[class.frames]
tier = "realtime"
deadline = "10ms"
sched = { policy = "fifo", priority = 7 }

[[rule]]
name = "starter"
class = "frames"
match = { cmdline = "*starts, then works in frames*" }
"#;

/// As a program that loads a model and serves frames from then on.
const STARTS: &str = "'starts, then works in frames'
import time
end = time.monotonic() + 1
while time.monotonic() < end: pass
while True: time.sleep(0.02)";

#[test]
fn a_program_that_was_busy_starting_has_its_real_time_again() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    place.policy("50-test.toml", STARTER)?;
    let agent = place.start(&["--no-bpf"])?;
    let mut program = Command::new("python3").args(["-c", STARTS]).spawn()?;
    let is_fifo = || Scheduling::of(program.id()).is_ok_and(|scheduling| scheduling.policy == FIFO);
    let lost = wait_until(PATIENCE, || agent.log().contains("on end"));
    let regained = wait_until(PATIENCE, is_fifo);
    let log = agent.log();
    program.kill()?;
    program.wait()?;
    ensure!(lost, "it was not taken for a runaway\n{log}");
    ensure!(regained, "it stays without real time\n{log}");
    Ok(())
}

const ADOPTED: &str = r#"
schema = 1

[class.adopted]
tier = "background"
sched = "keep"
adopt = true
freeze = true

[[rule]]
name = "crowd"
class = "adopted"
match = { exe = "{bin}/downbeat-load" }
"#;

/// The version 2 hierarchy of this machine, wherever it is mounted.
fn hierarchy() -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.get(2) == Some(&"cgroup2"));
    Ok(found.and_then(|fields| fields.get(1).map(PathBuf::from)))
}

fn group_of(pid: u32) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.map(str::to_owned).with_context(|| text.clone())
}

fn adopted_until(signal: Signal) -> Result<()> {
    let Some(hierarchy) = hierarchy()? else {
        eprintln!("skipped: no version 2 of control groups");
        return Ok(());
    };
    if !root_or_skip() {
        return Ok(());
    }
    let own = hierarchy.join("downbeat.slice");
    if own.exists() || fs::read_to_string("/proc/1/comm")?.trim() == "systemd" {
        eprintln!("skipped: an agent or systemd has groups here");
        return Ok(());
    }
    let place = Place::new()?;
    place.policy("50-test.toml", ADOPTED)?;
    let mut agent = place.start(&["--no-bpf"])?;
    let load = place.load(&["crowd", "--threads", "3", "--live", "60s"])?;
    let before = group_of(std::process::id())?;
    let moved = || group_of(load.pid()).is_ok_and(|group| group == "/downbeat.slice/adopted");
    ensure!(wait_until(PATIENCE, moved), "{}\n{}", group_of(load.pid())?, agent.log());
    let frozen = fs::read_to_string(own.join("adopted/cgroup.freeze"))?;
    ensure!(frozen.trim() == "1", "{frozen}");
    agent.client()?.request(&Request::Pause)?;
    ensure!(group_of(load.pid())? == before && !own.exists(), "paused\n{}", agent.log());
    agent.client()?.request(&Request::Resume)?;
    ensure!(wait_until(PATIENCE, moved), "not adopted again\n{}", agent.log());
    agent.end(signal)?;
    if signal == Signal::SIGKILL {
        let restored = place.restore()?;
        ensure!(restored.status.success(), "{}", said(&restored));
    }
    ensure!(group_of(load.pid())? == before, "{}\n{}", group_of(load.pid())?, agent.log());
    ensure!(!own.exists(), "its group is left\n{}", agent.log());
    Ok(())
}

// One after the other: there is one place for the agent's groups.
#[test]
fn an_adopted_process_goes_back_and_the_group_away() -> Result<()> {
    adopted_until(Signal::SIGTERM)?;
    adopted_until(Signal::SIGKILL)?;
    the_pool_stays_where_it_is_and_its_workers_are_adopted()
}

/// A pool in a frozen group could not look after its workers; those are like all others.
fn the_pool_stays_where_it_is_and_its_workers_are_adopted() -> Result<()> {
    if hierarchy()?.is_none_or(|it| it.join("downbeat.slice").exists()) || !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    let policy = ADOPTED.replace("downbeat-load", "downbeat-*").replace("freeze = true", "");
    place.policy("50-test.toml", &policy)?;
    place.pool("50-test.toml", "schema = 1\n[worker.mic]\nmodel = \"denoise\"\n")?;
    let agent = place.start(&["--no-bpf"])?;
    let of = |program: &str| -> Option<String> {
        let all = running_from(&place.path("bin"));
        let found = all.iter().find(|(_, exe)| exe.ends_with(program))?;
        group_of(found.0.tid).ok()
    };
    let adopted = || of("downbeat-worker").as_deref() == Some("/downbeat.slice/adopted");
    ensure!(wait_until(PATIENCE, adopted), "{:?}\n{}", of("downbeat-worker"), agent.log());
    // It has a group that was handed over to it, and stays there.
    let pool = of("downbeat-pool").unwrap_or_default();
    ensure!(pool.contains("/downbeat-pool-"), "the pool is in {pool}\n{}", agent.log());
    Ok(())
}

/// What the kernel grants to nobody is not asked of it either: the next rung is taken and told.
#[test]
fn a_reservation_beyond_the_cap_becomes_real_time() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    let policy = SPINNER.replace(
        "sched = { policy = \"fifo\", priority = 7 }",
        "sched = { policy = \"deadline\", budget = \"9900us\", period = \"10ms\" }",
    );
    place.policy("50-test.toml", &policy)?;
    let agent = place.start(&["--no-bpf"])?;
    let load = place.load(&["crowd", "--threads", "7", "--live", "60s"])?;
    let fifo = |found: &Scheduling| found.policy == FIFO;
    let stepped =
        || load.attributes().iter().filter(|thread| fifo(&thread.scheduling)).count() >= 6;
    ensure!(wait_until(PATIENCE, stepped), "{:?}\n{}", load.attributes(), agent.log());
    ensure!(agent.log().contains("in its place"), "not told:\n{}", agent.log());
    Ok(())
}
