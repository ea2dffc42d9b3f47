//! Why a process is as it is.

use downbeat_api::{Explanation, LeverState, ThreadExplanation};
use ratatui::text::Line;

use super::Paper;
use crate::text::{self, Align};
use crate::theme::Ink;
use crate::units;

/// The whole chain; threads that fare alike are told together.
#[must_use]
pub fn lines(explanation: &Explanation, paper: Paper) -> Vec<Line<'static>> {
    let Explanation { pid, name, exe, threads } = explanation;
    let exe = exe.as_ref().map(|exe| format!("  {exe}")).unwrap_or_default();
    let mut lines = vec![paper.title(&format!("{name} (pid {pid}){exe}"))];
    if threads.is_empty() {
        lines.push(Line::from(paper.span(Ink::Faint, "no threads: it has ended")));
    }
    for group in alike(threads) {
        let first = group[0];
        lines.push(Line::default());
        lines.extend(paper.paragraph(Ink::Label, &who(&group), 2));
        match (&first.class, &first.rule) {
            (Some(class), Some(rule)) => {
                lines.extend(paper.paragraph(
                    Ink::Plain,
                    &format!("  class {class}, by rule {rule}"),
                    4,
                ));
            }
            (Some(class), None) => {
                lines.extend(paper.paragraph(Ink::Plain, &format!("  class {class}"), 4));
            }
            (None, _) => {
                lines.push(Line::from(paper.span(Ink::Faint, "  no rule matches: not touched")));
            }
        }
        for lever in &first.levers {
            lines.extend(lever_lines(lever, paper));
        }
    }
    lines
}

/// Threads in groups of the same class, rule and levers, in the order of their first.
fn alike(threads: &[ThreadExplanation]) -> Vec<Vec<&ThreadExplanation>> {
    let mut groups: Vec<Vec<&ThreadExplanation>> = Vec::new();
    for thread in threads {
        let same = |group: &&mut Vec<&ThreadExplanation>| {
            let ThreadExplanation { tid: _, name: _, class, rule, levers } = group[0];
            (class, rule, levers) == (&thread.class, &thread.rule, &thread.levers)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(thread),
            None => groups.push(vec![thread]),
        }
    }
    groups
}

/// `3 threads: whisper-server (812, 813), pump (814)`.
fn who(group: &[&ThreadExplanation]) -> String {
    let mut names: Vec<(&str, Vec<String>)> = Vec::new();
    for thread in group {
        match names.iter_mut().find(|(name, _)| *name == thread.name) {
            Some((_, tids)) => tids.push(thread.tid.to_string()),
            None => names.push((&thread.name, vec![thread.tid.to_string()])),
        }
    }
    let names: Vec<_> =
        names.iter().map(|(name, tids)| format!("{name} ({})", tids.join(", "))).collect();
    format!("{}: {}", units::count(group.len() as u64, "thread"), names.join(", "))
}

fn lever_lines(lever: &LeverState, paper: Paper) -> Vec<Line<'static>> {
    let LeverState { lever, old, wanted, outcome } = lever;
    let change = match old {
        Some(old) => format!("{old} → {wanted}"),
        None => wanted.clone(),
    };
    let ink = if outcome.starts_with("failed") {
        Ink::Bad
    } else if outcome.starts_with("left alone") {
        Ink::Warning
    } else {
        Ink::Plain
    };
    let head =
        format!("  {} {}", text::fit(lever, 14, Align::Left), text::fit(&change, 24, Align::Left));
    paper.paragraph(ink, &format!("{head} {outcome}"), 17)
}
