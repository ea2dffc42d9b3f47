//! The tensors of one request or answer, ready to be sent.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Serialize, Serializer};

use crate::codec::{PackageHead, TensorHead};
use crate::error::LinkError;
use crate::shared;
use crate::tensor::Tensor;

/// A tensor up to this many bytes travels in the message, a larger one in memory that both ends
/// share.
pub const INLINE: usize = 16 << 10;

/// Tensors in one request or answer, at most.
pub const MAX_TENSORS: usize = 256;

/// Bytes of all tensors in one request or answer, at most.
pub const MAX_PACKAGE: u64 = 1 << 30;

/// The tensors of one request or answer, ready to be sent: the large ones are copied into a memory
/// file of their own, which is the only copy on the way.
///
/// Made where the tensors come in (a connection's task, a worker's thread), so that whoever
/// dispatches only passes a descriptor on. Cloning costs a counter; the same package can be sent
/// again, to another worker.
#[derive(Clone, Debug)]
pub struct Package(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    head: PackageHead,
    inline: Vec<Bytes>,
    file: Option<OwnedFd>,
}

impl Package {
    /// Checks the tensors and takes them in.
    ///
    /// # Errors
    /// A tensor whose data are not what type and shape say, too many or too large ones, or a system
    /// call that failed.
    pub fn new(tensors: Vec<Tensor>) -> Result<Self, LinkError> {
        if tensors.len() > MAX_TENSORS {
            return Err(LinkError::Tensors(tensors.len()));
        }
        let mut head = PackageHead::default();
        let (mut inline, mut large) = (Vec::new(), Vec::new());
        for tensor in tensors {
            tensor.check()?;
            let Tensor { name, datatype, shape, data } = tensor;
            let shared = data.len() > INLINE;
            let length = data.len() as u64;
            head.tensors.push(TensorHead { name, datatype, shape, length, shared });
            if shared { large.push(data) } else { inline.push(data) }
        }
        head.bytes()?;
        let file = match large.as_slice() {
            [] => None,
            large => Some(shared::seal(large.iter().map(AsRef::as_ref))?),
        };
        Ok(Self(Arc::new(Inner { head, inline, file })))
    }

    /// Bytes of its tensors.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.head.tensors.iter().map(|tensor| tensor.length).sum()
    }

    pub(crate) fn inline(&self) -> &[Bytes] {
        &self.0.inline
    }

    pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.0.file.as_ref().map(AsFd::as_fd)
    }
}

impl Serialize for Package {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.head.serialize(serializer)
    }
}
