//! Elements that lie in a client's own file of shared memory.
//!
//! Whoever has the file may change and shorten it at any time, so it is never mapped: reading a
//! mapping behind the file's end is SIGBUS. It is read once, by whoever computes with it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use crate::error::LinkError;
use crate::tensor::{DataType, TensorError, size};

/// Files of one request, at most; see [`Package::with`](crate::Package::with).
pub const MAX_REGIONS: usize = 2;

/// Part of a file.
#[derive(Clone, Debug)]
pub struct Region {
    /// Open for reading.
    pub file: Arc<OwnedFd>,
    /// Where it begins, bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// An input whose elements are in a [`Region`].
#[derive(Clone, Debug)]
pub struct SharedInput {
    /// Its name in the model.
    pub name: String,
    /// Of its elements.
    pub datatype: DataType,
    /// Elements per dimension.
    pub shape: Vec<u64>,
    /// Its elements.
    pub region: Region,
}

impl SharedInput {
    /// Whether its region is as long as type and shape say. What byte strings hold is seen by
    /// whoever reads them.
    ///
    /// # Errors
    /// [`TensorError::Size`], [`TensorError::Shape`].
    pub fn check(&self) -> Result<(), TensorError> {
        let Self { name, datatype, shape, region } = self;
        match size(name, *datatype, shape)? {
            Some(wanted) if wanted != region.length => Err(TensorError::Size {
                name: name.clone(),
                datatype: *datatype,
                shape: shape.clone(),
                is: region.length,
                wanted,
            }),
            _ => Ok(()),
        }
    }
}

/// What a part holds now: less than `length` where the file ends before it.
pub(crate) fn read(file: BorrowedFd<'_>, offset: u64, length: u64) -> Result<Bytes, LinkError> {
    let wanted = usize::try_from(length).map_err(|_| LinkError::TooLarge(length))?;
    // Room for no more than the file has: its length may be anything by now.
    let found = rustix::fs::fstat(file).map_err(LinkError::call("fstat"))?;
    let there = u64::try_from(found.st_size).unwrap_or(0).saturating_sub(offset);
    let wanted = wanted.min(usize::try_from(there).unwrap_or(usize::MAX));
    let mut bytes = Vec::new();
    // A worker's memory may be limited, and to abort would take others' requests along.
    bytes.try_reserve_exact(wanted).map_err(|_| LinkError::TooLarge(length))?;
    while bytes.len() < wanted {
        let at = offset.saturating_add(bytes.len() as u64);
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(LinkError::call("pread of shared memory")(errno)),
        }
    }
    // The allocator may have given more room than was asked for.
    bytes.truncate(wanted);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::AsFd;

    fn file(bytes: &[u8]) -> Arc<OwnedFd> {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(rustix::io::write(&file, bytes), Ok(bytes.len()));
        Arc::new(file)
    }

    #[test]
    fn a_part_is_read_and_no_more_than_there_is() {
        let file = file(b"abcdefgh");
        let read = |offset, length| read(file.as_fd(), offset, length);
        assert_eq!(read(2, 3).unwrap(), "cde");
        assert_eq!(read(6, 3).unwrap(), "gh");
        assert_eq!(read(9, 3).unwrap(), "");
        assert_eq!(read(u64::MAX, u64::MAX >> 1).unwrap(), "");
        assert_eq!(read(0, 1 << 40).unwrap(), "abcdefgh", "no room for what is not there");
        ftruncate(&file, 4).unwrap();
        assert_eq!(read(2, 3).unwrap(), "cd");
    }

    #[test]
    fn a_region_is_as_long_as_type_and_shape_say() {
        let of = |datatype, shape: &[u64], length| {
            let region = Region { file: file(b""), offset: 0, length };
            SharedInput { name: "x".into(), datatype, shape: shape.to_vec(), region }.check()
        };
        assert_eq!(of(DataType::Fp32, &[2, 3], 24), Ok(()));
        assert_eq!(of(DataType::Bytes, &[2], 99), Ok(()));
        let short = of(DataType::Fp32, &[2, 3], 23).unwrap_err().to_string();
        assert_eq!(short, "`x` has 23 bytes; FP32 with shape [2, 3] has 24");
        assert!(matches!(of(DataType::Fp64, &[u64::MAX / 2], 1), Err(TensorError::Shape { .. })));
    }
}
