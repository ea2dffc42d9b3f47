//! From an exec to the last thread set, on an idle and on the loaded machine: by the agent's own
//! histogram, and by looking from outside.

use std::time::Duration;

use anyhow::{Context, Result};
use downbeat_tests::agent::{Agent, Place};
use downbeat_tests::clock::now_ns;
use downbeat_tests::cpu_time::HostTime;
use downbeat_tests::processes::tids;
use downbeat_tests::threads::{self, FIFO, Scheduling};

use crate::demo::{self, report::ms, report::quantile, scene::Scene};
use crate::signals::Signals;
use crate::workspace;

const PROGRAMS: usize = 200;
/// Threads of each, the main one among them.
const THREADS: usize = 5;
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// A program that has no class, or not all of its threads, by then counts as this late.
const GIVE_UP_NS: u64 = 500_000_000;
/// Above everything that the demo runs but the sound card.
const OBSERVER_PRIORITY: u32 = 70;
/// Tried before the demo's own rules.
const POLICY: &str = r#"
schema = 1

[class.measured]
tier = "realtime"
sched = { policy = "fifo", priority = 5 }

[[rule]]
name = "measured"
class = "measured"
priority = 100
match = { exe = "{bin}/downbeat-load", cmdline = "* crowd *" }
"#;

/// Starts 200 programs one after the other and prints how long each was without its class.
pub fn run(build: bool) -> Result<()> {
    let signals = demo::prepare(build)?;
    {
        let place = Place::from_programs(&workspace::release_programs(), "downbeat-exec.")?;
        place.policy("50-measured.toml", POLICY)?;
        let agent = place.start(&[])?;
        println!("idle:");
        measure(&place, &agent, &signals)?;
    }
    let before = threads::table();
    let scene = Scene::start(180, "127.0.0.1:0", Some(POLICY), &signals)?;
    println!("saturated:");
    let measured = measure(scene.place(), scene.agent(), &signals);
    let left_behind = scene.end(&before);
    measured?;
    demo::tell_left_behind(&left_behind)
}

fn measure(place: &Place, agent: &Agent, signals: &Signals) -> Result<()> {
    signals.sleep(Duration::from_secs(1))?;
    let (before, host) = (exec_count(agent)?, HostTime::read()?);
    // On a thread of its own, whose priority its children do not inherit.
    let observed = std::thread::scope(|scope| {
        scope.spawn(|| observe(place, signals)).join().map_err(|_| anyhow::anyhow!("panicked"))
    })??;
    let steal = HostTime::read()?.steal_since(&host);
    // What is asked for is at most 1.25 s old: the next one has all of them.
    signals.sleep(Duration::from_millis(1500))?;
    let told = agent.snapshot()?.actions.exec_to_set.context("no exec was seen")?;
    println!(
        "  told by the agent: p50 {}, p99 {}, max {} over {} of {PROGRAMS} programs; steal {:.1} %",
        ms(told.p50_ns),
        ms(told.p99_ns),
        ms(told.max_ns),
        told.count.saturating_sub(before),
        steal * 100.0
    );
    let times = [
        ("main thread set", observed.main),
        ("last thread there", observed.there),
        ("last thread set", observed.last),
    ];
    for (what, mut times) in times {
        times.sort_unstable();
        println!(
            "  seen from outside, exec to {what}: p50 {}, p99 {}, max {} over {}",
            ms(quantile(&times, 0.5)),
            ms(quantile(&times, 0.99)),
            ms(times.last().copied()),
            times.len()
        );
        let never = times.iter().filter(|&&time| time >= GIVE_UP_NS).count();
        if never > 0 {
            println!("    of these {never} had no class after {} ms", GIVE_UP_NS / 1_000_000);
        }
    }
    Ok(())
}

fn exec_count(agent: &Agent) -> Result<u64> {
    Ok(agent.snapshot()?.actions.exec_to_set.map_or(0, |summary| summary.count))
}

#[derive(Default)]
struct Observed {
    main: Vec<u64>,
    /// When the program had made its threads: no doing of the agent's.
    there: Vec<u64>,
    last: Vec<u64>,
}

fn observe(place: &Place, signals: &Signals) -> Result<Observed> {
    Scheduling::fifo(OBSERVER_PRIORITY).apply(0).context("becoming SCHED_FIFO")?;
    let mut observed = Observed::default();
    let threads = (THREADS - 1).to_string();
    for _ in 0..PROGRAMS {
        // Returns when the exec has succeeded.
        let program = place.load(&["crowd", "--threads", &threads, "--live", "600ms"])?;
        let exec = now_ns();
        let [mut main, mut there, mut last] = [GIVE_UP_NS; 3];
        while now_ns() - exec < GIVE_UP_NS {
            let set = |tid: &u32| Scheduling::of(*tid).is_ok_and(|s| s.policy == FIFO);
            let now = now_ns() - exec;
            if main == GIVE_UP_NS && set(&program.pid()) {
                main = now;
            }
            let tids = tids(program.pid());
            if there == GIVE_UP_NS && tids.len() == THREADS {
                there = now_ns() - exec;
            }
            if tids.len() == THREADS && tids.iter().all(set) {
                last = now;
                break;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        observed.main.push(main);
        observed.there.push(there);
        observed.last.push(last);
        drop(program);
        signals.sleep(Duration::from_millis(20))?;
    }
    Ok(observed)
}
