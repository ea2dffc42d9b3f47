//! What the pool adds to a call: the same model in this process, and behind the pool.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use memmap2::MmapMut;
use serde::Serialize;
use tokio::runtime::Runtime;
use tract_onnx::prelude::{
    DatumType, Framework, InferenceModelExt, IntoRunnable, IntoTValue, TValue, TVec, Tensor,
    TypedSimplePlan, TypedSimpleState, tvec,
};

use crate::call::{Answer, Template};
use crate::grpc;
use crate::plan::{Added, Case, Input};

/// What came of all cases.
#[derive(Debug, Serialize)]
pub struct Results {
    pub cases: Vec<Told>,
}

/// What came of a case: microseconds.
#[derive(Debug, Serialize)]
pub struct Told {
    pub name: String,
    /// Bytes of the tensor.
    pub bytes: usize,
    /// Calls of each way.
    pub calls: usize,
    pub here: Quantiles,
    /// Nothing but what must wake up: see [`Hops`].
    pub hops: Quantiles,
    pub rest: Quantiles,
    /// Over REST with the tensor in shared memory, its way into it included.
    pub shared: Quantiles,
    pub grpc: Quantiles,
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
}

/// Runs all cases.
pub fn run(plan: &Added, runtime: &Runtime) -> Result<Results> {
    let cases = plan
        .cases
        .iter()
        .map(|case| run_case(plan, case, runtime).with_context(|| format!("case {}", case.name)));
    Ok(Results { cases: cases.collect::<Result<_>>()? })
}

/// How the model is asked.
#[derive(Clone, Copy, Debug)]
enum Way {
    Here,
    Hops,
    Rest,
    Shared,
    Grpc,
}

impl Way {
    const ALL: [Self; 5] = [Self::Here, Self::Hops, Self::Rest, Self::Shared, Self::Grpc];
}

/// Each way's own.
struct Asked<'a> {
    template: Template,
    here: Here,
    hops: Hops,
    rest: Rest,
    shared: Shared,
    grpc: grpc::Client,
    runtime: &'a Runtime,
}

impl<'a> Asked<'a> {
    fn open(plan: &Added, case: &Case, runtime: &'a Runtime) -> Result<Self> {
        let Case { model, onnx, input, .. } = case;
        let template = Template::new(&format!("/v2/models/{model}/infer"), input, true, None)?;
        let mut rest = Rest::open(&plan.rest)?;
        let shared = Shared::new(&mut rest, template.elements(0).len())?;
        Ok(Self {
            template,
            here: Here::load(onnx, input)?,
            hops: Hops::new()?,
            rest,
            shared,
            grpc: runtime.block_on(grpc::Client::open(&plan.grpc, model, input))?,
            runtime,
        })
    }

    /// Asks once; gives how long that took from when it was due, and the model's numbers, none for
    /// what asks no model. What a client may do before and after is not in the time: writing the
    /// request's head, comparing the answer.
    fn ask(&mut self, way: Way, number: u64, schedule: &mut Schedule) -> Result<Call> {
        let elements = self.template.elements(number);
        let head = match way {
            Way::Rest => self.template.head(number, None),
            Way::Shared => self.template.shared(number, &self.shared.name),
            Way::Here | Way::Hops | Way::Grpc => Vec::new(),
        };
        let due = schedule.wait();
        let (took, numbers) = match way {
            Way::Here => {
                let outputs = self.here.ask(elements)?;
                (due.elapsed(), floats(outputs.first().context("no output")?.as_bytes()))
            }
            Way::Hops => {
                self.hops.ask()?;
                return Ok((due.elapsed(), None));
            }
            Way::Rest => {
                self.rest.exchange(&[&head, elements])?;
                (due.elapsed(), self.rest.numbers(&self.template, number)?)
            }
            Way::Shared => {
                self.shared.put(elements);
                self.rest.exchange(&[&head])?;
                (due.elapsed(), self.rest.numbers(&self.template, number)?)
            }
            Way::Grpc => {
                let numbers = self.runtime.block_on(self.grpc.ask(elements))?;
                (due.elapsed(), numbers)
            }
        };
        Ok((took, Some(numbers)))
    }
}

/// How long it took, and what was answered.
type Call = (Duration, Option<Vec<f32>>);

fn run_case(plan: &Added, case: &Case, runtime: &Runtime) -> Result<Told> {
    let mut asked = Asked::open(plan, case, runtime)?;
    let variants = asked.template.variants() as u64;
    let mut expected: BTreeMap<u64, Vec<f32>> = BTreeMap::new();
    let mut times = [const { Vec::new() }; Way::ALL.len()];
    for turn in 0..=plan.turns {
        for (way, times) in Way::ALL.into_iter().zip(&mut times) {
            let mut schedule = Schedule::new(plan.period_us);
            for place in 0..plan.row {
                let number = (turn * plan.row + place) as u64;
                let (took, numbers) = asked.ask(way, number, &mut schedule)?;
                if turn > 0 {
                    times.push(took);
                }
                let Some(numbers) = numbers else { continue };
                // The own process is the first that is asked.
                let first = expected.entry(number % variants).or_insert_with(|| numbers.clone());
                ensure!(
                    alike(first, &numbers),
                    "call {number}: {first:?} here, {numbers:?} from the pool ({way:?})"
                );
            }
        }
    }
    let calls = plan.turns * plan.row;
    let [here, hops, rest, shared, grpc] = times.map(quantiles);
    let (name, bytes) = (case.name.clone(), asked.template.elements(0).len());
    Ok(Told { name, bytes, calls, here, hops, rest, shared, grpc })
}

/// When calls are due.
struct Schedule {
    period: Duration,
    next: Instant,
}

impl Schedule {
    fn new(period_us: u64) -> Self {
        let period = Duration::from_micros(period_us);
        Self { period, next: Instant::now() + period }
    }

    /// Waits for the next; gives when it was due, which is now where none is waited for.
    fn wait(&mut self) -> Instant {
        let now = Instant::now();
        if self.period.is_zero() {
            return now;
        }
        let due = self.next;
        self.next += self.period;
        if due > now {
            thread::sleep(due - now);
        }
        due
    }
}

fn alike(one: &[f32], other: &[f32]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-4)
}

fn quantiles(mut times: Vec<Duration>) -> Quantiles {
    times.sort_unstable();
    let at = |part: usize| {
        let place = (times.len() * part / 100).min(times.len().saturating_sub(1));
        times.get(place).copied().unwrap_or_default().as_secs_f64() * 1e6
    };
    Quantiles { p50: at(50), p99: at(99) }
}

/// Bytes as numbers.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it)).collect()
}

/// The model in this process, as a worker has it.
struct Here {
    state: TypedSimpleState,
    _plan: Arc<TypedSimplePlan>,
    datatype: DatumType,
    shape: Vec<usize>,
}

impl Here {
    fn load(file: &Path, input: &Input) -> Result<Self> {
        let datatype = match input.datatype.as_str() {
            "FP32" => DatumType::F32,
            "UINT8" => DatumType::U8,
            "INT16" => DatumType::I16,
            other => return Err(anyhow!("{other}: not a type that the bench asks for")),
        };
        let shape = input.shape.clone();
        let model = tract_onnx::onnx().with_ignore_output_shapes(true).model_for_path(file)?;
        let fact = tract_onnx::prelude::InferenceFact::dt_shape(datatype, &shape);
        let model = model.with_input_fact(0, fact)?;
        let plan = model.into_optimized()?.into_runnable()?;
        let state = plan.spawn()?;
        Ok(Self { state, _plan: plan, datatype, shape })
    }

    fn ask(&mut self, elements: &[u8]) -> Result<TVec<TValue>> {
        // SAFETY: the types that `load` takes are numbers, of which any bytes are a value; the
        // length is compared with shape and type within.
        let tensor = unsafe { Tensor::from_raw_dt(self.datatype, &self.shape, elements) };
        self.state.run(tvec![tensor?.into_tvalue()])
    }
}

/// The four wake-ups of any call through two others: from the caller to the one in the middle, to
/// the one behind, and back. Nobody does more than pass some bytes on.
struct Hops(UnixStream);

impl Hops {
    const BYTES: usize = 64;

    fn new() -> Result<Self> {
        let (caller, mut front) = UnixStream::pair()?;
        let (mut back, mut behind) = UnixStream::pair()?;
        // Both end with the caller's end of the socket.
        thread::spawn(move || {
            let mut bytes = [0; Self::BYTES];
            while front.read_exact(&mut bytes).is_ok()
                && back.write_all(&bytes).is_ok()
                && back.read_exact(&mut bytes).is_ok()
                && front.write_all(&bytes).is_ok()
            {}
        });
        thread::spawn(move || {
            let mut bytes = [0; Self::BYTES];
            while behind.read_exact(&mut bytes).is_ok() && behind.write_all(&bytes).is_ok() {}
        });
        Ok(Self(caller))
    }

    fn ask(&mut self) -> Result<()> {
        let mut bytes = [0; Self::BYTES];
        self.0.write_all(&bytes)?;
        Ok(self.0.read_exact(&mut bytes)?)
    }
}

/// The pool over REST, waiting in the call.
struct Rest {
    socket: UnixStream,
    buffer: Vec<u8>,
}

impl Rest {
    fn open(path: &Path) -> Result<Self> {
        let socket = UnixStream::connect(path).with_context(|| path.display().to_string())?;
        Ok(Self { socket, buffer: Vec::new() })
    }

    /// Sends a request and takes its answer in.
    fn exchange(&mut self, request: &[&[u8]]) -> Result<()> {
        let mut slices: Vec<_> = request.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let count = self.socket.write_vectored(left)?;
            IoSlice::advance_slices(&mut left, count);
        }
        self.buffer.clear();
        let mut chunk = [0; 4 << 10];
        while Answer::read(&self.buffer)?.is_none() {
            let count = self.socket.read(&mut chunk)?;
            ensure!(count > 0, "the pool closed the connection");
            self.buffer.extend_from_slice(&chunk[..count]);
        }
        Ok(())
    }

    /// What was taken in.
    fn answer(&self) -> Result<Answer<'_>> {
        let answer = Answer::read(&self.buffer)?.context("no whole answer")?;
        let words = String::from_utf8_lossy(answer.json);
        ensure!(answer.status == 200, "status {}: {words}", answer.status);
        Ok(answer)
    }

    /// The numbers in it, which must be those of request `number`.
    fn numbers(&self, template: &Template, number: u64) -> Result<Vec<f32>> {
        let answer = self.answer()?;
        let words = String::from_utf8_lossy(answer.json);
        ensure!(template.is_answer(number, &answer), "another's answer: {words}");
        Ok(floats(answer.raw))
    }
}

/// A file of shared memory that the pool knows as a region; removed with it.
struct Shared {
    name: String,
    path: PathBuf,
    memory: MmapMut,
}

impl Shared {
    fn new(rest: &mut Rest, bytes: usize) -> Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("downbeat-pool-load.{}.{number}", std::process::id());
        let path = Path::new("/dev/shm").join(&name);
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.with_context(|| format!("{}: making it", path.display()))?;
        file.set_len(bytes as u64).context("ftruncate of shared memory")?;
        // SAFETY: nobody else knows the file, and the pool, which will, only reads from it.
        let memory = unsafe { MmapMut::map_mut(&file) }.context("mmap of shared memory")?;
        let shared = Self { name, path, memory };
        let name = &shared.name;
        let json = format!(r#"{{"key":"/{name}","offset":0,"byte_size":{bytes}}}"#);
        let request = format!(
            "POST /v2/systemsharedmemory/region/{name}/register HTTP/1.1\r\nHost: bench\r\n\
             Content-Length: {}\r\n\r\n{json}",
            json.len()
        );
        rest.exchange(&[request.as_bytes()])?;
        rest.answer()?;
        Ok(shared)
    }

    fn put(&mut self, elements: &[u8]) {
        self.memory.copy_from_slice(elements);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Nothing can be done about one that stays.
        let _ = std::fs::remove_file(&self.path);
    }
}
