//! How much longer a storm takes with the programs attached.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::storm::{Passed, Storm};
use super::tools::{Manage, Running};
use super::{Extent, Spread, beside, verdict};
use crate::demo::cpu_time::HostTime;
use crate::signals::Signals;

/// Each n-th of the storm's threads is managed.
const EVERY: u32 = 10;

/// Wall time with, as a part of wall time without.
const ASKED: f64 = 1.03;

pub fn run(extent: &Extent, signals: &Signals) -> Result<()> {
    let before = HostTime::read()?;
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    // A first one that does not count: the machine comes to its stride.
    without(extent.loops)?;
    let mut spoilt = 0;
    while wall.len() < extent.pairs {
        signals.sleep(Duration::from_millis(200))?;
        let pair = wall.len();
        let (off, on) = if pair.is_multiple_of(2) {
            let off = without(extent.loops)?;
            (off, with(extent.loops)?)
        } else {
            let on = with(extent.loops)?;
            (without(extent.loops)?, on)
        };
        let Some(on) = on else {
            spoilt += 1;
            ensure!(
                spoilt <= extent.pairs,
                "somebody keeps switching the kernel's run statistics on (another agent? \
                 kernel.bpf_stats_enabled?): their 25 ns a run would count as downbeat's"
            );
            println!("a pair left out: somebody switched the kernel's run statistics on");
            continue;
        };
        wall.push(on.wall.as_secs_f64() / off.wall.as_secs_f64());
        cpu.push(on.cpu.as_secs_f64() / off.cpu.as_secs_f64());
        println!(
            "pair {}: without {:.2} s, with {:.2} s ({:.3}); CPU time {:.2} s, {:.2} s ({:.3})",
            pair + 1,
            off.wall.as_secs_f64(),
            on.wall.as_secs_f64(),
            wall[pair],
            off.cpu.as_secs_f64(),
            on.cpu.as_secs_f64(),
            cpu[pair]
        );
    }
    let wall = Spread::of(&wall).context("no pairs")?;
    let cpu = Spread::of(&cpu).context("no pairs")?;
    println!("wall time with / without: {wall}; {}", verdict(wall.median, ASKED));
    println!("CPU time with / without: {cpu}");
    println!("run statistics were off: no program counted a run; {}", beside(&before)?);
    Ok(())
}

fn without(loops: u32) -> Result<Passed> {
    Storm::prepare(loops)?.pass()
}

/// Absent where the kernel's run statistics were on meanwhile.
fn with(loops: u32) -> Result<Option<Passed>> {
    let storm = Storm::prepare(loops)?;
    let manage = Manage { descendants_of: Some(storm.pid()), every: EVERY, cost: false };
    let mut running = Running::downbeat(manage)?;
    let before = running.runs()?;
    let passed = storm.pass()?;
    let counted = running.runs()?.since(&before).total().runs;
    let told = running.ask()?;
    ensure!(
        told.managed == told.descendants / u64::from(EVERY) && told.managed > 0 && told.jobs > 0,
        "not every tenth thread of the storm was managed: {told:?}"
    );
    Ok((counted == 0).then_some(passed))
}
