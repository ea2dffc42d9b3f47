//! What lets a load's thread go on: each way that periodic programs wait on Linux.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use downbeat_tests::clock::{now_ns, sleep_until};
use downbeat_tests::threads::Scheduling;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::offspring::Offspring;
use crate::schedule::Schedule;

/// The sender stands for a device, whose interrupt is not scheduled and so never late.
const DEVICE_PRIORITY: u32 = 80;
/// A sender that is silent for longer is gone.
const SILENCE: Duration = Duration::from_secs(10);
const STAMP: usize = size_of::<u64>();
/// The sender's last word: no release has this time.
const OVER: u64 = 0;

/// How the thread waits for its next job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// read(2) of a timerfd: its own interval, or armed anew for each job where jobs are skipped
    Timerfd,
    /// clock_nanosleep(2) until an absolute time
    Nanosleep,
    /// The time-out of ppoll(2), computed anew for each job
    Poll,
    /// The time-out of epoll_pwait2(2), computed anew for each job
    Epoll,
    /// A pipe that another process writes to
    Pipe,
    /// A UDP datagram on loopback from another process
    Socket,
    /// clock_nanosleep(2) with exponential gaps around the period: no period at all
    Poisson,
}

/// Where releases come from.
pub struct Source {
    schedule: Schedule,
    how: How,
}

enum How {
    Sleep,
    /// Expirations of an interval timer that are still to be worked off.
    Interval(TimerFd, u64),
    OneShot(TimerFd),
    Poll(EventFd),
    /// With the descriptor that it watches, to keep that open.
    Epoll {
        epoll: Epoll,
        _silent: EventFd,
    },
    Pipe(File, Offspring),
    Socket(UdpSocket, Offspring),
}

impl Source {
    /// Releases by `schedule`. Pipe and socket start their sender here, of the priority of a
    /// device unless `ordinary`.
    pub fn new(via: Via, schedule: Schedule, ordinary: bool) -> Result<Self> {
        let how = match via {
            Via::Nanosleep | Via::Poisson => How::Sleep,
            Via::Timerfd => timer(&schedule)?,
            Via::Poll => How::Poll(EventFd::new().context("eventfd")?),
            Via::Epoll => {
                let (epoll, silent) = (
                    Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll_create1")?,
                    EventFd::new().context("eventfd")?,
                );
                epoll.add(&silent, EpollEvent::new(EpollFlags::EPOLLIN, 0)).context("epoll_ctl")?;
                How::Epoll { epoll, _silent: silent }
            }
            Via::Pipe => {
                let (read, write) = nix::unistd::pipe().context("pipe")?;
                let mut write = File::from(write);
                let schedule = schedule.clone();
                let sender = Offspring::start("sender", move || {
                    send(schedule, ordinary, |stamp| write.write_all(stamp).context("the pipe"))
                })?;
                How::Pipe(File::from(read), sender)
            }
            Via::Socket => {
                let any = (Ipv4Addr::LOCALHOST, 0);
                let socket = UdpSocket::bind(any).context("127.0.0.1: binding a socket")?;
                socket.set_read_timeout(Some(SILENCE)).context("SO_RCVTIMEO")?;
                let to = socket.local_addr().context("getsockname")?;
                let schedule = schedule.clone();
                let sender = Offspring::start("sender", move || {
                    let from = UdpSocket::bind(any).context("127.0.0.1: binding a socket")?;
                    from.connect(to).with_context(|| format!("{to}: connecting"))?;
                    send(schedule, ordinary, |stamp| {
                        from.send(stamp).map(drop).with_context(|| format!("{to}: sending"))
                    })
                })?;
                How::Socket(socket, sender)
            }
        };
        Ok(Self { schedule, how })
    }

    /// The sending process, where there is one.
    pub fn sender(&self) -> Option<u32> {
        match &self.how {
            How::Pipe(_, sender) | How::Socket(_, sender) => Some(sender.pid()),
            _ => None,
        }
    }

    /// Waits for the next release; when it was due. Nothing when it was the last one.
    pub fn wait(&mut self) -> Result<Option<u64>> {
        match &mut self.how {
            How::Pipe(pipe, _) => return told(|stamp| pipe.read_exact(stamp)),
            How::Socket(socket, _) => {
                return told(|stamp| match socket.recv(stamp)? {
                    STAMP => Ok(()),
                    _ => Err(ErrorKind::UnexpectedEof.into()),
                });
            }
            _ => {}
        }
        let Some(at) = self.schedule.next() else {
            return Ok(None);
        };
        match &mut self.how {
            How::Interval(timer, due) => {
                if *due == 0 {
                    *due = expirations(timer)?;
                }
                *due = due.saturating_sub(1);
            }
            How::OneShot(timer) => {
                let at = Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(at)));
                timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME).context("timerfd_settime")?;
                expirations(timer)?;
            }
            How::Poll(silent) => {
                time_out(at, "ppoll", |left| {
                    let mut fds = [PollFd::new(silent.as_fd(), PollFlags::POLLIN)];
                    ppoll(&mut fds, Some(left), None)
                })?;
            }
            How::Epoll { epoll, .. } => {
                time_out(at, "epoll_pwait2", |left| epoll_pwait2(epoll, &left))?;
            }
            How::Sleep | How::Pipe(..) | How::Socket(..) => sleep_until(at),
        }
        Ok(Some(at))
    }
}

/// An interval timer where every gap is the same, else one to be armed for each job.
fn timer(schedule: &Schedule) -> Result<How> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)
        .context("timerfd_create")?;
    let Some(interval) = schedule.interval() else {
        return Ok(How::OneShot(timer));
    };
    let first = schedule.clone().next().unwrap_or_else(now_ns);
    let spec = |ns| TimeSpec::from_duration(Duration::from_nanos(ns));
    timer
        .set(
            Expiration::IntervalDelayed(spec(first), spec(interval)),
            TimerSetTimeFlags::TFD_TIMER_ABSTIME,
        )
        .context("timerfd_settime")?;
    Ok(How::Interval(timer, 0))
}

/// Waits for the timer and says how often it expired.
fn expirations(timer: &TimerFd) -> Result<u64> {
    let mut count = [0; STAMP];
    loop {
        match nix::unistd::read(timer, &mut count) {
            Ok(_) => return Ok(u64::from_ne_bytes(count)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("reading a timerfd"),
        }
    }
}

/// Waits by a relative time-out until the absolute time has come, as event loops do.
fn time_out(
    at: u64,
    call: &'static str,
    mut wait: impl FnMut(TimeSpec) -> nix::Result<libc::c_int>,
) -> Result<()> {
    loop {
        let now = now_ns();
        if now >= at {
            return Ok(());
        }
        let left = TimeSpec::from_duration(Duration::from_nanos(at - now));
        match wait(left) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => bail!("{call}: a descriptor is ready that nobody writes to"),
            Err(errno) => return Err(errno).context(call),
        }
    }
}

/// As `epoll_wait`, with a time-out in nanoseconds (Linux 5.11).
fn epoll_pwait2(epoll: &Epoll, left: &TimeSpec) -> nix::Result<libc::c_int> {
    let mut event = EpollEvent::empty();
    // SAFETY: the kernel writes at most one event, for which there is room, and reads `left`, a
    // `timespec`; without a signal mask its size is not looked at.
    let ready = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.0.as_raw_fd(),
            (&raw mut event).cast::<libc::epoll_event>(),
            1,
            std::ptr::from_ref(left.as_ref()),
            std::ptr::null::<libc::sigset_t>(),
            0,
        )
    };
    // The result is a count of at most one, or -1.
    Errno::result(ready as libc::c_int)
}

/// Takes one stamp; nothing when it is the sender's last word.
fn told(mut take: impl FnMut(&mut [u8; STAMP]) -> io::Result<()>) -> Result<Option<u64>> {
    let mut stamp = [0; STAMP];
    loop {
        match take(&mut stamp) {
            Ok(()) => {
                let at = u64::from_ne_bytes(stamp);
                return Ok((at != OVER).then_some(at));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(error).context("the sender went silent before its last release");
            }
        }
    }
}

/// The sender: a stamp at each release, and a last word.
fn send(
    schedule: Schedule,
    ordinary: bool,
    mut give: impl FnMut(&[u8; STAMP]) -> Result<()>,
) -> Result<()> {
    if !ordinary {
        Scheduling::fifo(DEVICE_PRIORITY).apply(0).context(
            "sched_setattr: the sender cannot become SCHED_FIFO 80, which stands for a device's \
             interrupt. Run as root, or with --ordinary",
        )?;
    }
    for at in schedule {
        sleep_until(at);
        give(&now_ns().to_ne_bytes())?;
    }
    give(&OVER.to_ne_bytes())
}
