//! `cargo xtask bench`: the figures of docs/benchmarks.md.

mod exec;
mod flood;
mod pool;
mod probes;

use std::path::PathBuf;
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::{demo, workspace};

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to measure; all of it unless given
    which: Vec<Which>,
    /// Seconds of the demo's rounds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Measures the probes and the pool in a minute each, too short for figures to quote
    #[arg(long)]
    quick: bool,
    /// Of the probes or the pool, only this; may be given several times
    #[arg(long, value_name = "PART")]
    part: Vec<Part>,
    /// Takes the release programs as they are
    #[arg(long)]
    no_build: bool,
    /// Writes the measurements of the demo, or of the pool, there, as JSON
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
    /// The pool: what it adds, beside other servers, mixed load, overload, connections, kills
    Pool,
}

/// A part of a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Probes(probes::Part),
    Pool(pool::Part),
}

impl ValueEnum for Part {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: LazyLock<Vec<Part>> = LazyLock::new(|| {
            let probes = probes::Part::value_variants().iter().copied().map(Part::Probes);
            probes.chain(pool::Part::value_variants().iter().copied().map(Part::Pool)).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Probes(part) => part.to_possible_value(),
            Self::Pool(part) => part.to_possible_value(),
        }
    }
}

/// Runs what was asked for.
pub fn run(args: &Args) -> Result<()> {
    let asked = |which| args.which.is_empty() || args.which.contains(&which);
    if asked(Which::Probes) {
        println!("# probes");
        let parts = args.part.iter().filter_map(|part| match part {
            Part::Probes(part) => Some(*part),
            Part::Pool(_) => None,
        });
        probes::run(&parts.collect::<Vec<_>>(), args.quick, !args.no_build)?;
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
    if asked(Which::Pool) {
        println!("# pool");
        let parts = args.part.iter().filter_map(|part| match part {
            Part::Pool(part) => Some(*part),
            Part::Probes(_) => None,
        });
        // The demo's file is its own where both are measured.
        let json = args.json.as_deref().filter(|_| !asked(Which::Demo));
        pool::run(&parts.collect::<Vec<_>>(), args.quick, !args.no_build, json)?;
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
