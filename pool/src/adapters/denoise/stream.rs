//! One recording through a worker's socket.
//!
//! On the thread of all requests, whose real time it so has: a frame of 10 ms that waited for a
//! thread of ordinary priority at each of four turns was the latest of all.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use downbeat_api::pool::FrameHead;
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

use super::sound::FRAME;
use crate::adapters::{FAREWELL, LOOK};
use crate::clock::monotonic_ns;

/// A worker that answers nothing for so long is given up. Longer than the supervisor watches without
/// seeing progress, so that one that is stuck as a whole is killed first.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Until the next try where as many connections wait to be accepted as may.
const CONNECT_AGAIN: Duration = Duration::from_millis(2);

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

fn failed(call: &str, error: impl std::fmt::Display) -> StreamError {
    StreamError::Failed(format!("{call}: {error}"))
}

fn connect(address: &UnixAddr) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    socket::connect(socket.as_raw_fd(), address)?;
    Ok(socket)
}

/// Whether the worker that closed a stream ends: within a moment nobody listens at `path`.
pub async fn ends(path: &Path) -> bool {
    let Ok(address) = UnixAddr::new(path) else { return false };
    let refused = async {
        while !matches!(connect(&address), Err(Errno::ECONNREFUSED | Errno::ENOENT)) {
            sleep(LOOK).await;
        }
    };
    timeout(FAREWELL, refused).await.is_ok()
}

/// A connection to a worker's socket.
struct Line(AsyncFd<OwnedFd>);

impl Line {
    async fn open(path: &Path) -> Result<Self, StreamError> {
        let address = UnixAddr::new(path).map_err(|errno| failed("its socket's path", errno))?;
        let connected = async {
            loop {
                match connect(&address) {
                    Err(Errno::EAGAIN) => sleep(CONNECT_AGAIN).await,
                    done => return done,
                }
            }
        };
        let socket = match timeout(ANSWER_LIMIT, connected).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(errno @ (Errno::ECONNREFUSED | Errno::ENOENT))) => {
                return Err(StreamError::Gone(errno));
            }
            Ok(Err(errno)) => return Err(failed("connect", errno)),
            Err(_) => return Err(failed("connect", "it accepts nobody")),
        };
        // SAFETY: `socket` owns its descriptor and always gives that same one; it lives in the
        // `AsyncFd` from here on, which gives it out by reference only.
        let registered = unsafe { AsyncFd::register(socket) };
        registered.map(Self).map_err(|error| failed("epoll_ctl", io::Error::from(error)))
    }

    /// Sends a message and has the next one take its place.
    async fn exchange(&self, message: &mut [u8]) -> io::Result<usize> {
        let send = |socket: &OwnedFd| {
            let sent = socket::send(socket.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL);
            sent.map_err(io::Error::from)
        };
        self.0.async_io(Interest::WRITABLE, send).await?;
        let receive = |socket: &OwnedFd| {
            let came = socket::recv(socket.as_raw_fd(), message, MsgFlags::MSG_TRUNC);
            came.map_err(io::Error::from)
        };
        self.0.async_io(Interest::READABLE, receive).await
    }
}

/// Denoises whole frames of interleaved samples. Dropped, it closes the stream.
///
/// The model's answers lag by one frame, so silence follows the recording and the first answer is
/// dropped: what comes back is aligned with what went in.
///
/// # Errors
/// See [`StreamError`].
pub async fn denoise(
    path: &Path,
    deadline: Option<Duration>,
    channels: usize,
    samples: &[i16],
) -> Result<Vec<i16>, StreamError> {
    let line = Line::open(path).await?;
    let deadline_us =
        deadline.and_then(|deadline| u32::try_from(deadline.as_micros()).ok()).unwrap_or_default();
    let silence = vec![0; FRAME * channels];
    let mut answers = Vec::with_capacity(samples.len());
    let mut message = vec![0; FrameHead::LEN + silence.len() * size_of::<i16>()];
    let frames = samples.chunks_exact(silence.len()).chain([silence.as_slice()]);
    for (sequence, frame) in (0..).zip(frames) {
        let head = FrameHead { release_ns: monotonic_ns(), sequence, deadline_us };
        message[..FrameHead::LEN].copy_from_slice(&head.to_bytes());
        let payload = &mut message[FrameHead::LEN..];
        for (bytes, sample) in payload.as_chunks_mut::<2>().0.iter_mut().zip(frame) {
            *bytes = sample.to_le_bytes();
        }
        let closed = StreamError::Closed { answered: sequence > 0 };
        let length = match timeout(ANSWER_LIMIT, line.exchange(&mut message)).await {
            Ok(Ok(0)) => return Err(closed),
            Ok(Ok(length)) => length,
            Ok(Err(error)) => {
                let kinds = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
                let gone = kinds.contains(&error.kind());
                return Err(if gone { closed } else { failed("send or recv", error) });
            }
            Err(_) => return Err(failed("recv", format!("no answer within {ANSWER_LIMIT:?}"))),
        };
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
