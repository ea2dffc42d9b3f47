//! A fifth more than the pool can do: what is answered in time must hardly become less.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::client::{self, Results, Told};
use super::report::{Asked, Row};
use super::running::{Ground, Order, Running};
use super::{Bench, Measured, search};
use crate::demo::work::median;

const POOL: &str = "[worker.glyphs]\nmodel = \"glyphs\"\nmedia = \"text\"\ndeadline = \"50ms\"\n";

/// Pictures of one request: enough that the model's work is what the pool runs out of.
const ROWS: u64 = 16;

/// Of a request.
const DEADLINE_MS: f64 = 50.0;

/// What is offered, of what the pool can do.
const OVERLOAD: f64 = 1.2;

const ROUNDS: usize = 3;

/// Runs it.
pub fn run(bench: &Bench<'_>) -> Result<Measured> {
    let ground = Ground::new()?;
    let input = ground.many("glyphs", ROWS)?;
    let ask = |pool: &Running<'_>, pace: Value, seconds: f64| -> Result<Told> {
        let stream = json!({
            "name": "glyphs", "target": pool.target(), "path": "/v2/models/glyphs/infer",
            "input": input, "binary": true, "clients": 8, "pace": pace,
            "deadline_ms": DEADLINE_MS, "connections": 256, "give_up_ms": 1000.0,
        });
        let plan = client::streams(seconds, 0.3, &[stream]);
        Ok(client::run::<Results>(&plan, bench.signals)?.of("glyphs")?.clone())
    };
    let seconds = bench.seconds(4.0);
    let (mut ratios, mut arrival, mut details) = (Vec::new(), Vec::new(), Vec::new());
    let mut first = 50.0;
    for _ in 0..if bench.quick { 1 } else { ROUNDS } {
        let mut pool = ground.pool(POOL, Order::Deadline)?;
        pool.wait(1, bench.signals)?;
        let found = search::highest(first, |rate| ask(&pool, json!({ "poisson": rate }), 0.7))?;
        let found = found.context("the pool is in time at no rate")?;
        first = found.rate;
        let can = ask(&pool, json!({ "at_a_time": 4 }), bench.seconds(2.0))?;
        let at = ask(&pool, json!({ "poisson": found.rate }), seconds)?;
        // What it can do at all is more than what it does in time with pauses between.
        let offered = can.goodput.max(found.rate) * OVERLOAD;
        let over = ask(&pool, json!({ "poisson": offered }), seconds)?;
        drop(pool);
        let mut pool = ground.pool(POOL, Order::Arrival)?;
        pool.wait(1, bench.signals)?;
        let fifo = ask(&pool, json!({ "poisson": offered }), seconds)?;
        ratios.push(over.goodput / at.goodput.max(1.0));
        arrival.push(fifo.goodput / at.goodput.max(1.0));
        details.push(json!({ "rate": found.rate, "at_a_time": can, "at_capacity": at,
            "offered": offered, "overloaded": over, "in_order_of_arrival": fifo }));
    }
    let last = details.last().cloned().unwrap_or_default();
    let number = |of: &str, what: &str| last[of][what].as_f64().unwrap_or_default();
    let note = format!(
        "last round: {:.0}/s in time at a capacity of {:.0}/s, {:.0}/s with {:.0}/s offered",
        number("at_capacity", "goodput"),
        last["rate"].as_f64().unwrap_or_default(),
        number("overloaded", "goodput"),
        last["offered"].as_f64().unwrap_or_default(),
    );
    let what = "goodput at 120 % / at capacity";
    let rows = vec![
        Row::new(what, "%", Asked::AtLeast(90.0), median(ratios) * 100.0).note(note),
        Row::new(
            format!("{what}, in order of arrival"),
            "%",
            Asked::Nothing,
            median(arrival) * 100.0,
        ),
    ];
    Ok(Measured { rows, details: json!(details) })
}
