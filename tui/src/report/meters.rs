//! The meters at the head of the screen: CPUs, memory, load, pressure and the agent's own cost.

use downbeat_api::{BpfCost, Cpu, Snapshot};
use ratatui::text::{Line, Span};

use super::Paper;
use crate::theme::Ink;
use crate::{text, units};

/// A part of a bar.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Its ink.
    pub ink: Ink,
    /// Its glyph: colours alone tell nothing to whoever cannot see them.
    pub glyph: char,
    /// 0 to 1.
    pub share: f64,
}

/// Narrower bars than this say little.
const MIN_METER: usize = 16;

/// `label[||||||##   12.3%]`, exactly `width` columns.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a bar is at most as wide as a terminal, and the product is clamped to it"
)]
pub fn bar(
    paper: Paper,
    label: &str,
    shares: &[Share],
    value: &str,
    width: usize,
) -> Line<'static> {
    let label = text::fit(label, text::width(label).max(3), text::Align::Right);
    let room = width.saturating_sub(text::width(&label) + 2);
    let value = text::cut(value, room);
    let mut spans = vec![paper.span(Ink::Label, label), paper.span(Ink::Strong, "[")];
    // The value stands over the bar's right end, as in htop.
    let value_at = room - text::width(&value);
    let mut at = 0;
    let mut sum = 0.0;
    for share in shares {
        sum += share.share.max(0.0);
        let end = ((sum * room as f64).round() as usize).min(value_at);
        if end > at {
            spans.push(paper.span(share.ink, share.glyph.to_string().repeat(end - at)));
            at = end;
        }
    }
    spans.push(Span::raw(" ".repeat(value_at - at)));
    spans.push(paper.span(Ink::Faint, value.into_owned()));
    spans.push(paper.span(Ink::Strong, "]"));
    Line::from(spans)
}

fn shares(cpu: &Cpu) -> [Share; 4] {
    [
        Share { ink: Ink::User, glyph: '|', share: cpu.user },
        Share { ink: Ink::System, glyph: '#', share: cpu.system },
        Share { ink: Ink::Irq, glyph: '*', share: cpu.irq },
        Share { ink: Ink::Steal, glyph: '%', share: cpu.steal },
    ]
}

/// Everything, in at most `rows` lines.
#[must_use]
pub fn lines(snapshot: &Snapshot, paper: Paper, rows: usize) -> Vec<Line<'static>> {
    let mut lines = cpus(&snapshot.cpus, paper, rows);
    let columns = if paper.width >= 76 { 2 } else { 1 };
    let half = Paper { width: (paper.width + 1) / columns - 1, ..paper };
    let mut items = items(snapshot, half);
    items.truncate((rows - lines.len().min(rows)) * columns);
    while !items.is_empty() {
        let line: Vec<_> = items.drain(..columns.min(items.len())).collect();
        lines.push(beside(&line, half.width));
    }
    lines.truncate(rows);
    lines
}

/// Lines side by side, each in its own column.
fn beside(lines: &[Line<'static>], width: usize) -> Line<'static> {
    let mut spans = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        if n > 0 {
            spans.push(Span::raw(" "));
        }
        spans.extend(line.spans.iter().cloned());
        if n + 1 < lines.len() {
            spans.push(Span::raw(" ".repeat(width.saturating_sub(line.width()))));
        }
    }
    Line::from(spans)
}

/// One bar per CPU where they fit beside one line of other meters, else their mean and one small
/// block each.
fn cpus(cpus: &[Cpu], paper: Paper, rows: usize) -> Vec<Line<'static>> {
    if cpus.is_empty() || rows == 0 {
        return Vec::new();
    }
    let preferred = match paper.width {
        ..60 => 1,
        60..120 => 2,
        120..180 => 4,
        _ => 8,
    };
    let room = if rows > 2 { rows - 2 } else { rows.saturating_sub(1).max(1) };
    let columns = [1, 2, 4, 8, 16]
        .into_iter()
        .filter(|&c| c == 1 || (c <= cpus.len() && (paper.width + 1) / c > MIN_METER))
        .find(|&c| cpus.len().div_ceil(c) <= room && (c >= preferred || c * 2 > cpus.len()));
    let Some(columns) = columns else {
        return many(cpus, paper, rows);
    };
    let width = (paper.width + 1) / columns - 1;
    let per_column = cpus.len().div_ceil(columns);
    let bars: Vec<_> = cpus
        .iter()
        .map(|cpu| {
            let value = format!("{}%", units::percent(cpu.busy + cpu.steal));
            bar(paper, &cpu.id.to_string(), &shares(cpu), &value, width)
        })
        .collect();
    // Down the columns, as in htop.
    (0..per_column)
        .map(|row| {
            let line: Vec<_> =
                (0..columns).filter_map(|c| bars.get(c * per_column + row).cloned()).collect();
            beside(&line, width)
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "no host has 2^52 CPUs")]
fn many(cpus: &[Cpu], paper: Paper, rows: usize) -> Vec<Line<'static>> {
    let n = cpus.len() as f64;
    let mean = |part: fn(&Cpu) -> f64| cpus.iter().map(part).sum::<f64>() / n;
    let all = Cpu {
        id: 0,
        busy: mean(|c| c.busy),
        user: mean(|c| c.user),
        system: mean(|c| c.system),
        irq: mean(|c| c.irq),
        iowait: mean(|c| c.iowait),
        steal: mean(|c| c.steal),
    };
    let value = format!("{}% of {}", units::percent(all.busy + all.steal), cpus.len());
    let mut lines = vec![bar(paper, "CPU", &shares(&all), &value, paper.width)];
    // One line for the memory and one for the rest are kept free.
    let strip_rows = cpus.len().div_ceil(paper.width.max(1));
    if strip_rows + 2 < rows.max(3) {
        let blocks: Vec<_> = cpus
            .iter()
            .map(|cpu| {
                let busy = cpu.busy + cpu.steal;
                let ink = match busy {
                    ..0.5 => Ink::User,
                    0.5..0.9 => Ink::Irq,
                    _ => Ink::System,
                };
                paper.span(ink, block(busy).to_string())
            })
            .collect();
        lines.extend(blocks.chunks(paper.width.max(1)).map(|c| Line::from(c.to_vec())));
    }
    lines
}

/// A block as high as the share, 0 to 1.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the share is clamped to 0 … 1 first"
)]
pub fn block(share: f64) -> char {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    BLOCKS[(share.clamp(0.0, 1.0) * 7.0).round() as usize]
}

/// The meters below the CPUs, the most important first.
fn items(snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    let mut items = vec![memory(snapshot, paper), cost(snapshot, paper)];
    let [one, five, fifteen] = snapshot.load;
    let load = format!("{one:.2} {five:.2} {fifteen:.2}");
    let pressure = match &snapshot.pressure {
        Some(p) => format!(
            "cpu {} % mem {} % io {} %",
            units::percent(p.cpu),
            units::percent(p.memory),
            units::percent(p.io)
        ),
        None => "unknown: no /proc/pressure".into(),
    };
    items.push(labelled(paper, "PSI", &pressure));
    items.push(labelled(paper, "Load", &load));
    let swap = snapshot.memory.swap_total;
    if swap > 0 {
        let used = swap.saturating_sub(snapshot.memory.swap_free);
        items.push(of(paper, "Swp", used, swap));
    }
    items
}

fn memory(snapshot: &Snapshot, paper: Paper) -> Line<'static> {
    let total = snapshot.memory.total;
    of(paper, "Mem", total.saturating_sub(snapshot.memory.available), total)
}

#[expect(clippy::cast_precision_loss, reason = "a bar has a hundred steps at most")]
fn of(paper: Paper, label: &str, used: u64, total: u64) -> Line<'static> {
    let value = format!("{}/{}", units::bytes_short(used), units::bytes_short(total));
    let share = used as f64 / total.max(1) as f64;
    bar(paper, label, &[Share { ink: Ink::User, glyph: '|', share }], &value, paper.width)
}

fn labelled(paper: Paper, label: &str, value: &str) -> Line<'static> {
    let room = paper.width.saturating_sub(text::width(label) + 1);
    Line::from(vec![
        paper.span(Ink::Label, format!("{label} ")),
        Span::raw(text::cut(value, room).into_owned()),
    ])
}

/// `agent 0.8 % · bpf 55 ns · 14 MiB`.
fn cost(snapshot: &Snapshot, paper: Paper) -> Line<'static> {
    labelled(paper, "agent", &cost_text(snapshot))
}

/// What watching costs, in words.
#[must_use]
pub fn cost_text(snapshot: &Snapshot) -> String {
    let cost = &snapshot.cost;
    let mut parts = Vec::new();
    parts.extend(cost.cpu.map(|cpu| format!("{} %", units::percent(cpu))));
    if let Some(bpf) = &cost.bpf {
        parts.push(format!(
            "bpf {}",
            mean(bpf).map_or_else(|| units::UNKNOWN.into(), |ns| format!("{ns:.0} ns"))
        ));
        let lost = bpf.dropped_events + bpf.dropped_threads + bpf.dropped_jobs;
        if lost > 0 {
            parts.push(format!("{lost} lost"));
        }
    }
    parts.push(units::bytes(cost.rss));
    parts.join(" · ")
}

/// Mean of one run over all kernel programs, nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "shown in whole nanoseconds")]
fn mean(bpf: &BpfCost) -> Option<f64> {
    let sampled = || bpf.programs.iter().filter_map(|p| p.mean_ns.map(|ns| (ns, p.runs as f64)));
    let runs: f64 = sampled().map(|(_, runs)| runs).sum();
    (runs > 0.0).then(|| sampled().map(|(ns, runs)| ns * runs).sum::<f64>() / runs)
}
