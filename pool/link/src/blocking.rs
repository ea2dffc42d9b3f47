//! The worker's side: waits in the call.

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::codec::{self, MAX_MESSAGE};
use crate::error::LinkError;
use crate::message::{Message, ToPool, ToWorker};
use crate::package::Package;
use crate::socket::{self, Came};

/// The sending half. Cloning costs a counter; messages of several threads do not mix.
#[derive(Debug)]
pub struct Sender<M> {
    socket: Arc<OwnedFd>,
    direction: PhantomData<fn(M)>,
}

impl<M> Clone for Sender<M> {
    fn clone(&self) -> Self {
        Self { socket: Arc::clone(&self.socket), direction: PhantomData }
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct Receiver<M> {
    socket: Arc<OwnedFd>,
    buffer: Box<[u8]>,
    direction: PhantomData<fn() -> M>,
}

/// What a worker holds of a channel.
pub type WorkerEnd = (Sender<ToPool<Package>>, Receiver<ToWorker<Package>>);

/// What a pool that waits in the call holds of a channel.
pub type PoolEnd = (Sender<ToWorker<Package>>, Receiver<ToPool<Package>>);

/// A worker's two halves of a channel.
///
/// # Errors
/// The kernel's, where `socket` is none.
pub fn worker_end(socket: OwnedFd) -> Result<WorkerEnd, LinkError> {
    halves(socket)
}

/// A pool's two halves of a channel, waiting in the call.
///
/// # Errors
/// The kernel's, where `socket` is none.
pub fn pool_end(socket: OwnedFd) -> Result<PoolEnd, LinkError> {
    halves(socket)
}

fn halves<Out, In>(socket: OwnedFd) -> Result<(Sender<Out>, Receiver<In>), LinkError> {
    let flags = fcntl_getfl(&socket).map_err(LinkError::call("fcntl(F_GETFL)"))?;
    // Whoever made the socket may have made it for a runtime.
    fcntl_setfl(&socket, flags.difference(OFlags::NONBLOCK))
        .map_err(LinkError::call("fcntl(F_SETFL)"))?;
    socket::widen(&socket);
    let socket = Arc::new(socket);
    let sender = Sender { socket: Arc::clone(&socket), direction: PhantomData };
    let buffer = vec![0; MAX_MESSAGE].into_boxed_slice();
    Ok((sender, Receiver { socket, buffer, direction: PhantomData }))
}

impl<M: Message> Sender<M> {
    /// Sends a message, waiting for room.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn send(&self, message: &M) -> Result<(), LinkError> {
        let frame = codec::encode(message)?;
        // Waiting, so never told to come again.
        socket::send(self.socket.as_fd(), &frame, true).map(Option::unwrap_or_default)
    }
}

impl<M: Message> Receiver<M> {
    /// Waits for the next message; nothing once the other end is gone.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn receive(&mut self) -> Result<Option<M::Received>, LinkError> {
        match socket::receive(self.socket.as_fd(), &mut self.buffer, true)? {
            Came::Message(length, files) => {
                codec::decode::<M>(&self.buffer[..length], files).map(Some)
            }
            // A socket with a receive timeout would say this; ours have none.
            Came::Nothing | Came::End => Ok(None),
        }
    }

    /// Takes the next message if there is one.
    ///
    /// # Errors
    /// See [`LinkError`]; [`LinkError::Closed`] once the other end is gone.
    pub fn try_receive(&mut self) -> Result<Option<M::Received>, LinkError> {
        match socket::receive(self.socket.as_fd(), &mut self.buffer, false)? {
            Came::Message(length, files) => {
                codec::decode::<M>(&self.buffer[..length], files).map(Some)
            }
            Came::Nothing => Ok(None),
            Came::End => Err(LinkError::Closed),
        }
    }
}

impl<M> AsFd for Receiver<M> {
    /// For `poll(2)`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
