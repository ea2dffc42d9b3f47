//! Why a process is as it is.

use downbeat_api::{
    Explanation, LeverState, Mode, SharedExplanation, ThreadExplanation, ThreadJobs,
};
use ratatui::text::Line;

use super::{Paper, jobs, overrides, plan, words};
use crate::text::{self, Align};
use crate::theme::Ink;
use crate::units;

/// Actions that are told, the latest ones.
const ACTIONS: usize = 8;

/// The whole chain; threads that fare alike are told together.
#[must_use]
pub fn lines(explanation: &Explanation, paper: Paper) -> Vec<Line<'static>> {
    let Explanation {
        pid,
        name,
        exe,
        mode,
        kept_out,
        by_hand,
        evidence,
        actions,
        jobs: of_jobs,
        latest_miss,
        threads,
        shared,
    } = explanation;
    let exe = exe.as_ref().map(|exe| format!("  {exe}")).unwrap_or_default();
    let mut lines = vec![paper.title(&format!("{name} (pid {pid}){exe}"))];
    let unset = match mode {
        Mode::Engaged => None,
        Mode::Paused => Some("downbeat is paused: nothing is set on it"),
        Mode::ObserveOnly => Some("this agent only observes: nothing is set on it"),
    };
    if let Some(unset) = unset {
        lines.extend(paper.paragraph(Ink::Warning, unset, 2));
    }
    if let Some(whose) = kept_out {
        lines.extend(paper.paragraph(Ink::Plain, &format!("it is {whose}"), 2));
    }
    if let Some(by_hand) = by_hand {
        let what = format!("by hand it is {}", overrides::what(by_hand));
        lines.extend(paper.paragraph(Ink::Warning, &what, 2));
    }
    for seen in evidence {
        lines.extend(paper.paragraph(Ink::Plain, &format!("seen: {seen}"), 2));
    }
    if threads.is_empty() {
        lines.push(Line::from(paper.span(Ink::Faint, "no threads: it has ended")));
    }
    for group in alike(threads) {
        let first = group[0];
        lines.push(Line::default());
        lines.extend(paper.paragraph(Ink::Label, &who(&group), 2));
        match (&first.class, &first.because) {
            (Some(class), Some(because)) => {
                let text = format!("  class {class}, {because}");
                lines.extend(paper.paragraph(Ink::Plain, &text, 4));
            }
            (Some(class), None) => {
                lines.extend(paper.paragraph(Ink::Plain, &format!("  class {class}"), 4));
            }
            (None, _) => {
                let why = if kept_out.is_some() {
                    "  no rule is for it: not touched"
                } else {
                    "  no rule matches: not touched"
                };
                lines.push(Line::from(paper.span(Ink::Faint, why)));
            }
        }
        for lever in &first.levers {
            lines.extend(lever_lines(lever, paper));
        }
    }
    for SharedExplanation { subject, levers } in shared {
        lines.push(Line::default());
        let head = format!("{}, shared by all in it", plan::subject_words(subject));
        lines.extend(paper.paragraph(Ink::Label, &head, 2));
        for lever in levers {
            lines.extend(lever_lines(lever, paper));
        }
    }
    if !(of_jobs.is_empty() && latest_miss.is_none()) {
        lines.push(Line::default());
        for of_thread in of_jobs {
            lines.extend(paper.paragraph(Ink::Plain, &job_words(of_thread), 2));
        }
    }
    if let Some(miss) = latest_miss {
        let latest = format!(
            "latest miss: {} took {} of {}: {} (`downbeat explain --miss {}`)",
            words::thread(&miss.process, &miss.thread),
            units::nanos(miss.response_ns),
            units::nanos(miss.deadline_ns),
            miss.cause.text,
            miss.id
        );
        lines.extend(paper.paragraph(Ink::Warning, &latest, 2));
    }
    if !actions.is_empty() {
        lines.push(Line::default());
        lines.push(paper.title("What was done to it, the latest last"));
        for action in actions.iter().skip(actions.len().saturating_sub(ACTIONS)) {
            let ink = if action.failed { Ink::Bad } else { Ink::Plain };
            lines.extend(paper.paragraph(ink, &format!("  {}", action.text), 4));
        }
    }
    lines
}

/// `decode (813): period 10 ms; 9000 jobs, 3 missed`.
fn job_words(of_thread: &ThreadJobs) -> String {
    let ThreadJobs { tid, process, thread, rhythm, deadline_ns, total, .. } = of_thread;
    let (period, _) = jobs::rhythm(*rhythm);
    format!(
        "{} ({tid}): period {period}, deadline {}; {}, {} missed",
        words::thread(process, thread),
        units::nanos_or_unknown(*deadline_ns),
        units::count(total.jobs, "job"),
        total.missed,
    )
}

/// Threads in groups of the same class, rule and levers, in the order of their first.
fn alike(threads: &[ThreadExplanation]) -> Vec<Vec<&ThreadExplanation>> {
    let mut groups: Vec<Vec<&ThreadExplanation>> = Vec::new();
    for thread in threads {
        let same = |group: &&mut Vec<&ThreadExplanation>| {
            let ThreadExplanation { tid: _, name: _, class, rule: _, because, levers } = group[0];
            (class, because, levers) == (&thread.class, &thread.because, &thread.levers)
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
    let LeverState { lever, old, wanted, instead, outcome } = lever;
    let new = instead.as_ref().unwrap_or(wanted);
    let change = match old {
        Some(old) => format!("{old} → {new}"),
        None => new.clone(),
    };
    let ink = if outcome.starts_with("failed") {
        Ink::Bad
    } else if outcome.starts_with("left alone") || instead.is_some() {
        Ink::Warning
    } else {
        Ink::Plain
    };
    // Never cut: this is what it is about.
    let width = text::width(&change).max(24);
    let head = format!(
        "  {} {}",
        text::fit(lever, 14, Align::Left),
        text::fit(&change, width, Align::Left)
    );
    paper.paragraph(ink, &format!("{head} {outcome}"), 17)
}
