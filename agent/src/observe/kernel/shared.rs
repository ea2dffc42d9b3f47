//! Array maps that the agent reads and writes through a mapping: no system call per look, and
//! its bits do not race with the kernel's.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The values of one array map (created with `BPF_F_MMAPABLE`) as a row of words. Its entries
/// must be a multiple of 8 bytes long, so that the kernel leaves no gaps between them.
#[derive(Debug)]
pub(super) struct SharedWords {
    start: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed atomically.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the first `len` words of the map behind `fd`, which must have as many.
    pub(super) fn map(fd: impl AsFd, len: usize) -> io::Result<Self> {
        let bytes = len.checked_mul(size_of::<u64>()).ok_or(io::ErrorKind::InvalidInput)?;
        let Some(bytes) = NonZeroUsize::new(bytes) else {
            return Ok(Self { start: NonNull::dangling(), len });
        };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; it fails where the map is
        // shorter.
        let start = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { start: start.cast(), len })
    }

    /// All words.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping, or the aligned nothing, holds `len` words for as long as `self` lives, and
        // every one who writes to it does so atomically.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// All words by their quarters.
    pub(super) fn shorts(&self) -> &[AtomicU16] {
        const PER_WORD: usize = size_of::<u64>() / size_of::<u16>();
        // SAFETY: as in `words`: the same bytes, which no alignment and no value can make wrong.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len * PER_WORD) }
    }

    /// One word's value; 0 beyond the end.
    pub(super) fn load(&self, index: usize) -> u64 {
        self.words().get(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
impl SharedWords {
    /// So many words that nobody else has, all 0.
    pub(super) fn in_memory(len: usize) -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        file.set_len((len * size_of::<u64>()) as u64)?;
        Self::map(file, len)
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        // SAFETY: this is the whole mapping, and no reference into it outlives `self`.
        // It can only fail for arguments that are no mapping.
        let _ = unsafe { munmap(self.start.cast(), self.len * size_of::<u64>()) };
    }
}
