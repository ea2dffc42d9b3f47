//! The agent's Unix socket: one line of JSON in, one line out (see `downbeat_api`).

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use downbeat_api::{HostFacts, Request, Response, Snapshot};
use nix::unistd::Group;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// The longest request; the real ones have a few dozen bytes.
const MAX_REQUEST: u64 = 4096;

/// Clients at a time; one more is told so.
const MAX_CLIENTS: usize = 64;

/// How long a client may take to read an answer before it is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the engine may take for a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// Whose members may connect, where the host has this group; else the agent's own group.
const GROUP: &str = "downbeat";

/// A request that only the engine can answer.
#[derive(Debug)]
pub struct Command {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Response>,
}

/// What the socket serves from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The latest snapshot.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Host facts.
    pub host: Arc<HostFacts>,
    /// The engine.
    pub commands: mpsc::Sender<Command>,
}

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The path does not fit into a socket address.
    #[error("{path}: a socket's path has at most 107 bytes; give a shorter --run-dir")]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Anything else.
    #[error("{path}: {source}; give --run-dir a folder that this user can write")]
    Unusable {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Opens the socket, for its owner and group alone. A socket that a killed predecessor left is
/// replaced: the caller holds the run directory's lock.
///
/// # Errors
/// [`BindError`] naming the path.
pub fn bind(path: &Path) -> Result<std::os::unix::net::UnixListener, BindError> {
    if path.as_os_str().len() > 107 {
        return Err(BindError::TooLong { path: path.into() });
    }
    let unusable = |source| BindError::Unusable { path: path.into(), source };
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        std::fs::remove_file(path).map_err(unusable)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(unusable)?;
    listener.set_nonblocking(true).map_err(unusable)?;
    if let Ok(Some(group)) = Group::from_name(GROUP) {
        // An agent that is not root can give the socket only to its own groups.
        let _ = nix::unistd::chown(path, None, Some(group.gid));
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(unusable)?;
    Ok(listener)
}

/// Serves clients until the task is dropped.
pub async fn serve(listener: UnixListener, sources: Sources) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: let others close theirs.
                tracing::warn!("accepting a client: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let sources = sources.clone();
        let place = Arc::clone(&places).try_acquire_owned();
        tokio::spawn(async move {
            let result = match place {
                Ok(_place) => serve_client(stream, sources).await,
                Err(_) => refuse(stream).await,
            };
            if let Err(error) = result {
                tracing::debug!("a client left: {error}");
            }
        });
    }
}

async fn refuse(stream: UnixStream) -> io::Result<()> {
    let (_, mut writer) = stream.into_split();
    let message = format!("{MAX_CLIENTS} clients are connected already; close one");
    answer(&mut writer, &Response::Error { message }).await
}

async fn serve_client(stream: UnixStream, sources: Sources) -> io::Result<()> {
    let may_change = may_change(&stream)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    while let Some(line) = read_line(&mut reader).await? {
        match serde_json::from_slice(&line) {
            Ok(Request::Watch) => return watch_snapshots(reader, writer, sources.snapshots).await,
            Ok(request) => {
                let response = respond(request, may_change, &sources).await;
                answer(&mut writer, &response).await?;
            }
            Err(error) => {
                let message = format!("a request that this agent does not understand: {error}");
                answer(&mut writer, &Response::Error { message }).await?;
            }
        }
    }
    Ok(())
}

async fn respond(request: Request, may_change: bool, sources: &Sources) -> Response {
    match request {
        Request::Snapshot => Response::Snapshot(Box::new((**sources.snapshots.borrow()).clone())),
        Request::Host => Response::Host(Box::new((*sources.host).clone())),
        Request::Pause | Request::Resume if !may_change => Response::Error {
            message: "only root and the agent's own user may pause and resume".into(),
        },
        request => ask_engine(request, &sources.commands).await,
    }
}

async fn ask_engine(request: Request, commands: &mpsc::Sender<Command>) -> Response {
    let (sender, receiver) = oneshot::channel();
    let exchange = async {
        commands.send(Command { request, answer: sender }).await.ok()?;
        receiver.await.ok()
    };
    match tokio::time::timeout(COMMAND_TIMEOUT, exchange).await {
        Ok(Some(response)) => response,
        Ok(None) => Response::Error { message: "the agent is stopping".into() },
        Err(_) => Response::Error {
            message: format!("the agent did not answer within {} s", COMMAND_TIMEOUT.as_secs()),
        },
    }
}

/// One snapshot now and one per tick, until the client closes or stops reading.
async fn watch_snapshots(
    mut reader: BufReader<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) -> io::Result<()> {
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        answer(&mut writer, &Response::Snapshot(Box::new((*snapshot).clone()))).await?;
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return Ok(()) },
            result = closed(&mut reader) => return result,
        }
    }
}

/// Waits until the client closes. What it still says is thrown away: it must not cost a snapshot.
async fn closed(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<()> {
    let mut rest = [0; 1024];
    while reader.read(&mut rest).await? > 0 {}
    Ok(())
}

/// One line without its end; nothing at the end of the stream. A line that is too long is an
/// error: what follows it cannot be told apart.
async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.take(MAX_REQUEST).read_until(b'\n', &mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a request without an end")),
    }
}

async fn answer(writer: &mut OwnedWriteHalf, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    tokio::time::timeout(WRITE_TIMEOUT, writer.write_all(&line)).await?
}

/// Reading is for everyone who may connect; changing is for root and for the agent's own user.
fn may_change(stream: &UnixStream) -> io::Result<bool> {
    let uid = stream.peer_cred()?.uid();
    Ok(uid == 0 || uid == nix::unistd::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watcher_that_talks_is_not_one_that_closes() {
        let (mut client, agent) = UnixStream::pair().unwrap();
        let (reader, _writer) = agent.into_split();
        let mut reader = BufReader::new(reader);
        client.write_all(&[b'y'; 5000]).await.unwrap();
        let patience = Duration::from_millis(50);
        assert!(tokio::time::timeout(patience, closed(&mut reader)).await.is_err());
        drop(client);
        closed(&mut reader).await.unwrap();
    }
}
