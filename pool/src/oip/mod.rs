//! The Open Inference Protocol (KServe v2) over REST and gRPC, with the extensions that Triton has
//! and its clients use: binary tensors, statistics, the model repository and streams.
//!
//! Both servers make [`crate::inference::Request`]s and ask [`models::Models`], the one door to
//! the rest of the pool.

mod elements;
mod grpc;
pub(crate) mod listen;
mod models;
mod parameters;
mod repository;
mod rest;
pub mod shared;
mod sound;
pub mod statistics;
mod trace;
mod watch;

use std::path::PathBuf;
use std::time::SystemTime;

use bytes::Bytes;
use tracing::warn;

use crate::inference::{Refusal, Request, Terms};
use crate::run::Servers;
use crate::wyoming::Door;
use listen::Listener;
pub use listen::Places;
pub use models::{Backend, Models};

/// Name in the server's metadata.
const SERVER_NAME: &str = "downbeat-pool";

/// What the servers have beyond the protocol's core, by Triton's names.
const EXTENSIONS: [&str; 6] = [
    "binary_tensor_data",
    "parameters",
    "sequence",
    "schedule_policy",
    "statistics",
    "model_repository",
];

/// Reads the body of an inference request over REST as its server does, of which `json` bytes are
/// JSON where the client says so.
///
/// # Errors
/// [`Refusal::Invalid`], [`Refusal::TooLarge`].
pub fn read_rest(json: Option<usize>, body: &Bytes) -> Result<Request, Refusal> {
    let parsed = rest::parse("model".into(), None, json, body, Terms::of("client"))?;
    Ok(parsed.request)
}

/// Reads a `ModelInferRequest` as the gRPC server does.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn read_grpc(message: Bytes) -> Result<Request, Refusal> {
    grpc::parse(message, Terms::of("client"))
}

/// What of a message is told: it may name what the client sent, which may be megabytes.
fn told(message: &str) -> &str {
    const MOST: usize = 4 << 10;
    &message[..message.floor_char_boundary(MOST)]
}

/// Starts the servers. One that gets no place is left out and said so; the pool goes on.
pub async fn serve(backend: Backend, places: Places) -> Servers {
    let mut servers = Servers::default();
    let models = Models::new(backend);
    let mut keep = |found: Result<Listener, String>| match found {
        Ok(listener) => Some(listener),
        Err(problem) => {
            warn!("{problem}");
            servers.problems.push(problem);
            None
        }
    };
    let mut rest: Vec<Listener> = Vec::new();
    let mut grpc: Vec<Listener> = Vec::new();
    let unix = |path: Option<PathBuf>| path.map(|path| listen::unix(&path));
    rest.extend(unix(places.rest_socket).and_then(&mut keep));
    grpc.extend(unix(places.grpc_socket).and_then(&mut keep));
    let (mut rest_address, mut grpc_address) = (None, None);
    if let Some(address) = places.rest {
        let found = listen::tcp("--rest", address).await;
        rest.extend(keep(found.map(|(listener, address)| {
            rest_address = Some(address);
            listener
        })));
    }
    if let Some(address) = places.grpc {
        let found = listen::tcp("--grpc", address).await;
        grpc.extend(keep(found.map(|(listener, address)| {
            grpc_address = Some(address);
            listener
        })));
    }
    servers.wyoming = Door::new(places.wyoming, places.wyoming_socket, models.clone());
    for listener in rest {
        tokio::spawn(rest::serve(listener, models.clone()));
    }
    for listener in grpc {
        tokio::spawn(grpc::serve(listener, models.clone()));
    }
    (servers.rest, servers.grpc) = (rest_address, grpc_address);
    servers
}

/// Milliseconds since 1970, as the protocol's statistics have it; 0 for never.
fn since_epoch_ms(time: Option<SystemTime>) -> u64 {
    let since = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
