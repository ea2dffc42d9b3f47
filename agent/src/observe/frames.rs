//! Marks that programs set around their own frames: datagrams on a Unix socket, as
//! `docs/frames.md` describes them.
//!
//! Anyone may send. The kernel says who it was, so a program can mark only its own frames, and
//! what each may send is bounded before it is looked at.

mod datagram;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{PassCred, ReceiveTimestampns};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials,
    bind, recvmsg, setsockopt, socket,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

pub use datagram::MAX_ID;

/// Its name in the run directory.
pub const SOCKET_NAME: &str = "frames.sock";

/// The longest datagram; of a longer one nothing is taken.
pub const MAX_DATAGRAM: usize = 4096;

/// Datagrams read in one [`FrameSocket::drain`].
const BATCH: usize = 256;

/// Over this time …
const WINDOW_NS: u64 = 250_000_000;

/// … so many datagrams are read from everyone together. The rest waits in the kernel's short
/// queue, and when that is full, senders are told so.
const WINDOW_ALL: u32 = 4096;

/// … and so many are taken from one process: 2,000 frames a second with a datagram for each mark.
const WINDOW_EACH: u32 = 1000;

/// A sender may say that a mark was set earlier than the kernel got it, but not earlier than this.
const MAX_AGE_NS: u64 = 10_000_000_000;

/// A frame that begins or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The process that says so.
    pub pid: u32,
    /// The frame's name, unique among the frames of the process that are under way.
    pub id: Box<str>,
    /// Which of the two.
    pub kind: MarkKind,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub time_ns: u64,
}

/// Which end of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// It begins.
    Begin {
        /// The frame's own deadline, nanoseconds from here.
        deadline_ns: Option<u64>,
    },
    /// It is done.
    End,
}

/// What came in since the socket was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounters {
    /// Datagrams read.
    pub datagrams: u64,
    /// Marks taken from them.
    pub marks: u64,
    /// Lines that are no mark, and datagrams of which nothing could be taken.
    pub garbage: u64,
    /// Datagrams thrown away unread since their sender sent too many.
    pub refused: u64,
}

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum FrameSocketError {
    /// The path does not fit into a socket address.
    #[error("{path}: a socket's path has at most 107 bytes; give a shorter --run-dir")]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Anything else.
    #[error("{path}: {call}: {source}; give --run-dir a folder that this user can write")]
    Unusable {
        /// The path.
        path: PathBuf,
        /// What failed.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The receiving end. The socket's file goes when this is dropped.
#[derive(Debug)]
pub struct FrameSocket {
    socket: OwnedFd,
    path: PathBuf,
    control: Vec<u8>,
    counters: FrameCounters,
    window: Window,
}

impl FrameSocket {
    /// Opens the socket for everyone. One that a killed predecessor left is replaced: the caller
    /// holds the run directory's lock.
    ///
    /// # Errors
    /// [`FrameSocketError`] naming the path.
    pub fn bind(path: &Path) -> Result<Self, FrameSocketError> {
        let unusable = |call| {
            move |source: io::Error| FrameSocketError::Unusable { path: path.into(), call, source }
        };
        let of = |call| move |errno: Errno| unusable(call)(errno.into());
        let address =
            UnixAddr::new(path).map_err(|_| FrameSocketError::TooLong { path: path.into() })?;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket =
            socket(AddressFamily::Unix, SockType::Datagram, flags, None).map_err(of("socket"))?;
        // Before the first datagram can come, so that each has both.
        setsockopt(&socket, PassCred, &true).map_err(of("SO_PASSCRED"))?;
        setsockopt(&socket, ReceiveTimestampns, &true).map_err(of("SO_TIMESTAMPNS"))?;
        if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
            std::fs::remove_file(path).map_err(unusable("removing an old socket"))?;
        }
        bind(socket.as_raw_fd(), &address).map_err(of("bind"))?;
        let everyone = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(path, everyone).map_err(unusable("chmod"))?;
        Ok(Self {
            socket,
            path: path.into(),
            control: nix::cmsg_space!(UnixCredentials, TimeSpec),
            counters: FrameCounters::default(),
            window: Window::default(),
        })
    }

    /// Reads what has come, at most 256 datagrams, and adds the marks to `marks` in the order of
    /// their arrival. Returns whether the socket is worth waiting for: after a flood it is not,
    /// until the next call some tick later.
    ///
    /// # Errors
    /// What recvmsg(2) says, when it is not that nothing is there.
    pub fn drain(&mut self, marks: &mut Vec<Mark>) -> io::Result<bool> {
        let now = Now::read()?;
        self.window.move_to(now.monotonic_ns);
        let mut bytes = [0; MAX_DATAGRAM];
        for _ in 0..BATCH {
            if self.window.is_spent() {
                return Ok(false);
            }
            let (length, sender) = match self.receive(&mut bytes) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return Ok(true),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            self.counters.datagrams += 1;
            // No pid: a sender outside of this pid namespace, or descriptors came along.
            let Some(Sender { pid: Some(pid), stamp_ns }) = sender else {
                self.counters.garbage += 1;
                continue;
            };
            if !self.window.takes_from(pid) {
                self.counters.refused += 1;
                continue;
            }
            let received_ns = now.monotonic_of(stamp_ns);
            let before = marks.len();
            let garbage = datagram::parse(&bytes[..length], |told_ns, id, kind| {
                let time_ns = told_ns.unwrap_or(received_ns);
                let age = received_ns.checked_sub(time_ns).filter(|age| *age <= MAX_AGE_NS);
                age.map(|_| marks.push(Mark { pid, id: id.into(), kind, time_ns })).is_some()
            });
            self.counters.garbage += garbage;
            self.counters.marks += (marks.len() - before) as u64;
        }
        Ok(true)
    }

    /// What came in since the socket was opened.
    #[must_use]
    pub fn counters(&self) -> FrameCounters {
        self.counters
    }

    /// One datagram: its length and who sent it; without a sender when it was cut off.
    fn receive(&mut self, bytes: &mut [u8]) -> nix::Result<(usize, Option<Sender>)> {
        let mut slices = [IoSliceMut::new(bytes)];
        let control = Some(self.control.as_mut_slice());
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, control, flags)?;
        let mut sender = Sender::default();
        // There is room for these two alone, so the kernel drops descriptors that were sent along,
        // and what is cut short by them has no sender.
        for attached in message.cmsgs().into_iter().flatten() {
            match attached {
                ControlMessageOwned::ScmCredentials(credentials) => {
                    sender.pid = u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0);
                }
                ControlMessageOwned::ScmTimestampns(stamp) => sender.stamp_ns = nanoseconds(stamp),
                _ => {}
            }
        }
        let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
        Ok((message.bytes, whole.then_some(sender)))
    }
}

impl AsFd for FrameSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for FrameSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sender {
    pid: Option<u32>,
    /// `CLOCK_REALTIME` nanoseconds at which the kernel got the datagram; 0 where it does not say.
    stamp_ns: u64,
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Now {
    monotonic_ns: u64,
    realtime_ns: u64,
}

impl Now {
    fn read() -> nix::Result<Self> {
        let monotonic_ns = nanoseconds(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        let realtime_ns = nanoseconds(clock_gettime(ClockId::CLOCK_REALTIME)?);
        Ok(Self { monotonic_ns, realtime_ns })
    }

    /// A moment of the other clock on the monotonic one. A stamp that is in the future (it came
    /// while the queue was read) or long ago (the clock was set in between) is now.
    fn monotonic_of(self, stamp_ns: u64) -> u64 {
        let age = self.realtime_ns.checked_sub(stamp_ns).filter(|age| *age <= MAX_AGE_NS);
        self.monotonic_ns.saturating_sub(age.unwrap_or(0))
    }
}

fn nanoseconds(time: TimeSpec) -> u64 {
    let (seconds, rest) = (u64::try_from(time.tv_sec()), u64::try_from(time.tv_nsec()));
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(rest.unwrap_or(0))
}

/// How much was read lately.
#[derive(Debug, Default)]
struct Window {
    began_ns: u64,
    all: u32,
    each: HashMap<u32, u32>,
}

impl Window {
    fn move_to(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.began_ns) >= WINDOW_NS {
            *self = Self { began_ns: now_ns, ..Self::default() };
        }
    }

    fn is_spent(&self) -> bool {
        self.all >= WINDOW_ALL
    }

    fn takes_from(&mut self, pid: u32) -> bool {
        self.all += 1;
        let each = self.each.entry(pid).or_default();
        *each += 1;
        *each <= WINDOW_EACH
    }
}
