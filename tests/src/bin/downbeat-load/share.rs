//! Processes that share one CPU in known parts, and one that waits behind them.
//!
//! Whoever says which program kept a thread waiting can be measured against it. The occupants are
//! SCHED_FIFO of one priority and pinned; each sleeps until its next turn and holds the CPU until
//! that is over, by the clock. The victim is an ordinary thread on the same CPU: it can only run
//! in the pauses. What it waited for whom follows from the turns and its own times, and is told.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use downbeat_tests::clock::{now_ns, ns, sleep_until, thread_cpu_ns};
use downbeat_tests::threads::{OTHER, Scheduling};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::set_timerslack;
use nix::unistd::{Pid, pipe};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::account::{tell, write};
use crate::busy::spend;
use crate::offspring::Offspring;
use crate::turns::{Turn, shared_ns, turns};

/// Below the stand-ins for devices.
const PRIORITY: u32 = 10;
/// An occupant holds on for so long after its turn, so that the next one is ready when it lets
/// go and nobody runs between them.
const HANDOVER_NS: u64 = 5_000;
/// Between two looks at the clock that are further apart the occupant did not run: an interrupt, the
/// hypervisor or a thread of higher priority did.
const AWAY_NS: u64 = 10_000;
const VICTIM: &str = "victim";
const VICTIM_PERIOD_NS: u64 = 10_000_000;
const VICTIM_WORK_NS: u64 = 200_000;
/// For all processes to start.
const LEAD_NS: u64 = 200_000_000;

/// Options of `downbeat-load share`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names of the occupants (the kernel keeps 15 bytes)
    #[arg(long, value_delimiter = ',', required = true)]
    names: Vec<String>,
    /// Their parts of each slice, in hundredths; together 100
    #[arg(
        long, value_delimiter = ',', required = true,
        value_parser = clap::value_parser!(u64).range(1..=100)
    )]
    shares: Vec<u64>,
    /// The time in which each has one turn
    #[arg(long, default_value = "2ms")]
    slice: humantime::Duration,
    /// The CPU
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// Starts the victim too: released every 10 ms, works for 0.2 ms, skips what it slept through
    #[arg(long)]
    victim: bool,
    /// Ends after so many seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Where the account is written at the end; `-` is standard output
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
}

/// What is told before the first turn. A process's thread has the process's number.
#[derive(Serialize)]
struct Begun<'a> {
    pid: u32,
    occupants: Vec<Named<'a>>,
    victim: Option<Named<'a>>,
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
    pid: u32,
    tid: u32,
}

/// The whole account. Times are nanoseconds, points in time `CLOCK_MONOTONIC`.
#[derive(Serialize)]
struct Account<'a> {
    cpu: usize,
    slice_ns: u64,
    occupants: Vec<Occupant<'a>>,
    victim: Option<Victim<'a>>,
}

#[derive(Serialize)]
struct Occupant<'a> {
    #[serde(flatten)]
    who: Named<'a>,
    /// Hundredths of a slice.
    share: u64,
    /// By the process's own CPU clock, of all its turns.
    cpu_ns: u64,
    /// Length of all its turns: above `cpu_ns` where something else ran in them.
    held_ns: u64,
    /// How long the victim waited in this one's turns.
    kept_waiting_ns: u64,
    /// Of that, while this one was seen to run.
    kept_waiting_running_ns: u64,
    turns: Vec<Turn>,
}

#[derive(Serialize)]
struct Victim<'a> {
    #[serde(flatten)]
    who: Named<'a>,
    period_ns: u64,
    /// From the release to the completion of its jobs, less its own CPU time.
    waited_ns: u64,
    jobs: Vec<Job>,
}

/// What an occupant's process hands over.
#[derive(Serialize, Deserialize)]
struct Held {
    cpu_ns: u64,
    turns: Vec<Turn>,
    /// The same without the time in which something else ran.
    ran: Vec<Turn>,
}

#[derive(Serialize, Deserialize)]
struct Job {
    release_ns: u64,
    /// When the victim first ran.
    start_ns: u64,
    completion_ns: u64,
    cpu_ns: u64,
}

/// Takes turns until the time is over.
pub fn run(args: &Args) -> Result<()> {
    let slice_ns = ns(args.slice.into());
    ensure!(
        (100_000..=20_000_000).contains(&slice_ns),
        "--slice {}: must be from 100us to 20ms; longer turns would meet real-time throttling",
        args.slice
    );
    ensure!(
        args.names.len() == args.shares.len(),
        "{} --names and {} --shares: each name needs its share",
        args.names.len(),
        args.shares.len()
    );
    let sum = args.shares.iter().try_fold(0_u64, |sum, share| sum.checked_add(*share));
    ensure!(sum == Some(100), "--shares must be hundredths that make 100 together");
    let begin = now_ns() + LEAD_NS;
    let span = (begin, begin + args.seconds * 1_000_000_000);

    let mut before = 0;
    let mut occupants = Vec::new();
    for (name, &share) in args.names.iter().zip(&args.shares) {
        let turns = turns(span, slice_ns, before, share);
        occupants.push(Teller::start(name, args.cpu, move || occupy(turns))?);
        before += share;
    }
    let victim =
        args.victim.then(|| Teller::start(VICTIM, args.cpu, move || suffer(span))).transpose()?;
    let named: Vec<Named> =
        occupants.iter().zip(&args.names).map(|(teller, name)| teller.named(name)).collect();
    let victim_named = victim.as_ref().map(|teller| teller.named(VICTIM));
    ensure!(now_ns() < begin, "the processes took too long to start; is the machine very busy?");
    tell(&Begun { pid: std::process::id(), occupants: named, victim: victim_named })?;

    let victim = match victim {
        Some(teller) => Some((teller.named(VICTIM), teller.told::<Vec<Job>>(VICTIM)?)),
        None => None,
    };
    let jobs = victim.as_ref().map_or(&[][..], |(_, jobs)| jobs);
    let waits: Vec<Turn> =
        jobs.iter().map(|job| Turn { from_ns: job.release_ns, to_ns: job.completion_ns }).collect();
    let occupants = occupants
        .iter()
        .zip(args.names.iter().zip(&args.shares))
        .map(|(teller, (name, &share))| {
            let Held { cpu_ns, turns, ran } = teller.told(name)?;
            Ok(Occupant {
                who: teller.named(name),
                share,
                cpu_ns,
                held_ns: turns.iter().map(Turn::length).sum(),
                kept_waiting_ns: shared_ns(&turns, &waits),
                kept_waiting_running_ns: shared_ns(&ran, &waits),
                turns,
            })
        })
        .collect::<Result<_>>()?;
    let victim = victim.map(|(who, jobs)| {
        let own: u64 = jobs.iter().map(|job| job.cpu_ns).sum();
        let all: u64 = waits.iter().map(Turn::length).sum();
        Victim { who, period_ns: VICTIM_PERIOD_NS, waited_ns: all.saturating_sub(own), jobs }
    });
    write(&args.json, &Account { cpu: args.cpu, slice_ns, occupants, victim })
}

/// A process on the CPU that tells at its end what happened.
struct Teller {
    process: Offspring,
    told: File,
}

impl Teller {
    fn start<T: Serialize>(
        name: &str,
        cpu: usize,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<Self> {
        let (told, tell) = pipe().context("pipe")?;
        let process = Offspring::start(name, move || {
            // Told rather than said, so that the parent can say it with its own end.
            let account = settle(cpu).and_then(|()| work()).map_err(|error| format!("{error:#}"));
            File::from(tell).write_all(&serde_json::to_vec(&account)?).context("the pipe")
        })?;
        Ok(Self { process, told: File::from(told) })
    }

    fn named<'a>(&self, name: &'a str) -> Named<'a> {
        Named { name, pid: self.process.pid(), tid: self.process.pid() }
    }

    /// Waits for its end.
    fn told<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let mut text = Vec::new();
        (&self.told).read_to_end(&mut text).context("the pipe")?;
        serde_json::from_slice::<Result<T, String>>(&text)
            .with_context(|| format!("`{name}` was ended from outside"))?
            .map_err(|error| anyhow!("{name}: {error}"))
    }
}

fn settle(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).with_context(|| format!("--cpu {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &cpus)
        .with_context(|| format!("sched_setaffinity: CPU {cpu} cannot be used"))?;
    // Else an ordinary thread's sleep may end 50 µs after the point in time told.
    set_timerslack(1).context("PR_SET_TIMERSLACK")
}

fn occupy(turns: impl Iterator<Item = Turn>) -> Result<Held> {
    Scheduling::fifo(PRIORITY)
        .apply(0)
        .context("sched_setattr: an occupant cannot become SCHED_FIFO 10. Run as root")?;
    let mut held = Held { cpu_ns: 0, turns: Vec::new(), ran: Vec::new() };
    for turn in turns {
        sleep_until(turn.from_ns);
        let (from_ns, cpu_before) = (now_ns(), thread_cpu_ns());
        let mut stretch = Turn { from_ns, to_ns: from_ns };
        while stretch.to_ns < turn.to_ns + HANDOVER_NS {
            let now = now_ns();
            if now - stretch.to_ns > AWAY_NS {
                held.ran.push(stretch);
                stretch.from_ns = now;
            }
            stretch.to_ns = now;
        }
        held.cpu_ns += thread_cpu_ns() - cpu_before;
        held.ran.push(stretch);
        held.turns.push(Turn { from_ns, to_ns: stretch.to_ns });
    }
    // Telling takes longer than a turn and must not keep anybody waiting.
    let ordinary = Scheduling { policy: OTHER, priority: 0, nice: 0, reset_on_fork: false };
    ordinary.apply(0).context("sched_setattr")?;
    Ok(held)
}

fn suffer((begin, end): (u64, u64)) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    let mut release_ns = begin;
    while release_ns < end {
        sleep_until(release_ns);
        let (start_ns, cpu_before) = (now_ns(), thread_cpu_ns());
        spend(VICTIM_WORK_NS);
        let cpu_ns = thread_cpu_ns() - cpu_before;
        let completion_ns = now_ns();
        jobs.push(Job { release_ns, start_ns, completion_ns, cpu_ns });
        // Releases that went by meanwhile are not made up for: no two waits overlap.
        let periods = (completion_ns - begin) / VICTIM_PERIOD_NS + 1;
        release_ns = begin + periods * VICTIM_PERIOD_NS;
    }
    Ok(jobs)
}
