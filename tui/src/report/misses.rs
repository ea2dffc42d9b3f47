//! The latest misses, newest first, and what caused them in all.

use downbeat_api::{CauseKind, Miss, Snapshot, Source};
use ratatui::text::Line;

use super::grid::{self, Cell, Chosen, Column};
use super::{Paper, words};
use crate::text::{self, Align::Left, Align::Right};
use crate::theme::Ink;
use crate::units;

const COLUMNS: [Column; 7] = [
    Column { title: "ID", min: 4, max: 10, align: Right, rank: 3 },
    Column { title: "AGO", min: 6, max: 12, align: Right, rank: 4 },
    Column { title: "THREAD", min: 9, max: 31, align: Left, rank: 1 },
    Column { title: "CLASS", min: 8, max: 16, align: Left, rank: 5 },
    Column { title: "RESPONSE", min: 8, max: 8, align: Right, rank: 2 },
    Column { title: "DEADLINE", min: 8, max: 8, align: Right, rank: 6 },
    Column { title: "CAUSE", min: 12, max: usize::MAX, align: Left, rank: 0 },
];

/// The columns that fit for these misses.
#[must_use]
pub fn choose<'a>(misses: impl Iterator<Item = &'a Miss>, now: f64, paper: Paper) -> Vec<Chosen> {
    let mut natural = [0; COLUMNS.len()];
    for miss in misses {
        for (width, cell) in natural.iter_mut().zip(cells(miss, now)) {
            *width = (*width).max(text::width(&cell.text));
        }
    }
    grid::choose(&COLUMNS, &natural, paper.width)
}

/// The heading.
#[must_use]
pub fn heading(chosen: &[Chosen], paper: Paper) -> Line<'static> {
    grid::heading(&COLUMNS, chosen, paper, None)
}

/// One miss. `now` is the wall clock, seconds since 1970.
#[must_use]
pub fn row(
    miss: &Miss,
    now: f64,
    chosen: &[Chosen],
    paper: Paper,
    selected: bool,
) -> Line<'static> {
    grid::row(&COLUMNS, chosen, &cells(miss, now), paper, selected.then_some(Ink::Selected))
}

/// The whole table, newest first, of misses whose newest is last.
#[must_use]
pub fn table(misses: &[Miss], now: f64, paper: Paper) -> Vec<Line<'static>> {
    let chosen = choose(misses.iter(), now, paper);
    let rows = misses.iter().rev().map(|miss| row(miss, now, &chosen, paper, false));
    std::iter::once(heading(&chosen, paper)).chain(rows).collect()
}

/// Why there are none.
#[must_use]
pub fn nothing(snapshot: &Snapshot) -> String {
    match &snapshot.source {
        Source::Procfs { reason } => {
            format!("No misses known: they are seen by the kernel programs alone ({reason})")
        }
        // Where nobody looks, that none was seen says nothing.
        Source::Bpf if !follows(snapshot) => "No misses known: no jobs are followed. `downbeat \
                                              doctor` says what the kernel programs can do here"
            .into(),
        Source::Bpf => format!(
            "No deadline was missed since the agent started, {} ago",
            units::span(snapshot.uptime)
        ),
    }
}

fn follows(snapshot: &Snapshot) -> bool {
    !snapshot.jobs.is_empty() || snapshot.classes.iter().any(|class| class.jobs.is_some())
}

/// `15 misses since the start: ran behind 12, own cost 3`; absent when there was none.
#[must_use]
pub fn causes(snapshot: &Snapshot) -> Option<String> {
    let mut counts: Vec<(CauseKind, u64)> = CauseKind::ALL
        .into_iter()
        .map(|kind| {
            let of_kind = snapshot.causes.iter().filter(|c| c.cause == kind);
            (kind, of_kind.map(|c| c.misses).sum())
        })
        .filter(|(_, misses)| *misses > 0)
        .collect();
    counts.sort_by_key(|(_, misses)| std::cmp::Reverse(*misses));
    let all: u64 = counts.iter().map(|(_, misses)| misses).sum();
    let parts: Vec<_> =
        counts.iter().map(|(kind, misses)| format!("{} {misses}", words::cause(*kind))).collect();
    (all > 0)
        .then(|| format!("{} since the start: {}", units::count(all, "miss"), parts.join(", ")))
}

/// The same and the latest one, for `downbeat status`; nothing when there was none.
#[must_use]
pub fn summary(snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    let mut parts: Vec<String> = causes(snapshot).into_iter().collect();
    if let Some(miss) = snapshot.misses.last() {
        parts.push(format!(
            "the latest {} ago, {}: {} (`downbeat explain --miss`)",
            units::span(snapshot.unix_time - miss.unix_time),
            words::thread(&miss.process, &miss.thread),
            miss.cause.text
        ));
    }
    if parts.is_empty() {
        return Vec::new();
    }
    paper.paragraph(Ink::Warning, &parts.join("; "), 2)
}

fn cells(miss: &Miss, now: f64) -> Vec<Cell> {
    let ago = now - miss.unix_time;
    let whole = words::thread(&miss.process, &miss.thread);
    let own = if miss.thread.is_empty() { &miss.process } else { &miss.thread };
    vec![
        Cell::plain(miss.id.to_string()),
        Cell { short: Some(units::span_short(ago)), ..Cell::new(Ink::Faint, units::span(ago)) },
        Cell { short: Some(own.clone()), ..Cell::new(Ink::Strong, whole) },
        match &miss.class {
            Some(class) => Cell::plain(class),
            None => Cell::new(Ink::Faint, units::UNKNOWN),
        },
        Cell::new(Ink::Bad, units::nanos(miss.response_ns)),
        Cell::plain(units::nanos(miss.deadline_ns)),
        Cell::plain(&miss.cause.text),
    ]
}
