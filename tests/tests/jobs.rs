//! What the kernel programs say of jobs and blame, beside what the load says of itself. Needs
//! root.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use downbeat_abi::{Culprit, CulpritKind, Job, Miss};
use downbeat_agent::model::rhythm::rhythm;
use downbeat_agent::observe::kernel::{KernelEvent, KernelProbes, ProbeOptions};
use downbeat_agent::roots::Roots;
use downbeat_api::Rhythm;
use serde::Deserialize;

/// A deadline that every job misses, so that each tells its story.
const EVERY_JOB: u64 = 1;

#[derive(Deserialize)]
struct Start {
    pid: u32,
    tid: u32,
}

#[derive(Deserialize)]
struct Account {
    jobs: Vec<Known>,
}

/// A job as the load saw it.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Known {
    release_ns: u64,
    completion_ns: u64,
    cpu_ns: u64,
    slept: bool,
}

struct Load {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Load {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_downbeat-load"))
            .args(arguments)
            .args(["--json", "-"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn line<T: for<'a> Deserialize<'a>>(&mut self) -> T {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn probes() -> Option<KernelProbes> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    let options = match std::env::var_os("DOWNBEAT_TEST_BTF") {
        Some(path) => ProbeOptions { btf: Some(path.into()), ..ProbeOptions::default() },
        None => ProbeOptions::default(),
    };
    Some(KernelProbes::load(&Roots::default(), &options).expect("the programs load as root"))
}

/// What was seen of a load while it ran.
struct Seen {
    known: Vec<Known>,
    misses: Vec<Miss>,
    job: Box<Job>,
    rhythm: Option<Rhythm>,
}

/// Runs `downbeat-load periodic` with its thread followed.
fn follow(probes: &mut KernelProbes, arguments: &[&str]) -> Seen {
    let mut load = Load::start(&[&["periodic"], arguments].concat());
    let Start { tid, .. } = load.line();
    probes.manage(tid, 0).unwrap();
    probes.set_deadline(tid, EVERY_JOB);
    let mut events = Vec::new();
    let mut job = None;
    let begun = Instant::now();
    while load.child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(50));
        probes.drain(&mut events);
        job = probes.jobs().into_iter().find(|job| job.tid == tid).or(job);
    }
    probes.drain(&mut events);
    probes.unmanage(tid);
    let job = job.expect("the thread is followed").job;
    let misses = events.into_iter().filter_map(|event| match event {
        KernelEvent::Miss(miss) if miss.tid == tid => Some(*miss),
        _ => None,
    });
    let account: Account = load.line();
    Seen { known: account.jobs, misses: misses.collect(), rhythm: rhythm(&latest(&job)), job }
}

fn latest(job: &Job) -> Vec<u64> {
    let (count, kept) = (job.release_count as usize, job.releases.len());
    (count.saturating_sub(kept)..count).map(|n| job.releases[n % kept]).collect()
}

/// Each job that both saw: what the load says, and what the kernel programs say.
fn pairs(seen: &Seen) -> Vec<(Known, Miss)> {
    let mut pairs = Vec::new();
    for known in &seen.known {
        let near = seen.misses.iter().min_by_key(|m| m.story.release_ns.abs_diff(known.release_ns));
        if let Some(miss) = near
            && miss.story.release_ns.abs_diff(known.release_ns) < 2_000_000
        {
            pairs.push((*known, *miss));
        }
    }
    pairs
}

fn at_share(mut values: Vec<u64>, share: f64) -> u64 {
    values.sort_unstable();
    values[((values.len() - 1) as f64 * share) as usize]
}

#[test]
fn explore() {
    let vias = std::env::var("VIAS").unwrap_or("nanosleep,timerfd,poll,epoll,pipe,socket,poisson".into());
    let Some(mut probes) = probes() else { return };
    for limit in probes.limits() {
        println!("limit: {} {}", limit.feature, limit.reason);
    }
    for via in vias.split(',') {
        let seen = follow(&mut probes, &["--via", via, "--period", "10ms", "--work", "1ms", "--seconds", "3"]);
        let pairs = pairs(&seen);
        let off: Vec<u64> = pairs
            .iter()
            .map(|(k, m)| (m.time_ns - m.story.release_ns).abs_diff(k.completion_ns - k.release_ns))
            .collect();
        for (k, m) in pairs.iter().filter(|(k, m)| (m.time_ns - m.story.release_ns).abs_diff(k.completion_ns - k.release_ns) > 100_000).take(6) {
            let r = k.release_ns;
            println!("   AT {} {} {:?} io {} fault {} rec {} late {} kernel: rel {} start {} end {} wait {} run {} cost {} sleep {}; known end {}", k.release_ns, m.story.faults, k.slept, m.story.io_ns, m.story.fault_ns, m.story.reclaim_ns, m.story.late_ns, m.story.release_ns as i64 - r as i64, m.story.started_ns as i64 - r as i64, m.time_ns as i64 - r as i64, m.story.wait_ns, m.story.run_ns, m.story.cost_ns, m.story.sleep_ns, k.completion_ns - r);
        }
        let cost: Vec<u64> = pairs.iter().map(|(k, m)| m.story.cost_ns.abs_diff(k.cpu_ns)).collect();
        let (n, p50, p99, cost) = if off.is_empty() { (0, 0, 0, 0) } else {
            (off.len(), at_share(off.clone(), 0.5), at_share(off, 0.99), at_share(cost, 0.5))
        };
        println!(
            "{via}: known {} slept {} jobs {} misses {} pairs {n} off p50 {p50} p99 {p99} cost off {cost} released {:?} rhythm {:?}",
            seen.known.len(),
            seen.known.iter().filter(|k| k.slept).count(),
            seen.job.jobs,
            seen.misses.len(),
            seen.job.released,
            seen.rhythm,
        );
    }
    for blame in probes.blame(u64::MAX) {
        let Culprit { kind, id, comm, ns } = blame.culprit;
        println!("{:?} {id} {} {ns}", CulpritKind::from_raw(kind), String::from_utf8_lossy(&comm));
    }
    println!("{:?}", probes.counters());
    for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        if text.contains("prog_id") && !text.contains("recursion_misses:\t0") {
            println!("MISSED {text}");
        }
    }
}
