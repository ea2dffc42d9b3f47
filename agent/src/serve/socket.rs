//! The agent's Unix socket: one line of JSON in, one line out (see `downbeat_api`).

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use downbeat_api::peer::{Peer, Right, Rights};
use downbeat_api::{HostFacts, LONGEST_REQUEST, Request, Response};
use nix::unistd::Gid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::onlookers::{View, Watching};
use super::places::{Place, Places};
use crate::act::Kernel;
use crate::plan::{Wishes, whole};
use crate::roots::Roots;

/// How long a client may take to read an answer before it is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client may take to say the next request as a whole: half a line keeps no place.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the engine may take for a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// A request that only the engine can answer.
#[derive(Debug)]
pub struct Command {
    /// What is asked.
    pub request: Request,
    /// Who asks.
    pub by_uid: u32,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
}

/// What the engine answers.
#[derive(Debug)]
pub enum Answer {
    /// This.
    Response(Response),
    /// To [`Request::Plan`]: what is wanted. What there is now is read here.
    Plan(Box<Wishes>),
}

/// What the socket serves from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The picture.
    pub view: View,
    /// Host facts.
    pub host: Arc<HostFacts>,
    /// The engine.
    pub commands: mpsc::Sender<Command>,
    /// Reads what levers are, for plans.
    pub kernel: Arc<Kernel>,
    /// Where the kernel's files are.
    pub roots: Roots,
    /// Who may do what.
    pub rights: Arc<Rights>,
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

/// Opens the socket, for its owner and the group that may read. A socket that a killed predecessor
/// left is replaced: the caller holds the run directory's lock.
///
/// # Errors
/// [`BindError`] naming the path.
pub fn bind(path: &Path, rights: &Rights) -> Result<std::os::unix::net::UnixListener, BindError> {
    if path.as_os_str().len() > 107 {
        return Err(BindError::TooLong { path: path.into() });
    }
    let unusable = |source| BindError::Unusable { path: path.into(), source };
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        std::fs::remove_file(path).map_err(unusable)?;
    }
    // Whoever connects before the mode is set is asked for rights like everyone else.
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(unusable)?;
    listener.set_nonblocking(true).map_err(unusable)?;
    let mut mode = 0o600;
    if let Some(group) = rights.readers() {
        // An agent that is not root can give the socket only to its own groups.
        match nix::unistd::chown(path, None, Some(Gid::from_raw(group))) {
            Ok(()) => mode = 0o660,
            Err(errno) => tracing::warn!(
                "{}: giving it to the group with id {group}: {errno}; only this user and root can \
                 connect",
                path.display()
            ),
        }
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(unusable)?;
    Ok(listener)
}

/// Serves clients until the task is dropped.
pub async fn serve(listener: UnixListener, sources: Sources) {
    let places = Arc::new(Places::default());
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
        let admitted = admit(&stream, &sources.rights, &places);
        tokio::spawn(async move {
            let result = match admitted {
                Ok(client) => serve_client(stream, client, sources).await,
                Err(message) => refuse(stream, message).await,
            };
            if let Err(error) = result {
                tracing::debug!("a client left: {error}");
            }
        });
    }
}

/// One that may connect.
#[derive(Debug)]
struct Client {
    uid: u32,
    right: Right,
    place: Place,
}

fn admit(stream: &UnixStream, rights: &Rights, places: &Arc<Places>) -> Result<Client, String> {
    let peer = Peer::of(stream).map_err(|error| format!("asking who you are: {error}"))?;
    let right = rights.of(&peer);
    if right < Right::Read {
        return Err(format!("uid {} may not use this socket: {}", peer.uid, rights.words()));
    }
    let place = places.take(peer.uid, rights.is_own(&peer), Instant::now())?;
    Ok(Client { uid: peer.uid, right, place })
}

async fn refuse(stream: UnixStream, message: String) -> io::Result<()> {
    let (_, mut writer) = stream.into_split();
    answer(&mut writer, &Response::Error { message }).await
}

async fn serve_client(stream: UnixStream, client: Client, mut sources: Sources) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let line = match tokio::time::timeout(READ_TIMEOUT, read_line(&mut reader)).await?? {
            Line::Whole(line) => line,
            Line::TooLong => {
                let message = format!(
                    "a request of more than {LONGEST_REQUEST} bytes: what follows it cannot be \
                     told apart, so this connection ends"
                );
                answer(&mut writer, &Response::Error { message }).await?;
                // What is still to come would have the kernel throw the answer away.
                return tokio::time::timeout(WRITE_TIMEOUT, closed(&mut reader)).await?;
            }
            Line::End => return Ok(()),
        };
        let Some(wait) = client.place.turn(Instant::now()) else {
            let message = format!("uid {} asks too much at a time; ask again later", client.uid);
            return answer(&mut writer, &Response::Error { message }).await;
        };
        tokio::time::sleep(wait).await;
        match Request::decode(&line) {
            Ok(Request::Watch) => {
                return watch_snapshots(reader, writer, sources.view.watch()).await;
            }
            Ok(request) => {
                let response = respond(request, &client, &mut sources).await;
                answer(&mut writer, &response).await?;
            }
            Err(error) => {
                let message = error.to_string();
                answer(&mut writer, &Response::Error { message }).await?;
            }
        }
    }
}

async fn respond(request: Request, client: &Client, sources: &mut Sources) -> Response {
    match request {
        Request::Snapshot => Response::Snapshot(Box::new((*sources.view.fresh().await).clone())),
        Request::Host => Response::Host(Box::new((*sources.host).clone())),
        request if request.changes() && client.right < Right::Change => Response::Error {
            message: format!(
                "uid {} may look and not change: {}",
                client.uid,
                sources.rights.words()
            ),
        },
        request => ask_engine(request, client.uid, sources).await,
    }
}

async fn ask_engine(request: Request, by_uid: u32, sources: &Sources) -> Response {
    let (sender, receiver) = oneshot::channel();
    let exchange = async {
        sources.commands.send(Command { request, by_uid, answer: sender }).await.ok()?;
        receiver.await.ok()
    };
    match tokio::time::timeout(COMMAND_TIMEOUT, exchange).await {
        Ok(Some(Answer::Response(response))) => response,
        Ok(Some(Answer::Plan(wishes))) => make_plan(*wishes, sources.clone()).await,
        Ok(None) => Response::Error { message: "the agent is stopping".into() },
        Err(_) => Response::Error {
            message: format!("the agent did not answer within {} s", COMMAND_TIMEOUT.as_secs()),
        },
    }
}

/// Reads what thousands of values are now beside the other clients.
async fn make_plan(wishes: Wishes, sources: Sources) -> Response {
    let make = move || {
        let groups = sources.kernel.where_groups_would_lie();
        whole(&wishes, &sources.host, &sources.roots, &sources.kernel, groups)
    };
    match tokio::task::spawn_blocking(make).await {
        Ok(plan) => Response::Plan(Box::new(plan)),
        Err(error) => Response::Error { message: format!("making the plan: {error}") },
    }
}

/// One snapshot now and one per tick, until the client closes or stops reading.
async fn watch_snapshots(
    mut reader: BufReader<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
    mut watching: Watching,
) -> io::Result<()> {
    let mut snapshot = watching.fresh().await;
    loop {
        answer(&mut writer, &Response::Snapshot(Box::new((*snapshot).clone()))).await?;
        snapshot = tokio::select! {
            next = watching.next() => match next {
                Some(next) => next,
                None => return Ok(()),
            },
            result = closed(&mut reader) => return result,
        };
    }
}

/// Waits until the client closes. What it still says is thrown away: it must not cost a snapshot.
async fn closed(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<()> {
    let mut rest = [0; 1024];
    while reader.read(&mut rest).await? > 0 {}
    Ok(())
}

/// What was read as a request.
enum Line {
    /// Without its end.
    Whole(Vec<u8>),
    /// What follows it cannot be told apart.
    TooLong,
    /// The stream ended, or with half a line.
    End,
}

async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Line> {
    let mut line = Vec::new();
    let read = reader.take(LONGEST_REQUEST).read_until(b'\n', &mut line).await?;
    match line.pop() {
        Some(b'\n') => Ok(Line::Whole(line)),
        Some(_) if read as u64 == LONGEST_REQUEST => Ok(Line::TooLong),
        _ => Ok(Line::End),
    }
}

async fn answer(writer: &mut OwnedWriteHalf, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    tokio::time::timeout(WRITE_TIMEOUT, writer.write_all(&line)).await?
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
