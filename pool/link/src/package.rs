//! The tensors of one request or answer, ready to be sent.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Serialize, Serializer};

use crate::codec::{PackageHead, Place, TensorHead};
use crate::error::LinkError;
use crate::region::{MAX_REGIONS, SharedInput};
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
    regions: Vec<Arc<OwnedFd>>,
}

impl Package {
    /// Checks the tensors and takes them in.
    ///
    /// # Errors
    /// A tensor whose data are not what type and shape say, too many or too large ones, or a system
    /// call that failed.
    pub fn new(tensors: Vec<Tensor>) -> Result<Self, LinkError> {
        Self::with(tensors, &[])
    }

    /// The same with inputs that are in a client's own shared memory, behind the others: they are
    /// not read here, the worker gets their files.
    ///
    /// # Errors
    /// As [`Self::new`], and [`LinkError::Regions`] for more than [`MAX_REGIONS`] files.
    pub fn with(tensors: Vec<Tensor>, shared: &[SharedInput]) -> Result<Self, LinkError> {
        let count = tensors.len() + shared.len();
        if count > MAX_TENSORS {
            return Err(LinkError::Tensors(count));
        }
        let mut regions: Vec<Arc<OwnedFd>> = Vec::new();
        let mut places = Vec::new();
        for input in shared {
            input.check()?;
            let SharedInput { name, datatype, shape, region } = input;
            let (name, datatype, shape) = (name.clone(), *datatype, shape.clone());
            let known = regions.iter().position(|file| Arc::ptr_eq(file, &region.file));
            let number = known.unwrap_or(regions.len());
            if number >= MAX_REGIONS {
                return Err(LinkError::Regions(number + 1));
            }
            if known.is_none() {
                regions.push(Arc::clone(&region.file));
            }
            // Below MAX_REGIONS.
            let place = Place::Region { number: number as u8, offset: region.offset };
            places.push(TensorHead { name, datatype, shape, length: region.length, place });
        }
        let mut head = PackageHead::default();
        let (mut inline, mut large) = (Vec::new(), Vec::new());
        for tensor in tensors {
            tensor.check()?;
            let Tensor { name, datatype, shape, data } = tensor;
            let length = data.len() as u64;
            let place = if data.len() > INLINE { Place::File } else { Place::Message };
            head.tensors.push(TensorHead { name, datatype, shape, length, place });
            if place == Place::File { large.push(data) } else { inline.push(data) }
        }
        head.tensors.extend(places);
        head.bytes()?;
        let file = match large.as_slice() {
            [] => None,
            large => Some(shared::seal(large.iter().map(AsRef::as_ref))?),
        };
        Ok(Self(Arc::new(Inner { head, inline, file, regions })))
    }

    /// Bytes of its tensors.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.head.tensors.iter().map(|tensor| tensor.length).sum()
    }

    pub(crate) fn inline(&self) -> &[Bytes] {
        &self.0.inline
    }

    /// Its memory file, and those of clients that it refers to.
    pub(crate) fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let regions = self.0.regions.iter().map(|file| file.as_fd());
        self.0.file.as_ref().map(AsFd::as_fd).into_iter().chain(regions)
    }
}

impl Serialize for Package {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.head.serialize(serializer)
    }
}
