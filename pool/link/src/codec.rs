//! Messages as bytes and descriptors.
//!
//! A message is twelve bytes of prefix, a head in postcard's encoding, and the elements of the small
//! tensors, in order and without gaps. The large ones are in memory files, one for each package that
//! has any, in order. Nothing in a message says where these lie: it follows from the order, so there
//! are no offsets that could be wrong. Behind a package's memory file come the files of clients that
//! some of its inputs lie in, by their numbers; those have offsets, which are the client's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::LinkError;
use crate::message::{MAX_REQUESTS, Message};
use crate::package::{INLINE, MAX_PACKAGE, MAX_TENSORS, Package};
use crate::region::{self, MAX_REGIONS};
use crate::shared;
use crate::tensor::{DataType, MAX_DIMENSIONS, Tensor, TensorError};

/// Of the language that this release speaks. Every message begins with it.
pub const VERSION: u16 = 3;

/// Bytes of one message, at most: what fits in a Unix socket's buffer of its usual size (208 KiB).
pub const MAX_MESSAGE: usize = 192 << 10;

/// Descriptors of one message, at most: for each request one and those of its regions, and one for
/// small tensors that do not all fit in the message. The kernel passes on 253 (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = MAX_REQUESTS * (1 + MAX_REGIONS) + 1;

const MAGIC: [u8; 4] = *b"dbwk";

/// Magic, version, flags, and the head's length, little endian.
const PREFIX: usize = 12;

/// The small tensors are in a memory file too, the last one.
const SPILLED: u16 = 1;

/// The tensors of a package, without their elements.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[doc(hidden)]
pub struct PackageHead {
    pub(crate) tensors: Vec<TensorHead>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TensorHead {
    pub name: String,
    pub datatype: DataType,
    pub shape: Vec<u64>,
    /// Bytes of its elements.
    pub length: u64,
    pub place: Place,
}

/// Where a tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// In the message.
    Message,
    /// In the package's memory file.
    File,
    /// In a client's file, which its package has as this number.
    Region { number: u8, offset: u64 },
}

impl PackageHead {
    /// Bytes in the message and bytes in the memory file, which may be none.
    pub(crate) fn bytes(&self) -> Result<(u64, u64), LinkError> {
        if self.tensors.len() > MAX_TENSORS {
            return Err(LinkError::Tensors(self.tensors.len()));
        }
        let (mut inline, mut file, mut elsewhere) = (0_u64, 0_u64, 0_u64);
        for tensor in &self.tensors {
            if tensor.shape.len() > MAX_DIMENSIONS {
                let (name, dimensions) = (tensor.name.clone(), tensor.shape.len());
                return Err(TensorError::Dimensions { name, dimensions }.into());
            }
            // Each sum stays below four times this, so none overflows.
            if tensor.length > MAX_PACKAGE {
                return Err(LinkError::TooLarge(tensor.length));
            }
            match tensor.place {
                Place::File => file = shared::aligned(file) + tensor.length,
                Place::Message => inline += tensor.length,
                Place::Region { .. } => elsewhere += tensor.length,
            }
            let all = inline + file + elsewhere;
            if all > MAX_PACKAGE {
                return Err(LinkError::TooLarge(all));
            }
        }
        Ok((inline, file))
    }

    /// Files of clients that it refers to.
    fn regions(&self) -> Result<usize, LinkError> {
        let numbers = self.tensors.iter().filter_map(|tensor| match tensor.place {
            Place::Region { number, .. } => Some(usize::from(number) + 1),
            Place::Message | Place::File => None,
        });
        match numbers.max().unwrap_or(0) {
            files if files > MAX_REGIONS => Err(LinkError::Regions(files)),
            files => Ok(files),
        }
    }
}

/// A message that is ready to be sent.
pub(crate) struct Frame<'a> {
    pub bytes: Vec<u8>,
    files: Vec<BorrowedFd<'a>>,
    spilled: Option<OwnedFd>,
}

impl Frame<'_> {
    /// Of its memory files, in order.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.files.iter().copied().chain(self.spilled.as_ref().map(AsFd::as_fd)).collect()
    }
}

/// Puts a message into bytes.
pub(crate) fn encode<M: Message>(message: &M) -> Result<Frame<'_>, LinkError> {
    let packages = message.packages().count();
    if packages > MAX_REQUESTS {
        return Err(LinkError::Requests(packages));
    }
    let bytes = vec![0; PREFIX];
    let mut bytes = postcard::to_extend(message, bytes).map_err(LinkError::Encode)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(LinkError::TooLong(bytes.len()));
    }
    let head = bytes.len() - PREFIX;
    let inline = || message.packages().flat_map(Package::inline);
    let total: usize = inline().map(Bytes::len).sum();
    let spilled = if bytes.len() + total > MAX_MESSAGE {
        let all: Vec<u8> = inline().flat_map(|part| part.iter().copied()).collect();
        Some(shared::seal([all.as_slice()].into_iter())?)
    } else {
        bytes.reserve(total);
        inline().for_each(|part| bytes.extend_from_slice(part));
        None
    };
    let flags = if spilled.is_some() { SPILLED } else { 0 };
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes[6..8].copy_from_slice(&flags.to_le_bytes());
    // At most MAX_MESSAGE, see above.
    bytes[8..PREFIX].copy_from_slice(&(head as u32).to_le_bytes());
    let files = message.packages().flat_map(Package::files).collect();
    Ok(Frame { bytes, files, spilled })
}

/// Takes a message out of what came.
pub(crate) fn decode<M: Message>(
    bytes: &[u8],
    files: Vec<OwnedFd>,
) -> Result<M::Received, LinkError> {
    let (prefix, rest) =
        bytes.split_first_chunk::<PREFIX>().ok_or(LinkError::Truncated(bytes.len()))?;
    let [m0, m1, m2, m3, v0, v1, f0, f1, length @ ..] = *prefix;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(LinkError::Foreign);
    }
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Err(LinkError::Version(version));
    }
    let length = u32::from_le_bytes(length) as usize;
    let (head, inline) = rest.split_at_checked(length).ok_or(LinkError::Truncated(bytes.len()))?;
    let spilled = u16::from_le_bytes([f0, f1]) & SPILLED != 0;
    let mut arrived = Arrived::new(inline, spilled, files, M::REGIONS)?;
    let message = M::decode(head, |package| arrived.open(package))?;
    arrived.end()?;
    Ok(message)
}

/// The elements that came with a message, taken from the front.
struct Arrived {
    files: std::vec::IntoIter<OwnedFd>,
    came: usize,
    wanted: usize,
    small: Bytes,
    small_came: usize,
    small_wanted: u64,
    /// Tensors may lie in files of clients.
    regions: bool,
}

impl Arrived {
    fn new(
        inline: &[u8],
        spilled: bool,
        mut files: Vec<OwnedFd>,
        regions: bool,
    ) -> Result<Self, LinkError> {
        let came = files.len();
        let small = if spilled {
            let wanted = LinkError::Descriptors { is: came, wanted: came + 1 };
            shared::map_whole(files.pop().ok_or(wanted)?, MAX_SPILLED)?
        } else {
            Bytes::copy_from_slice(inline)
        };
        let (wanted, small_came) = (usize::from(spilled), small.len());
        let files = files.into_iter();
        Ok(Self { files, came, wanted, small, small_came, small_wanted: 0, regions })
    }

    fn next_file(&mut self) -> Result<OwnedFd, LinkError> {
        self.wanted += 1;
        let (is, wanted) = (self.came, self.wanted);
        self.files.next().ok_or(LinkError::Descriptors { is, wanted })
    }

    fn open(&mut self, package: PackageHead) -> Result<Vec<Tensor>, LinkError> {
        let (inline, length) = package.bytes()?;
        self.small_wanted += inline;
        if self.small_wanted > self.small_came as u64 {
            return Err(LinkError::Inline { is: self.small_came, wanted: self.small_wanted });
        }
        let mut file = Bytes::new();
        if package.tensors.iter().any(|tensor| tensor.place == Place::File) {
            file = shared::map(self.next_file()?, length)?;
        }
        let regions = package.regions()?;
        if regions > 0 && !self.regions {
            return Err(LinkError::Regions(regions));
        }
        let regions = (0..regions).map(|_| self.next_file()).collect::<Result<Vec<_>, _>>()?;
        let mut end = 0;
        let tensors = package.tensors.into_iter().map(|head| {
            let TensorHead { name, datatype, shape, length, place } = head;
            // Both sums were compared with what is there.
            let data = match place {
                Place::File => {
                    let start = shared::aligned(end as u64) as usize;
                    end = start + length as usize;
                    file.slice(start..end)
                }
                Place::Message => self.small.split_to(length as usize),
                Place::Region { number, offset } => {
                    // One that ends too early is its client's doing, and one for which there is no
                    // memory the host's: the check of what came tells that request alone, and the
                    // channel goes on.
                    let file = regions[usize::from(number)].as_fd();
                    let data = region::read(file, offset, length).unwrap_or_default();
                    return Ok(Tensor { name, datatype, shape, data });
                }
            };
            let tensor = Tensor { name, datatype, shape, data };
            tensor.check()?;
            Ok(tensor)
        });
        tensors.collect()
    }

    /// Nothing is left over.
    fn end(&self) -> Result<(), LinkError> {
        if self.wanted != self.came {
            return Err(LinkError::Descriptors { is: self.came, wanted: self.wanted });
        }
        if !self.small.is_empty() {
            return Err(LinkError::Inline { is: self.small_came, wanted: self.small_wanted });
        }
        Ok(())
    }
}

/// Of small tensors that did not fit in the message.
const MAX_SPILLED: u64 = (MAX_REQUESTS * MAX_TENSORS * INLINE) as u64;

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
