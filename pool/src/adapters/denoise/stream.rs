//! One recording through a worker's socket.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use downbeat_api::pool::FrameHead;
use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::sound::FRAME;
use crate::adapters::{FAREWELL, LOOK};
use crate::clock::monotonic_ns;

/// A worker that answers nothing for so long is given up. Longer than the supervisor watches without
/// seeing progress, so that one that is stuck as a whole is killed first.
const ANSWER_LIMIT_S: i64 = 30;

/// Why there is no sound.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Nobody listens there.
    #[error("nobody listens on its socket: {0}")]
    Gone(Errno),
    /// The worker closed the stream.
    #[error("it closed the stream")]
    Closed {
        /// It answered some of it before.
        answered: bool,
    },
    /// Another call of the kernel, or an answer that is none.
    #[error("{0}")]
    Failed(String),
}

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
    pub fn new() -> nix::Result<Self> {
        let socket = unconnected(SockFlag::empty())?;
        let limit = TimeVal::seconds(ANSWER_LIMIT_S);
        socket::setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
        socket::setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        Ok(Self { socket, over: AtomicBool::new(false) })
    }

    /// Ends whatever goes on here, from another thread.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        // One that is not connected yet looks at the flag next.
        let _ = socket::shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    /// Whether it was ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

fn unconnected(flags: SockFlag) -> nix::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
}

/// Whether the worker that closed a stream ends: within a moment nobody listens at `path`. Blocks.
pub fn ends(path: &Path, line: &Line) -> bool {
    let until = Instant::now() + FAREWELL;
    while !line.is_over() {
        let address = UnixAddr::new(path);
        let tried = unconnected(SockFlag::SOCK_NONBLOCK)
            .and_then(|socket| socket::connect(socket.as_raw_fd(), &address?));
        match tried {
            Err(Errno::ECONNREFUSED | Errno::ENOENT) => return true,
            _ if Instant::now() >= until => return false,
            _ => thread::sleep(LOOK),
        }
    }
    false
}

/// Denoises whole frames of interleaved samples. Blocks, until soon after [`Line::end`].
///
/// The model's answers lag by one frame, so silence follows the recording and the first answer is
/// dropped: what comes back is aligned with what went in.
///
/// # Errors
/// See [`StreamError`].
pub fn denoise(
    line: &Line,
    path: &Path,
    deadline: Option<Duration>,
    channels: usize,
    samples: &[i16],
) -> Result<Vec<i16>, StreamError> {
    let call = |name: &'static str| move |errno| StreamError::Failed(format!("{name}: {errno}"));
    let stream = &line.socket;
    let address = UnixAddr::new(path).map_err(call("its socket's path"))?;
    socket::connect(stream.as_raw_fd(), &address).map_err(|errno| match errno {
        Errno::ECONNREFUSED | Errno::ENOENT => StreamError::Gone(errno),
        errno => call("connect")(errno),
    })?;
    let deadline_us =
        deadline.and_then(|deadline| u32::try_from(deadline.as_micros()).ok()).unwrap_or_default();
    let silence = vec![0; FRAME * channels];
    let mut answers = Vec::with_capacity(samples.len());
    let mut message = vec![0; FrameHead::LEN + silence.len() * size_of::<i16>()];
    let frames = samples.chunks_exact(silence.len()).chain([silence.as_slice()]);
    for (sequence, frame) in (0..).zip(frames) {
        if line.is_over() {
            return Err(StreamError::Failed("nobody waits for it any more".into()));
        }
        let head = FrameHead { release_ns: monotonic_ns(), sequence, deadline_us };
        message[..FrameHead::LEN].copy_from_slice(&head.to_bytes());
        let payload = &mut message[FrameHead::LEN..];
        for (bytes, sample) in payload.as_chunks_mut::<2>().0.iter_mut().zip(frame) {
            *bytes = sample.to_le_bytes();
        }
        let failed = |name: &'static str| {
            move |errno| match errno {
                Errno::EPIPE | Errno::ECONNRESET => StreamError::Closed { answered: sequence > 0 },
                Errno::EAGAIN => {
                    StreamError::Failed(format!("no answer within {ANSWER_LIMIT_S} s"))
                }
                errno => call(name)(errno),
            }
        };
        socket::send(stream.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL)
            .map_err(failed("send"))?;
        let length = socket::recv(stream.as_raw_fd(), &mut message, MsgFlags::MSG_TRUNC)
            .map_err(failed("recv"))?;
        if length == 0 {
            return Err(StreamError::Closed { answered: sequence > 0 });
        }
        let answered = FrameHead::split(&message).map(|(head, _)| head.sequence);
        if length != message.len() || answered != Some(sequence) {
            return Err(StreamError::Failed("it lost its place in the stream".into()));
        }
        if sequence > 0 {
            let payload = message[FrameHead::LEN..].as_chunks::<2>().0;
            answers.extend(payload.iter().map(|bytes| i16::from_le_bytes(*bytes)));
        }
    }
    Ok(answers)
}
