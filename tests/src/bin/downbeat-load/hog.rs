//! Background work: matrix products, counted per thread.

use std::hint::black_box;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use downbeat_tests::clock::now_ns;
use downbeat_tests::record::{SAMPLE_EVERY_NS, WorkWriter};

/// Side of the square matrices: 3 × 16 KiB stay in the nearest cache, one product takes some
/// tens of microseconds.
const SIDE: usize = 64;
const BURST_NS: u64 = 20_000_000;
const LONGEST_PAUSE_MS: u64 = 40;

/// Options of `downbeat-load hog` and `bursty`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Threads that work
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Where to record the units done
    #[arg(long)]
    record: PathBuf,
    /// Ends after so many seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// How the work comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Without a pause.
    Steady,
    /// 20 ms on, up to 40 ms off.
    Bursts,
}

/// Works until the time is over.
pub fn run(args: &Args, pace: Pace) -> Result<()> {
    anyhow::ensure!(args.threads > 0, "--threads must be at least 1");
    let record = WorkWriter::create(&args.record, args.threads, args.seconds)
        .with_context(|| format!("{}: cannot record there", args.record.display()))?;
    let end = now_ns() + args.seconds * 1_000_000_000;
    thread::scope(|scope| {
        for index in 1..args.threads {
            let record = &record;
            scope.spawn(move || work(record, index, end, pace));
        }
        work(&record, 0, end, pace);
    });
    Ok(())
}

fn work(record: &WorkWriter, index: usize, end: u64, pace: Pace) {
    let left: Vec<f32> = (0..SIDE * SIDE).map(|i| (i % 7) as f32).collect();
    let right: Vec<f32> = (0..SIDE * SIDE).map(|i| (i % 5) as f32).collect();
    let mut product = vec![0.0; SIDE * SIDE];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ index as u64;
    let (mut units, mut sampled, mut burst_began) = (0, 0, now_ns());
    loop {
        multiply(&left, &right, &mut product);
        units += 1;
        let now = now_ns();
        if now - sampled >= SAMPLE_EVERY_NS {
            record.sample(index, now, units);
            sampled = now;
        }
        if now >= end {
            return;
        }
        if pace == Pace::Bursts && now - burst_began >= BURST_NS {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            thread::sleep(Duration::from_millis(1 + random % LONGEST_PAUSE_MS));
            burst_began = now_ns();
        }
    }
}

fn multiply(left: &[f32], right: &[f32], product: &mut [f32]) {
    product.fill(0.0);
    for (row, out) in left.chunks_exact(SIDE).zip(product.chunks_exact_mut(SIDE)) {
        for (factor, line) in row.iter().zip(right.chunks_exact(SIDE)) {
            for (sum, value) in out.iter_mut().zip(line) {
                *sum += factor * value;
            }
        }
    }
    black_box(product);
}
