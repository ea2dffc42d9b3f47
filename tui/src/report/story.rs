//! The story of one missed deadline: when what happened, where the time went, and why.

use downbeat_api::{Miss, Release, Stalls};
use ratatui::text::{Line, Span};

use super::{Paper, meters, words};
use crate::text::{self, Align};
use crate::theme::Ink;
use crate::units;

/// Columns of a moment or a time.
const TIME: usize = 9;

/// Wider bars say no more.
const WIDEST_BAR: usize = 100;

/// The whole story. `now` is the wall clock, seconds since 1970.
#[must_use]
pub fn lines(miss: &Miss, now: f64, paper: Paper) -> Vec<Line<'static>> {
    let head = format!(
        "Miss {}: {} (thread {} of {}), {}, {} ago",
        miss.id,
        words::thread(&miss.process, &miss.thread),
        miss.tid,
        miss.pid,
        miss.class.as_ref().map_or_else(|| "only watched".into(), |name| format!("class {name}")),
        units::span(now - miss.unix_time)
    );
    let mut lines = paper.paragraph(Ink::Strong, &head, 2);
    let cause = format!("{}: {}", words::cause(miss.cause.kind), miss.cause.text);
    lines.extend(paper.paragraph(Ink::Bad, &cause, 2));
    lines.push(Line::default());
    lines.extend(time_line(miss, paper));
    lines.push(Line::default());
    lines.extend(whereabouts(miss, paper));
    if !miss.cause.evidence.is_empty() {
        lines.push(Line::default());
        lines.push(paper.title("Evidence"));
        for figure in &miss.cause.evidence {
            lines.extend(paper.paragraph(Ink::Plain, &format!("· {figure}"), 2));
        }
    }
    lines
}

/// Moments, counted from the release.
fn time_line(miss: &Miss, paper: Paper) -> Vec<Line<'static>> {
    let at = moment(miss.release_ns);
    let mut moments: Vec<(u64, Ink, String)> = Vec::new();
    match (miss.release, miss.late_ns) {
        (Release::Timer, 1..) => {
            moments.push((0, Ink::Plain, format!("its timer should have expired, at {at}")));
            let late = format!("the timer expired, {} late", units::nanos(miss.late_ns));
            moments.push((miss.late_ns, Ink::Warning, late));
        }
        (release, _) => {
            let text = format!("released by {}, at {at}", words::released_by(release));
            moments.push((0, Ink::Plain, text));
        }
    }
    moments.push((miss.start_ns, Ink::Plain, "started: its first moment on a CPU".into()));
    moments.push((miss.deadline_ns, Ink::Warning, "deadline".into()));
    let over = units::nanos(miss.response_ns.saturating_sub(miss.deadline_ns));
    let completed = format!("completed, {over} too late, at {} UTC", clock(miss.unix_time));
    moments.push((miss.response_ns, Ink::Bad, completed));
    // What happened together stays in the order above.
    moments.sort_by_key(|(ns, ..)| *ns);
    moments
        .into_iter()
        .flat_map(|(ns, ink, what)| {
            let after = if ns == 0 { "0".into() } else { format!("+{}", units::nanos(ns)) };
            entry(paper, Ink::Label, &after, ink, &what, 0)
        })
        .collect()
}

/// Where the time from the release to the completion went.
fn whereabouts(miss: &Miss, paper: Paper) -> Vec<Line<'static>> {
    let Stalls { io_ns, fault_ns, faults, reclaim_ns, sleep_ns } = miss.stalls;
    let share = |ink, glyph, ns| meters::Share { ink, glyph, share: ratio(ns, miss.response_ns) };
    let shares = [
        share(Ink::Bad, '@', miss.wait_ns),
        share(Ink::User, '|', miss.run_ns),
        share(Ink::Irq, 'd', io_ns.saturating_add(fault_ns)),
        share(Ink::Steal, 's', sleep_ns),
    ];
    let width = paper.width.min(WIDEST_BAR);
    let whole = units::nanos(miss.response_ns);
    let mut lines =
        vec![paper.title("Where its time went"), meters::bar(paper, "job", &shares, &whole, width)];
    let part = |ink: Ink, ns: u64, what: &str, more: &str| {
        let share = units::percent(ratio(ns, miss.response_ns));
        let text = format!("{what} ({share} %){more}");
        entry(paper, ink, &units::nanos(ns), Ink::Plain, &text, 0)
    };
    let behind = if miss.culprits.is_empty() { "" } else { " behind" };
    lines.extend(part(Ink::Bad, miss.wait_ns, "@ ready and waiting", behind));
    lines.extend(culprits(miss, paper));
    let gone = miss.run_ns.saturating_sub(miss.cost_ns);
    let cost =
        if gone > 0 { format!(", CPU time {}", units::nanos(miss.cost_ns)) } else { String::new() };
    lines.extend(part(Ink::User, miss.run_ns, "| ran", &cost));
    let read = format!("d waited for {} to be read", units::count(faults, "page"));
    let others = [
        (Ink::Irq, io_ns, "d waited for a disk"),
        (Ink::Irq, fault_ns, read.as_str()),
        (Ink::Steal, sleep_ns, "s asleep: a lock, a helper of its process, a signal"),
        (Ink::Warning, reclaim_ns, "of the above: reclaiming memory for itself"),
    ];
    for (ink, ns, what) in others.into_iter().filter(|(_, ns, _)| *ns > 0) {
        lines.extend(part(ink, ns, what, ""));
    }
    lines
}

fn culprits(miss: &Miss, paper: Paper) -> Vec<Line<'static>> {
    miss.culprits
        .iter()
        .flat_map(|culprit| {
            let (ink, _) = words::mark(culprit.kind);
            entry(paper, Ink::Plain, &units::nanos(culprit.ns), ink, &words::whole(culprit), 2)
        })
        .collect()
}

/// A time and what belongs to it, wrapped beside it.
fn entry(
    paper: Paper,
    time_ink: Ink,
    time: &str,
    ink: Ink,
    what: &str,
    indent: usize,
) -> Vec<Line<'static>> {
    let before = TIME + indent;
    let wrapped = text::wrap(what, paper.width.saturating_sub(before + 2), 2);
    wrapped
        .into_iter()
        .enumerate()
        .map(|(n, line)| {
            let head = text::fit(if n == 0 { time } else { "" }, before, Align::Right);
            Line::from(vec![paper.span(time_ink, head), Span::raw("  "), paper.span(ink, line)])
        })
        .collect()
}

/// A moment of `CLOCK_MONOTONIC` in seconds, as traces and the kernel's log print it.
fn moment(ns: u64) -> String {
    format!("{}.{:06} s", ns / 1_000_000_000, ns % 1_000_000_000 / 1_000)
}

/// The time of day, UTC: `12:34:56.789`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float too large or below zero saturates"
)]
fn clock(unix_time: f64) -> String {
    let ms = (unix_time * 1e3) as u64 % 86_400_000;
    let s = ms / 1_000;
    format!("{:02}:{:02}:{:02}.{:03}", s / 3_600, s / 60 % 60, s % 60, ms % 1_000)
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_as_traces_print_them() {
        assert_eq!(moment(12_345_006_789_000), "12345.006789 s");
        assert_eq!(clock(1_790_000_000.5), "14:13:20.500");
        assert_eq!(clock(-1.0), "00:00:00.000");
    }
}
