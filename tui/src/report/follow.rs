//! The jobs of one process while they come: a line a second for each thread, and what was found.

use std::collections::BTreeMap;
use std::time::Duration;

use downbeat_api::{Rhythm, Snapshot, ThreadJobs};
use ratatui::text::Line;

use super::grid::{self, Cell, Chosen, Column};
use super::{Paper, jobs, words};
use crate::text::Align::{Left, Right};
use crate::theme::Ink;
use crate::units;

const COLUMNS: [Column; 9] = [
    Column { title: "AFTER", min: 5, max: 6, align: Right, rank: 6 },
    Column { title: "TID", min: 7, max: 10, align: Right, rank: 4 },
    Column { title: "THREAD", min: 9, max: 15, align: Left, rank: 0 },
    Column { title: "RELEASE", min: 9, max: 9, align: Left, rank: 5 },
    Column { title: "PERIOD", min: 9, max: 20, align: Left, rank: 1 },
    Column { title: "JOBS/s", min: 6, max: 8, align: Right, rank: 2 },
    Column { title: "RESP p50", min: 8, max: 8, align: Right, rank: 7 },
    Column { title: "p99", min: 6, max: 6, align: Right, rank: 3 },
    Column { title: "COST p50", min: 8, max: 8, align: Right, rank: 8 },
];

/// Widths that hold for every line to come: nobody knows yet what they will say.
const NATURAL: [usize; 9] = [6, 7, 15, 9, 20, 8, 8, 6, 8];

/// A process that is followed.
#[derive(Clone, Debug)]
pub struct Follow {
    pid: u32,
    threads: BTreeMap<u32, Seen>,
    headed: bool,
}

/// A thread of it.
#[derive(Clone, Debug)]
struct Seen {
    /// Jobs in all and the moment, at the line before this one.
    before: (u64, Duration),
    /// Jobs in all when it was first seen.
    first: u64,
    latest: ThreadJobs,
}

impl Follow {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        Self { pid, threads: BTreeMap::new(), headed: false }
    }

    /// Remembers threads that are seen for the first time, from which their jobs are counted.
    pub fn begin(&mut self, snapshot: &Snapshot, now: Duration) {
        for jobs in snapshot.jobs.iter().filter(|jobs| jobs.pid == self.pid) {
            let count = jobs.total.jobs;
            let new = || Seen { before: (count, now), first: count, latest: jobs.clone() };
            let seen = self.threads.entry(jobs.tid).or_insert_with(new);
            let recent = seen.latest.recent;
            seen.latest = jobs.clone();
            // Between two jobs the times of the last one stay in sight.
            if jobs.recent.jobs == 0 {
                seen.latest.recent = recent;
            }
        }
    }

    /// One line for each thread. `now` counts from the start.
    pub fn step(&mut self, snapshot: &Snapshot, now: Duration, paper: Paper) -> Vec<Line<'static>> {
        self.begin(snapshot, now);
        let chosen = grid::choose(&COLUMNS, &NATURAL, paper.width);
        let mut lines = Vec::new();
        for seen in self.threads.values_mut() {
            if snapshot.jobs.iter().all(|jobs| jobs.tid != seen.latest.tid) {
                continue;
            }
            if !std::mem::replace(&mut self.headed, true) {
                lines.push(grid::heading(&COLUMNS, &chosen, paper, None));
            }
            lines.push(line(seen, now, &chosen, paper));
            seen.before = (seen.latest.total.jobs, now);
        }
        lines
    }

    /// Whether any job was completed.
    #[must_use]
    pub fn saw_jobs(&self) -> bool {
        self.threads.values().any(|seen| seen.latest.total.jobs > seen.first)
    }

    /// What was found. `gone`: the process ended meanwhile.
    #[must_use]
    pub fn end(&self, gone: bool, paper: Paper) -> Vec<Line<'static>> {
        let pid = self.pid;
        let mut lines = Vec::new();
        if gone {
            lines.extend(paper.paragraph(Ink::Warning, &format!("{pid} has ended"), 2));
        }
        let latest: Vec<_> = self.threads.values().map(|seen| &seen.latest).collect();
        lines.extend(jobs::sleepless(&latest, paper));
        if !self.saw_jobs() {
            let text = format!(
                "no job of {pid} was seen: its threads slept all the time, or ran all the time"
            );
            lines.extend(paper.paragraph(Ink::Warning, &text, 2));
            return lines;
        }
        for Seen { latest, .. } in self.threads.values() {
            let name = words::thread(&latest.process, &latest.thread);
            let by = latest.release.map(|r| format!(", released by {}", words::released_by(r)));
            let by = by.unwrap_or_default();
            let (ink, found) = match latest.rhythm {
                Some(Rhythm::Periodic { period_ns, jitter_ns, skipped }) => {
                    let (period, jitter) = (units::period(period_ns), units::nanos(jitter_ns));
                    let mut text = format!("works every {period} ±{jitter}{by}");
                    if skipped >= 0.0005 {
                        let skipped = units::percent(skipped);
                        text.push_str(&format!("; {skipped} % of its beats were skipped"));
                    }
                    (Ink::Strong, text)
                }
                Some(Rhythm::Aperiodic { median_ns }) => {
                    let median = units::nanos(median_ns);
                    (Ink::Plain, format!("has no period (median {median}){by}"))
                }
                None => (Ink::Faint, "was released too seldom to tell a period".into()),
            };
            let text = format!("{name} ({}) {found}", latest.tid);
            lines.extend(paper.paragraph(ink, &text, 2));
        }
        lines
    }
}

fn line(seen: &Seen, now: Duration, chosen: &[Chosen], paper: Paper) -> Line<'static> {
    let Seen { before: (count, then), first: _, latest } = seen;
    let passed = now.saturating_sub(*then).as_secs_f64();
    let jobs = latest.total.jobs.saturating_sub(*count);
    let rate = jobs::per_second(jobs, passed);
    let (period, short) = jobs::rhythm(latest.rhythm);
    let own = if latest.thread.is_empty() { &latest.process } else { &latest.thread };
    let recent = &latest.recent;
    let cells = [
        Cell::new(Ink::Faint, format!("{} s", now.as_secs())),
        Cell::plain(latest.tid.to_string()),
        Cell::new(Ink::Strong, own),
        Cell::plain(latest.release.map_or(units::UNKNOWN, words::release)),
        Cell { short: Some(short), ..Cell::plain(period) },
        Cell::plain(rate.map_or_else(|| units::UNKNOWN.into(), units::rate)),
        Cell::plain(units::nanos_or_unknown(recent.response.p50_ns)),
        Cell::plain(units::nanos_or_unknown(recent.response.p99_ns)),
        Cell::plain(units::nanos_or_unknown(recent.cost.p50_ns)),
    ];
    grid::row(&COLUMNS, chosen, &cells, paper, None)
}
