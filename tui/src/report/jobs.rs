//! Threads that work in periods: one line each.

use downbeat_api::{Release, Rhythm, Snapshot, Source, ThreadJobs};
use ratatui::text::Line;

use super::grid::{self, Cell, Column};
use super::{Paper, words};
use crate::text::Align::{Left, Right};
use crate::theme::{Ink, Theme};
use crate::units;

const COLUMNS: [Column; 15] = [
    Column { title: "TID", min: 7, max: 10, align: Right, rank: 7 },
    Column { title: "THREAD", min: 9, max: 31, align: Left, rank: 0 },
    Column { title: "CLASS", min: 8, max: 16, align: Left, rank: 5 },
    Column { title: "RELEASE", min: 7, max: 9, align: Left, rank: 10 },
    Column { title: "PERIOD", min: 9, max: 20, align: Left, rank: 1 },
    Column { title: "DEADLINE", min: 8, max: 8, align: Right, rank: 6 },
    Column { title: "JOBS/s", min: 6, max: 8, align: Right, rank: 4 },
    Column { title: "RESP p50", min: 8, max: 8, align: Right, rank: 9 },
    Column { title: "p99", min: 6, max: 6, align: Right, rank: 3 },
    Column { title: "max", min: 6, max: 6, align: Right, rank: 8 },
    Column { title: "COST p50", min: 8, max: 8, align: Right, rank: 14 },
    Column { title: "COST p99", min: 8, max: 8, align: Right, rank: 11 },
    Column { title: "MISS", min: 4, max: 6, align: Right, rank: 12 },
    Column { title: "TOTAL", min: 5, max: 20, align: Right, rank: 2 },
    Column { title: "LATE", min: 4, max: 7, align: Right, rank: 13 },
];

/// Index of a column by its title's meaning.
mod column {
    pub(super) const THREAD: usize = 1;
    pub(super) const PERIOD: usize = 4;
}

/// From this width on names have more room, and periods their jitter.
const NAMES_FROM: usize = 100;

/// The whole page.
#[must_use]
pub fn lines(snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    if snapshot.jobs.is_empty() {
        return paper.paragraph(Ink::Faint, &nothing(snapshot), 0);
    }
    let all: Vec<_> = snapshot.jobs.iter().collect();
    let mut lines = table(snapshot, &all, paper);
    lines.extend(sleepless(&all, paper));
    lines.extend(lost(snapshot, paper));
    lines.push(Line::default());
    let legend = "Times of the last interval. RESP with its p50, p99 and max is from the release to \
                  the completion, COST the CPU time. MISS counts the interval's jobs after their deadline and TOTAL all; \
                  LATE would have been in time had they started when released.";
    lines.extend(paper.paragraph(Ink::Faint, legend, 0));
    lines
}

/// The table of some threads' jobs.
#[must_use]
pub fn table(snapshot: &Snapshot, jobs: &[&ThreadJobs], paper: Paper) -> Vec<Line<'static>> {
    let rows: Vec<_> = jobs.iter().map(|jobs| cells(snapshot, jobs)).collect();
    let mut columns = COLUMNS;
    if paper.width >= NAMES_FROM {
        columns[column::THREAD].min = 14;
        columns[column::PERIOD].min = 16;
    }
    grid::table(&columns, &rows, paper)
}

/// Why there are no jobs, and what to do about it.
#[must_use]
pub fn nothing(snapshot: &Snapshot) -> String {
    match &snapshot.source {
        Source::Procfs { reason } => {
            format!("No jobs: they are seen by the kernel programs alone ({reason})")
        }
        Source::Bpf => "No jobs yet: no thread with a class worked in periods. `downbeat follow \
                        PID` follows a program that no rule matches"
            .into(),
    }
}

/// Threads whose jobs nobody can tell apart; of many, the first few and how many more.
#[must_use]
pub fn sleepless(jobs: &[&ThreadJobs], paper: Paper) -> Vec<Line<'static>> {
    const MOST: usize = 3;
    let say = |jobs: &&ThreadJobs| {
        let name = words::thread(&jobs.process, &jobs.thread);
        Some(format!(
            "! {name} ({}) has not slept for {:.0} s: its frames cannot be told apart. It is \
             behind, or it has frames that only marks can tell (docs/frames.md)",
            jobs.tid, jobs.awake?
        ))
    };
    let all: Vec<String> = jobs.iter().filter_map(say).collect();
    let more = all.len().saturating_sub(MOST);
    let more =
        (more > 0).then(|| format!("! {} more did not sleep", units::count(more as u64, "thread")));
    let said = all.into_iter().take(MOST).chain(more);
    said.flat_map(|text| paper.paragraph(Ink::Warning, &text, 2)).collect()
}

/// What the kernel's tables had no room for.
#[must_use]
pub fn lost(snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    let bpf = snapshot.cost.bpf.as_ref();
    match bpf.map_or(0, |bpf| bpf.dropped_jobs) {
        0 => Vec::new(),
        n => {
            let text = format!("! {} not followed: the table of jobs was full", threads_are(n));
            paper.paragraph(Ink::Warning, &text, 2)
        }
    }
}

fn threads_are(n: u64) -> String {
    format!("{} {}", units::count(n, "thread"), if n == 1 { "is" } else { "are" })
}

/// Jobs a second over the interval; absent before the first interval is over.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
pub fn per_second(jobs: u64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| jobs as f64 / seconds)
}

/// `10 ms ±42 µs`, `aperiodic ~13 ms`, or [`units::UNKNOWN`] before enough was seen; and the
/// same for a narrow column.
#[must_use]
pub fn rhythm(rhythm: Option<Rhythm>) -> (String, String) {
    match rhythm {
        None => (units::UNKNOWN.into(), units::UNKNOWN.into()),
        Some(Rhythm::Periodic { period_ns, jitter_ns, skipped: _ }) => {
            let period = units::period(period_ns);
            (format!("{period} ±{}", units::nanos(jitter_ns)), period)
        }
        Some(Rhythm::Aperiodic { median_ns }) => {
            (format!("aperiodic ~{}", units::nanos(median_ns)), "aperiodic".into())
        }
    }
}

fn cells(snapshot: &Snapshot, jobs: &ThreadJobs) -> Vec<Cell> {
    let ThreadJobs {
        tid,
        pid: _,
        thread,
        process,
        class,
        release,
        rhythm: beat,
        deadline_ns,
        awake: _,
        recent,
        total,
    } = jobs;
    let tier = class.as_ref().and_then(|name| snapshot.classes.iter().find(|c| &c.name == name));
    let quiet = if recent.jobs == 0 { Ink::Faint } else { Ink::Plain };
    let rate = per_second(recent.jobs, snapshot.interval);
    let (period, short) = rhythm(*beat);
    let late = |n: u64| if n > 0 { Ink::Warning } else { quiet };
    // Without a deadline nothing can be late: absent is not zero.
    let counted = |n: u64, ink: Ink| match deadline_ns {
        Some(_) => Cell::new(ink, n.to_string()),
        None => Cell::new(Ink::Faint, units::UNKNOWN),
    };
    let name = words::thread(process, thread);
    let own = if thread.is_empty() { process } else { thread };
    vec![
        Cell::plain(tid.to_string()),
        Cell { short: Some(own.clone()), ..Cell::new(Ink::Strong, name) },
        match class {
            Some(name) => Cell::new(tier.map_or(Ink::Plain, |c| Theme::tier(&c.tier)), name),
            None => Cell::new(Ink::Faint, units::UNKNOWN),
        },
        Cell {
            short: release.filter(|r| *r == Release::Interrupt).map(|_| "irq".into()),
            ..Cell::new(quiet, release.map_or(units::UNKNOWN, words::release))
        },
        Cell { short: Some(short), ..Cell::new(quiet, period) },
        Cell::new(quiet, units::nanos_or_unknown(*deadline_ns)),
        Cell::new(quiet, rate.map_or_else(|| units::UNKNOWN.into(), units::rate)),
        Cell::new(quiet, units::nanos_or_unknown(recent.response.p50_ns)),
        Cell::new(quiet, units::nanos_or_unknown(recent.response.p99_ns)),
        Cell::new(quiet, units::nanos_or_unknown(recent.response.max_ns)),
        Cell::new(quiet, units::nanos_or_unknown(recent.cost.p50_ns)),
        Cell::new(quiet, units::nanos_or_unknown(recent.cost.p99_ns)),
        counted(recent.missed, if recent.missed > 0 { Ink::Bad } else { quiet }),
        Cell {
            short: deadline_ns.map(|_| units::short_count(total.missed)),
            ..counted(total.missed, late(total.missed))
        },
        counted(total.late_starts, late(total.late_starts)),
    ]
}
