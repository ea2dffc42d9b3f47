//! Stalls of the host's: a virtual CPU on which nothing comes on, whatever its priority.
//!
//! What the hypervisor says that it took (steal) does not tell all of them: where each exit to it
//! takes a hundred times its usual time, a CPU is busy with its timer's interrupts alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use downbeat_tests::threads::Scheduling;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Above all that the bench runs but the agent's guard against runaways, which takes microseconds.
const PRIORITY: u32 = 95;

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(2);

/// A thread on each CPU that wants to run each 2 ms and goes before all others.
pub struct Watch {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Duration>>>,
}

impl Watch {
    /// On the CPUs below `cpus`.
    pub fn start(cpus: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watch = |cpu| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || latest(cpu, &stop))
        };
        let threads = (0..cpus).map(watch).collect();
        Self { stop, threads }
    }

    /// How late the latest was.
    pub fn end(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let mut worst = Duration::ZERO;
        for thread in self.threads {
            let late =
                thread.join().map_err(|_| anyhow!("a thread that looks for stalls ended"))?;
            worst = worst.max(late?);
        }
        Ok(worst)
    }
}

fn latest(cpu: usize, stop: &AtomicBool) -> Result<Duration> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("staying on CPU {cpu}"))?;
    Scheduling::fifo(PRIORITY).apply(0).context("becoming SCHED_FIFO")?;
    let (mut due, mut worst) = (Instant::now() + PERIOD, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        worst = worst.max(now.saturating_duration_since(due));
        while due <= now {
            due += PERIOD;
        }
    }
    Ok(worst)
}
