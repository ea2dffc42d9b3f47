//! Memory files: written once, sealed, then mapped by whoever receives them.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use crate::error::LinkError;

/// What makes a file safe to map: it cannot become shorter, so reading it never ends in SIGBUS, and
/// it cannot change, so it is as good as memory of our own.
pub const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE);

/// Each tensor starts at a multiple of this: a cache line, and enough for any vector instruction.
const ALIGNMENT: usize = 64;

/// `TMPFS_MAGIC`. A file of huge pages can be sealed too, but reading one may end in SIGBUS.
const TMPFS: u32 = 0x0102_1994;

/// Where the next tensor begins in a file, behind the end of the one before. At most
/// [`MAX_PACKAGE`](crate::MAX_PACKAGE) and a little, so it never overflows.
pub fn aligned(end: u64) -> u64 {
    end.next_multiple_of(ALIGNMENT as u64)
}

/// A sealed file with the given parts, each at a multiple of [`ALIGNMENT`].
///
/// The parts are written, not copied into a mapping: the kernel then need not clear the pages first,
/// and there is no page fault for each.
pub fn seal<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Result<OwnedFd, LinkError> {
    const GAP: [u8; ALIGNMENT] = [0; ALIGNMENT];
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("downbeat-tensors", flags)
        .map_err(LinkError::call("memfd_create"))?;
    let mut slices = Vec::new();
    let mut gap = 0;
    for part in parts {
        slices.push(IoSlice::new(&GAP[..gap]));
        slices.push(IoSlice::new(part));
        gap = part.len().next_multiple_of(ALIGNMENT) - part.len();
    }
    let mut left = slices.as_mut_slice();
    // An empty slice at the front would never advance.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        let some = left.len().min(MAX_SLICES);
        match rustix::io::writev(&file, &left[..some]) {
            Ok(0) => return Err(LinkError::call("writev to a memory file")(Errno::NOSPC)),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(LinkError::call("writev to a memory file")(errno)),
        }
    }
    rustix::fs::fcntl_add_seals(&file, SEALS).map_err(LinkError::call("fcntl(F_ADD_SEALS)"))?;
    Ok(file)
}

/// `IOV_MAX`.
const MAX_SLICES: usize = 1024;

/// Maps a file that came from the other end and must have `wanted` bytes, after it was made sure
/// that it is what it should be.
pub fn map(file: impl AsFd, wanted: u64) -> Result<Bytes, LinkError> {
    let is = checked_length(file.as_fd())?;
    if is != wanted {
        return Err(LinkError::Length { is, wanted });
    }
    map_checked(file.as_fd(), wanted)
}

/// The same with a file that may have up to `most` bytes.
pub fn map_whole(file: impl AsFd, most: u64) -> Result<Bytes, LinkError> {
    let is = checked_length(file.as_fd())?;
    if is > most {
        return Err(LinkError::Length { is, wanted: most });
    }
    map_checked(file.as_fd(), is)
}

/// How long a file is and stays.
fn checked_length(file: BorrowedFd<'_>) -> Result<u64, LinkError> {
    let seals = rustix::fs::fcntl_get_seals(file).map_err(|errno| match errno {
        // Files that cannot be sealed, and descriptors without a file (O_PATH).
        Errno::INVAL | Errno::BADF => LinkError::NotMemory,
        errno => LinkError::call("fcntl(F_GET_SEALS)")(errno),
    })?;
    if !seals.contains(SEALS) {
        return Err(LinkError::Unsealed { is: seals.bits() });
    }
    let system = rustix::fs::fstatfs(file).map_err(LinkError::call("fstatfs"))?;
    if system.f_type as u32 != TMPFS {
        return Err(LinkError::NotMemory);
    }
    let found = rustix::fs::fstat(file).map_err(LinkError::call("fstat"))?;
    Ok(u64::try_from(found.st_size).unwrap_or(0))
}

fn map_checked(file: BorrowedFd<'_>, length: u64) -> Result<Bytes, LinkError> {
    let length = usize::try_from(length).map_err(|_| LinkError::TooLarge(length))?;
    if length == 0 {
        return Ok(Bytes::new());
    }
    let mut options = MmapOptions::new();
    // All of it will be read, once: one call instead of a fault each few pages.
    options.len(length).populate();
    // SAFETY: `checked_length` saw seals that make sure that the file stays as long and as it is for
    // as long as it is mapped, whoever else has it. Private, since before Linux 6.7 a file that is
    // sealed against writing could not be mapped shared.
    let mapped: Result<Mmap, _> = unsafe { options.map_copy_read_only(&file) };
    match mapped {
        Ok(mapped) => Ok(Bytes::from_owner(mapped)),
        Err(source) => Err(LinkError::Call { call: "mmap", source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::ftruncate;

    fn unsealed(length: u64) -> OwnedFd {
        let file = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, length).unwrap();
        file
    }

    #[test]
    fn parts_lie_at_multiples_of_a_cache_line() {
        let parts: [&[u8]; 3] = [&[1; 65], &[2; 64], &[3; 1]];
        let file = seal(parts.into_iter()).unwrap();
        let whole = map(&file, 193).unwrap();
        assert_eq!(whole[..65], [1; 65]);
        assert_eq!(whole[65..128], [0; 63]);
        assert_eq!(whole[128..192], [2; 64]);
        assert_eq!(whole[192..], [3]);
    }

    #[test]
    fn what_is_mapped_cannot_change() {
        let file = seal([[7_u8; 5000].as_slice()].into_iter()).unwrap();
        let mapped = map(&file, 5000).unwrap();
        assert_eq!(rustix::io::write(&file, &[1]), Err(Errno::PERM));
        assert_eq!(ftruncate(&file, 10), Err(Errno::PERM));
        assert_eq!(ftruncate(&file, 10_000), Err(Errno::PERM));
        drop(file);
        assert!(mapped.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn a_file_that_may_still_change_is_refused() {
        let every = [SealFlags::SHRINK, SealFlags::GROW, SealFlags::WRITE];
        for missing in every {
            let file = unsealed(100);
            rustix::fs::fcntl_add_seals(&file, SEALS.difference(missing)).unwrap();
            let error = map(&file, 100).unwrap_err();
            assert!(matches!(error, LinkError::Unsealed { .. }), "{error}");
        }
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let file = seal([[7_u8; 100].as_slice()].into_iter()).unwrap();
        for wanted in [99, 101, 1 << 40] {
            let error = map(&file, wanted).unwrap_err();
            assert!(matches!(error, LinkError::Length { is: 100, .. }), "{error}");
        }
        assert!(matches!(map_whole(&file, 99), Err(LinkError::Length { .. })));
        assert_eq!(map_whole(&file, 100).unwrap().len(), 100);
    }

    #[test]
    fn what_is_no_memory_file_is_refused() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let (pipe, _other) = std::io::pipe().unwrap();
        for file in [OwnedFd::from(null), OwnedFd::from(pipe)] {
            assert!(matches!(map(&file, 0), Err(LinkError::NotMemory)));
        }
    }

    #[test]
    fn many_parts_are_written_in_turns() {
        let parts: Vec<_> = (0..700_u32).map(u32::to_le_bytes).collect();
        let file = seal(parts.iter().map(<[u8; 4]>::as_slice)).unwrap();
        let whole = map_whole(&file, 1 << 20).unwrap();
        for (part, found) in parts.iter().zip(whole.chunks(ALIGNMENT)) {
            assert_eq!(part, &found[..4]);
        }
    }
}
