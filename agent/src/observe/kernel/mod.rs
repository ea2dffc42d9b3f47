//! The kernel programs: run-queue waits and whom they were for, jobs and their deadlines, and
//! processes that come, go and change.
//!
//! [`KernelProbes::load`] attaches them; dropping it detaches them. The programs themselves are
//! in `ebpf/`, what they share with this side in `ebpf/abi`.

mod blame;
mod btf_file;
mod cost;
mod error;
mod event;
mod jobs;
mod layout;
mod lineage;
mod load;
mod maps;
mod pins;
mod shared;
mod threads;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya::sys::Stats;
use aya_log::EbpfLogger;
use downbeat_abi::{BUCKETS, CLASS_SLOTS, Counter, NO_CLASS, NO_JOB, Waits, map, wait_parts};
use downbeat_api::{BpfCost, BpfProgram};

use self::blame::{BlameTable, CPU_WORDS, WAITED};
use self::cost::{CostSampler, Runs, Step};
use self::jobs::{JOB_WORDS, JobTable};
use self::lineage::Lineage;
use self::maps::{map_bytes, shared, take};
use self::shared::SharedWords;
use self::threads::{THREAD_WORDS, ThreadTable};
use crate::model::histogram::Histogram;
use crate::model::jobs::in_order;
use crate::roots::Roots;

pub use self::blame::Blame;
pub use self::error::ProbeError;
pub use self::event::KernelEvent;
pub use self::jobs::{Sleepers, ThreadJob};
pub use self::pins::{PinnedLineage, Pins, bpf_fs, is_bpf_fs};
pub use downbeat_abi::Origin;

/// Words of one part of a class in the map of waits.
const WAIT_WORDS: usize = BUCKETS;

/// How the programs are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeOptions {
    /// What the programs log of their own work, through the `log` crate; nothing by default,
    /// and the verifier then removes the code.
    pub log: Option<log::Level>,
    /// Bytes of the ring of events: a power of two, at least 4096. Each event takes 56.
    pub ring_bytes: u32,
    /// Records of managed threads, each of 64 bytes: rounded up to a power of two. While less than
    /// half are taken there is one for every thread; beyond that now and then one is refused.
    pub max_threads: u32,
    /// Threads whose jobs can be followed and whose waits are blamed on someone, at most 65,535. The
    /// kernel preallocates 3648 bytes each.
    pub max_jobs: u32,
    /// Whether threads' jobs are followed: releases, responses, misses.
    pub jobs: bool,
    /// Whether it is found out whom threads wait for; only together with `jobs`.
    pub blame: bool,
    /// A file with the kernel's types: BTF, or an ELF file with them in it. The programs then
    /// attach to raw tracepoints. Where there is none, the kernel's own are taken, else those
    /// that the distribution ships for it.
    pub btf: Option<PathBuf>,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self {
            log: None,
            ring_bytes: 256 * 1024,
            max_threads: 32_768,
            max_jobs: downbeat_abi::JOBS,
            jobs: true,
            blame: true,
            btf: None,
        }
    }
}

/// Something that does not work while the rest does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is lost.
    pub feature: String,
    /// Why, with the remedy.
    pub reason: String,
}

/// What was lost since the programs were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeCounters {
    /// Events that found the ring full.
    pub dropped_events: u64,
    /// Threads that found the map of managed threads full.
    pub dropped_threads: u64,
    /// Waits and jobs thrown away because the clock had run backwards.
    pub discarded_samples: u64,
    /// Threads whose jobs found no place.
    pub dropped_jobs: u64,
    /// Times that a culprit found no place in the table of blame.
    pub dropped_blame: u64,
    /// Stories of misses that found the ring full.
    pub dropped_misses: u64,
    /// Threads that slept and ran again without a wake-up that was seen.
    pub unseen_wakes: u64,
    /// Processes whose origin found no place: after a kill they are found by their parents alone.
    pub dropped_children: u64,
}

/// The kernel programs, attached as long as this lives.
///
/// Readable when an event waits that should not: see [`KernelProbes::drain`].
pub struct KernelProbes {
    ebpf: Ebpf,
    running: Vec<&'static str>,
    limits: Vec<Limit>,
    threads: ThreadTable,
    waits: SharedWords,
    wait_parts: u32,
    counters: SharedWords,
    jobs: JobTable,
    blame: BlameTable,
    /// Absent where its programs do not run.
    lineage: Option<Lineage>,
    events: RingBuf<MapData>,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Threads that [`KernelProbes::manage`] could not put in.
    refused_threads: u64,
    /// Processes that [`KernelProbes::claim`] could not put in.
    refused_origins: u64,
    ring_bytes: u32,
    map_bytes: u64,
    sampler: CostSampler,
    /// Keeps the kernel's run statistics on.
    statistics: Option<OwnedFd>,
    /// The host's own switch for them.
    statistics_switch: PathBuf,
}

impl std::fmt::Debug for KernelProbes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelProbes").field("running", &self.running).finish_non_exhaustive()
    }
}

impl KernelProbes {
    /// Loads and attaches the programs.
    ///
    /// # Errors
    /// [`ProbeError`], when one of those is refused without which the rest is of no use.
    pub fn load(roots: &Roots, options: &ProbeOptions) -> Result<Self, ProbeError> {
        let loaded = load::load(roots, options);
        give_back_freed_memory();
        let load::Loaded {
            mut ebpf,
            gate_words,
            threads: size,
            cpus,
            places,
            running,
            apart,
            limits,
        } = loaded?;

        let map_bytes = map_bytes(&ebpf, roots);
        let gate = shared(&mut ebpf, map::GATE, gate_words as usize)?;
        let waits =
            shared(&mut ebpf, map::WAITS, (CLASS_SLOTS * wait_parts(cpus)) as usize * WAIT_WORDS)?;
        let counters = shared(&mut ebpf, map::COUNTERS, downbeat_abi::COUNTERS as usize)?;
        let records = shared(&mut ebpf, map::THREADS, size.records as usize * THREAD_WORDS)?;
        let jobs = shared(&mut ebpf, map::JOBS, places as usize * JOB_WORDS)?;
        let cpu_words = shared(&mut ebpf, map::CPUS, cpus as usize * CPU_WORDS)?;
        let blame = BlameTable::new(cpu_words, cpus);
        let lineage = if apart.is_empty() { None } else { ebpf.take_map(map::LINEAGE) };
        let events = take(&mut ebpf, map::EVENTS)?;
        let log = match options.log {
            Some(_) => Some(
                EbpfLogger::init(&mut ebpf)
                    .map_err(|error| ProbeError::failed("the kernel programs' log", &error))?,
            ),
            None => None,
        };
        Ok(Self {
            sampler: CostSampler::new(running.len()),
            ebpf,
            running,
            limits,
            threads: ThreadTable::new(gate, records, size),
            waits,
            wait_parts: wait_parts(cpus),
            counters,
            jobs: JobTable::new(jobs, places),
            blame,
            lineage: lineage.map(|map| Lineage::new(map, apart)),
            events,
            log,
            refused_threads: 0,
            refused_origins: 0,
            ring_bytes: options.ring_bytes,
            map_bytes,
            statistics: None,
            statistics_switch: roots.proc.join("sys/kernel/bpf_stats_enabled"),
        })
    }

    /// What does not work although the programs run.
    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// Counts the waits of a thread under a class slot (`0..CLASS_SLOTS`) from now on, and
    /// reports its life; with [`NO_CLASS`] it only reports. Threads that it makes follow it. Of one
    /// that sleeps now, the next wake and the wait after it are not seen (`ebpf/src/gate.rs`).
    ///
    /// A thread that has ended meanwhile stays in until its id is used again: check that it
    /// lives afterwards, or [`KernelProbes::unmanage`] it when acting on it fails.
    ///
    /// # Errors
    /// `InvalidInput` for thread 0 or a slot out of range, `E2BIG` when too many threads are
    /// managed (counted in [`ProbeCounters::dropped_threads`]).
    pub fn manage(&mut self, tid: u32, slot: u32) -> io::Result<()> {
        if tid == 0 || (slot >= CLASS_SLOTS && slot != NO_CLASS) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let job = self.jobs.place(tid).unwrap_or(NO_JOB);
        if !self.threads.put(tid, slot, job) {
            self.refused_threads += 1;
            self.jobs.end(tid);
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        Ok(())
    }

    /// Puts a managed thread into another class. A wait that is under way counts as the new one's, and
    /// is blamed as the old one's.
    ///
    /// # Errors
    /// `InvalidInput` for a slot out of range, `NotFound` for a thread that is not managed.
    pub fn set_class(&mut self, tid: u32, slot: u32) -> io::Result<()> {
        if self.slot(tid).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.manage(tid, slot)
    }

    /// Forgets a thread; nothing happens where it is not managed.
    pub fn unmanage(&mut self, tid: u32) {
        if let Some(known) = self.threads.remove(tid) {
            self.blame.stops_waiting(&known);
        }
        self.jobs.end(tid);
    }

    /// The nearest ancestor of a process that was claimed, as far as it is known.
    #[must_use]
    pub fn origin(&self, pid: u32) -> Option<Origin> {
        self.lineage.as_ref()?.origin(pid)
    }

    /// From now on the kernel notes which processes come from this one. Call it before anything of
    /// the process is changed that children inherit, and once what it has inherited is journalled.
    pub fn claim(&mut self, pid: u32) {
        if let Some(lineage) = &mut self.lineage
            && lineage.claim(pid).is_err()
        {
            self.refused_origins += 1;
        }
    }

    /// Has that note outlive a kill of this process, until someone removes [`Pins::left_in`] the run
    /// directory. What cannot be had is among the limits from then on.
    pub fn outlive_kills(&mut self, run_dir: &Path, roots: &Roots) {
        let pinned = self.lineage.as_mut().map(|lineage| lineage.pin(run_dir, roots));
        self.limits.extend(pinned.and_then(Result::err));
    }

    /// Nothing of it outlives this process.
    ///
    /// # Errors
    /// As [`Pins::remove`].
    pub fn end_with_the_process(&mut self) -> io::Result<()> {
        self.lineage.as_mut().map_or(Ok(()), Lineage::unpin)
    }

    /// From now on a job of a managed thread that takes longer than this from its release to its
    /// completion is a miss; 0 for none.
    pub fn set_deadline(&self, tid: u32, deadline_ns: u64) {
        self.jobs.set_deadline(tid, deadline_ns);
    }

    /// The class slot of a managed thread.
    #[must_use]
    pub fn slot(&self, tid: u32) -> Option<u32> {
        self.threads.get(tid).map(|thread| match u32::from(thread.slot) {
            slot if slot < CLASS_SLOTS => slot,
            _ => NO_CLASS,
        })
    }

    /// Appends all events that wait, oldest first, without waiting for more, and passes on what
    /// the programs logged.
    ///
    /// The descriptor becomes readable for an exec, a fork and a rename at once. An exit alone
    /// does not make it so until a quarter of the ring is full, so drain on each tick, too.
    pub fn drain(&mut self, into: &mut Vec<KernelEvent>) {
        // Bounded by what the ring holds, so that a storm of events cannot keep the caller here.
        let mut records = self.ring_records();
        while records > 0
            && let Some(record) = self.events.next()
        {
            let event = KernelEvent::decode(&record);
            match &event {
                Some(KernelEvent::Exit { tid, .. }) => self.jobs.end(*tid),
                // The id is another thread's, or nobody's, from now on.
                Some(KernelEvent::Exec { pid, old_tid, .. }) if old_tid != pid => {
                    self.jobs.end(*old_tid);
                    self.jobs.end(*pid);
                }
                _ => {}
            }
            into.extend(event);
            records -= 1;
        }
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Waits of a class slot since the programs were loaded.
    ///
    /// # Errors
    /// `InvalidInput` for a slot out of range.
    pub fn waits(&self, slot: u32) -> io::Result<Histogram> {
        if slot >= CLASS_SLOTS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let part = |part: u32| (slot * self.wait_parts + part) as usize * WAIT_WORDS;
        let buckets = std::array::from_fn(|bucket| {
            (0..self.wait_parts).map(|n| self.waits.load(part(n) + bucket)).sum()
        });
        let sum_ns = self.blame.class_sum(WAITED, slot);
        Ok(Histogram::new(&Waits { buckets }, sum_ns))
    }

    /// Jobs of every thread that is followed, and for the last time of those that were until the
    /// last call.
    pub fn jobs(&mut self) -> Vec<ThreadJob> {
        self.jobs.read()
    }

    /// The same without what was counted: each living thread's latest releases, in order.
    pub fn releases(&self) -> impl Iterator<Item = (u32, Vec<u64>)> {
        self.jobs.releases().map(|(tid, count, times)| (tid, in_order(count, &times)))
    }

    /// Threads that ended since [`KernelProbes::jobs`] was called.
    #[must_use]
    pub fn ended_jobs(&self) -> usize {
        self.jobs.ended()
    }

    /// Which managed threads sleep, for another thread than the one that has the rest.
    #[must_use]
    pub fn sleepers(&self) -> Sleepers {
        self.jobs.sleepers(self.threads.clone())
    }

    /// How long threads of which class waited for whom since the last call. Call it more often
    /// than each five seconds: a culprit that was gone for so long loses its place. `now_ns` is
    /// `CLOCK_MONOTONIC`.
    pub fn blame(&mut self, now_ns: u64) -> Vec<Blame> {
        self.blame.read(now_ns)
    }

    /// How long the threads of a class slot ran on each CPU since the programs were loaded,
    /// nanoseconds by the CPU's number.
    #[must_use]
    pub fn class_cpu(&self, slot: u32) -> Vec<u64> {
        self.blame.class_ran(slot)
    }

    /// What was lost so far.
    #[must_use]
    pub fn counters(&self) -> ProbeCounters {
        let counter = |counter: Counter| self.counters.load(counter as usize);
        ProbeCounters {
            dropped_events: counter(Counter::DroppedEvents),
            dropped_threads: counter(Counter::DroppedThreads) + self.refused_threads,
            discarded_samples: counter(Counter::DiscardedSamples),
            dropped_jobs: self.jobs.refused(),
            dropped_blame: counter(Counter::DroppedBlame),
            dropped_misses: counter(Counter::DroppedMisses),
            unseen_wakes: counter(Counter::UnseenWakes),
            dropped_children: counter(Counter::DroppedChildren) + self.refused_origins,
        }
    }

    /// What the programs cost and lost since they were loaded. `now` is any clock that never
    /// goes back, counted from a fixed moment; call this once a tick, since it also switches the
    /// kernel's run statistics on and off.
    pub fn cost(&mut self, now: Duration) -> BpfCost {
        let programs = self.programs(now);
        let ProbeCounters {
            dropped_events,
            dropped_threads,
            discarded_samples,
            dropped_jobs,
            dropped_blame,
            dropped_misses: _,
            unseen_wakes,
            dropped_children,
        } = self.counters();
        BpfCost {
            programs,
            dropped_events,
            dropped_threads,
            discarded_samples,
            dropped_jobs,
            dropped_blame,
            unseen_wakes,
            dropped_children,
            map_bytes: self.map_bytes,
        }
    }

    fn programs(&mut self, now: Duration) -> Vec<BpfProgram> {
        match self.sampler.step(now) {
            Step::Keep => {}
            Step::Open => {
                // Refused before kernel 5.8; then nothing was measured, and nothing is told.
                self.statistics = aya::sys::enable_stats(Stats::RunTime).ok();
                if self.statistics.is_none() {
                    return Vec::new();
                }
                let runs = self.runs();
                self.sampler.opened(now, &runs);
            }
            // Someone else keeps the statistics on for all programs: what they show is exact.
            Step::Close if self.host_keeps_statistics() => {}
            Step::Close => {
                let runs = self.runs();
                self.sampler.closed(now, &runs);
                self.statistics = None;
            }
        }
        let runs = if self.statistics.is_some() { self.runs() } else { Vec::new() };
        self.sampler.totals(now, &self.running, &runs)
    }

    fn host_keeps_statistics(&self) -> bool {
        fs::read_to_string(&self.statistics_switch).is_ok_and(|text| text.trim() == "1")
    }

    fn runs(&self) -> Vec<Runs> {
        let info = |name: &&str| self.ebpf.program(name)?.info().ok();
        self.running
            .iter()
            .map(|name| {
                info(name).map_or_else(Runs::default, |info| Runs {
                    count: info.run_count(),
                    time_ns: info.run_time().as_nanos() as u64,
                })
            })
            .collect()
    }

    /// Records that fit into the ring.
    fn ring_records(&self) -> usize {
        const RECORD: usize = size_of::<downbeat_abi::Event>() + downbeat_abi::RING_HEADER;
        self.ring_bytes as usize / RECORD
    }
}

impl AsFd for KernelProbes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl AsRawFd for KernelProbes {
    fn as_raw_fd(&self) -> RawFd {
        self.events.as_raw_fd()
    }
}

/// The kernel's types take tens of megabytes while the programs are loaded, in pieces so small
/// that the allocator would keep them.
fn give_back_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no conditions; it only returns free pages.
    unsafe {
        libc::malloc_trim(0);
    }
}
