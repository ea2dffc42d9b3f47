//! Frames, misses and computing time, counted without a lock so that a real-time thread never
//! waits for a reporting one.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// How many of the latest frames the quantiles cover: about ten seconds of one stream.
const WINDOW: usize = 1024;

/// Counters of one worker.
pub struct Meter {
    frames: AtomicU64,
    missed: AtomicU64,
    /// Computing time of the latest frames, nanoseconds.
    latest: [AtomicU32; WINDOW],
}

/// What a [`Meter`] showed at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Frames processed since the start.
    pub frames: u64,
    /// Of these, finished after their deadline.
    pub missed: u64,
    /// Median and 99th percentile of the computing time over the window, nanoseconds; absent
    /// before the first frame.
    pub compute: Option<(u32, u32)>,
}

impl Meter {
    /// All zero.
    pub fn new() -> Self {
        Self {
            frames: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            latest: [const { AtomicU32::new(0) }; WINDOW],
        }
    }

    /// Counts one frame that took `compute_ns` of CPU time.
    pub fn count(&self, compute_ns: u64, missed: bool) {
        let index = self.frames.fetch_add(1, Relaxed) as usize % WINDOW;
        self.latest[index].store(u32::try_from(compute_ns).unwrap_or(u32::MAX), Relaxed);
        if missed {
            self.missed.fetch_add(1, Relaxed);
        }
    }

    /// Reads all counters.
    pub fn read(&self) -> Reading {
        let frames = self.frames.load(Relaxed);
        let filled = usize::try_from(frames).unwrap_or(WINDOW).min(WINDOW);
        let mut times: Vec<u32> = self.latest[..filled].iter().map(|t| t.load(Relaxed)).collect();
        times.sort_unstable();
        let at = |percent: usize| times.get((filled * percent).div_ceil(100).max(1) - 1).copied();
        Reading { frames, missed: self.missed.load(Relaxed), compute: at(50).zip(at(99)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_before_the_first_frame() {
        assert_eq!(Meter::new().read(), Reading::default());
    }

    #[test]
    fn quantiles_cover_the_latest_frames_only() {
        let meter = Meter::new();
        for _ in 0..500 {
            meter.count(1_000_000, true);
        }
        for i in 0..WINDOW as u64 {
            meter.count(i + 1, false);
        }
        let reading = meter.read();
        assert_eq!((reading.frames, reading.missed), (1524, 500));
        assert_eq!(reading.compute, Some((512, 1014)));
    }

    #[test]
    fn one_frame_is_both_quantiles() {
        let meter = Meter::new();
        meter.count(u64::MAX, false);
        assert_eq!(meter.read().compute, Some((u32::MAX, u32::MAX)));
    }
}
