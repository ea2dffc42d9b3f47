//! Memory of all maps as the kernel accounts for it, and what it would be on a larger machine.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use aya::maps::MapInfo;
use aya::programs::loaded_programs;
use downbeat_abi::wait_parts;

use super::tools::{Manage, Running, held};
use super::verdict;
use crate::signals::Signals;

const MIB: f64 = 1024.0 * 1024.0;

/// Asked for, MiB.
const ASKED: f64 = 16.0;

/// A large machine.
const MANY_CPUS: u64 = 128;

/// Bytes of the gate where `pid_max` is as high as a kernel allows: a bit for each of 4 Mi ids.
const LARGEST_GATE: u64 = 4 * 1024 * 1024 / 8;

/// What a map holds for each CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PerCpu {
    /// Nothing.
    No,
    /// So many entries are of one CPU each.
    Entries,
    /// So many entries are of one part each, of which a large machine has no more than a few.
    Parts,
    /// It has its size from the largest process id.
    Gate,
}

/// One map.
#[derive(Clone, Debug)]
struct Map {
    name: String,
    value: u64,
    entries: u64,
    bytes: u64,
    per_cpu: PerCpu,
}

pub fn run(signals: &Signals) -> Result<()> {
    let mut running = Running::downbeat(Manage { cost: true, ..Manage::default() })?;
    let told = running.ask()?.cost.context("the example `probes` told no cost")?.map_bytes;
    let maps = maps(running.pid())?;
    // The statistics that it has switched on stay so for a second.
    signals.sleep(std::time::Duration::from_millis(1100))?;
    running.ask()?;
    drop(running);

    let cpus = possible_cpus()?;
    println!("{:<12} {:>9} {:>7} {:>11} {:>14}", "map", "entries", "value", "bytes", "at 128 CPUs");
    for map in &maps {
        println!(
            "{:<12} {:>9} {:>7} {:>11} {:>14}",
            map.name,
            map.entries,
            map.value,
            map.bytes,
            map.bytes_at(cpus, MANY_CPUS)
        );
    }
    let all: u64 = maps.iter().map(|map| map.bytes).sum();
    let mib = all as f64 / MIB;
    println!(
        "all maps on {cpus} CPUs: {mib:.2} MiB ({:.2} MiB as downbeat tells); {}",
        told as f64 / MIB,
        verdict(mib, ASKED)
    );
    let more: u64 = maps.iter().map(|map| map.bytes_at(cpus, MANY_CPUS)).sum();
    let mib = more as f64 / MIB;
    println!(
        "on {MANY_CPUS} CPUs and with 4 Mi process ids: {mib:.2} MiB; {}",
        verdict(mib, ASKED)
    );
    Ok(())
}

impl Map {
    /// What it would take on a machine of `many` CPUs that takes `bytes` on `cpus`.
    fn bytes_at(&self, cpus: u64, many: u64) -> u64 {
        let more = many.saturating_sub(cpus);
        let value = self.value.next_multiple_of(8);
        match self.per_cpu {
            PerCpu::No => self.bytes,
            PerCpu::Entries => self.bytes + self.entries / cpus.max(1) * more * value,
            PerCpu::Parts => {
                let parts = |cpus| u64::from(wait_parts(u32::try_from(cpus).unwrap_or(u32::MAX)));
                self.bytes + self.entries / parts(cpus) * (parts(many) - parts(cpus)) * value
            }
            PerCpu::Gate => self.bytes.max(LARGEST_GATE),
        }
    }
}

/// The maps that the programs of a process use, by name.
fn maps(pid: u32) -> Result<Vec<Map>> {
    let held = held(pid).programs;
    let mut ids = BTreeSet::new();
    for program in loaded_programs() {
        let Ok(program) = program else { continue };
        if held.contains(&program.id()) {
            ids.extend(program.map_ids().context("maps of a program")?.unwrap_or_default());
        }
    }
    let mut maps = ids.into_iter().map(map).collect::<Result<Vec<Map>>>()?;
    maps.sort_by_key(|map| std::cmp::Reverse(map.bytes));
    Ok(maps)
}

fn map(id: u32) -> Result<Map> {
    let info = MapInfo::from_id(id).with_context(|| format!("BPF map {id}"))?;
    let fd = info.fd().with_context(|| format!("BPF map {id}: opening it"))?;
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    let name = info.name_as_str().unwrap_or_default().to_owned();
    let per_cpu = match name.as_str() {
        "GATE" => PerCpu::Gate,
        "CPUS" => PerCpu::Entries,
        "WAITS" => PerCpu::Parts,
        _ => PerCpu::No,
    };
    Ok(Map {
        name,
        value: info.value_size().into(),
        entries: info.max_entries().into(),
        bytes: bytes.with_context(|| format!("{path}: no memlock"))?,
        per_cpu,
    })
}

/// As many as the kernel may ever have: the maps have that size.
fn possible_cpus() -> Result<u64> {
    let path = "/sys/devices/system/cpu/possible";
    let text = fs::read_to_string(path).context(path)?;
    let highest = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<u64>().ok());
    Ok(highest.with_context(|| format!("{path}: {text:?} is not a list of CPUs"))? + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(per_cpu: PerCpu) -> Map {
        let name = String::new();
        Map { name, value: 100, entries: 128, bytes: 20_000, per_cpu }
    }

    #[test]
    fn only_what_is_kept_for_each_cpu_grows_with_them() {
        let at_four = |per_cpu| map(per_cpu).bytes_at(2, 4);
        assert_eq!(at_four(PerCpu::No), 20_000);
        // 64 entries for each CPU, of 104 bytes.
        assert_eq!(at_four(PerCpu::Entries), 20_000 + 2 * 64 * 104);
        assert_eq!(at_four(PerCpu::Parts), 20_000 + 2 * 64 * 104);
        assert_eq!(map(PerCpu::Parts).bytes_at(8, 128), 20_000, "no more than eight");
        assert_eq!(at_four(PerCpu::Gate), 512 * 1024);
        assert_eq!(map(PerCpu::Entries).bytes_at(128, 128), 20_000);
    }
}
