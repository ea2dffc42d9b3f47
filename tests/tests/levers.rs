//! What the agent changes on threads, and that it all goes back.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use downbeat_api::{Mode, Request};
use downbeat_tests::agent::{Agent, Load, Place, die_with_this_thread, said};
use downbeat_tests::processes::{tids, wait_until};
use downbeat_tests::skip::root_or_skip;
use downbeat_tests::threads::{Attributes, FIFO, IDLE, OTHER, Scheduling};
use nix::sys::signal::Signal;

/// Levers of every kind (an `oom` above 0, which needs no CAP_SYS_RESOURCE), on threads that only this place's programs have.
const POLICY: &str = r#"
schema = 1

[class.voice]
modality = "audio"
tier = "realtime"
deadline = "10ms"
sched = { policy = "fifo", priority = 7 }
cpus = "0"
io = { class = "best-effort", level = 1 }
memory = { oom = 321 }

[[rule]]
name = "crowd"
class = "voice"
match = { exe = "{bin}/downbeat-load" }
"#;

const CROWD: [&str; 7] = ["crowd", "--threads", "3", "--name", "crowd-member", "--live", "60s"];

fn managed(found: &Attributes) -> bool {
    const BEST_EFFORT_1: i64 = (2 << 13) | 1;
    found.scheduling.policy == FIFO
        && found.scheduling.priority == 7
        && found.affinity == "0"
        && found.ioprio == BEST_EFFORT_1
        && found.oom == 321
}

/// What a thread of this test's own children has before anyone touches it.
fn untouched() -> Result<impl Fn(&Attributes) -> bool> {
    let own = Attributes::of(std::process::id())?;
    Ok(move |found: &Attributes| *found == own)
}

fn place() -> Result<Place> {
    let place = Place::new()?;
    place.policy("50-test.toml", POLICY)?;
    Ok(place)
}

fn managed_crowd(place: &Place) -> Result<Load> {
    let crowd = place.load(&CROWD)?;
    crowd.wait_for(4, managed)?;
    Ok(crowd)
}

#[test]
fn a_started_program_gets_its_class_on_every_thread() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let agent = place.start(&[])?;
    let crowd = managed_crowd(&place)?;
    agent.wait_for(|snapshot| {
        let process = snapshot.processes.iter().find(|p| p.pid == crowd.pid())?;
        (process.class.as_deref() == Some("voice") && process.managed == 4).then_some(())
    })
}

#[test]
fn threads_that_come_later_get_it_too() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let _agent = place.start(&[])?;
    let args = ["crowd", "--threads", "2", "--later", "2", "--later-after", "2s", "--live", "60s"];
    let crowd = place.load(&args)?;
    crowd.wait_for(3, managed)?;
    crowd.wait_for(5, managed)
}

#[test]
fn a_program_that_ran_before_the_agent_gets_it_at_the_start() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let crowd = place.load(&CROWD)?;
    crowd.wait_for(4, untouched()?)?;
    let _agent = place.start(&[])?;
    crowd.wait_for(4, managed)
}

#[test]
fn without_kernel_programs_a_scan_does_it() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let _agent = place.start(&["--no-bpf"])?;
    managed_crowd(&place).map(drop)
}

#[test]
fn a_rule_can_single_out_threads_by_their_name() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    let policy = POLICY.replace("downbeat-load\" }", "downbeat-load\", thread = \"crowd-*\" }");
    place.policy("50-test.toml", &policy.replace("memory = { oom = 321 }", ""))?;
    let _agent = place.start(&[])?;
    let crowd = place.load(&CROWD)?;
    let classed = |crowd: &Load| {
        let policies = crowd.attributes().into_iter().map(|a| a.scheduling.policy);
        policies.collect::<Vec<_>>()
    };
    let wanted = [OTHER, FIFO, FIFO, FIFO];
    let came = wait_until(downbeat_tests::agent::PATIENCE, || classed(&crowd) == wanted);
    ensure!(came, "{:?}", classed(&crowd));
    Ok(())
}

fn put_back_after(signal: Signal) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let mut agent = place.start(&[])?;
    let crowd = managed_crowd(&place)?;
    let status = agent.end(signal)?;
    ensure!(status.success(), "{status}: {}", agent.log());
    crowd.wait_for(4, untouched()?)
}

#[test]
fn sigterm_puts_everything_back() -> Result<()> {
    put_back_after(Signal::SIGTERM)
}

#[test]
fn sigint_puts_everything_back() -> Result<()> {
    put_back_after(Signal::SIGINT)
}

#[test]
fn restore_puts_back_what_a_killed_agent_left() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let mut agent = place.start(&[])?;
    let crowd = managed_crowd(&place)?;
    agent.end(Signal::SIGKILL)?;
    crowd.wait_for(4, managed)?;
    let restored = place.restore()?;
    ensure!(restored.status.success(), "{}", said(&restored));
    crowd.wait_for(4, untouched()?)
}

#[test]
fn the_next_start_puts_back_what_a_killed_agent_left() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let mut agent = place.start(&[])?;
    let crowd = managed_crowd(&place)?;
    agent.end(Signal::SIGKILL)?;
    place.policy("50-test.toml", "schema = 1\n")?;
    let _agent = place.start(&[])?;
    crowd.wait_for(4, untouched()?)
}

#[test]
fn restore_refuses_while_an_agent_lives() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let agent = place.start(&[])?;
    let crowd = managed_crowd(&place)?;
    let refused = place.restore()?;
    let text = said(&refused);
    ensure!(!refused.status.success(), "{text}");
    ensure!(text.contains(&agent.pid().to_string()), "must name the agent's pid: {text}");
    crowd.wait_for(4, managed)
}

#[test]
fn pause_puts_back_and_resume_applies_again() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let agent = place.start(&[])?;
    let crowd = managed_crowd(&place)?;
    agent.client()?.request(&Request::Pause)?;
    crowd.wait_for(4, untouched()?)?;
    agent.wait_for(|snapshot| (snapshot.mode == Mode::Paused).then_some(()))?;
    agent.client()?.request(&Request::Resume)?;
    crowd.wait_for(4, managed)
}

#[test]
fn observe_only_changes_nothing() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let agent = place.start(&["--observe-only"])?;
    let crowd = place.load(&CROWD)?;
    agent.wait_for(|snapshot| {
        let process = snapshot.processes.iter().find(|p| p.pid == crowd.pid())?;
        (snapshot.mode == Mode::ObserveOnly && process.class.as_deref() == Some("voice"))
            .then_some(())
    })?;
    crowd.wait_for(4, untouched()?)?;
    ensure!(agent.client()?.request(&Request::Resume).is_err(), "it must not be talked into it");
    crowd.wait_for(4, untouched()?)
}

#[test]
fn what_someone_else_set_afterwards_stays_theirs() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let mut agent = place.start(&[])?;
    let crowd = managed_crowd(&place)?;
    let theirs = Scheduling { policy: IDLE, priority: 0, nice: 0, reset_on_fork: false };
    theirs.apply(crowd.pid())?;
    agent.end(Signal::SIGTERM)?;
    let main = Scheduling::of(crowd.pid())?;
    ensure!(main.policy == IDLE, "{main:?}");
    let others = crowd.attributes().split_off(1);
    ensure!(others.iter().all(|a| a.scheduling.policy == OTHER), "{others:#?}");
    Ok(())
}

#[test]
fn two_agents_side_by_side_keep_to_their_own() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (first, second) = (place()?, Place::new()?);
    second.policy("50-test.toml", &POLICY.replace("priority = 7", "priority = 8"))?;
    let (mut agent, _other) = (first.start(&[])?, second.start(&[])?);
    let (a, b) = (managed_crowd(&first)?, second.load(&CROWD)?);
    b.wait_for(4, |found| found.scheduling.priority == 8)?;
    agent.end(Signal::SIGTERM)?;
    a.wait_for(4, untouched()?)?;
    b.wait_for(4, |found| found.scheduling.priority == 8)
}

#[test]
fn a_class_that_asks_for_nothing_leaves_threads_alone() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    let policy = "schema = 1\n[class.seen]\ntier = \"interactive\"\nsched = \"keep\"\n\
                  [[rule]]\nclass = \"seen\"\nmatch = { exe = \"{bin}/downbeat-load\" }\n";
    place.policy("50-test.toml", policy)?;
    let agent = place.start(&[])?;
    let crowd = place.load(&CROWD)?;
    agent.wait_for(|snapshot| {
        let process = snapshot.processes.iter().find(|p| p.pid == crowd.pid())?;
        (process.class.as_deref() == Some("seen")).then_some(())
    })?;
    crowd.wait_for(4, untouched()?)
}

#[test]
fn the_journal_is_gone_after_a_clean_end() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let mut agent = place.start(&[])?;
    let _crowd = managed_crowd(&place)?;
    agent.end(Signal::SIGTERM)?;
    let restored = place.restore()?;
    ensure!(restored.status.success(), "{}", said(&restored));
    ensure!(!place.run_dir().join("agent.sock").exists(), "the socket stayed");
    let left: Vec<_> = fs::read_dir(place.run_dir())?.flatten().map(|e| e.file_name()).collect();
    ensure!(left.len() <= 2, "more than a lock and an empty journal stayed: {left:?}");
    Ok(())
}

/// `renice` does not change a real-time or idle thread's class, and is its own wish all the same.
#[test]
fn a_nice_value_that_someone_set_meanwhile_stays() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let place = place()?;
        let mut agent = place.start(&[])?;
        let crowd = managed_crowd(&place)?;
        let pid = crowd.pid().to_string();
        let reniced = Command::new("renice").args(["-n", "7", "-p", &pid]).status()?;
        ensure!(reniced.success(), "{reniced}");
        agent.end(signal)?;
        let said = match signal {
            Signal::SIGKILL => said(&place.restore()?),
            _ => agent.log(),
        };
        let expected = Scheduling { policy: OTHER, priority: 0, nice: 7, reset_on_fork: false };
        let main = Scheduling::of(crowd.pid())?;
        ensure!(main == expected, "{main:?}\n{said}");
        ensure!(said.contains("nice stays 7"), "not told: {said}");
        let others = crowd.attributes().split_off(1);
        ensure!(others.iter().all(|a| a.scheduling.nice == 0), "{others:#?}");
    }
    Ok(())
}

const BACKGROUND: &str = r#"
schema = 1

[class.quiet]
tier = "background"
cpus = "0"
io = { class = "idle" }
memory = { oom = 321 }

[[rule]]
name = "crowd"
class = "quiet"
match = { exe = "{bin}/downbeat-load" }
"#;

/// Without rights an agent may make its user's threads idle and could not take that back.
#[test]
fn an_agent_without_rights_sets_only_what_it_can_undo() -> Result<()> {
    const NOBODY: u32 = 65534;
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    place.policy("50-test.toml", BACKGROUND)?;
    std::os::unix::fs::chown(place.run_dir(), Some(NOBODY), Some(NOBODY))?;
    let log = place.path("agent.log");
    fs::write(&log, "")?;
    let mut load = Command::new(place.bin("downbeat-load"));
    load.args(CROWD).uid(NOBODY).gid(NOBODY).stdin(Stdio::null());
    die_with_this_thread(&mut load, Signal::SIGKILL);
    let mut load = load.spawn()?;
    let found = || -> Vec<Attributes> {
        tids(load.id()).into_iter().filter_map(|tid| Attributes::of(tid).ok()).collect()
    };
    let patience = downbeat_tests::agent::PATIENCE;
    ensure!(wait_until(patience, || found().len() == 4), "{:#?}", found());
    let before = found();
    let mut command = place.agent_command();
    command.arg("--no-bpf").uid(NOBODY).gid(NOBODY);
    let mut agent = Agent::start(command, place.run_dir(), log)?;
    let set = |it: &Attributes| it.oom == 321 && it.affinity == "0" && it.ioprio == 3 << 13;
    let came = wait_until(patience, || found().iter().all(set));
    let during = found();
    let log = agent.log();
    let ended = agent.end(Signal::SIGTERM);
    let after = found();
    load.kill()?;
    load.wait()?;
    ensure!(came, "{during:#?}\n{log}");
    ensure!(during.iter().all(|it| it.scheduling.policy == OTHER), "{during:#?}");
    ensure!(log.contains("could not be put back") && log.contains("CAP_SYS_NICE"), "{log}");
    ensure!(ended?.success() && after == before, "{after:#?}\n{}", agent.log());
    Ok(())
}
