//! One recording through a worker's socket.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use downbeat_api::pool::FrameHead;
use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::time::{ClockId, clock_gettime};

use super::sound::FRAME;

/// A worker that answers nothing for so long is given up. Longer than the supervisor watches without
/// seeing progress, so that a stuck one is killed first, and the recording runs again.
const ANSWER_LIMIT_S: i64 = 30;

/// A connection to a worker's socket.
#[derive(Debug)]
pub struct Line {
    socket: OwnedFd,
    over: AtomicBool,
}

impl Line {
    /// Not connected yet.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Self> {
        let socket =
            socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        let limit = TimeVal::seconds(ANSWER_LIMIT_S);
        socket::setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
        socket::setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        Ok(Self { socket, over: AtomicBool::new(false) })
    }

    fn connect(&self, path: &Path) -> io::Result<()> {
        Ok(socket::connect(self.socket.as_raw_fd(), &UnixAddr::new(path)?)?)
    }

    /// Ends whatever goes on here, from another thread.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        // One that is not connected yet looks at the flag next.
        let _ = socket::shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Whether a worker listens at `path`: one that has ended does not.
pub fn is_served(path: &Path) -> bool {
    Line::new().and_then(|line| line.connect(path)).is_ok()
}

/// Denoises whole frames of interleaved samples. Blocks, until [`Line::end`] at the latest.
///
/// The model's answers lag by one frame, so silence follows the recording and the first answer is
/// dropped: what comes back is aligned with what went in.
///
/// # Errors
/// The kernel's, or that the worker closed the stream.
pub fn denoise(
    line: &Line,
    path: &Path,
    deadline: Option<Duration>,
    channels: usize,
    samples: &[i16],
) -> io::Result<Vec<i16>> {
    line.connect(path)?;
    let stream = &line.socket;
    let deadline_us =
        deadline.and_then(|deadline| u32::try_from(deadline.as_micros()).ok()).unwrap_or_default();
    let silence = vec![0; FRAME * channels];
    let mut answers = Vec::with_capacity(samples.len());
    let mut message = vec![0; FrameHead::LEN + silence.len() * size_of::<i16>()];
    let frames = samples.chunks_exact(silence.len()).chain([silence.as_slice()]);
    for (sequence, frame) in (0..).zip(frames) {
        if line.is_over() {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        let head = FrameHead { release_ns: monotonic()?, sequence, deadline_us };
        message[..FrameHead::LEN].copy_from_slice(&head.to_bytes());
        let payload = &mut message[FrameHead::LEN..];
        for (bytes, sample) in payload.as_chunks_mut::<2>().0.iter_mut().zip(frame) {
            *bytes = sample.to_le_bytes();
        }
        socket::send(stream.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL)?;
        let length = socket::recv(stream.as_raw_fd(), &mut message, MsgFlags::MSG_TRUNC).map_err(
            |errno| match errno {
                Errno::EAGAIN => io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {ANSWER_LIMIT_S} s"),
                ),
                errno => errno.into(),
            },
        )?;
        let answered = FrameHead::split(&message).map(|(head, _)| head.sequence);
        if length != message.len() || answered != Some(sequence) {
            return Err(io::Error::other("the worker closed the stream or lost its place"));
        }
        if sequence > 0 {
            let payload = message[FrameHead::LEN..].as_chunks::<2>().0;
            answers.extend(payload.iter().map(|bytes| i16::from_le_bytes(*bytes)));
        }
    }
    Ok(answers)
}

fn monotonic() -> io::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let now = Duration::new(now.tv_sec().unsigned_abs(), now.tv_nsec().unsigned_abs() as u32);
    Ok(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
