//! The classes of the policy and how they fare.

use downbeat_api::{Class, Misses, Snapshot};
use ratatui::text::Line;

use super::Paper;
use super::grid::{self, Cell, Column};
use crate::state::Page;
use crate::text::Align::{Left, Right};
use crate::theme::{Ink, Theme};
use crate::units;

const COLUMNS: [Column; 10] = [
    Column { title: "CLASS", min: 8, max: 24, align: Left, rank: 0 },
    Column { title: "MODALITY", min: 8, max: 8, align: Left, rank: 9 },
    Column { title: "TIER", min: 11, max: 11, align: Left, rank: 8 },
    Column { title: "SCHED", min: 8, max: 20, align: Left, rank: 5 },
    Column { title: "PROC", min: 4, max: 5, align: Right, rank: 6 },
    Column { title: "THR", min: 4, max: 6, align: Right, rank: 7 },
    Column { title: "CPU%", min: 5, max: 6, align: Right, rank: 2 },
    Column { title: "WAIT p50", min: 8, max: 8, align: Right, rank: 4 },
    Column { title: "p99", min: 6, max: 6, align: Right, rank: 1 },
    Column { title: "MISSES", min: 7, max: 26, align: Right, rank: 3 },
];

/// From this width on misses are counted; below it only their share has room.
const COUNTS_FROM: usize = 70;

/// The table with its heading; classes beyond `rows` are counted in its last row, and those with
/// members are shown first then.
#[must_use]
pub fn lines(snapshot: &Snapshot, paper: Paper, rows: usize) -> Vec<Line<'static>> {
    if snapshot.classes.is_empty() {
        let text = "No classes: no policy is in force. Put one into /etc/downbeat/policy.d";
        return paper.paragraph(Ink::Faint, text, 0);
    }
    let shown = shown(&snapshot.classes, rows);
    let cells: Vec<_> = shown.iter().map(|class| cells(class)).collect();
    let mut columns = COLUMNS;
    if paper.width >= COUNTS_FROM {
        // Counts of frames say more than modality or tier.
        columns[COLUMNS.len() - 1].min = 18;
    }
    let mut lines = grid::table(&columns, &cells, paper);
    let hidden = snapshot.classes.len() - shown.len();
    if hidden > 0 && lines.len() <= rows {
        lines.push(Line::from(
            paper.span(Ink::Faint, format!("… {hidden} more on page {}", Page::Classes.number())),
        ));
    }
    lines
}

/// Which classes have a place in a table of so many lines, its heading included.
fn shown(classes: &[Class], rows: usize) -> Vec<&Class> {
    let room = rows.saturating_sub(1);
    if classes.len() <= room {
        return classes.iter().collect();
    }
    // The last line says how many are missing, where there is more than one.
    let room = if room > 1 { room - 1 } else { room };
    let mut order: Vec<usize> = (0..classes.len()).collect();
    order.sort_by_key(|&i| classes[i].threads == 0);
    order.truncate(room);
    order.sort_unstable();
    order.into_iter().map(|i| &classes[i]).collect()
}

fn cells(class: &Class) -> Vec<Cell> {
    let recent = class.wait.as_ref().map(|w| w.recent);
    let misses = misses(class);
    let missed = misses.is_some_and(|m| m.missed > 0);
    let idle = class.threads == 0;
    let ink = if idle { Ink::Faint } else { Ink::Plain };
    vec![
        Cell::new(if idle { Ink::Faint } else { Theme::tier(&class.tier) }, &class.name),
        Cell::new(ink, &class.modality),
        Cell::new(ink, &class.tier),
        Cell::new(ink, &class.sched),
        Cell::new(ink, class.processes.to_string()),
        Cell::new(ink, class.threads.to_string()),
        Cell::new(ink, units::percent(class.cpu)),
        Cell::new(ink, units::nanos_or_unknown(recent.and_then(|r| r.p50_ns))),
        Cell::new(ink, units::nanos_or_unknown(recent.and_then(|r| r.p99_ns))),
        Cell {
            short: misses.map(units::miss_share),
            ..Cell::new(if missed { Ink::Warning } else { ink }, units::misses(misses))
        },
    ]
}

/// Its misses: those that its programs report themselves, else those of its jobs. Without a
/// deadline no job can be late, and nothing is said.
#[must_use]
pub fn misses(class: &Class) -> Option<Misses> {
    let of_jobs = class.jobs.as_ref().map(|jobs| jobs.total);
    let of_jobs = of_jobs.filter(|total| class.deadline_ns.is_some() || total.missed > 0);
    class.misses.or(of_jobs.map(|total| Misses { frames: total.jobs, missed: total.missed }))
}

/// What a class is, in one line, for its own part of the classes page.
#[must_use]
pub fn summary(class: &Class) -> String {
    let mut parts = vec![class.modality.clone(), class.tier.clone(), class.sched.clone()];
    if let Some(deadline) = class.deadline_ns {
        parts.push(format!("deadline {}", units::nanos(deadline)));
    }
    parts.push(units::count(class.processes.into(), "process"));
    parts.push(units::count(class.threads.into(), "thread"));
    parts.push(format!("CPU {} %", units::percent(class.cpu)));
    parts.join(" · ")
}
