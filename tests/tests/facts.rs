//! What the agent believes of a process, and of its policy's files, stays true while it runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use downbeat_api::{Request, Response};
use downbeat_tests::agent::{Agent, PATIENCE, Place, die_with_this_thread, said};
use downbeat_tests::cgroup::Group;
use downbeat_tests::processes::wait_until;
use downbeat_tests::skip::root_or_skip;
use downbeat_tests::threads::{BATCH, Scheduling};
use nix::sys::signal::Signal;

/// What is promised for a program that started a moment ago, and what a busy host adds.
const SOON: Duration = Duration::from_millis(1000 + 1500);

/// The same for one that is older than ten seconds.
const LATER: Duration = Duration::from_millis(5000 + 1500);

fn policy(matched: &str, more: &str) -> String {
    format!(
        r#"
schema = 1

[class.seen]
tier = "background"
sched = "batch"
{more}

[[rule]]
name = "it"
class = "seen"
match = {{ {matched} }}
"#
    )
}

/// A Python program; killed when dropped.
struct Program(Child);

impl Program {
    fn start(text: &str) -> Result<Self> {
        let mut command = Command::new("python3");
        command.args(["-c", text]).stdin(Stdio::null());
        die_with_this_thread(&mut command, Signal::SIGKILL);
        Ok(Self(command.spawn().context("python3: starting it")?))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn is_seen(&self) -> bool {
        Scheduling::of(self.pid()).is_ok_and(|found| found.policy == BATCH)
    }

    /// How long it takes until the agent has changed its mind to `seen`.
    fn seen_after(&self, seen: bool, agent: &Agent) -> Result<Duration> {
        let begun = Instant::now();
        let came = wait_until(PATIENCE, || self.is_seen() == seen);
        ensure!(came, "never {seen}: {:?}\n{}", Scheduling::of(self.pid()), agent.log());
        Ok(begun.elapsed())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_daemon_that_gives_up_root_is_the_other_users() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    place.policy("50-test.toml", &policy(r#"user = "65534", cmdline = "*gives up*""#, ""))?;
    let agent = place.start(&["--no-bpf"])?;
    let program = Program::start(
        "'gives up root'\nimport os, time\ntime.sleep(2)\nos.setgid(65534); os.setuid(65534)\n\
         time.sleep(600)",
    )?;
    let is_nobody = || {
        let status = fs::read_to_string(format!("/proc/{}/status", program.pid()));
        status.is_ok_and(|text| text.contains("Uid:\t65534"))
    };
    ensure!(wait_until(PATIENCE, is_nobody), "it stays root");
    let took = program.seen_after(true, &agent)?;
    ensure!(took < SOON, "{took:?}");
    Ok(())
}

/// Ends at the latest when its standard input does.
const ORPHAN: &str = "'becomes an orphan'
import os, sys, time
if os.fork(): time.sleep(4)
else: sys.stdin.read()";

#[test]
fn an_orphan_is_no_more_its_parents_child() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    let matched = r#"parent = "python3*", cmdline = "*becomes an orphan*""#;
    place.policy("50-test.toml", &policy(matched, ""))?;
    let agent = place.start(&["--no-bpf"])?;
    let mut command = Command::new("python3");
    let mut parent = command.args(["-c", ORPHAN]).stdin(Stdio::piped()).spawn()?;
    let children = format!("/proc/{0}/task/{0}/children", parent.id());
    // `python3` may be a script that looks for the real one with helpers of its own.
    let child = || {
        let pid = fs::read_to_string(&children).ok()?.trim().parse::<u32>().ok()?;
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        exe.to_string_lossy().contains("/python3").then_some(pid)
    };
    ensure!(wait_until(PATIENCE, || child().is_some()), "no child");
    let child = child().context("it is gone")?;
    let is_seen = || Scheduling::of(child).is_ok_and(|found| found.policy == BATCH);
    ensure!(wait_until(SOON, is_seen), "never seen\n{}", agent.log());
    // Its end of the pipe stays open for the child.
    let pipe = parent.stdin.take();
    parent.wait()?;
    let let_go = wait_until(LATER, || !is_seen());
    let is_there = Scheduling::of(child).is_ok();
    drop(pipe);
    ensure!(let_go && is_there, "there: {is_there}\n{}", agent.log());
    Ok(())
}

/// A control group of this test's own in the first hierarchy that shows where a process is, and
/// its path as `/proc/PID/cgroup` has it.
fn new_group(name: &str) -> Result<Option<(Group, String)>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut found = fields.filter(|fields| fields.get(2) == Some(&"cgroup2"));
    let Some(root) = found.find_map(|fields| fields.get(1).map(PathBuf::from)) else {
        eprintln!("skipped: no version 2 of control groups");
        return Ok(None);
    };
    let name = format!("downbeat-test-{name}-{}", std::process::id());
    Ok(Some((Group::new(&root, &name)?, format!("/{name}"))))
}

/// Moves a process to the group above.
fn let_go(group: &Group, pid: u32) -> Result<()> {
    let above = group.path().parent().context("the root has no group above")?;
    let procs = above.join("cgroup.procs");
    fs::write(&procs, pid.to_string())
        .with_context(|| format!("{}: writing {pid}", procs.display()))
}

#[test]
fn a_process_that_is_moved_has_the_class_of_its_new_group() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let Some((group, path)) = new_group("moved")? else { return Ok(()) };
    let place = Place::new()?;
    place.policy("50-test.toml", &policy(&format!("cgroup = {path:?}"), ""))?;
    let agent = place.start(&["--no-bpf"])?;
    let program = Program::start("import time\ntime.sleep(600)")?;
    std::thread::sleep(Duration::from_secs(2));
    group.take_in(program.pid())?;
    let took = program.seen_after(true, &agent)?;
    ensure!(took < SOON, "moved in: {took:?}");
    // It is not young any more.
    std::thread::sleep(Duration::from_secs(10));
    let_go(&group, program.pid())?;
    let took = program.seen_after(false, &agent)?;
    ensure!(took < LATER, "moved out: {took:?}");
    Ok(())
}

/// The agent moves it into a group of its own because of the group that it is in.
#[test]
fn a_process_that_the_agent_moved_is_still_what_it_was_moved_for() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let Some((group, path)) = new_group("adopted")? else { return Ok(()) };
    let own = group.path().with_file_name("downbeat.slice");
    if own.exists() || fs::read_to_string("/proc/1/comm")?.trim() == "systemd" {
        eprintln!("skipped: an agent or systemd has groups here");
        return Ok(());
    }
    let place = Place::new()?;
    place.policy("50-test.toml", &policy(&format!("cgroup = {path:?}"), "adopt = true"))?;
    let agent = place.start(&["--no-bpf"])?;
    let program = Program::start("import time\ntime.sleep(600)")?;
    let is_in = |path: &str| {
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", program.pid()));
        groups.is_ok_and(|text| text.lines().any(|line| line == format!("0::{path}")))
    };
    group.take_in(program.pid())?;
    let adopted = || is_in("/downbeat.slice/seen");
    ensure!(wait_until(PATIENCE, adopted), "not adopted\n{}", agent.log());
    let begun = Instant::now();
    while begun.elapsed() < LATER {
        ensure!(adopted() && program.is_seen(), "let go\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.client()?.request(&Request::Reload)?;
    ensure!(adopted() && program.is_seen(), "let go at a reload\n{}", agent.log());
    // Whoever moves it away takes it from the rule.
    let_go(&group, program.pid())?;
    program.seen_after(false, &agent)?;
    ensure!(is_in("/"), "moved again\n{}", agent.log());
    Ok(())
}

/// Waits until the agent's word on its policy is as wanted.
fn policy_is(agent: &Agent, refused: bool, rules: u64) -> Result<()> {
    agent.wait_for(|snapshot| {
        let policy = &snapshot.policy;
        (policy.standing.is_some() == refused && policy.rules == rules).then_some(())
    })
}

#[test]
fn changes_of_the_policy_are_seen_whichever_way_they_come() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    let one = policy(r#"comm = "nobody-1""#, "");
    let rule = "\n[[rule]]\nname = \"two\"\nclass = \"seen\"\nmatch = { comm = \"nobody-2\" }\n";
    let two = format!("{one}{rule}");
    let file = place.path("policy/a.toml");
    let target = place.path("target.toml");
    fs::write(&target, &one)?;
    symlink(&target, &file)?;
    let agent = place.start(&["--no-bpf"])?;
    policy_is(&agent, false, 1)?;
    // Where it lies, with a file beside it that is touched without end.
    let begun = Instant::now();
    fs::write(&target, &two)?;
    while agent.snapshot()?.policy.rules != 2 {
        ensure!(begun.elapsed() < PATIENCE, "never seen\n{}", agent.log());
        fs::write(place.path("policy/z.toml"), "schema = 1\n")?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let took = begun.elapsed();
    ensure!(took < Duration::from_secs(3), "{took:?}");
    // A mistake of its own per line: the first are told, and all are counted.
    let flood: String = (0..10_000).map(|i| format!("x{i} = 1\n")).collect();
    fs::write(&target, format!("schema = 1\n{flood}"))?;
    policy_is(&agent, true, 2)?;
    let told = agent.snapshot()?.policy.standing.context("no refusal")?;
    ensure!(
        (told.problems.len(), told.more) == (100, 9900),
        "{} {}",
        told.problems.len(),
        told.more
    );
    let log = agent.log();
    ensure!(log.contains(" x99: ") && !log.contains(" x100: "), "{log}");
    ensure!(log.contains("9900 more problems"), "{log}");
    fs::write(&target, &one)?;
    policy_is(&agent, false, 1)?;
    // The folder goes, which is no policy, and comes back.
    let (folder, aside) = (place.path("policy"), place.path("aside"));
    fs::rename(&folder, &aside)?;
    policy_is(&agent, true, 1)?;
    let reload = agent.client()?.request(&Request::Reload)?;
    ensure!(matches!(reload, Response::Refused { .. }), "{reload:?}");
    let status = place.downbeat(&["status", "--run-dir", &run_dir(&place)])?;
    ensure!(said(&status).contains("is gone"), "{}", said(&status));
    fs::rename(&aside, &folder)?;
    policy_is(&agent, false, 1)
}

fn run_dir(place: &Place) -> String {
    let path: &Path = &place.run_dir();
    path.to_string_lossy().into_owned()
}
