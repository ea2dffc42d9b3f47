//! Sound every 10 ms, pictures every 33 ms, text at random times, and background work that takes
//! what is left: with the agent, with the pool alone, and with a queue in order of arrival and
//! nobody to tell the kernel which is which.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use downbeat_tests::cpu_time::{self, HostTime};
use serde::Serialize;
use serde_json::{Value, json};

use super::client::{self, Results};
use super::report::{Asked, Row};
use super::running::{Ground, Order, Running};
use super::stalls::Watch;
use super::{Bench, Measured};
use crate::demo::work::median;

const POOL: &str = r#"
[worker.mic]
model = "denoise"
deadline = "10ms"

[worker.video]
model = "glyphs"
media = "video"
deadline = "33ms"

[worker.text]
model = "intent"
media = "text"
deadline = "200ms"

[worker.embed]
model = "intent"
media = "background"
instances = 2
"#;

/// Workers of [`POOL`].
const WORKERS: usize = 5;

/// Of these, that which takes what is left.
const BACKGROUND: &str = "embed";

/// Pictures of one frame, and sentences of one piece of background work.
const GLYPHS: u64 = 16;
const SENTENCES: u64 = 64;

/// Requests of background work at a time: both its workers always have the next one.
const AT_A_TIME: usize = 6;

/// Rounds of all arrangements, and pairs of background work alone and everything together in each of
/// them: what a shared machine does in one second it does not do in the next.
const ROUNDS: usize = 2;
const PAIRS: usize = 3;

/// A pair from which the hypervisor took more than this part of the CPUs' time says nothing of us: a
/// few stolen milliseconds are a late frame, whoever schedules.
const CALM: f64 = 0.005;

/// Nor does one in which a CPU stood still for longer than this: half of what sound has.
const STALL: Duration = Duration::from_millis(5);

/// How the load is scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Arrangement {
    /// The pool's queue by deadline, the agent's classes.
    Downbeat,
    /// The pool's queue by deadline alone.
    PoolAlone,
    /// The queue by arrival, no classes.
    Fifo,
}

/// Background work alone, and right after it everything together.
#[derive(Clone, Debug, Serialize)]
struct Pair {
    arrangement: Arrangement,
    mixed: Results,
    /// Background work a second with nothing beside it.
    alone: f64,
    /// Part of the CPUs' time that the hypervisor took of everything together.
    steal: f64,
    /// How long a CPU stood still at the most, of everything together.
    stall: Duration,
    /// Part of the CPUs' time that streams, pool and client left, of everything together.
    left: f64,
    /// Background work's part of what they left: work per CPU time that was left, against the same
    /// alone.
    filled: f64,
}

/// Runs it.
pub fn run(bench: &Bench<'_>) -> Result<Measured> {
    let ground = Ground::new()?;
    let mut pairs = Vec::new();
    for _ in 0..if bench.quick { 1 } else { ROUNDS } {
        for arrangement in [Arrangement::Downbeat, Arrangement::PoolAlone, Arrangement::Fifo] {
            pairs.extend(round(bench, &ground, arrangement)?);
        }
    }
    let mut rows = Vec::new();
    for (arrangement, name) in [
        (Arrangement::Downbeat, ""),
        (Arrangement::PoolAlone, ", pool without agent"),
        (Arrangement::Fifo, ", in order of arrival without agent"),
    ] {
        let asked = |least| match arrangement {
            Arrangement::Downbeat => Asked::AtLeast(least),
            Arrangement::PoolAlone | Arrangement::Fifo => Asked::Nothing,
        };
        let all: Vec<&Pair> = pairs.iter().filter(|it| it.arrangement == arrangement).collect();
        let is_calm = |pair: &&&Pair| pair.steal <= CALM && pair.stall <= STALL;
        let calm: Vec<&Pair> = all.iter().filter(is_calm).copied().collect();
        let left_out = all.len() - calm.len();
        // With none that is calm, better a spoilt figure that says so than none.
        let (of, spoilt) = match left_out {
            0 => (calm, String::new()),
            _ if calm.is_empty() => (all, "; every pair spoilt by the host".to_owned()),
            _ => (calm, format!("; {left_out} of {} pairs left out for the host", all.len())),
        };
        for (stream, least) in [("mic", 99.9), ("video", 99.5)] {
            // Of all frames, since a bad pair must not vanish in a median.
            let told = of.iter().map(|it| it.mixed.of(stream)).collect::<Result<Vec<_>>>()?;
            let sum =
                |count: fn(&client::Told) -> u64| told.iter().map(|it| count(it)).sum::<u64>();
            let (asked_for, in_time) = (sum(|it| it.asked), sum(|it| it.in_time));
            let p99 = told.iter().map(|it| it.p99_us).fold(0.0, f64::max) / 1e3;
            let share = in_time as f64 / asked_for.max(1) as f64 * 100.0;
            rows.push(
                Row::new(format!("{stream} in time{name}"), "%", asked(least), share)
                    .note(format!("{asked_for} frames, p99 {p99:.1} ms{spoilt}")),
            );
        }
        let text = of.iter().map(|it| it.mixed.of("text")).collect::<Result<Vec<_>>>()?;
        let share = median(text.iter().map(|it| it.attainment * 100.0).collect());
        rows.push(Row::new(format!("text in time{name}"), "%", Asked::Nothing, share));
        let filled = median(of.iter().map(|it| it.filled * 100.0).collect());
        let note = format!(
            "{:.0}/s of {:.0}/s alone; the others leave {:.0} % of the CPUs",
            median(
                of.iter().map(|it| it.mixed.of(BACKGROUND).map_or(0.0, |it| it.goodput)).collect()
            ),
            median(of.iter().map(|it| it.alone).collect()),
            median(of.iter().map(|it| it.left * 100.0).collect()),
        );
        let what = format!("background's part of what is left{name}");
        rows.push(Row::new(what, "%", asked(90.0), filled).note(note));
    }
    Ok(Measured { rows, details: json!(pairs) })
}

fn round(bench: &Bench<'_>, ground: &Ground, arrangement: Arrangement) -> Result<Vec<Pair>> {
    let order = match arrangement {
        Arrangement::Downbeat | Arrangement::PoolAlone => Order::Deadline,
        Arrangement::Fifo => Order::Arrival,
    };
    let mut pool = ground.pool(POOL, order)?;
    let status = pool.wait(WORKERS, bench.signals)?;
    let _agent = match arrangement {
        Arrangement::Downbeat => Some(ground.agent()?),
        Arrangement::PoolAlone | Arrangement::Fifo => None,
    };
    let in_front = status.workers.iter().filter(|it| !it.name.starts_with(BACKGROUND));
    let pids: Vec<u32> = in_front.filter_map(|it| it.pid).chain([pool.pid()]).collect();
    let streams = streams(ground, &pool)?;
    let run = |names: &[&str], seconds: f64| -> Result<(Results, f64)> {
        let asked: Vec<Value> =
            names.iter().filter_map(|name| streams.get(name).cloned()).collect();
        let (before, began) = (clocks(&pids)?, Instant::now());
        let results: Results = client::run(&client::streams(seconds, 0.7, &asked), bench.signals)?;
        let used = (clocks(&pids)? - before).as_secs_f64() + results.client_cpu_seconds;
        let left = 1.0 - used / (began.elapsed().as_secs_f64() * cpus() as f64);
        Ok((results, left))
    };
    let pair = || -> Result<Pair> {
        let (alone, left_alone) = run(&[BACKGROUND], bench.seconds(2.0))?;
        let before = HostTime::read()?;
        let watch = Watch::start(cpus());
        let (mixed, left) = run(&["mic", "video", "text", BACKGROUND], bench.seconds(4.0))?;
        let stall = watch.end()?;
        let steal = HostTime::read()?.steal_since(&before);
        let alone = alone.of(BACKGROUND)?.goodput;
        let filled = mixed.of(BACKGROUND)?.goodput / left / (alone / left_alone).max(1.0);
        Ok(Pair { arrangement, mixed, alone, steal, stall, left, filled })
    };
    (0..if bench.quick { 1 } else { PAIRS }).map(|_| pair()).collect()
}

/// CPU time of processes up to now.
fn clocks(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| cpu_time::of_process(*pid)).sum()
}

/// CPUs of the host.
fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn streams(ground: &Ground, pool: &Running<'_>) -> Result<BTreeMap<&'static str, Value>> {
    let stream = |name: &str, input: Value, pace: Value, deadline_ms: f64| {
        json!({
            "name": name, "target": pool.target(), "path": format!("/v2/models/{name}/infer"),
            "input": input, "binary": true, "pace": pace, "deadline_ms": deadline_ms,
            "connections": 16, "give_up_ms": 1000.0,
        })
    };
    // One frame: 480 samples of a tone.
    let tone = ground.place.path("tone.pcm");
    let sample = |at: u32| ((f64::from(at) * 0.0576).sin() * 8000.0) as i16;
    std::fs::write(&tone, (0..480).flat_map(|at| sample(at).to_le_bytes()).collect::<Vec<_>>())?;
    let frame = json!({ "name": "pcm", "datatype": "INT16", "shape": [480], "data": tone });
    Ok(BTreeMap::from([
        ("mic", stream("mic", frame, json!({ "even": 100.0 }), 10.0)),
        ("video", stream("video", ground.many("glyphs", GLYPHS)?, json!({ "even": 30.0 }), 33.0)),
        ("text", stream("text", ground.input("intent", 1), json!({ "poisson": 50.0 }), 200.0)),
        (
            "embed",
            stream(
                "embed",
                ground.many("intent", SENTENCES)?,
                json!({ "at_a_time": AT_A_TIME }),
                1e6,
            ),
        ),
    ]))
}
