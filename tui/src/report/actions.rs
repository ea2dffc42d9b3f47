//! What the agent did.

use downbeat_api::{Actions, Snapshot};
use ratatui::text::Line;

use super::grid::{self, Cell, Column};
use super::{Paper, notices};
use crate::text::Align::{Left, Right};
use crate::theme::Ink;
use crate::units;

const LEVERS: [Column; 5] = [
    Column { title: "LEVER", min: 13, max: 20, align: Left, rank: 0 },
    Column { title: "SET", min: 7, max: 10, align: Right, rank: 1 },
    Column { title: "REFUSED", min: 7, max: 10, align: Right, rank: 2 },
    Column { title: "PUT BACK", min: 8, max: 10, align: Right, rank: 3 },
    Column { title: "LEFT TO OTHERS", min: 14, max: 14, align: Right, rank: 4 },
];

const RECENT: [Column; 5] = [
    Column { title: "AGO", min: 6, max: 12, align: Right, rank: 2 },
    Column { title: "PID", min: 7, max: 10, align: Right, rank: 1 },
    Column { title: "NAME", min: 8, max: 15, align: Left, rank: 3 },
    Column { title: "CLASS", min: 8, max: 16, align: Left, rank: 4 },
    Column { title: "WHAT", min: 12, max: usize::MAX, align: Left, rank: 0 },
];

/// The whole page: notices in full, counts, the latest actions with the newest first.
#[must_use]
pub fn lines(snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    let mut lines = notices::full(&notices::all(snapshot), paper);
    if !lines.is_empty() {
        lines.push(Line::default());
    }
    let Actions { levers, journalled, journal_failures, exec_to_set, recent } = &snapshot.actions;
    let mut head =
        format!("{} in the journal would go back now", units::count(*journalled, "value"));
    if let Some(failures) = journal_failures.filter(|failures| *failures > 0) {
        head.push_str(&format!(" · it could not be written {}", units::count(failures, "time")));
    }
    if let Some(time) = exec_to_set.filter(|t| t.count > 0) {
        head.push_str(&format!(
            " · exec to last thread set: p50 {}, p99 {}, worst {} of {}",
            units::nanos_or_unknown(time.p50_ns),
            units::nanos_or_unknown(time.p99_ns),
            units::nanos_or_unknown(time.max_ns),
            time.count
        ));
    }
    lines.extend(paper.paragraph(Ink::Plain, &head, 2));
    lines.push(Line::default());
    let rows: Vec<_> = levers
        .iter()
        .map(|l| {
            vec![
                Cell::new(Ink::Strong, &l.lever),
                Cell::plain(l.applied.to_string()),
                Cell::new(if l.failed > 0 { Ink::Bad } else { Ink::Plain }, l.failed.to_string()),
                Cell::plain(l.restored.to_string()),
                Cell::plain(l.handed_off.to_string()),
            ]
        })
        .collect();
    lines.extend(grid::table(&LEVERS, &rows, paper));
    lines.push(Line::default());
    if recent.is_empty() {
        lines.push(Line::from(paper.span(Ink::Faint, "Nothing was changed yet")));
        return lines;
    }
    let rows: Vec<_> = recent
        .iter()
        .rev()
        .map(|action| {
            let ink = if action.failed { Ink::Bad } else { Ink::Plain };
            let mark = if action.failed { "✗ " } else { "" };
            vec![
                Cell::new(Ink::Faint, units::span(snapshot.unix_time - action.unix_time)),
                Cell::plain(action.pid.to_string()),
                Cell::plain(&action.name),
                Cell::plain(&action.class),
                Cell::new(ink, format!("{mark}{}", action.text)),
            ]
        })
        .collect();
    lines.extend(grid::table(&RECENT, &rows, paper));
    lines
}
