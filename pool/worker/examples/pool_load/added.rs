//! What the pool adds to a call: the same model in this process, and behind the pool.

use std::io::{IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use tokio::runtime::Runtime;
use tract_onnx::prelude::{
    DatumType, Framework, InferenceModelExt, IntoRunnable, IntoTValue, Tensor, TypedSimplePlan,
    TypedSimpleState, tvec,
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
    pub turns: usize,
    pub here: Quantiles,
    /// Nothing but what must wake up: see [`Hops`].
    pub hops: Quantiles,
    pub rest: Quantiles,
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

fn run_case(plan: &Added, case: &Case, runtime: &Runtime) -> Result<Told> {
    let Case { name, model, onnx, input } = case;
    let template = Template::new(&format!("/v2/models/{model}/infer"), input, true, None)?;
    let mut here = Here::load(onnx, input)?;
    let mut hops = Hops::new()?;
    let mut rest = Rest::open(&plan.rest)?;
    let mut grpc = runtime.block_on(grpc::Client::open(&plan.grpc, model, input))?;
    let mut times = [const { Vec::new() }; 4];
    for turn in 0..plan.warm_up + plan.turns {
        let elements = template.elements(turn as u64);
        let each = [
            timed(|| here.ask(elements))?,
            timed(|| rest.ask(&template, turn as u64))?,
            timed(|| runtime.block_on(grpc.ask(elements)))?,
        ];
        let [first, others @ ..] = each.each_ref().map(|(numbers, _)| numbers);
        ensure!(
            others.iter().all(|it| alike(first, it)),
            "turn {turn}: the answers differ: {first:?} here, {others:?} from the pool"
        );
        let ((), bare) = timed(|| hops.ask())?;
        if turn >= plan.warm_up {
            let took = each.map(|(_, took)| took).into_iter().chain([bare]);
            times.iter_mut().zip(took).for_each(|(times, took)| times.push(took));
        }
    }
    let [here, rest, grpc, hops] = times.map(quantiles);
    let (name, bytes, turns) = (name.clone(), template.elements(0).len(), plan.turns);
    Ok(Told { name, bytes, turns, here, hops, rest, grpc })
}

fn timed<T>(call: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let began = Instant::now();
    let result = call()?;
    Ok((result, began.elapsed()))
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

    fn ask(&mut self, elements: &[u8]) -> Result<Vec<f32>> {
        // SAFETY: the types that `load` takes are numbers, of which any bytes are a value; the
        // length is compared with shape and type within.
        let tensor = unsafe { Tensor::from_raw_dt(self.datatype, &self.shape, elements) };
        let outputs = self.state.run(tvec![tensor?.into_tvalue()])?;
        let first = outputs.first().context("no output")?;
        Ok(floats(first.as_bytes()))
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

    fn ask(&mut self, template: &Template, number: u64) -> Result<Vec<f32>> {
        let head = template.head(number, None);
        let mut slices = [IoSlice::new(&head), IoSlice::new(template.elements(number))];
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let count = self.socket.write_vectored(left)?;
            IoSlice::advance_slices(&mut left, count);
        }
        self.buffer.clear();
        let mut chunk = [0; 16 << 10];
        loop {
            let count = self.socket.read(&mut chunk)?;
            ensure!(count > 0, "the pool closed the connection");
            self.buffer.extend_from_slice(&chunk[..count]);
            if let Some(answer) = Answer::read(&self.buffer)? {
                let words = String::from_utf8_lossy(answer.json);
                ensure!(answer.status == 200, "status {}: {words}", answer.status);
                ensure!(template.is_answer(number, &answer), "another's answer: {words}");
                return Ok(floats(answer.raw));
            }
        }
    }
}
