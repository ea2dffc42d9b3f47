//! Pages that nobody has read yet, of a file without contents: reading one takes memory and no disk.
//! Where the reader's control group has none left, pages that were read before are reclaimed first.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use anyhow::{Context, Result, ensure};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

/// Bytes of the file and of its mapping: only what is read takes any memory.
const LEN: NonZeroUsize = NonZeroUsize::new(16 << 30).expect("not zero");

/// The smallest page there is: with larger ones some touches are no first ones.
const PAGE: usize = 4096;

/// The file's pages from the next one on.
pub struct Untouched {
    _file: File,
    start: NonNull<u8>,
    next: usize,
}

impl Untouched {
    /// A file without a name in the temporary folder.
    pub fn new() -> Result<Self> {
        let file = tempfile::tempfile().context("making a temporary file")?;
        file.set_len(LEN.get() as u64).context("a temporary file of 16 GiB without contents")?;
        // SAFETY: a new mapping; nobody else has the file, so it stays as long as it is.
        let map = unsafe { mmap(None, LEN, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &file, 0) };
        let map = map.context("mapping a temporary file")?;
        // SAFETY: the mapping above. Nothing is read ahead of the page that is touched.
        unsafe { madvise(map, LEN.get(), MmapAdvise::MADV_RANDOM) }.context("madvise")?;
        Ok(Self { _file: file, start: map.cast(), next: 0 })
    }

    /// Reads a byte of each of the next pages.
    pub fn touch(&mut self, pages: usize) -> Result<()> {
        let end = self.next + pages * PAGE;
        ensure!(end <= LEN.get(), "all of the file was touched");
        for at in (self.next..end).step_by(PAGE) {
            // SAFETY: within the mapping, which lives as long as `self`.
            unsafe { self.start.add(at).read_volatile() };
        }
        self.next = end;
        Ok(())
    }
}

impl Drop for Untouched {
    fn drop(&mut self) {
        // SAFETY: nobody reads it from here on. It goes with the process in any case.
        let _ = unsafe { munmap(self.start.cast(), LEN.get()) };
    }
}
