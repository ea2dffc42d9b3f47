//! What would change, and why.

use downbeat_api::{Plan, PlanStep, PlanSubject, PlannedChange};
use ratatui::text::Line;

use super::Paper;
use crate::text::{self, Align};
use crate::theme::Ink;
use crate::units;

/// Threads named in a line; the rest are counted.
const NAMED: usize = 6;

/// What several threads of one process have in common.
#[derive(PartialEq)]
struct Common<'a> {
    class: Option<&'a str>,
    because: Option<&'a str>,
    lever: &'a str,
    now: Option<&'a str>,
    wanted: &'a str,
    step: &'a PlanStep,
}

/// Changes of one subject, or of all threads of one process that fare alike.
struct Group<'a> {
    head: String,
    rows: Vec<(Common<'a>, Vec<(u32, &'a str)>)>,
}

/// The whole plan; threads of a process that fare alike are told together.
#[must_use]
pub fn lines(plan: &Plan, paper: Paper) -> Vec<Line<'static>> {
    let Plan { changes, settled, fallbacks, known: _ } = plan;
    let done = |step: &PlanStep| changes.iter().filter(|c| c.step == *step).count() as u64;
    let (set, back) = (done(&PlanStep::Set), done(&PlanStep::PutBack));
    let mut head = if set + back == 0 {
        "Nothing would change".to_owned()
    } else {
        format!("{} would be set, {} put back", units::count(set, "value"), back)
    };
    let left = changes.len() as u64 - set - back;
    if left > 0 {
        head.push_str(&format!(", {left} left alone"));
    }
    head.push_str(&format!("; {} as wanted already", units::count(*settled, "value")));
    let mut lines = paper.paragraph(Ink::Strong, &head, 2);
    for fallback in fallbacks {
        lines.extend(paper.paragraph(Ink::Warning, &format!("! {fallback}"), 2));
    }
    for group in groups(changes) {
        lines.push(Line::default());
        lines.extend(paper.paragraph(Ink::Label, &group.head, 2));
        let mut reason = None;
        for (common, threads) in group.rows {
            let why = (common.class, common.because);
            if reason != Some(why) {
                lines.extend(paper.paragraph(Ink::Plain, &because(why), 4));
                reason = Some(why);
            }
            lines.extend(row(&common, &threads, paper));
        }
    }
    lines
}

fn because((class, because): (Option<&str>, Option<&str>)) -> String {
    match (class, because) {
        (Some(class), Some(because)) => format!("  class {class}, {because}"),
        (Some(class), None) => format!("  class {class}"),
        (None, Some(because)) => format!("  {because}"),
        (None, None) => "  no class asks for it any more".to_owned(),
    }
}

/// Whose levers they are; threads are told by their process.
pub(super) fn subject_words(subject: &PlanSubject) -> String {
    match subject {
        PlanSubject::Host => "the host".to_owned(),
        PlanSubject::Device { name } => name.clone(),
        PlanSubject::Unit { name } => format!("unit {name}"),
        PlanSubject::Group { path } => format!("control group {path}"),
        PlanSubject::Thread { pid, process, .. } => format!("{process} ({pid})"),
    }
}

fn groups(changes: &[PlannedChange]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for change in changes {
        let PlannedChange { subject, lever, now, wanted, step, class, because } = change;
        let head = subject_words(subject);
        let thread = match subject {
            PlanSubject::Thread { tid, name, .. } => Some((*tid, name.as_str())),
            _ => None,
        };
        let common = Common {
            class: class.as_deref(),
            because: because.as_deref(),
            lever,
            now: now.as_deref(),
            wanted,
            step,
        };
        if groups.last().is_none_or(|group| group.head != head) {
            groups.push(Group { head, rows: Vec::new() });
        }
        // One was pushed above where there was none.
        let Some(group) = groups.last_mut() else { continue };
        match group.rows.iter_mut().find(|(known, _)| *known == common) {
            Some((_, threads)) => threads.extend(thread),
            None => group.rows.push((common, thread.into_iter().collect())),
        }
    }
    for group in &mut groups {
        // Stable: within one reason, the order of the levers stays.
        group.rows.sort_by(|(a, _), (b, _)| (a.class, a.because).cmp(&(b.class, b.because)));
    }
    groups
}

fn row(common: &Common<'_>, threads: &[(u32, &str)], paper: Paper) -> Vec<Line<'static>> {
    let Common { lever, now, wanted, step, .. } = common;
    let change = format!("{} → {wanted}", now.unwrap_or(units::UNKNOWN));
    let mut names: Vec<String> =
        threads.iter().take(NAMED).map(|(tid, name)| format!("{name} {tid}")).collect();
    if threads.len() > NAMED {
        names.push(format!("{} more", threads.len() - NAMED));
    }
    let (ink, tail) = match step {
        PlanStep::Set => (Ink::Plain, String::new()),
        PlanStep::PutBack => (Ink::Plain, "put back".to_owned()),
        PlanStep::LeaveAlone { reason } => (Ink::Warning, format!("left alone: {reason}")),
    };
    let tail: Vec<String> =
        [names.join(", "), tail].into_iter().filter(|part| !part.is_empty()).collect();
    let head = format!(
        "    {} {}",
        text::fit(lever, 14, Align::Left),
        text::fit(&change, 24.max(text::width(&change)), Align::Left)
    );
    paper.paragraph(ink, format!("{head} {}", tail.join("; ")).trim_end(), 19)
}
