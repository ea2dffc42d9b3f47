//! What a load generator measured, in a file that costs it no system call.
//!
//! A writer maps its file and stores into it, so nothing is lost when it is killed, and a reader
//! can look while it runs. All words are `u64` of the host's byte order: a record never leaves
//! the host that made it. Two shapes, told apart by their first word:
//!
//! - **frames**: one slot per frame: release, response, flags;
//! - **work**: per thread a list of `(time, units done so far)`.
//!
//! Times are `CLOCK_MONOTONIC` nanoseconds.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

const FRAMES: u64 = u64::from_le_bytes(*b"DBFRAMES");
const WORK: u64 = u64::from_le_bytes(*b"DBWORK 1");
const HEADER: usize = 8;
const SLOT: usize = 3;
const WORD: usize = 8;

/// The frame's sender itself came more than 1 ms late (steal, an interrupt): the stand-in for a
/// device was not as punctual as a device.
pub const LATE_RELEASE: u64 = 1;
/// The frame was never handed over, since too many were waiting.
pub const DROPPED: u64 = 2;

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The record.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{path}: not a record of this kind, or cut short")]
    Foreign {
        /// The record.
        path: PathBuf,
    },
}

/// A file of words, mapped and shared.
#[derive(Debug)]
struct Words {
    base: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping lives as long as the value, and every access goes through an atomic.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    fn create(path: &Path, len: usize) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(path)?;
        file.set_len((len * WORD) as u64)?;
        let bytes = NonZeroUsize::new(len * WORD).ok_or(io::ErrorKind::InvalidInput)?;
        // Populated now, so that no store later waits for a page.
        // SAFETY: a fresh mapping of a file that was just made long enough; no other Rust
        // reference to it exists.
        let base = unsafe {
            mmap(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE,
                &file,
                0,
            )
        }?;
        Ok(Self { base: base.cast(), len })
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        // SAFETY: inside the mapping, aligned (mappings start at a page), never unmapped while
        // `self` lives; `AtomicU64` has the layout of `u64`, and any bit pattern is one.
        (index < self.len).then(|| unsafe { self.base.add(index).as_ref() })
    }

    fn set(&self, index: usize, value: u64) {
        if let Some(word) = self.word(index) {
            word.store(value, Ordering::Release);
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `create`, with its length; no reference outlives `self`.
        // A failure leaves it mapped until the process ends.
        let _ = unsafe { munmap(self.base.cast(), self.len * WORD) };
    }
}

/// Writes a frame record. A frame is named by its sequence number, from 0.
#[derive(Debug)]
pub struct FrameWriter {
    words: Words,
}

impl FrameWriter {
    /// A new file at `path` with room for `frames` frames; later ones are not recorded.
    ///
    /// # Errors
    /// The kernel's reason when the file cannot be made or mapped.
    pub fn create(path: &Path, deadline_ns: u64, frames: usize) -> io::Result<Self> {
        let words = Words::create(path, HEADER + frames * SLOT)?;
        words.set(1, deadline_ns);
        words.set(2, frames as u64);
        words.set(0, FRAMES);
        Ok(Self { words })
    }

    /// The frame was due at `release_ns`.
    pub fn released(&self, sequence: u64, release_ns: u64, flags: u64) {
        let Some(slot) = slot(sequence) else { return };
        self.words.set(slot + 2, flags);
        // Last: a reader takes a slot with a release as complete.
        self.words.set(slot, release_ns);
    }

    /// The frame's answer came `response_ns` after its release.
    pub fn answered(&self, sequence: u64, response_ns: u64) {
        let Some(slot) = slot(sequence) else { return };
        self.words.set(slot + 1, response_ns.max(1));
    }
}

fn slot(sequence: u64) -> Option<usize> {
    usize::try_from(sequence).ok()?.checked_mul(SLOT)?.checked_add(HEADER)
}

/// One frame as recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// When it was due.
    pub release_ns: u64,
    /// From then to its answer; absent while or when there is none.
    pub response_ns: Option<u64>,
    /// [`LATE_RELEASE`], [`DROPPED`].
    pub flags: u64,
}

impl Frame {
    /// The miss rule: later than the deadline, or not answered at all.
    #[must_use]
    pub fn missed(&self, deadline_ns: u64) -> bool {
        self.response_ns.is_none_or(|response| response > deadline_ns)
    }
}

/// A frame record, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// The stream's deadline after a release.
    pub deadline_ns: u64,
    /// Frames released so far, in order of their release.
    pub frames: Vec<Frame>,
}

impl Frames {
    /// Reads a record, of a running or of an ended writer.
    ///
    /// # Errors
    /// [`RecordError`] naming the file.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let words = read_words(path, FRAMES)?;
        let slots = words[HEADER..].chunks_exact(SLOT);
        let mut frames: Vec<Frame> = slots
            .filter(|slot| slot[0] != 0)
            .map(|slot| Frame {
                release_ns: slot[0],
                response_ns: (slot[1] != 0).then_some(slot[1]),
                flags: slot[2],
            })
            .collect();
        frames.sort_by_key(|frame| frame.release_ns);
        Ok(Self { deadline_ns: words[1], frames })
    }

    /// Frames released in `from_ns..to_ns` whose deadline also falls before `to_ns`.
    pub fn between(&self, from_ns: u64, to_ns: u64) -> impl Iterator<Item = &Frame> {
        let last = to_ns.saturating_sub(self.deadline_ns);
        self.frames.iter().filter(move |f| f.release_ns >= from_ns && f.release_ns < last)
    }
}

/// How far apart a working thread's samples are.
pub const SAMPLE_EVERY_NS: u64 = 50_000_000;

/// Writes a work record.
#[derive(Debug)]
pub struct WorkWriter {
    words: Words,
    samples: usize,
}

impl WorkWriter {
    /// A new file at `path` for `threads` threads that work for at most `seconds`.
    ///
    /// # Errors
    /// The kernel's reason when the file cannot be made or mapped.
    pub fn create(path: &Path, threads: usize, seconds: u64) -> io::Result<Self> {
        let samples = usize::try_from((seconds + 5) * 1_000_000_000 / SAMPLE_EVERY_NS)
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        let words = Words::create(path, HEADER + threads * thread_words(samples))?;
        words.set(1, threads as u64);
        words.set(2, samples as u64);
        words.set(0, WORK);
        Ok(Self { words, samples })
    }

    /// Thread `thread` has done `units` since it started. Call at most every
    /// [`SAMPLE_EVERY_NS`]; what does not fit is not recorded.
    pub fn sample(&self, thread: usize, now_ns: u64, units: u64) {
        let base = HEADER + thread * thread_words(self.samples);
        let Some(length) = self.words.word(base) else {
            return;
        };
        let index = usize::try_from(length.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        if index < self.samples {
            self.words.set(base + 1 + 2 * index, now_ns);
            self.words.set(base + 2 + 2 * index, units);
            length.store(index as u64 + 1, Ordering::Release);
        }
    }
}

fn thread_words(samples: usize) -> usize {
    1 + 2 * samples
}

/// A work record, read: per thread `(time, units)`, both ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// One list per thread.
    pub threads: Vec<Vec<(u64, u64)>>,
}

impl Work {
    /// Reads a record, of a running or of an ended writer.
    ///
    /// # Errors
    /// [`RecordError`] naming the file.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let words = read_words(path, WORK)?;
        let foreign = || RecordError::Foreign { path: path.into() };
        let samples = usize::try_from(words[2]).map_err(|_| foreign())?;
        let threads = words[HEADER..]
            .chunks_exact(thread_words(samples))
            .map(|thread| {
                let used = usize::try_from(thread[0]).unwrap_or(samples).min(samples);
                thread[1..].chunks_exact(2).take(used).map(|s| (s[0], s[1])).collect()
            })
            .collect();
        Ok(Self { threads })
    }

    /// Units done in `from_ns..to_ns` over all threads, interpolated between samples.
    #[must_use]
    pub fn between(&self, from_ns: u64, to_ns: u64) -> f64 {
        let done = |at| self.threads.iter().map(|t| units_at(t, at)).sum::<f64>();
        done(to_ns) - done(from_ns)
    }
}

fn units_at(samples: &[(u64, u64)], at: u64) -> f64 {
    let next = samples.partition_point(|&(time, _)| time <= at);
    match (next.checked_sub(1).and_then(|i| samples.get(i)), samples.get(next)) {
        (Some(&(t0, u0)), Some(&(t1, u1))) => {
            let share = (at - t0) as f64 / (t1 - t0) as f64;
            u0 as f64 + share * (u1 - u0) as f64
        }
        (Some(&(_, units)), None) => units as f64,
        (None, _) => 0.0,
    }
}

fn read_words(path: &Path, magic: u64) -> Result<Vec<u64>, RecordError> {
    let unreadable = |source| RecordError::Unreadable { path: path.into(), source };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|mut file| io::Read::read_to_end(&mut file, &mut bytes))
        .map_err(unreadable)?;
    let words: Vec<u64> =
        bytes.chunks_exact(WORD).map_while(|w| w.try_into().ok().map(u64::from_ne_bytes)).collect();
    if words.len() < HEADER || words[0] != magic {
        return Err(RecordError::Foreign { path: path.into() });
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back_while_the_writer_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mic");
        let writer = FrameWriter::create(&path, 10, 3).unwrap();
        writer.released(0, 100, 0);
        writer.answered(0, 4);
        writer.released(1, 110, LATE_RELEASE);
        writer.answered(1, 11);
        writer.released(2, 120, DROPPED);
        writer.released(3, 130, 0);
        let read = Frames::read(&path).unwrap();
        assert_eq!(read.deadline_ns, 10);
        let missed: Vec<_> = read.frames.iter().map(|f| f.missed(10)).collect();
        assert_eq!(missed, [false, true, true], "the fourth has no room");
        assert_eq!(read.frames[1].flags, LATE_RELEASE);
    }

    #[test]
    fn a_frame_counts_in_the_window_that_holds_its_deadline() {
        let frame = |release_ns| Frame { release_ns, response_ns: Some(1), flags: 0 };
        let frames = Frames { deadline_ns: 10, frames: vec![frame(5), frame(10), frame(25)] };
        let counted: Vec<_> = frames.between(10, 30).map(|f| f.release_ns).collect();
        assert_eq!(counted, [10]);
    }

    #[test]
    fn work_is_interpolated_between_samples_and_summed_over_threads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hog");
        let writer = WorkWriter::create(&path, 2, 1).unwrap();
        for (at, units) in [(100, 10), (200, 30)] {
            writer.sample(0, at, units);
        }
        writer.sample(1, 100, 5);
        let work = Work::read(&path).unwrap();
        assert_eq!(work.threads, [vec![(100, 10), (200, 30)], vec![(100, 5)]]);
        assert!((work.between(100, 150) - 10.0).abs() < 1e-9);
    }

    #[test]
    fn another_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hog");
        WorkWriter::create(&path, 1, 1).unwrap();
        let error = Frames::read(&path).unwrap_err().to_string();
        assert!(error.contains("hog") && error.contains("not a record"), "{error}");
    }
}
