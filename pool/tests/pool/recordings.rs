//! Recordings that the noise remover gets as requests: they wait in the queue as all others do.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::thread;

use downbeat_api::pool::{Model, WorkerState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::rest::{Answer, call, start};
use crate::support::TestPool;

const MIC: &str = "[worker.mic]\nmodel = \"denoise\"\n";

/// Frames of the longest recording that is taken.
const LONG: usize = 1000;

/// A process that is stopped until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: u32) -> Self {
        let pid = Pid::from_raw(pid.cast_signed());
        kill(pid, Signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have ended.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// The body of a request with so many frames of silence, and how much of it is JSON.
fn body(frames: usize, channels: usize, timeout_s: Option<u64>) -> (String, Vec<u8>) {
    let (samples, bytes) = (frames * 480, frames * 480 * channels * 2);
    let mut head = json!({
        "inputs": [{ "name": "pcm", "datatype": "INT16", "shape": [samples, channels],
            "parameters": { "binary_data_size": bytes } }],
        "parameters": { "binary_data_output": true },
    });
    if let Some(seconds) = timeout_s {
        head["parameters"]["timeout"] = json!(seconds * 1_000_000);
    }
    let mut body = head.to_string().into_bytes();
    let length = format!("Inference-Header-Content-Length: {}\r\n", body.len());
    body.resize(body.len() + bytes, 0);
    (length, body)
}

fn denoise(address: &str, frames: usize, channels: usize, timeout_s: Option<u64>) -> Answer {
    let (length, body) = body(frames, channels, timeout_s);
    call(address, "POST /v2/models/mic/infer", &length, &body)
}

fn wait(pool: &TestPool, what: &str, is: impl Fn(&Model) -> bool) {
    pool.wait(what, |status| status.models.iter().any(&is));
}

#[test]
fn the_one_whose_deadline_is_earlier_goes_first() {
    let (pool, address) = start(MIC, "/no/models".as_ref());
    pool.wait_for("mic", WorkerState::Ready);
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        // Each of those that wait computes for longer than a client may take to be told.
        let ask = |name: &'static str, timeout_s: Option<u64>| {
            let (order, address) = (&order, &address);
            scope.spawn(move || {
                let answer = denoise(address, LONG, 4, timeout_s);
                assert_eq!(answer.status, 200, "{name}: {answer:?}");
                order.lock().unwrap().push(name);
            });
        };
        // Seconds of computing, in which the others come.
        scope.spawn(|| assert_eq!(denoise(&address, LONG, 16, None).status, 200));
        wait(&pool, "one that runs", |model| model.running == 1);
        ask("whenever", None);
        wait(&pool, "one that waits", |model| model.queued == 1);
        ask("in two minutes", Some(120));
        wait(&pool, "two that wait", |model| model.queued == 2);
        ask("in one minute", Some(60));
        wait(&pool, "three that wait", |model| model.queued == 3);
    });
    let order = order.into_inner().unwrap();
    assert_eq!(order, ["in one minute", "in two minutes", "whenever"]);
    wait(&pool, "sound that was counted", |model| model.real_time_factor.is_some());
}

#[test]
fn several_at_once_are_in_time_though_none_was_measured_yet() {
    let (pool, address) = start(MIC, "/no/models".as_ref());
    pool.wait_for("mic", WorkerState::Ready);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let answer = denoise(&address, 100, 1, Some(5));
                assert_eq!(answer.status, 200, "{answer:?}");
            });
        }
    });
}

#[test]
fn a_killed_worker_costs_none_of_them() {
    let (pool, address) = start(MIC, "/no/models".as_ref());
    let worker = pool.wait_for("mic", WorkerState::Ready).pid.unwrap();
    let stopped = Stopped::new(worker);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let answer = denoise(&address, 10, 1, None);
                assert_eq!(answer.status, 200, "{answer:?}");
            });
        }
        wait(&pool, "seven that wait", |model| model.running == 1 && model.queued == 7);
        kill(stopped.0, Signal::SIGKILL).unwrap();
    });
    assert_ne!(pool.wait_for("mic", WorkerState::Ready).pid, Some(worker));
}

#[test]
fn a_worker_that_is_told_to_end_costs_none_either() {
    let (pool, address) = start(MIC, "/no/models".as_ref());
    let worker = pool.wait_for("mic", WorkerState::Ready).pid.unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let answer = denoise(&address, LONG, 16, None);
            assert_eq!(answer.status, 200, "{answer:?}");
        });
        // It tells them each second.
        pool.wait("frames", |status| status.workers[0].frames.is_some_and(|frames| frames > 0));
        kill(Pid::from_raw(worker.cast_signed()), Signal::SIGTERM).unwrap();
    });
    assert_ne!(pool.wait_for("mic", WorkerState::Ready).pid, Some(worker));
}

#[test]
fn one_whose_client_leaves_is_given_up() {
    let (pool, address) = start(MIC, "/no/models".as_ref());
    let worker = pool.wait_for("mic", WorkerState::Ready).pid.unwrap();
    let stopped = Stopped::new(worker);
    let (length, body) = body(LONG, 1, None);
    let mut client = TcpStream::connect(&address).unwrap();
    let size = body.len();
    let head = "POST /v2/models/mic/infer HTTP/1.1\r\nHost: x\r\n";
    write!(client, "{head}{length}Content-Length: {size}\r\n\r\n").unwrap();
    client.write_all(&body).unwrap();
    wait(&pool, "one that runs", |model| model.running == 1);
    drop(client);
    wait(&pool, "none that runs", |model| model.running == 0);
    drop(stopped);
    assert_eq!(denoise(&address, 1, 1, None).status, 200);
    // One of the first recording, and of the second one with the silence behind it.
    let computed = |frames: Option<u64>| frames.is_some_and(|frames| (2..=3).contains(&frames));
    pool.wait("three frames", |status| computed(status.workers[0].frames));
    assert_eq!(pool.wait_for("mic", WorkerState::Ready).pid, Some(worker), "it was killed");
}

#[test]
fn one_that_is_none_is_refused_before_it_waits() {
    let (pool, address) = start(MIC, "/no/models".as_ref());
    let worker = pool.wait_for("mic", WorkerState::Ready).pid.unwrap();
    let stopped = Stopped::new(worker);
    thread::scope(|scope| {
        scope.spawn(|| denoise(&address, 1, 1, None));
        wait(&pool, "one that runs", |model| model.running == 1);
        let wrong = json!({ "inputs": [
            { "name": "pcm", "datatype": "INT16", "shape": [7], "data": [0, 0, 0, 0, 0, 0, 0] },
        ] });
        let body = wrong.to_string().into_bytes();
        let answer = call(&address, "POST /v2/models/mic/infer", "", &body);
        assert_eq!(answer.status, 400, "{answer:?}");
        let said = answer.json["error"].as_str().unwrap();
        assert!(said.contains("send [N] or [N, CHANNELS]"), "{said}");
        assert!(pool.try_status().unwrap().models.iter().all(|model| model.running == 1));
        drop(stopped);
    });
}
