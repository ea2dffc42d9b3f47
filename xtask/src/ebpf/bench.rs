//! What the kernel programs cost a thread that nobody manages, beside libbpf-tools' `runqlat`,
//! which measures run-queue waits of everything.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use serde::Serialize;

use super::command::run;
use crate::packages::{self, HACKBENCH, RUNQLAT};
use crate::workspace;

/// How long a tool may take until its programs are attached.
const START: Duration = Duration::from_secs(20);

/// The events whose cost counts, by what every program's name contains.
const EVENTS: [&str; 2] = ["sched_wak", "sched_switch"];

/// What `bench_probes` measured: nanoseconds per event, run statistics' own cost (about 25 ns)
/// included on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct ProbeBench {
    /// Rounds of each.
    pub rounds: usize,
    /// Median over the rounds: downbeat's programs, on threads that are not managed.
    pub downbeat: EventCost,
    /// Median over the rounds: `runqlat`.
    pub runqlat: EventCost,
    /// wakeup + switch of downbeat as a share of runqlat's: median over the rounds, each beside
    /// its neighbour.
    pub ratio: f64,
    /// Share of the CPUs' time that the hypervisor took away.
    pub steal: f64,
}

/// Mean nanoseconds of one run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct EventCost {
    /// Per `sched_waking`.
    pub wakeup_ns: f64,
    /// Per `sched_switch`.
    pub switch_ns: f64,
}

impl EventCost {
    fn sum(self) -> f64 {
        self.wakeup_ns + self.switch_ns
    }
}

/// Measures in interleaved rounds of `hackbench -l 3000 -g 2` and prints the medians.
///
/// # Errors
/// Without root, or where a tool is missing and cannot be installed.
pub fn bench_probes(rounds: usize) -> anyhow::Result<ProbeBench> {
    ensure!(rounds > 0, "no rounds, no result");
    ensure!(nix::unistd::geteuid().is_root(), "loading kernel programs needs root: use sudo");
    packages::need(&[RUNQLAT, HACKBENCH])?;
    let build = ["build", "--release", "--quiet", "--package", "downbeatd", "--example", "probes"];
    run(workspace::cargo().args(build))?;
    let _statistics = enable_stats(Stats::RunTime).context("switching on BPF run statistics")?;
    let steal = Steal::now()?;
    let mut pairs = Vec::with_capacity(rounds);
    for round in 0..rounds {
        // Whoever comes second finds a warmer machine: take turns.
        let (downbeat, runqlat) = if round % 2 == 0 {
            let downbeat = measure(Tool::Downbeat)?;
            (downbeat, measure(Tool::Runqlat)?)
        } else {
            let runqlat = measure(Tool::Runqlat)?;
            (measure(Tool::Downbeat)?, runqlat)
        };
        println!(
            "round {}: downbeat {:.0} + {:.0} ns, runqlat {:.0} + {:.0} ns: {:.3}",
            round + 1,
            downbeat.wakeup_ns,
            downbeat.switch_ns,
            runqlat.wakeup_ns,
            runqlat.switch_ns,
            downbeat.sum() / runqlat.sum()
        );
        pairs.push((downbeat, runqlat));
    }
    let of = |pick: fn(&(EventCost, EventCost)) -> f64| median(pairs.iter().map(pick).collect());
    let bench = ProbeBench {
        rounds,
        downbeat: EventCost {
            wakeup_ns: of(|(downbeat, _)| downbeat.wakeup_ns),
            switch_ns: of(|(downbeat, _)| downbeat.switch_ns),
        },
        runqlat: EventCost {
            wakeup_ns: of(|(_, runqlat)| runqlat.wakeup_ns),
            switch_ns: of(|(_, runqlat)| runqlat.switch_ns),
        },
        ratio: of(|(downbeat, runqlat)| downbeat.sum() / runqlat.sum()),
        steal: Steal::now()?.since(&steal),
    };
    println!(
        "medians of {rounds} rounds: downbeat {:.0} + {:.0} ns, runqlat {:.0} + {:.0} ns per \
         wakeup + switch; ratio {:.3}; steal {:.1} %",
        bench.downbeat.wakeup_ns,
        bench.downbeat.switch_ns,
        bench.runqlat.wakeup_ns,
        bench.runqlat.switch_ns,
        bench.ratio,
        bench.steal * 100.0
    );
    Ok(bench)
}

#[derive(Clone, Copy)]
enum Tool {
    Downbeat,
    Runqlat,
}

/// A tool, killed when it has been measured.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // A child of ours that has not been waited for; it may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(tool: Tool) -> anyhow::Result<Running> {
    let mut command = match tool {
        Tool::Downbeat => Command::new(workspace::release_programs().join("examples/probes")),
        Tool::Runqlat => {
            let program = packages::find(RUNQLAT.program).context("runqlat is gone")?;
            let mut command = Command::new(program);
            // One histogram an hour: it only counts while it is measured.
            command.arg("3600");
            command
        }
    };
    let name = command.get_program().to_string_lossy().into_owned();
    // Downbeat's example ends with its input.
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    Ok(Running(child))
}

/// The cost of a tool's programs during one `hackbench`.
fn measure(tool: Tool) -> anyhow::Result<EventCost> {
    let mut running = start(tool)?;
    let ids = await_programs(&mut running.0)?;
    let before = counts(&ids)?;
    run(Command::new("hackbench").args(["-l", "3000", "-g", "2"]).stdout(Stdio::null()))?;
    let after = counts(&ids)?;
    let mean = |event: usize| {
        let (runs, ns) = (after[event].0 - before[event].0, after[event].1 - before[event].1);
        ensure!(runs > 1_000, "only {runs} {} in a whole hackbench", EVENTS[event]);
        Ok(ns as f64 / runs as f64)
    };
    Ok(EventCost { wakeup_ns: mean(0)?, switch_ns: mean(1)? })
}

/// The programs that a tool holds, once those for both events are attached.
fn await_programs(tool: &mut Child) -> anyhow::Result<Vec<u32>> {
    let end = Instant::now() + START;
    loop {
        let held = Held::by(tool.id());
        let names = names(&held.programs)?;
        let complete = EVENTS.iter().all(|event| names.iter().any(|name| name.contains(event)));
        // A wakeup, the first wakeup of a new thread, and a switch.
        if complete && held.links >= 3 {
            return Ok(held.programs);
        }
        if let Some(status) = tool.try_wait()? {
            bail!("a tool ended before its programs were attached: {status}");
        }
        ensure!(Instant::now() < end, "only {names:?} are attached after {START:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What a process's descriptors hold.
struct Held {
    /// Ids of programs.
    programs: Vec<u32>,
    /// Attachments.
    links: usize,
}

impl Held {
    fn by(pid: u32) -> Self {
        let mut held = Self { programs: Vec::new(), links: 0 };
        let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
        for text in entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()) {
            let value = |key| text.lines().find_map(|line| line.strip_prefix(key));
            if value("link_type:").is_some() {
                held.links += 1;
            } else if value("prog_type:").is_some() {
                held.programs
                    .extend(value("prog_id:").and_then(|id| id.trim().parse::<u32>().ok()));
            }
        }
        held
    }
}

fn names(ids: &[u32]) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for program in loaded_programs() {
        let program = program.context("listing BPF programs")?;
        if ids.contains(&program.id()) {
            names.push(program.name_as_str().unwrap_or_default().to_owned());
        }
    }
    Ok(names)
}

/// Runs and nanoseconds of the programs of each event.
fn counts(ids: &[u32]) -> anyhow::Result<[(u64, u64); EVENTS.len()]> {
    let mut counts = [(0, 0); EVENTS.len()];
    for program in loaded_programs() {
        let program = program.context("listing BPF programs")?;
        if !ids.contains(&program.id()) {
            continue;
        }
        let name = program.name_as_str().unwrap_or_default();
        if let Some(event) = EVENTS.iter().position(|event| name.contains(event)) {
            counts[event].0 += program.run_count();
            counts[event].1 += program.run_time().as_nanos() as u64;
        }
    }
    Ok(counts)
}

/// CPU time of all CPUs, in clock ticks.
struct Steal {
    all: u64,
    stolen: u64,
}

impl Steal {
    fn now() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let line = text.lines().next().and_then(|line| line.strip_prefix("cpu "));
        let ticks: Vec<u64> = line
            .context("/proc/stat: no line of all CPUs")?
            .split_whitespace()
            .flat_map(str::parse)
            .collect();
        // user nice system idle iowait irq softirq steal; guest time is in user already.
        Ok(Self { all: ticks.iter().take(8).sum(), stolen: ticks.get(7).copied().unwrap_or(0) })
    }

    fn since(&self, earlier: &Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}
