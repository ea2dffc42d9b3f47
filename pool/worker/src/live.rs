//! Live streams on a Unix `SOCK_SEQPACKET` socket, one thread per connection.
//!
//! The whole computation of a stream happens on its own thread, so that pinning the thread or
//! making it real-time applies to the work itself. The thread of a short stream stays for a while and
//! takes the next: whoever makes a connection for each frame would else have each computed by a
//! thread that nobody has seen before. That of a long one ends with it, so that what an agent found
//! out about it (how long it computes, that it lost its real time) is not said of another stream.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use downbeat_api::pool::FrameHead;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{
    self, AddressFamily, Backlog, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::clock;
use crate::denoise::{Denoiser, FRAME, MAX_CHANNELS, to_i16};
use crate::meter::Meter;
use crate::notify::{self, Notifier};

/// Streams at a time; one more is closed at once.
const MAX_STREAMS: usize = 64;

/// Bytes of one channel in one frame.
const CHANNEL_BYTES: usize = FRAME * size_of::<i16>();

/// The longest message that makes sense.
const MAX_MESSAGE: usize = FrameHead::LEN + MAX_CHANNELS * CHANNEL_BYTES;

/// How often the supervisor hears from us.
const STATUS_PERIOD: Duration = Duration::from_secs(1);

/// A peer that reads nothing for so long is gone.
const SEND_TIMEOUT_S: i64 = 1;

/// CPU time of a short stream: less than an agent takes for a runaway (50 ms).
const SHORT: Duration = Duration::from_millis(20);

/// How long the thread of a short stream waits for the next.
const THREAD_STAYS: Duration = Duration::from_secs(10);

/// For the streams' last frames after SIGTERM.
const FAREWELL: Duration = Duration::from_millis(500);

/// Serves streams on `path` until SIGTERM or SIGINT.
///
/// # Errors
/// When the socket cannot be made; names its path and the remedy.
pub fn serve(path: &Path, name: &str) -> anyhow::Result<()> {
    let (signals, notifier) = notify::supervised()?;
    let listener = listen(path)?;
    let result = accept_until_stopped(&listener, &signals, &notifier, name);
    notifier.stopping();
    let _ = fs::remove_file(path);
    result
}

fn accept_until_stopped(
    listener: &OwnedFd,
    signals: &SignalFd,
    notifier: &Notifier,
    name: &str,
) -> anyhow::Result<()> {
    let meter = Arc::new(Meter::new());
    let streams = Arc::new(Streams::default());
    notifier.ready();
    let mut due = Instant::now();
    loop {
        let now = Instant::now();
        if now >= due {
            notifier.status(&meter.read(), streams.count());
            due = now + STATUS_PERIOD;
        }
        let wait = u16::try_from((due - now).as_millis() + 1).unwrap_or(u16::MAX);
        let mut ready = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::from(wait)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("poll"),
        }
        if ready[1].any().unwrap_or(false) {
            streams.end(FAREWELL);
            notifier.status(&meter.read(), streams.count());
            return Ok(());
        }
        if ready[0].any().unwrap_or(false) {
            match socket::accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                // SAFETY: accept4 has just made this descriptor, and nobody else has it.
                Ok(fd) => start(unsafe { OwnedFd::from_raw_fd(fd) }, &streams, &meter, name),
                Err(Errno::EINTR | Errno::ECONNABORTED | Errno::EAGAIN) => {}
                Err(errno) => {
                    eprintln!("{name}: accept: {errno}; raise the limit of open files");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

/// A listening socket at `path`. One that a killed worker left there is replaced.
fn listen(path: &Path) -> anyhow::Result<OwnedFd> {
    let shown = path.display();
    let address = UnixAddr::new(path).map_err(|errno| match errno {
        Errno::ENAMETOOLONG => anyhow::anyhow!(
            "{shown}: a socket's path may have 107 bytes at most; choose a shorter folder"
        ),
        errno => anyhow::anyhow!("{shown}: {errno}"),
    })?;
    let new = || {
        socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
            .context("socket(AF_UNIX, SOCK_SEQPACKET)")
    };
    match socket::connect(new()?.as_raw_fd(), &address) {
        Ok(()) => bail!("{shown}: another worker already serves this socket; end it first"),
        // Connecting to an ordinary file is refused in the same words.
        Err(Errno::ECONNREFUSED) if is_socket(path) => {
            fs::remove_file(path).with_context(|| format!("{shown}: cannot remove"))?;
        }
        Err(Errno::ENOENT) => {}
        Err(errno) => bail!("{shown}: in the way and not a socket of ours ({errno}); remove it"),
    }
    let listener = new()?;
    socket::bind(listener.as_raw_fd(), &address)
        .with_context(|| format!("{shown}: cannot make the socket; check its folder"))?;
    // The group may stream too, others may not.
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .with_context(|| format!("{shown}: chmod"))?;
    let backlog = Backlog::new(MAX_STREAMS as i32).context("listen")?;
    socket::listen(&listener, backlog).with_context(|| format!("{shown}: listen"))?;
    Ok(listener)
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// The streams, each in the slot whose number its thread bears.
#[derive(Default)]
struct Streams {
    slots: Mutex<Vec<Slot>>,
}

/// A stream's place.
enum Slot {
    /// Without a thread.
    Free,
    /// This thread waits for the next stream.
    Idle(Thread),
    /// With a stream.
    Busy(Arc<OwnedFd>),
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        // A panicking stream leaves the table usable: every change to it is one assignment.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn busy(slots: &[Slot]) -> impl Iterator<Item = &Arc<OwnedFd>> {
        slots.iter().filter_map(|slot| match slot {
            Slot::Busy(connection) => Some(connection),
            Slot::Free | Slot::Idle(_) => None,
        })
    }

    fn count(&self) -> usize {
        Self::busy(&self.lock()).count()
    }

    /// Gives a connection to the first thread that waits; or else takes the first free slot, whose
    /// number then needs a thread.
    ///
    /// # Errors
    /// When as many streams are open as may be.
    fn take(&self, connection: OwnedFd) -> Result<Option<usize>, Full> {
        let mut slots = self.lock();
        let busy = Slot::Busy(Arc::new(connection));
        if let Some(idle) = slots.iter_mut().find(|slot| matches!(slot, Slot::Idle(_))) {
            if let Slot::Idle(thread) = std::mem::replace(idle, busy) {
                thread.unpark();
            }
            return Ok(None);
        }
        let free = slots.iter().position(|slot| matches!(slot, Slot::Free));
        match free {
            Some(free) => slots[free] = busy,
            None if slots.len() < MAX_STREAMS => slots.push(busy),
            None => return Err(Full),
        }
        Ok(Some(free.unwrap_or(slots.len() - 1)))
    }

    /// The connection of a slot, once it has one; none for so long that its thread may go.
    fn next(&self, slot: usize) -> Option<Arc<OwnedFd>> {
        let until = Instant::now() + THREAD_STAYS;
        loop {
            let mut slots = self.lock();
            if let Slot::Busy(connection) = &slots[slot] {
                return Some(Arc::clone(connection));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                slots[slot] = Slot::Free;
                return None;
            }
            drop(slots);
            thread::park_timeout(left);
        }
    }

    fn set(&self, slot: usize, to: Slot) {
        self.lock()[slot] = to;
    }

    /// Lets every stream answer what it has received, and waits for that.
    fn end(&self, limit: Duration) {
        for connection in Self::busy(&self.lock()) {
            let _ = socket::shutdown(connection.as_raw_fd(), Shutdown::Read);
        }
        let until = Instant::now() + limit;
        while self.count() > 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// All slots have a stream.
struct Full;

fn start(connection: OwnedFd, streams: &Arc<Streams>, meter: &Arc<Meter>, name: &str) {
    let slot = match streams.take(connection) {
        Ok(None) => return,
        Ok(Some(slot)) => slot,
        Err(Full) => {
            eprintln!("{name}: {MAX_STREAMS} streams are open, one more was closed");
            return;
        }
    };
    let (shared, meter) = (Arc::clone(streams), Arc::clone(meter));
    let who = format!("{name}: stream {slot}");
    let spawned = thread::Builder::new().name(format!("denoise-{slot}")).spawn(move || {
        while let Some(connection) = shared.next(slot) {
            let mut leave = Leave { streams: &shared, slot, then: Slot::Free };
            let began = clock::thread_cpu();
            if let Err(reason) = stream(&connection, &meter) {
                eprintln!("{who}: closed: {reason}");
            }
            if Duration::from_nanos(clock::thread_cpu().saturating_sub(began)) > SHORT {
                return;
            }
            leave.then = Slot::Idle(thread::current());
            // The connection ends after this: who connects again finds the thread.
            drop(leave);
        }
    });
    if let Err(error) = spawned {
        streams.set(slot, Slot::Free);
        eprintln!("{name}: no thread for stream {slot}: {error}; raise the limit of processes");
    }
}

/// Takes the stream out of its slot, also when it panics and its thread with it.
struct Leave<'a> {
    streams: &'a Streams,
    slot: usize,
    then: Slot,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.streams.set(self.slot, std::mem::replace(&mut self.then, Slot::Free));
    }
}

/// Why a stream was closed from this side.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Short(usize),
    Size(usize),
    Channels { was: usize, is: usize },
    Socket(&'static str, Errno),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short(bytes) => {
                write!(f, "a message of {bytes} bytes, shorter than the head of {}", FrameHead::LEN)
            }
            Self::Size(bytes) => write!(
                f,
                "a payload of {bytes} bytes; a frame is {CHANNEL_BYTES} bytes (480 samples of 16 \
                 bits) for each of 1 to {MAX_CHANNELS} channels"
            ),
            Self::Channels { was, is } => write!(
                f,
                "{is} channels after {was}; open a connection for each number of channels"
            ),
            Self::Socket("send", Errno::EAGAIN) => {
                write!(f, "the peer did not read its answers for {SEND_TIMEOUT_S} s")
            }
            Self::Socket(call, errno) => write!(f, "{call}: {errno}"),
        }
    }
}

/// Channels of a payload.
fn channels(payload: usize) -> Result<usize, Refused> {
    let channels = payload / CHANNEL_BYTES;
    if payload.is_multiple_of(CHANNEL_BYTES) && (1..=MAX_CHANNELS).contains(&channels) {
        Ok(channels)
    } else {
        Err(Refused::Size(payload))
    }
}

/// Answers frames until the peer closes.
fn stream(connection: &OwnedFd, meter: &Meter) -> Result<(), Refused> {
    socket::setsockopt(connection, sockopt::SendTimeout, &TimeVal::seconds(SEND_TIMEOUT_S))
        .map_err(|errno| Refused::Socket("setsockopt", errno))?;
    let mut message = vec![0; MAX_MESSAGE];
    let Some(length) = receive(connection, &mut message)? else {
        return Ok(());
    };
    let mut frame = Frames::new(payload_of(&message, length)?)?;
    let mut length = length;
    loop {
        let started = clock::thread_cpu();
        let head = frame.answer(&mut message, length)?;
        let now = clock::monotonic();
        meter.count(clock::thread_cpu().saturating_sub(started), late(head, now));
        send(connection, &message[..length])?;
        match receive(connection, &mut message)? {
            Some(next) => length = next,
            None => return Ok(()),
        }
    }
}

fn payload_of(message: &[u8], length: usize) -> Result<usize, Refused> {
    if length < FrameHead::LEN {
        return Err(Refused::Short(length));
    }
    // A message that did not fit is told by its true length.
    if length > message.len() {
        return Err(Refused::Size(length - FrameHead::LEN));
    }
    Ok(length - FrameHead::LEN)
}

/// One stream's model and scratch space.
struct Frames {
    denoiser: Denoiser,
    samples: Vec<f32>,
}

impl Frames {
    fn new(payload: usize) -> Result<Self, Refused> {
        let channels = channels(payload)?;
        Ok(Self { denoiser: Denoiser::new(channels), samples: vec![0.0; FRAME * channels] })
    }

    /// Replaces the samples in the message by denoised ones.
    fn answer(&mut self, message: &mut [u8], length: usize) -> Result<FrameHead, Refused> {
        let payload = payload_of(message, length)?;
        let (was, is) = (self.denoiser.channels(), channels(payload)?);
        if was != is {
            return Err(Refused::Channels { was, is });
        }
        let (head, _) = FrameHead::split(message).ok_or(Refused::Short(length))?;
        let payload = &mut message[FrameHead::LEN..length];
        for (sample, bytes) in self.samples.iter_mut().zip(payload.as_chunks::<2>().0) {
            *sample = f32::from(i16::from_le_bytes(*bytes));
        }
        self.denoiser.process(&mut self.samples);
        for (sample, bytes) in self.samples.iter().zip(payload.as_chunks_mut::<2>().0) {
            *bytes = to_i16(*sample).to_le_bytes();
        }
        Ok(head)
    }
}

/// Whether a frame that is finished at `now` missed its deadline.
fn late(head: FrameHead, now: u64) -> bool {
    head.deadline_us != 0
        && now > head.release_ns.saturating_add(u64::from(head.deadline_us) * 1000)
}

/// The next message's true length, which may exceed the buffer; nothing when the peer is gone.
fn receive(connection: &OwnedFd, buffer: &mut [u8]) -> Result<Option<usize>, Refused> {
    loop {
        match socket::recv(connection.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
            Ok(0) | Err(Errno::ECONNRESET) => return Ok(None),
            Ok(length) => return Ok(Some(length)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Refused::Socket("recv", errno)),
        }
    }
}

fn send(connection: &OwnedFd, message: &[u8]) -> Result<(), Refused> {
    loop {
        match socket::send(connection.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL) {
            // A peer that left before its answer is told by the next receive.
            Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Refused::Socket("send", errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_come_from_the_size_of_the_payload() {
        assert_eq!(channels(960), Ok(1));
        assert_eq!(channels(64 * 960), Ok(64));
        for wrong in [0, 1, 959, 961, 65 * 960] {
            assert_eq!(channels(wrong), Err(Refused::Size(wrong)));
        }
    }

    #[test]
    fn a_dead_workers_socket_is_replaced_and_a_file_never() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("speech.wav");
        fs::write(&file, "precious").unwrap();
        let error = listen(&file).unwrap_err().to_string();
        assert!(error.contains("in the way and not a socket of ours"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");

        let path = folder.path().join("mic.sock");
        drop(listen(&path).unwrap());
        let listener = listen(&path).unwrap();
        assert!(listen(&path).unwrap_err().to_string().contains("another worker"));
        drop(listener);
    }

    #[test]
    fn a_stream_keeps_its_number_of_channels() {
        let mut frames = Frames::new(960).unwrap();
        let mut message = vec![0; MAX_MESSAGE];
        assert!(frames.answer(&mut message, 16 + 960).is_ok());
        let refused = frames.answer(&mut message, 16 + 1920).unwrap_err();
        assert_eq!(refused, Refused::Channels { was: 1, is: 2 });
        assert_eq!(frames.answer(&mut message, 15).unwrap_err(), Refused::Short(15));
        let long = MAX_MESSAGE + 1;
        assert_eq!(frames.answer(&mut message, long).unwrap_err(), Refused::Size(long - 16));
    }

    #[test]
    fn a_frame_is_late_after_its_deadline_only() {
        let head = FrameHead { release_ns: 1_000_000, sequence: 0, deadline_us: 10 };
        assert!(!late(head, 1_010_000));
        assert!(late(head, 1_010_001));
        assert!(!late(FrameHead { deadline_us: 0, ..head }, u64::MAX));
        assert!(!late(FrameHead { release_ns: u64::MAX, ..head }, u64::MAX));
    }
}
