//! One screen of plain text: `downbeat status`.

use downbeat_api::{Cpu, Mode, Snapshot, Source};
use ratatui::text::Line;

use super::{Paper, classes, gpu, meters, misses, notices, overrides, pool, processes};
use crate::state::table::Table;
use crate::theme::Ink;
use crate::units;

/// Processes shown at least; those with a class are all shown.
const PROCESSES: usize = 15;

/// The whole text.
#[must_use]
pub fn lines(snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    let mut lines = head(snapshot, paper);
    lines.extend(overrides::summary(snapshot, paper));
    let notices = notices::full(&notices::all(snapshot), paper);
    if !notices.is_empty() {
        lines.push(Line::default());
        lines.extend(notices);
    }
    lines.push(Line::default());
    lines.extend(classes::lines(snapshot, paper, usize::MAX));
    let misses = misses::summary(snapshot, paper);
    if !misses.is_empty() {
        lines.push(Line::default());
        lines.extend(misses);
    }
    lines.push(Line::default());
    lines.extend(busiest(snapshot, paper));
    if !snapshot.gpu.devices.is_empty() {
        lines.push(Line::default());
        lines.extend(gpu::lines(snapshot, paper));
    }
    if snapshot.pool.is_some() {
        lines.push(Line::default());
        lines.extend(pool::lines(snapshot, paper));
    }
    lines
}

fn head(snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    let mode = match snapshot.mode {
        Mode::Engaged => "engaged",
        Mode::Paused => "paused",
        Mode::ObserveOnly => "observe only",
    };
    let source = match &snapshot.source {
        Source::Bpf => "kernel programs",
        Source::Procfs { .. } => "/proc alone",
    };
    let first = format!(
        "downbeat {} on {} (Linux {}): {mode}, watching through {source}, up {}",
        snapshot.version,
        snapshot.host,
        snapshot.kernel,
        units::span(snapshot.uptime)
    );
    let mut facts = Vec::new();
    if let Some(mean) = mean(&snapshot.cpus) {
        facts.push(format!(
            "{}: {} % busy (user {}, system {}, irq {}), steal {} %",
            units::count(snapshot.cpus.len() as u64, "CPU"),
            units::percent(mean.busy),
            units::percent(mean.user),
            units::percent(mean.system),
            units::percent(mean.irq),
            units::percent(mean.steal)
        ));
    }
    let memory = snapshot.memory;
    facts.push(format!(
        "memory {} of {} used",
        units::bytes(memory.total.saturating_sub(memory.available)),
        units::bytes(memory.total)
    ));
    let [one, five, fifteen] = snapshot.load;
    facts.push(format!("load {one:.2} {five:.2} {fifteen:.2}"));
    if let Some(pressure) = &snapshot.pressure {
        facts.push(format!(
            "pressure cpu {} %, memory {} %, io {} %",
            units::percent(pressure.cpu),
            units::percent(pressure.memory),
            units::percent(pressure.io)
        ));
    }
    facts.push(format!("agent {}", meters::cost_text(snapshot)));
    let mut lines = paper.paragraph(Ink::Strong, &first, 2);
    lines.extend(paper.paragraph(Ink::Plain, &facts.join("; "), 2));
    lines
}

#[expect(clippy::cast_precision_loss, reason = "no host has 2^52 CPUs")]
fn mean(cpus: &[Cpu]) -> Option<Cpu> {
    let mean = |part: fn(&Cpu) -> f64| cpus.iter().map(part).sum::<f64>() / cpus.len() as f64;
    (!cpus.is_empty()).then(|| Cpu {
        id: 0,
        busy: mean(|c| c.busy),
        user: mean(|c| c.user),
        system: mean(|c| c.system),
        irq: mean(|c| c.irq),
        iowait: mean(|c| c.iowait),
        steal: mean(|c| c.steal),
    })
}

fn busiest(snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    let mut table = Table::default();
    table.refresh(snapshot);
    let with_class = snapshot.processes.iter().filter(|p| p.class.is_some()).count();
    let shown = with_class.max(PROCESSES).min(table.rows.len());
    let chosen = processes::choose(snapshot, paper);
    let mut lines = vec![processes::heading(&chosen, paper, None)];
    let rows = table.rows.iter().take(shown);
    lines.extend(rows.filter_map(|&row| {
        let process = snapshot.processes.get(row)?;
        Some(processes::row(snapshot, process, &chosen, paper, false))
    }));
    let hidden = table.rows.len() - shown;
    if hidden > 0 {
        let more = format!("… and {} without a class", units::count(hidden as u64, "process"));
        lines.push(Line::from(paper.span(Ink::Faint, more)));
    }
    lines
}
