//! Who had the CPU while a class waited for it.

use downbeat_api::{ClassBlame, Culprit, CulpritKind, Snapshot, Source};
use ratatui::text::Line;

use super::grid::{self, Cell, Column};
use super::{Paper, meters, words};
use crate::text::Align::{Left, Right};
use crate::theme::Ink;
use crate::units;

const COLUMNS: [Column; 7] = [
    Column { title: "", min: 1, max: 1, align: Left, rank: 1 },
    Column { title: "CULPRIT", min: 12, max: 32, align: Left, rank: 0 },
    Column { title: "KIND", min: 13, max: 24, align: Left, rank: 6 },
    Column { title: "NOW", min: 6, max: 6, align: Right, rank: 3 },
    Column { title: "SHARE", min: 6, max: 6, align: Right, rank: 2 },
    Column { title: "SINCE START", min: 11, max: 11, align: Right, rank: 4 },
    Column { title: "SHARE", min: 6, max: 6, align: Right, rank: 5 },
];

/// From this width on a warning is said in full.
const LONG_FROM: usize = 80;

/// Wider bars say no more.
const WIDEST_BAR: usize = 100;

/// Every class that waited.
#[must_use]
pub fn lines(snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    if snapshot.blame.is_empty() {
        return paper.paragraph(Ink::Faint, &nothing(snapshot), 0);
    }
    let mut lines = lost(snapshot, paper);
    for (n, blame) in snapshot.blame.iter().enumerate() {
        if n > 0 || (!lines.is_empty() && paper.width >= LONG_FROM) {
            lines.push(Line::default());
        }
        lines.extend(class(snapshot, blame, paper));
    }
    lines
}

/// One class: how long it waited, a bar of who it waited for, and a table of the same.
#[must_use]
pub fn class(snapshot: &Snapshot, blame: &ClassBlame, paper: Paper) -> Vec<Line<'static>> {
    let rows = merged(blame);
    let (now, ever) = (sum(&blame.recent), sum(&blame.total));
    let head = format!(
        "{} {} in the last {}, {} since the start",
        blame.class.as_deref().unwrap_or("(only watched)"),
        if now > 0 { format!("waited {}", units::nanos(now)) } else { "did not wait".into() },
        seconds(snapshot.interval),
        units::nanos(ever)
    );
    let mut lines = paper.paragraph(Ink::Strong, &head, 2);
    // Who waits now says more; where nobody does, the bar shows the time since the start.
    let (label, whole, part): (_, _, fn(&Row) -> u64) =
        if now > 0 { ("now", now, |row| row.now) } else { ("all", ever, |row| row.ever) };
    let shares: Vec<_> = rows
        .iter()
        .map(|row| {
            let (ink, glyph) = words::mark(row.kind);
            meters::Share { ink, glyph, share: ratio(part(row), whole) }
        })
        .collect();
    lines.push(meters::bar(paper, label, &shares, "", paper.width.min(WIDEST_BAR)));
    let cells: Vec<_> = rows.iter().map(|row| cells(row, now, ever)).collect();
    lines.extend(grid::table(&COLUMNS, &cells, paper));
    lines
}

/// Why there is no blame, and what to do about it.
#[must_use]
pub fn nothing(snapshot: &Snapshot) -> String {
    match &snapshot.source {
        Source::Procfs { reason } => {
            format!("No blame: waits are seen by the kernel programs alone ({reason})")
        }
        Source::Bpf => "No blame yet: no thread with a class waited for a CPU".into(),
    }
}

fn lost(snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    match snapshot.cost.bpf.as_ref().map_or(0, |bpf| bpf.dropped_blame) {
        0 => Vec::new(),
        // On a small screen the table needs the room.
        n if paper.width < LONG_FROM => {
            let text = format!("! table full {}: some unknown", units::count(n, "time"));
            vec![Line::from(paper.span(Ink::Warning, text))]
        }
        n => {
            let text = format!(
                "! a culprit found no place in the table of blame {}: that time counts as unknown",
                units::count(n, "time")
            );
            paper.paragraph(Ink::Warning, &text, 2)
        }
    }
}

/// One culprit, over the interval and since the start, nanoseconds.
struct Row {
    kind: CulpritKind,
    name: String,
    now: u64,
    ever: u64,
}

/// Culprits of both lists, the worst of the interval first.
fn merged(blame: &ClassBlame) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut add = |culprit: &Culprit, now: u64, ever: u64| {
        let name = words::name(culprit);
        match rows.iter_mut().find(|row| row.kind == culprit.kind && row.name == name) {
            Some(row) => {
                row.now += now;
                row.ever += ever;
            }
            None => rows.push(Row { kind: culprit.kind, name, now, ever }),
        }
    };
    blame.recent.iter().for_each(|culprit| add(culprit, culprit.ns, 0));
    blame.total.iter().for_each(|culprit| add(culprit, 0, culprit.ns));
    rows.sort_by_key(|row| std::cmp::Reverse((row.now, row.ever)));
    rows
}

fn cells(row: &Row, now: u64, ever: u64) -> Vec<Cell> {
    let (ink, glyph) = words::mark(row.kind);
    let quiet = if row.now == 0 { Ink::Faint } else { Ink::Plain };
    vec![
        Cell::new(ink, glyph),
        Cell::new(ink, &row.name),
        Cell::plain(words::kind(row.kind)),
        Cell::new(quiet, time(row.now)),
        Cell::new(quiet, share(row.now, now)),
        Cell::plain(time(row.ever)),
        Cell::plain(share(row.ever, ever)),
    ]
}

fn time(ns: u64) -> String {
    if ns == 0 { units::UNKNOWN.into() } else { units::nanos(ns) }
}

fn share(part: u64, whole: u64) -> String {
    if part == 0 {
        units::UNKNOWN.into()
    } else {
        format!("{} %", units::percent(ratio(part, whole)))
    }
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn sum(culprits: &[Culprit]) -> u64 {
    culprits.iter().fold(0, |sum, culprit| sum.saturating_add(culprit.ns))
}

/// The interval, in as few digits as it has.
fn seconds(interval: f64) -> String {
    let shown = format!("{interval:.2}");
    format!("{} s", shown.trim_end_matches('0').trim_end_matches('.'))
}
