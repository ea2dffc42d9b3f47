//! Models of the store over REST, computed by real workers.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use downbeat_api::pool::{Model, WorkerState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::rest::{Answer, Input, MODELS, call, infer, start};
use crate::support::{TestPool, declare};

/// What a worker may take to come up, in a debug build on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// One row of a test set, as `pool/models/training.py` writes it.
#[derive(Deserialize)]
struct Row {
    /// What is right.
    label: usize,
    /// What ONNX Runtime said.
    scores: Vec<f32>,
}

/// A model's test set.
pub struct Set {
    name: &'static str,
    input: &'static str,
    datatype: &'static str,
    shape: &'static [usize],
    rows: Vec<Row>,
    data: Vec<u8>,
}

impl Set {
    pub fn read(
        name: &'static str,
        input: &'static str,
        datatype: &'static str,
        shape: &'static [usize],
    ) -> Self {
        let folder = Path::new(MODELS).join(name).join("test");
        let rows = fs::read_to_string(folder.join("expected.json")).unwrap();
        let data = fs::read(folder.join("inputs.bin")).unwrap();
        Self { name, input, datatype, shape, rows: serde_json::from_str(&rows).unwrap(), data }
    }

    pub fn glyphs() -> Self {
        Self::read("glyphs", "image", "UINT8", &[28, 28])
    }

    pub fn keywords() -> Self {
        let mut keywords = Self::read("keywords", "pcm", "INT16", &[16_000]);
        let samples = keywords.data.iter().flat_map(|byte| from_mu_law(*byte).to_le_bytes());
        keywords.data = samples.collect();
        keywords
    }

    /// Asks for rows `first..last` at once.
    pub fn ask(&self, address: &str, first: usize, last: usize) -> Answer {
        let size = self.data.len() / self.rows.len();
        let shape = [&[last - first], self.shape].concat();
        let data = &self.data[first * size..last * size];
        let (name, datatype) = (self.input, self.datatype);
        infer(address, self.name, &[Input { name, datatype, shape: &shape, data }])
    }

    /// Whether an answer is that of rows `first..last`, as ONNX Runtime gave it.
    fn check(&self, answer: &Answer, first: usize, last: usize) {
        assert_eq!(answer.status, 200, "{}: {answer:?}", self.name);
        let was: Vec<_> = self.rows[first..last].iter().flat_map(|row| &row.scores).collect();
        let is = answer.floats();
        assert_eq!(is.len(), was.len());
        for (at, (is, was)) in is.iter().zip(was).enumerate() {
            assert!((is - was).abs() < 2e-3, "{}: number {at} is {is}, not {was}", self.name);
        }
    }

    /// Has all of it computed, and holds the result against model.toml.
    pub fn run(&self, address: &str, batch: usize) {
        let mut right = 0;
        for first in (0..self.rows.len()).step_by(batch) {
            let last = (first + batch).min(self.rows.len());
            let answer = self.ask(address, first, last);
            self.check(&answer, first, last);
            let scores = answer.floats();
            let each = scores.chunks(scores.len() / (last - first));
            let rows = self.rows[first..last].iter().zip(each);
            right += rows.filter(|(row, scores)| highest(scores) == row.label).count();
        }
        let description = fs::read_to_string(Path::new(MODELS).join(self.name).join("model.toml"));
        let description: toml::Table = description.unwrap().parse().unwrap();
        let stated = description["accuracy"].as_str().unwrap();
        let percent: f64 = stated.split_once(" %").unwrap().0.parse().unwrap();
        let (stated, count) = (percent / 100.0, self.rows.len() as f64);
        // The set is a sample of what the accuracy was measured on.
        let spread = (stated * (1.0 - stated) / count).sqrt();
        let found = right as f64 / count;
        assert!(found >= stated - 3.0 * spread, "{}: {right} of {count} are right", self.name);
    }
}

fn highest(scores: &[f32]) -> usize {
    (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap()
}

/// As in `pool/models/keywords/train.py`.
fn from_mu_law(byte: u8) -> i16 {
    let y = f64::from(byte) / 127.5 - 1.0;
    let x = y.signum() * (256_f64.powf(y.abs()) - 1.0) / 255.0;
    (x * 32_767.0).round_ties_even() as i16
}

/// Waits for `what`, asking again and again.
fn until(what: &str, pool: &TestPool, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "no {what}: {:#?}\n{}", pool.try_status(), pool.log());
        thread::sleep(Duration::from_millis(50));
    }
}

pub fn ready(pool: &TestPool, count: usize) {
    until("ready workers", pool, || {
        let status = pool.try_status();
        let ready = |status: downbeat_api::pool::PoolStatus| {
            status.workers.iter().filter(|it| it.state == WorkerState::Ready).count()
        };
        status.map(ready) == Some(count)
    });
}

#[test]
fn what_ships_does_what_its_description_says() {
    let text = "[worker.glyphs]\nmodel = \"glyphs\"\nbatch = 8\n\
                [worker.keywords]\nmodel = \"keywords\"\nmedia = \"audio\"\n\
                [worker.intent]\nmodel = \"intent\"\nmedia = \"text\"\n";
    let (pool, address) = start(text, Path::new(MODELS));
    ready(&pool, 3);
    Set::glyphs().run(&address, 32);
    Set::read("intent", "text", "UINT8", &[64]).run(&address, 64);
    Set::keywords().run(&address, 5);
    // Of the one that takes sound it is known how long that lasts.
    let heard = |model: &Model| (model.name == "keywords") == model.real_time_factor.is_some();
    pool.wait("a real-time factor", |status| status.models.iter().all(heard));

    let metadata = call(&address, "GET /v2/models/glyphs", "", b"").json;
    assert_eq!(metadata["versions"], serde_json::json!(["1"]), "{metadata}");
    assert_eq!(metadata["inputs"][0]["shape"], serde_json::json!([-1, 28, 28]), "{metadata}");
    let wrong = Input { name: "image", datatype: "UINT8", shape: &[1, 28, 27], data: &[0; 756] };
    let refused = infer(&address, "glyphs", &[wrong]);
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.json["error"].as_str().unwrap().contains("[1, 28, 27]"), "{refused:?}");
}

/// Asks for single rows again and again from some threads while `meanwhile` runs; every answer must
/// be that of its row, and `refused` says whether another one is one too.
fn under_requests(
    address: &str,
    refused: impl Fn(&Answer) -> bool + Sync,
    meanwhile: impl FnOnce(),
) -> usize {
    let set = Set::glyphs();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = |offset: usize| {
            let (set, over, refused) = (&set, &over, &refused);
            scope.spawn(move || {
                let mut answered = 0;
                while !over.load(Ordering::Relaxed) {
                    let row = (offset + answered * 7) % set.rows.len();
                    let answer = set.ask(address, row, row + 1);
                    if !refused(&answer) {
                        set.check(&answer, row, row + 1);
                    }
                    answered += 1;
                }
                answered
            })
        };
        let clients: Vec<_> = (0..3).map(|at| client(at * 31)).collect();
        meanwhile();
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    })
}

#[test]
fn no_request_fails_while_a_worker_is_replaced() {
    let text = |life: usize| {
        format!("[worker.glyphs]\nmodel = \"glyphs\"\nenv = {{ LIFE = \"{life}\" }}\n")
    };
    let (pool, address) = start(&text(0), Path::new(MODELS));
    ready(&pool, 1);
    let mut pid = pool.try_status().unwrap().workers[0].pid;
    let answered = under_requests(
        &address,
        |_| false,
        || {
            for life in 1..=3 {
                declare(pool.folder.path(), &text(life));
                pool.signal(Signal::SIGHUP);
                until("another worker", &pool, || {
                    let status = pool.try_status().unwrap();
                    let [worker] = &status.workers[..] else { return false };
                    worker.state == WorkerState::Ready && worker.pid != pid
                });
                pid = pool.try_status().unwrap().workers[0].pid;
            }
        },
    );
    assert!(answered > 0);
}

#[test]
fn each_request_gets_its_answer_while_workers_are_killed() {
    let text = "[worker.glyphs]\nmodel = \"glyphs\"\ninstances = 3\n";
    let (pool, address) = start(text, Path::new(MODELS));
    ready(&pool, 3);
    let told = |answer: &Answer| {
        // One that two workers died of is told so.
        let reason = answer.json["error"].as_str().unwrap_or_default();
        answer.status != 200 && reason.contains(": two workers ended")
    };
    let answered = under_requests(&address, told, || {
        // Four times each: the fifth death within a minute would be taken for a crash loop.
        for round in 0..12 {
            let mut pid = None;
            until("a worker to kill", &pool, || {
                let status = pool.try_status().unwrap();
                let worker = &status.workers[round % 3];
                pid = worker.pid.filter(|_| worker.state == WorkerState::Ready);
                pid.is_some()
            });
            kill(Pid::from_raw(pid.unwrap().cast_signed()), Signal::SIGKILL).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
    });
    assert!(answered > 12, "{answered} answers");
    ready(&pool, 3);
}

#[test]
fn one_that_holds_work_and_sleeps_is_killed_and_its_request_answered() {
    let (pool, address) = start("[worker.glyphs]\nmodel = \"glyphs\"\n", Path::new(MODELS));
    ready(&pool, 1);
    let pid = pool.try_status().unwrap().workers[0].pid.unwrap();
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP).unwrap();
    let set = Set::glyphs();
    let answer = set.ask(&address, 3, 4);
    set.check(&answer, 3, 4);
    let worker = &pool.try_status().unwrap().workers[0];
    let note = worker.note.as_deref().unwrap_or_default();
    assert!(note.starts_with("killed: holds 1 request for"), "{worker:?}\n{}", pool.log());
}

#[test]
fn the_first_request_starts_it_and_without_any_it_goes() {
    let text = "[worker.glyphs]\nmodel = \"glyphs\"\nidle = \"1s\"\n\
                instances = { min = 0, max = 1 }\n";
    let (pool, address) = start(text, Path::new(MODELS));
    let pid = || pool.try_status().and_then(|status| status.workers.first()?.pid);
    assert_eq!(pid(), None);
    let set = Set::glyphs();
    for row in 0..2 {
        let answer = set.ask(&address, row, row + 1);
        assert_eq!(answer.status, 200, "{answer:?}\n{}", pool.log());
        set.check(&answer, row, row + 1);
        assert!(pid().is_some(), "{}", pool.log());
        until("rest", &pool, || pid().is_none());
    }
}

#[test]
fn a_model_is_loaded_replaced_and_unloaded_while_it_answers() {
    let models = tempfile::tempdir().unwrap();
    let folder = models.path().join("glyphs");
    let shipped = Path::new(MODELS).join("glyphs");
    let version = |number: u32| {
        fs::create_dir_all(folder.join(number.to_string())).unwrap();
        let file = format!("{number}/model.onnx");
        fs::copy(shipped.join("1/model.onnx"), folder.join(file)).unwrap();
    };
    version(1);
    for file in ["model.toml", "labels.txt"] {
        fs::copy(shipped.join(file), folder.join(file)).unwrap();
    }
    let (pool, address) = start("", models.path());
    let load = || call(&address, "POST /v2/repository/models/glyphs/load", "", b"");
    until("a model that was read", &pool, || load().status == 200);
    let set = Set::glyphs();
    let answer = set.ask(&address, 0, 1);
    set.check(&answer, 0, 1);
    assert_eq!(answer.json["model_version"], "1");

    under_requests(
        &address,
        |_| false,
        || {
            version(2);
            let text = fs::read_to_string(folder.join("model.toml")).unwrap();
            let sum = text.lines().last().unwrap();
            let text = format!("{text}\n[version.2]\n{sum}\n");
            fs::write(folder.join("model.toml"), text).unwrap();
            until("version 2", &pool, || set.ask(&address, 0, 1).json["model_version"] == "2");
        },
    );
    let unloaded = call(&address, "POST /v2/repository/models/glyphs/unload", "", b"");
    assert_eq!(unloaded.status, 200, "{unloaded:?}");
    until("an end", &pool, || set.ask(&address, 0, 1).status == 404);
    assert_eq!(load().status, 200);
    let missing = call(&address, "POST /v2/repository/models/nope/load", "", b"");
    assert_eq!(missing.status, 404, "{missing:?}");
}
