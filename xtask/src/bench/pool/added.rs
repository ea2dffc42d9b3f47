//! What the pool adds to a call of the same model in the client's process.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::report::{Asked, Row};
use super::running::{Ground, Order};
use super::{Bench, Measured, client, mean};
use crate::demo::work::median;

const POOL: &str = "[worker.mean]\nmodel = \"mean\"\n[worker.intent]\nmodel = \"intent\"\n";

/// The pool's thread as `policies/50-pool.toml` has it, and no idle CPU sleeps while it is there.
const AWAKE: &str = r#"
schema = 1

[class.dispatcher]
tier = "realtime"
sched = { policy = "fifo", priority = 40 }
wakeup_latency = "0ns"

[[rule]]
name = "the pool's dispatcher"
class = "dispatcher"
match = { exe = "{bin}/downbeat-pool", thread = "downbeat-pool" }
"#;

/// Rounds of each setting, each with a pool of its own; medians of them count.
const ROUNDS: usize = 3;

/// How the pool is asked.
struct Setting {
    name: &'static str,
    /// With the agent, and [`AWAKE`].
    agent: bool,
    /// See the client's plan.
    period_us: u64,
    turns: usize,
    row: usize,
}

/// The first is the one that figures are asked of.
const SETTINGS: [Setting; 3] = [
    Setting { name: "", agent: true, period_us: 0, turns: 40, row: 100 },
    Setting { name: ", each 10 ms", agent: true, period_us: 10_000, turns: 4, row: 50 },
    Setting { name: ", without the agent", agent: false, period_us: 0, turns: 40, row: 100 },
];

#[derive(Deserialize)]
struct Results {
    cases: Vec<Told>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Told {
    name: String,
    bytes: usize,
    calls: usize,
    here: Quantiles,
    hops: Quantiles,
    rest: Quantiles,
    shared: Quantiles,
    grpc: Quantiles,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
}

/// Runs it.
pub fn run(bench: &Bench<'_>) -> Result<Measured> {
    let ground = Ground::new()?;
    let (mut rows, mut details) = (Vec::new(), Vec::new());
    for setting in &SETTINGS {
        let told = run_setting(bench, &ground, setting)?;
        for (case, large) in [("307 kB", true), ("small", false)] {
            let told: Vec<Told> = told.iter().filter(|it| it.name == case).cloned().collect();
            rows.extend(rows_of(setting, case, large, &told)?);
        }
        details.push(json!({ "setting": setting.name, "rounds": told }));
    }
    Ok(Measured { rows, details: json!(details) })
}

fn run_setting(bench: &Bench<'_>, ground: &Ground, setting: &Setting) -> Result<Vec<Told>> {
    let _agent = setting.agent.then(|| ground.agent_with(AWAKE)).transpose()?;
    let mut told = Vec::new();
    for _ in 0..if bench.quick { 1 } else { ROUNDS } {
        let mut pool = ground.pool(POOL, Order::Deadline)?;
        pool.wait(2, bench.signals)?;
        let case = |name: &str, model: &str| {
            json!({ "name": name, "model": model, "onnx": ground.onnx(model),
                "input": ground.input(model, 1) })
        };
        let turns = if bench.quick { setting.turns.div_ceil(8) } else { setting.turns };
        let plan = json!({ "added": {
            "rest": pool.socket("rest.sock"), "grpc": pool.socket("grpc.sock"),
            "turns": turns, "row": setting.row, "period_us": setting.period_us,
            "cases": [case("307 kB", mean::NAME), case("small", "intent")],
        } });
        told.extend(client::run::<Results>(&plan, bench.signals)?.cases);
    }
    Ok(told)
}

type Of = fn(&Told) -> Quantiles;

/// The ways, what is asked of their p50 and p99 in the first setting, and whether a small tensor is
/// sent by them.
const WAYS: [(&str, Of, [Option<f64>; 2], bool); 4] = [
    ("shared memory, REST", |it| it.shared, [Some(120.0), Some(400.0)], false),
    ("REST", |it| it.rest, [None, None], true),
    ("gRPC", |it| it.grpc, [None, None], true),
    ("four wake-ups alone", |it| it.hops, [None, None], true),
];

type At = fn(Quantiles) -> f64;

const QUANTILES: [(&str, At); 2] = [("p50", |it| it.p50), ("p99", |it| it.p99)];

fn rows_of(setting: &Setting, case: &str, large: bool, told: &[Told]) -> Result<Vec<Row>> {
    let middle = |value: &dyn Fn(&Told) -> f64| {
        let values: Vec<f64> = told.iter().map(value).collect();
        (!values.is_empty()).then(|| median(values)).context("no rounds")
    };
    let mut rows = Vec::new();
    for (way, of, limits, small) in WAYS {
        if !large && !small {
            continue;
        }
        let limits = if !large && way == "REST" { [Some(60.0), None] } else { limits };
        for ((quantile, at), limit) in QUANTILES.into_iter().zip(limits) {
            let name = format!("{case}, {way}, {quantile}{}", setting.name);
            let limit = limit.filter(|_| setting.name.is_empty());
            let asked = limit.map_or(Asked::Nothing, Asked::AtMost);
            let whole = middle(&|it| at(of(it)))?;
            if way == "four wake-ups alone" {
                rows.push(Row::new(name, "µs", asked, whole));
                continue;
            }
            let here = middle(&|it| at(it.here))?;
            let added = middle(&|it| at(of(it)) - at(it.here))?;
            let note = format!("here {here:.0}, through the pool {whole:.0} µs");
            rows.push(Row::new(name, "µs", asked, added).note(note));
        }
    }
    Ok(rows)
}
