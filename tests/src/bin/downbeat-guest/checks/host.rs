//! What happens to a host under the agent, which only a machine of one's own lets a test do.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_api::Source;
use downbeat_tests::agent::PATIENCE;
use downbeat_tests::processes::wait_until;
use downbeat_tests::threads::FIFO;

use super::{Check, crowd, managed, managed_crowd, place};
use crate::machine::{Group, OfflineCpu, start_pids_at};

/// In the order in which they run.
pub const CHECKS: &[Check] = &[
    ("a quota throttles", quota_throttles),
    ("a CPU that goes and comes back", cpu_goes_and_comes_back),
    // The last one: process ids stay that far.
    ("process ids near four million", far_process_ids),
];

fn quota_throttles() -> Result<()> {
    let place = place()?;
    let group = Group::new("quota")?;
    group.limit(Duration::from_millis(10), Duration::from_millis(50))?;
    let record = place.records().join("hog");
    let hog = place.load(&["hog", "--record", &record.to_string_lossy()])?;
    group.take_in(hog.pid())?;
    // An emulated CPU's clock goes in steps: the first times may take none of it.
    let mut throttled = (0, 0);
    wait_until(PATIENCE, || {
        let stat = |key| group.cpu_stat(key).unwrap_or(0);
        throttled = (stat("nr_throttled"), stat("throttled_usec"));
        throttled.0 >= 5 && throttled.1 > 0
    });
    let (times, usec) = throttled;
    ensure!(times >= 5 && usec > 0, "throttled {times} times, for {usec} us");
    Ok(())
}

fn cpu_goes_and_comes_back() -> Result<()> {
    let place = place()?;
    let (agent, before) = managed_crowd(&place, &[])?;
    let offline = OfflineCpu::take(1)?;
    // Its CPU is gone, and the kernel let it run elsewhere; the rest of its class stays.
    before.wait_for(4, |found| found.scheduling.policy == FIFO && found.oom == -321)?;
    let meanwhile = crowd(&place)?;
    meanwhile
        .wait_for(4, |found| found.scheduling.policy == FIFO && found.oom == -321)
        .with_context(|| agent.log())?;
    drop(offline);
    let after = crowd(&place)?;
    after.wait_for(4, managed).with_context(|| agent.log())?;
    let snapshot = agent.snapshot()?;
    ensure!(snapshot.source == Source::Bpf, "{:?}", snapshot.source);
    Ok(())
}

fn far_process_ids() -> Result<()> {
    const FAR: u32 = 4_190_000;
    start_pids_at(FAR)?;
    let place = place()?;
    let (agent, crowd) = managed_crowd(&place, &[])?;
    ensure!(crowd.pid() >= FAR, "process {}", crowd.pid());
    let record = place.records().join("bursty");
    let record = record.to_string_lossy();
    let _load = place.load(&["bursty", "--record", &record])?;
    agent.wait_for(|snapshot| {
        let wait = snapshot.classes.first()?.wait.as_ref()?;
        (wait.total.count >= 20).then_some(())
    })
}
