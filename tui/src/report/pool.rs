//! The pool: its models with their requests, and its workers with their processes.

use std::collections::HashMap;

use downbeat_api::Snapshot;
use downbeat_api::pool::{Model, ModelState, PoolStatus, Worker, WorkerState, declared_name};
use ratatui::text::Line;

use super::Paper;
use super::grid::{self, Cell, Column};
use crate::text::Align::{Left, Right};
use crate::theme::Ink;
use crate::units;

const MODELS: [Column; 11] = [
    Column { title: "MODEL", min: 10, max: 28, align: Left, rank: 0 },
    Column { title: "STATE", min: 8, max: 8, align: Left, rank: 1 },
    Column { title: "INST", min: 5, max: 5, align: Right, rank: 7 },
    Column { title: "QUEUE", min: 5, max: 7, align: Right, rank: 2 },
    Column { title: "RUN", min: 3, max: 5, align: Right, rank: 8 },
    Column { title: "BATCH", min: 5, max: 5, align: Right, rank: 6 },
    Column { title: "REQ/S", min: 6, max: 8, align: Right, rank: 5 },
    Column { title: "p50", min: 6, max: 6, align: Right, rank: 9 },
    Column { title: "p99", min: 6, max: 6, align: Right, rank: 3 },
    Column { title: "IN TIME", min: 7, max: 7, align: Right, rank: 4 },
    Column { title: "REQUESTS", min: 8, max: 10, align: Right, rank: 10 },
];

const WORKERS: [Column; 11] = [
    Column { title: "WORKER", min: 10, max: 28, align: Left, rank: 0 },
    Column { title: "KIND", min: 8, max: 24, align: Left, rank: 7 },
    Column { title: "STATE", min: 8, max: 8, align: Left, rank: 1 },
    Column { title: "CLASS", min: 8, max: 16, align: Left, rank: 6 },
    Column { title: "PID", min: 7, max: 10, align: Right, rank: 4 },
    Column { title: "RESTARTS", min: 8, max: 8, align: Right, rank: 5 },
    Column { title: "FRAMES", min: 8, max: 12, align: Right, rank: 8 },
    Column { title: "MISSED", min: 6, max: 10, align: Right, rank: 2 },
    Column { title: "p50", min: 6, max: 6, align: Right, rank: 9 },
    Column { title: "p99", min: 6, max: 6, align: Right, rank: 3 },
    Column { title: "NOTE", min: 10, max: usize::MAX, align: Left, rank: 10 },
];

/// Below this width the addresses are left out, and what there is to say comes last.
const WIDE_FROM: usize = 60;

/// Classes of processes by pid.
pub type Classes = HashMap<u32, String>;

/// The whole page.
#[must_use]
pub fn lines(snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    let Some(pool) = &snapshot.pool else {
        let text = "No pool: the agent runs none. Declare a worker in /etc/downbeat/pool.d, or \
                    name another folder with `downbeatd --pool-dir DIR`";
        return paper.paragraph(Ink::Faint, text, 0);
    };
    status(pool, &classes(snapshot), paper)
}

/// Classes of all processes that have one.
#[must_use]
pub fn classes(snapshot: &Snapshot) -> Classes {
    let classed = snapshot.processes.iter().filter_map(|it| Some((it.pid, it.class.clone()?)));
    classed.collect()
}

/// What the pool says of itself.
#[must_use]
pub fn status(pool: &PoolStatus, classes: &Classes, paper: Paper) -> Vec<Line<'static>> {
    let mut head = vec![match pool.pid {
        Some(pid) => format!("pool pid {pid}"),
        None => "pool is down, and will be started again".into(),
    }];
    if !pool.models.is_empty() {
        head.push(units::count(pool.models.len() as u64, "model"));
    }
    head.push(units::count(pool.workers.len() as u64, "worker"));
    if paper.width >= WIDE_FROM {
        head.extend(pool.rest.iter().map(|a| format!("REST {a}")));
        head.extend(pool.grpc.iter().map(|a| format!("gRPC {a}")));
        head.extend(pool.wyoming.iter().map(|a| format!("Wyoming {a}")));
    }
    let ink = if pool.pid.is_some() { Ink::Strong } else { Ink::Bad };
    let mut lines = paper.paragraph(ink, &head.join(" · "), 2);
    let note =
        pool.note.as_ref().map(|note| paper.paragraph(Ink::Warning, &format!("! {note}"), 2));
    let note = note.unwrap_or_default();
    // On a small screen it would push the models out of sight.
    let (above, below) = if paper.width < WIDE_FROM { (vec![], note) } else { (note, vec![]) };
    lines.extend(above);
    let models: Vec<_> = pool.models.iter().map(model).collect();
    let workers: Vec<_> = pool.workers.iter().map(|it| worker(it, classes)).collect();
    for table in [grid::table(&MODELS, &models, paper), grid::table(&WORKERS, &workers, paper)] {
        if !table.is_empty() {
            lines.push(Line::default());
            lines.extend(table);
        }
    }
    let notes = notes(pool);
    if !notes.is_empty() || !below.is_empty() {
        lines.push(Line::default());
    }
    lines.extend(below);
    for (name, note) in notes {
        lines.extend(paper.paragraph(Ink::Warning, &format!("{name}: {note}"), 2));
    }
    lines
}

/// What there is to say of workers, and of models whose workers say nothing.
fn notes(pool: &PoolStatus) -> Vec<(&str, &str)> {
    let noted = |name: &str| {
        pool.workers.iter().any(|it| declared_name(&it.name) == name && it.note.is_some())
    };
    let models = pool.models.iter().filter(|it| !noted(&it.name));
    let models = models.filter_map(|it| Some((it.name.as_str(), it.note.as_deref()?)));
    let workers = pool.workers.iter();
    models.chain(workers.filter_map(|it| Some((it.name.as_str(), it.note.as_deref()?)))).collect()
}

fn model(model: &Model) -> Vec<Cell> {
    let (ink, state) = match model.state {
        ModelState::Ready => (Ink::Good, "ready"),
        ModelState::Loading => (Ink::Label, "loading"),
        ModelState::Unavailable => (Ink::Bad, "down"),
        ModelState::Drained => (Ink::Warning, "drained"),
    };
    let unknown = || units::UNKNOWN.to_owned();
    let attained = model.attainment();
    let late = attained.is_some_and(|share| share < 0.99);
    vec![
        Cell::new(Ink::Strong, &model.name),
        Cell::new(ink, state),
        Cell::plain(format!("{}/{}", model.ready, model.instances)),
        Cell::plain(units::short_count(model.queued)),
        Cell::plain(units::short_count(model.running)),
        Cell::plain(model.batch.map_or_else(unknown, |size| format!("{size:.1}"))),
        Cell::plain(units::rate(model.rate)),
        Cell::plain(units::nanos_or_unknown(model.p50_ns)),
        Cell::plain(units::nanos_or_unknown(model.p99_ns)),
        Cell::new(
            if late { Ink::Warning } else { Ink::Plain },
            attained.map_or_else(unknown, attainment),
        ),
        Cell::plain(units::short_count(model.requests)),
    ]
}

/// Cut, not rounded: a hundred percent means that nothing was late.
fn attainment(share: f64) -> String {
    format!("{} %", units::percent((share * 1000.0).floor() / 1000.0))
}

fn worker(worker: &Worker, classes: &Classes) -> Vec<Cell> {
    let (ink, state) = match worker.state {
        WorkerState::Starting => (Ink::Label, "starting"),
        WorkerState::Ready => (Ink::Good, "ready"),
        WorkerState::Backoff => (Ink::Warning, "back-off"),
        WorkerState::Failed => (Ink::Bad, "failed"),
        WorkerState::Stopped => (Ink::Faint, "stopped"),
    };
    let number = |n: Option<u64>| n.map_or_else(|| units::UNKNOWN.into(), |n| n.to_string());
    let late = worker.missed.is_some_and(|m| m > 0);
    let class = worker.pid.and_then(|pid| classes.get(&pid));
    vec![
        Cell::new(Ink::Strong, &worker.name),
        Cell::plain(&worker.kind),
        Cell::new(ink, state),
        Cell::plain(class.map_or(units::UNKNOWN, String::as_str)),
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

#[cfg(test)]
mod tests {
    use super::attainment;

    #[test]
    fn a_hundred_percent_means_that_nothing_was_late() {
        assert_eq!(attainment(1.0), "100 %");
        assert_eq!(attainment(0.999_99), "99.9 %");
        assert_eq!(attainment(0.0), "0.0 %");
    }
}
