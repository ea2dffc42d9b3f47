//! What the kernel programs cost: per event beside libbpf-tools' `runqlat` and `runqslower`, in
//! wall time of a storm of wake-ups, in memory, and in CPU time of the agent that reads them.

mod crowd;
mod events;
mod growth;
mod memory;
mod slowdown;
mod storm;
mod switches;
mod tools;

use std::fmt;

use anyhow::{Context, Result, ensure};
use aya::programs::loaded_programs;
use clap::ValueEnum;
use downbeat_tests::cpu_time::HostTime;

use crate::demo::work::median;
use crate::packages::{self, HACKBENCH, RUNQLAT, RUNQSLOWER};
use crate::signals::Signals;
use crate::{demo, workspace};

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Cost per event beside runqlat and runqslower
    Events,
    /// Wall time of a storm of wake-ups with and without the programs
    Slowdown,
    /// Memory of the maps
    Memory,
    /// The agent's CPU time, and how it grows
    Agent,
}

/// How long everything is measured.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// Rounds of each tool under the storm.
    rounds: usize,
    /// Pairs of storms with and without the programs.
    pairs: usize,
    /// Messages of each sender of the storm.
    loops: u32,
    /// Seconds in which the agent's CPU time is measured, at each point.
    agent_seconds: u64,
    /// Also how the agent's CPU time grows.
    growth: bool,
}

const FULL: Extent = Extent { rounds: 9, pairs: 11, loops: 3_000, agent_seconds: 20, growth: true };
const QUICK: Extent = Extent { rounds: 1, pairs: 3, loops: 500, agent_seconds: 4, growth: false };

/// Measures the parts that are asked for, all of them where none is, and prints what came of it.
///
/// # Errors
/// Without root, or where a tool is missing and cannot be installed.
pub fn run(parts: &[Part], quick: bool, build: bool) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "loading kernel programs needs root: use sudo");
    packages::need(&[RUNQLAT, RUNQSLOWER, HACKBENCH])?;
    let signals = demo::prepare(build)?;
    if build {
        let example = ["build", "--release", "--quiet", "--package", "downbeatd", "--example"];
        let status = workspace::cargo().args(example).arg("probes").status();
        let status = status.context("cargo: starting it")?;
        ensure!(status.success(), "cargo build of the example `probes`: {status}");
    }
    measure(parts, if quick { &QUICK } else { &FULL }, &signals)?;
    nothing_is_left()
}

fn measure(parts: &[Part], extent: &Extent, signals: &Signals) -> Result<()> {
    let asked = |part| parts.is_empty() || parts.contains(&part);
    let storm = format!("hackbench -l {} -g {}", extent.loops, storm::GROUPS);
    if asked(Part::Events) {
        println!("## cost per event of {storm}");
        events::run(extent, signals)?;
    }
    if asked(Part::Slowdown) {
        println!("## wall time of {storm}, every tenth of its threads managed");
        slowdown::run(extent, signals)?;
    }
    if asked(Part::Memory) {
        println!("## memory of the maps");
        memory::run(signals)?;
    }
    if asked(Part::Agent) {
        println!("## CPU time of the agent");
        growth::run(extent, signals)?;
    }
    Ok(())
}

/// The programs end with the processes that hold them; the kernel may take a moment.
fn nothing_is_left() -> Result<()> {
    let ours = || -> Result<usize> {
        let mut count = 0;
        for program in loaded_programs() {
            // One that ends while they are listed is not left.
            let Ok(program) = program else { continue };
            count += usize::from(program.name_as_str() == Some("sched_waking"));
        }
        Ok(count)
    };
    let mut left = ours()?;
    downbeat_tests::processes::wait_until(std::time::Duration::from_secs(5), || {
        left = ours().unwrap_or(left);
        left == 0
    });
    match left {
        0 => println!("left behind: no program"),
        // Another agent may run on this host.
        n => println!("{n} program(s) named sched_waking are still loaded; does an agent run?"),
    }
    Ok(())
}

/// Figures that were measured several times.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Spread {
    /// Absent for none.
    fn of(values: &[f64]) -> Option<Self> {
        let lowest = values.iter().copied().min_by(f64::total_cmp)?;
        let highest = values.iter().copied().max_by(f64::total_cmp)?;
        Some(Self { median: median(values.to_vec()), lowest, highest })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ({:.3} to {:.3})", self.median, self.lowest, self.highest)
    }
}

/// A figure beside what was asked for.
fn verdict(measured: f64, at_most: f64) -> String {
    let word = if measured <= at_most { "met" } else { "NOT met" };
    format!("asked: at most {at_most}; {word}")
}

/// What else went on since `before`.
pub fn beside(before: &HostTime) -> Result<String> {
    let now = HostTime::read()?;
    let load = std::fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    let load = load.split_whitespace().next().unwrap_or("?").to_owned();
    Ok(format!("steal {:.1} %, load average {load}", now.steal_since(before) * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_middle_and_both_ends() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.lowest, spread.highest), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_figure_that_is_just_what_was_asked_is_met() {
        assert_eq!(verdict(0.25, 0.25), "asked: at most 0.25; met");
        assert_eq!(verdict(0.26, 0.25), "asked: at most 0.25; NOT met");
    }
}
