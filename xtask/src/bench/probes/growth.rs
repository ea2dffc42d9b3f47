//! CPU time of the agent in a steady state, and how it grows with what is on the host.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::sys::{Stats, enable_stats};
use downbeat_tests::cpu_time::{HostTime, of_process};
use downbeat_tests::processes::pids;

use super::crowd::{Crowd, Size};
use super::tools::Runs;
use super::{Extent, beside, switches, verdict};
use crate::signals::Signals;

/// What was asked about.
const USUAL: Size = Size { switches: 50_000, processes: 1_000, managed: 100 };

/// Share of one core.
const ASKED: f64 = 0.01;

/// From the last managed thread to the start of the measurement: the agent looks more closely at
/// processes that are younger than 10 s.
const SETTLING: Duration = Duration::from_secs(12);

/// How long the programs' run time is measured, after the agent's.
const PROGRAMS: Duration = Duration::from_secs(4);

/// What one point gave.
#[derive(Clone, Copy, Debug)]
struct Point {
    /// All processes of the host.
    processes: usize,
    /// Switches a second that there were.
    switches: f64,
    /// Share of all CPUs' time in which they worked, for whomever.
    busy: f64,
    /// The agent's CPU time, share of one core.
    agent: f64,
    /// The programs' run time, share of one core.
    programs: f64,
    /// The same, nanoseconds for each switch.
    programs_ns: f64,
}

pub fn run(extent: &Extent, signals: &Signals) -> Result<()> {
    let before = HostTime::read()?;
    println!("{:>29}   {:>27}   {:>9} {:>9}", "asked for", "there were", "agent", "programs");
    println!(
        "{:>10} {:>9} {:>8}   {:>10} {:>9} {:>6}   {:>9} {:>9} {:>9}",
        "switches/s",
        "processes",
        "managed",
        "switches/s",
        "processes",
        "busy",
        "of a core",
        "of a core",
        "ns/switch"
    );
    for size in points(extent.growth) {
        let point = measure(size, extent, signals)?;
        println!(
            "{:>10} {:>9} {:>8}   {:>10.0} {:>9} {:>4.0} %   {:>7.2} % {:>7.2} % {:>9.0}",
            size.switches,
            size.processes,
            size.managed,
            point.switches,
            point.processes,
            point.busy * 100.0,
            point.agent * 100.0,
            point.programs * 100.0,
            point.programs_ns
        );
        if size == USUAL {
            println!("  agent {:.4} of a core; {}", point.agent, verdict(point.agent, ASKED));
        }
    }
    println!("programs: run statistics' own included; {}", beside(&before)?);
    Ok(())
}

/// The usual one, and then with one thing at a time less and more.
fn points(growth: bool) -> Vec<Size> {
    let mut points = vec![USUAL];
    if growth {
        points.extend([10_000, 150_000].map(|switches| Size { switches, ..USUAL }));
        points.extend([100, 3_000].map(|processes| Size { processes, ..USUAL }));
        points.extend([10, 1_000].map(|managed| Size { managed, ..USUAL }));
    }
    points
}

fn measure(size: Size, extent: &Extent, signals: &Signals) -> Result<Point> {
    let crowd = Crowd::start(size)?;
    signals.sleep(SETTLING)?;
    let agent = crowd.agent();
    let host = HostTime::read()?;
    let (began, used, made) = (Instant::now(), of_process(agent)?, switches::count()?);
    signals.sleep(Duration::from_secs(extent.agent_seconds))?;
    let used = of_process(agent)?.saturating_sub(used).as_secs_f64();
    let made = switches::count()?.saturating_sub(made) as f64;
    let seconds = began.elapsed().as_secs_f64();
    let busy = HostTime::read()?.busy_since(&host);
    let processes = pids().len();

    let statistics = enable_stats(Stats::RunTime).context("switching on BPF run statistics")?;
    let (began, runs, made_before) = (Instant::now(), Runs::of_process(agent)?, switches::count()?);
    signals.sleep(PROGRAMS)?;
    let ran = Runs::of_process(agent)?.since(&runs).total().ns as f64;
    let made_meanwhile = switches::count()?.saturating_sub(made_before).max(1) as f64;
    let programs = ran / 1e9 / began.elapsed().as_secs_f64();
    drop(statistics);
    Ok(Point {
        processes,
        switches: made / seconds,
        busy,
        agent: used / seconds,
        programs,
        programs_ns: ran / made_meanwhile,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_grows_alone_in_three_points() {
        assert_eq!(points(false), [USUAL]);
        let points = points(true);
        let values = |pick: fn(&Size) -> u32| {
            let mut values: Vec<u32> = points.iter().map(pick).collect();
            values.sort_unstable();
            values.dedup();
            values
        };
        assert_eq!(values(|size| size.switches), [10_000, 50_000, 150_000]);
        assert_eq!(values(|size| size.processes), [100, 1_000, 3_000]);
        assert_eq!(values(|size| size.managed), [10, 100, 1_000]);
        let changed = |size: &Size| {
            u32::from(size.switches != USUAL.switches)
                + u32::from(size.processes != USUAL.processes)
                + u32::from(size.managed != USUAL.managed)
        };
        assert!(points.iter().skip(1).all(|size| changed(size) == 1));
    }
}
