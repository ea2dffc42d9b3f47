//! The pool's side: waits in a runtime.

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::codec::{self, MAX_MESSAGE};
use crate::error::LinkError;
use crate::message::{Message, ToPool, ToWorker};
use crate::package::Package;
use crate::socket::{self, Came};

/// A channel's socket in a runtime. The runtime is told of what comes, and of room only once a message
/// found none: it would be woken each time that the other end takes a message.
#[derive(Debug)]
struct Socket {
    incoming: AsyncFd<OwnedFd>,
    room: OnceLock<AsyncFd<OwnedFd>>,
}

impl Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.incoming.get_ref().as_fd()
    }

    /// The same socket by another descriptor, of whose room the runtime is told.
    fn room(&self) -> Result<&AsyncFd<OwnedFd>, LinkError> {
        if let Some(room) = self.room.get() {
            return Ok(room);
        }
        let again = rustix::io::fcntl_dupfd_cloexec(self.as_fd(), 0);
        let again = again.map_err(LinkError::call("fcntl(F_DUPFD_CLOEXEC)"))?;
        let room = registered(again, Interest::WRITABLE)?;
        // Another task may have been here first, and then its descriptor is as good.
        Ok(self.room.get_or_init(|| room))
    }
}

/// Has the runtime tell of what `interest` names.
fn registered(socket: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>, LinkError> {
    // SAFETY: `socket` owns its descriptor and always gives that same one; it lives in the `AsyncFd`
    // from here on, which gives it out by reference only, so it is not closed while registered.
    let registered = unsafe { AsyncFd::register_with_interest(socket, interest) };
    registered.map_err(|error| LinkError::Call { call: "epoll_ctl", source: error.into() })
}

/// The sending half. Cloning costs a counter; messages of several tasks do not mix.
#[derive(Debug)]
pub struct AsyncSender<M> {
    socket: Arc<Socket>,
    direction: PhantomData<fn(M)>,
}

impl<M> Clone for AsyncSender<M> {
    fn clone(&self) -> Self {
        Self { socket: Arc::clone(&self.socket), direction: PhantomData }
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct AsyncReceiver<M> {
    socket: Arc<Socket>,
    buffer: Box<[u8]>,
    direction: PhantomData<fn() -> M>,
}

/// What a pool holds of a channel.
pub type AsyncPoolEnd = (AsyncSender<ToWorker<Package>>, AsyncReceiver<ToPool<Package>>);

/// What a worker with a runtime of its own holds of a channel.
pub type AsyncWorkerEnd = (AsyncSender<ToPool<Package>>, AsyncReceiver<ToWorker<Package>>);

/// A pool's two halves of a channel. Within a runtime whose I/O is on.
///
/// The two halves live in two tasks, so that a worker that reads slowly never keeps its answers from
/// being read:
///
/// ```
/// use downbeat_link::{Hello, ModelNumber, ToPool, ToWorker, VERSION, async_pool_end, worker_end};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), downbeat_link::LinkError> {
/// let (pool, worker) = downbeat_link::pair()?;
/// let (to_worker, mut from_worker) = async_pool_end(pool)?;
/// let (said, mut heard) = tokio::sync::mpsc::channel(16);
/// tokio::spawn(async move {
///     // Ends with the worker, or with what it should not have said.
///     while let Ok(Some(message)) = from_worker.receive().await {
///         if said.send(message).await.is_err() {
///             return;
///         }
///     }
/// });
///
/// let (to_pool, mut from_pool) = worker_end(worker)?;
/// let (version, pid) = (VERSION, std::process::id());
/// to_pool.send(&ToPool::Hello(Hello { version, pid, name: "mic".into(), engines: vec![] }))?;
///
/// assert!(matches!(heard.recv().await, Some(ToPool::Hello(hello)) if hello.name == "mic"));
/// to_worker.send(&ToWorker::Unload(ModelNumber(1))).await?;
/// assert_eq!(from_pool.receive()?, Some(ToWorker::Unload(ModelNumber(1))));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The kernel's, where `socket` is none.
pub fn async_pool_end(socket: OwnedFd) -> Result<AsyncPoolEnd, LinkError> {
    halves(socket)
}

/// A worker's two halves of a channel, for a worker with a runtime of its own: an adapter within the
/// pool that speaks to something else.
///
/// # Errors
/// The kernel's, where `socket` is none.
pub fn async_worker_end(socket: OwnedFd) -> Result<AsyncWorkerEnd, LinkError> {
    halves(socket)
}

fn halves<Out, In>(socket: OwnedFd) -> Result<(AsyncSender<Out>, AsyncReceiver<In>), LinkError> {
    let flags = fcntl_getfl(&socket).map_err(LinkError::call("fcntl(F_GETFL)"))?;
    fcntl_setfl(&socket, flags | OFlags::NONBLOCK).map_err(LinkError::call("fcntl(F_SETFL)"))?;
    socket::widen(&socket);
    let incoming = registered(socket, Interest::READABLE)?;
    let socket = Arc::new(Socket { incoming, room: OnceLock::new() });
    let sender = AsyncSender { socket: Arc::clone(&socket), direction: PhantomData };
    let buffer = vec![0; MAX_MESSAGE].into_boxed_slice();
    Ok((sender, AsyncReceiver { socket, buffer, direction: PhantomData }))
}

impl<M: Message> AsyncSender<M> {
    /// Sends a message, waiting for room. Dropped while it waits, nothing is sent.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn send(&self, message: &M) -> Result<(), LinkError> {
        let frame = codec::encode(message)?;
        if socket::send(self.socket.as_fd(), &frame, false)?.is_some() {
            return Ok(());
        }
        let room = self.socket.room()?;
        loop {
            let mut guard = room
                .writable()
                .await
                .map_err(|source| LinkError::Call { call: "epoll_wait", source })?;
            match socket::send(self.socket.as_fd(), &frame, false)? {
                Some(()) => return Ok(()),
                None => guard.clear_ready(),
            }
        }
    }

    /// Sends a message if there is room at once, and says whether there was.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn try_send(&self, message: &M) -> Result<bool, LinkError> {
        let frame = codec::encode(message)?;
        Ok(socket::send(self.socket.as_fd(), &frame, false)?.is_some())
    }

    /// Whether a message is one that can be sent, for who will send it later.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn check(&self, message: &M) -> Result<(), LinkError> {
        codec::encode(message).map(drop)
    }

    /// Ends the channel in both directions, whoever else holds a half of it.
    pub fn close(&self) {
        // One whose other end is gone is not connected any more, which is as good.
        let _ = shutdown(self.socket.as_fd(), Shutdown::Both);
    }
}

impl<M: Message> AsyncReceiver<M> {
    /// Waits for the next message; nothing once the other end is gone. Dropped while it waits,
    /// nothing is lost.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn receive(&mut self) -> Result<Option<M::Received>, LinkError> {
        loop {
            let mut guard = self
                .socket
                .incoming
                .readable()
                .await
                .map_err(|source| LinkError::Call { call: "epoll_wait", source })?;
            match socket::receive(self.socket.as_fd(), &mut self.buffer, false)? {
                Came::Message(length, files) => {
                    return codec::decode::<M>(&self.buffer[..length], files).map(Some);
                }
                Came::Nothing => guard.clear_ready(),
                Came::End => return Ok(None),
            }
        }
    }
}
