//! The tools that are compared, and what the kernel says of their programs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::loaded_programs;
use downbeat_api::BpfCost;
use downbeat_tests::agent::die_with_this_thread;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::{packages, workspace};

/// How long a tool may take until its programs are attached.
const START: Duration = Duration::from_secs(20);

/// How long it may take to end.
const END: Duration = Duration::from_secs(10);

/// What the names of the two programs contain that run with each wake-up and each switch.
const WAKEUP: &str = "sched_wak";
const SWITCH: &str = "sched_switch";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// Downbeat's programs, and nobody is managed.
    Unmanaged,
    /// Downbeat's programs, and all descendants of the storm are managed.
    Managed,
    /// libbpf-tools' histogram of run-queue waits.
    Runqlat,
    /// libbpf-tools' list of long run-queue waits.
    Runqslower,
}

impl Tool {
    pub const ALL: [Self; 4] = [Self::Unmanaged, Self::Managed, Self::Runqlat, Self::Runqslower];

    pub fn name(self) -> &'static str {
        match self {
            Self::Unmanaged => "downbeat, unmanaged",
            Self::Managed => "downbeat, managed",
            Self::Runqlat => "runqlat",
            Self::Runqslower => "runqslower",
        }
    }
}

/// How downbeat's programs are loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manage {
    /// The process whose descendants are managed.
    pub descendants_of: Option<u32>,
    /// Of these, each n-th.
    pub every: u32,
    /// Ask for the programs' cost; this switches the run statistics on now and then.
    pub cost: bool,
}

/// What the example `probes` tells.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    limits: Vec<String>,
    pub managed: u64,
    pub descendants: u64,
    pub jobs: u64,
    pub blamed_ns: u64,
    pub cost: Option<BpfCost>,
}

/// A tool with its programs attached; it ends when dropped, and they go.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts downbeat's programs without an agent.
    pub fn downbeat(manage: Manage) -> Result<Self> {
        let mut command = Command::new(workspace::release_programs().join("examples/probes"));
        if let Some(pid) = manage.descendants_of {
            command.args(["--manage-descendants", &pid.to_string(), "--deadline-us", "33000"]);
            command.args(["--every", &manage.every.max(1).to_string()]);
        }
        if !manage.cost {
            command.arg("--no-cost");
        }
        let mut running = Self::start(command.stdout(Stdio::piped()))?;
        running.stdout = running.child.stdout.take().map(BufReader::new);
        // It tells when everything is attached.
        let told = running.read()?;
        ensure!(
            told.limits.is_empty(),
            "a part of the programs does not run here, and half of them would be cheap: {}",
            told.limits.join("; ")
        );
        Ok(running)
    }

    /// Starts one of libbpf-tools and waits until its programs are attached.
    pub fn peer(tool: packages::Tool, arguments: &[&str]) -> Result<Self> {
        let program = packages::find(tool.program)
            .with_context(|| format!("{} is gone; it was there a moment ago", tool.program))?;
        let mut running = Self::start(Command::new(program).args(arguments).stdout(Stdio::null()))?;
        let end = Instant::now() + START;
        loop {
            let runs = running.runs()?;
            let attached = held(running.child.id()).links;
            // A wakeup, the first wakeup of a new thread, and a switch.
            if runs.of(WAKEUP).is_some() && runs.of(SWITCH).is_some() && attached >= 3 {
                return Ok(running);
            }
            if let Some(status) = running.child.try_wait()? {
                bail!("{} ended before its programs were attached: {status}", tool.program);
            }
            ensure!(Instant::now() < end, "{}: {runs:?} after {START:?}", tool.program);
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn start(command: &mut Command) -> Result<Self> {
        die_with_this_thread(command, Signal::SIGTERM);
        let mut child =
            command.stdin(Stdio::piped()).spawn().with_context(|| format!("{command:?}"))?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, stdout: None })
    }

    /// Asks downbeat's programs what they saw.
    pub fn ask(&mut self) -> Result<Told> {
        let stdin = self.stdin.as_mut().context("this tool is not asked")?;
        stdin.write_all(b"\n").context("asking the example `probes`")?;
        self.read()
    }

    fn read(&mut self) -> Result<Told> {
        let stdout = self.stdout.as_mut().context("this tool tells nothing")?;
        let mut line = String::new();
        stdout.read_line(&mut line).context("the example `probes`: reading its output")?;
        let told = serde_json::from_str(&line);
        told.with_context(|| format!("the example `probes` told {line:?}: is it built?"))
    }

    /// What its programs did so far.
    pub fn runs(&self) -> Result<Runs> {
        Runs::of_process(self.child.id())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Downbeat's example ends with its input, the others with a signal.
        drop(self.stdin.take());
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        let ended = || matches!(self.child.try_wait(), Ok(Some(_)) | Err(_));
        if !downbeat_tests::processes::wait_until(END, ended) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// How often programs ran, and how long, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs(BTreeMap<String, Count>);

/// Of one program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub runs: u64,
    pub ns: u64,
}

impl Runs {
    /// Of all programs that a process holds.
    pub fn of_process(pid: u32) -> Result<Self> {
        let held = held(pid);
        let mut runs = Self::default();
        for program in loaded_programs() {
            // Others come and go while they are listed.
            let Ok(program) = program else { continue };
            if held.programs.contains(&program.id()) {
                let name = program.name_as_str().unwrap_or_default().to_owned();
                let ns = u64::try_from(program.run_time().as_nanos()).unwrap_or(u64::MAX);
                runs.add(name, Count { runs: program.run_count(), ns });
            }
        }
        Ok(runs)
    }

    fn add(&mut self, name: String, count: Count) {
        let sum = self.0.entry(name).or_default();
        sum.runs += count.runs;
        sum.ns += count.ns;
    }

    /// Since then.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |name: &str| earlier.0.get(name).copied().unwrap_or_default();
        Self(
            self.0
                .iter()
                .map(|(name, now)| {
                    let before = before(name);
                    let runs = now.runs.saturating_sub(before.runs);
                    let ns = now.ns.saturating_sub(before.ns);
                    (name.clone(), Count { runs, ns })
                })
                .collect(),
        )
    }

    /// Both together.
    pub fn plus(mut self, other: &Self) -> Self {
        for (name, count) in &other.0 {
            self.add(name.clone(), *count);
        }
        self
    }

    /// Of all programs.
    pub fn total(&self) -> Count {
        sum(self.0.values())
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Count)> {
        self.0.iter().map(|(name, count)| (name.as_str(), *count))
    }

    /// Of the programs whose names contain `part`; absent where there is none.
    fn of(&self, part: &str) -> Option<Count> {
        let mut found = self.0.iter().filter(|(name, _)| name.contains(part)).peekable();
        found.peek()?;
        Some(sum(found.map(|(_, count)| count)))
    }

    /// Mean costs.
    pub fn cost(&self) -> Result<Cost> {
        let event = |part: &str| {
            let count = self.of(part).with_context(|| format!("no program named *{part}*"))?;
            ensure!(count.runs > 1_000, "{part}: only {} runs in a whole storm", count.runs);
            anyhow::Ok(count)
        };
        let (wakeups, switches) = (event(WAKEUP)?, event(SWITCH)?);
        Ok(Cost {
            wakeup_ns: wakeups.ns as f64 / wakeups.runs as f64,
            switch_ns: switches.ns as f64 / switches.runs as f64,
            all_per_switch_ns: self.total().ns as f64 / switches.runs as f64,
        })
    }
}

fn sum<'a>(counts: impl Iterator<Item = &'a Count>) -> Count {
    counts.fold(Count::default(), |sum, count| Count {
        runs: sum.runs + count.runs,
        ns: sum.ns + count.ns,
    })
}

/// Nanoseconds, the run statistics' own (about 25 for each run) included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Mean of one run of the program for wake-ups.
    pub wakeup_ns: f64,
    /// Mean of one run of the program for switches.
    pub switch_ns: f64,
    /// All programs that the tool attached, whatever they are for, per switch.
    pub all_per_switch_ns: f64,
}

impl Cost {
    /// One wake-up and one switch.
    pub fn sum(self) -> f64 {
        self.wakeup_ns + self.switch_ns
    }
}

/// What a process's descriptors hold.
#[derive(Debug, Default)]
pub struct Held {
    /// Ids of programs.
    pub programs: Vec<u32>,
    /// Attachments.
    pub links: usize,
}

/// Looks through the descriptors of a process.
pub fn held(pid: u32) -> Held {
    let mut held = Held::default();
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    for text in entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()) {
        let value = |key| text.lines().find_map(|line| line.strip_prefix(key));
        if value("link_type:").is_some() {
            held.links += 1;
        } else if value("prog_type:").is_some() {
            let id = value("prog_id:").and_then(|id| id.trim().parse::<u32>().ok());
            held.programs.extend(id);
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(counts: &[(&str, u64, u64)]) -> Runs {
        let mut runs = Runs::default();
        for &(name, count, ns) in counts {
            runs.add(name.to_owned(), Count { runs: count, ns });
        }
        runs
    }

    #[test]
    fn no_program_is_left_out_of_the_cost_of_a_switch() {
        let before = runs(&[("sched_waking", 1_000, 50_000), ("sched_switch", 500, 100)]);
        let after = runs(&[
            ("sched_waking", 3_000, 150_000),
            ("sched_switch", 4_500, 400_100),
            ("softirq_entry", 10, 60_000),
        ]);
        let cost = after.since(&before).cost().unwrap();
        assert_eq!((cost.wakeup_ns, cost.switch_ns), (50.0, 100.0));
        assert_eq!(cost.sum(), 150.0);
        assert_eq!(cost.all_per_switch_ns, (100_000.0 + 400_000.0 + 60_000.0) / 4_000.0);
    }

    #[test]
    fn first_wakeups_count_as_wakeups_and_rounds_add_up() {
        let one = runs(&[
            ("sched_wakeup", 3_000, 300_000),
            ("sched_wakeup_new", 1_000, 500_000),
            ("sched_switch", 4_000, 400_000),
        ]);
        assert_eq!(one.cost().unwrap().wakeup_ns, 200.0);
        let two = one.clone().plus(&one);
        assert_eq!(two.total(), Count { runs: 16_000, ns: 2_400_000 });
        assert_eq!(two.cost().unwrap(), one.cost().unwrap());
    }

    #[test]
    fn a_storm_that_nobody_saw_is_an_error() {
        assert!(runs(&[("sched_waking", 5_000, 1)]).cost().is_err());
        let few = runs(&[("sched_waking", 5_000, 1), ("sched_switch", 10, 1)]);
        assert!(few.cost().is_err());
    }
}
