//! The pool's figures: what it adds to a call, beside other servers, under a mixed load, above its
//! capacity, with many connections, and while its workers are killed.
//!
//! All requests come from one client (`pool/worker/examples/pool_load`) in a process of its own,
//! whose open streams leave by an absolute schedule; times run from there, and what is refused or
//! has no answer is a miss. What is compared runs in turns, one at a time.

mod added;
mod client;
mod connections;
mod kills;
mod mean;
mod mixed;
mod overload;
mod peers;
mod report;
mod running;
mod search;
mod stalls;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use downbeat_tests::cpu_time::HostTime;
use serde_json::{Map, Value};

use crate::signals::Signals;
use crate::workspace;
use report::Row;

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// What the pool adds to a call of the same model in the client's process
    Added,
    /// Beside MLServer and Ray Serve
    Peers,
    /// Sound, video, text and background work at the same time
    Mixed,
    /// Above capacity
    Overload,
    /// Memory with 1,000 connections idle and 200 in use
    Connections,
    /// A worker killed each second
    Kills,
}

impl Part {
    const ALL: [Self; 6] =
        [Self::Added, Self::Peers, Self::Mixed, Self::Overload, Self::Connections, Self::Kills];

    fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Peers => "peers",
            Self::Mixed => "mixed",
            Self::Overload => "overload",
            Self::Connections => "connections",
            Self::Kills => "kills",
        }
    }

    fn measure(self, bench: &Bench<'_>) -> Result<Measured> {
        match self {
            Self::Added => added::run(bench),
            Self::Peers => peers::run(bench),
            Self::Mixed => mixed::run(bench),
            Self::Overload => overload::run(bench),
            Self::Connections => connections::run(bench),
            Self::Kills => kills::run(bench),
        }
    }
}

/// What the parts share.
struct Bench<'a> {
    signals: &'a Signals,
    /// Too short for figures to quote.
    quick: bool,
}

impl Bench<'_> {
    /// Seconds of a measurement.
    fn seconds(&self, full: f64) -> f64 {
        if self.quick { (full / 5.0).max(1.0) } else { full }
    }
}

/// What a part found.
struct Measured {
    rows: Vec<Row>,
    /// All of it, for the file.
    details: Value,
}

/// Measures the parts that are asked for, all of them where none is, prints what came of it and
/// writes all of it to `json`.
///
/// # Errors
/// Where a program or a server cannot be started. Figures that are not met are no error.
pub fn run(parts: &[Part], quick: bool, build: bool, json: Option<&Path>) -> Result<()> {
    if build {
        build_all()?;
    }
    // What a killed pool leaves is ours to see and to end.
    nix::sys::prctl::set_child_subreaper(true).context("prctl(PR_SET_CHILD_SUBREAPER)")?;
    let signals = Signals::take()?;
    let bench = Bench { signals: &signals, quick };
    let (mut all, mut details, mut failed) = (Vec::new(), Map::new(), Vec::new());
    for part in Part::ALL {
        if !parts.is_empty() && !parts.contains(&part) {
            continue;
        }
        println!("## {}", part.name());
        let before = HostTime::read()?;
        // One part that cannot run, as without a network, keeps no other from running.
        match part.measure(&bench) {
            Ok(Measured { rows, details: more }) => {
                rows.iter().for_each(|row| println!("{row}"));
                all.extend(rows.into_iter().map(|row| row.of(part.name())));
                details.insert(part.name().into(), more);
            }
            Err(error) => {
                println!("{}: {error:#}", part.name());
                failed.push(part.name());
            }
        }
        println!("{}", super::probes::beside(&before)?);
        // Ctrl-C ends all of it, not one part.
        signals.sleep(Duration::ZERO)?;
    }
    println!("\n{}", report::table(&all));
    if let Some(path) = json {
        let written = serde_json::json!({ "schema": 1, "quick": quick, "figures": all,
            "details": details });
        let text = serde_json::to_string_pretty(&written)? + "\n";
        std::fs::write(path, text).with_context(|| format!("{}: writing it", path.display()))?;
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

/// The programs as they are shipped, and the client.
fn build_all() -> Result<()> {
    // In one go: with other features of what they share, the engine would be built twice.
    let wanted = ["build", "--release", "--bins", "--example", client::EXAMPLE];
    let status = workspace::cargo().args(wanted).status().context("cargo: starting it")?;
    ensure!(status.success(), "cargo {}: {status}", wanted.join(" "));
    Ok(())
}
