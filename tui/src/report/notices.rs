//! What the person at the screen should know.

use downbeat_api::{Notice, SCHEMA, Severity, Snapshot, Source};
use ratatui::text::Line;

use super::Paper;
use crate::state::Page;
use crate::text;
use crate::theme::Ink;

/// Everything to be said: what the agent says, worst first, and what this program sees itself.
#[must_use]
pub fn all(snapshot: &Snapshot) -> Vec<Notice> {
    let mut notices = snapshot.notices.clone();
    if snapshot.schema != SCHEMA {
        notices.push(Notice {
            severity: Severity::Warning,
            text: format!(
                "the agent speaks schema {}, this program {SCHEMA}: some values may be wrong",
                snapshot.schema
            ),
            remedy: Some("install the same version of both".into()),
        });
    }
    if let Source::Procfs { reason } = &snapshot.source {
        let known = notices.iter().any(|n| n.text.contains(reason) || reason.contains(&n.text));
        if !known {
            notices.push(Notice {
                severity: Severity::Info,
                text: format!("watching through /proc alone: {reason}"),
                remedy: None,
            });
        }
    }
    notices.sort_by_key(|n| std::cmp::Reverse(n.severity));
    notices
}

/// One line each, at most `rows`; the last says how many more there are.
#[must_use]
pub fn brief(notices: &[Notice], paper: Paper, rows: usize) -> Vec<Line<'static>> {
    let shown = if notices.len() > rows { rows.saturating_sub(1).max(1) } else { notices.len() };
    let mut lines: Vec<_> = notices
        .iter()
        .take(shown.min(rows))
        .map(|n| {
            let (ink, text) = sentence(n);
            Line::from(paper.span(ink, text::cut(&text, paper.width).into_owned()))
        })
        .collect();
    if notices.len() > shown && lines.len() < rows {
        let page = Page::Actions.number();
        let more = format!("  … {} more on page {page}", notices.len() - shown);
        lines.push(Line::from(paper.span(Ink::Faint, more)));
    }
    lines
}

/// All in full.
#[must_use]
pub fn full(notices: &[Notice], paper: Paper) -> Vec<Line<'static>> {
    notices
        .iter()
        .flat_map(|n| {
            let (ink, text) = sentence(n);
            paper.paragraph(ink, &text, 2)
        })
        .collect()
}

fn sentence(notice: &Notice) -> (Ink, String) {
    let (ink, mark) = match notice.severity {
        Severity::Info => (Ink::Label, 'i'),
        Severity::Warning => (Ink::Warning, '!'),
        Severity::Error => (Ink::Bad, '✗'),
    };
    let remedy = notice.remedy.as_ref().map(|r| format!(" → {r}")).unwrap_or_default();
    (ink, format!("{mark} {}{remedy}", notice.text))
}
