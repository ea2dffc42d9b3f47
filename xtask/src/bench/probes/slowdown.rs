//! How much longer a storm takes with the programs attached.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_tests::cpu_time::HostTime;

use super::storm::{Passed, Storm};
use super::tools::{Manage, Running};
use super::{Extent, Spread, beside, verdict};
use crate::signals::Signals;

/// Each n-th of the storm's threads is managed.
const EVERY: u32 = 10;

/// Wall time with, as a part of wall time without.
const ASKED: f64 = 1.03;

/// A pair counts as disturbed where others had more of the CPUs than this during either storm:
/// one compiler beside makes a storm half as long again.
const OTHERS: f64 = 0.03;

/// Undisturbed pairs without which there is no figure.
const ENOUGH: usize = 7;

/// Pairs that are tried for each that is wanted, while others disturb.
const PATIENCE: usize = 3;

/// A storm without the programs, and one with them.
#[derive(Clone, Copy, Debug)]
struct Pair {
    off: Passed,
    on: Passed,
}

impl Pair {
    fn wall(&self) -> f64 {
        self.on.wall.as_secs_f64() / self.off.wall.as_secs_f64()
    }

    fn cpu(&self) -> f64 {
        self.on.cpu.as_secs_f64() / self.off.cpu.as_secs_f64()
    }

    fn others(&self) -> f64 {
        self.on.others.max(self.off.others)
    }

    fn is_quiet(&self) -> bool {
        self.others() <= OTHERS
    }
}

pub fn run(extent: &Extent, signals: &Signals) -> Result<()> {
    let before = HostTime::read()?;
    let mut pairs: Vec<Pair> = Vec::new();
    // A first one that does not count: the machine comes to its stride.
    without(extent.loops)?;
    for attempt in 0..extent.pairs * PATIENCE {
        signals.sleep(Duration::from_millis(200))?;
        // Whoever comes second finds another machine: take turns.
        let (off, on) = if attempt.is_multiple_of(2) {
            let off = without(extent.loops)?;
            (off, with(extent.loops)?)
        } else {
            let on = with(extent.loops)?;
            (without(extent.loops)?, on)
        };
        let Some(on) = on else {
            println!("a pair left out: somebody switched the kernel's run statistics on");
            continue;
        };
        let pair = Pair { off, on };
        println!(
            "without {:.2} s, with {:.2} s: {:.3}; CPU time {:.2} s, {:.2} s: {:.3}; others {:.1} \
             %{}",
            off.wall.as_secs_f64(),
            on.wall.as_secs_f64(),
            pair.wall(),
            off.cpu.as_secs_f64(),
            on.cpu.as_secs_f64(),
            pair.cpu(),
            pair.others() * 100.0,
            if pair.is_quiet() { "" } else { ", disturbed" }
        );
        pairs.push(pair);
        if pairs.iter().filter(|pair| pair.is_quiet()).count() >= extent.pairs {
            break;
        }
    }
    let quiet: Vec<Pair> = pairs.iter().copied().filter(Pair::is_quiet).collect();
    if let Some(wall) = spread(&quiet, Pair::wall) {
        println!(
            "wall time with / without: {wall} in {} undisturbed pairs; {}",
            quiet.len(),
            judge(quiet.len(), wall.median)
        );
    }
    if let Some(cpu) = spread(&quiet, Pair::cpu) {
        println!("CPU time with / without: {cpu} in the same pairs");
    }
    let all = spread(&pairs, Pair::wall).context(
        "somebody keeps switching the kernel's run statistics on (another agent? \
         kernel.bpf_stats_enabled?): what they cost each run would count as downbeat's",
    )?;
    println!("wall time with / without: {all} in all {} pairs", pairs.len());
    println!("run statistics were off: no program counted a run; {}", beside(&before)?);
    Ok(())
}

fn judge(pairs: usize, wall: f64) -> String {
    if pairs < ENOUGH {
        return format!("no figure: {ENOUGH} are needed, so run it on a quieter machine");
    }
    verdict(wall, ASKED)
}

fn spread(pairs: &[Pair], pick: fn(&Pair) -> f64) -> Option<Spread> {
    Spread::of(&pairs.iter().map(pick).collect::<Vec<f64>>())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(wall_ms: u64, cpu_ms: u64, others: f64) -> Passed {
        let (wall, cpu) = (Duration::from_millis(wall_ms), Duration::from_millis(cpu_ms));
        Passed { wall, cpu, others }
    }

    #[test]
    fn a_pair_is_as_disturbed_as_the_worse_of_its_storms() {
        let pair = Pair { off: passed(2_000, 4_000, 0.01), on: passed(2_060, 4_040, 0.4) };
        assert!((pair.wall() - 1.03).abs() < 1e-9);
        assert!((pair.cpu() - 1.01).abs() < 1e-9);
        assert!(!pair.is_quiet());
        assert!(Pair { on: passed(2_060, 4_040, 0.02), ..pair }.is_quiet());
        assert!(!Pair { off: passed(2_000, 4_000, 0.04), ..pair }.is_quiet());
    }

    #[test]
    fn a_few_quiet_pairs_prove_nothing() {
        assert!(judge(6, 1.0).starts_with("no figure"));
        assert_eq!(judge(7, 1.0), "asked: at most 1.03; met");
    }

    #[test]
    fn the_middle_pair_counts() {
        let pair = |on| Pair { off: passed(1_000, 2_000, 0.0), on: passed(on, 2_000, 0.0) };
        let pairs = [pair(1_500), pair(1_010), pair(900)];
        let wall = spread(&pairs, Pair::wall).unwrap();
        assert_eq!((wall.median, wall.lowest, wall.highest), (1.01, 0.9, 1.5));
        assert_eq!(spread(&[], Pair::wall), None);
    }
}
