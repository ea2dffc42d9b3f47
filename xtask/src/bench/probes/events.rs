//! Each tool's cost per event, in rounds that take turns.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::sys::{Stats, enable_stats};
use downbeat_tests::cpu_time::HostTime;

use super::storm::Storm;
use super::tools::{Cost, Manage, Running, Runs, Tool};
use super::{Extent, Spread, beside, verdict};
use crate::packages::{RUNQLAT, RUNQSLOWER};
use crate::signals::Signals;

/// Of `runqlat`'s wakeup + switch.
const UNMANAGED: f64 = 0.25;
const MANAGED: f64 = 1.0;

pub fn run(extent: &Extent, signals: &Signals) -> Result<()> {
    let _statistics = enable_stats(Stats::RunTime).context("switching on BPF run statistics")?;
    let before = HostTime::read()?;
    let mut rounds: BTreeMap<Tool, Vec<Cost>> = BTreeMap::new();
    let mut sums: BTreeMap<Tool, Runs> = BTreeMap::new();
    for round in 0..extent.rounds {
        let mut tools = Tool::ALL;
        // Whoever comes second finds a warmer machine: take turns.
        if round % 2 == 1 {
            tools.reverse();
        }
        for tool in tools {
            signals.sleep(Duration::from_millis(200))?;
            let runs = measure(tool, extent.loops)?;
            rounds.entry(tool).or_default().push(runs.cost()?);
            let sum = sums.remove(&tool).unwrap_or_default();
            sums.insert(tool, sum.plus(&runs));
        }
    }
    println!("ns, run statistics' own included; medians of {}", extent.rounds);
    println!(
        "{:<20} {:>7} {:>7} {:>7} {:>23}",
        "", "wakeup", "switch", "sum", "all programs/switch"
    );
    for (tool, costs) in &rounds {
        let of = |pick: fn(&Cost) -> f64| median_of(costs, pick);
        println!(
            "{:<20} {:>7.0} {:>7.0} {:>7.0} {:>23.0}",
            tool.name(),
            of(|cost| cost.wakeup_ns),
            of(|cost| cost.switch_ns),
            of(|cost| cost.sum()),
            of(|cost| cost.all_per_switch_ns)
        );
    }
    for (tool, asked) in [(Tool::Unmanaged, UNMANAGED), (Tool::Managed, MANAGED)] {
        for peer in [Tool::Runqlat, Tool::Runqslower] {
            let (ours, theirs) = (&rounds[&tool], &rounds[&peer]);
            let sums = ratios(ours, theirs, |cost| cost.sum()).context("no rounds")?;
            let all = ratios(ours, theirs, |cost| cost.all_per_switch_ns).context("no rounds")?;
            let judged = match peer {
                Tool::Runqlat => format!("; {}", verdict(sums.median, asked)),
                _ => String::new(),
            };
            println!(
                "{} / {}: wakeup + switch {sums}{judged}; all programs {all}",
                tool.name(),
                peer.name()
            );
        }
    }
    for tool in [Tool::Unmanaged, Tool::Managed] {
        list(tool, &sums[&tool]);
    }
    println!("{}", beside(&before)?);
    Ok(())
}

fn measure(tool: Tool, loops: u32) -> Result<Runs> {
    let storm = Storm::prepare(loops)?;
    let manage = Manage { every: 1, ..Manage::default() };
    let mut running = match tool {
        Tool::Unmanaged => Running::downbeat(manage)?,
        Tool::Managed => Running::downbeat(Manage { descendants_of: Some(storm.pid()), ..manage })?,
        // One histogram an hour: it only counts while it is measured.
        Tool::Runqlat => Running::peer(RUNQLAT, &["3600"])?,
        Tool::Runqslower => Running::peer(RUNQSLOWER, &[])?,
    };
    let before = running.runs()?;
    storm.pass()?;
    let runs = running.runs()?.since(&before);
    if tool == Tool::Managed {
        let told = running.ask()?;
        ensure!(
            told.managed == told.descendants && told.jobs > 1_000 && told.blamed_ns > 0,
            "the storm was not managed: {told:?}"
        );
    }
    Ok(runs)
}

/// Every program, so that no cost is hidden in those that are not asked about.
fn list(tool: Tool, runs: &Runs) {
    let total = runs.total().ns.max(1);
    println!("{}, by program (runs, mean ns, share of all):", tool.name());
    let mut programs: Vec<_> = runs.iter().filter(|(_, count)| count.runs > 0).collect();
    programs.sort_by_key(|(_, count)| std::cmp::Reverse(count.ns));
    for (name, count) in programs {
        let mean = count.ns as f64 / count.runs as f64;
        let share = count.ns as f64 / total as f64 * 100.0;
        println!("  {name:<22} {:>9} {mean:>7.0} {share:>5.1} %", count.runs);
    }
}

fn median_of(costs: &[Cost], pick: fn(&Cost) -> f64) -> f64 {
    crate::demo::work::median(costs.iter().map(pick).collect())
}

/// Each round's cost beside its neighbour's.
fn ratios(ours: &[Cost], theirs: &[Cost], pick: fn(&Cost) -> f64) -> Option<Spread> {
    let pairs = ours.iter().zip(theirs);
    Spread::of(&pairs.map(|(ours, theirs)| pick(ours) / pick(theirs)).collect::<Vec<f64>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_is_compared_with_its_neighbour() {
        let cost = |wakeup_ns, switch_ns| Cost { wakeup_ns, switch_ns, all_per_switch_ns: 1.0 };
        // The machine was twice as slow in the second round.
        let ours = [cost(50.0, 50.0), cost(100.0, 100.0), cost(50.0, 50.0)];
        let theirs = [cost(100.0, 300.0), cost(200.0, 600.0), cost(100.0, 100.0)];
        let spread = ratios(&ours, &theirs, |cost| cost.sum()).unwrap();
        assert_eq!((spread.median, spread.lowest, spread.highest), (0.25, 0.25, 0.5));
    }
}
