//! The loads whose own account others are measured against: the account must be right.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_tests::agent::{die_with_this_thread, output_within, said};
use downbeat_tests::cpu_time::undisturbed;
use downbeat_tests::skip::root_or_skip;
use nix::sys::signal::Signal;
use serde_json::Value;

/// What the load printed: the line of its beginning and the account.
fn load(args: &[&str]) -> Result<(Value, Value)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_downbeat-load"));
    command.args(args).args(["--json", "-"]).stderr(Stdio::piped());
    die_with_this_thread(&mut command, Signal::SIGKILL);
    let output = output_within(&mut command, Duration::from_secs(20))?;
    ensure!(output.status.success(), "{args:?}: {}", said(&output));
    let text = String::from_utf8(output.stdout)?;
    let (begun, account) = text.split_once('\n').context("one line only")?;
    Ok((serde_json::from_str(begun)?, serde_json::from_str(account)?))
}

fn number(value: &Value, key: &str) -> Result<u64> {
    value[key].as_u64().with_context(|| format!("no number `{key}` in {value}"))
}

fn releases(account: &Value) -> Result<Vec<u64>> {
    let jobs = account["jobs"].as_array().context("no jobs")?;
    jobs.iter().map(|job| number(job, "release_ns")).collect()
}

/// Half of the gaps are at most so long.
fn median_gap(releases: &[u64]) -> u64 {
    let mut gaps: Vec<u64> = releases.windows(2).map(|two| two[1] - two[0]).collect();
    gaps.sort_unstable();
    gaps[gaps.len() / 2]
}

#[test]
fn every_way_of_waiting_releases_a_job_per_period() -> Result<()> {
    for via in ["timerfd", "nanosleep", "poll", "epoll", "pipe", "socket"] {
        let (begun, account) = load(&[
            "periodic",
            "--via",
            via,
            "--period",
            "5ms",
            "--work",
            "500us",
            "--seconds",
            "1",
            "--ordinary",
        ])?;
        let (tid, jobs) = (number(&begun, "tid")?, releases(&account)?);
        ensure!(tid > 0 && number(&account, "tid")? == tid, "{via}: {begun}");
        ensure!(jobs.len() == 199, "{via}: {} jobs", jobs.len());
        let gap = median_gap(&jobs);
        ensure!((4_900_000..5_100_000).contains(&gap), "{via}: {gap} ns from release to release");
        for job in account["jobs"].as_array().context("no jobs")? {
            let cpu = number(job, "cpu_ns")?;
            ensure!(cpu >= 500_000, "{via}: a job of {cpu} ns");
            let took = number(job, "completion_ns")?.checked_sub(number(job, "release_ns")?);
            ensure!(took.is_some_and(|took| took >= cpu), "{via}: {job}");
        }
        let sender = begun["sender"].as_u64();
        ensure!(sender.is_some() == ["pipe", "socket"].contains(&via), "{via}: {begun}");
    }
    Ok(())
}

#[test]
fn a_thread_without_a_period_and_one_that_leaves_frames_out() -> Result<()> {
    let run = |more: &[&str]| -> Result<Vec<u64>> {
        let common = ["periodic", "--period", "2ms", "--work", "100us", "--seconds", "1"];
        releases(&load(&[&common, more].concat())?.1)
    };
    let gaps =
        |releases: &[u64]| -> Vec<u64> { releases.windows(2).map(|two| two[1] - two[0]).collect() };
    let aperiodic = gaps(&run(&["--via", "poisson"])?);
    let short = aperiodic.iter().filter(|&&gap| gap < 1_000_000).count();
    ensure!(short * 4 > aperiodic.len(), "{short} of {}", aperiodic.len());

    let skipping = gaps(&run(&["--via", "timerfd", "--skip", "0.2", "--drift-ppm", "1000"])?);
    ensure!(skipping.iter().all(|gap| gap % 2_002_000 == 0), "{skipping:?}");
    ensure!(skipping.iter().any(|&gap| gap > 3_000_000), "{skipping:?}");
    Ok(())
}

#[test]
fn marks_come_in_pairs_around_jobs_that_wait_for_a_helper() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("marks");
    let listener = std::os::unix::net::UnixDatagram::bind(&path)?;
    listener.set_nonblocking(true)?;
    let path = path.to_string_lossy().into_owned();
    // Few enough that the socket's queue holds them all until the load has ended.
    let (_, account) = load(&[
        "periodic",
        "--period",
        "300ms",
        "--work",
        "1ms",
        "--seconds",
        "1",
        "--mid-sleep",
        "--mark",
        &path,
    ])?;
    let jobs = releases(&account)?.len();
    let mut buffer = [0; 64];
    let mut marks = Vec::new();
    while let Ok(length) = listener.recv(&mut buffer) {
        marks.push(String::from_utf8(buffer[..length].to_vec())?);
    }
    let pair = |id| [format!("FRAME_BEGIN={id}"), format!("FRAME_END={id}")];
    ensure!(marks == (0..jobs).flat_map(pair).collect::<Vec<_>>(), "{jobs} jobs: {marks:?}");
    Ok(())
}

#[test]
fn occupants_have_their_shares_and_the_victim_waits_behind_them() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    // A turn that the hypervisor cuts into lasts longer than was asked for.
    let (begun, account) = undisturbed(|| {
        load(&[
            "share",
            "--names",
            "anvil,bellows",
            "--shares",
            "70,30",
            "--seconds",
            "2",
            "--victim",
        ])
    })?;
    let victim = &account["victim"];
    ensure!(begun["victim"]["pid"] == victim["pid"] && number(victim, "pid")? > 0, "{begun}");
    let (mut held, mut kept) = (Vec::new(), Vec::new());
    for occupant in account["occupants"].as_array().context("no occupants")? {
        held.push(number(occupant, "held_ns")? as f64);
        kept.push(number(occupant, "kept_waiting_ns")? as f64);
    }
    let first = |of: &[f64]| of[0] / of.iter().sum::<f64>();
    ensure!((first(&held) - 0.7).abs() < 0.02, "turns held: {held:?}");
    ensure!((first(&kept) - 0.7).abs() < 0.05, "kept waiting: {kept:?}");
    // All but what it waited for others on the host, who can only come in the pauses.
    let waited = number(victim, "waited_ns")? as f64;
    ensure!(kept.iter().sum::<f64>() > 0.7 * waited, "{kept:?} of {waited} ns");
    Ok(())
}
