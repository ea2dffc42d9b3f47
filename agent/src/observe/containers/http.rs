//! One question to an engine over its Unix socket, bounded in size and time.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// The longest answer that is read, bytes: the inspection of a container with many mounts has some
/// ten thousand.
const MAX_ANSWER: usize = 1 << 20;

/// How long an engine may take, from the connection to the last byte.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why an engine said nothing useful.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("{socket}: {source}")]
    Connect {
        /// The engine's socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The engine took too long.
    #[error("{socket}: no answer within {} s; is the engine stuck?", PATIENCE.as_secs())]
    TooSlow {
        /// The engine's socket.
        socket: PathBuf,
    },
    /// The engine refused, as it does where it does not know the container.
    #[error("{socket}: GET {path}: HTTP {status}")]
    Status {
        /// The engine's socket.
        socket: PathBuf,
        /// What was asked.
        path: String,
        /// Its answer.
        status: u16,
    },
    /// The answer is not what the engine's documentation says, or too long.
    #[error("{socket}: GET {path}: {reason}")]
    Answer {
        /// The engine's socket.
        socket: PathBuf,
        /// What was asked.
        path: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

/// Asks for a JSON document.
///
/// # Errors
/// [`AskError`], which names the socket.
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, AskError> {
    let exchange = tokio::time::timeout(PATIENCE, exchange(socket, path)).await;
    let (status, body) = exchange.map_err(|_| AskError::TooSlow { socket: socket.into() })??;
    if status != 200 {
        return Err(AskError::Status { socket: socket.into(), path: path.into(), status });
    }
    serde_json::from_slice(&body).map_err(|error| wrong(socket, path, &error))
}

async fn exchange(socket: &Path, path: &str) -> Result<(u16, Bytes), AskError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| AskError::Connect { socket: socket.into(), source })?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| wrong(socket, path, &error))?;
    let request = Request::get(path)
        .header("Host", "localhost")
        .header("Connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| wrong(socket, path, &error))?;
    let answer = async {
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| wrong(socket, path, &error))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| wrong(socket, path, &*error))?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => return answer,
        // The connection is what moves the bytes; the answer may still lie in its hands.
        _ = connection => {}
    }
    answer.await
}

fn wrong(socket: &Path, path: &str, error: &(impl std::error::Error + ?Sized)) -> AskError {
    AskError::Answer { socket: socket.into(), path: path.into(), reason: error.to_string() }
}
