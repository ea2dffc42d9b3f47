//! The pool under the agent: its workers work, are restarted, and never outlive it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_api::Snapshot;
use downbeat_api::pool::{Worker, WorkerState};
use downbeat_tests::agent::{Agent, PATIENCE, Place};
use downbeat_tests::processes::{ThreadId, alive, running_from, signal, wait_until};
use downbeat_tests::record::Frames;
use downbeat_tests::skip::root_or_skip;
use downbeat_tests::threads::FIFO;
use nix::sys::signal::Signal;

const POLICY: &str = r#"
schema = 1

[class.voice]
modality = "audio"
tier = "realtime"
deadline = "10ms"
sched = { policy = "fifo", priority = 7 }

[[rule]]
class = "voice"
match = { exe = "{bin}/downbeat-worker" }
"#;

const MIC: &str = "[worker.mic]\nmodel = \"denoise\"\n";

fn place(pool: &str) -> Result<Place> {
    let place = Place::new()?;
    place.policy("50-test.toml", POLICY)?;
    place.pool("50-test.toml", &format!("schema = 1\n{pool}"))?;
    Ok(place)
}

fn worker<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a Worker> {
    snapshot.pool.as_ref()?.workers.iter().find(|worker| worker.name == name)
}

fn ready(agent: &Agent, name: &str) -> Result<Worker> {
    agent.wait_for(|snapshot| {
        let worker = worker(snapshot, name)?;
        (worker.state == WorkerState::Ready && worker.pid.is_some()).then(|| worker.clone())
    })
}

/// Everything that runs from the place, by program name.
fn running(place: &Place) -> Vec<(ThreadId, String)> {
    running_from(&place.path("bin"))
        .into_iter()
        .filter_map(|(id, exe)| Some((id, exe.file_name()?.to_str()?.to_owned())))
        .collect()
}

fn process(place: &Place, program: &str) -> Result<ThreadId> {
    let all = running(place);
    let found = all.iter().find(|(_, name)| name == program);
    found.map(|(id, _)| *id).with_context(|| format!("no {program} in {all:?}"))
}

/// The pool itself: its keeper is another process of the same program.
fn pool_process(agent: &Agent, place: &Place) -> Result<ThreadId> {
    let pid = agent.wait_for(|snapshot| snapshot.pool.as_ref()?.pid)?;
    let all = running(place);
    let found = all.iter().find(|(id, _)| id.tid == pid);
    found.map(|(id, _)| *id).with_context(|| format!("no pool {pid} in {all:?}"))
}

fn nothing_left(place: &Place) -> Result<()> {
    wait_until(Duration::from_secs(10), || running(place).is_empty());
    let left = running(place);
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[test]
fn the_audio_worker_answers_every_frame_and_gets_its_class() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place(MIC)?;
    let agent = place.start(&[])?;
    let mic = ready(&agent, "mic")?;
    let socket = mic.socket.context("the worker names no socket")?;
    let record = place.records().join("mic");
    let record_arg = record.to_string_lossy();
    let args = ["audio", "--channels", "2", "--seconds", "3", "--socket", &socket];
    let card = place.load(&[&args[..], &["--record", &record_arg]].concat())?;
    wait_until(PATIENCE, || Frames::read(&record).is_ok_and(|r| r.frames.len() >= 301));
    let frames = Frames::read(&record)?.frames;
    let answered = frames.iter().filter(|frame| frame.response_ns.is_some()).count();
    // The machine is shared and may stall; the miss rates are the benchmark's business.
    ensure!(answered * 10 >= frames.len() * 9, "{answered} of {} answered", frames.len());
    drop(card);
    let pid = mic.pid.context("no pid")?;
    let mut tids = downbeat_tests::processes::tids(pid);
    tids.retain(|&tid| {
        downbeat_tests::threads::Scheduling::of(tid).is_ok_and(|s| s.policy != FIFO)
    });
    ensure!(tids.is_empty(), "threads without their class: {tids:?}");
    agent.wait_for(|snapshot| {
        let counted = worker(snapshot, "mic")?.frames? >= answered as u64;
        counted.then_some(())
    })
}

#[test]
fn the_pool_runs_unprivileged() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place(MIC)?;
    let agent = place.start(&[])?;
    ready(&agent, "mic")?;
    for program in ["downbeat-pool", "downbeat-worker"] {
        let pid = process(&place, program)?.tid;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned()
        };
        ensure!(!field("Uid:").split_whitespace().any(|uid| uid == "0"), "{program}: {status}");
        ensure!(field("CapEff:").trim_start_matches('0').is_empty(), "{program}: {status}");
    }
    Ok(())
}

#[test]
fn a_worker_that_exits_at_once_backs_off_and_says_so() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place(&format!("{MIC}[worker.brief]\ncommand = [\"/bin/false\"]\n"))?;
    let agent = place.start(&[])?;
    agent.wait_for(|snapshot| {
        let brief = worker(snapshot, "brief")?;
        let down = matches!(brief.state, WorkerState::Backoff | WorkerState::Failed);
        (down && brief.restarts >= 2 && brief.note.as_ref()?.contains('1')).then_some(())
    })?;
    ready(&agent, "mic").map(drop)
}

#[test]
fn a_worker_that_does_not_exist_is_named() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let command = "[worker.ghost]\ncommand = [\"/nonexistent/ghost\", \"--walk\"]\n";
    let place = place(&format!("{MIC}{command}"))?;
    let agent = place.start(&[])?;
    agent.wait_for(|snapshot| {
        let note = worker(snapshot, "ghost")?.note.clone()?;
        note.contains("/nonexistent/ghost").then_some(())
    })?;
    ready(&agent, "mic").map(drop)
}

#[test]
fn a_broken_declaration_is_named_and_the_agent_goes_on() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place("[worker.mic]\nmodle = \"denoise\"\n")?;
    let agent = place.start(&[])?;
    agent.wait_for(|snapshot| {
        let text = format!("{:?} {:?}", snapshot.notices, snapshot.pool);
        // Where the pool cannot say it over its socket, the log does.
        (text.contains("modle") || agent.log().contains("modle")).then_some(())
    })
}

#[test]
fn a_killed_worker_comes_back_with_its_class() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place(MIC)?;
    let agent = place.start(&[])?;
    let first = ready(&agent, "mic")?.pid;
    signal(process(&place, "downbeat-worker")?, Signal::SIGKILL);
    let second = agent.wait_for(|snapshot| {
        let mic = worker(snapshot, "mic")?;
        let again = mic.state == WorkerState::Ready && mic.pid != first && mic.restarts == 1;
        if again { mic.pid } else { None }
    })?;
    let classed = || {
        let attributes = downbeat_tests::threads::Scheduling::of(second);
        attributes.is_ok_and(|scheduling| scheduling.policy == FIFO)
    };
    ensure!(wait_until(PATIENCE, classed), "the new worker has no class");
    Ok(())
}

#[test]
fn a_killed_pool_takes_its_workers_with_it_and_comes_back() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let hog = "[worker.hog]\ncommand = [\"{bin}/downbeat-load\", \"hog\", \"--record\", \
               \"{records}/hog\", \"--seconds\", \"60\"]\n";
    let place = place(&format!("{MIC}{hog}"))?;
    let agent = place.start(&[])?;
    ready(&agent, "mic")?;
    let mut old: Vec<ThreadId> = Vec::new();
    wait_until(PATIENCE, || {
        let all = running(&place).into_iter();
        let workers = all.filter(|(_, name)| name != "downbeatd" && name != "downbeat-pool");
        old = workers.map(|(id, _)| id).collect();
        old.len() == 2
    });
    ensure!(old.len() == 2, "{old:?}");
    let pool = pool_process(&agent, &place)?;
    signal(pool, Signal::SIGKILL);
    let gone = || old.iter().all(|&id| !alive(id));
    ensure!(wait_until(PATIENCE, gone), "workers outlived their pool");
    agent.wait_for(|snapshot| {
        let pool_pid = snapshot.pool.as_ref()?.pid?;
        (pool_pid != pool.tid).then_some(())
    })?;
    ready(&agent, "mic").map(drop)
}

#[test]
fn a_killed_agent_leaves_no_orphan() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place(MIC)?;
    let mut agent = place.start(&[])?;
    ready(&agent, "mic")?;
    agent.end(Signal::SIGKILL)?;
    nothing_left(&place)
}

#[test]
fn a_stopped_agent_leaves_no_orphan() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place(MIC)?;
    let mut agent = place.start(&[])?;
    ready(&agent, "mic")?;
    let status = agent.end(Signal::SIGTERM)?;
    ensure!(status.success(), "{status}");
    nothing_left(&place)
}

/// Workers of each kind, with descendants in sessions of their own.
const FAMILIES: &str = "[worker.mic]\nmodel = \"denoise\"\n\
    [worker.family]\ncommand = [\"{bin}/downbeat-load\", \"family\", \"--live\", \"300s\"]\n\
    [worker.echo]\nstdio = { mode = \"kept\" }\n\
    command = [\"{bin}/downbeat-load\", \"family\", \"--live\", \"300s\"]\n";

/// One request to the worker that answers with what it gets; whether an answer came.
fn echoed(place: &Place, word: &str) -> Result<bool> {
    let mut stream = UnixStream::connect(place.run_dir().join("pool/rest.sock"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = format!(
        "{{\"inputs\":[{{\"name\":\"input\",\"datatype\":\"BYTES\",\"shape\":[1],\"data\":[\"{word}\"]}}]}}"
    );
    write!(
        stream,
        "POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(!answer.contains("200 OK") || answer.contains(word), "another's answer: {answer}");
    Ok(answer.contains("200 OK"))
}

/// Kills some of downbeat's programs under requests, again and again, and looks for what is left.
#[test]
fn nobody_outlives_the_pool_or_the_agent_under_requests() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place(FAMILIES)?;
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|client| {
                let (place, over, answered) = (&place, &over, &answered);
                scope.spawn(move || {
                    for number in 0.. {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        // A pool that is killed answers nobody; whoever does answers right.
                        match echoed(place, &format!("word-{client}-{number}-")) {
                            Ok(true) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                            Ok(false) | Err(_) => thread::sleep(Duration::from_millis(20)),
                        }
                    }
                })
            })
            .collect();
        let result = kills(&place, &answered);
        over.store(true, Ordering::Relaxed);
        for client in clients {
            ensure!(client.join().is_ok(), "a client panicked");
        }
        result
    })
}

fn kills(place: &Place, answered: &AtomicUsize) -> Result<()> {
    for (pool_dies, agent_dies) in [(true, false), (false, true), (true, true)] {
        let mut agent = place.start(&[])?;
        ready(&agent, "mic")?;
        ready(&agent, "family")?;
        let before = answered.load(Ordering::Relaxed);
        let came = wait_until(PATIENCE, || answered.load(Ordering::Relaxed) > before + 3);
        ensure!(came, "no answers\n{}", agent.log());
        // Two heads and two that left them.
        let loads = || running(place).into_iter().filter(|(_, name)| name == "downbeat-load");
        ensure!(wait_until(PATIENCE, || loads().count() == 4), "{:?}", running(place));
        let old: Vec<ThreadId> = running(place)
            .into_iter()
            .filter(|(_, name)| name == "downbeat-load" || name == "downbeat-worker")
            .map(|(id, _)| id)
            .collect();
        let pool = pool_process(&agent, place)?;
        if agent_dies {
            signal(agent.id()?, Signal::SIGKILL);
        }
        if pool_dies {
            signal(pool, Signal::SIGKILL);
        }
        let gone = || old.iter().all(|&id| !alive(id));
        ensure!(wait_until(PATIENCE, gone), "left: {:?}\n{}", running(place), agent.log());
        if agent_dies {
            agent.wait(PATIENCE)?;
        } else {
            ready(&agent, "mic")?;
            agent.end(Signal::SIGTERM)?;
        }
        nothing_left(place)?;
    }
    Ok(())
}
