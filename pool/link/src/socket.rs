//! One message through the socket, without waiting or with.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::codec::{Frame, MAX_DESCRIPTORS, MAX_MESSAGE};
use crate::error::LinkError;

/// What the kernel passes on with one message at most (`SCM_MAX_FD`). There is room for all of them,
/// so that too many are counted, not lost.
const SCM_MAX_FD: usize = 253;

/// The two ends of a new channel: for [`Sender`](crate::Sender) and [`Receiver`](crate::Receiver),
/// or [`AsyncSender`](crate::AsyncSender) and [`AsyncReceiver`](crate::AsyncReceiver). Both are
/// closed on exec; the one for the worker is given to its process at a number of its own.
///
/// # Errors
/// The kernel's.
pub fn pair() -> Result<(OwnedFd, OwnedFd), LinkError> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(LinkError::call("socketpair(AF_UNIX, SOCK_SEQPACKET)"))
}

/// Connects to a pool that listens at `path`.
///
/// # Errors
/// The kernel's.
pub fn connect(path: &Path) -> Result<OwnedFd, LinkError> {
    let address = SocketAddrUnix::new(path).map_err(LinkError::call("socket path"))?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(LinkError::call("socket(AF_UNIX, SOCK_SEQPACKET)"))?;
    rustix::net::connect(&socket, &address).map_err(LinkError::call("connect"))?;
    Ok(socket)
}

/// Room for a message of the largest size; a system whose limit is lower sends smaller ones only.
pub(crate) fn widen(socket: &OwnedFd) {
    let _ = set_socket_send_buffer_size(socket, 2 * MAX_MESSAGE);
}

/// Sends a message. `None` where it would have to wait and must not.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    frame: &Frame<'_>,
    wait: bool,
) -> Result<Option<()>, LinkError> {
    let descriptors = frame.descriptors();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        // There is room: a frame has at most MAX_DESCRIPTORS.
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let flags = SendFlags::NOSIGNAL | if wait { SendFlags::empty() } else { SendFlags::DONTWAIT };
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(&frame.bytes)], &mut control, flags) {
            Ok(_) => return Ok(Some(())),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(LinkError::call("sendmsg")(errno)),
        }
    }
}

/// What came of the socket.
pub(crate) enum Came {
    /// A message of so many bytes, and its descriptors.
    Message(usize, Vec<OwnedFd>),
    /// Nothing yet.
    Nothing,
    /// The other end is gone.
    End,
}

/// Takes the next message.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    wait: bool,
) -> Result<Came, LinkError> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SCM_MAX_FD))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags =
        RecvFlags::CMSG_CLOEXEC | if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
    let received = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Came::Nothing),
            Err(Errno::CONNRESET) => return Ok(Came::End),
            Err(errno) => return Err(LinkError::call("recvmsg")(errno)),
        }
    };
    // Whatever the message turns out to be, its descriptors are ours to close.
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            files.extend(descriptors);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(LinkError::DescriptorsLost);
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(LinkError::Oversized);
    }
    if received.bytes == 0 {
        return Ok(Came::End);
    }
    Ok(Came::Message(received.bytes, files))
}
