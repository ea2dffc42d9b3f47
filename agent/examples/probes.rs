//! Loads the kernel programs without an agent and tells what they saw and cost: for
//! `cargo xtask bench probes`, and to see whether they load on a host.
//!
//! Prints one line of JSON at the start and for each line on its standard input, and ends with it.

use std::io::{BufRead, Read};
use std::os::fd::AsFd;
use std::time::Instant;

use downbeat_agent::observe::kernel::{KernelEvent, KernelProbes, ProbeOptions};
use downbeat_agent::roots::Roots;
use downbeat_api::BpfCost;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

const USAGE: &str = "usage: probes [--manage TID]… [--manage-descendants PID [--every N]] \
                     [--deadline-us N] [--no-blame] [--no-jobs] [--no-cost]

--manage TID              counts that thread's waits and jobs
--manage-descendants PID  watches that process; the processes and threads that it makes are managed
--every N                 of these, only each N-th one; the others are left alone
--deadline-us N           a managed thread's job that takes longer is a miss
--no-blame                whom threads wait for is not found out
--no-jobs                 nor are jobs followed
--no-cost                 never asks what the programs cost, which would switch the kernel's run
                          statistics on for a second of eight (25 ns for each run of a program)";

/// Events that no end makes readable (a thread's exit) wait so long, milliseconds.
const LOOK_EVERY_MS: u16 = 100;

/// The class slot of everything that is managed here.
const SLOT: u32 = 0;

struct Options {
    manage: Vec<u32>,
    descendants_of: Option<u32>,
    every: u64,
    deadline_ns: u64,
    cost: bool,
    probes: ProbeOptions,
}

/// One line of output.
#[derive(Serialize)]
struct Report {
    /// What the programs do without on this kernel.
    limits: Vec<String>,
    /// Threads that were managed so far, whether they live or not.
    managed: u64,
    /// Threads that the watched process and its descendants made.
    descendants: u64,
    /// Waits of managed threads.
    waits: u64,
    /// Jobs of managed threads that were completed.
    jobs: u64,
    /// Nanoseconds that were blamed on somebody.
    blamed_ns: u64,
    /// Absent with `--no-cost`.
    cost: Option<BpfCost>,
}

fn main() -> anyhow::Result<()> {
    let options = options(std::env::args().skip(1))?;
    let probes = KernelProbes::load(&Roots::default(), &options.probes)?;
    let mut watch = Watch { probes, options, managed: 0, descendants: 0, ended_jobs: 0 };
    for tid in watch.options.manage.clone() {
        watch.manage(tid)?;
    }
    if let Some(pid) = watch.options.descendants_of {
        // Watched without a class: its children are told of, and it is not counted itself.
        watch.probes.manage(pid, downbeat_abi::NO_CLASS)?;
    }
    watch.run()
}

fn options(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let mut options = Options {
        manage: Vec::new(),
        descendants_of: None,
        every: 1,
        deadline_ns: 0,
        cost: true,
        probes: ProbeOptions::default(),
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--no-cost" => options.cost = false,
            "--no-blame" => options.probes.blame = false,
            "--no-jobs" => options.probes.jobs = false,
            _ => {}
        }
        if argument.starts_with("--no-") {
            continue;
        }
        let Some(value) = arguments.next() else { anyhow::bail!(USAGE) };
        match argument.as_str() {
            "--manage" => options.manage.push(value.parse()?),
            "--manage-descendants" => options.descendants_of = Some(value.parse()?),
            "--every" => options.every = value.parse::<u64>()?.max(1),
            "--deadline-us" => options.deadline_ns = value.parse::<u64>()?.saturating_mul(1_000),
            _ => anyhow::bail!(USAGE),
        }
    }
    Ok(options)
}

struct Watch {
    probes: KernelProbes,
    options: Options,
    managed: u64,
    descendants: u64,
    /// Jobs of threads that are gone.
    ended_jobs: u64,
}

impl Watch {
    fn run(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        self.tell(started)?;
        let mut stdin = std::io::stdin().lock();
        let mut events = Vec::new();
        loop {
            let mut fds = [
                PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.probes.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::from(LOOK_EVERY_MS)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let asked = fds[0].any().unwrap_or(false);
            self.probes.drain(&mut events);
            for event in events.drain(..) {
                self.follow(&event);
            }
            if asked {
                let mut line = String::new();
                // A line is short: who writes its start writes its end.
                if stdin.by_ref().take(64).read_line(&mut line)? == 0 {
                    return Ok(());
                }
                self.tell(started)?;
            }
        }
    }

    fn follow(&mut self, event: &KernelEvent) {
        let KernelEvent::Fork { tid, .. } = event else { return };
        if self.options.descendants_of.is_none() {
            return;
        }
        self.descendants += 1;
        if !self.descendants.is_multiple_of(self.options.every) {
            self.probes.unmanage(*tid);
        } else if let Err(error) = self.manage(*tid) {
            eprintln!("thread {tid}: {error}");
        }
    }

    fn manage(&mut self, tid: u32) -> std::io::Result<()> {
        self.probes.manage(tid, SLOT)?;
        self.probes.set_deadline(tid, self.options.deadline_ns);
        self.managed += 1;
        Ok(())
    }

    fn tell(&mut self, started: Instant) -> anyhow::Result<()> {
        let now = started.elapsed();
        let mut living_jobs = 0;
        for thread in self.probes.jobs() {
            if thread.ended {
                self.ended_jobs += thread.job.jobs;
            } else {
                living_jobs += thread.job.jobs;
            }
        }
        let limits = self.probes.limits().iter();
        let report = Report {
            limits: limits.map(|limit| format!("{}: {}", limit.feature, limit.reason)).collect(),
            managed: self.managed,
            descendants: self.descendants,
            waits: self.probes.waits(SLOT)?.count(),
            jobs: self.ended_jobs + living_jobs,
            blamed_ns: self
                .probes
                .blame(now.as_nanos() as u64)
                .iter()
                .map(|blame| blame.culprit.ns)
                .sum(),
            cost: self.options.cost.then(|| self.probes.cost(now)),
        };
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }
}
