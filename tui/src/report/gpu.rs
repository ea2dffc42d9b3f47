//! GPUs and who uses them.

use downbeat_api::{Gpu, Snapshot};
use ratatui::text::Line;

use super::Paper;
use super::grid::{self, Cell, Column};
use super::meters::{Share, bar};
use crate::text::Align::{Left, Right};
use crate::theme::Ink;
use crate::{text, units};

const COLUMNS: [Column; 4] = [
    Column { title: "PID", min: 7, max: 10, align: Right, rank: 1 },
    Column { title: "GPU MEM", min: 7, max: 7, align: Right, rank: 2 },
    Column { title: "CLASS", min: 8, max: 20, align: Left, rank: 3 },
    Column { title: "COMMAND", min: 12, max: usize::MAX, align: Left, rank: 0 },
];

/// The whole page.
#[must_use]
pub fn lines(snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if let Some(note) = &snapshot.gpu.note {
        lines.extend(paper.paragraph(Ink::Faint, note, 2));
    } else if snapshot.gpu.devices.is_empty() {
        lines.extend(paper.paragraph(Ink::Faint, "No GPU", 0));
    }
    for gpu in &snapshot.gpu.devices {
        if !lines.is_empty() {
            lines.push(Line::default());
        }
        lines.extend(device(snapshot, gpu, paper));
    }
    lines
}

fn device(snapshot: &Snapshot, gpu: &Gpu, paper: Paper) -> Vec<Line<'static>> {
    let mut lines = vec![paper.title(&format!("{} {}", gpu.index, gpu.name))];
    let mut facts = Vec::new();
    facts.extend(gpu.temperature.map(|t| format!("{t:.0} °C")));
    facts.extend(gpu.power.map(|p| match gpu.power_limit {
        Some(limit) => format!("{p:.0} of {limit:.0} W"),
        None => format!("{p:.0} W"),
    }));
    facts.extend(gpu.memory_utilization.map(|m| format!("memory bus {} %", units::percent(m))));
    if !gpu.uuid.is_empty() {
        facts.push(gpu.uuid.clone());
    }
    if !facts.is_empty() {
        let line = facts.join(" · ");
        lines.push(Line::from(paper.span(Ink::Faint, text::cut(&line, paper.width).into_owned())));
    }
    if !gpu.slowed.is_empty() {
        let text = format!("! held below its clocks by {}", gpu.slowed.join(", "));
        lines.extend(paper.paragraph(Ink::Warning, &text, 2));
    }
    let width = paper.width.min(80);
    if let Some(share) = gpu.utilization {
        let shares = [Share { ink: Ink::User, glyph: '|', share }];
        lines.push(bar(paper, "GPU", &shares, &format!("{}%", units::percent(share)), width));
    }
    if let (Some(used), Some(total @ 1..)) = (gpu.memory_used, gpu.memory_total) {
        let label = format!("{}/{}", units::bytes_short(used), units::bytes_short(total));
        #[expect(clippy::cast_precision_loss, reason = "a bar has a hundred steps at most")]
        let shares = [Share { ink: Ink::Irq, glyph: '|', share: used as f64 / total as f64 }];
        lines.push(bar(paper, "Mem", &shares, &label, width));
    }
    if gpu.processes.is_empty() {
        lines.push(Line::from(paper.span(Ink::Faint, "no process uses it")));
    }
    let rows: Vec<_> = gpu
        .processes
        .iter()
        .map(|user| {
            let process = snapshot.processes.iter().find(|p| p.pid == user.pid);
            let memory = user.memory.map_or_else(|| units::UNKNOWN.into(), units::bytes_short);
            let class = process.and_then(|p| p.class.as_deref()).unwrap_or(units::UNKNOWN);
            let command = process.map_or("(not visible from here)", |p| p.command.as_str());
            vec![
                Cell::plain(user.pid.to_string()),
                Cell::plain(memory),
                Cell::plain(class),
                Cell::plain(command),
            ]
        })
        .collect();
    lines.extend(grid::table(&COLUMNS, &rows, paper));
    lines
}
