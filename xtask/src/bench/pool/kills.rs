//! A worker killed each second, in turns one of ours and an external server of HTTP: every request
//! has its own answer, nothing is left, and other models do not notice.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::client::{self, Client, Results, Told};
use super::report::{Asked, Row};
use super::running::{Ground, Order, Running};
use super::{Bench, Measured};

/// So many that none dies five times in a minute: that is taken for a crash loop.
const VICTIMS: usize = 16;

/// Requests a second to the model whose workers are killed, and to the other one.
const RATE: f64 = 200.0;

/// Requests a second to the external server, which is Python and has a connection for each.
const WEB_RATE: f64 = 50.0;

/// The other model's name in the pool: by it the agent knows that these are pictures.
const OTHER: &str = "video";

/// The external server's name in the pool.
const WEB_MODEL: &str = "web";

/// Numbers in a request to the external server, which sends them back.
const WEB_NUMBERS: usize = 16;

/// Requests to it that differ.
const WEB_VARIANTS: usize = 32;

/// The external server.
const WEB: &str = r#"
import http.server, sys

class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"#;

/// Runs it.
pub fn run(bench: &Bench<'_>) -> Result<Measured> {
    let ground = Ground::new()?;
    let script = ground.place.path("web.py");
    fs::write(&script, WEB).with_context(|| script.display().to_string())?;
    let numbers = (0..WEB_NUMBERS * WEB_VARIANTS).flat_map(|it| (it as f32).to_le_bytes());
    fs::write(ground.inputs(WEB_MODEL), numbers.collect::<Vec<u8>>())?;
    let text = format!(
        "[worker.victim]\nmodel = \"intent\"\nmedia = \"text\"\ndeadline = \"1s\"\n\
         instances = {VICTIMS}\n\
         [worker.{OTHER}]\nmodel = \"glyphs\"\nmedia = \"video\"\ndeadline = \"33ms\"\n\
         [worker.{WEB_MODEL}]\ncommand = [\"python3\", \"{}\", \"{{port}}\"]\n\
         deadline = \"1s\"\ninstances = {VICTIMS}\n\
         http = {{ port = {}, path = \"/\", health = \"/\" }}\n\
         inputs = [{{ name = \"x\", datatype = \"FP32\", shape = [{WEB_NUMBERS}] }}]\n\
         outputs = [{{ name = \"y\", datatype = \"FP32\", shape = [{WEB_NUMBERS}] }}]\n",
        script.display(),
        free_ports(VICTIMS)?,
    );
    let mut pool = ground.pool(&text, Order::Deadline)?;
    pool.wait(2 * VICTIMS + 1, bench.signals)?;
    let _agent = ground.agent()?;
    let seconds = if bench.quick { 10.0 } else { 60.0 };
    let quiet: Results = client::run(&plan(&ground, &pool, bench.seconds(6.0)), bench.signals)?;
    let busy = Client::start(&plan(&ground, &pool, seconds))?;
    let mut killed = [0, 0];
    // The client's warm-up and start come before the first kill.
    bench.signals.sleep(Duration::from_millis(1500))?;
    for turn in 0..(seconds - 1.0) as usize {
        let which = turn % 2;
        killed[which] += u32::from(kill_one(&pool, ["victim", WEB_MODEL][which], turn / 2)?);
        bench.signals.sleep(Duration::from_secs(1))?;
    }
    let busy: Results = busy.results(bench.signals)?;
    // The pool itself, last: nothing may outlive it.
    let left = pool.end(Signal::SIGKILL)?;
    let all = [busy.of("victim")?, busy.of(WEB_MODEL)?, busy.of(OTHER)?];
    let [victim, web, other] = all;
    let before = quiet.of(OTHER)?.attainment * 100.0;
    let sum = |count: fn(&Told) -> u64| all.into_iter().map(count).sum::<u64>();
    let zero = Asked::AtMost(0.0);
    let [ours, theirs] = killed;
    let what = format!("{ours} workers of ours and {theirs} servers killed");
    let mut rows = vec![
        Row::new("requests without an answer", "", zero, sum(|it| it.lost) as f64)
            .note(format!("{what}; {} requests", sum(|it| it.asked))),
        Row::new("answers to another request", "", zero, sum(|it| it.wrong) as f64),
        Row::new("processes left", "", zero, left.len() as f64).note(left.join(", ")),
        Row::new(
            "the other model in time",
            "%",
            Asked::AtLeast(before - 0.1),
            other.attainment * 100.0,
        )
        .note(format!("{before:.2} % without kills")),
    ];
    for (name, told) in [("the killed model", victim), ("the killed server", web)] {
        let note = format!("told so: {} refused, {} failed", told.refused, told.failed);
        let share = told.attainment * 100.0;
        rows.push(Row::new(format!("{name} in time"), "%", Asked::Nothing, share).note(note));
    }
    Ok(Measured { rows, details: json!({ "killed": killed, "quiet": quiet, "busy": busy }) })
}

fn plan(ground: &Ground, pool: &Running<'_>, seconds: f64) -> Value {
    let stream = |name: &str, input: Value, rate: f64, deadline_ms: f64| {
        json!({
            "name": name, "target": pool.target(), "path": format!("/v2/models/{name}/infer"),
            "input": input, "binary": true, "pace": { "poisson": rate },
            "deadline_ms": deadline_ms, "connections": 64, "give_up_ms": 1000.0,
        })
    };
    let mut victim = stream("victim", ground.input("intent", 1), RATE, 1000.0);
    victim["expected"] = json!(ground.expected("intent"));
    let mut other = stream(OTHER, ground.input("glyphs", 1), RATE, 33.0);
    other["expected"] = json!(ground.expected("glyphs"));
    let numbers = ground.inputs(WEB_MODEL);
    let input = json!({ "name": "x", "datatype": "FP32", "shape": [WEB_NUMBERS], "data": numbers });
    let mut web = stream(WEB_MODEL, input, WEB_RATE, 1000.0);
    web["expected"] = json!(numbers);
    client::streams(seconds, 1.0, &[victim, other, web])
}

/// Kills a worker's instance that runs, another one with each number; says whether there was one.
fn kill_one(pool: &Running<'_>, worker: &str, number: usize) -> Result<bool> {
    let status = pool.status().context("asking the pool who its workers are")?;
    let instances = status.workers.iter().filter(|it| it.name.starts_with(worker));
    let pids: Vec<u32> = instances.filter_map(|it| it.pid).collect();
    let Some(pid) = pids.get(number % pids.len().max(1)) else { return Ok(false) };
    Ok(kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).is_ok())
}

/// The first of so many ports in a row that nobody has, below those that the kernel gives away.
fn free_ports(count: usize) -> Result<u16> {
    let count = u16::try_from(count)?;
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut starts = (20_000..30_000).step_by(usize::from(count));
    let found = starts.find(|&start| (start..start + count).all(is_free));
    found.with_context(|| format!("no {count} free ports in a row between 20000 and 30000"))
}
