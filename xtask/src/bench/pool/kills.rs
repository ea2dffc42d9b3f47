//! A worker killed each second: every request has its own answer, nothing is left, and other models
//! do not notice.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::client::{self, Client, Results};
use super::report::{Asked, Row};
use super::running::{Ground, Order, Running};
use super::{Bench, Measured};

/// So many that none dies five times in a minute: that is taken for a crash loop.
const VICTIMS: usize = 16;

/// Requests a second to the model whose workers are killed, and to the other one.
const RATE: f64 = 200.0;

/// Runs it.
pub fn run(bench: &Bench<'_>) -> Result<Measured> {
    let text = format!(
        "[worker.victim]\nmodel = \"intent\"\nmedia = \"text\"\ndeadline = \"1s\"\n\
         instances = {VICTIMS}\n\
         [worker.other]\nmodel = \"glyphs\"\nmedia = \"video\"\ndeadline = \"33ms\"\n"
    );
    let ground = Ground::new()?;
    let mut pool = ground.pool(&text, Order::Deadline)?;
    pool.wait(VICTIMS + 1, bench.signals)?;
    let seconds = if bench.quick { 10.0 } else { 60.0 };
    let quiet: Results = client::run(&plan(&ground, &pool, bench.seconds(6.0)), bench.signals)?;
    let busy = Client::start(&plan(&ground, &pool, seconds))?;
    let (mut killed, mut slot) = (0, 0);
    // The client's warm-up and start come before the first kill.
    bench.signals.sleep(Duration::from_millis(1500))?;
    while f64::from(killed) < seconds - 1.0 {
        killed += u32::from(kill_one(&pool, &mut slot)?);
        bench.signals.sleep(Duration::from_secs(1))?;
    }
    let busy: Results = busy.results(bench.signals)?;
    // The pool itself, last: nothing may outlive it.
    let left = pool.end(Signal::SIGKILL)?;
    let (victim, other) = (busy.of("victim")?, busy.of("other")?);
    let before = quiet.of("other")?.attainment * 100.0;
    let count = |number: u64| number as f64;
    let zero = Asked::AtMost(0.0);
    let mut rows = vec![
        Row::new("requests without an answer", "", zero, count(victim.lost + other.lost))
            .note(format!("{killed} workers killed; {} requests", victim.asked + other.asked)),
        Row::new("answers to another request", "", zero, count(victim.wrong + other.wrong)),
        Row::new("processes left", "", zero, left.len() as f64).note(left.join(", ")),
        Row::new(
            "the other model in time",
            "%",
            Asked::AtLeast(before - 0.1),
            other.attainment * 100.0,
        )
        .note(format!("{before:.2} % without kills")),
    ];
    let note = format!("told so: {} refused, {} failed", victim.refused, victim.failed);
    let victim =
        Row::new("the killed model in time", "%", Asked::Nothing, victim.attainment * 100.0);
    rows.push(victim.note(note));
    Ok(Measured { rows, details: json!({ "killed": killed, "quiet": quiet, "busy": busy }) })
}

fn plan(ground: &Ground, pool: &Running<'_>, seconds: f64) -> Value {
    let stream = |name: &str, model: &str, deadline_ms: f64| {
        json!({
            "name": name, "target": pool.target(), "path": format!("/v2/models/{name}/infer"),
            "input": ground.input(model, 1), "binary": true, "expected": ground.expected(model),
            "pace": { "poisson": RATE }, "deadline_ms": deadline_ms, "connections": 64,
            "give_up_ms": 1000.0,
        })
    };
    let streams = [stream("victim", "intent", 1000.0), stream("other", "glyphs", 33.0)];
    client::streams(seconds, 1.0, &streams)
}

/// Kills the next victim that runs; says whether there was one.
fn kill_one(pool: &Running<'_>, slot: &mut usize) -> Result<bool> {
    let status = pool.status().context("asking the pool who its workers are")?;
    let victims: Vec<_> =
        status.workers.iter().filter(|it| it.name.starts_with("victim")).collect();
    for _ in 0..victims.len() {
        let victim = victims.get(*slot % victims.len().max(1));
        *slot += 1;
        if let Some(pid) = victim.and_then(|it| it.pid) {
            return Ok(kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).is_ok());
        }
    }
    Ok(false)
}
