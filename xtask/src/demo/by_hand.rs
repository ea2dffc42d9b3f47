//! SCHED_FIFO by hand, to measure downbeat against what an expert would do.

use std::io;

use anyhow::{Context, Result};
use downbeat_tests::processes::tids;
use downbeat_tests::threads::Scheduling;

use super::scene::{CAMERA, MIC, Scene};

/// Earlier deadline, higher priority.
const PRIORITIES: [(&str, u32); 2] = [(MIC, 20), (CAMERA, 19)];

/// Threads as they were; put back when dropped.
#[derive(Debug, Default)]
pub struct ByHand {
    old: Vec<(u32, Scheduling)>,
}

impl ByHand {
    /// Makes every thread of the two workers SCHED_FIFO.
    pub fn set(scene: &Scene) -> Result<Self> {
        let mut by_hand = Self::default();
        for (name, priority) in PRIORITIES {
            let pid = scene.worker(name)?.pid.context("a worker without a process")?;
            for tid in tids(pid) {
                match by_hand.set_one(tid, priority) {
                    // A thread that ended meanwhile needs nothing.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    other => other.with_context(|| format!("sched_setattr of thread {tid}"))?,
                }
            }
        }
        Ok(by_hand)
    }

    fn set_one(&mut self, tid: u32, priority: u32) -> io::Result<()> {
        let old = Scheduling::of(tid)?;
        Scheduling::fifo(priority).apply(tid)?;
        self.old.push((tid, old));
        Ok(())
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        for (tid, old) in self.old.drain(..) {
            // Ended threads need nothing; these are the demo's own and end with it.
            let _ = old.apply(tid);
        }
    }
}
