//! Memory of the pool's own process with 1,000 connections idle and 200 in use.

use anyhow::{Result, ensure};
use serde_json::json;

use super::client::{self, Results};
use super::report::{Asked, Row};
use super::running::{Ground, Order};
use super::{Bench, Measured};

const POOL: &str =
    "[worker.intent]\nmodel = \"intent\"\nmedia = \"text\"\ndeadline = \"5s\"\nbatch = 16\n";

const IDLE: usize = 1000;
const ACTIVE: usize = 200;

/// Runs it.
pub fn run(bench: &Bench<'_>) -> Result<Measured> {
    let ground = Ground::new()?;
    let mut pool = ground.pool(POOL, Order::Deadline)?;
    pool.wait(1, bench.signals)?;
    let (_, fresh) = pool.memory()?;
    let stream = json!({
        "name": "active", "target": pool.target(), "path": "/v2/models/intent/infer",
        "input": ground.input("intent", 1), "binary": true, "expected": ground.expected("intent"),
        "pace": { "at_a_time": ACTIVE }, "deadline_ms": 5000.0, "connections": ACTIVE,
        "give_up_ms": 5000.0,
    });
    let mut plan = client::streams(bench.seconds(10.0), 1.0, &[stream]);
    plan["streams"]["idle"] = json!([{ "target": pool.target(), "connections": IDLE }]);
    let results: Results = client::run(&plan, bench.signals)?;
    let active = results.of("active")?;
    ensure!(
        active.wrong + active.lost + active.failed == 0 && active.answered > 0,
        "the requests beside: {active:?}"
    );
    let (highest, _) = pool.memory()?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let note = format!(
        "{:.1} MiB without connections; {:.0} requests a second meanwhile",
        mib(fresh),
        active.goodput
    );
    let what = format!("memory at its highest, {IDLE} connections idle and {ACTIVE} in use");
    let rows = vec![Row::new(what, "MiB", Asked::AtMost(60.0), mib(highest)).note(note)];
    Ok(Measured {
        rows,
        details: json!({ "fresh_bytes": fresh, "highest_bytes": highest,
        "active": active }),
    })
}
