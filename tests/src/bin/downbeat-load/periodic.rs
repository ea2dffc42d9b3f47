//! One thread that is released again and again, and keeps its own account of it.
//!
//! The account is what a monitor of jobs is measured against: when each job was due, when it was
//! done, what it cost, and whether the thread had slept before it. A job that overran leaves the
//! next one due already; that one begins without a sleep, and whoever looks from outside may see
//! the two as one.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::{Context, Result, ensure};
use downbeat_tests::clock::{now_ns, ns, thread_cpu_ns};
use nix::sys::prctl::{set_name, set_timerslack};
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

use crate::account::{tell, write};
use crate::busy::spend;
use crate::marks::Marks;
use crate::release::{Source, Via};
use crate::schedule::{Gaps, Schedule};
use crate::untouched::Untouched;

/// What the helper of `--mid-sleep` computes while the job waits for it.
const HELP_NS: u64 = 200_000;

/// Options of `downbeat-load periodic`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the thread waits on
    #[arg(long, value_enum, default_value_t = Via::Nanosleep)]
    via: Via,
    /// From release to release; for `poisson` the mean
    #[arg(long, default_value = "10ms")]
    period: humantime::Duration,
    /// CPU time of one job
    #[arg(long, default_value = "2ms")]
    work: humantime::Duration,
    /// Ends after so many seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// By how many millionths the releasing clock runs slow, so that periods are longer
    #[arg(
        long, default_value_t = 0, allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-500_000..=500_000)
    )]
    drift_ppm: i32,
    /// Share of the releases that are left out, at random, from 0 to less than 1
    #[arg(long, default_value_t = 0.0)]
    skip: f64,
    /// From a release to the moment the job is worthless; counted, nothing else
    #[arg(long)]
    deadline: Option<humantime::Duration>,
    /// Each job waits, half done, for another thread of this process
    #[arg(long)]
    mid_sleep: bool,
    /// Each job touches so many pages of a file of zeros for the first time: each takes memory
    #[arg(long, value_name = "N", default_value_t = 0)]
    touch_pages: usize,
    /// Sends FRAME_BEGIN and FRAME_END to the datagram socket at PATH around each job
    #[arg(long, value_name = "PATH")]
    mark: Option<PathBuf>,
    /// Leaves the scheduling of the pipe's or socket's sender alone
    #[arg(long)]
    ordinary: bool,
    /// For the random numbers of `--skip` and `poisson`
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the account is written at the end; `-` is standard output
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
}

/// What is told before the first job.
#[derive(Serialize)]
struct Begun {
    pid: u32,
    tid: u32,
    /// The sending process, for a pipe or a socket.
    sender: Option<u32>,
}

/// The whole account. Times are nanoseconds, points in time `CLOCK_MONOTONIC`.
#[derive(Serialize)]
struct Account {
    pid: u32,
    tid: u32,
    via: Via,
    /// What a period really was, drift included; the mean for `poisson`.
    period_ns: u64,
    deadline_ns: Option<u64>,
    /// Jobs done later than the deadline.
    missed: Option<usize>,
    jobs: Vec<Job>,
}

#[derive(Serialize)]
struct Job {
    /// When it was due: by the schedule, or by the sender's stamp.
    release_ns: u64,
    completion_ns: u64,
    /// CPU time of this thread from the release's return to the completion.
    cpu_ns: u64,
    /// The thread slept before it. It has not where the job was due already.
    slept: bool,
}

/// Works until the time is over.
pub fn run(args: &Args) -> Result<()> {
    ensure!((0.0..1.0).contains(&args.skip), "--skip {}: must be from 0 to less than 1", args.skip);
    let period_ns = drifted(ns(args.period.into()), args.drift_ppm);
    ensure!(
        (100_000..=60_000_000_000).contains(&period_ns),
        "--period {}: must be from 100us to 1m",
        args.period
    );
    let gaps = match args.via {
        Via::Poisson => Gaps::Exponential,
        _ => Gaps::Regular { skip: args.skip },
    };
    // A timer's slack of 50 µs would make the release another than the one in the account.
    set_timerslack(1).context("PR_SET_TIMERSLACK")?;
    let begin = now_ns() + period_ns;
    let end = begin + args.seconds * 1_000_000_000;
    let schedule = Schedule::new(begin, end, period_ns, gaps, args.seed);
    let mut jobs = Vec::with_capacity(schedule.expected() + 1);
    // Before the name, so that the sender is not taken for the thread, and before the helper,
    // since a process of several threads cannot fork.
    let mut source = Source::new(args.via, schedule, args.ordinary)?;
    set_name(c"periodic").context("PR_SET_NAME")?;
    let marks = Marks::to(args.mark.as_deref())?;
    let mut untouched = if args.touch_pages > 0 { Some(Untouched::new()?) } else { None };
    let pid = std::process::id();
    let begun = Begun { pid, tid: pid, sender: source.sender() };
    tell(&begun)?;

    thread::scope(|scope| {
        let helper = args.mid_sleep.then(|| {
            let (ask, asked) = sync_channel(1);
            let (answer, answered) = sync_channel(1);
            scope.spawn(move || help(&asked, &answer));
            (ask, answered)
        });
        let work = ns(args.work.into());
        loop {
            let sleeps = sleeps()?;
            let Some(release_ns) = source.wait()? else {
                return anyhow::Ok(());
            };
            let (slept, began) = (self::sleeps()? > sleeps, thread_cpu_ns());
            marks.begin(jobs.len());
            spend(work / 2);
            if let Some((ask, answered)) = &helper {
                ask.send(()).context("the helper is gone")?;
                answered.recv().context("the helper is gone")?;
            }
            spend((began + work).saturating_sub(thread_cpu_ns()));
            if let Some(untouched) = &mut untouched {
                untouched.touch(args.touch_pages)?;
            }
            marks.end(jobs.len());
            let cpu_ns = thread_cpu_ns() - began;
            jobs.push(Job { release_ns, completion_ns: now_ns(), cpu_ns, slept });
        }
    })?;

    let deadline_ns = args.deadline.map(|deadline| ns(deadline.into()));
    let missed = deadline_ns.map(|deadline| missed(&jobs, deadline));
    let account = Account { pid, tid: pid, via: args.via, period_ns, deadline_ns, missed, jobs };
    write(&args.json, &account)
}

fn drifted(period_ns: u64, ppm: i32) -> u64 {
    let longer = i128::from(period_ns) * (1_000_000 + i128::from(ppm)) / 1_000_000;
    u64::try_from(longer).unwrap_or(0)
}

fn missed(jobs: &[Job], deadline_ns: u64) -> usize {
    jobs.iter().filter(|job| job.completion_ns.saturating_sub(job.release_ns) > deadline_ns).count()
}

/// Another thread that a job waits for; ends when nobody can ask any more.
fn help(asked: &Receiver<()>, answer: &SyncSender<()>) {
    // A thread without its name helps as well.
    let _ = set_name(c"helper");
    while asked.recv().is_ok() {
        spend(HELP_NS);
        if answer.send(()).is_err() {
            return;
        }
    }
}

/// How often the calling thread has given up its CPU of its own accord.
fn sleeps() -> Result<i64> {
    Ok(getrusage(UsageWho::RUSAGE_THREAD).context("getrusage")?.voluntary_context_switches())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_makes_a_period_longer_or_shorter_by_millionths() {
        assert_eq!(drifted(10_000_000, 500), 10_005_000);
        assert_eq!(drifted(10_000_000, -500), 9_995_000);
        assert_eq!(drifted(16_670_000, 0), 16_670_000);
    }

    #[test]
    fn a_job_on_its_deadline_is_no_miss() {
        let job = |completion_ns| Job { release_ns: 5, completion_ns, cpu_ns: 1, slept: true };
        assert_eq!(missed(&[job(14), job(15), job(16)], 10), 1);
    }
}
