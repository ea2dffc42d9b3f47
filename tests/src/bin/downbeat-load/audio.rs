//! The stand-in for a sound card.
//!
//! One thread sends a frame each period on an absolute grid, another takes the answers; the
//! response runs from the moment the grid says to the answer's arrival. A sound card's interrupt
//! is not scheduled and so never late: to stand for it, both threads make themselves SCHED_FIFO
//! 80. They only copy a frame each, which costs microseconds. Where they are late all the same
//! (steal, an interrupt), the frame is flagged.
//!
//! Like a card's ring of periods, at most `--outstanding` frames wait at a time; a frame that
//! finds the ring full is lost, and a miss.

use std::f32::consts::TAU;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use downbeat_api::pool::FrameHead;
use downbeat_tests::clock::{now_ns, ns, sleep_until};
use downbeat_tests::record::{DROPPED, FrameWriter, LATE_RELEASE};
use downbeat_tests::threads::Scheduling;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket,
};

const DEVICE_PRIORITY: u32 = 80;
const LATE_NS: u64 = 1_000_000;
const SAMPLE_RATE: u64 = 48_000;
/// Frames of sound made beforehand and played in a loop: 1 s at 10 ms.
const LOOP: usize = 100;
/// How long the worker's socket may take to appear at the start.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Pause between attempts to reach a worker that went away.
const RECONNECT: u64 = 50_000_000;

/// Options of `downbeat-load audio`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The audio worker's socket
    #[arg(long)]
    socket: PathBuf,
    /// Channels in a frame
    #[arg(long, default_value_t = 8)]
    channels: usize,
    /// From frame to frame
    #[arg(long, default_value = "10ms")]
    period: humantime::Duration,
    /// From a frame's release to the moment it is worthless
    #[arg(long, default_value = "10ms")]
    deadline: humantime::Duration,
    /// Frames that may wait for their answer, like the periods of a card's ring
    #[arg(long, default_value_t = 4)]
    outstanding: u32,
    /// Where to record each frame
    #[arg(long)]
    record: PathBuf,
    /// Ends after so many seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Leaves the two threads' scheduling alone (for use without root: the numbers are worse)
    #[arg(long)]
    ordinary: bool,
}

/// The worker's end, shared by both threads. It changes when the worker is restarted.
struct Line {
    /// Connection and how many there were before it.
    current: Mutex<(u64, Option<Arc<OwnedFd>>)>,
    changed: Condvar,
    waiting: AtomicU32,
    over: AtomicBool,
}

impl Line {
    fn get(&self) -> (u64, Option<Arc<OwnedFd>>) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        (current.0, current.1.clone())
    }

    fn replace(&self, fd: OwnedFd) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (current.0 + 1, Some(Arc::new(fd)));
        self.waiting.store(0, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn lost(&self, generation: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 == generation {
            current.1 = None;
        }
    }

    /// The next living connection; nothing when the stream is over.
    fn wait(&self) -> Option<(u64, Arc<OwnedFd>)> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.over.load(Ordering::Relaxed) {
                return None;
            }
            if let (generation, Some(fd)) = &*current {
                return Some((*generation, fd.clone()));
            }
            let tick = Duration::from_millis(100);
            current =
                self.changed.wait_timeout(current, tick).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Plays until the time is over.
pub fn run(args: &Args) -> Result<()> {
    let (period, deadline) = (ns(args.period.into()), ns(args.deadline.into()));
    anyhow::ensure!(period > 0, "--period must be longer than 0");
    let frames = args.seconds * 1_000_000_000 / period + 1;
    let record = FrameWriter::create(&args.record, deadline, usize::try_from(frames)?)
        .with_context(|| format!("{}: cannot record there", args.record.display()))?;
    let samples = usize::try_from(SAMPLE_RATE * period / 1_000_000_000)?;
    let sound = sound(args.channels, samples);

    let first = connect_patiently(&args.socket)?;
    let line = Line {
        current: Mutex::new((0, Some(Arc::new(first)))),
        changed: Condvar::new(),
        waiting: AtomicU32::new(0),
        over: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        let receiver = scope.spawn(|| -> Result<()> {
            take_device_priority(args.ordinary)?;
            receive(&line, &record, FrameHead::LEN + sound[0].len());
            Ok(())
        });
        let sent = take_device_priority(args.ordinary).map(|()| {
            play(args, &line, &record, &sound, period, deadline, frames);
            // The last answers may still be on their way.
            thread::sleep(args.deadline.into());
        });
        line.over.store(true, Ordering::Relaxed);
        if let (_, Some(fd)) = line.get() {
            // Wakes the receiver. A connection that is gone already has woken it.
            let _ = nix::sys::socket::shutdown(fd.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        }
        sent?;
        receiver.join().map_err(|_| anyhow::anyhow!("the receiving thread panicked"))?
    })
}

fn play(
    args: &Args,
    line: &Line,
    record: &FrameWriter,
    sound: &[Vec<u8>],
    period: u64,
    deadline: u64,
    frames: u64,
) {
    let begin = now_ns() + period;
    let mut message = Vec::with_capacity(FrameHead::LEN + sound[0].len());
    let mut next_attempt = 0;
    for sequence in 0..frames {
        let release = begin + sequence * period;
        sleep_until(release);
        let late = now_ns().saturating_sub(release) > LATE_NS;
        let flags = if late { LATE_RELEASE } else { 0 };
        let (generation, fd) = line.get();
        let Some(fd) = fd else {
            record.released(sequence, release, flags | DROPPED);
            if release >= next_attempt {
                next_attempt = release + RECONNECT;
                if let Ok(fd) = connect_once(&args.socket) {
                    line.replace(fd);
                }
            }
            continue;
        };
        if line.waiting.load(Ordering::Relaxed) >= args.outstanding {
            record.released(sequence, release, flags | DROPPED);
            continue;
        }
        let head = FrameHead {
            release_ns: release,
            sequence: sequence as u32,
            deadline_us: u32::try_from(deadline / 1000).unwrap_or(u32::MAX),
        };
        message.clear();
        message.extend_from_slice(&head.to_bytes());
        message.extend_from_slice(&sound[sequence as usize % sound.len()]);
        // Before the frame leaves, so that its answer cannot come first.
        record.released(sequence, release, flags);
        line.waiting.fetch_add(1, Ordering::Relaxed);
        let how = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(fd.as_raw_fd(), &message, how) {
            Ok(_) => {}
            Err(nix::errno::Errno::EAGAIN) => {
                line.waiting.fetch_sub(1, Ordering::Relaxed);
                record.released(sequence, release, flags | DROPPED);
            }
            Err(_) => {
                record.released(sequence, release, flags | DROPPED);
                line.lost(generation);
            }
        }
    }
}

fn receive(line: &Line, record: &FrameWriter, longest: usize) {
    let mut message = vec![0; longest];
    while let Some((generation, fd)) = line.wait() {
        let length = match recv(fd.as_fd().as_raw_fd(), &mut message, MsgFlags::empty()) {
            Err(nix::errno::Errno::EINTR) => continue,
            Ok(length) if length > 0 => length,
            _ => {
                line.lost(generation);
                continue;
            }
        };
        let now = now_ns();
        if let Some((head, _)) = FrameHead::split(&message[..length]) {
            record.answered(u64::from(head.sequence), now.saturating_sub(head.release_ns));
        }
        // Never below zero: a reconnect may have reset it while this answer was under way.
        let _ = line
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| waiting.checked_sub(1));
    }
}

fn take_device_priority(ordinary: bool) -> Result<()> {
    if ordinary {
        return Ok(());
    }
    Scheduling::fifo(DEVICE_PRIORITY).apply(0).context(
        "sched_setattr: cannot become SCHED_FIFO 80, which stands for the card's interrupt. \
         Run as root, or with --ordinary",
    )
}

fn connect_patiently(path: &Path) -> Result<OwnedFd> {
    let end = now_ns() + ns(CONNECT_LIMIT);
    loop {
        match connect_once(path) {
            Ok(fd) => return Ok(fd),
            Err(_) if now_ns() < end => thread::sleep(Duration::from_millis(50)),
            Err(errno) => {
                return Err(errno).with_context(|| {
                    format!(
                        "{}: no audio worker listens there; does the pool run one?",
                        path.display()
                    )
                });
            }
        }
    }
}

fn connect_once(path: &Path) -> nix::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

/// Voice-like sound: a gliding tone with its harmonics under noise, differing per channel;
/// interleaved signed 16-bit samples, little endian.
fn sound(channels: usize, samples: usize) -> Vec<Vec<u8>> {
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    let mut at = 0_u64;
    (0..LOOP)
        .map(|_| {
            let mut frame = Vec::with_capacity(samples * channels * 2);
            for _ in 0..samples {
                let time = at as f32 / SAMPLE_RATE as f32;
                at += 1;
                for channel in 0..channels {
                    // xorshift64: repeatable, and good enough for a hiss.
                    noise ^= noise << 13;
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    let hiss = (noise >> 40) as f32 / (1_u64 << 23) as f32 - 1.0;
                    let base = 110.0 + 20.0 * channel as f32 + 15.0 * (TAU * 2.0 * time).sin();
                    let voice: f32 = (1_u8..=5)
                        .map(|n| (TAU * base * f32::from(n) * time).sin() / f32::from(n))
                        .sum();
                    let sample = (voice * 5000.0 + hiss * 2500.0).clamp(-32768.0, 32767.0);
                    frame.extend_from_slice(&(sample as i16).to_le_bytes());
                }
            }
            frame
        })
        .collect()
}
