//! A thread that must reclaim memory misses its deadlines for want of memory, whatever CPU time the
//! kernel charges it for that. Needs root and the memory controller.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use downbeat_api::{CauseKind, Miss, ThreadJobs};
use downbeat_tests::agent::Place;
use downbeat_tests::cgroup::Group;
use downbeat_tests::skip;

const POLICY: &str = r#"
schema = 1

[class.frames]
tier = "realtime"
sched = { policy = "fifo", priority = 20 }
deadline = "{deadline}"

[[rule]]
name = "frames"
class = "frames"
match = { exe = "{bin}/downbeat-load", cmdline = "* --touch-pages *" }
"#;

/// Longer than any job.
const NEVER: &str = "1s";

/// Enough for the load's program, and for a part of what one job touches.
const LIMIT: &str = "16777216";

/// Of the load; 4 MiB a job.
const LOAD: &str = "periodic --period 40ms --work 1ms --touch-pages 1024 --seconds 300 --json";

/// A control group of the memory controller, of whichever version has it, and its limit's file.
fn new_group() -> Option<(Group, &'static str)> {
    let places =
        [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
    let name = format!("downbeat-shortage.{}", std::process::id());
    places.into_iter().find_map(|(root, limit)| {
        let group = Group::new(Path::new(root), &name).ok()?;
        group.path().join(limit).exists().then_some((group, limit))
    })
}

/// Misses of a job that must reclaim memory, and what it usually costs, nanoseconds; nothing where
/// the host lacks what it takes.
fn shortage() -> Result<Option<(Vec<Miss>, u64)>> {
    let Some((group, limit)) = new_group() else {
        skip::skipped("no memory controller that can be used here");
        return Ok(None);
    };
    let place = Place::new()?;
    let policy =
        |deadline: &str| place.policy("50-frames.toml", &POLICY.replace("{deadline}", deadline));
    policy(NEVER)?;
    let agent = place.start(&[])?;
    if agent.snapshot()?.cost.bpf.is_none() {
        skip::skipped("no kernel programs here");
        return Ok(None);
    }
    let account = place.records().join("account");
    let account = account.to_string_lossy();
    let args: Vec<_> = LOAD.split(' ').chain([&*account]).collect();
    let load = place.load(&args)?;
    group.take_in(load.pid())?;
    let wait_for_jobs = |wanted: &dyn Fn(&ThreadJobs) -> bool| {
        let of_load = |jobs: &&ThreadJobs| jobs.pid == load.pid() && wanted(jobs);
        agent.wait_for(|snapshot| snapshot.jobs.iter().find(of_load).cloned())
    };
    group.write(limit, LIMIT)?;
    let short = wait_for_jobs(&|jobs| jobs.total.jobs >= 50)?.total;
    // Of the cost, which no hypervisor makes longer.
    let usual = short.cost.p50_ns.context("50 jobs have a median")?;
    let deadline = usual * 7 / 8 / 1_000;
    policy(&format!("{deadline}us"))?;
    wait_for_jobs(&|jobs| jobs.deadline_ns == Some(deadline * 1_000))?;
    let before = agent.snapshot()?.misses.last().map_or(0, |miss| miss.id);
    // Without reclaim it would have been in time: it was late by less, its own work was short
    // enough, and less went to all else that may have made it late: a late timer, the wait for a
    // CPU, and what a hypervisor or interrupts took from it while it ran.
    let is_for_memory = |miss: &&Miss| {
        let reclaim_ns = miss.stalls.reclaim_ns;
        let own_ns = miss.cost_ns.saturating_sub(reclaim_ns);
        let over_ns = miss.response_ns - miss.deadline_ns;
        let else_ns = miss.late_ns + miss.wait_ns + miss.run_ns.saturating_sub(miss.cost_ns);
        miss.id > before && reclaim_ns > over_ns.max(else_ns) && own_ns <= miss.deadline_ns
    };
    // Few of them may be among the last ones that a snapshot holds.
    let mut of_memory = BTreeMap::new();
    agent.wait_for(|snapshot| {
        let more = snapshot.misses.iter().filter(is_for_memory).map(|miss| (miss.id, miss.clone()));
        of_memory.extend(more);
        (of_memory.len() >= 8).then_some(())
    })?;
    let misses = of_memory.into_values().collect();
    Ok(Some((misses, usual)))
}

#[test]
fn a_job_that_must_reclaim_memory_first_missed_for_memory() {
    if !skip::root_or_skip() {
        return;
    }
    let Some((misses, usual)) = shortage().unwrap() else { return };
    let of = |kind| misses.iter().filter(|miss| miss.cause.kind == kind).count();
    assert_eq!(of(CauseKind::OwnCost), 0, "usually {usual} ns: {misses:#?}");
    assert!(of(CauseKind::Memory) * 2 >= misses.len(), "usually {usual} ns: {misses:#?}");
}
