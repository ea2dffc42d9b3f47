//! What the demo measured: as JSON, and as a table.
//!
//! A frame is a miss when its answer came later than its deadline or not at all. Quantiles are
//! over the frames that were answered. Times are nanoseconds, shares are fractions of one.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use downbeat_api::CauseKind;
use downbeat_tests::record::{DROPPED, Frame, LATE_RELEASE};
use serde::Serialize;

use super::work::{WorkComparison, median};

/// Raised when a field changes its meaning.
const SCHEMA: u32 = 2;

/// More CPU time than this to the hypervisor and other programs spoils a round: it is marked, and
/// counted all the same.
const NOISY: f64 = 0.05;

/// Late jobs that are told one by one.
const LONGEST: usize = 5;

/// How the load was scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrangement {
    /// downbeat watches and changes nothing.
    Disengaged,
    /// downbeat does what the policy says.
    Engaged,
    /// As disengaged, with the workers' threads made SCHED_FIFO 20 and 19 by hand.
    FifoByHand,
}

impl fmt::Display for Arrangement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Disengaged => "disengaged",
            Self::Engaged => "engaged",
            Self::FifoByHand => "FIFO by hand",
        })
    }
}

/// A round as it was recorded.
#[derive(Clone, Debug)]
pub struct Round {
    /// How the load was scheduled.
    pub arrangement: Arrangement,
    /// What was counted of the round.
    pub seconds: f64,
    /// CPUs that the load could use.
    pub cpus: usize,
    /// Share of all CPUs' time that the hypervisor took.
    pub steal: f64,
    /// Share of all CPUs' time that programs outside the demo used.
    pub others: f64,
    /// Units of background work per second.
    pub work_per_second: f64,
    /// The streams' jobs that missed their deadlines, as the agent tells them; it keeps the latest
    /// 256. A frame that was dropped before its worker saw it is no job.
    pub late_jobs: Vec<LateJob>,
    /// Streams and their frames.
    pub streams: Vec<Stream>,
}

/// A job that missed its deadline.
#[derive(Clone, Debug, Serialize)]
pub struct LateJob {
    /// Of this stream.
    pub stream: String,
    /// Release to completion.
    pub response_ns: u64,
    /// Why, as the agent says.
    pub cause: CauseKind,
    /// The same for a person.
    pub text: String,
}

/// One stream's frames in one round.
#[derive(Clone, Debug)]
pub struct Stream {
    /// The worker's name.
    pub name: String,
    /// From release to worthless.
    pub deadline_ns: u64,
    /// In order of release.
    pub frames: Vec<Frame>,
    /// CPU time that its worker used.
    pub cpu_seconds: f64,
}

/// Everything that the demo measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this layout.
    pub schema: u32,
    /// `uname -r`.
    pub kernel: String,
    /// CPUs that the demo could use.
    pub cpus: usize,
    /// Threads of background work, one bursty one not counted.
    pub hog_threads: usize,
    /// Length of a round in seconds.
    pub round_seconds: f64,
    /// The start of each round that is not counted.
    pub settling_seconds: f64,
    /// Sums per arrangement.
    pub arrangements: Vec<ArrangementReport>,
    /// Each round, in order.
    pub rounds: Vec<RoundReport>,
    /// Background work of each other arrangement against disengaged, in pairs of rounds.
    pub work: Vec<WorkComparison>,
    /// What the agent cost.
    pub agent: AgentReport,
    /// What the demo left on the machine; empty when all is well.
    pub left_behind: Vec<String>,
}

/// All rounds of one arrangement.
#[derive(Clone, Debug, Serialize)]
pub struct ArrangementReport {
    /// Which.
    pub arrangement: Arrangement,
    /// Rounds.
    pub rounds: usize,
    /// Of these, with more than 5 % of the CPU time gone to the hypervisor and other programs.
    pub noisy_rounds: usize,
    /// Mean share of CPU time that the hypervisor took.
    pub steal: f64,
    /// Mean share of CPU time that programs outside the demo used.
    pub others: f64,
    /// Units of background work per second, median of the rounds.
    pub work_per_second: f64,
    /// The same per CPU-second that neither the streams nor anything outside the demo took.
    pub work_per_cpu_second_left: Option<f64>,
    /// Late jobs by cause.
    pub causes: BTreeMap<CauseKind, usize>,
    /// The longest of them.
    pub longest: Vec<LateJob>,
    /// Streams.
    pub streams: Vec<StreamReport>,
}

/// One stream under one arrangement.
#[derive(Clone, Debug, Serialize)]
pub struct StreamReport {
    /// The worker's name.
    pub name: String,
    /// From release to worthless.
    pub deadline_ns: u64,
    /// Frames released.
    pub frames: usize,
    /// Of these, later than the deadline or not answered.
    pub missed: usize,
    /// `missed / frames`.
    pub miss_share: f64,
    /// Misses per round, as shares: their median.
    pub miss_share_median: f64,
    /// Not answered at all: dropped from a full queue, or lost.
    pub unanswered: usize,
    /// Frames that were themselves sent more than 1 ms late (steal, an interrupt). They count.
    pub late_releases: usize,
    /// Misses among frames that were sent in time.
    pub missed_sent_in_time: usize,
    /// Median response.
    pub p50_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// 99.9th percentile.
    pub p999_ns: Option<u64>,
    /// Longest.
    pub max_ns: Option<u64>,
    /// CPU time of its worker, as a share of one CPU.
    pub cpu_share: f64,
    /// The same per frame that was answered.
    pub cpu_per_frame_ns: Option<u64>,
}

/// One round in short.
#[derive(Clone, Debug, Serialize)]
pub struct RoundReport {
    /// How the load was scheduled.
    pub arrangement: Arrangement,
    /// What was counted of it.
    pub seconds: f64,
    /// Share of CPU time that the hypervisor took.
    pub steal: f64,
    /// Share of all CPUs' time that programs outside the demo used.
    pub others: f64,
    /// More than 5 % went to the hypervisor and other programs.
    pub noisy: bool,
    /// Units of background work per second.
    pub work_per_second: f64,
    /// The same per CPU-second that neither the streams nor anything outside the demo took.
    pub work_per_cpu_second_left: Option<f64>,
    /// CPU time of each stream's worker, seconds, in the order of
    /// [`ArrangementReport::streams`].
    pub cpu_seconds: Vec<f64>,
    /// Per stream, in the order of [`ArrangementReport::streams`].
    pub missed: Vec<usize>,
    /// Likewise.
    pub frames: Vec<usize>,
    /// Late jobs by cause.
    pub causes: BTreeMap<CauseKind, usize>,
}

/// What the agent cost over all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct AgentReport {
    /// Resident memory at the end, from `/proc`.
    pub rss_bytes: u64,
    /// CPU time as a share of one core, from `/proc`.
    pub cpu_share: f64,
    /// From an exec in the kernel to the last thread set.
    pub exec_to_set: Option<WaitQuantiles>,
    /// Where its view came from.
    pub source: String,
}

/// A distribution in short.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WaitQuantiles {
    /// Samples.
    pub count: u64,
    /// Median.
    pub p50_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
}

impl Report {
    /// Sums up rounds. `times` are the length of a round and its settling.
    pub fn new(
        kernel: String,
        hog_threads: usize,
        times: (Duration, Duration),
        rounds: &[Round],
        agent: AgentReport,
    ) -> Self {
        let all = [Arrangement::Disengaged, Arrangement::Engaged, Arrangement::FifoByHand];
        let arrangements: Vec<ArrangementReport> =
            all.iter().filter_map(|&which| ArrangementReport::new(which, rounds)).collect();
        let others = [Arrangement::Engaged, Arrangement::FifoByHand];
        let work = others.iter().filter_map(|&which| WorkComparison::new(which, rounds)).collect();
        Self {
            schema: SCHEMA,
            kernel,
            cpus: rounds.first().map_or(0, |round| round.cpus),
            hog_threads,
            round_seconds: times.0.as_secs_f64(),
            settling_seconds: times.1.as_secs_f64(),
            arrangements,
            rounds: rounds.iter().map(RoundReport::new).collect(),
            work,
            agent,
            left_behind: Vec::new(),
        }
    }
}

impl ArrangementReport {
    fn new(arrangement: Arrangement, all: &[Round]) -> Option<Self> {
        let rounds: Vec<&Round> = all.iter().filter(|r| r.arrangement == arrangement).collect();
        let first = rounds.first()?;
        let streams = (0..first.streams.len())
            .map(|index| {
                let parts: Vec<&Stream> =
                    rounds.iter().filter_map(|round| round.streams.get(index)).collect();
                let seconds = rounds.iter().map(|round| round.seconds).sum();
                StreamReport::new(&parts, seconds)
            })
            .collect();
        let late = || rounds.iter().flat_map(|round| &round.late_jobs);
        let mut longest: Vec<LateJob> = late().cloned().collect();
        longest.sort_by_key(|job| Reverse(job.response_ns));
        longest.truncate(LONGEST);
        Some(Self {
            arrangement,
            rounds: rounds.len(),
            noisy_rounds: rounds.iter().filter(|round| round.noisy()).count(),
            steal: rounds.iter().map(|round| round.steal).sum::<f64>() / rounds.len() as f64,
            others: rounds.iter().map(|round| round.others).sum::<f64>() / rounds.len() as f64,
            work_per_second: median(rounds.iter().map(|round| round.work_per_second).collect()),
            work_per_cpu_second_left: rounds
                .iter()
                .map(|round| round.work_per_cpu_second_left())
                .collect::<Option<_>>()
                .map(median),
            causes: by_cause(late()),
            longest,
            streams,
        })
    }
}

impl Stream {
    fn missed(&self) -> usize {
        self.frames.iter().filter(|frame| frame.missed(self.deadline_ns)).count()
    }
}

impl StreamReport {
    fn new(rounds: &[&Stream], seconds: f64) -> Self {
        let deadline_ns = rounds.first().map_or(0, |stream| stream.deadline_ns);
        let name = rounds.first().map_or_else(String::new, |stream| stream.name.clone());
        let frames: Vec<Frame> = rounds.iter().flat_map(|s| s.frames.iter().copied()).collect();
        let late = |frame: &&Frame| frame.flags & LATE_RELEASE != 0;
        let missed = frames.iter().filter(|frame| frame.missed(deadline_ns)).count();
        let missed_late = frames.iter().filter(late).filter(|f| f.missed(deadline_ns)).count();
        let share = |missed, frames: usize| missed as f64 / frames.max(1) as f64;
        let per_round = rounds.iter().map(|s| share(s.missed(), s.frames.len())).collect();
        let unanswered = |f: &&Frame| f.response_ns.is_none() || f.flags & DROPPED != 0;
        let mut responses: Vec<u64> = frames.iter().filter_map(|f| f.response_ns).collect();
        responses.sort_unstable();
        let cpu_seconds: f64 = rounds.iter().map(|stream| stream.cpu_seconds).sum();
        let cpu_per_frame = cpu_seconds * 1e9 / responses.len() as f64;
        Self {
            name,
            deadline_ns,
            frames: frames.len(),
            missed,
            miss_share: share(missed, frames.len()),
            miss_share_median: median(per_round),
            unanswered: frames.iter().filter(unanswered).count(),
            late_releases: frames.iter().filter(late).count(),
            missed_sent_in_time: missed - missed_late,
            p50_ns: quantile(&responses, 0.5),
            p99_ns: quantile(&responses, 0.99),
            p999_ns: quantile(&responses, 0.999),
            max_ns: responses.last().copied(),
            cpu_share: cpu_seconds / seconds,
            cpu_per_frame_ns: (!responses.is_empty()).then_some(cpu_per_frame as u64),
        }
    }
}

fn by_cause<'a>(jobs: impl IntoIterator<Item = &'a LateJob>) -> BTreeMap<CauseKind, usize> {
    let mut causes = BTreeMap::new();
    for job in jobs {
        *causes.entry(job.cause).or_default() += 1;
    }
    causes
}

impl Round {
    fn noisy(&self) -> bool {
        self.steal + self.others > NOISY
    }
}

impl RoundReport {
    fn new(round: &Round) -> Self {
        Self {
            arrangement: round.arrangement,
            seconds: round.seconds,
            steal: round.steal,
            others: round.others,
            noisy: round.noisy(),
            work_per_second: round.work_per_second,
            work_per_cpu_second_left: round.work_per_cpu_second_left(),
            cpu_seconds: round.streams.iter().map(|stream| stream.cpu_seconds).collect(),
            missed: round.streams.iter().map(Stream::missed).collect(),
            frames: round.streams.iter().map(|stream| stream.frames.len()).collect(),
            causes: by_cause(&round.late_jobs),
        }
    }
}

/// The smallest value that at least the share `q` of all does not exceed.
pub fn quantile(sorted: &[u64], q: f64) -> Option<u64> {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(sorted.len().checked_sub(1)?)).copied()
}

/// Nanoseconds as milliseconds.
pub fn ms(ns: Option<u64>) -> String {
    ns.map_or_else(|| "-".to_owned(), |ns| format!("{:.2} ms", ns as f64 / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(arrangement: Arrangement, work: f64, responses: &[Option<u64>]) -> Round {
        let frames = responses.iter().enumerate().map(|(index, response)| Frame {
            release_ns: index as u64,
            response_ns: *response,
            flags: if response.is_none() { DROPPED } else { 0 },
        });
        Round {
            arrangement,
            seconds: 1.0,
            cpus: 2,
            steal: 0.01,
            others: 0.02,
            work_per_second: work,
            late_jobs: [CauseKind::ReleasedLate, CauseKind::Stolen, CauseKind::Stolen]
                .into_iter()
                .zip(1..)
                .map(|(cause, ms)| LateJob {
                    stream: "mic".into(),
                    response_ns: ms * 1_000_000,
                    cause,
                    text: format!("for {}", cause.name()),
                })
                .collect(),
            streams: vec![Stream {
                name: "mic".into(),
                deadline_ns: 10,
                frames: frames.collect(),
                cpu_seconds: 0.3,
            }],
        }
    }

    fn report() -> Report {
        let rounds = vec![
            round(Arrangement::Disengaged, 100.0, &[Some(5), Some(15), None, Some(10)]),
            round(Arrangement::Engaged, 97.0, &[Some(1), Some(2), Some(3), Some(4)]),
        ];
        let agent = AgentReport {
            rss_bytes: 1 << 20,
            cpu_share: 0.01,
            exec_to_set: None,
            source: "Bpf".into(),
        };
        let times = (Duration::from_secs(2), Duration::from_millis(400));
        Report::new("6.1".into(), 6, times, &rounds, agent)
    }

    #[test]
    fn late_and_unanswered_frames_are_misses_and_one_on_the_deadline_is_not() {
        let report = report();
        let stream = &report.arrangements[0].streams[0];
        assert_eq!((stream.frames, stream.missed, stream.unanswered), (4, 2, 1));
        assert_eq!(stream.max_ns, Some(15));
        assert_eq!(report.arrangements[1].streams[0].missed, 0);
        assert_eq!(report.work[0].plain.median, 0.97);
        assert_eq!(stream.cpu_per_frame_ns, Some(100_000_000), "three were answered");
    }

    #[test]
    fn the_table_names_every_figure() {
        let text = report().to_string();
        for wanted in [
            "disengaged",
            "engaged",
            "mic",
            "50.00%",
            "97.0 %",
            "100.00 ms",
            "others 2.0 %",
            "1.0 MiB",
            "the agent's causes of late jobs: 2 stolen, 1 released_late\n",
            "              mic 3.00 ms: for stolen\n",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    }

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(quantile(&values, 0.5), Some(50));
        assert_eq!(quantile(&values, 0.99), Some(99));
        assert_eq!(quantile(&values, 0.999), Some(100));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
