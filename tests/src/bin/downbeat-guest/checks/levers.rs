//! Levers that need version 2 of control groups, or clamps.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use downbeat_tests::agent::{Agent, Load, PATIENCE, Place, said};
use downbeat_tests::processes::wait_until;
use downbeat_tests::threads::DEADLINE;
use nix::sys::signal::Signal;

use super::{Check, NO_BPF, Skip, crowd, untouched};

/// In the order in which they run.
pub const CHECKS: &[Check] = &[
    ("an adopted process gets its group and leaves it again", adopted_and_back),
    ("restore takes groups away after SIGKILL", restored_after_a_kill),
    ("a partition is a group of the class's own", partition),
    ("a reservation and CPUs go together in a partition", || reserved_cpus(Signal::SIGTERM)),
    ("both go back from a partition after SIGKILL", || reserved_cpus(Signal::SIGKILL)),
    ("clamps are set and go back", clamps),
    ("a group that vanished is no obstacle", vanished),
];

const GROUPS: &str = "/sys/fs/cgroup";

fn place(class: &str) -> Result<Place> {
    place_with(&format!("tier = \"interactive\"\nsched = \"keep\"\n{class}"))
}

fn place_with(class: &str) -> Result<Place> {
    let place = Place::new()?;
    let policy = format!(
        "schema = 1\n[class.voice]\n{class}\n\
         [[rule]]\nname = \"crowd\"\nclass = \"voice\"\n\
         match = {{ exe = \"{{bin}}/downbeat-load\" }}\n"
    );
    place.policy("50-test.toml", &policy)?;
    Ok(place)
}

const LIMITED: &str = "adopt = true\n\
    cpu = { weight = 50, max = \"50%\", burst = \"10ms\" }\n\
    memory = { min = \"1MiB\", low = \"8MiB\", high = \"256MiB\", max = \"512MiB\" }";

fn group_of(pid: u32) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.map(str::to_owned).with_context(|| format!("{pid} is in no group: {text}"))
}

fn has(group: &str, file: &str) -> Result<String> {
    let path = Path::new(GROUPS).join(group.trim_start_matches('/')).join(file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}

fn moves_to(load: &Load, group: &str, agent: &Agent) -> Result<()> {
    let there = || group_of(load.pid()).is_ok_and(|now| now == group);
    ensure!(wait_until(PATIENCE, there), "{}\n{}", group_of(load.pid())?, agent.log());
    Ok(())
}

fn limited(agent: &Agent) -> Result<()> {
    for (file, wanted) in [
        ("cpu.weight", "50"),
        ("cpu.max", "50000 100000"),
        ("memory.min", "1048576"),
        ("memory.low", "8388608"),
        ("memory.high", "268435456"),
        ("memory.max", "536870912"),
    ] {
        let found = has("downbeat.slice/voice", file)?;
        ensure!(found == wanted, "{file}: {found}\n{}", agent.log());
    }
    let burst = has("downbeat.slice/voice", "cpu.max.burst")?;
    ensure!(burst == "10000", "burst {burst}");
    Ok(())
}

fn nothing_left(load: &Load, passed_on: &str) -> Result<()> {
    ensure!(group_of(load.pid())? == "/", "{}", group_of(load.pid())?);
    ensure!(!Path::new(GROUPS).join("downbeat.slice").exists(), "the group is still there");
    let now = has("", "cgroup.subtree_control")?;
    ensure!(now == passed_on, "passed on: {now}, before: {passed_on}");
    Ok(())
}

fn adopted_and_back() -> Result<()> {
    let place = place(LIMITED)?;
    let passed_on = has("", "cgroup.subtree_control")?;
    let mut agent = place.start(NO_BPF)?;
    let load = crowd(&place)?;
    moves_to(&load, "/downbeat.slice/voice", &agent)?;
    limited(&agent)?;
    agent.end(Signal::SIGTERM)?;
    nothing_left(&load, &passed_on).with_context(|| agent.log())
}

fn restored_after_a_kill() -> Result<()> {
    let place = place(LIMITED)?;
    let passed_on = has("", "cgroup.subtree_control")?;
    let mut agent = place.start(NO_BPF)?;
    let load = crowd(&place)?;
    moves_to(&load, "/downbeat.slice/voice", &agent)?;
    agent.end(Signal::SIGKILL)?;
    let restored = place.restore()?;
    ensure!(restored.status.success(), "{}", said(&restored));
    nothing_left(&load, &passed_on).with_context(|| said(&restored))
}

fn partition() -> Result<()> {
    let place = place("adopt = true\npartition = true\ncpus = \"1\"")?;
    let mut agent = place.start(NO_BPF)?;
    let load = crowd(&place)?;
    moves_to(&load, "/downbeat-voice", &agent)?;
    let found = has("downbeat-voice", "cpuset.cpus.partition")?;
    ensure!(found == "root", "{found}\n{}", agent.log());
    let others = has("", "cpuset.cpus.effective")?;
    ensure!(others == "0", "the root still has {others}");
    agent.end(Signal::SIGTERM)?;
    ensure!(!Path::new(GROUPS).join("downbeat-voice").exists(), "{}", agent.log());
    let others = has("", "cpuset.cpus.effective")?;
    ensure!(others == "0-1", "the root has {others}");
    Ok(())
}

/// Elsewhere the kernel gives a thread with a reservation no affinity of its own.
fn reserved_cpus(end: Signal) -> Result<()> {
    let place = place_with(
        "tier = \"realtime\"\nadopt = true\npartition = true\ncpus = \"1\"\n\
         sched = { policy = \"deadline\", budget = \"5ms\", period = \"100ms\" }",
    )?;
    // Who sleeps on a CPU outside the partition gets its reservation once it wakes.
    let load = place.load(&["crowd", "--threads", "3", "--every", "2s", "--live", "120s"])?;
    wait_until(PATIENCE, || load.attributes().len() == 4);
    let mut agent = place.start(NO_BPF)?;
    moves_to(&load, "/downbeat-voice", &agent)?;
    load.wait_for(4, |found| found.scheduling.policy == DEADLINE && found.affinity == "1")
        .with_context(|| agent.log())?;
    agent.end(end)?;
    if end == Signal::SIGKILL {
        let restored = place.restore()?;
        ensure!(restored.status.success(), "{}", said(&restored));
    }
    let found = load.attributes();
    let own = untouched()?;
    ensure!(found.len() == 4 && found.iter().all(own), "{found:?}\n{}", agent.log());
    ensure!(!Path::new(GROUPS).join("downbeat-voice").exists(), "{}", agent.log());
    Ok(())
}

fn clamps() -> Result<()> {
    let place = place("cpu = { uclamp = { min = \"50%\", max = \"75%\" } }")?;
    let told = place.downbeat(&["doctor", "--json"])?;
    let told: serde_json::Value = serde_json::from_slice(&told.stdout)?;
    if told["host"]["uclamp"] != true {
        return Err(Skip("this kernel has no clamps".into()).into());
    }
    let mut agent = place.start(NO_BPF)?;
    let load = crowd(&place)?;
    let has =
        |wanted: (u32, u32)| wait_until(PATIENCE, || clamps_of(load.pid()).ok() == Some(wanted));
    ensure!(has((512, 768)), "{:?}\n{}", clamps_of(load.pid()), agent.log());
    agent.end(Signal::SIGTERM)?;
    ensure!(has((0, 1024)), "{:?}\n{}", clamps_of(load.pid()), agent.log());
    Ok(())
}

/// From `/proc/PID/sched`, past downbeat's own reading.
fn clamps_of(pid: u32) -> Result<(u32, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/sched"))?;
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(':').next()?.trim().parse().ok())
            .with_context(|| format!("no {name} in {text}"))
    };
    Ok((value("uclamp.min")?, value("uclamp.max")?))
}

fn vanished() -> Result<()> {
    let place = place(LIMITED)?;
    let elsewhere = crate::machine::Group::new("elsewhere")?;
    let load = crowd(&place)?;
    elsewhere.take_in(load.pid())?;
    let mut agent = place.start(NO_BPF)?;
    moves_to(&load, "/downbeat.slice/voice", &agent)?;
    drop(elsewhere);
    let status = agent.end(Signal::SIGTERM)?;
    ensure!(status.success(), "{status}");
    ensure!(agent.log().contains("is gone"), "it says nothing of the group:\n{}", agent.log());
    Ok(())
}
