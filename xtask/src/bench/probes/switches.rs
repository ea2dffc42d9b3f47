//! As many switches a second as asked for: on each CPU two threads that hand each other the turn,
//! and somebody who counts all switches of the host and sets their pace.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::Pid;

/// The turns of one beat are taken at once, then the pair sleeps until the next.
const BEAT: Duration = Duration::from_millis(1);

/// How often the pace is set anew.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Round trips that a pair may make in a beat, at most: beyond, the machine is full.
const MOST: f64 = 2_000.0;

/// Parts in which the pace is kept, so that it need not be whole.
const PARTS: f64 = 1_000.0;

/// A maker of switches; it ends when dropped.
#[derive(Debug)]
pub struct Switches {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Switches {
    /// Starts it: the host as a whole is to make `per_second` switches, if it makes fewer
    /// without.
    pub fn start(per_second: f64) -> Result<Self> {
        let cpus = thread::available_parallelism().context("counting CPUs")?.get();
        let mut switches = Self { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() };
        let pace = Arc::new(AtomicU64::new(0));
        for cpu in 0..cpus {
            switches.pair(cpu, &pace)?;
        }
        let stop = Arc::clone(&switches.stop);
        let name = thread::Builder::new().name("pace".into());
        let keep = move || keep_pace(per_second, cpus as f64, &pace, &stop);
        switches.threads.push(name.spawn(keep).context("starting a thread")?);
        Ok(switches)
    }

    fn pair(&mut self, cpu: usize, pace: &Arc<AtomicU64>) -> Result<()> {
        let event = || EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC).map(Arc::new);
        let (ping, pong) = (event().context("eventfd")?, event().context("eventfd")?);
        let (pace, stop) = (Arc::clone(pace), Arc::clone(&self.stop));
        let ended = Arc::new(AtomicBool::new(false));
        let (to, from, over) = (Arc::clone(&ping), Arc::clone(&pong), Arc::clone(&ended));
        let serve = move || {
            stay_on(cpu);
            let mut credit = 0.0;
            while !stop.load(Ordering::Relaxed) {
                let next = Instant::now() + BEAT;
                credit += pace.load(Ordering::Relaxed) as f64 / PARTS;
                while credit >= 1.0 {
                    credit -= 1.0;
                    if to.write(1).and_then(|_| from.read()).is_err() {
                        return;
                    }
                }
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            over.store(true, Ordering::Relaxed);
            // Wakes the other one for its end; nothing can be done where this fails.
            let _ = to.write(1);
        };
        let answer = move || {
            stay_on(cpu);
            while ping.read().is_ok() && !ended.load(Ordering::Relaxed) && pong.write(1).is_ok() {}
        };
        let spawn = |name: &str| thread::Builder::new().name(name.into());
        self.threads.push(spawn("ping").spawn(serve).context("starting a thread")?);
        self.threads.push(spawn("pong").spawn(answer).context("starting a thread")?);
        Ok(())
    }
}

impl Drop for Switches {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Both of a pair on one CPU: then each turn is a switch.
fn stay_on(cpu: usize) {
    let mut set = CpuSet::new();
    // A CPU that went offline leaves them where they are.
    let _ = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
}

fn keep_pace(per_second: f64, pairs: f64, pace: &AtomicU64, stop: &AtomicBool) {
    let mut trips = 0.0;
    let mut before = count();
    let mut since = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(LOOK_EVERY);
        let (now, at) = (count(), Instant::now());
        let (Ok(earlier), Ok(later)) = (&before, &now) else { return };
        let rate = later.saturating_sub(*earlier) as f64 / (at - since).as_secs_f64();
        trips = next_pace(trips, per_second - rate, pairs);
        pace.store((trips * PARTS) as u64, Ordering::Relaxed);
        (before, since) = (now, at);
    }
}

/// Round trips of each pair and beat, from those until now and how many switches a second are
/// lacking. Half of what lacks is made up for at a time: the rest of the host has a pace of its
/// own.
fn next_pace(trips: f64, lacking: f64, pairs: f64) -> f64 {
    let per_trip = 2.0 * pairs / BEAT.as_secs_f64();
    (trips + lacking / per_trip / 2.0).clamp(0.0, MOST)
}

/// Switches of all CPUs since the start of the host.
pub fn count() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = text.lines().find_map(|line| line.strip_prefix("ctxt "));
    line.and_then(|line| line.trim().parse().ok()).context("/proc/stat: no line `ctxt`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_comes_to_what_was_asked_for() {
        let (pairs, others) = (2.0, 3_000.0);
        let mut trips = 0.0;
        for _ in 0..20 {
            let rate = others + trips * pairs * 2.0 * 1_000.0;
            trips = next_pace(trips, 50_000.0 - rate, pairs);
        }
        assert!((trips - 47_000.0 / 4_000.0).abs() < 0.01, "{trips}");
        assert_eq!(next_pace(1.0, -1e9, pairs), 0.0);
        assert_eq!(next_pace(1.0, 1e12, pairs), MOST);
    }

    #[test]
    fn switches_are_made_and_end() {
        let switches = Switches::start(20_000.0).unwrap();
        let before = count().unwrap();
        thread::sleep(Duration::from_millis(1_500));
        let made = count().unwrap() - before;
        drop(switches);
        assert!(made > 5_000, "{made} switches");
    }
}
