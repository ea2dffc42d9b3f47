//! Memory that the agent does not use any more goes back to the host.
//!
//! The allocator keeps what was freed, and the agent's pages are locked: after thousands of threads
//! came and went, tens of MiB would stay in RAM for good.

use nix::sys::mman::munlockall;

use crate::own_priority;

/// Less than this is not worth the page faults that follow, bytes.
const WORTH: u64 = 8 << 20;

/// A heap that is free for so many looks in a row is not about to be used again.
const LOOKS: u32 = 3;

/// Looks from one time to the next at first, and at most.
const FIRST_WAIT: u32 = 10;
const LONGEST_WAIT: u32 = 640;

/// Decides when memory goes back. To be asked once a second.
#[derive(Debug)]
pub struct OwnMemory {
    /// Looks in a row at which much was free.
    free_for: u32,
    /// Looks since memory last went back.
    since: u32,
    /// Looks to wait for the next time: longer where the memory was needed again at once, as each
    /// sample of many threads needs it.
    wait: u32,
}

impl Default for OwnMemory {
    fn default() -> Self {
        Self { free_for: 0, since: FIRST_WAIT, wait: FIRST_WAIT }
    }
}

impl OwnMemory {
    /// Looks at the heap, and gives back what has been free for a while.
    pub fn look(&mut self) {
        let Some(free) = free_bytes() else { return };
        if self.is_due(free) {
            give_back();
        }
    }

    fn is_due(&mut self, free: u64) -> bool {
        self.since = self.since.saturating_add(1);
        self.free_for = if free >= WORTH { self.free_for + 1 } else { 0 };
        if self.free_for < LOOKS || self.since < self.wait {
            return false;
        }
        let at_once = self.since <= self.wait + LOOKS;
        self.wait = if at_once { (self.wait * 2).min(LONGEST_WAIT) } else { FIRST_WAIT };
        (self.free_for, self.since) = (0, 0);
        true
    }
}

/// What the allocator keeps and nobody uses; nothing where it does not say.
fn free_bytes() -> Option<u64> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes nothing and returns plain integers; the allocator locks what it reads.
        let info = unsafe { libc::mallinfo2() };
        u64::try_from(info.fordblks).ok()
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

fn give_back() {
    // Locked pages do not go back. Those that are in use stay in RAM meanwhile unless the host
    // wants them this very moment, and are locked again as they are.
    let locked = own_priority::has_locked_memory();
    if locked && let Err(errno) = munlockall() {
        tracing::debug!("munlockall: {errno}");
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: only returns memory that is not allocated.
    unsafe {
        libc::malloc_trim(0);
    }
    if locked {
        own_priority::lock_memory();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MUCH: u64 = WORTH;

    /// The looks, counted from 1, at which memory goes back.
    fn given_back(own: &mut OwnMemory, free: impl IntoIterator<Item = u64>) -> Vec<usize> {
        let looks = free.into_iter().enumerate();
        looks.filter(|(_, free)| own.is_due(*free)).map(|(look, _)| look + 1).collect()
    }

    #[test]
    fn a_heap_that_stays_free_goes_back_after_some_looks() {
        let mut own = OwnMemory::default();
        assert_eq!(given_back(&mut own, [0, MUCH, MUCH, MUCH, 0, 0, 0]), [4]);
    }

    #[test]
    fn a_heap_that_is_in_use_between_looks_stays() {
        let mut own = OwnMemory::default();
        assert!(given_back(&mut own, [MUCH, MUCH, 0].repeat(50)).is_empty());
    }

    #[test]
    fn a_heap_that_is_needed_again_at_once_is_left_longer_each_time() {
        let mut own = OwnMemory::default();
        let looks = given_back(&mut own, [MUCH; 2000]);
        let waits: Vec<usize> = looks.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(waits[..6], [20, 40, 80, 160, 320, 640]);
        // After a long quiet time the next storm's memory goes back soon again.
        assert!(given_back(&mut own, [0; 1000]).is_empty());
        assert_eq!(given_back(&mut own, [MUCH; 15]), [3, 13]);
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_was_freed_between_others_leaves_the_ram() {
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
            (pages * procfs::page_size()) >> 20
        };
        let mut blocks: Vec<Box<[u8; 8192]>> = Vec::new();
        blocks.resize_with(8192, || Box::new([1; 8192]));
        // The last one keeps the heap from shrinking by itself.
        let last = blocks.pop();
        drop(blocks);
        let (before, free) = (resident(), free_bytes().unwrap());
        assert!(free >= 60 << 20, "{free}");
        give_back();
        assert!(resident() + 50 <= before, "{} of {before} MiB", resident());
        drop(last);
    }
}
