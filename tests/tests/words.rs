//! What people say to the agent: plan, set and release, reload; and that it does what it says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use downbeat_api::{PlanStep, PlanSubject, Request, Response};
use downbeat_tests::agent::{Agent, Load, PATIENCE, Place, said};
use downbeat_tests::processes::wait_until;
use downbeat_tests::skip::root_or_skip;
use downbeat_tests::threads::{Attributes, FIFO, IDLE, OTHER};
use nix::sys::signal::Signal;

/// `SCHED_DEADLINE`.
const DEADLINE: u32 = 6;

const POLICY: &str = r#"
schema = 1

[class.voice]
tier = "realtime"
sched = { policy = "fifo", priority = 7 }

[class.batch]
tier = "background"
sched = "idle"

[[rule]]
name = "crowd"
class = "voice"
match = { exe = "{bin}/downbeat-load" }
"#;

const CROWD: [&str; 7] = ["crowd", "--threads", "2", "--name", "crowd-member", "--live", "120s"];

fn fifo(found: &Attributes) -> bool {
    found.scheduling.policy == FIFO && found.scheduling.priority == 7
}

fn idle(found: &Attributes) -> bool {
    found.scheduling.policy == IDLE
}

fn other(found: &Attributes) -> bool {
    found.scheduling.policy == OTHER
}

struct Scene {
    place: Place,
    agent: Agent,
    crowd: Load,
}

fn scene(arguments: &[&str]) -> Result<Scene> {
    let place = Place::new()?;
    place.policy("50-test.toml", POLICY)?;
    let agent = place.start(arguments)?;
    let crowd = place.load(&CROWD)?;
    Ok(Scene { place, agent, crowd })
}

impl Scene {
    fn downbeat(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let run_dir = self.place.run_dir();
        let run_dir = run_dir.to_str().context("a path in UTF-8")?;
        let mut all = arguments.to_vec();
        all.extend(["--run-dir", run_dir]);
        let output = self.place.downbeat(&all)?;
        Ok((output.status.code().context("no exit code")?, said(&output)))
    }

    /// A policy that is not in force.
    fn draft(&self, name: &str, text: &str) -> Result<String> {
        let draft = self.place.path(name);
        let bin = self.place.path("bin");
        fs::write(&draft, text.replace("{bin}", &bin.to_string_lossy()))?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o644))?;
        Ok(draft.to_str().context("a path in UTF-8")?.to_owned())
    }

    /// Says it and expects that it is done.
    fn done(&self, arguments: &[&str]) -> Result<String> {
        let (code, said) = self.downbeat(arguments)?;
        ensure!(code == 0, "{arguments:?} ended with {code}: {said}");
        Ok(said)
    }
}

#[test]
fn a_class_by_hand_goes_before_the_rules_survives_a_reload_and_is_undone_on_release() -> Result<()>
{
    if !root_or_skip() {
        return Ok(());
    }
    let scene = scene(&[])?;
    let pid = scene.crowd.pid().to_string();
    scene.crowd.wait_for(3, fifo)?;

    let said = scene.done(&["set", &pid, "--class", "batch", "--for", "10m"])?;
    ensure!(said.contains("is batch for 10 min, on 3 threads"), "{said}");
    scene.crowd.wait_for(3, idle)?;
    let status = scene.done(&["status"])?;
    ensure!(status.contains(&format!("by hand: downbeat-load ({pid}) is batch")), "{status}");
    let explained = scene.done(&["explain", &pid])?;
    ensure!(explained.contains("by hand it is batch for 9 min"), "{explained}");

    let said = scene.done(&["reload"])?;
    ensure!(said.contains("1 rule in 1 file"), "{said}");
    scene.crowd.wait_for(3, idle)?;

    let said = scene.done(&["release", &pid])?;
    ensure!(said.contains("voice by its rule"), "{said}");
    scene.crowd.wait_for(3, fifo)?;
    let (code, said) = scene.downbeat(&["release", &pid])?;
    ensure!(code == 1 && said.contains("has no class by hand"), "{said}");
    Ok(())
}

#[test]
fn a_class_by_hand_ends_by_itself_and_everything_goes_back() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let scene = scene(&[])?;
    scene.crowd.wait_for(3, fifo)?;
    // Without the rule it is left to itself.
    scene.place.policy("50-test.toml", &POLICY.replace("{bin}/downbeat-load", "/nowhere"))?;
    scene.crowd.wait_for(3, other)?;
    let pid = scene.crowd.pid().to_string();
    scene.done(&["set", &pid, "--class", "voice", "--for", "2s"])?;
    scene.crowd.wait_for(3, fifo)?;
    let start = Instant::now();
    scene.crowd.wait_for(3, other)?;
    ensure!(start.elapsed() < Duration::from_secs(20), "it ended after {:?}", start.elapsed());
    scene.agent.wait_for(|snapshot| snapshot.overrides.is_empty().then_some(()))
}

#[test]
fn what_cannot_be_set_by_hand_is_refused_with_the_reason() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let scene = scene(&[])?;
    let pid = scene.crowd.pid().to_string();
    for (arguments, reason) in [
        (vec!["set", &pid, "--class", "voise"], "it has voice, batch"),
        (vec!["set", "4000000", "--class", "voice"], "no process 4000000"),
        (vec!["set", "no-such-name", "--class", "voice"], "no process is called"),
    ] {
        let (code, said) = scene.downbeat(&arguments)?;
        ensure!(code == 1 && said.contains(reason), "{arguments:?}: {code} {said}");
    }
    let mut client = scene.agent.client()?;
    let request = Request::Set { pid: scene.crowd.pid(), class: "voice".into(), seconds: Some(0) };
    let refused = client.request(&request).map(drop);
    ensure!(refused.is_err_and(|error| error.to_string().contains("1 s to 30 days")));
    Ok(())
}

#[test]
fn a_changed_file_is_in_force_by_itself_and_a_bad_one_leaves_what_is() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let scene = scene(&[])?;
    scene.crowd.wait_for(3, fifo)?;
    scene
        .place
        .policy("50-test.toml", &POLICY.replace("class = \"voice\"", "class = \"batch\""))?;
    scene.crowd.wait_for(3, idle)?;

    let bad = POLICY.replace("priority = 7", "priority = 700");
    let file = scene.place.policy("50-test.toml", &bad)?;
    let problem = scene.agent.wait_for(|snapshot| {
        let standing = snapshot.policy.standing.as_ref()?;
        standing.problems.first().cloned()
    })?;
    ensure!(problem.file == file.display().to_string(), "{problem:?}");
    ensure!(problem.line == Some(6) && problem.column.is_some(), "{problem:?}");
    ensure!(problem.message.contains("priority"), "{problem:?}");
    scene.crowd.wait_for(3, idle)?;
    let status = scene.done(&["status"])?;
    ensure!(status.contains("policy refused: ") && status.contains("50-test.toml:6:"), "{status}");
    let (code, said) = scene.downbeat(&["reload"])?;
    ensure!(code == 1 && said.contains("50-test.toml:6:"), "{code}: {said}");
    ensure!(said.contains("the policy that was in force stays"), "{said}");

    // On SIGHUP too, and once it is mended all is well.
    fs::remove_file(&file)?;
    scene.agent.signal(Signal::SIGHUP)?;
    scene.agent.wait_for(|snapshot| {
        (snapshot.policy.standing.is_none() && snapshot.policy.rules == 0).then_some(())
    })?;
    scene.crowd.wait_for(3, other)
}

#[test]
fn a_policy_folder_that_does_not_exist_yet_is_read_once_it_does() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    let late = place.path("late/policy.d");
    let _agent = place.start(&["--policy-dir", late.to_str().context("a path in UTF-8")?])?;
    let crowd = place.load(&CROWD)?;
    fs::create_dir_all(&late)?;
    // By the policy's own way: written elsewhere, then moved there as a whole.
    let file = place.policy("50-test.toml.new", POLICY)?;
    fs::rename(file, late.join("50-test.toml"))?;
    crowd.wait_for(3, fifo)
}

#[test]
fn a_plan_for_another_policy_knows_what_people_and_others_did() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let scene = scene(&[])?;
    scene.crowd.wait_for(3, fifo)?;
    let pid = scene.crowd.pid().to_string();
    let own = scene.place.path("policy/50-test.toml");
    let own = own.to_str().context("a path in UTF-8")?;
    let nothing = scene.done(&["plan", own])?;
    ensure!(nothing.contains("Nothing would change"), "{nothing}");

    // By hand goes before the rules of every policy that has the class.
    scene.done(&["set", &pid, "--class", "batch"])?;
    scene.crowd.wait_for(3, idle)?;
    for plan in [scene.done(&["plan"])?, scene.done(&["plan", own])?] {
        ensure!(plan.contains("Nothing would change"), "{plan}");
    }
    let other = POLICY.replace("sched = \"idle\"", "sched = { policy = \"batch\" }");
    let other = scene.draft("other.toml", &other)?;
    let plan = scene.done(&["plan", &other])?;
    ensure!(plan.contains("idle → batch") && plan.contains("by hand, by uid 0"), "{plan}");
    scene.done(&["release", &pid])?;
    scene.crowd.wait_for(3, fifo)?;

    // What someone else set stays theirs under every policy.
    let run = std::process::Command::new("chrt").args(["-a", "-f", "-p", "3", &pid]).output()?;
    ensure!(run.status.success(), "{}", said(&run));
    scene.agent.wait_for(|snapshot| {
        let process = snapshot.processes.iter().find(|p| p.pid == scene.crowd.pid())?;
        process.attention.then_some(())
    })?;
    for plan in [scene.done(&["plan"])?, scene.done(&["plan", &other])?] {
        ensure!(plan.contains("Nothing would change, 3 left alone"), "{plan}");
        ensure!(plan.contains("someone else changed it"), "{plan}");
    }
    Ok(())
}

#[test]
fn a_rule_by_costly_facts_is_planned_as_the_agent_applies_it() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let scene = scene(&[])?;
    scene.crowd.wait_for(3, fifo)?;
    // Nothing in /proc/PID/stat or cmdline says any of these.
    let own = std::process::id();
    let name = fs::read_to_string(format!("/proc/{own}/comm"))?;
    let name = name.trim_end();
    let match_ = format!(
        "match = {{ exe = \"{{bin}}/downbeat-load\", ancestor = \"{name}\", env = \"PATH=*\" }}"
    );
    let costly = POLICY.replace("match = { exe = \"{bin}/downbeat-load\" }", &match_);
    scene.place.policy("50-test.toml", &costly)?;
    let pid = scene.crowd.pid().to_string();
    scene.agent.wait_for(|snapshot| (snapshot.policy.accepted == 2).then_some(()))?;
    scene.crowd.wait_for(3, fifo)?;
    let draft = scene.draft("draft.toml", &costly)?;
    let plan = scene.done(&["plan", &draft])?;
    ensure!(plan.contains("Nothing would change"), "{plan}");
    let check = scene.done(&["check", &draft])?;
    ensure!(check.contains(&format!("downbeat-load {pid} (3 threads)")), "{check}");

    // Without an agent, and for one who may not look into it.
    let Scene { place, mut agent, crowd } = scene;
    ensure!(agent.end(Signal::SIGTERM)?.success());
    crowd.wait_for(3, other)?;
    let run_dir = place.run_dir();
    let run_dir = run_dir.to_str().context("a path in UTF-8")?;
    let plan = said_by(&place, &["plan", &draft, "--run-dir", run_dir])?;
    ensure!(plan.contains("3 values would be set"), "{plan}");
    let nobody = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(place.bin("downbeat"))
        .args(["check", &draft])
        .output()?;
    let told = said(&nobody);
    ensure!(told.contains("could not be looked at as a whole"), "{told}");
    Ok(())
}

#[test]
fn a_rung_in_place_of_a_refusal_is_explained_and_not_planned_again() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    // More than the whole host has.
    let greedy = "sched = { policy = \"deadline\", budget = \"99ms\", period = \"100ms\" }";
    let policy = POLICY.replace("sched = { policy = \"fifo\", priority = 7 }", greedy);
    place.policy("50-test.toml", &policy)?;
    let agent = place.start(&[])?;
    let crowd = place.load(&["crowd", "--threads", "7", "--live", "120s"])?;
    let mut reserved = 0;
    let settled = wait_until(PATIENCE, || {
        let all = crowd.attributes();
        reserved = all.iter().filter(|it| it.scheduling.policy == DEADLINE).count();
        all.len() == 8 && all.iter().all(|it| [DEADLINE, FIFO].contains(&it.scheduling.policy))
    });
    ensure!(settled, "{:#?}", crowd.attributes());
    ensure!(reserved < 8, "the cap refuses some of eight times 0.99 CPUs on this host");
    let scene = Scene { place, agent, crowd };
    // Where a line breaks depends on how many digits the threads' numbers have.
    let unbroken = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let plan = unbroken(scene.done(&["plan"])?);
    ensure!(plan.contains("Nothing would change"), "{plan}");
    ensure!(plan.contains("fifo 10 was set in its place"), "{plan}");
    let explained = unbroken(scene.done(&["explain", &scene.crowd.pid().to_string()])?);
    let told = "other → fifo 10";
    ensure!(explained.contains(told) && explained.contains("which was refused"), "{explained}");
    Ok(())
}

#[test]
fn a_restore_and_a_start_wait_for_a_killed_agent_that_is_still_ending() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = scene(&[])?;
    scene.crowd.wait_for(3, fifo)?;
    // Nobody waits for it yet, so it stays in the list of processes.
    scene.agent.signal(Signal::SIGKILL)?;
    let restored = scene.place.restore()?;
    ensure!(restored.status.success(), "{}", said(&restored));
    scene.crowd.wait_for(3, other)?;
    ensure!(!scene.agent.wait(PATIENCE)?.success());

    scene.agent = scene.place.start(&[])?;
    scene.crowd.wait_for(3, fifo)?;
    scene.agent.signal(Signal::SIGKILL)?;
    scene.agent = scene.place.start(&[])?;
    scene.crowd.wait_for(3, fifo)
}

#[test]
fn what_no_rule_is_for_says_so_itself() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let scene = scene(&[])?;
    let explained = scene.done(&["explain", &scene.agent.pid().to_string()])?;
    ensure!(explained.contains("it is downbeat itself"), "{explained}");
    ensure!(explained.contains("no rule is for it"), "{explained}");
    Ok(())
}

#[test]
fn a_request_that_is_too_long_gets_an_answer_before_the_end() -> Result<()> {
    use std::io::{BufRead, BufReader, Write};
    if !root_or_skip() {
        return Ok(());
    }
    let scene = scene(&[])?;
    let mut stream = std::os::unix::net::UnixStream::connect(
        scene.place.run_dir().join(downbeat_api::SOCKET_NAME),
    )?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[b'x'; 9000])?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    ensure!(line.contains("a request of more than 4096 bytes"), "{line:?}");
    Ok(())
}

#[test]
fn the_first_second_shows_no_use_of_the_cpu_that_no_second_covers() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let scene = scene(&[])?;
    let mut seen = 0;
    for snapshot in scene.agent.client()?.watch()?.take(3) {
        let cost = snapshot?.cost;
        ensure!(cost.cpu.is_none_or(|cpu| cpu < 2.0), "{cost:?}");
        seen += usize::from(cost.cpu.is_some());
    }
    ensure!(seen > 0, "none of three samples told it");
    Ok(())
}

/// The steps of a plan for the threads of one process.
fn steps(scene: &Scene) -> Result<Vec<(String, PlanStep, Option<String>)>> {
    match scene.agent.client()?.request(&Request::Plan)? {
        Response::Plan(plan) => Ok(plan
            .changes
            .into_iter()
            .filter(|change| {
                let of = scene.crowd.pid();
                matches!(change.subject, PlanSubject::Thread { pid, .. } if pid == of)
            })
            .map(|change| (change.lever, change.step, change.because))
            .collect()),
        other => anyhow::bail!("{other:?}"),
    }
}

#[test]
fn the_plan_of_an_agent_that_only_looks_is_what_an_engaged_one_does() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = scene(&["--observe-only"])?;
    let mut planned = Vec::new();
    let complete = wait_until(PATIENCE, || {
        planned = steps(&scene).unwrap_or_default();
        planned.len() == 3
    });
    ensure!(complete, "{planned:?}");
    for (lever, step, because) in &planned {
        ensure!(lever == "sched" && *step == PlanStep::Set, "{planned:?}");
        ensure!(because.as_ref().is_some_and(|rule| rule.contains("50-test.toml:")), "{planned:?}");
    }
    scene.crowd.wait_for(3, other)?;
    for command in [vec!["plan"], vec!["explain", "downbeat-load"]] {
        let said = scene.done(&command)?;
        ensure!(said.contains("this agent only observes: "), "{said}");
    }

    ensure!(scene.agent.end(Signal::SIGTERM)?.success());
    scene.agent = scene.place.start(&[])?;
    scene.crowd.wait_for(3, fifo)?;
    ensure!(steps(&scene)?.is_empty(), "what was done is not planned again");
    Ok(())
}

#[test]
fn a_plan_for_another_policy_knows_what_would_go_back() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let scene = scene(&[])?;
    scene.crowd.wait_for(3, fifo)?;
    let empty = scene.place.path("empty.toml");
    fs::write(&empty, "schema = 1\n")?;
    let empty = empty.to_str().context("a path in UTF-8")?;
    let said = scene.done(&["plan", empty])?;
    ensure!(said.contains("fifo 7 → other") && said.contains("put back"), "{said}");
    scene.crowd.wait_for(3, fifo)?;

    // Without an agent the same command looks for itself.
    let own = scene.place.path("policy/50-test.toml");
    let own = own.to_str().context("a path in UTF-8")?;
    let Scene { place, mut agent, crowd } = scene;
    ensure!(agent.end(Signal::SIGTERM)?.success());
    crowd.wait_for(3, other)?;
    let run_dir = place.run_dir();
    let run_dir = run_dir.to_str().context("a path in UTF-8")?;
    let said = said_by(&place, &["plan", own, "--run-dir", run_dir])?;
    ensure!(said.contains("other → fifo 7") && said.contains("by rule crowd, "), "{said}");
    Ok(())
}

fn said_by(place: &Place, arguments: &[&str]) -> Result<String> {
    let output = place.downbeat(arguments)?;
    ensure!(output.status.success(), "{}", said(&output));
    Ok(said(&output))
}
