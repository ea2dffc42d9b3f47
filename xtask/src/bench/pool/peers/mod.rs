//! Beside MLServer and Ray Serve: the same ONNX model, the same client, the same CPUs, one server at
//! a time.
//!
//! A server's capacity is the highest rate of independent requests of which 99 % are answered within
//! 20 ms. The pool's 99th percentile is compared with that of each server at that server's capacity.

mod server;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::client::{self, Results, Told};
use super::report::{Asked, Row};
use super::running::{Ground, Order};
use super::search::{self, Capacity};
use super::{Bench, Measured};
use crate::demo::work::median;
use server::{Kind, Server};

const POOL: &str =
    "[worker.intent]\nmodel = \"intent\"\nmedia = \"text\"\ndeadline = \"20ms\"\nbatch = 16\n";

const MODEL: &str = "intent";
const DEADLINE_MS: f64 = 20.0;
const ROUNDS: usize = 2;

/// What was found of one server in one round.
struct Found {
    capacity: Capacity,
    /// Longer than the search's, at the capacity.
    at_capacity: Told,
}

/// What was found of one server in all rounds.
struct Compared {
    kind: Kind,
    /// Where its search begins: what the round before found.
    first: f64,
    /// The pool's capacity over its.
    rates: Vec<f64>,
    /// The pool's 99th percentile over its.
    tails: Vec<f64>,
}

/// Runs it.
pub fn run(bench: &Bench<'_>) -> Result<Measured> {
    server::install()?;
    let ground = Ground::new()?;
    let rounds = if bench.quick { 1 } else { ROUNDS };
    let (mut rows, mut details) = (Vec::new(), Vec::new());
    let mut compared =
        Kind::ALL.map(|kind| Compared { kind, first: 200.0, rates: Vec::new(), tails: Vec::new() });
    let mut first = 1000.0;
    for _ in 0..rounds {
        let mut pool = ground.pool(POOL, Order::Deadline)?;
        let status = pool.wait(1, bench.signals)?;
        let address = status.rest.context("the pool has no address")?;
        let pool_path = format!("/v2/models/{MODEL}/infer");
        let ours = find(bench, &ground, &address, &pool_path, first)?;
        first = ours.capacity.rate;
        details.push(detail("downbeat", &ours));
        // The pool waits, and takes no CPU time, while another is measured.
        for Compared { kind, first, rates, tails } in &mut compared {
            let server = Server::start(*kind, &ground.onnx(MODEL), bench.signals)?;
            let theirs = find(bench, &ground, &server.address, kind.path(), *first)?;
            drop(server);
            let rate = theirs.capacity.rate;
            *first = rate;
            let same = ask(bench, &ground, &address, &pool_path, rate, bench.seconds(3.0))?;
            rates.push(ours.capacity.rate / rate);
            tails.push(same.p99_us / theirs.at_capacity.p99_us.max(1.0));
            let mut detail = detail(kind.name(), &theirs);
            detail["downbeat_at_that_rate"] = json!(same);
            details.push(detail);
        }
    }
    for Compared { kind, rates, tails, .. } in compared {
        let last = details.iter().rfind(|it| it["server"] == kind.name());
        let last = last.cloned().unwrap_or_default();
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        let name = kind.name();
        let what = format!("requests/s within 20 ms, times {name}'s");
        let note = format!("{first:.0}/s against {:.0}/s", number(&last["rate"]));
        rows.push(Row::new(what, "×", Asked::AtLeast(3.0), median(rates)).note(note));
        let what = format!("p99 at {name}'s capacity, as a part of {name}'s");
        let note = format!(
            "{:.2} ms against {:.2} ms",
            number(&last["downbeat_at_that_rate"]["p99_us"]) / 1e3,
            number(&last["at_capacity"]["p99_us"]) / 1e3
        );
        rows.push(Row::new(what, "", Asked::AtMost(1.0 / 3.0), median(tails)).note(note));
    }
    Ok(Measured { rows, details: json!(details) })
}

fn detail(name: &str, found: &Found) -> Value {
    json!({ "server": name, "rate": found.capacity.rate, "search": found.capacity.told,
        "at_capacity": found.at_capacity })
}

fn find(
    bench: &Bench<'_>,
    ground: &Ground,
    address: &str,
    path: &str,
    first: f64,
) -> Result<Found> {
    let probe = |rate| ask(bench, ground, address, path, rate, 0.6);
    // A server that was just started is slow at first.
    probe(first / 4.0)?;
    let capacity = search::highest(first, probe)?;
    let capacity = capacity.with_context(|| format!("{address} is in time at no rate"))?;
    let at_capacity = ask(bench, ground, address, path, capacity.rate, bench.seconds(3.0))?;
    Ok(Found { capacity, at_capacity })
}

fn ask(
    bench: &Bench<'_>,
    ground: &Ground,
    address: &str,
    path: &str,
    rate: f64,
    seconds: f64,
) -> Result<Told> {
    let stream = json!({
        "name": "asked", "target": address, "path": path, "input": ground.input(MODEL, 1),
        // JSON, which all of them take.
        "binary": false, "clients": 8, "pace": { "poisson": rate }, "deadline_ms": DEADLINE_MS,
        "connections": 64, "give_up_ms": 200.0,
    });
    let plan = client::streams(seconds, 0.3, &[stream]);
    Ok(client::run::<Results>(&plan, bench.signals)?.of("asked")?.clone())
}
