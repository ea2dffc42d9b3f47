//! `downbeat pool …` against a pool that runs under the agent.

use std::fs;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_api::pool::{ModelState, PoolStatus, WorkerState};
use downbeat_tests::agent::{Agent, Place, said};
use downbeat_tests::processes::wait_until;
use downbeat_tests::skip::root_or_skip;

const POOL: &str = r#"
schema = 1

[worker.mic]
model = "denoise"

[worker.echo]
command = ["cat"]
stdio = { mode = "once" }
deadline = "10s"

[worker.talks]
command = ["sh", "-c", "echo one >&2; echo two >&2; exec sleep 1000"]
"#;

/// A pool whose workers are ready.
struct Pool {
    _agent: Agent,
    place: Place,
}

impl Pool {
    fn start() -> Result<Self> {
        let place = Place::new()?;
        place.pool("50-test.toml", POOL)?;
        let agent = place.start(&[])?;
        agent.wait_for(|snapshot| {
            let pool = snapshot.pool.as_ref()?;
            let all = pool.workers.iter().all(|worker| worker.state == WorkerState::Ready);
            (all && pool.workers.len() == 3).then_some(())
        })?;
        Ok(Self { _agent: agent, place })
    }

    fn run(&self, words: &[&str]) -> Result<Output> {
        let run_dir = self.place.run_dir().to_string_lossy().into_owned();
        self.place.downbeat(&[&["pool"], words, &["--run-dir", &run_dir]].concat())
    }

    /// What it prints when it succeeds.
    fn told(&self, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        ensure!(output.status.success(), "{words:?}: {}", said(&output));
        Ok(said(&output))
    }

    /// What it prints when it fails with this code.
    fn refused(&self, code: i32, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        ensure!(output.status.code() == Some(code), "{words:?}: {output:?}");
        Ok(said(&output))
    }

    fn status(&self) -> Result<PoolStatus> {
        serde_json::from_str(&self.told(&["ls", "--json"])?).context("its JSON")
    }
}

#[test]
fn a_person_sees_the_pool_and_asks_it() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pool = Pool::start()?;
    let answer = pool.told(&["infer", "echo", "--input", "hello there"])?;
    ensure!(answer.starts_with("hello there\nanswered in "), "{answer}");
    let file = pool.place.path("answer");
    let into = format!("output={}", file.display());
    pool.told(&["infer", "echo", "--input", "\"in a file\"", "--output", &into])?;
    ensure!(fs::read(&file)? == b"in a file");
    let json = pool.told(&["infer", "echo", "--input", "x", "--deadline", "5s", "--json"])?;
    ensure!(json.contains("\"model_name\": \"echo\""), "{json}");

    let status = pool.status()?;
    let echo = status.models.iter().find(|model| model.name == "echo").context("no echo")?;
    ensure!((echo.requests, echo.not_answered) == (3, 0), "{echo:?}");
    ensure!(
        (echo.state, echo.with_deadline, echo.in_time) == (ModelState::Ready, 3, 3),
        "{echo:?}"
    );
    ensure!(echo.p99_ns.is_some_and(|ns| ns > 0), "{echo:?}");
    let table = pool.told(&["ls"])?;
    for word in ["MODEL", "echo", "100 %", "WORKER", "talks", "ready"] {
        ensure!(table.contains(word), "no {word} in\n{table}");
    }
    let mut lines = String::new();
    let told = wait_until(Duration::from_secs(20), || {
        lines = pool.told(&["logs", "talks"]).unwrap_or_default();
        lines.contains("talks: one\n") && lines.contains("talks: two\n")
    });
    ensure!(told && lines.contains("started as pid"), "{lines}");
    Ok(())
}

#[test]
fn a_model_is_drained_and_comes_back() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pool = Pool::start()?;
    let done = pool.told(&["drain", "echo"])?;
    ensure!(done.contains("has answered all it had"), "{done}");
    let refused = pool.refused(1, &["infer", "echo", "--input", "x"])?;
    ensure!(refused.contains("drained") && refused.contains("503"), "{refused}");
    ensure!(pool.status()?.models[0].state == ModelState::Drained);
    pool.told(&["load", "echo"])?;
    pool.told(&["infer", "echo", "--input", "x"])?;
    Ok(())
}

#[test]
fn what_cannot_be_is_told_with_the_remedy() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pool = Pool::start()?;
    for (words, wanted) in [
        (&["infer", "ecko", "--input", "x"][..], "no model `ecko`; those of pool.d: echo, mic"),
        (&["load", "mic"], "no model of the store"),
        (&["unload", "nobody"], "no model `nobody`"),
        (&["drain", "talks"], "takes no requests"),
        (&["logs", "talk"], "did you mean `talks`?"),
        (&["infer", "echo", "-i", "@/no/file"], "/no/file: No such file"),
        (&["infer", "mic", "-i", "[1, 2, 3]"], "send [N] or [N, CHANNELS]"),
    ] {
        let refused = pool.refused(1, words)?;
        ensure!(refused.contains(wanted), "{words:?}: {refused}");
    }
    let refused = pool.refused(2, &["infer", "mic", "-i", "hello"])?;
    ensure!(refused.contains("give a JSON array"), "{refused}");
    let elsewhere = pool.place.path("nowhere").to_string_lossy().into_owned();
    let output = pool.place.downbeat(&["pool", "ls", "--run-dir", &elsewhere])?;
    let told = said(&output);
    ensure!(
        output.status.code() == Some(2) && told.contains("nowhere/pool/control.sock"),
        "{told}"
    );
    ensure!(told.contains("/etc/downbeat/pool.d"), "{told}");
    Ok(())
}
