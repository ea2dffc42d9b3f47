//! The records of managed threads, shared with the kernel programs: the gate's bits, and the hash
//! table behind it (`ebpf/src/gate.rs` has the other side).

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use downbeat_abi::{GATE_WORD_BITS, THREAD_PLACES, Thread, thread_home, thread_refuge};

use super::shared::SharedWords;

/// Words of one record.
pub(super) const THREAD_WORDS: usize = size_of::<Thread>() / size_of::<u64>();

/// Where the class slot and the place of the jobs are, in halves of a word's half.
const SLOT: usize = std::mem::offset_of!(Thread, slot) / size_of::<u16>();
const JOB: usize = std::mem::offset_of!(Thread, job) / size_of::<u16>();
const THREAD_SHORTS: usize = size_of::<Thread>() / size_of::<u16>();

/// The size of the table of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableSize {
    /// A power of two.
    pub(super) records: u32,
}

impl TableSize {
    /// The least that has room for so many threads.
    pub(super) fn of(max_threads: u32) -> Self {
        Self { records: max_threads.clamp(1, 1 << 22).next_power_of_two() }
    }

    /// For [`thread_refuge`].
    pub(super) fn shift(self) -> u32 {
        u32::BITS - self.records.trailing_zeros()
    }

    /// The number of the last record.
    pub(super) fn last(self) -> u32 {
        self.records - 1
    }
}

/// Who is managed, and what the kernel keeps of them. A clone looks at the same.
#[derive(Clone, Debug)]
pub(super) struct ThreadTable {
    gate: Arc<SharedWords>,
    records: Arc<SharedWords>,
    size: TableSize,
}

impl ThreadTable {
    pub(super) fn new(gate: SharedWords, records: SharedWords, size: TableSize) -> Self {
        Self { gate: Arc::new(gate), records: Arc::new(records), size }
    }

    /// What is kept of a managed thread.
    pub(super) fn get(&self, tid: u32) -> Option<Thread> {
        let words = self.words(self.record(tid)?)?;
        let words: [u64; THREAD_WORDS] = std::array::from_fn(|n| words[n].load(Relaxed));
        Some(bytemuck::cast(words))
    }

    /// Where the jobs of a managed thread are kept.
    pub(super) fn job(&self, tid: u32) -> Option<u16> {
        let first = self.record(tid)? as usize * THREAD_SHORTS;
        Some(self.records.shorts().get(first + JOB)?.load(Relaxed))
    }

    /// Manages a thread, or changes the class and the place of the jobs of one that is managed.
    /// Returns false where all of its places are taken.
    pub(super) fn put(&self, tid: u32, slot: u32, job: u32) -> bool {
        if let Some(record) = self.record(tid) {
            // The kernel may be writing the rest.
            let shorts = self.records.shorts();
            let first = record as usize * THREAD_SHORTS;
            shorts[first + SLOT].store(slot as u16, Relaxed);
            shorts[first + JOB].store(job as u16, Relaxed);
            return true;
        }
        let is_free = |record: &u32| {
            self.words(*record)
                .is_some_and(|it| it[0].compare_exchange(0, tid.into(), AcqRel, Relaxed).is_ok())
        };
        let Some(record) = self.places(tid).find(is_free) else { return false };
        let fresh: [u64; THREAD_WORDS] = bytemuck::cast(Thread::new(tid, slot, job));
        for (word, fresh) in self.words(record).unwrap_or(&[]).iter().zip(fresh).skip(1) {
            word.store(fresh, Relaxed);
        }
        if let Some((word, bit)) = self.gate_bit(tid) {
            word.fetch_or(bit, Release);
        }
        true
    }

    /// Forgets a thread; returns what was kept of it, unless the kernel forgot it first.
    pub(super) fn remove(&self, tid: u32) -> Option<Thread> {
        if let Some((word, bit)) = self.gate_bit(tid) {
            word.fetch_and(!bit, Relaxed);
        }
        let mut known = None;
        // Two records where it was put in while its creator's CPU did: neither stays.
        for record in self.places(tid) {
            let Some(words) = self.words(record) else { continue };
            let is_its = |owner: u64| (owner as u32 == tid).then_some(0);
            let kept: [u64; THREAD_WORDS] = std::array::from_fn(|n| words[n].load(Relaxed));
            if words[0].fetch_update(AcqRel, Acquire, is_its).is_ok() {
                known = Some(bytemuck::cast(kept));
            }
        }
        known
    }

    fn record(&self, tid: u32) -> Option<u32> {
        if self.gate_bit(tid).is_some_and(|(word, bit)| word.load(Relaxed) & bit == 0) {
            return None;
        }
        self.places(tid)
            .find(|record| self.words(*record).is_some_and(|it| it[0].load(Acquire) as u32 == tid))
    }

    /// The records that a thread may have.
    fn places(&self, tid: u32) -> impl Iterator<Item = u32> + use<> {
        let (shift, last) = (self.size.shift(), self.size.last());
        let refuges = (1..THREAD_PLACES).map(move |n| thread_refuge(tid, n, shift));
        std::iter::once(thread_home(tid, last)).chain(refuges)
    }

    fn words(&self, record: u32) -> Option<&[AtomicU64]> {
        let first = record as usize * THREAD_WORDS;
        self.records.words().get(first..first + THREAD_WORDS)
    }

    /// Word and bit of a thread in the gate; nothing for an id beyond it, which always passes.
    fn gate_bit(&self, tid: u32) -> Option<(&AtomicU64, u64)> {
        let word = self.gate.words().get((tid / GATE_WORD_BITS) as usize)?;
        Some((word, 1 << (tid % GATE_WORD_BITS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use downbeat_abi::{NO_CLASS, NO_JOB};

    const PIDS: usize = 32_768;

    fn table(max_threads: u32) -> ThreadTable {
        let size = TableSize::of(max_threads);
        let words = |n| SharedWords::in_memory(n).unwrap();
        ThreadTable::new(
            words(PIDS / u64::BITS as usize),
            words(size.records as usize * THREAD_WORDS),
            size,
        )
    }

    #[test]
    fn threads_are_found_until_they_are_removed() {
        let table = table(1024);
        for tid in 1..=700 {
            assert!(table.put(tid * 3, tid % 64, NO_JOB), "{tid}");
        }
        for tid in 1..=700 {
            assert_eq!(table.get(tid * 3), Some(Thread::new(tid * 3, tid % 64, NO_JOB)));
            assert_eq!(table.get(tid * 3 + 1), None);
        }
        assert_eq!(table.remove(30).map(|it| it.tid), Some(30));
        assert_eq!((table.remove(30), table.get(30)), (None, None));
        assert!(table.get(33).is_some());
    }

    #[test]
    fn a_change_of_class_keeps_what_is_known() {
        let table = table(16);
        assert!(table.put(7, 3, NO_JOB));
        let record = table.record(7).unwrap();
        table.words(record).unwrap()[1].store(55, Relaxed);
        assert!(table.put(7, NO_CLASS, 9));
        let known = table.get(7).unwrap();
        assert_eq!((known.ready_ns, known.slot, known.job), (55, NO_CLASS as u16, 9));
    }

    #[test]
    fn a_full_table_says_so_and_has_room_again() {
        let table = table(1);
        assert!(table.put(5, 0, NO_JOB));
        assert!(!table.put(6, 0, NO_JOB));
        table.remove(5);
        assert!(table.put(6, 0, NO_JOB));
    }

    #[test]
    fn an_id_beyond_the_gate_is_found() {
        let table = table(64);
        let far = PIDS as u32 + 5;
        assert_eq!(table.get(far), None);
        assert!(table.put(far, 1, NO_JOB));
        assert_eq!(table.get(far).map(|it| it.slot), Some(1));
        assert!(table.remove(far).is_some());
    }

    #[test]
    fn half_full_there_is_room_for_blocks_of_ids_as_thread_pools_have_them() {
        let table = table(32_768);
        let pools = [400, 9_000, 40_000, 72_768, 105_536, 300_000, 4_000_000, 4_100_000];
        let refused = pools
            .into_iter()
            .flat_map(|first| first..first + 2_048)
            .filter(|tid| !table.put(*tid, 0, NO_JOB))
            .count();
        assert_eq!(refused, 0);
    }
}
