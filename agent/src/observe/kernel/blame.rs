//! For whom threads waited: the kernel programs' sums by CPU, victim and place, put together by
//! who the culprits are.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use downbeat_abi::{
    CLASS_SLOTS, ClassTimes, Cpu, Culprit, CulpritKind, HASHED, KEEP_NS, Label, NO_CLASS,
    ONE_WAITING, PLACES, Thread, VICTIMS, own_place, place, waiting_in,
};

use super::shared::SharedWords;

/// Words of one CPU's record.
pub(super) const CPU_WORDS: usize = size_of::<Cpu>() / size_of::<u64>();

/// Where its labels and its sums begin, in words.
const LABELS: usize = std::mem::offset_of!(Cpu, labels) / size_of::<u64>();
const SUMS: usize = std::mem::offset_of!(Cpu, blame) / size_of::<u64>();
/// As above, of the classes' running and waiting times.
const CLASSES: usize = std::mem::offset_of!(Cpu, classes) / size_of::<u64>();
const CLASS_WORDS: usize = size_of::<ClassTimes>() / size_of::<u64>();
const RAN: usize = CLASSES + std::mem::offset_of!(ClassTimes, ran_ns) / size_of::<u64>();
pub(super) const WAITED: usize =
    CLASSES + std::mem::offset_of!(ClassTimes, waited_ns) / size_of::<u64>();
/// As above, of the threads that wait.
const ROWS: usize = std::mem::offset_of!(Cpu, rows) / size_of::<u64>();
const SETTLED: usize = std::mem::offset_of!(Cpu, settled) / size_of::<u64>();
const OWN: usize = std::mem::offset_of!(Cpu, own_waiting) / size_of::<u64>();
const LABEL_WORDS: usize = size_of::<Label>() / size_of::<u64>();

/// How long threads of one class waited for one culprit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blame {
    /// Slot of the class that waited, or [`NO_CLASS`].
    pub victim: u32,
    /// Who had the CPU, and for how many nanoseconds since the last read.
    pub culprit: Culprit,
}

/// The sums as they were at the last read.
#[derive(Debug)]
pub(super) struct BlameTable {
    words: SharedWords,
    cpus: usize,
    before: Vec<[[u64; PLACES]; VICTIMS]>,
    /// When that was.
    read_ns: u64,
}

impl BlameTable {
    pub(super) fn new(words: SharedWords, cpus: u32) -> Self {
        let cpus = cpus as usize;
        Self { words, cpus, before: vec![[[0; PLACES]; VICTIMS]; cpus], read_ns: 0 }
    }

    /// A sum of a class slot over all CPUs, which begins at word `first` of each CPU's record.
    pub(super) fn class_sum(&self, first: usize, slot: u32) -> u64 {
        (0..self.cpus).map(|cpu| self.class_word(cpu, first, slot)).sum()
    }

    /// How long a class slot's threads ran on each CPU, nanoseconds.
    pub(super) fn class_ran(&self, slot: u32) -> Vec<u64> {
        (0..self.cpus).map(|cpu| self.class_word(cpu, RAN, slot)).collect()
    }

    fn class_word(&self, cpu: usize, first: usize, slot: u32) -> u64 {
        self.words.load(cpu * CPU_WORDS + first + slot as usize * CLASS_WORDS)
    }

    /// A thread is taken out of the table of threads: if it waited, it does not count on
    /// its CPU any more. Whoever is missed here is when that CPU has nothing to run.
    pub(super) fn stops_waiting(&self, thread: &Thread) {
        if thread.blame_ns == 0 {
            return;
        }
        let row = usize::from(thread.row).min(VICTIMS - 1);
        let cpu = usize::from(thread.cpu) * CPU_WORDS;
        let settled = self.words.load(cpu + SETTLED + row);
        // A count is 0 already where the kernel set it right.
        self.change(cpu + ROWS + row, |row| {
            (waiting_in(row.wrapping_sub(settled)) != 0).then(|| row.wrapping_sub(ONE_WAITING))
        });
        if thread.process != 0 {
            self.change(cpu + OWN + own_place(thread.process), |own| {
                (own & u64::from(u32::MAX) != 0).then(|| own - 1)
            });
        }
    }

    fn change(&self, word: usize, to: impl Fn(u64) -> Option<u64>) {
        if let Some(word) = self.words.words().get(word) {
            let _ = word.fetch_update(Relaxed, Relaxed, to);
        }
    }

    /// What was added since the last read. `now_ns` is `CLOCK_MONOTONIC`.
    pub(super) fn read(&mut self, now_ns: u64) -> Vec<Blame> {
        // A place goes to another only when nobody used it for so long: whoever looks in time
        // finds all that was added since the last look to be the present one's.
        let in_time = now_ns.saturating_sub(self.read_ns) < KEEP_NS;
        let mut sums: HashMap<(u32, u32, u32, [u8; 16]), u64> = HashMap::new();
        for cpu in 0..self.cpus {
            for victim in 0..VICTIMS {
                for n in 0..PLACES {
                    let at = cpu * CPU_WORDS + SUMS + victim * PLACES + n;
                    let now = self.words.load(at);
                    let before = std::mem::replace(&mut self.before[cpu][victim][n], now);
                    let ns = now.saturating_sub(before);
                    if ns > 0 {
                        let culprit = self.culprit(cpu, n, in_time);
                        let key = (victim as u32, culprit.kind, culprit.id, culprit.comm);
                        *sums.entry(key).or_default() += ns;
                    }
                }
            }
        }
        self.read_ns = now_ns;
        sums.into_iter()
            .map(|((victim, kind, id, comm), ns)| Blame {
                victim: if victim < CLASS_SLOTS { victim } else { NO_CLASS },
                culprit: Culprit { kind, id, comm, ns },
            })
            .collect()
    }

    fn culprit(&self, cpu: usize, n: usize, in_time: bool) -> Culprit {
        let plain = |kind: CulpritKind, id| Culprit { kind: kind as u32, id, ..Culprit::default() };
        match n {
            0..HASHED => {
                let label = self.label(cpu, n);
                if in_time || label.since_ns <= self.read_ns {
                    // A class may have several places, one for each process.
                    let is_class = label.kind == CulpritKind::Class as u32;
                    let comm = if is_class { Default::default() } else { label.comm };
                    Culprit { kind: label.kind, id: label.id, comm, ns: 0 }
                } else {
                    plain(CulpritKind::Unknown, 0)
                }
            }
            place::IDLE => plain(CulpritKind::Idle, 0),
            place::TIMER => plain(CulpritKind::Timer, 0),
            place::STOLEN => plain(CulpritKind::Stolen, 0),
            place::WORKLOAD => plain(CulpritKind::Workload, 0),
            _ => plain(CulpritKind::Unknown, 0),
        }
    }

    fn label(&self, cpu: usize, n: usize) -> Label {
        let first = cpu * CPU_WORDS + LABELS + n * LABEL_WORDS;
        let words: [u64; LABEL_WORDS] = std::array::from_fn(|word| self.words.load(first + word));
        bytemuck::cast(words)
    }
}
