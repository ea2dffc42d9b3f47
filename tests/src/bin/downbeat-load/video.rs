//! A camera's worker: each frame is a real convolution over a synthetic picture.
//!
//! The camera delivers on an absolute grid whatever the worker does. Frames wait in a queue of
//! two, as in a capture driver; when a third comes, the oldest is dropped and is a miss. After an
//! overrun the next waiting frame starts at once.

use std::hint::black_box;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use downbeat_tests::clock::{now_ns, ns, sleep_until, thread_cpu_ns};
use downbeat_tests::record::{DROPPED, FrameWriter};

const WIDTH: usize = 320;
const HEIGHT: usize = 180;
/// Frames that a capture driver keeps for a worker that is busy.
const QUEUE: u64 = 2;
/// Frames between two reports to a supervisor.
const TELL_EVERY: u64 = 10;
/// Enough that some fall on a quiet moment of a shared machine.
const CALIBRATION_ROUNDS: usize = 1000;
/// A 5×5 blur, the same in both directions.
const KERNEL: [f32; 5] = [0.0625, 0.25, 0.375, 0.25, 0.0625];

/// Options of `downbeat-load video`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Frames per second
    #[arg(long, default_value_t = 30.0)]
    fps: f64,
    /// CPU time of one frame while every other CPU computes too; measured at the start
    #[arg(long, default_value = "8ms")]
    cost: humantime::Duration,
    /// From a frame's release to the moment it is worthless
    #[arg(long, default_value = "33ms")]
    deadline: humantime::Duration,
    /// Where to record each frame
    #[arg(long)]
    record: PathBuf,
    /// Ends after so many seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Works until the time is over.
pub fn run(args: &Args) -> Result<()> {
    anyhow::ensure!(args.fps > 0.0 && args.fps <= 1000.0, "--fps must lie between 0 and 1000");
    let period = (1e9 / args.fps) as u64;
    let frames = args.seconds * 1_000_000_000 / period + 1;
    let record =
        FrameWriter::create(&args.record, ns(args.deadline.into()), usize::try_from(frames)?)
            .with_context(|| format!("{}: cannot record there", args.record.display()))?;
    let mut picture = Picture::new();
    let passes = picture.passes_for(ns(args.cost.into()));
    let supervisor = Supervisor::find();
    supervisor.tell("READY=1");

    let begin = now_ns() + period;
    let deadline = ns(args.deadline.into());
    let (mut next, mut missed) = (0, 0_u64);
    while next < frames {
        sleep_until(begin + next * period);
        // Frames that the camera delivered meanwhile, and those that the queue could not hold.
        let newest = (now_ns() - begin) / period;
        while newest.min(frames - 1) - next > QUEUE {
            record.released(next, begin + next * period, DROPPED);
            missed += 1;
            next += 1;
        }
        let release = begin + next * period;
        record.released(next, release, 0);
        picture.convolve(passes);
        let response = now_ns() - release;
        record.answered(next, response);
        missed += u64::from(response > deadline);
        next += 1;
        if next.is_multiple_of(TELL_EVERY) {
            supervisor.tell(&format!("X_FRAMES={next}\nX_MISSED={missed}\n"));
        }
    }
    Ok(())
}

/// Tells a supervisor, in the manner of sd_notify(3), that frames flow and how they fare.
struct Supervisor {
    to: Option<(UnixDatagram, SocketAddr)>,
}

impl Supervisor {
    fn find() -> Self {
        let address = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            match name.as_encoded_bytes().strip_prefix(b"@") {
                Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name).ok(),
                None => SocketAddr::from_pathname(&name).ok(),
            }
        });
        let socket = UnixDatagram::unbound().and_then(|socket| {
            // A supervisor that does not read must not hold up a frame.
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Self { to: socket.ok().zip(address) }
    }

    fn tell(&self, message: &str) {
        if let Some((socket, to)) = &self.to {
            // A lost message is followed by the next one.
            let _ = socket.send_to_addr(message.as_bytes(), to);
        }
    }
}

struct Picture {
    source: Vec<f32>,
    target: Vec<f32>,
}

impl Picture {
    fn new() -> Self {
        let source =
            (0..WIDTH * HEIGHT).map(|i| ((i % WIDTH) * (i / WIDTH) % 251) as f32 / 251.0).collect();
        Self { source, target: vec![0.0; WIDTH * HEIGHT] }
    }

    /// How many passes cost `cost_ns` of CPU on a machine that is full, which is what a frame runs
    /// beside: where CPUs are two halves of a core, each is slower by a third while the other works.
    /// The fastest tenth of the trials counts: what steal and cold caches add is not the work's own
    /// cost.
    fn passes_for(&mut self, cost_ns: u64) -> usize {
        let others = thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1);
        let measured = AtomicBool::new(false);
        let mut trials: Vec<u64> = thread::scope(|scope| {
            for _ in 0..others {
                scope.spawn(|| {
                    let mut picture = Self::new();
                    while !measured.load(Ordering::Relaxed) {
                        picture.convolve(1);
                    }
                });
            }
            let trials = (0..CALIBRATION_ROUNDS).map(|_| self.trial()).collect();
            measured.store(true, Ordering::Relaxed);
            trials
        });
        trials.sort_unstable();
        let one = trials[CALIBRATION_ROUNDS / 10].max(1);
        usize::try_from((cost_ns + one / 2) / one).unwrap_or(1).max(1)
    }

    /// CPU time of one pass, nanoseconds.
    fn trial(&mut self) -> u64 {
        let before = thread_cpu_ns();
        self.convolve(1);
        thread_cpu_ns() - before
    }

    /// Blurs the picture `passes` times, each over the last one's result.
    fn convolve(&mut self, passes: usize) {
        for _ in 0..passes {
            for y in 2..HEIGHT - 2 {
                for x in 2..WIDTH - 2 {
                    let mut sum = 0.0;
                    for (ky, wy) in KERNEL.iter().enumerate() {
                        let row = (y + ky - 2) * WIDTH + x - 2;
                        for (kx, wx) in KERNEL.iter().enumerate() {
                            sum += wy * wx * self.source[row + kx];
                        }
                    }
                    self.target[y * WIDTH + x] = sum;
                }
            }
            std::mem::swap(&mut self.source, &mut self.target);
        }
        black_box(&self.source);
    }
}
