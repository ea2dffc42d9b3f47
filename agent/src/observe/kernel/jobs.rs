//! Which thread's jobs are kept where, and what the kernel programs counted there.

use std::collections::{HashMap, HashSet};
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use downbeat_abi::{Job, RELEASES};

use super::shared::SharedWords;
use super::threads::ThreadTable;

/// Words of one thread's jobs.
pub(super) const JOB_WORDS: usize = size_of::<Job>() / size_of::<u64>();

/// What the kernel programs know of one thread's jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadJob {
    /// Thread.
    pub tid: u32,
    /// Everything since the thread is followed. What is read while the kernel counts may be a
    /// job apart in its parts.
    pub job: Box<Job>,
    /// The thread has ended or is not followed any more: this is the last of it.
    pub ended: bool,
}

/// The places in the map of jobs.
#[derive(Debug)]
pub(super) struct JobTable {
    words: Arc<SharedWords>,
    free: Vec<u32>,
    of_thread: HashMap<u32, u32>,
    /// Of threads that ended since the last read.
    ended: Vec<(u32, u32)>,
    /// Threads that found no place, since the start.
    refused: u64,
    /// Of these, those that still have none.
    without: HashSet<u32>,
}

impl JobTable {
    /// All places are free.
    pub(super) fn new(words: SharedWords, places: u32) -> Self {
        Self {
            words: Arc::new(words),
            free: (0..places).rev().collect(),
            of_thread: HashMap::new(),
            ended: Vec::new(),
            refused: 0,
            without: HashSet::new(),
        }
    }

    /// The place of a thread, a fresh one where it has none yet; absent when all are taken.
    pub(super) fn place(&mut self, tid: u32) -> Option<u32> {
        if let Some(place) = self.of_thread.get(&tid) {
            return Some(*place);
        }
        let Some(place) = self.free.pop() else {
            self.refused += u64::from(self.without.insert(tid));
            return None;
        };
        for word in self.job_words(place) {
            word.store(0, Ordering::Relaxed);
        }
        self.of_thread.insert(tid, place);
        self.without.remove(&tid);
        Some(place)
    }

    /// The thread has ended, or is not followed any more.
    pub(super) fn end(&mut self, tid: u32) {
        self.without.remove(&tid);
        if let Some(place) = self.of_thread.remove(&tid) {
            self.ended.push((tid, place));
        }
    }

    /// From now on a job of the thread that takes longer is a miss; 0 for none.
    pub(super) fn set_deadline(&self, tid: u32, deadline_ns: u64) {
        if let Some(place) = self.of_thread.get(&tid)
            && let Some(first) = self.job_words(*place).first()
        {
            first.store(deadline_ns, Ordering::Relaxed);
        }
    }

    /// Reads everything; the places of threads that ended become free.
    pub(super) fn read(&mut self) -> Vec<ThreadJob> {
        let mut ended = std::mem::take(&mut self.ended);
        let read = |tid, place, ended| ThreadJob { tid, job: self.job(place), ended };
        let mut jobs: Vec<ThreadJob> =
            ended.iter().map(|&(tid, place)| read(tid, place, true)).collect();
        jobs.extend(self.of_thread.iter().map(|(&tid, &place)| read(tid, place, false)));
        self.free.extend(ended.drain(..).map(|(_, place)| place));
        jobs
    }

    /// The latest release times of each thread that lives, as the kernel programs keep them, and how
    /// many there were since it is followed.
    pub(super) fn releases(&self) -> impl Iterator<Item = (u32, u64, [u64; RELEASES])> {
        const COUNT: usize = offset_of!(Job, release_count) / size_of::<u64>();
        const FIRST: usize = offset_of!(Job, releases) / size_of::<u64>();
        self.of_thread.iter().map(|(tid, place)| {
            let first = *place as usize * JOB_WORDS;
            let count = self.words.load(first + COUNT);
            (*tid, count, std::array::from_fn(|n| self.words.load(first + FIRST + n)))
        })
    }

    /// Threads that ended since the last read.
    pub(super) fn ended(&self) -> usize {
        self.ended.len()
    }

    /// Tells which of the threads of `threads` sleep.
    pub(super) fn sleepers(&self, threads: ThreadTable) -> Sleepers {
        Sleepers { threads, jobs: Arc::clone(&self.words) }
    }

    /// Threads that found no place since the start.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    fn job(&self, place: u32) -> Box<Job> {
        let mut job: Box<Job> = Box::new(bytemuck::Zeroable::zeroed());
        let words: &mut [u64] = bytemuck::cast_slice_mut(std::slice::from_mut(job.as_mut()));
        for (to, from) in words.iter_mut().zip(self.job_words(place)) {
            *to = from.load(Ordering::Relaxed);
        }
        job
    }

    fn job_words(&self, place: u32) -> &[std::sync::atomic::AtomicU64] {
        let first = place as usize * JOB_WORDS;
        self.words.words().get(first..first + JOB_WORDS).unwrap_or(&[])
    }
}

/// Who sleeps, from what the kernel programs count: without a system call.
#[derive(Clone, Debug)]
pub struct Sleepers {
    threads: ThreadTable,
    jobs: Arc<SharedWords>,
}

impl Sleepers {
    /// Whether a thread has not had a CPU since it last slept. `false` also where that is not known:
    /// its jobs are not followed, or it was not seen to leave its CPU yet.
    #[must_use]
    pub fn has(&self, tid: u32) -> bool {
        const SLEPT: usize = offset_of!(Job, slept_ns) / size_of::<u64>();
        let place = self.threads.job(tid).map(usize::from);
        let word = place.and_then(|place| place.checked_mul(JOB_WORDS)?.checked_add(SLEPT));
        // Cleared when it gets a CPU.
        word.is_some_and(|word| self.jobs.load(word) != 0)
    }
}

#[cfg(test)]
mod tests {
    use downbeat_abi::NO_JOB;

    use super::super::threads::{THREAD_WORDS, TableSize};
    use super::*;

    #[test]
    fn who_sleeps_is_told_only_where_that_is_known() {
        let size = TableSize::of(4);
        let words = |len| SharedWords::in_memory(len).unwrap();
        let threads = ThreadTable::new(words(64), words(4 * THREAD_WORDS), size);
        let mut jobs = JobTable::new(words(2 * JOB_WORDS), 2);
        let sleepers = jobs.sleepers(threads.clone());
        assert!(!sleepers.has(7), "not managed");
        threads.put(7, 0, NO_JOB);
        assert!(!sleepers.has(7), "not followed");
        let place = jobs.place(7).unwrap();
        threads.put(7, 0, place);
        assert!(!sleepers.has(7), "not seen to leave or to get a CPU");
        let slept = &jobs.job_words(place)[offset_of!(Job, slept_ns) / size_of::<u64>()];
        slept.store(5, Ordering::Relaxed);
        assert!(sleepers.has(7));
        slept.store(0, Ordering::Relaxed);
        assert!(!sleepers.has(7), "it runs, or was taken off its CPU");
        slept.store(5, Ordering::Relaxed);
        threads.remove(7);
        assert!(!sleepers.has(7), "it ended");
    }
}
