//! The examples of `docs/frames.md` against the agent's own reader.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use downbeat_agent::model::frames::{Frames, MarkCounters, MarkedProcess};
use downbeat_agent::observe::frames::{FrameCounters, FrameSocket, SOCKET_NAME};
use downbeat_api::{Release, ThreadJobs};

const FRAMES: u64 = 20;

/// Runs a program that marks 20 frames, and reads them as the agent would.
fn frames_of(program: impl FnOnce(&Path) -> Child) -> (ThreadJobs, FrameCounters, MarkCounters) {
    let folder = tempfile::tempdir().unwrap();
    let mut socket = FrameSocket::bind(&folder.path().join(SOCKET_NAME)).unwrap();
    let mut child = program(&folder.path().join(SOCKET_NAME));
    let (mut frames, mut marks) = (Frames::default(), Vec::new());
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let ended = child.try_wait().unwrap();
        socket.drain(&mut marks).unwrap();
        marks.drain(..).for_each(|mark| frames.mark(&mark));
        if let Some(status) = ended {
            assert!(status.success(), "{status}");
            break;
        }
        assert!(Instant::now() < end, "the program does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
    let known =
        MarkedProcess { start_time: 1, name: "example".into(), class: None, deadline_ns: None };
    let pid = child.id();
    let jobs = frames.sample(|it| (it == pid).then(|| known.clone()));
    assert_eq!(jobs.len(), 1, "frames of the program that sent them, and of no other");
    (jobs[0].clone(), socket.counters(), frames.counters())
}

fn check(told: &(ThreadJobs, FrameCounters, MarkCounters)) {
    let (jobs, read, paired) = told;
    assert_eq!((read.garbage, read.refused, read.marks), (0, 0, read.datagrams));
    assert_eq!(jobs.release, Some(Release::Marked));
    let done = jobs.total.jobs;
    // A reader that stands still for 100 ms on a busy machine loses marks: the kernel's queue may
    // be as short as ten. Most come through, and what is lost shows on the other side.
    assert!((FRAMES / 2..=FRAMES).contains(&done), "{jobs:?}");
    if read.datagrams == 2 * FRAMES {
        assert_eq!((done, *paired), (FRAMES, MarkCounters::default()));
    }
    // A frame takes 2 ms and more where the machine is busy; one is begun every 20 ms.
    let (response, interval) = (jobs.total.response, jobs.total.interval);
    assert!(response.sum_ns >= done * 2_000_000, "{response:?}");
    assert!(interval.sum_ns >= interval.count * 20_000_000, "{interval:?}");
}

#[test]
fn the_rust_example_marks_its_frames() {
    // Where cargo puts examples, beside the folder of the tests' own programs. Cargo builds them
    // with the tests, unless one test alone is asked for.
    let mut example = std::env::current_exe().unwrap();
    example.pop();
    example.pop();
    let example: PathBuf = example.join("examples/frames");
    if !example.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = ["build", "--quiet", "--package", "downbeatd", "--example", "frames"];
        assert!(Command::new(cargo).args(build).status().unwrap().success());
    }
    check(&frames_of(|socket| {
        Command::new(example).arg(socket).arg(FRAMES.to_string()).spawn().unwrap()
    }));
}

#[test]
fn the_python_example_marks_its_frames() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("not run: there is no python3 here");
        return;
    }
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/frames.py");
    check(&frames_of(|socket| {
        Command::new("python3").arg(example).arg(socket).arg(FRAMES.to_string()).spawn().unwrap()
    }));
}
