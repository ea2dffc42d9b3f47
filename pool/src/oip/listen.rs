//! Listening and connections, for both servers: on TCP or a Unix socket, so many connections at a
//! time, and none kept by a peer that reads nothing.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tracing::{info, warn};

/// Connections of one server at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;

/// A peer that takes nothing of its answer for so long is given up.
const STALLED: Duration = Duration::from_secs(30);

/// After an error of accept(2) that will not go away at once, as a full descriptor table.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a server listens.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

/// Who is at the other end of a connection, for limits per client: an address without its port, or
/// a user. Programs of one machine that come by TCP are one peer unless they give themselves names
/// (`x-downbeat-client`); a name belongs to its peer, so no peer can use up another's share.
#[derive(Clone, Debug)]
pub struct Peer {
    name: Arc<str>,
    user: Option<u32>,
}

impl Peer {
    /// Longest name that a client may give itself.
    const MAX_NAME: usize = 64;

    /// The peer's name for limits, with the name that the client gave itself.
    pub fn client(&self, name: Option<&str>) -> String {
        let plain = |name: &&str| {
            let fits = (1..=Self::MAX_NAME).contains(&name.len());
            fits && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        match name.filter(plain) {
            Some(name) => format!("{}/{name}", self.name),
            None => self.name.to_string(),
        }
    }

    /// Whose process it is: the kernel says so of a Unix socket, and nobody does of TCP.
    pub fn user(&self) -> Option<u32> {
        self.user
    }

    pub(super) fn of_user(user: Option<u32>) -> Self {
        let name = user.map_or("uid:unknown".into(), |user| format!("uid:{user}"));
        Self { name: name.into(), user }
    }

    pub(super) fn of_address(address: SocketAddr) -> Self {
        Self { name: address.ip().to_canonical().to_string().into(), user: None }
    }
}

/// Listens on an address.
///
/// # Errors
/// The kernel's, in words, with the remedy.
pub async fn tcp(option: &str, address: SocketAddr) -> Result<(Listener, String), String> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        format!(
            "{option} {address}: {error}; give another address or `{option} off` (`ss -ltnp` shows \
             who has it)"
        )
    })?;
    let address = listener.local_addr().unwrap_or(address);
    info!("{option}: listens on {address}");
    if !address.ip().is_loopback() {
        warn!("{option}: {address} is open to the network, and nobody is asked who they are");
    }
    Ok((Listener::Tcp(listener), address.to_string()))
}

/// Listens on a Unix socket in the pool's folder, which no other pool serves at the time (its
/// control socket says so). What a killed pool left is replaced.
///
/// # Errors
/// The kernel's, in words.
pub fn unix(path: &Path) -> Result<Listener, String> {
    let failed = |error: io::Error| {
        format!("{}: {error}; the folder must belong to the pool's user", path.display())
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Whoever may enter the folder may ask for inference, as over loopback.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    info!("listens on {}", path.display());
    Ok(Listener::Unix(listener))
}

/// Takes connections, as many at a time as there may be.
#[derive(Debug)]
pub struct Accept {
    listener: Listener,
    free: Arc<Semaphore>,
}

impl Accept {
    /// From this listener.
    pub fn new(listener: Listener) -> Self {
        Self { listener, free: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }

    /// The next connection.
    pub async fn next(&self) -> Connection {
        loop {
            let permit = Arc::clone(&self.free).acquire_owned().await.ok();
            let accepted = match &self.listener {
                Listener::Tcp(listener) => listener.accept().await.map(|(stream, from)| {
                    // Without it, the end of an answer waits for the client's acknowledgement.
                    let _ = stream.set_nodelay(true);
                    (Socket::Tcp(stream), Peer::of_address(from))
                }),
                Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    let user = stream.peer_cred().ok().map(|it| it.uid());
                    (Socket::Unix(stream), Peer::of_user(user))
                }),
            };
            match accepted {
                Ok((socket, peer)) => {
                    return Connection { socket, peer, stalled: None, _permit: permit };
                }
                Err(error) => {
                    // A connection that its peer has ended already is no reason to pause.
                    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted) {
                        warn!("accept: {error}");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection that ends when its peer takes nothing for [`STALLED`].
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    peer: Peer,
    stalled: Option<Pin<Box<Sleep>>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Passes on what a write gave, and watches over one that waits.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALLED)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

macro_rules! on_socket {
    ($connection:expr, $socket:ident => $call:expr) => {
        match &mut $connection.socket {
            Socket::Tcp(stream) => {
                let $socket = Pin::new(stream);
                $call
            }
            Socket::Unix(stream) => {
                let $socket = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_socket!(self, socket => socket.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = on_socket!(self, socket => socket.poll_write(cx, buffer));
        self.watched(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = on_socket!(self, socket => socket.poll_write_vectored(cx, buffers));
        self.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Tcp(stream) => stream.is_write_vectored(),
            Socket::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_socket!(self, socket => socket.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_socket!(self, socket => socket.poll_shutdown(cx))
    }
}

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Where the servers listen.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// REST over TCP.
    pub rest: Option<SocketAddr>,
    /// gRPC over TCP.
    pub grpc: Option<SocketAddr>,
    /// Wyoming over TCP.
    pub wyoming: Option<SocketAddr>,
    /// REST over a Unix socket.
    pub rest_socket: Option<PathBuf>,
    /// gRPC over a Unix socket.
    pub grpc_socket: Option<PathBuf>,
    /// Wyoming over a Unix socket.
    pub wyoming_socket: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn a_name_belongs_to_its_peer() {
        let peer = Peer::of_address("127.0.0.1:7".parse().unwrap());
        assert_eq!(peer.user(), None);
        assert_eq!(peer.client(None), "127.0.0.1");
        assert_eq!(peer.client(Some("cam-1")), "127.0.0.1/cam-1");
        for odd in ["", "a b", "\n", "\u{e4}", &"x".repeat(65)] {
            assert_eq!(peer.client(Some(odd)), "127.0.0.1", "{odd}");
        }
    }

    #[tokio::test]
    async fn a_unix_peer_is_its_user_and_a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(unix(&path).unwrap());
        let accept = Accept::new(unix(&path).unwrap());
        let mut client = UnixStream::connect(&path).await.unwrap();
        let mut connection = accept.next().await;
        let user = nix::unistd::geteuid();
        assert_eq!(connection.peer().client(None), format!("uid:{user}"));
        assert_eq!(connection.peer().user(), Some(user.as_raw()));
        client.write_all(b"hello").await.unwrap();
        let mut buffer = [0; 5];
        connection.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"hello");
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let problem = tcp("--rest", address).await.unwrap_err();
        assert!(problem.starts_with(&format!("--rest {address}: ")), "{problem}");
        assert!(problem.contains("`--rest off`"), "{problem}");
    }
}
