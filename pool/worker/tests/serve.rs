//! `downbeat-worker serve` as a process of its own, with the pool's end of the channel in the test.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use downbeat_link::{
    DataType, Engine, FailureKind, Infer, Load, Loaded, ModelNumber, Package, Receiver,
    RequestNumber, Sender, SequencePlace, Tensor, ToPool, ToWorker, VERSION, Work, pair, pool_end,
};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// However slow the machine is, what a test waits for comes within this.
const PATIENCE: Duration = Duration::from_secs(60);

const MODEL: ModelNumber = ModelNumber(7);

/// A running worker; killed when dropped.
struct Worker {
    child: Child,
    to_worker: Sender<ToWorker<Package>>,
    from_worker: Receiver<ToPool<Package>>,
}

impl Worker {
    fn command(channel: &OwnedFd) -> Command {
        let number = channel.as_raw_fd();
        let mut command = Command::new(env!("CARGO_BIN_EXE_downbeat-worker"));
        command.args(["serve", "--channel", &number.to_string(), "--name", "test"]);
        command.stderr(Stdio::piped());
        // SAFETY: between fork and exec only fcntl is called, which is safe there. The descriptor is
        // open: it is the caller's, and the child has a copy of all.
        unsafe {
            command.pre_exec(move || {
                let channel = std::os::fd::BorrowedFd::borrow_raw(number);
                fcntl(channel, FcntlArg::F_SETFD(FdFlag::empty()))?;
                Ok(())
            });
        }
        command
    }

    fn start_with(prepare: impl FnOnce(&mut Command)) -> Self {
        let (ours, theirs) = pair().unwrap();
        let mut command = Self::command(&theirs);
        prepare(&mut command);
        let child = command.spawn().unwrap();
        drop(theirs);
        let (to_worker, from_worker) = pool_end(ours).unwrap();
        let mut worker = Self { child, to_worker, from_worker };
        let Some(ToPool::Hello(hello)) = worker.from_worker.receive().unwrap() else { panic!() };
        assert_eq!((hello.version, hello.pid), (VERSION, worker.child.id()));
        assert_eq!(hello.name, "test");
        worker
    }

    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn say(&self, message: &ToWorker<Package>) {
        self.to_worker.send(message).unwrap();
    }

    fn hear(&mut self) -> ToPool {
        self.from_worker.receive().unwrap().expect("the worker left")
    }

    fn load(&mut self, engine: Engine, path: Option<&str>) -> Result<Loaded, String> {
        let (name, version) = ("test".to_owned(), "1".to_owned());
        let path = path.map(Into::into);
        self.say(&ToWorker::Load(Load {
            model: MODEL,
            name,
            version,
            engine,
            path,
            sha256: None,
            threads: 1,
        }));
        match self.hear() {
            ToPool::Loaded(loaded) => {
                assert_eq!(loaded.model, MODEL);
                Ok(loaded)
            }
            ToPool::LoadFailed { model: MODEL, reason } => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    fn infer(&self, requests: Vec<Work<Package>>) {
        self.say(&ToWorker::Infer(Infer { model: MODEL, requests }));
    }

    /// The next message, which must be this request's failure.
    fn failure(&mut self, id: u64) -> (FailureKind, String) {
        match self.hear() {
            ToPool::Failed { id: is, kind, reason } if is.0 == id => (kind, reason),
            other => panic!("{other:?}"),
        }
    }

    /// The next message, which must be the answer to these requests and no others.
    fn outputs(&mut self, ids: &[u64]) -> Vec<Vec<Tensor>> {
        let ToPool::Done(done) = self.hear() else { panic!() };
        assert!(done.started_ns > 0 && done.wall_ns > 0);
        let answered: Vec<_> = done.answers.iter().map(|answer| answer.id.0).collect();
        assert_eq!(answered, ids);
        done.answers.into_iter().map(|answer| answer.outputs).collect()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the worker does not end");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn work(id: u64, inputs: Vec<Tensor>) -> Work<Package> {
    Work {
        id: RequestNumber(id),
        deadline_ns: None,
        outputs: vec![],
        sequence: None,
        inputs: Package::new(inputs).unwrap(),
    }
}

fn pcm(frames: usize) -> Tensor {
    Tensor {
        name: "pcm".into(),
        datatype: DataType::Int16,
        shape: vec![frames as u64 * 480],
        data: vec![3; frames * 960].into(),
    }
}

#[test]
fn sound_comes_back_and_drain_ends_the_worker() {
    let mut worker = Worker::start();
    let loaded = worker.load(Engine::Denoise, None).unwrap();
    assert_eq!(
        (loaded.inputs[0].name.as_str(), loaded.outputs[0].name.as_str()),
        ("pcm", "denoised")
    );
    // One frame travels in the message, fifty in shared memory.
    worker.infer(vec![work(1, vec![pcm(1)]), work(2, vec![pcm(50)])]);
    worker.say(&ToWorker::Drain);
    for (id, frames) in [(1, 1), (2, 50)] {
        let outputs = worker.outputs(&[id]);
        assert_eq!(outputs[0][0].shape, [frames * 480]);
        assert_eq!(outputs[0][0].datatype, DataType::Int16);
    }
    assert!(worker.from_worker.receive().unwrap().is_none());
    assert!(worker.end().success());
}

#[test]
fn every_request_that_cannot_be_computed_is_told_why() {
    let mut worker = Worker::start();
    worker.infer(vec![work(1, vec![pcm(1)])]);
    assert_eq!(worker.failure(1).0, FailureKind::NotLoaded);
    worker.load(Engine::Denoise, None).unwrap();

    let expired = Work { deadline_ns: Some(1), ..work(2, vec![pcm(1)]) };
    let output = Work { outputs: vec!["loud".into()], ..work(3, vec![pcm(1)]) };
    let place = SequencePlace { id: "mic".into(), start: false, end: false };
    let sequence = Work { sequence: Some(place), ..work(4, vec![pcm(1)]) };
    let none = work(5, vec![]);
    worker.infer(vec![expired, output, sequence, none, work(6, vec![pcm(1)])]);
    assert_eq!(worker.failure(2).0, FailureKind::Expired);
    let (kind, reason) = worker.failure(3);
    assert_eq!(kind, FailureKind::Invalid);
    assert_eq!(reason, "there is no output `loud`; model `test` gives `denoised`");
    assert_eq!(worker.failure(4).0, FailureKind::UnknownSequence);
    assert_eq!(worker.failure(5).0, FailureKind::Invalid);
    worker.outputs(&[6]);

    worker.say(&ToWorker::Unload(MODEL));
    assert_eq!(worker.hear(), ToPool::Unloaded(MODEL));
    worker.infer(vec![work(7, vec![pcm(1)])]);
    assert_eq!(worker.failure(7).0, FailureKind::NotLoaded);
}

#[test]
fn a_cancelled_request_is_not_begun() {
    let mut worker = Worker::start();
    worker.load(Engine::Denoise, None).unwrap();
    // Stopped, so that all three messages are there when it looks.
    worker.signal(Signal::SIGSTOP);
    worker.infer(vec![work(1, vec![pcm(1)]), work(2, vec![pcm(1)])]);
    worker.say(&ToWorker::Cancel(RequestNumber(2)));
    worker.say(&ToWorker::Cancel(RequestNumber(99)));
    worker.signal(Signal::SIGCONT);
    assert_eq!(worker.failure(2).0, FailureKind::Cancelled);
    worker.outputs(&[1]);
}

#[test]
fn a_pool_that_leaves_ends_its_worker_and_so_does_sigterm() {
    let mut worker = Worker::start();
    let (ours, _) = pair().unwrap();
    let (to_worker, from_worker) = pool_end(ours).unwrap();
    worker.to_worker = to_worker;
    worker.from_worker = from_worker;
    assert!(worker.end().success());

    let mut worker = Worker::start();
    worker.signal(Signal::SIGTERM);
    assert!(worker.end().success());
}

#[test]
fn what_is_no_message_ends_the_worker_with_a_word() {
    let (ours, theirs) = pair().unwrap();
    let child = Worker::command(&theirs).spawn().unwrap();
    drop(theirs);
    rustix::net::send(&ours, b"GET / HTTP/1.1\r\n\r\n", rustix::net::SendFlags::NOSIGNAL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("no message of a worker's channel"), "{told}");
}

#[test]
fn the_supervisor_hears_that_it_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    let _worker = Worker::start_with(|command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    let mut buffer = [0; 256];
    let length = notify.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"READY=1\n");
}

#[test]
fn an_engine_that_is_not_there_is_told() {
    let mut worker = Worker::start();
    let model = tempfile::NamedTempFile::new().unwrap();
    let library = Some("/no/libonnxruntime.so".into());
    let told = worker.load(Engine::OnnxRuntime { library }, model.path().to_str()).unwrap_err();
    assert!(told.contains("ONNX Runtime"), "{told}");
    if cfg!(not(feature = "onnx")) {
        let told = worker.load(Engine::Tract, Some("/x")).unwrap_err();
        assert!(told.contains("build it with its feature `onnx`"), "{told}");
    }
    // The worker itself goes on.
    worker.load(Engine::Denoise, None).unwrap();
    let told = worker.load(Engine::Denoise, None).unwrap_err();
    assert!(told.contains("number 7 is another model's here"), "{told}");
}

#[cfg(feature = "onnx")]
mod onnx {
    use super::*;

    const AFFINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine/fixtures/affine.onnx");

    fn x(items: u64, value: f32) -> Tensor {
        let values = (0..items * 3).flat_map(|_| value.to_le_bytes()).collect();
        let (name, datatype) = ("x".to_owned(), DataType::Fp32);
        Tensor { name, datatype, shape: vec![items, 3], data: values }
    }

    #[test]
    fn requests_of_one_message_are_computed_together() {
        let mut worker = Worker::start();
        let loaded = worker.load(Engine::Tract, Some(AFFINE)).unwrap();
        assert!(loaded.batching && loaded.trial_ns.is_some());
        assert!(loaded.engine.starts_with("tract"));
        // Of different numbers of items, one of them larger than what travels in a message, and one
        // that wants one output only.
        let only = Work { outputs: vec!["y".into()], ..work(3, vec![x(2, 0.5)]) };
        worker.infer(vec![work(1, vec![x(1, 1.0)]), work(2, vec![x(25_600, 2.0)]), only]);
        let outputs = worker.outputs(&[1, 2, 3]);
        for (outputs, (items, y)) in outputs.iter().zip([(1, 3.0_f32), (25_600, 5.0), (2, 2.0)]) {
            assert_eq!(outputs[0].shape, [items, 3]);
            assert!(outputs[0].data.as_chunks::<4>().0.iter().all(|it| *it == y.to_le_bytes()));
        }
        assert_eq!((outputs[1].len(), outputs[2].len()), (2, 1));
    }

    #[test]
    fn a_request_that_does_not_fit_costs_itself_alone() {
        let mut worker = Worker::start();
        worker.load(Engine::Tract, Some(AFFINE)).unwrap();
        let wrong = Tensor { shape: vec![3, 1], ..x(1, 1.0) };
        worker.infer(vec![
            work(1, vec![x(1, 1.0)]),
            work(2, vec![wrong]),
            work(3, vec![x(1, 2.0)]),
        ]);
        let (kind, reason) = worker.failure(2);
        assert_eq!(kind, FailureKind::Invalid);
        assert!(
            reason.contains("shape [3, 1]; the model takes FP32 with shape [-1, 3]"),
            "{reason}"
        );
        worker.outputs(&[1, 3]);
    }

    #[test]
    fn a_file_that_is_no_model_costs_its_load_alone() {
        let mut worker = Worker::start();
        let told = worker.load(Engine::Tract, Some("/etc/passwd")).unwrap_err();
        assert!(told.contains("/etc/passwd: cannot be loaded"), "{told}");
        worker.load(Engine::Tract, Some(AFFINE)).unwrap();
    }
}
