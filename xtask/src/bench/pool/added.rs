//! What the pool adds to a call of the same model in the client's process, call by call in turns.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::report::{Asked, Row};
use super::running::{Ground, Order};
use super::{Bench, Measured, client, mean};

const POOL: &str = "[worker.mean]\nmodel = \"mean\"\n[worker.intent]\nmodel = \"intent\"\n";

/// Rounds, each with a pool of its own; medians of them count.
const ROUNDS: usize = 3;

#[derive(Deserialize)]
struct Results {
    cases: Vec<Told>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Told {
    name: String,
    bytes: usize,
    turns: usize,
    here: Quantiles,
    hops: Quantiles,
    rest: Quantiles,
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
    let rounds = if bench.quick { 1 } else { ROUNDS };
    let turns = if bench.quick { 500 } else { 4000 };
    let mut told: Vec<Told> = Vec::new();
    for _ in 0..rounds {
        let mut pool = ground.pool(POOL, Order::Deadline)?;
        pool.wait(2, bench.signals)?;
        let case = |name: &str, model: &str| {
            json!({ "name": name, "model": model, "onnx": ground.onnx(model),
                "input": ground.input(model, 1) })
        };
        let plan = json!({ "added": {
            "rest": pool.socket("rest.sock"), "grpc": pool.socket("grpc.sock"),
            "turns": turns, "warm_up": turns / 10,
            "cases": [case("307 kB", mean::NAME), case("small", "intent")],
        } });
        told.extend(client::run::<Results>(&plan, bench.signals)?.cases);
    }
    let mut rows = Vec::new();
    for (name, p50, p99) in [("307 kB", 120.0, Some(400.0)), ("small", 60.0, None)] {
        let of_case: Vec<&Told> = told.iter().filter(|it| it.name == name).collect();
        let middle = |value: fn(&Told) -> f64| -> Result<f64> {
            let values: Vec<f64> = of_case.iter().map(|told| value(told)).collect();
            (!values.is_empty()).then(|| crate::demo::work::median(values)).context("no rounds")
        };
        let whole = format!(
            "here {:.0}, through the pool {:.0} µs",
            middle(|it| it.here.p50)?,
            middle(|it| it.rest.p50)?
        );
        let added = middle(|it| it.rest.p50 - it.here.p50)?;
        rows.push(
            Row::new(format!("{name}, REST, p50"), "µs", Asked::AtMost(p50), added).note(whole),
        );
        let asked = p99.map_or(Asked::Nothing, Asked::AtMost);
        let added = middle(|it| it.rest.p99 - it.here.p99)?;
        let whole = format!(
            "here {:.0}, through the pool {:.0} µs",
            middle(|it| it.here.p99)?,
            middle(|it| it.rest.p99)?
        );
        rows.push(Row::new(format!("{name}, REST, p99"), "µs", asked, added).note(whole));
        for (quantile, bare) in
            [("p50", middle(|it| it.hops.p50)?), ("p99", middle(|it| it.hops.p99)?)]
        {
            let name = format!("{name}, four wake-ups alone, {quantile}");
            rows.push(Row::new(name, "µs", Asked::Nothing, bare));
        }
        for (quantile, added) in [
            ("p50", middle(|it| it.grpc.p50 - it.here.p50)?),
            ("p99", middle(|it| it.grpc.p99 - it.here.p99)?),
        ] {
            rows.push(Row::new(format!("{name}, gRPC, {quantile}"), "µs", Asked::Nothing, added));
        }
    }
    Ok(Measured { rows, details: json!(told) })
}
