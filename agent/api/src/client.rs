//! A blocking client of the agent's socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Request, Response, Snapshot};

/// How long one answer may take before the agent counts as hung.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What can go wrong between a client and the agent.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent at {path}: {source}. Start one with `systemctl start downbeatd` or `downbeatd`, \
         or name its run directory with --run-dir"
    )]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The socket is there, and this user may not use it.
    #[error("{path}: permission denied. Join the group that owns the socket, or run as root")]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke.
    #[error("{path}: the agent went away: {source}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It is connected and says nothing.
    #[error(
        "{path}: the agent did not answer within {seconds} s. Ask again; if it hangs, restart it: \
         the next start puts everything back first"
    )]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long this client waited.
        seconds: u64,
    },
    /// The agent said something that this client does not know.
    #[error(
        "{path}: an answer that this client does not understand ({reason}). Client and agent differ in version"
    )]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// The parser's reason.
        reason: String,
    },
    /// The agent refused.
    #[error("{0}")]
    Refused(String),
}

/// A connection to the agent.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the agent's socket at `path`.
    ///
    /// # Errors
    /// [`ClientError::NoAgent`] when nobody listens there, [`ClientError::Denied`] when the
    /// caller may not.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied { path: path.into() },
            _ => ClientError::NoAgent { path: path.into(), source },
        })?;
        let client = Self { path: path.into(), stream: BufReader::new(stream) };
        client
            .stream
            .get_ref()
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .map_err(|source| client.broken(source))?;
        Ok(client)
    }

    /// Sends one request and waits for its answer. [`Response::Error`] becomes
    /// [`ClientError::Refused`].
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn request(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.send(request)?;
        self.receive()
    }

    /// The latest snapshot.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn snapshot(&mut self) -> Result<Snapshot, ClientError> {
        match self.request(&Request::Snapshot)? {
            Response::Snapshot(snapshot) => Ok(*snapshot),
            other => Err(self.garbled(format!("asked for a snapshot, got {other:?}"))),
        }
    }

    /// Turns the connection into a stream of snapshots, one per tick.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn watch(mut self) -> Result<Watch, ClientError> {
        self.send(&Request::Watch)?;
        Ok(Watch { client: self })
    }

    fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|e| self.garbled(e.to_string()))?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|source| self.broken(source))
    }

    fn receive(&mut self) -> Result<Response, ClientError> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).map_err(|source| self.broken(source))?;
        if read == 0 {
            return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_str(&line) {
            Ok(Response::Error { message }) => Err(ClientError::Refused(message)),
            Ok(response) => Ok(response),
            Err(e) => Err(self.garbled(e.to_string())),
        }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        if matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            let seconds = ANSWER_TIMEOUT.as_secs();
            return ClientError::Silent { path: self.path.clone(), seconds };
        }
        ClientError::Broken { path: self.path.clone(), source }
    }

    fn garbled(&self, reason: String) -> ClientError {
        ClientError::Garbled { path: self.path.clone(), reason }
    }
}

/// A stream of snapshots; it ends with the first error.
#[derive(Debug)]
pub struct Watch {
    client: Client,
}

impl Iterator for Watch {
    type Item = Result<Snapshot, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.client.receive().and_then(|response| match response {
            Response::Snapshot(snapshot) => Ok(*snapshot),
            other => Err(self.client.garbled(format!("watching, got {other:?}"))),
        }))
    }
}
