//! The pool and its workers.

use downbeat_api::Snapshot;
use downbeat_api::pool::{Worker, WorkerState};
use ratatui::text::Line;

use super::Paper;
use super::grid::{self, Cell, Column};
use crate::text::Align::{Left, Right};
use crate::theme::Ink;
use crate::units;

const COLUMNS: [Column; 10] = [
    Column { title: "WORKER", min: 10, max: 28, align: Left, rank: 0 },
    Column { title: "KIND", min: 8, max: 24, align: Left, rank: 6 },
    Column { title: "STATE", min: 8, max: 8, align: Left, rank: 1 },
    Column { title: "PID", min: 7, max: 10, align: Right, rank: 4 },
    Column { title: "RESTARTS", min: 8, max: 8, align: Right, rank: 5 },
    Column { title: "FRAMES", min: 8, max: 12, align: Right, rank: 7 },
    Column { title: "MISSED", min: 6, max: 10, align: Right, rank: 2 },
    Column { title: "p50", min: 6, max: 6, align: Right, rank: 8 },
    Column { title: "p99", min: 6, max: 6, align: Right, rank: 3 },
    Column { title: "NOTE", min: 10, max: usize::MAX, align: Left, rank: 9 },
];

/// The whole page.
#[must_use]
pub fn lines(snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    let Some(pool) = &snapshot.pool else {
        let text = "No pool: the agent runs none. Declare a worker in /etc/downbeat/pool.d, or \
                    name another folder with `downbeatd --pool-dir DIR`";
        return paper.paragraph(Ink::Faint, text, 0);
    };
    let mut head = vec![match pool.pid {
        Some(pid) => format!("pool runs (pid {pid})"),
        None => "pool is down, and will be started again".into(),
    }];
    head.extend(pool.rest.iter().map(|a| format!("REST {a}")));
    head.extend(pool.grpc.iter().map(|a| format!("gRPC {a}")));
    head.push(units::count(pool.workers.len() as u64, "worker"));
    let ink = if pool.pid.is_some() { Ink::Strong } else { Ink::Bad };
    let mut lines = paper.paragraph(ink, &head.join(" · "), 2);
    if let Some(note) = &pool.note {
        lines.extend(paper.paragraph(Ink::Warning, &format!("! {note}"), 2));
    }
    lines.push(Line::default());
    let rows: Vec<_> = pool.workers.iter().map(cells).collect();
    lines.extend(grid::table(&COLUMNS, &rows, paper));
    let long: Vec<_> = pool.workers.iter().filter(|w| w.note.is_some()).collect();
    if !long.is_empty() {
        lines.push(Line::default());
    }
    for worker in long {
        let note = worker.note.as_deref().unwrap_or_default();
        lines.extend(paper.paragraph(Ink::Warning, &format!("{}: {note}", worker.name), 2));
    }
    lines
}

fn cells(worker: &Worker) -> Vec<Cell> {
    let (ink, state) = match worker.state {
        WorkerState::Starting => (Ink::Label, "starting"),
        WorkerState::Ready => (Ink::Good, "ready"),
        WorkerState::Backoff => (Ink::Warning, "back-off"),
        WorkerState::Failed => (Ink::Bad, "failed"),
        WorkerState::Stopped => (Ink::Faint, "stopped"),
    };
    let number = |n: Option<u64>| n.map_or_else(|| units::UNKNOWN.into(), |n| n.to_string());
    let late = worker.missed.is_some_and(|m| m > 0);
    vec![
        Cell::new(Ink::Strong, &worker.name),
        Cell::plain(&worker.kind),
        Cell::new(ink, state),
        Cell::plain(number(worker.pid.map(Into::into))),
        Cell::new(
            if worker.restarts > 0 { Ink::Warning } else { Ink::Plain },
            worker.restarts.to_string(),
        ),
        Cell::plain(number(worker.frames)),
        Cell::new(if late { Ink::Warning } else { Ink::Plain }, number(worker.missed)),
        Cell::plain(units::nanos_or_unknown(worker.compute_p50_ns)),
        Cell::plain(units::nanos_or_unknown(worker.compute_p99_ns)),
        Cell::plain(worker.note.clone().unwrap_or_default()),
    ]
}
