//! A program's own marks around its frames, as downbeat takes them on a datagram socket.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Sends marks, or nothing.
pub struct Marks {
    to: Option<(UnixDatagram, PathBuf)>,
}

impl Marks {
    /// Marks for the socket at `path`, which may be absent, come and go.
    pub fn to(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self { to: None });
        };
        let socket = UnixDatagram::unbound().context("socket")?;
        // A listener that does not read must not hold up a frame.
        socket.set_nonblocking(true).context("fcntl")?;
        Ok(Self { to: Some((socket, path.to_owned())) })
    }

    /// Frame `id` begins now.
    pub fn begin(&self, id: usize) {
        self.send("FRAME_BEGIN", id);
    }

    /// Frame `id` is done.
    pub fn end(&self, id: usize) {
        self.send("FRAME_END", id);
    }

    fn send(&self, what: &str, id: usize) {
        if let Some((socket, path)) = &self.to {
            // Nobody there, or nobody reading: the work goes on all the same.
            let _ = socket.send_to(format!("{what}={id}").as_bytes(), path);
        }
    }
}
