//! The classes page: the table, and each class over the last minutes.

use downbeat_api::Snapshot;
use ratatui::text::{Line, Span};

use crate::report::{Paper, classes};
use crate::state::State;
use crate::state::history::{SECONDS, Second};
use crate::theme::{Ink, Theme};
use crate::{text, units};

/// Columns before a chart.
const LABEL: usize = 9;

/// Columns after it.
const VALUE: usize = 14;

/// Waits below this are the chart's ground line, nanoseconds.
const GROUND: f64 = 1e3;

/// The scale reaches at least so far, nanoseconds, so that a quiet host looks quiet.
const CEILING: f64 = 1e6;

/// All lines of the page.
pub fn lines(state: &State, snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    let mut lines = classes::lines(snapshot, paper, usize::MAX);
    let room = paper.width.saturating_sub(LABEL + VALUE);
    if room < 8 || snapshot.classes.is_empty() {
        return lines;
    }
    let each = SECONDS.div_ceil(room);
    let histories = &state.history.classes;
    let waits = histories.iter().flat_map(|h| &h.seconds).filter_map(|s| s.p99_ns);
    #[expect(clippy::cast_precision_loss, reason = "a chart has few steps")]
    let ceiling = (waits.max().unwrap_or(0) as f64).max(CEILING);
    // As high as the screen allows with all classes in sight.
    let room = usize::from(state.size.1).saturating_sub(lines.len() + 4);
    let rows = (room / snapshot.classes.len()).saturating_sub(3).clamp(1, 4);
    lines.push(Line::default());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least CEILING")]
    let scale = units::nanos(ceiling as u64);
    let over = format!(
        "Last {} min, {each} s a column; waits from 1 µs to {scale}, logarithmic",
        SECONDS / 60
    );
    lines.extend(paper.paragraph(Ink::Faint, &over, 0));
    for class in &snapshot.classes {
        let Some(history) = histories.iter().find(|h| h.name == class.name) else {
            continue;
        };
        lines.push(Line::default());
        let summary = format!("{}  {}", class.name, classes::summary(class));
        let ink = Theme::tier(&class.tier);
        lines.push(Line::from(paper.span(ink, text::cut(&summary, paper.width).into_owned())));
        let seconds = history.folded(each);
        lines.extend(wait_chart(&seconds, paper, rows, ceiling));
        lines.extend(miss_chart(&seconds, paper));
    }
    lines
}

#[expect(clippy::cast_precision_loss, reason = "a chart has few steps")]
fn wait_chart(seconds: &[Second], paper: Paper, rows: usize, ceiling: f64) -> Vec<Line<'static>> {
    let height = |ns: u64| ((ns as f64).max(GROUND) / GROUND).ln() / (ceiling / GROUND).ln();
    let heights: Vec<_> = seconds.iter().map(|s| s.p99_ns.map(height)).collect();
    let peak = seconds.iter().filter_map(|s| s.p99_ns).max();
    let rows = if peak.is_some() { rows } else { 1 };
    let value = peak.map_or_else(|| units::UNKNOWN.into(), |p| format!("peak {}", units::nanos(p)));
    chart(paper, "wait p99", &heights, rows, Ink::Label, &value)
}

#[expect(clippy::cast_precision_loss, reason = "a chart has few steps")]
fn miss_chart(seconds: &[Second], paper: Paper) -> Vec<Line<'static>> {
    let missed = || seconds.iter().filter_map(|s| s.missed);
    let peak = missed().max();
    let height = |m: u64| m as f64 / peak.unwrap_or(0).max(1) as f64;
    let heights: Vec<_> = seconds.iter().map(|s| s.missed.map(height)).collect();
    let sum: u64 = missed().sum();
    let value = peak.map_or_else(|| units::UNKNOWN.into(), |_| format!("{sum} in all"));
    chart(paper, "misses", &heights, 1, Ink::Bad, &value)
}

/// A bar chart in blocks: nothing where nothing is known, a dot for none at all.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "heights are 0 to 1 and rows are few"
)]
fn chart(
    paper: Paper,
    label: &str,
    heights: &[Option<f64>],
    rows: usize,
    ink: Ink,
    value: &str,
) -> Vec<Line<'static>> {
    const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    (0..rows)
        .map(|row| {
            let below = (rows - 1 - row) * 8;
            let bars: String = heights
                .iter()
                .map(|height| match height {
                    None => ' ',
                    Some(height) => {
                        let eighths = (height.clamp(0.0, 1.0) * rows as f64 * 8.0).round() as usize;
                        match eighths.saturating_sub(below).min(8) {
                            0 if below == 0 && *height > 0.0 => BLOCKS[1],
                            0 if below == 0 => '·',
                            n => BLOCKS[n],
                        }
                    }
                })
                .collect();
            let first = row == 0;
            Line::from(vec![
                paper.span(
                    Ink::Faint,
                    text::fit(if first { label } else { "" }, LABEL, text::Align::Left),
                ),
                paper.span(ink, bars),
                Span::raw(" "),
                Span::raw(if first {
                    text::cut(value, VALUE - 1).into_owned()
                } else {
                    String::new()
                }),
            ])
        })
        .collect()
}
