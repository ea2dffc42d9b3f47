//! Waiting to a microsecond: the runtime's own timer counts milliseconds.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn now_ns() -> u64 {
    let now = clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// One timer.
pub struct Timer(AsyncFd<Descriptor>);

/// A timer as the runtime wants it.
struct Descriptor(TimerFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    /// Within a runtime.
    pub fn new() -> Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).context("timerfd_create")?;
        // SAFETY: the timer owns its descriptor and always gives that same one; it lives in the
        // `AsyncFd` from here on, so it is not closed while registered.
        let registered =
            unsafe { AsyncFd::register_with_interest(Descriptor(timer), Interest::READABLE) };
        Ok(Self(registered.context("epoll_ctl")?))
    }

    /// Waits until then; at once where it has passed.
    pub async fn until(&mut self, ns: u64) -> Result<()> {
        if now_ns() >= ns {
            return Ok(());
        }
        let at = Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(ns)));
        let timer = &self.0.get_ref().0;
        timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME).context("timerfd_settime")?;
        loop {
            let mut guard = self.0.readable().await.context("epoll_wait")?;
            let mut count = [0; 8];
            match nix::unistd::read(timer.as_fd(), &mut count) {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EAGAIN) => guard.clear_ready(),
                Err(errno) => return Err(errno).context("read of a timer"),
            }
        }
    }
}
