//! A program that no rule names gets the class for what it shows, and loses it again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_api::{Discovered, Discovery, Request, Response};
use downbeat_tests::agent::{Agent, Place, die_with_this_thread, said};
use downbeat_tests::processes::{tids, wait_until};
use downbeat_tests::skip::root_or_skip;
use downbeat_tests::threads::{Attributes, FIFO};
use nix::sys::signal::Signal;

/// A look after a second, the beat some seconds later, on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the agent takes for a model's runtime.
const RUNTIME: &str = "libonnxruntime.so.1.17.0";

fn policy(enabled: bool) -> String {
    format!(
        r#"
schema = 1

[auto]
enabled = {enabled}
audio = "voice"

[class.voice]
modality = "audio"
tier = "realtime"
sched = {{ policy = "fifo", priority = 7 }}
"#
    )
}

/// A periodic program with a library in it that it does not need: one that this test itself has
/// mapped, under the name of a model's runtime.
struct Program(Child);

impl Program {
    fn start(place: &Place) -> Result<Self> {
        let library = place.path("bin").join(RUNTIME);
        fs::copy(own_library("libgcc_s.so")?, &library)?;
        Self::spawn(place, "10ms", Some(&library))
    }

    /// Nothing but its beat.
    fn plain(place: &Place, period: &str) -> Result<Self> {
        Self::spawn(place, period, None)
    }

    fn spawn(place: &Place, period: &str, library: Option<&Path>) -> Result<Self> {
        let mut command = Command::new(place.bin("downbeat-load"));
        command
            .args(["periodic", "--period", period, "--work", "500us", "--seconds", "600"])
            .args(["--json", "/dev/null"])
            .envs(library.map(|library| ("LD_PRELOAD", library)))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        die_with_this_thread(&mut command, Signal::SIGKILL);
        Ok(Self(command.spawn().context("downbeat-load: starting it")?))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn attributes(&self) -> Vec<Attributes> {
        tids(self.pid()).into_iter().filter_map(|tid| Attributes::of(tid).ok()).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn own_library(name: &str) -> Result<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let path = maps.lines().filter_map(|line| Some(&line[line.find('/')?..]));
    let path = path.into_iter().find(|path| path.contains(name));
    Ok(Path::new(path.with_context(|| format!("this test has no {name}"))?).to_owned())
}

fn discoveries(agent: &Agent) -> Result<Discovery> {
    match agent.client()?.request(&Request::Discover)? {
        Response::Discovery(found) => Ok(*found),
        other => anyhow::bail!("{other:?}"),
    }
}

fn found(agent: &Agent, pid: u32) -> Result<Option<Discovered>> {
    Ok(discoveries(agent)?.findings.into_iter().find(|found| found.pid == pid))
}

#[test]
fn a_program_without_a_rule_gets_the_class_for_what_it_shows_and_loses_it_again() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    place.policy("50-test.toml", &policy(true))?;
    let agent = place.start(&[])?;
    let program = Program::start(&place)?;
    let untouched = Attributes::of(std::process::id())?;

    let real_time =
        |found: &Attributes| found.scheduling.policy == FIFO && found.scheduling.priority == 7;
    let given = wait_until(PATIENCE, || {
        let threads = program.attributes();
        !threads.is_empty() && threads.iter().all(real_time)
    });
    ensure!(given, "{:?}\n{:?}\n{}", program.attributes(), discoveries(&agent), agent.log());

    let Response::Explain(explained) =
        agent.client()?.request(&Request::Explain { pid: program.pid() })?
    else {
        anyhow::bail!("no explanation");
    };
    let evidence = explained.evidence.join("\n");
    ensure!(evidence.contains(RUNTIME) && evidence.contains("beat of 10."), "{evidence}");
    ensure!(explained.threads.iter().all(|thread| thread.rule.is_none()), "{explained:?}");
    let text = place.downbeat(&[
        "explain",
        &program.pid().to_string(),
        "--run-dir",
        &place.run_dir().to_string_lossy(),
    ])?;
    let text = said(&text);
    ensure!(text.contains(RUNTIME) && text.contains("class voice, discovered: audio ("), "{text}");
    // Another policy knows what was discovered under this one.
    let same = place.path("policy/50-test.toml");
    let run_dir = place.run_dir();
    let plan = ["plan", &same.to_string_lossy(), "--run-dir", &run_dir.to_string_lossy()];
    let plan = said(&place.downbeat(&plan)?);
    let name = format!("downbeat-load ({})", program.pid());
    ensure!(plan.contains("as wanted already") && !plan.contains(&name), "{plan}");
    let finding = found(&agent, program.pid())?.context("no finding")?;
    ensure!(finding.given && finding.class.as_deref() == Some("voice"), "{finding:?}");

    place.policy("50-test.toml", &policy(false))?;
    agent.signal(Signal::SIGHUP)?;
    let released =
        wait_until(PATIENCE, || program.attributes().iter().all(|found| *found == untouched));
    ensure!(released, "{:?}\n{}", program.attributes(), agent.log());
    // Whoever asks is still told, and nothing comes of it.
    let told = wait_until(PATIENCE, || {
        let finding = found(&agent, program.pid());
        matches!(finding, Ok(Some(finding)) if finding.enough && !finding.given)
    });
    ensure!(told, "{:?}", discoveries(&agent));
    ensure!(program.attributes().iter().all(|found| *found == untouched));
    Ok(())
}

#[test]
fn what_is_discovered_is_written_as_a_policy_that_is_accepted() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    place.policy("50-test.toml", "schema = 1\n")?;
    let agent = place.start(&[])?;
    let program = Program::start(&place)?;
    let enough = wait_until(
        PATIENCE,
        || matches!(found(&agent, program.pid()), Ok(Some(finding)) if finding.enough),
    );
    ensure!(enough, "{:?}\n{}", discoveries(&agent), agent.log());
    let file = place.path("found.toml");
    let file = file.to_string_lossy();
    let run_dir = place.run_dir();
    let run_dir = run_dir.to_string_lossy();
    let discover = ["discover", "--seconds", "3", "--write", &file, "--run-dir", &run_dir];
    let output = place.downbeat(&discover)?;
    ensure!(output.status.success() && said(&output).contains(RUNTIME), "{}", said(&output));
    let again = place.downbeat(&discover)?;
    ensure!(!again.status.success(), "a file that is there stays: {}", said(&again));
    let check = place.downbeat(&["check", &file])?;
    ensure!(check.status.success(), "{}", said(&check));
    ensure!(said(&check).contains(&format!("periodic {}", program.pid())), "{}", said(&check));
    Ok(())
}

/// Too little for a class, and worth telling whoever asks.
#[test]
fn a_beat_alone_is_listed_and_gives_nothing() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    place.policy("50-test.toml", &policy(false))?;
    let agent = place.start(&[])?;
    let program = Program::plain(&place, "20ms")?;
    let listed = wait_until(PATIENCE, || matches!(found(&agent, program.pid()), Ok(Some(_))));
    if !discoveries(&agent)?.beats {
        eprintln!("skipped: no kernel programs here");
        return Ok(());
    }
    ensure!(listed, "{:?}\n{}", discoveries(&agent)?, agent.log());
    let finding = found(&agent, program.pid())?.context("it is not listed any more")?;
    ensure!(finding.evidence.join("\n").contains("beat of 20."), "{finding:?}");
    ensure!(!finding.enough && !finding.given && finding.confidence < 0.5, "{finding:?}");
    Ok(())
}
