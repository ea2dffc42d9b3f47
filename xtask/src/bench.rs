//! `cargo xtask bench`: the figures of docs/benchmarks.md.

mod exec;
mod flood;
mod probes;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::{demo, workspace};

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to measure; all of it unless given
    which: Vec<Which>,
    /// Seconds of the demo's rounds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Measures the probes in a minute, too short for figures to quote
    #[arg(long)]
    quick: bool,
    /// Of the probes, only this; may be given several times
    #[arg(long, value_name = "PART")]
    part: Vec<probes::Part>,
    /// Takes the release programs as they are
    #[arg(long)]
    no_build: bool,
    /// Writes the demo's measurements there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Cost of the kernel programs: per event beside runqlat and runqslower, in wall time, memory, CPU
    Probes,
    /// Misses and background work without and with downbeat, and with SCHED_FIFO by hand
    Demo,
    /// From an exec to the last thread set, on an idle and on the loaded machine
    Exec,
    /// 3,000 programs a second for ten seconds: when those that stay have their class
    Flood,
    /// Rules against processes: 200 against 1,000, 10,000 and 50,000
    Match,
    /// The agent's memory and CPU under the demo's load
    Agent,
}

/// Runs what was asked for.
pub fn run(args: &Args) -> Result<()> {
    let asked = |which| args.which.is_empty() || args.which.contains(&which);
    if asked(Which::Probes) {
        println!("# probes");
        probes::run(&args.part, args.quick, !args.no_build)?;
    }
    if asked(Which::Demo) {
        println!("# demo");
        demo::run(&demo::Args {
            headless: true,
            seconds: Some(args.seconds),
            json: args.json.clone(),
            with_fifo: true,
            no_build: args.no_build,
            listen: "127.0.0.1:0".into(),
        })?;
    }
    if asked(Which::Exec) {
        println!("# exec");
        exec::run(!args.no_build)?;
    }
    if asked(Which::Flood) {
        println!("# flood");
        flood::run(!args.no_build)?;
    }
    if asked(Which::Match) {
        println!("# match");
        let example = ["run", "--release", "-p", "downbeat-policy", "--example", "matching"];
        let status = workspace::cargo().args(example).status().context("cargo: starting it")?;
        ensure!(status.success(), "the example `matching`: {status}");
    }
    if asked(Which::Agent) {
        println!("# agent");
        agent(!args.no_build)?;
    }
    Ok(())
}

/// The agent's cost, from 20 s of the demo.
fn agent(build: bool) -> Result<()> {
    let signals = demo::prepare(build)?;
    let args = demo::Args {
        headless: true,
        seconds: Some(20),
        listen: "127.0.0.1:0".into(),
        ..demo::Args::default()
    };
    let report = demo::measure(&args, &signals)?;
    println!(
        "{:.1} MiB resident, {:.2} % of one core over {} rounds",
        report.agent.rss_bytes as f64 / f64::from(1 << 20),
        report.agent.cpu_share * 100.0,
        report.rounds.len()
    );
    demo::tell_left_behind(&report.left_behind)
}
