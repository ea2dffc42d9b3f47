//! Classes that people gave by hand, and what the policy has to do with them.

use downbeat_api::{Override, PolicyState, Snapshot};
use ratatui::text::Line;

use super::Paper;
use crate::theme::Ink;
use crate::units;

/// What the policy in force is, and the classes by hand; nothing of an agent that tells of neither.
#[must_use]
pub fn summary(snapshot: &Snapshot, paper: Paper) -> Vec<Line<'static>> {
    let PolicyState { read_at, rules, files, standing, .. } = &snapshot.policy;
    let mut lines = Vec::new();
    if *read_at > 0.0 {
        let mut text = format!(
            "policy of {} ago: {} in {}",
            units::span(snapshot.unix_time - read_at),
            units::count(*rules, "rule"),
            units::count(*files, "file")
        );
        if let Some(refusal) = standing {
            text.push_str(&format!(
                "; what is on disk since was refused {} ago, {}",
                units::span(snapshot.unix_time - refusal.at),
                units::count(refusal.problems.len() as u64 + refusal.more, "problem")
            ));
        }
        let ink = if standing.is_some() { Ink::Bad } else { Ink::Plain };
        lines.extend(paper.paragraph(ink, &text, 2));
    }
    if !snapshot.overrides.is_empty() {
        let all: Vec<String> = snapshot.overrides.iter().map(words).collect();
        let text = format!("by hand: {}", all.join("; "));
        lines.extend(paper.paragraph(Ink::Warning, &text, 2));
    }
    lines
}

/// `ffmpeg (2001) is batch for 9 min by uid 0`.
fn words(by_hand: &Override) -> String {
    format!("{} ({}) is {}", by_hand.name, by_hand.pid, what(by_hand))
}

/// `batch for 9 min 3 s more, by uid 0`.
#[must_use]
pub fn what(by_hand: &Override) -> String {
    let Override { class, in_force, by_uid, left, .. } = by_hand;
    let time = match left {
        Some(left) => format!("for {} more", units::span(*left)),
        None => "until it ends".to_owned(),
    };
    let waits = if *in_force { "" } else { " (no such class now: its rule applies)" };
    format!("{class} {time}, by uid {by_uid}{waits}")
}
