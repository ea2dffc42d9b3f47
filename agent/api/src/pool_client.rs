//! A blocking client of the pool's control socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::pool::{PoolRequest, PoolResponse};

/// What can go wrong between a client and the pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Nobody listens.
    #[error(
        "no pool at {path}: {source}. The agent starts one when /etc/downbeat/pool.d declares a \
         worker (`downbeat status` says why it does not); name another run directory with --run-dir"
    )]
    NoPool {
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
    #[error("{path}: the pool went away: {source}. Ask again: the agent starts it anew")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It is connected and says nothing.
    #[error("{path}: the pool did not answer within {seconds} s. Its log says what it is at")]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long this client waited.
        seconds: u64,
    },
    /// The pool said something that this client does not know.
    #[error(
        "{path}: an answer that this client does not understand ({reason}). Client and pool differ in version"
    )]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// The parser's reason.
        reason: String,
    },
    /// The pool refused.
    #[error("{0}")]
    Refused(String),
}

/// A connection to the pool.
#[derive(Debug)]
pub struct PoolClient {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    patience: Option<Duration>,
}

impl PoolClient {
    /// Connects to the control socket at `path`. Each answer may take `patience`; without it, for
    /// ever.
    ///
    /// # Errors
    /// [`PoolError::NoPool`] when nobody listens there, [`PoolError::Denied`] when the caller may
    /// not.
    pub fn connect(path: &Path, patience: Option<Duration>) -> Result<Self, PoolError> {
        let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => PoolError::Denied { path: path.into() },
            _ => PoolError::NoPool { path: path.into(), source },
        })?;
        let client = Self { path: path.into(), stream: BufReader::new(stream), patience };
        let set = client.stream.get_ref().set_read_timeout(patience);
        set.map_err(|source| client.broken(source))?;
        Ok(client)
    }

    /// Sends one request and waits for its answer. [`PoolResponse::Error`] becomes
    /// [`PoolError::Refused`].
    ///
    /// # Errors
    /// Any [`PoolError`].
    pub fn request(&mut self, request: &PoolRequest) -> Result<PoolResponse, PoolError> {
        let mut line = serde_json::to_vec(request).map_err(|e| self.garbled(e.to_string()))?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|source| self.broken(source))?;
        self.receive()
    }

    /// Waits for another answer to the same request.
    ///
    /// # Errors
    /// Any [`PoolError`].
    pub fn receive(&mut self) -> Result<PoolResponse, PoolError> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).map_err(|source| self.broken(source))?;
        if read == 0 {
            return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_str(&line) {
            Ok(PoolResponse::Error { message }) => Err(PoolError::Refused(message)),
            Ok(response) => Ok(response),
            Err(error) => Err(self.garbled(error.to_string())),
        }
    }

    /// An answer to another question.
    #[must_use]
    pub fn garbled(&self, reason: String) -> PoolError {
        PoolError::Garbled { path: self.path.clone(), reason }
    }

    fn broken(&self, source: io::Error) -> PoolError {
        let path = self.path.clone();
        let silent = matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        match self.patience {
            Some(patience) if silent => PoolError::Silent { path, seconds: patience.as_secs() },
            _ => PoolError::Broken { path, source },
        }
    }
}
