//! Signals as things to wait for, so that whatever ends a command, it puts everything in order.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Takes SIGINT, SIGTERM, SIGHUP and SIGQUIT from now on. A program started later inherits the
/// mask: `die_with_this_thread` clears it.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// To be called before any thread is started: a thread inherits the mask.
    pub fn take() -> Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
            set.add(signal);
        }
        set.thread_block().context("sigprocmask")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = SignalFd::with_flags(&set, flags).context("signalfd")?;
        Ok(Self { fd })
    }

    /// Waits for `time`; an error as soon as a signal comes.
    pub fn sleep(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // Rounded up, so that the last millisecond is not spun away.
            let millis = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(millis)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("poll"),
            }
            if let Some(info) = self.fd.read_signal().context("signalfd: reading")? {
                let name = i32::try_from(info.ssi_signo)
                    .ok()
                    .and_then(|number| Signal::try_from(number).ok())
                    .map_or("a signal", Signal::as_str);
                bail!("ended by {name}");
            }
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }
}
