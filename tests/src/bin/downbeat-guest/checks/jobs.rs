//! Jobs, blame and the causes of misses on a guest's kernel, with the typed programs and with their
//! twins on raw tracepoints.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_api::{
    CauseKind, ClassBlame, Culprit, CulpritKind, Miss, Release, Rhythm, Snapshot, Source,
    ThreadJobs,
};
use downbeat_tests::agent::{Agent, Load, Place};

use super::{Check, place};
use crate::machine::Group;

/// In the order in which they run.
pub const CHECKS: &[Check] = &[
    ("typed programs all run", || every_program_runs(TYPED)),
    ("raw programs all run", || every_program_runs(RAW)),
    ("typed programs find jobs and their beat", || beat_is_found(TYPED)),
    ("raw programs find jobs and their beat", || beat_is_found(RAW)),
    ("typed programs name the rivals", || rivals_are_named(TYPED)),
    ("raw programs name the rivals", || rivals_are_named(RAW)),
    ("typed programs tell that a quota is the cause of a miss", quota_is_the_cause),
];

/// The agent's arguments for each way in which the programs attach.
const TYPED: &[&str] = &[];
const RAW: &[&str] = &["--btf", "/sys/kernel/btf/vmlinux"];

/// The kernel's tracepoints that the agent's programs are on.
const PROGRAMS: usize = 20;

/// Instructions that a verifier follows for one program. It gives up at a million
/// (`BPF_COMPLEXITY_LIMIT_INSNS`), and kernels differ by more than twice in how many they follow.
const VERIFIED_AT_MOST: u64 = 500_000;

/// The beats that are looked for, nanoseconds, and what gives them.
const TIMER: Beat = ("timerfd", 10_000_000);
const PIPE: Beat = ("pipe", 20_000_000);

/// A beat so slow that the thread sleeps before each release, however slow the emulation is, and
/// that does not keep step with a quota's period. One that is always behind has no jobs to see.
const SLOW: Beat = ("timerfd", 170_000_000);

/// Both classes on one CPU, and the rivals always ahead: 20 ms on, 20 ms off in the mean, so that
/// the others wait whatever the kernel's idea of fairness is, and sleep again in between.
const RIVALS: &str = r#"
schema = 1

[class.voice]
modality = "audio"
tier = "interactive"
deadline = "2ms"
sched = "keep"
cpus = "0"

[class.rivals]
tier = "background"
# An emulated CPU is slow: none of them is to be taken for a runaway.
deadline = "5s"
sched = { policy = "fifo", priority = 5 }
cpus = "0"

[[rule]]
name = "periodic"
class = "voice"
match = { exe = "{bin}/downbeat-load", cmdline = "* periodic *" }

[[rule]]
name = "rivals"
class = "rivals"
match = { exe = "{bin}/downbeat-load", cmdline = "* bursty *" }
"#;

/// One class that changes nothing.
const ALONE: &str = r#"
schema = 1

[class.voice]
modality = "audio"
tier = "interactive"
deadline = "8ms"
sched = "keep"

[[rule]]
name = "periodic"
class = "voice"
match = { exe = "{bin}/downbeat-load", cmdline = "* periodic *" }
"#;

fn every_program_runs(way: &[&str]) -> Result<()> {
    let place = place()?;
    let agent = place.start(way)?;
    let snapshot = agent.wait_for(|snapshot| {
        let known = !snapshot.cost.bpf.as_ref()?.programs.is_empty();
        known.then(|| snapshot.clone())
    })?;
    let programs = snapshot.cost.bpf.unwrap_or_default().programs;
    let names: Vec<&str> = programs.iter().map(|program| program.name.as_str()).collect();
    ensure!(snapshot.source == Source::Bpf, "{:?}\n{}", snapshot.source, agent.log());
    ensure!(names.len() == PROGRAMS, "{names:?}; {:?}\n{}", snapshot.notices, agent.log());
    let raw = names.iter().all(|name| name.starts_with("raw_"));
    ensure!(raw != way.is_empty(), "{names:?}");
    // Each part that a kernel lacks is one of these.
    ensure!(snapshot.notices.is_empty(), "{:?}", snapshot.notices);
    let most = most_verified(agent.pid())?;
    println!("verified instructions: {most}");
    ensure!(most <= VERIFIED_AT_MOST, "{most} instructions: near what this kernel refuses");
    Ok(())
}

/// Instructions that the verifier followed for the dearest of a process's programs.
fn most_verified(pid: u32) -> Result<u64> {
    let directory = format!("/proc/{pid}/fdinfo");
    let mut most = None;
    for descriptor in fs::read_dir(&directory).context(directory)?.flatten() {
        let Ok(text) = fs::read_to_string(descriptor.path()) else { continue };
        let verified = text.lines().find_map(|line| line.strip_prefix("verified_insns:"));
        most = most.max(verified.and_then(|number| number.trim().parse().ok()));
    }
    most.context("no descriptor of a program that tells of its verified_insns")
}

fn beat_is_found(way: &[&str]) -> Result<()> {
    let place = Place::new()?;
    place.policy("50-test.toml", ALONE)?;
    let agent = place.start(way)?;
    let by_timer = periodic(&place, TIMER)?;
    let by_pipe = periodic(&place, PIPE)?;
    has_beat(&agent, &by_timer, TIMER, Release::Timer)?;
    has_beat(&agent, &by_pipe, PIPE, Release::Wake)
}

/// Waits until jobs of the load's main thread are counted and its beat is the right one.
fn has_beat(agent: &Agent, load: &Load, (via, period_ns): Beat, release: Release) -> Result<()> {
    let right = |jobs: &ThreadJobs| {
        let Some(Rhythm::Periodic { period_ns: found, .. }) = jobs.rhythm else { return false };
        jobs.tid == load.pid()
            && jobs.total.jobs >= 20
            && jobs.release == Some(release)
            && found.abs_diff(period_ns) * 50 <= period_ns
    };
    let found = |snapshot: &Snapshot| snapshot.jobs.iter().any(right).then_some(());
    agent.wait_for(found).with_context(|| format!("no beat of {period_ns} ns by {via}"))
}

fn rivals_are_named(way: &[&str]) -> Result<()> {
    let place = Place::new()?;
    place.policy("50-test.toml", RIVALS)?;
    let agent = place.start(way)?;
    let record = place.records().join("hog");
    let record = record.to_string_lossy();
    let _rivals = place.load(&["bursty", "--record", &record, "--seconds", "600"])?;
    let _load = periodic(&place, SLOW)?;
    let is_rivals =
        |culprit: &Culprit| culprit.kind == CulpritKind::Class && culprit.name == "rivals";
    let behind = |miss: &Miss| {
        miss.class.as_deref() == Some("voice")
            && miss.deadline_ns == 2_000_000
            && miss.cause.kind == CauseKind::RanBehind
            && miss.cause.text.contains("rivals")
            && miss.culprits.first().is_some_and(is_rivals)
    };
    agent
        .wait_for(|snapshot| snapshot.misses.iter().any(behind).then_some(()))
        .context("no miss that ran behind the rivals")?;
    // The worst of all that the class ever waited for.
    agent
        .wait_for(|snapshot| {
            let voice = |blame: &&ClassBlame| blame.class.as_deref() == Some("voice");
            let worst = snapshot.blame.iter().find(voice)?.total.first()?;
            is_rivals(worst).then_some(())
        })
        .context("voice did not wait for the rivals most")
}

fn quota_is_the_cause() -> Result<()> {
    let place = Place::new()?;
    place.policy("50-test.toml", ALONE)?;
    let group = Group::new("held-back")?;
    group.limit(Duration::from_millis(50), Duration::from_millis(200))?;
    let load = periodic(&place, SLOW)?;
    group.take_in(load.pid())?;
    // It uses the quota up, for both.
    let record = place.records().join("hog");
    let hog = place.load(&["hog", "--record", &record.to_string_lossy()])?;
    group.take_in(hog.pid())?;
    let agent = place.start(TYPED)?;
    let throttled = |miss: &Miss| {
        miss.pid == load.pid()
            && miss.cause.kind == CauseKind::Throttled
            && miss.cause.text.contains("quota")
    };
    agent.wait_for(|snapshot| snapshot.misses.iter().any(throttled).then_some(()))
}

/// What releases a load, and how often.
type Beat = (&'static str, u64);

/// A thread that works for a millisecond at each beat.
fn periodic(place: &Place, (via, period_ns): Beat) -> Result<Load> {
    let period = format!("{period_ns}ns");
    let account = place.records().join(via);
    let account = account.to_string_lossy();
    let work = ["--work", "1ms", "--seconds", "600", "--json", &account];
    place.load(&[&["periodic", "--via", via, "--period", &period], &work[..]].concat())
}
