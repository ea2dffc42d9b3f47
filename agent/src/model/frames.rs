//! Frames that programs mark themselves, as jobs per process.
//!
//! They are kept apart from the jobs that the kernel programs see: the same work may show in
//! both, and a sum over both would count it twice.

use std::collections::{HashMap, VecDeque};

use downbeat_api::{Release, ThreadJobs};

use super::jobs::{JobCounts, RELEASE_KINDS};
use super::rhythm::{KEPT, rhythm};
use crate::observe::frames::{Mark, MarkKind};

/// Frames of one process that can be under way at the same time.
pub const MAX_OPEN: usize = 64;

/// Processes that can mark frames at the same time.
pub const MAX_PROCESSES: usize = 1024;

/// A process that set no mark for so long makes way for another one.
const IDLE_NS: u64 = 10_000_000_000;

/// Frames that are under way or done, by process.
#[derive(Debug, Default)]
pub struct Frames {
    processes: HashMap<u32, Process>,
    counters: MarkCounters,
}

/// Marks that came to nothing since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkCounters {
    /// Ends of frames that had not begun.
    pub orphan_ends: u64,
    /// Frames that began and were given up: begun anew, or more than [`MAX_OPEN`].
    pub unfinished: u64,
    /// Marks of processes beyond [`MAX_PROCESSES`].
    pub refused: u64,
}

/// What is said of a process that marks its frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkedProcess {
    /// Start time, clock ticks since boot: ids are reused.
    pub start_time: u64,
    /// Its name.
    pub name: String,
    /// Its main thread's class.
    pub class: Option<String>,
    /// Deadline of its class, nanoseconds.
    pub deadline_ns: Option<u64>,
}

#[derive(Debug, Default)]
struct Process {
    /// Known from the first sample on.
    start_time: Option<u64>,
    /// Deadline of its class, as of the last sample.
    deadline_ns: Option<u64>,
    /// Deadline of the latest frame that named one.
    marked_deadline_ns: Option<u64>,
    open: HashMap<Box<str>, Open>,
    begins: VecDeque<u64>,
    counts: JobCounts,
    /// As at the last sample.
    before: JobCounts,
    latest_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    begin_ns: u64,
    deadline_ns: Option<u64>,
}

impl Frames {
    /// Takes in a mark.
    pub fn mark(&mut self, mark: &Mark) {
        let Some(process) = self.place(mark) else {
            self.counters.refused += 1;
            return;
        };
        process.latest_ns = process.latest_ns.max(mark.time_ns);
        match mark.kind {
            MarkKind::Begin { deadline_ns } => {
                process.marked_deadline_ns = deadline_ns.or(process.marked_deadline_ns);
                let open = Open { begin_ns: mark.time_ns, deadline_ns };
                let given_up = process.begin(&mark.id, open);
                self.counters.unfinished += u64::from(given_up);
            }
            MarkKind::End => {
                let ended = process.end(&mark.id, mark.time_ns);
                self.counters.orphan_ends += u64::from(!ended);
            }
        }
    }

    /// The jobs of all processes that mark frames, by process. `who` says what is known of a
    /// process by its id; one of which nothing is known has ended and is forgotten.
    pub fn sample(&mut self, who: impl Fn(u32) -> Option<MarkedProcess>) -> Vec<ThreadJobs> {
        let mut shown = Vec::new();
        self.processes.retain(|pid, process| {
            let Some(known) = who(*pid) else {
                return false;
            };
            if process.start_time.is_some_and(|before| before != known.start_time) {
                // Which of the marks were the new process's is not known; its next ones are.
                *process = Process { latest_ns: process.latest_ns, ..Process::default() };
            }
            process.start_time = Some(known.start_time);
            process.deadline_ns = known.deadline_ns;
            shown.push(process.jobs(*pid, known));
            true
        });
        shown.sort_by_key(|jobs| jobs.pid);
        shown
    }

    /// Marks that came to nothing since the agent started.
    #[must_use]
    pub fn counters(&self) -> MarkCounters {
        self.counters
    }

    /// The mark's process, where there is room for it.
    fn place(&mut self, mark: &Mark) -> Option<&mut Process> {
        if !self.processes.contains_key(&mark.pid) && self.processes.len() >= MAX_PROCESSES {
            let (pid, oldest) =
                self.processes.iter().min_by_key(|(_, process)| process.latest_ns)?;
            if mark.time_ns.saturating_sub(oldest.latest_ns) < IDLE_NS {
                return None;
            }
            let pid = *pid;
            self.processes.remove(&pid);
        }
        Some(self.processes.entry(mark.pid).or_default())
    }
}

impl Process {
    /// Whether another frame was given up for it.
    fn begin(&mut self, id: &str, open: Open) -> bool {
        let anew = self.open.remove(id).is_some();
        let oldest = self.open.iter().min_by_key(|(_, open)| open.begin_ns);
        let full = self.open.len() >= MAX_OPEN;
        if full && let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
            self.open.remove(&oldest);
        }
        self.open.insert(id.into(), open);
        self.counts.released[MARKED] += 1;
        // A program may tell times in another order than that of its frames.
        let last = self.begins.back().copied();
        if last.is_none_or(|last| last <= open.begin_ns) {
            if let Some(last) = last {
                self.counts.interval.record(open.begin_ns - last);
            }
            if self.begins.len() == KEPT {
                self.begins.pop_front();
            }
            self.begins.push_back(open.begin_ns);
        }
        anew || full
    }

    /// Whether the frame had begun, and before its end.
    fn end(&mut self, id: &str, time_ns: u64) -> bool {
        let Some(open) = self.open.remove(id) else {
            return false;
        };
        let Some(response_ns) = time_ns.checked_sub(open.begin_ns) else {
            return false;
        };
        self.counts.jobs += 1;
        self.counts.response.record(response_ns);
        let deadline_ns = open.deadline_ns.or(self.deadline_ns);
        self.counts.missed += u64::from(deadline_ns.is_some_and(|deadline| response_ns > deadline));
        true
    }

    fn jobs(&mut self, pid: u32, known: MarkedProcess) -> ThreadJobs {
        let recent = self.counts.since(&self.before);
        self.before = self.counts.clone();
        let MarkedProcess { start_time: _, name, class, deadline_ns } = known;
        ThreadJobs {
            tid: pid,
            pid,
            thread: name.clone(),
            process: name,
            class,
            release: (recent.released[MARKED] > 0).then_some(Release::Marked),
            rhythm: rhythm(self.begins.make_contiguous()),
            deadline_ns: self.marked_deadline_ns.or(deadline_ns),
            awake: None,
            recent: recent.summary(),
            total: self.counts.summary(),
        }
    }
}

/// The place of marks among the kinds of release.
const MARKED: usize = RELEASE_KINDS.len() - 1;

#[cfg(test)]
mod tests {
    use downbeat_api::Rhythm;
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn begin(pid: u32, id: &str, time_ns: u64) -> Mark {
        Mark { pid, id: id.into(), kind: MarkKind::Begin { deadline_ns: None }, time_ns }
    }

    fn end(pid: u32, id: &str, time_ns: u64) -> Mark {
        Mark { pid, id: id.into(), kind: MarkKind::End, time_ns }
    }

    fn player(_: u32) -> Option<MarkedProcess> {
        Some(MarkedProcess {
            start_time: 5,
            name: "player".into(),
            class: Some("voice".into()),
            deadline_ns: Some(10 * MS),
        })
    }

    fn after(marks: &[Mark]) -> Frames {
        let mut frames = Frames::default();
        marks.iter().for_each(|mark| frames.mark(mark));
        frames
    }

    #[test]
    fn frames_are_jobs_of_their_process() {
        let mut frames = Frames::default();
        assert_eq!(frames.sample(player), []);
        frames.mark(&begin(7, "warm up", 0));
        frames.sample(player);
        for n in 1..=100_u64 {
            let start = n * 20 * MS;
            frames.mark(&begin(7, &n.to_string(), start));
            // Every fifth takes longer than its deadline.
            let took = if n.is_multiple_of(5) { 11 } else { 4 };
            frames.mark(&end(7, &n.to_string(), start + took * MS));
        }
        let jobs = &frames.sample(player)[0];
        assert_eq!((jobs.tid, jobs.pid, jobs.process.as_str()), (7, 7, "player"));
        assert_eq!(jobs.release, Some(Release::Marked));
        assert_eq!((jobs.recent.jobs, jobs.recent.missed), (100, 20));
        assert_eq!(jobs.total.response.sum_ns, (20 * 11 + 80 * 4) * MS);
        let Some(Rhythm::Periodic { period_ns, .. }) = jobs.rhythm else {
            panic!("{:?}", jobs.rhythm);
        };
        assert_eq!(period_ns, 20 * MS);
        let next = &frames.sample(player)[0];
        assert_eq!((next.recent.jobs, next.total.jobs, next.release), (0, 100, None));
        assert_eq!(frames.counters(), MarkCounters::default());
    }

    #[test]
    fn frames_may_overlap_and_have_deadlines_of_their_own() {
        let own = MarkKind::Begin { deadline_ns: Some(2 * MS) };
        let mut frames = after(&[
            begin(7, "a", 0),
            Mark { kind: own, ..begin(7, "b", MS) },
            end(7, "a", 4 * MS),
            end(7, "b", 5 * MS),
        ]);
        let jobs = &frames.sample(player)[0];
        assert_eq!((jobs.total.jobs, jobs.total.missed), (2, 1));
        assert_eq!(jobs.total.response.sum_ns, 8 * MS);
    }

    #[test]
    fn marks_that_do_not_pair_are_counted() {
        let frames = after(&[
            end(7, "a", 1),
            begin(7, "b", 2),
            begin(7, "b", 3),
            end(8, "b", 4),
            end(7, "b", 2),
        ]);
        let counters = frames.counters();
        assert_eq!((counters.orphan_ends, counters.unfinished), (3, 1));
    }

    #[test]
    fn open_frames_are_bounded_and_the_oldest_goes_first() {
        let mut frames = Frames::default();
        for n in 0..=MAX_OPEN as u64 {
            frames.mark(&begin(7, &n.to_string(), n));
        }
        assert_eq!(frames.counters().unfinished, 1);
        frames.mark(&end(7, "1", 1000));
        assert_eq!(frames.counters().orphan_ends, 0);
        frames.mark(&end(7, "0", 1000));
        assert_eq!(frames.counters().orphan_ends, 1);
    }

    #[test]
    fn processes_are_bounded_and_idle_ones_make_way() {
        let mut frames = Frames::default();
        for pid in 1..=MAX_PROCESSES as u32 {
            frames.mark(&begin(pid, "a", u64::from(pid)));
        }
        frames.mark(&begin(9999, "a", 2000));
        assert_eq!(frames.counters().refused, 1);
        frames.mark(&begin(9999, "a", IDLE_NS + 1));
        assert_eq!(frames.counters().refused, 1);
        assert_eq!(frames.sample(player).len(), MAX_PROCESSES);
        assert!(!frames.processes.contains_key(&1));
    }

    #[test]
    fn a_process_that_is_gone_is_forgotten_and_its_id_starts_anew() {
        let mut frames = after(&[begin(7, "a", 0), end(7, "a", MS)]);
        frames.sample(player);
        let other = |pid| player(pid).map(|known| MarkedProcess { start_time: 6, ..known });
        assert_eq!(frames.sample(other)[0].total.jobs, 0);
        assert_eq!(frames.sample(|_| None), []);
        assert!(frames.processes.is_empty());
    }

    proptest! {
        #[test]
        fn any_marks_keep_to_the_bounds(
            marks in prop::collection::vec((0..4_u32, 0..200_u8, any::<bool>(), any::<u64>()), 0..400),
        ) {
            let mut frames = Frames::default();
            let (mut begins, mut ends) = (0, 0);
            for (pid, id, is_begin, time_ns) in marks {
                let id = id.to_string();
                if is_begin {
                    begins += 1;
                    frames.mark(&begin(pid, &id, time_ns));
                } else {
                    ends += 1;
                    frames.mark(&end(pid, &id, time_ns));
                }
            }
            let open: usize = frames.processes.values().map(|process| process.open.len()).sum();
            prop_assert!(frames.processes.values().all(|process| process.open.len() <= MAX_OPEN));
            let jobs: u64 = frames.sample(player).iter().map(|jobs| jobs.total.jobs).sum();
            let counters = frames.counters();
            prop_assert_eq!(jobs + counters.orphan_ends, ends);
            // An end before its begin gives the frame up as well.
            prop_assert!(jobs + counters.unfinished + open as u64 <= begins);
        }
    }
}
