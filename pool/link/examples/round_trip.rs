//! What the channel adds to a call: the same function in this process, and in another one over the
//! channel.
//!
//!     cargo run --release -p downbeat-link --features async --example round_trip

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use downbeat_link::{
    Answer, DataType, Done, Infer, LinkError, ModelNumber, Package, RequestNumber, Tensor, ToPool,
    ToWorker, Work, async_pool_end, pair, worker_end,
};

const ROUNDS: usize = 3000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(number) = std::env::args().nth(1) {
        // SAFETY: given by the process below, which left it open for this one.
        return Ok(worker(unsafe { OwnedFd::from_raw_fd(number.parse()?) })?);
    }
    let (ours, theirs) = pair()?;
    let number = theirs.as_raw_fd();
    let mut command = Command::new(std::env::current_exe()?);
    // SAFETY: fcntl may be called between fork and exec, and the descriptor is open there.
    unsafe {
        command.arg(number.to_string()).pre_exec(move || {
            let channel = BorrowedFd::borrow_raw(number);
            Ok(rustix::io::fcntl_setfd(channel, rustix::io::FdFlags::empty())?)
        });
    }
    let mut child = command.spawn()?;
    drop(theirs);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(pool(ours))?;
    child.wait()?;
    Ok(())
}

/// Stands for a model: reads all of its input, and answers little.
fn model(inputs: &[Tensor]) -> Vec<Tensor> {
    let sum: f32 = inputs
        .iter()
        .flat_map(|tensor| tensor.data.as_chunks::<4>().0)
        .map(|bytes| f32::from_le_bytes(*bytes))
        .sum();
    let data = sum.to_le_bytes().to_vec().into();
    vec![Tensor { name: "sum".into(), datatype: DataType::Fp32, shape: vec![1], data }]
}

fn worker(channel: OwnedFd) -> Result<(), LinkError> {
    let (to_pool, mut from_pool) = worker_end(channel)?;
    while let Some(ToWorker::Infer(infer)) = from_pool.receive()? {
        let mut answers = Vec::new();
        for Work { id, inputs, .. } in infer.requests {
            answers.push(Answer { id, outputs: Package::new(model(&inputs))? });
        }
        let done = Done { answers, started_ns: 0, wall_ns: 0, cpu_ns: 0 };
        to_pool.send(&ToPool::Done(done))?;
    }
    Ok(())
}

async fn pool(channel: OwnedFd) -> Result<(), LinkError> {
    let (to_worker, mut from_worker) = async_pool_end(channel)?;
    for elements in [16, 3000, 76_800, 3 * 224 * 224] {
        let tensor = Tensor {
            name: "x".into(),
            datatype: DataType::Fp32,
            shape: vec![elements as u64],
            data: vec![0; elements * 4].into(),
        };
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for id in 0..ROUNDS as u64 {
            let inputs = vec![tensor.clone()];
            let began = Instant::now();
            std::hint::black_box(model(&inputs));
            here.push(began.elapsed());

            let began = Instant::now();
            let request = Work {
                id: RequestNumber(id),
                deadline_ns: None,
                outputs: vec![],
                sequence: None,
                inputs: Package::new(inputs)?,
            };
            let infer = Infer { model: ModelNumber(1), requests: vec![request] };
            to_worker.send(&ToWorker::Infer(infer)).await?;
            std::hint::black_box(from_worker.receive().await?);
            there.push(began.elapsed());
        }
        let [here, there] = [here, there].map(quantiles);
        println!(
            "{:>7} bytes: here p50 {:?} p99 {:?}; over the channel p50 {:?} p99 {:?}; added p50 {:?} p99 {:?}",
            elements * 4,
            here.0,
            here.1,
            there.0,
            there.1,
            there.0.saturating_sub(here.0),
            there.1.saturating_sub(here.1),
        );
    }
    to_worker.send(&ToWorker::Drain).await
}

fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
