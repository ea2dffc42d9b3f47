//! Readiness and counters for whoever started this worker, in the manner of sd_notify(3).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::meter::Reading;

/// What a worker hears of its supervisor and says to it: a descriptor that can be read when SIGTERM
/// or SIGINT came, and the way back. To be called before any thread starts, so that all of them
/// leave these signals to the descriptor.
///
/// # Errors
/// When `NOTIFY_SOCKET` is no socket's address, or the kernel has no descriptors left.
pub fn supervised() -> anyhow::Result<(SignalFd, Notifier)> {
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    stop.add(Signal::SIGINT);
    stop.thread_block().context("pthread_sigmask")?;
    let signals = SignalFd::with_flags(&stop, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("signalfd")?;
    let notifier = Notifier::new(std::env::var_os("NOTIFY_SOCKET").as_deref())
        .context("NOTIFY_SOCKET: not the address of a socket")?;
    Ok((signals, notifier))
}

/// The way to the supervisor; says nothing where there is none.
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
}

impl Notifier {
    /// From the value of `NOTIFY_SOCKET`: a path, or an abstract name after `@`.
    ///
    /// # Errors
    /// When the value is not a socket's address.
    pub fn new(address: Option<&OsStr>) -> io::Result<Self> {
        let Some(address) = address.filter(|address| !address.is_empty()) else {
            return Ok(Self { to: None });
        };
        let to = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A supervisor that does not read must not stop the worker.
        socket.set_nonblocking(true)?;
        Ok(Self { to: Some((socket, to)) })
    }

    /// Ready for work.
    pub fn ready(&self) {
        self.send("READY=1\n");
    }

    /// On the way out.
    pub fn stopping(&self) {
        self.send("STOPPING=1\n");
    }

    /// How it goes. `STATUS` is for people, the `X_` fields are for the pool.
    pub fn status(&self, reading: &Reading, streams: usize) {
        self.send(&status_text(reading, streams));
    }

    fn send(&self, message: &str) {
        if let Some((socket, to)) = &self.to {
            // A lost status is followed by the next one; a dead supervisor ends this process by
            // other means.
            let _ = socket.send_to_addr(message.as_bytes(), to);
        }
    }
}

fn status_text(reading: &Reading, streams: usize) -> String {
    let Reading { frames, missed, compute } = reading;
    let mut text = format!(
        "STATUS={streams} streams, {frames} frames, {missed} missed\n\
         X_FRAMES={frames}\nX_MISSED={missed}\n"
    );
    if let Some((p50, p99)) = compute {
        text.push_str(&format!("X_COMPUTE_P50_NS={p50}\nX_COMPUTE_P99_NS={p99}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computing_time_is_absent_before_the_first_frame() {
        assert_eq!(
            status_text(&Reading::default(), 0),
            "STATUS=0 streams, 0 frames, 0 missed\nX_FRAMES=0\nX_MISSED=0\n"
        );
        let reading = Reading { frames: 7, missed: 1, compute: Some((5, 9)) };
        assert!(
            status_text(&reading, 1)
                .ends_with("X_FRAMES=7\nX_MISSED=1\nX_COMPUTE_P50_NS=5\nX_COMPUTE_P99_NS=9\n")
        );
    }

    #[test]
    fn messages_arrive_at_a_path_and_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("downbeat-test-{}", std::process::id());
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
                format!("@{name}").into(),
            ),
        ];
        for (socket, address) in sockets {
            Notifier::new(Some(&address)).unwrap().ready();
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1\n");
        }
    }

    #[test]
    fn without_a_supervisor_it_is_silent() {
        Notifier::new(None).unwrap().ready();
        Notifier::new(Some(OsStr::new("/nowhere/at/all"))).unwrap().ready();
    }
}
