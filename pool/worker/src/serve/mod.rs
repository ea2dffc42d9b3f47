//! `downbeat-worker serve`: models on a channel of the pool.
//!
//! One thread does everything: it reads the channel, computes, and answers. Between two computations
//! it takes in what came meanwhile, so that a cancelled request is not begun.

mod batch;
mod channel;
mod inbox;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use downbeat_link::{
    Answer, Done, FailureKind, Hello, LinkError, Load, Loaded, ModelNumber, Package, Receiver,
    RequestNumber, Sender, Tensor, ToPool, ToWorker, VERSION, Work,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;

pub use channel::Channel;

use crate::clock;
use crate::engine::{self, Failure, Model};
use crate::meter::Meter;
use crate::notify::{self, Notifier};
use inbox::{Inbox, Order};

/// How often the supervisor hears from us.
const STATUS_PERIOD: Duration = Duration::from_secs(1);

/// Bytes of a reason, at most. Engines put whole graphs into theirs.
const MAX_REASON: usize = 2 << 10;

/// Serves the channel until the pool closes it or drains us, or until SIGTERM or SIGINT.
///
/// # Errors
/// When the channel cannot be opened, or when what comes over it is no message.
pub fn serve(channel: &Channel, name: &str) -> anyhow::Result<()> {
    let (signals, notifier) = notify::supervised()?;
    let (to_pool, from_pool) = downbeat_link::worker_end(channel.open()?)?;
    let hello = Hello {
        version: VERSION,
        pid: std::process::id(),
        name: name.into(),
        engines: engine::names(),
    };
    to_pool.send(&ToPool::Hello(hello)).context("greeting the pool")?;
    notifier.ready();
    let mut server = Server {
        to_pool,
        models: BTreeMap::new(),
        inbox: Inbox::default(),
        meter: Meter::new(),
        name: name.into(),
    };
    let result = server.run(from_pool, &signals, &notifier);
    notifier.stopping();
    match result {
        // The pool is gone, and with it whoever wants an answer.
        Err(LinkError::Closed) => Ok(()),
        result => result.context("the channel to the pool"),
    }
}

/// A loaded model.
struct Entry {
    name: String,
    model: Box<dyn Model>,
}

struct Server {
    to_pool: Sender<ToPool<Package>>,
    models: BTreeMap<ModelNumber, Entry>,
    inbox: Inbox,
    meter: Meter,
    name: String,
}

impl Server {
    fn run(
        &mut self,
        mut from_pool: Receiver<ToWorker<Package>>,
        signals: &SignalFd,
        notifier: &Notifier,
    ) -> Result<(), LinkError> {
        let mut due = Instant::now();
        loop {
            let now = Instant::now();
            if now >= due {
                notifier.status(&self.meter.read(), self.models.len());
                due = now + STATUS_PERIOD;
            }
            // With work at hand only looks, does not wait.
            let wait = if self.inbox.is_empty() {
                u16::try_from((due - now).as_millis() + 1).unwrap_or(u16::MAX)
            } else {
                0
            };
            let mut ready = [
                PollFd::new(from_pool.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::from(wait)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(LinkError::Call { call: "poll", source: errno.into() }),
            }
            let [channel, signal] = ready.map(|it| it.any().unwrap_or(false));
            if signal {
                return Ok(());
            }
            if channel {
                while let Some(message) = from_pool.try_receive()? {
                    if let Some(id) = self.inbox.take(message) {
                        self.failed(id, FailureKind::Cancelled, "cancelled before it began")?;
                    }
                }
            }
            match self.inbox.pop() {
                Some(Order::Load(load)) => self.load(load)?,
                Some(Order::Unload(model)) => {
                    self.models.remove(&model);
                    self.to_pool.send(&ToPool::Unloaded(model))?;
                }
                Some(Order::Infer(model, requests)) => self.infer(model, requests)?,
                None if self.inbox.is_draining() => return Ok(()),
                None => {}
            }
        }
    }

    fn load(&mut self, load: Load) -> Result<(), LinkError> {
        let number = load.model;
        let loaded = if self.models.contains_key(&number) {
            Err(format!("number {} is another model's here; unload that one first", number.0))
        } else {
            engine::load(&load).map_err(|error| format!("{error:#}"))
        };
        let mut model = match loaded {
            Ok(model) => model,
            Err(reason) => {
                eprintln!("{}: {} {}: {reason}", self.name, load.name, load.version);
                let reason = brief(&reason);
                return self.to_pool.send(&ToPool::LoadFailed { model: number, reason });
            }
        };
        let trial_ns = trial(model.as_mut());
        let engine::Face { engine, inputs, outputs, batching } = model.face().clone();
        self.models.insert(number, Entry { name: load.name, model });
        let loaded = Loaded { model: number, engine, inputs, outputs, batching, trial_ns };
        self.to_pool.send(&ToPool::Loaded(loaded))
    }

    /// Computes the first of an order's requests, with those that go together with it, and puts the
    /// others back.
    fn infer(
        &mut self,
        number: ModelNumber,
        mut requests: VecDeque<Work>,
    ) -> Result<(), LinkError> {
        let mut together: Vec<Accepted> = Vec::new();
        let now = clock::monotonic();
        while let Some(mut work) = requests.pop_front() {
            let Some(entry) = self.models.get(&number) else {
                let reason = format!("model number {} is not loaded here", number.0);
                self.failed(work.id, FailureKind::NotLoaded, &reason)?;
                continue;
            };
            if work.deadline_ns.is_some_and(|deadline| deadline < now) {
                self.failed(work.id, FailureKind::Expired, "its deadline passed before it began")?;
                continue;
            }
            let alone = |work: &Work| work.sequence.is_some() || !entry.model.face().batching;
            if together.first().is_some_and(|first| alone(&first.work) || alone(&work)) {
                requests.push_front(work);
                break;
            }
            let inputs = match accept(entry, &mut work) {
                Ok(inputs) => inputs,
                Err(reason) => {
                    self.failed(work.id, FailureKind::Invalid, &reason)?;
                    continue;
                }
            };
            let fits = together.first().is_none_or(|first| {
                batch::items(&first.inputs).is_some()
                    && batch::items(&inputs).is_some()
                    && batch::alike(&first.inputs, &inputs)
            });
            if !fits {
                work.inputs = inputs;
                requests.push_front(work);
                break;
            }
            together.push(Accepted { work, inputs });
        }
        self.inbox.put_back(number, requests);
        match self.models.get_mut(&number) {
            Some(entry) if !together.is_empty() => {
                let computed = compute(entry, together);
                self.answer(computed)
            }
            _ => Ok(()),
        }
    }

    fn answer(&mut self, computed: Computed) -> Result<(), LinkError> {
        let Computed { answers, started_ns, wall_ns, cpu_ns, failures } = computed;
        let finished = started_ns + wall_ns;
        let mut done = Vec::with_capacity(answers.len());
        for (work, outputs) in answers {
            let late = work.deadline_ns.is_some_and(|deadline| deadline < finished);
            self.meter.count(cpu_ns, late);
            match Package::new(outputs) {
                Ok(outputs) => done.push(Answer { id: work.id, outputs }),
                Err(error) => {
                    let reason = format!("its outputs cannot be sent: {error}");
                    self.failed(work.id, FailureKind::Engine, &reason)?;
                }
            }
        }
        for (id, Failure { kind, reason }) in failures {
            self.failed(id, kind, &reason)?;
        }
        if done.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = done.iter().map(|answer| answer.id).collect();
        let done = Done { answers: done, started_ns, wall_ns, cpu_ns };
        match self.to_pool.send(&ToPool::Done(done)) {
            Err(error) if !matches!(error, LinkError::Closed) => {
                let reason = format!("its answer cannot be sent: {error}");
                ids.into_iter().try_for_each(|id| self.failed(id, FailureKind::Engine, &reason))
            }
            result => result,
        }
    }

    fn failed(&self, id: RequestNumber, kind: FailureKind, reason: &str) -> Result<(), LinkError> {
        self.to_pool.send(&ToPool::Failed { id, kind, reason: brief(reason) })
    }
}

/// A request that can be computed.
struct Accepted {
    work: Work,
    /// In the model's order.
    inputs: Vec<Tensor>,
}

/// Takes a request's inputs, checked; those that were read from shared memory for the first time.
fn accept(entry: &Entry, work: &mut Work) -> Result<Vec<Tensor>, String> {
    let known = &entry.model.face().outputs;
    if let Some(other) =
        work.outputs.iter().find(|name| known.iter().all(|output| output.name != **name))
    {
        let known: Vec<_> = known.iter().map(|output| format!("`{}`", output.name)).collect();
        return Err(format!(
            "there is no output `{other}`; model `{}` gives {}",
            entry.name,
            known.join(", ")
        ));
    }
    let inputs = std::mem::take(&mut work.inputs);
    inputs.iter().try_for_each(Tensor::check).map_err(|error| error.to_string())?;
    entry.model.check(inputs)
}

/// What came of one computation.
struct Computed {
    answers: Vec<(Work, Vec<Tensor>)>,
    failures: Vec<(RequestNumber, Failure)>,
    started_ns: u64,
    wall_ns: u64,
    cpu_ns: u64,
}

fn compute(entry: &mut Entry, together: Vec<Accepted>) -> Computed {
    let (mut work, mut inputs, mut items) = (Vec::new(), Vec::new(), Vec::new());
    for accepted in together {
        items.push(batch::items(&accepted.inputs).unwrap_or(0));
        inputs.push(accepted.inputs);
        work.push(accepted.work);
    }
    let sequence = work.first().and_then(|first| first.sequence.as_ref());
    let (started_ns, cpu) = (clock::monotonic(), clock::process_cpu());
    let result = engine::guarded(|| entry.model.compute(sequence, batch::join(inputs)))
        .unwrap_or_else(|panic| {
            Err(Failure::new(FailureKind::Engine, format!("the engine panicked: {panic}")))
        });
    let wall_ns = clock::monotonic().saturating_sub(started_ns);
    let cpu_ns = clock::process_cpu().saturating_sub(cpu);
    let result = result.and_then(|outputs| {
        batch::split(outputs, &items).map_err(|reason| Failure::new(FailureKind::Engine, reason))
    });
    let (answers, failures) = match result {
        Ok(outputs) => {
            let answers = work.into_iter().zip(outputs).map(|(work, mut outputs)| {
                if !work.outputs.is_empty() {
                    outputs.retain(|output| work.outputs.contains(&output.name));
                }
                (work, outputs)
            });
            (answers.collect(), Vec::new())
        }
        Err(failure) => (Vec::new(), work.iter().map(|work| (work.id, failure.clone())).collect()),
    };
    Computed { answers, failures, started_ns, wall_ns, cpu_ns }
}

/// Wall time of the second of two computations with zeros: the first one fills caches and buffers,
/// which no request then waits for. Nothing where zeros of the smallest shape are no input.
fn trial(model: &mut dyn Model) -> Option<u64> {
    let zeros: Option<Vec<Tensor>> = model.face().inputs.iter().map(zeros).collect();
    let inputs = model.check(zeros?).ok()?;
    let mut wall = None;
    for _ in 0..2 {
        let started = clock::monotonic();
        engine::guarded(|| model.compute(None, inputs.clone())).ok()?.ok()?;
        wall = Some(clock::monotonic().saturating_sub(started));
    }
    wall
}

/// Most bytes of a trial's tensor.
const MAX_TRIAL: u64 = 64 << 20;

fn zeros(spec: &downbeat_link::TensorSpec) -> Option<Tensor> {
    let shape: Vec<u64> = spec.shape.iter().map(|size| u64::try_from(*size).unwrap_or(1)).collect();
    let bytes = downbeat_link::elements(&shape)?.checked_mul(spec.datatype.size()? as u64)?;
    let bytes = usize::try_from(bytes).ok().filter(|_| bytes <= MAX_TRIAL)?;
    let (name, datatype) = (spec.name.clone(), spec.datatype);
    Some(Tensor { name, datatype, shape, data: vec![0; bytes].into() })
}

/// A reason that fits in a message.
fn brief(reason: &str) -> String {
    match reason.get(..reason.floor_char_boundary(MAX_REASON)) {
        Some(short) if short.len() < reason.len() => format!("{short} …"),
        _ => reason.to_owned(),
    }
}
