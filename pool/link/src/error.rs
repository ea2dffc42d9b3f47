//! What may go wrong on a channel.

use std::io;

use rustix::io::Errno;

use crate::codec::{MAX_MESSAGE, VERSION};
use crate::package::{MAX_PACKAGE, MAX_TENSORS};
use crate::region::MAX_REGIONS;
use crate::tensor::TensorError;
use crate::{MAX_REQUESTS, shared};

/// Why a message was not sent, or what came is none.
///
/// After an error of sending the channel is as good as before, but for [`Closed`](Self::Closed). A
/// message that came wrong says that the two ends do not speak the same language: close the channel.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other end is gone.
    #[error("the other end of the channel is closed")]
    Closed,
    /// A system call failed.
    #[error("{call}: {source}{}", remedy(source))]
    Call {
        /// Its name.
        call: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A message cannot be put into bytes: a path that is no UTF-8.
    #[error("a message cannot be encoded: {0}; paths must be UTF-8")]
    Encode(postcard::Error),
    /// The names, shapes and texts of a message are too long.
    #[error(
        "the names, shapes and texts of one message have {0} bytes; {MAX_MESSAGE} is the most: use \
         shorter ones, or send fewer requests at a time"
    )]
    TooLong(usize),
    /// Too many requests in one message.
    #[error("{0} requests in one message; {MAX_REQUESTS} is the most")]
    Requests(usize),
    /// Too many tensors in one request or answer.
    #[error("{0} tensors in one request or answer; {MAX_TENSORS} is the most")]
    Tensors(usize),
    /// Inputs in too many files of clients, or in any where none may be.
    #[error(
        "tensors in {0} regions of shared memory; a request has {MAX_REGIONS} at most, and an \
         answer none: put them into one"
    )]
    Regions(usize),
    /// Too many bytes in one request or answer.
    #[error("{0} bytes of tensors in one request or answer; {MAX_PACKAGE} is the most")]
    TooLarge(u64),
    /// A tensor that is not what it says.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Longer than any message may be.
    #[error("what came is longer than {MAX_MESSAGE} bytes, which is the most for one message")]
    Oversized,
    /// Shorter than it says itself.
    #[error("a message ends after {0} bytes, before its end")]
    Truncated(usize),
    /// Not of this channel.
    #[error("what came is no message of a worker's channel")]
    Foreign,
    /// Another version of the language.
    #[error(
        "the other end speaks version {0} of the channel's language and this one {VERSION}; take pool and workers from one release"
    )]
    Version(u16),
    /// A head that cannot be read.
    #[error("a message's head cannot be read: {0}")]
    Decode(postcard::Error),
    /// Descriptors that were lost on the way.
    #[error(
        "a message's descriptors did not all arrive; raise the limit of open files (`ulimit -n`)"
    )]
    DescriptorsLost,
    /// More or fewer descriptors than the message speaks of.
    #[error("a message came with {is} descriptors and speaks of {wanted}")]
    Descriptors {
        /// How many came.
        is: usize,
        /// How many it speaks of.
        wanted: usize,
    },
    /// More or fewer bytes behind the head than the message speaks of.
    #[error("a message has {is} bytes of tensors in it and speaks of {wanted}")]
    Inline {
        /// How many there are.
        is: usize,
        /// How many it speaks of.
        wanted: u64,
    },
    /// A descriptor that is no memory file.
    #[error("a tensor's descriptor is no memory file (memfd_create)")]
    NotMemory,
    /// A memory file that could still change.
    #[error(
        "a tensor's memory file has the seals {is:#x}; it must be sealed against shrinking, growing and writing ({:#x})",
        shared::SEALS.bits()
    )]
    Unsealed {
        /// Its seals, as `F_GET_SEALS` gives them.
        is: u32,
    },
    /// A memory file of the wrong length.
    #[error("a tensor's memory file has {is} bytes and the message speaks of {wanted}")]
    Length {
        /// Its length.
        is: u64,
        /// What the message says.
        wanted: u64,
    },
}

impl LinkError {
    pub(crate) fn call(call: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| match errno {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Closed,
            errno => Self::Call { call, source: errno.into() },
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::TOOMANYREFS) => {
            "; raise the limit of open files (`ulimit -n`)"
        }
        Some(Errno::NOMEM | Errno::NOSPC) => "; free memory or raise the group's memory.max",
        _ => "",
    }
}
