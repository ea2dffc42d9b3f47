//! Live streams to a worker that the pool runs, and requests over the Open Inference Protocol.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use crate::support::{Stream, TestPool};
use downbeat_api::pool::{FrameHead, WorkerState};
use nix::sys::signal::Signal;

const MIC: &str = "[worker.mic]\nmodel = \"denoise\"\n";

fn power(payload: &[u8]) -> f64 {
    let samples: Vec<_> =
        payload.as_chunks::<2>().0.iter().map(|b| f64::from(i16::from_le_bytes(*b))).collect();
    samples.iter().map(|s| s * s).sum::<f64>() / samples.len() as f64
}

#[test]
fn a_live_stream_is_answered_in_order_and_counted() {
    let pool = TestPool::start(MIC);
    pool.wait_for("mic", WorkerState::Ready);
    let stream = Stream::connect(&pool.socket("mic.sock"));
    // Several frames on the way at a time, as after a hiccup.
    for round in 0..10 {
        for i in 0..5 {
            stream.send_frame(round * 5 + i, 2);
        }
        for i in 0..5 {
            let answer = stream.receive();
            let (head, payload) = FrameHead::split(&answer).unwrap();
            assert_eq!(head.sequence, round * 5 + i);
            assert_eq!(payload.len(), 480 * 2 * 2);
            if round == 0 && i > 0 {
                assert!(power(payload) > 1.0, "frame {i} is silent");
            }
        }
    }
    let status = pool.wait("counters", |status| status.workers[0].frames == Some(50));
    let mic = &status.workers[0];
    assert_eq!(mic.missed, Some(0), "a frame without a deadline cannot miss it");
    let (p50, p99) = (mic.compute_p50_ns.unwrap(), mic.compute_p99_ns.unwrap());
    assert!(0 < p50 && p50 <= p99, "{p50} {p99}");
}

#[test]
fn frames_past_their_deadline_are_counted() {
    let pool = TestPool::start(MIC);
    pool.wait_for("mic", WorkerState::Ready);
    let stream = Stream::connect(&pool.socket("mic.sock"));
    for sequence in 0..4u32 {
        // Released at the machine's boot: every second one has a deadline and is late.
        let head = FrameHead { release_ns: 1, sequence, deadline_us: 10 * (sequence % 2) };
        let mut message = head.to_bytes().to_vec();
        message.resize(16 + 960, 0);
        stream.send(&message);
        assert_eq!(stream.receive()[..16], head.to_bytes());
    }
    let status = pool.wait("counters", |status| status.workers[0].frames == Some(4));
    assert_eq!(status.workers[0].missed, Some(2));
}

#[test]
fn malformed_frames_end_only_their_own_connection() {
    let pool = TestPool::start(MIC);
    let pid = pool.wait_for("mic", WorkerState::Ready).pid;
    let path = pool.socket("mic.sock");
    let good = Stream::connect(&path);
    good.send_frame(0, 1);
    good.receive();
    for length in [1, 15, 16, 17, 16 + 959, 16 + 961, 16 + 65 * 960, 100_000] {
        let bad = Stream::connect(&path);
        bad.send(&vec![0xff; length]);
        assert_eq!(bad.receive(), b"", "{length} bytes were answered");
    }
    let changing = Stream::connect(&path);
    changing.send_frame(0, 2);
    assert_eq!(changing.receive().len(), 16 + 1920);
    changing.send_frame(1, 3);
    assert_eq!(changing.receive(), b"");
    good.send_frame(1, 1);
    assert_eq!(good.receive().len(), 16 + 960);
    assert_eq!(pool.wait_for("mic", WorkerState::Ready).pid, pid);
    let log = pool.log();
    assert!(log.contains("a message of 15 bytes, shorter than the head"), "{log}");
    assert!(log.contains("3 channels after 2"), "{log}");
}

/// Names and numbers of a worker's threads that compute streams.
fn threads(pid: u32) -> Vec<(String, u32)> {
    let mut threads: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|task| task.unwrap())
        .map(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap();
            (name.trim().to_owned(), task.file_name().to_str().unwrap().parse().unwrap())
        })
        .filter(|(name, _): &(String, u32)| name.starts_with("denoise-"))
        .collect();
    threads.sort();
    threads
}

#[test]
fn a_stream_computes_on_a_thread_of_its_own_name_which_takes_the_next() {
    let pool = TestPool::start(MIC);
    let pid = pool.wait_for("mic", WorkerState::Ready).pid.unwrap();
    let connect = |_| {
        let stream = Stream::connect(&pool.socket("mic.sock"));
        stream.send_frame(0, 1);
        stream.receive();
        stream
    };
    let streams: Vec<_> = (0..3).map(connect).collect();
    let before = threads(pid);
    let names: Vec<_> = before.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["denoise-0", "denoise-1", "denoise-2"]);
    drop(streams);
    // One behind the other, each with a moment for the worker to see the last one's end.
    for number in 0..10 {
        sleep(Duration::from_millis(20));
        drop(connect(number));
    }
    assert_eq!(threads(pid), before, "the same threads");
}

#[test]
fn one_stream_too_many_is_closed_and_the_others_go_on() {
    let pool = TestPool::start(MIC);
    pool.wait_for("mic", WorkerState::Ready);
    let path = pool.socket("mic.sock");
    let streams: Vec<_> = (0..64).map(|_| Stream::connect(&path)).collect();
    for stream in &streams {
        stream.send_frame(0, 1);
        assert_eq!(stream.receive().len(), 16 + 960);
    }
    assert_eq!(Stream::connect(&path).receive(), b"");
    streams[63].send_frame(1, 1);
    assert_eq!(streams[63].receive().len(), 16 + 960);
    drop(streams);
    // The slots are free again.
    for _ in 0..100 {
        let stream = Stream::connect(&path);
        sleep(Duration::from_millis(20));
        stream.send_frame(0, 1);
        if !stream.receive().is_empty() {
            return;
        }
    }
    panic!("no slot was freed; log:\n{}", pool.log());
}

fn http(address: &str, request: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_request_over_rest_reaches_the_worker() {
    let mut pool = TestPool::start_with(MIC, &["--rest", "127.0.0.1:0"]);
    pool.wait_for("mic", WorkerState::Ready);
    let address = pool.wait("address", |status| status.rest.is_some()).rest.unwrap();
    assert!(http(&address, "GET /v2/health/ready", "").starts_with("HTTP/1.1 200"));
    assert!(http(&address, "GET /v2/models/mic/ready", "").contains(r#""ready":true"#));
    assert!(http(&address, "GET /v2/models/nope", "").starts_with("HTTP/1.1 404"));
    let data: Vec<f32> = (0..480).map(|i| 0.3 * (i as f32 * 0.0576).sin()).collect();
    let body = format!(
        r#"{{"id":"7","inputs":[{{"name":"pcm","datatype":"FP32","shape":[480],"data":{data:?}}}]}}"#
    );
    let answer = http(&address, "POST /v2/models/mic/infer", &body);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, json) = answer.split_once("\r\n\r\n").unwrap();
    let answer: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!((answer["model_name"].as_str(), answer["id"].as_str()), (Some("mic"), Some("7")));
    let output = &answer["outputs"][0];
    assert_eq!(output["shape"], serde_json::json!([480]));
    let loud = output["data"].as_array().unwrap().iter().filter_map(serde_json::Value::as_f64);
    assert!(loud.fold(0.0, |most: f64, v| most.max(v.abs())) > 0.01, "{answer}");
    // The silence that follows each request is a frame too.
    pool.wait("counters", |status| status.workers[0].frames == Some(2));
    assert!(http(&address, "POST /v2/models/mic/infer", "{").starts_with("HTTP/1.1 400"));

    // A second pool cannot have the port; it says so and works without.
    let second = TestPool::start_with(MIC, &["--rest", &address]);
    let status = second.wait("note", |status| status.note.is_some());
    assert!(status.note.unwrap().contains(&format!("--rest {address}: ")));
    second.wait_for("mic", WorkerState::Ready);

    pool.signal(Signal::SIGTERM);
    assert!(pool.wait_end().success());
}
