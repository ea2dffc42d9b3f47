//! Loads the kernel programs without an agent and prints what they cost: for
//! `cargo xtask bench probes`, and to see whether they load on a host.
//!
//! Prints one line of JSON (`BpfCost`) for each line on its standard input, and ends with it.
//! `--manage TID` counts that thread's waits.

use std::io::BufRead;
use std::time::Instant;

use downbeat_agent::observe::kernel::{KernelProbes, ProbeOptions};
use downbeat_agent::roots::Roots;

fn main() -> anyhow::Result<()> {
    let mut probes = KernelProbes::load(&Roots::default(), &ProbeOptions::default())?;
    for limit in probes.limits() {
        eprintln!("{}: {}", limit.feature, limit.reason);
    }
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--manage", Some(tid)) => probes.manage(tid.parse()?, 0)?,
            _ => anyhow::bail!("usage: probes [--manage TID]…"),
        }
    }
    let started = Instant::now();
    let mut events = Vec::new();
    println!("{}", serde_json::to_string(&probes.cost(started.elapsed()))?);
    for line in std::io::stdin().lock().lines() {
        line?;
        probes.drain(&mut events);
        events.clear();
        println!("{}", serde_json::to_string(&probes.cost(started.elapsed()))?);
    }
    Ok(())
}
