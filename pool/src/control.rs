//! The control socket: one line of JSON in, one line out; lines of a log that is followed go on
//! coming. Looking and changing are two rights, of two groups (see [`Rights`]).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use downbeat_api::peer::{Peer, Right, Rights};
use downbeat_api::pool::{PoolRequest, PoolResponse};
use nix::unistd::{Gid, chown};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::inference::Refusal;
use crate::logs::Logs;
use crate::metrics::status;
use crate::oip::Models;
use crate::paths::Paths;

/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 32;

/// The longest request.
const MAX_LINE: u64 = 64 * 1024;

/// A connection that asks nothing for so long is closed, and one that reads nothing.
const IDLE: Duration = Duration::from_secs(60);

/// How long a model that is drained may take for what it has before its client is told the rest.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// Between two looks at a model that is drained.
const LOOK: Duration = Duration::from_millis(20);

/// What requests are answered from.
#[derive(Clone, Debug)]
struct Sources {
    models: Models,
    logs: Logs,
    rights: Arc<Rights>,
}

/// Gives the socket to the group that may look, where the pool's user is in it.
pub fn give(paths: &Paths, rights: &Rights) {
    let (Ok(path), Some(group)) = (paths.control(), rights.readers()) else {
        return;
    };
    if let Err(errno) = chown(&path, None, Some(Gid::from_raw(group))) {
        debug!(
            "{}: giving it to the group with id {group}: {errno}; its members cannot connect",
            path.display()
        );
    }
}

/// Answers until the task is dropped.
pub async fn serve(listener: UnixListener, models: Models, logs: Logs, rights: Rights) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let sources = Sources { models, logs, rights: Arc::new(rights) };
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((connection, _)) => {
                let sources = sources.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    // A peer that went away is no event worth a line.
                    if let Ok(peer) = Peer::of(&connection) {
                        let right = sources.rights.of(&peer);
                        let _ = converse(connection, (peer.uid, right), &sources).await;
                    }
                });
            }
            Err(error) => {
                warn!("control socket: accept: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn converse(
    connection: UnixStream,
    (uid, right): (u32, Right),
    sources: &Sources,
) -> io::Result<()> {
    let (reader, mut writer) = connection.into_split();
    if right < Right::Read {
        let rights = sources.rights.words();
        return say(&mut writer, &error(&format!("uid {uid} may not look: {rights}"))).await;
    }
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(MAX_LINE);
        if timeout(IDLE, limited.read_until(b'\n', &mut line)).await?? == 0 {
            return Ok(());
        }
        if !line.ends_with(b"\n") && line.len() as u64 >= MAX_LINE {
            let message = format!("a request of more than {MAX_LINE} bytes");
            return say(&mut writer, &error(&message)).await;
        }
        let response = match serde_json::from_slice(&line) {
            Ok(PoolRequest::Logs { name, follow: true }) => {
                return follow(&name, reader, writer, sources).await;
            }
            Ok(request) if request.changes() && right < Right::Change => {
                let rights = sources.rights.words();
                error(&format!("uid {uid} may look and not change: {rights}"))
            }
            Ok(request) => {
                if request.changes() {
                    info!("asked by uid {uid}: {request:?}");
                }
                answer(request, sources).await.unwrap_or_else(|refusal| error(&refusal.to_string()))
            }
            Err(reason) => error(&format!(
                "not a request ({reason}); send one line like {{\"op\":\"status\"}}"
            )),
        };
        say(&mut writer, &response).await?;
    }
}

async fn say(writer: &mut OwnedWriteHalf, response: &PoolResponse) -> io::Result<()> {
    let mut text = serde_json::to_vec(response)?;
    text.push(b'\n');
    timeout(IDLE, writer.write_all(&text)).await?
}

fn error(message: &str) -> PoolResponse {
    PoolResponse::Error { message: message.into() }
}

async fn answer(request: PoolRequest, sources: &Sources) -> Result<PoolResponse, Refusal> {
    let models = &sources.models;
    Ok(match request {
        PoolRequest::Status => {
            // Sorting the last minute's times is no work for the thread that requests come by.
            let models = models.clone();
            let status = tokio::task::spawn_blocking(move || status::of(&models, Instant::now()));
            PoolResponse::Status(status.await.map_err(|it| Refusal::Failed(it.to_string()))?)
        }
        PoolRequest::Load { name } => {
            models.load(&name).await?;
            PoolResponse::Done { message: format!("model `{name}` takes requests") }
        }
        PoolRequest::Unload { name } => {
            models.unload(&name)?;
            PoolResponse::Done {
                message: format!("model `{name}` is unloaded when it has answered what it has"),
            }
        }
        PoolRequest::Drain { name } => PoolResponse::Done { message: drain(models, &name).await? },
        PoolRequest::Logs { name, follow: _ } => {
            let (lines, _) = sources.logs.after(&name, 0);
            if lines.is_empty() {
                models.is_worker(&name)?;
            }
            PoolResponse::Logs { lines }
        }
        PoolRequest::Labels { name } => PoolResponse::Labels { labels: models.labels(&name) },
    })
}

/// Keeps new requests from a model and waits for those that are there.
async fn drain(models: &Models, name: &str) -> Result<String, Refusal> {
    models.drain(name)?;
    let until = Instant::now() + DRAIN_LIMIT;
    loop {
        let load = models.backend().dispatcher.load(name).unwrap_or_default();
        let (waiting, running) = (load.waiting + load.background, load.running);
        let undo = format!("`downbeat pool load {name}` lets requests in again");
        if waiting + running == 0 {
            return Ok(format!("model `{name}` is drained: it has answered all it had; {undo}"));
        }
        if Instant::now() >= until {
            return Ok(format!(
                "model `{name}` takes no new request and has {waiting} waiting and {running} \
                 running after {} s; {undo}",
                DRAIN_LIMIT.as_secs()
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Tells what there is of a worker's log, and what comes, until the client closes.
async fn follow(
    name: &str,
    mut reader: BufReader<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
    sources: &Sources,
) -> io::Result<()> {
    let mut changes = sources.logs.changes();
    let (lines, mut last) = sources.logs.after(name, 0);
    if lines.is_empty()
        && let Err(refusal) = sources.models.is_worker(name)
    {
        return say(&mut writer, &error(&refusal.to_string())).await;
    }
    say(&mut writer, &PoolResponse::Logs { lines }).await?;
    let mut nothing = [0; 64];
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
            read = reader.read(&mut nothing) => if read? == 0 { return Ok(()) },
        }
        let (lines, now) = sources.logs.after(name, last);
        last = now;
        if !lines.is_empty() {
            say(&mut writer, &PoolResponse::Logs { lines }).await?;
        }
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
