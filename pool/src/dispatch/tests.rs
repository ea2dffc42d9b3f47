//! Over real channels, whose other end is a thread that echoes.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use downbeat_link::{
    Answer, DataType, Done, Hello, Load, Loaded, ModelNumber, Package, Region, SharedInput, Tensor,
    ToPool, ToWorker, VERSION, pair, worker_end,
};

use super::*;
use crate::inference::{Request, Terms};
use crate::oip::statistics::{Over, Statistics};
use crate::oip::{Backend, Models};
use crate::store::Store;
use crate::view::{Kind, Model as Shown, Standing, View};

/// What an echoing worker does when it has read a request.
#[derive(Clone, Copy, PartialEq)]
enum Habit {
    Echo,
    /// Ends at the first request.
    Dies,
    /// Reads and never answers.
    Silent,
}

/// A worker on a thread of its own, which ends with the channel.
fn echo(socket: OwnedFd, habit: Habit, seen: Arc<AtomicUsize>) {
    std::thread::spawn(move || {
        let (to_pool, mut from_pool) = worker_end(socket).unwrap();
        let hello = Hello { version: VERSION, pid: 1, name: "echo".into(), engines: vec![] };
        to_pool.send(&ToPool::Hello(hello)).unwrap();
        while let Ok(Some(message)) = from_pool.receive() {
            match message {
                ToWorker::Load(load) => {
                    let loaded = Loaded {
                        model: load.model,
                        engine: "echo".into(),
                        inputs: vec![],
                        outputs: vec![],
                        batching: true,
                        trial_ns: None,
                    };
                    to_pool.send(&ToPool::Loaded(loaded)).unwrap();
                }
                ToWorker::Infer(infer) => {
                    seen.fetch_add(infer.requests.len(), Ordering::SeqCst);
                    match habit {
                        Habit::Dies => return,
                        Habit::Silent => continue,
                        Habit::Echo => {}
                    }
                    let answers = infer.requests.into_iter().map(|work| Answer {
                        id: work.id,
                        outputs: Package::new(work.inputs).unwrap(),
                    });
                    let answers = answers.collect();
                    let done = Done { answers, started_ns: 0, wall_ns: 1000, cpu_ns: 1000 };
                    // The pool may be gone at the end of a test.
                    let _ = to_pool.send(&ToPool::Done(done));
                }
                ToWorker::Unload(_) | ToWorker::Cancel(_) | ToWorker::Drain => {}
            }
        }
    });
}

fn load() -> Load {
    Load {
        model: ModelNumber(1),
        name: "echo".into(),
        version: "1".into(),
        engine: downbeat_link::Engine::Tract,
        path: None,
        sha256: None,
        threads: 1,
    }
}

async fn attach(dispatcher: &Dispatcher, habit: Habit, seen: &Arc<AtomicUsize>) -> Handle {
    let (pool, worker) = pair().unwrap();
    echo(worker, habit, Arc::clone(seen));
    let channel = Channel::open(pool, load()).await.unwrap();
    let transport = Transport::Channel(channel);
    let attach = Attach { model: "echo".into(), version: "1".into(), concurrency: 1, transport };
    dispatcher.attach(attach).unwrap()
}

fn declared(name: &str, channel: bool, cheaper: Option<&str>) -> Declaration {
    Declaration {
        name: name.into(),
        media: None,
        deadline: None,
        batch: 4,
        cheaper: cheaper.map(Into::into),
        cold_start: None,
        channel,
        denoise: false,
    }
}

fn dispatcher() -> Dispatcher {
    let dispatcher = Dispatcher::new(Limits { client_share: 1.0, ..Limits::default() });
    dispatcher.declare(declared("echo", true, None));
    dispatcher
}

#[tokio::test]
async fn shared_memory_is_read_where_all_that_may_compute_can() {
    let dispatcher = dispatcher();
    dispatcher.declare(declared("passed on", false, None));
    dispatcher.declare(declared("smaller", true, Some("echo")));
    dispatcher.declare(declared("elsewhere", true, Some("passed on")));
    dispatcher.declare(declared("circle", true, Some("circle")));
    for (name, reads) in [
        ("echo", true),
        ("smaller", true),
        ("passed on", false),
        ("elsewhere", false),
        ("circle", true),
        ("nothing", false),
    ] {
        assert_eq!(dispatcher.reads_shared(name), reads, "{name}");
    }
}

fn request(value: u8, bytes: usize) -> Request {
    Request {
        model: "echo".into(),
        version: None,
        id: String::new(),
        shared: vec![],
        inputs: vec![Tensor {
            name: "x".into(),
            datatype: DataType::Uint8,
            shape: vec![1, bytes as u64],
            data: Bytes::from(vec![value; bytes]),
        }],
        outputs: vec![],
        terms: Terms::of("test"),
    }
}

#[tokio::test]
async fn each_gets_its_own_answer_and_is_counted() {
    let (dispatcher, seen) = (dispatcher(), Arc::default());
    attach(&dispatcher, Habit::Echo, &seen).await;
    attach(&dispatcher, Habit::Echo, &seen).await;
    let mut tasks = Vec::new();
    for n in 0..100_u8 {
        let dispatcher = dispatcher.clone();
        // Some within the message, some in shared memory.
        let size = if n % 2 == 0 { 100 } else { 100_000 };
        tasks.push(tokio::spawn(async move { (n, dispatcher.infer(request(n, size)).await) }));
    }
    let statistics = Statistics::default();
    for task in tasks {
        let (n, outcome) = task.await.unwrap();
        let over = Over { at: Instant::now(), spent: Duration::ZERO, deadline: None };
        statistics.count("echo", &over, &outcome);
        let response = outcome.unwrap();
        assert_eq!(response.version, "1");
        assert!(response.outputs[0].data.iter().all(|byte| *byte == n), "another's answer");
    }
    let counts = statistics.of("echo");
    assert_eq!((counts.success.total.count, counts.fail.count), (100, 0));
    let computed: u64 = counts.batches.values().map(|batches| batches.requests).sum();
    assert_eq!((computed, seen.load(Ordering::SeqCst)), (100, 100));
    assert!(counts.batches.keys().all(|size| *size <= 4));
}

#[tokio::test]
async fn a_request_whose_worker_dies_is_answered_by_another() {
    let (dispatcher, seen) = (dispatcher(), Arc::default());
    attach(&dispatcher, Habit::Dies, &seen).await;
    let other = dispatcher.clone();
    let waiting = tokio::spawn(async move { other.infer(request(1, 10)).await });
    while seen.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    attach(&dispatcher, Habit::Echo, &seen).await;
    assert_eq!(waiting.await.unwrap().unwrap().outputs[0].data[0], 1);
}

#[tokio::test]
async fn what_comes_before_the_first_worker_is_answered_by_it() {
    let (dispatcher, seen) = (dispatcher(), Arc::default());
    let early = dispatcher.infer(request(1, 10));
    tokio::pin!(early);
    assert!(poll_once(early.as_mut()).is_pending());
    attach(&dispatcher, Habit::Echo, &seen).await;
    assert_eq!(early.await.unwrap().outputs[0].data[0], 1);
}

#[tokio::test]
async fn one_that_two_workers_died_of_is_told() {
    let (dispatcher, seen) = (dispatcher(), Arc::default());
    attach(&dispatcher, Habit::Dies, &seen).await;
    attach(&dispatcher, Habit::Dies, &seen).await;
    let outcome = dispatcher.infer(request(1, 10)).await;
    assert!(matches!(outcome, Err(Refusal::Failed(_))), "{outcome:?}");
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels() {
    let (dispatcher, seen) = (dispatcher(), Arc::default());
    let worker = attach(&dispatcher, Habit::Silent, &seen).await;
    let (running, waiting) = (request(1, 10), request(2, 10));
    {
        let running = dispatcher.infer(running);
        let waiting = dispatcher.infer(Request { outputs: vec!["y".into()], ..waiting });
        tokio::pin!(running, waiting);
        assert!(poll_once(running.as_mut()).is_pending());
        assert!(poll_once(waiting.as_mut()).is_pending());
        assert_eq!(dispatcher.loads()["echo"].background, 1);
    }
    assert_eq!(dispatcher.loads()["echo"].background, 0);
    assert!(!dispatcher.is_idle(worker), "its worker has not said that it is over");
    dispatcher.detach(worker);
    assert!(dispatcher.is_idle(worker));
}

/// The door in front of a dispatcher that has the model `echo`.
fn door(dispatcher: &Dispatcher) -> Models {
    let view = View::default();
    let (standing, kind) = (Standing::Ready, Kind::Declared { stored: None });
    let model = Shown { standing, metadata: None, kind, deadline: None };
    view.lock().models.insert("echo".into(), model);
    let store = Store::new(std::path::Path::new("/no/models"));
    Models::new(Backend::new(view, dispatcher.clone(), store))
}

#[tokio::test]
async fn one_that_is_given_up_is_counted_at_the_door() {
    let (dispatcher, seen) = (dispatcher(), Arc::default());
    attach(&dispatcher, Habit::Silent, &seen).await;
    let models = door(&dispatcher);
    {
        let running = models.infer(request(1, 10));
        let waiting = models.infer(request(2, 10));
        tokio::pin!(running, waiting);
        assert!(poll_once(running.as_mut()).is_pending());
        assert!(poll_once(waiting.as_mut()).is_pending());
    }
    let counts = models.backend().statistics.of("echo");
    assert_eq!((counts.cancelled.count, counts.fail.count), (2, 2));
}

#[tokio::test]
async fn a_request_on_behalf_of_another_has_its_deadline() {
    let (dispatcher, seen) = (dispatcher(), Arc::default());
    attach(&dispatcher, Habit::Silent, &seen).await;
    let models = door(&dispatcher);
    let of = |parent: &str, ms: Option<u64>| {
        let mut child = request(2, 10);
        child.terms.parent = Some(parent.into());
        child.terms.deadline = ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        child
    };
    let parent = Request { id: "p".into(), ..by(request(1, 10), 60_000) };
    let deadline = parent.terms.deadline;
    let parent = models.infer(parent);
    tokio::pin!(parent);
    assert!(poll_once(parent.as_mut()).is_pending());
    assert_eq!(dispatcher.deadline_of("p").unwrap(), deadline);
    for (own, wanted) in [(None, 60_000), (Some(90_000), 60_000), (Some(30_000), 30_000)] {
        let child = Request { id: "c".into(), ..of("p", own) };
        let child = models.infer(child);
        tokio::pin!(child);
        assert!(poll_once(child.as_mut()).is_pending());
        let has = dispatcher.deadline_of("c").unwrap().unwrap();
        let parents = deadline.unwrap();
        if wanted == 60_000 {
            assert_eq!(has, parents, "{own:?}");
        } else {
            assert!(has < parents, "{own:?}");
        }
    }
    let refused = models.infer(of("nobody", None)).await.unwrap_err();
    assert!(matches!(&refused, Refusal::Expired(reason) if reason.contains("`nobody`")));
    let unknown = Request { model: "made up".into(), ..of("p", None) };
    assert!(matches!(models.infer(unknown).await, Err(Refusal::NotFound(_))));
}

#[tokio::test]
async fn names_that_fit_no_message_are_told_and_hurt_nobody_else() {
    let (dispatcher, seen) = (dispatcher(), Arc::default());
    attach(&dispatcher, Habit::Echo, &seen).await;
    let long = "y".repeat(downbeat_link::MAX_MESSAGE);
    let refused = dispatcher.infer(Request { outputs: vec![long], ..request(1, 10) }).await;
    assert!(
        matches!(&refused, Err(Refusal::Invalid(reason)) if reason.contains("use shorter ones")),
        "{refused:?}"
    );
    assert_eq!(dispatcher.infer(request(2, 10)).await.unwrap().outputs[0].data[0], 2);
    // While the first runs the others wait, and then are one batch, too long for one message.
    let wide = |value| {
        let outputs = vec!["y".repeat(downbeat_link::MAX_MESSAGE / 3)];
        dispatcher.infer(Request { outputs, ..request(value, 10) })
    };
    let (first, second, third, fourth) = tokio::join!(wide(1), wide(2), wide(3), wide(4));
    for (value, answer) in [(1, first), (2, second), (3, third), (4, fourth)] {
        assert_eq!(answer.unwrap().outputs[0].data[0], value);
    }
    assert_eq!(seen.load(Ordering::SeqCst), 5);
    assert!(dispatcher.loads()["echo"].background == 0);
}

#[tokio::test]
async fn what_waits_for_another_kind_of_worker_than_came_is_told() {
    let dispatcher = dispatcher();
    dispatcher.declare(declared("echo", false, None));
    let made_for_an_adapter = dispatcher.infer(request(1, 10));
    tokio::pin!(made_for_an_adapter);
    assert!(poll_once(made_for_an_adapter.as_mut()).is_pending());
    dispatcher.declare(declared("echo", true, None));
    let handle = attach(&dispatcher, Habit::Echo, &Arc::default()).await;
    let refused = made_for_an_adapter.await;
    assert!(matches!(&refused, Err(Refusal::Unavailable(reason)) if reason.contains("ask again")));
    assert!(dispatcher.infer(request(2, 10)).await.is_ok());
    dispatcher.detach(handle);

    let file = Arc::new(std::fs::File::open("/dev/null").unwrap().into());
    let region = Region { file, offset: 0, length: 1 };
    let (name, datatype, shape) = ("x".into(), DataType::Uint8, vec![1]);
    let shared = vec![SharedInput { name, datatype, shape, region }];
    let made_for_a_channel = dispatcher.infer(Request { inputs: vec![], shared, ..request(1, 10) });
    tokio::pin!(made_for_a_channel);
    assert!(poll_once(made_for_a_channel.as_mut()).is_pending());
    dispatcher.declare(declared("echo", false, None));
    let transport = Transport::Adapter(Arc::new(crate::adapters::tests::cat()));
    let attach = Attach { model: "echo".into(), version: "1".into(), concurrency: 1, transport };
    dispatcher.attach(attach).unwrap();
    let refused = made_for_a_channel.await;
    assert!(matches!(&refused, Err(Refusal::Unavailable(reason)) if reason.contains("ask again")));
    let text = Tensor { data: Bytes::from_static(b"ok"), ..request(0, 2).inputs.remove(0) };
    let answer = dispatcher.infer(Request { inputs: vec![text], ..request(0, 0) }).await.unwrap();
    assert!(answer.outputs[0].data.ends_with(b"ok"), "{answer:?}");
}

#[tokio::test]
async fn what_waits_beyond_its_deadline_and_what_nobody_serves_is_told() {
    let (dispatcher, seen) = (dispatcher(), Arc::default());
    let refused = dispatcher.infer(by(request(1, 10), 1000)).await;
    assert!(matches!(refused, Err(Refusal::Unavailable(_))), "{refused:?}");
    assert!(matches!(
        dispatcher.infer(Request { model: "none".into(), ..request(1, 1) }).await,
        Err(Refusal::NotFound(_))
    ));
    attach(&dispatcher, Habit::Silent, &seen).await;
    let first = dispatcher.infer(request(1, 10));
    tokio::pin!(first);
    assert!(poll_once(first.as_mut()).is_pending());
    let late = dispatcher.infer(by(request(2, 10), 300)).await;
    assert!(matches!(late, Err(Refusal::Expired(_) | Refusal::Full { .. })), "{late:?}");
}

#[tokio::test]
async fn a_drained_worker_gets_nothing_new_and_becomes_idle() {
    let (dispatcher, seen) = (dispatcher(), Arc::default());
    let worker = attach(&dispatcher, Habit::Echo, &seen).await;
    dispatcher.infer(request(1, 10)).await.unwrap();
    dispatcher.drain(worker);
    assert!(dispatcher.is_idle(worker));
    let refused = dispatcher.infer(by(request(1, 10), 1000)).await;
    assert!(matches!(refused, Err(Refusal::Unavailable(_))), "{refused:?}");
}

fn by(mut request: Request, ms: u64) -> Request {
    request.terms.deadline = Some(Instant::now() + Duration::from_millis(ms));
    request
}

/// Gets a future going; whoever awaits it later is woken.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Has a model loaded by a worker that says `words`, the first before it is told anything.
async fn opened(words: Vec<ToPool<Package>>) -> Result<Loaded, ChannelError> {
    let (pool, worker) = pair().unwrap();
    std::thread::spawn(move || {
        let (to_pool, mut from_pool) = worker_end(worker).unwrap();
        for (index, word) in words.iter().enumerate() {
            if index > 0 {
                assert!(matches!(from_pool.receive(), Ok(Some(ToWorker::Load(_)))));
            }
            to_pool.send(word).unwrap();
        }
    });
    Channel::open(pool, load()).await.map(|channel| channel.loaded)
}

#[tokio::test]
async fn a_worker_that_says_something_else_is_not_ready() {
    let hello =
        |version| ToPool::Hello(Hello { version, pid: 1, name: "w".into(), engines: vec![] });
    let reason = "model.onnx: no graph".to_owned();
    let failed = ToPool::LoadFailed { model: ModelNumber(1), reason };
    let outcome = opened(vec![hello(VERSION), failed]).await;
    assert!(matches!(outcome, Err(ChannelError::Load(reason)) if reason.contains("no graph")));
    let outcome = opened(vec![hello(VERSION + 1)]).await;
    assert!(matches!(outcome, Err(ChannelError::Version { .. })), "{outcome:?}");
    let outcome = opened(vec![ToPool::Unloaded(ModelNumber(1))]).await;
    assert!(matches!(outcome, Err(ChannelError::Ended)), "{outcome:?}");
    assert!(opened(vec![]).await.is_err());
}
