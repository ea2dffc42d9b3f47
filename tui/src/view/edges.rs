//! The screen's edges: title, footer, and what stands where there is no picture.

use ratatui::text::{Line, Span};

use crate::report::Paper;
use crate::state::{Link, Overlay, Page, Prompt, STALE, State};
use crate::theme::Ink;
use crate::{text, units};

/// `downbeat host · kernel · up …          BPF  ENGAGED`.
pub fn title(state: &State, paper: Paper) -> Line<'static> {
    let (ink, word) = match (&state.link, &state.snapshot, state.pending) {
        (Link::Lost { .. }, ..) => (Ink::BadgeLost, "NO AGENT".into()),
        (Link::Connecting, ..) | (_, None, _) => (Ink::BadgePaused, "CONNECTING".into()),
        (Link::Live, Some(_), Some((next, _))) => {
            let (ink, word) = super::badge(next);
            (ink, format!("{} …", word.to_lowercase()))
        }
        (Link::Live, Some(snapshot), None) => {
            let (ink, word) = super::badge(snapshot.mode);
            (ink, word.into())
        }
    };
    let badge = text::cut(&format!(" {word} "), paper.width).into_owned();
    let mut right = vec![paper.span(ink, badge)];
    let mut left = vec!["downbeat".to_owned()];
    if let Some(snapshot) = &state.snapshot {
        right.insert(0, Span::raw(format!("{}  ", super::source(&snapshot.source))));
        left.push(snapshot.host.clone());
        left.push(format!("Linux {}", snapshot.kernel));
        left.push(format!("up {}", units::span(snapshot.uptime)));
    }
    if let (Some(age), Link::Live) = (state.age().filter(|a| *a >= STALE), &state.link) {
        right.insert(
            0,
            paper.span(Ink::Warning, format!("{} old  ", units::span(age.as_secs_f64()))),
        );
    }
    // The badge stays longest, then the age and the source, then the words from left to right.
    while right.len() > 1 && width(&right) + 10 > paper.width {
        right.remove(0);
    }
    let room = paper.width.saturating_sub(width(&right) + 1);
    let mut spans = Vec::new();
    let mut used = 0;
    for (n, part) in left.into_iter().enumerate() {
        let part = if n > 1 { format!(" · {part}") } else { format!(" {part}") };
        if used + text::width(&part) > room {
            break;
        }
        used += text::width(&part);
        spans.push(paper.span(if n == 0 { Ink::Strong } else { Ink::Plain }, part));
    }
    spans.push(Span::raw(" ".repeat(paper.width.saturating_sub(used + width(&right)))));
    spans.extend(right);
    Line::from(spans)
}

fn width(spans: &[Span<'_>]) -> usize {
    spans.iter().map(Span::width).sum()
}

/// The line under the title while the agent is gone.
pub fn lost(state: &State, reason: &str, paper: Paper) -> Line<'static> {
    let text = match state.age() {
        Some(age) => {
            let age = units::span(age.as_secs_f64());
            format!("agent went away: picture {age} old, retrying … ({reason})")
        }
        None => "no agent yet: retrying …".into(),
    };
    Line::from(paper.span(Ink::Bad, text::fit(&text, paper.width, text::Align::Left)))
}

/// What stands in the middle before the first picture.
pub fn nothing_yet(state: &State, paper: Paper) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default()];
    match &state.link {
        Link::Lost { reason } => lines.extend(paper.paragraph(Ink::Plain, reason, 0)),
        Link::Connecting | Link::Live => {
            lines.push(Line::from(paper.span(Ink::Faint, "connecting to the agent …")));
        }
    }
    lines.push(Line::default());
    lines.extend(paper.paragraph(
        Ink::Faint,
        "`downbeat doctor` says what this host can do, agent or not",
        0,
    ));
    lines
}

/// What is being typed, a message, or the keys.
pub fn footer(state: &State, paper: Paper) -> Line<'static> {
    let typed = |label: &str, text: &str, ink: Ink| {
        let room = paper.width.saturating_sub(text::width(label) + 2);
        Line::from(vec![
            paper.span(Ink::Key, label.to_owned()),
            // The end of what is typed stays in sight.
            paper.span(ink, format!(" {}", tail(text, room))),
            paper.span(Ink::Strong, "▏"),
        ])
    };
    match &state.prompt {
        Some(Prompt::Search { text, found }) => {
            return typed("Search:", text, if *found { Ink::Plain } else { Ink::Bad });
        }
        Some(Prompt::Filter) => return typed("Filter:", &state.table.filter, Ink::Plain),
        None => {}
    }
    if let Some((message, _)) = &state.message {
        let message = text::cut(message, paper.width).into_owned();
        return Line::from(paper.span(Ink::Strong, message));
    }
    keys(state, paper)
}

fn tail(text: &str, columns: usize) -> String {
    use unicode_truncate::UnicodeTruncateStr;
    text.unicode_truncate_start(columns).0.to_owned()
}

fn keys(state: &State, paper: Paper) -> Line<'static> {
    let engaged = state.snapshot.as_ref().is_none_or(|s| s.mode == downbeat_api::Mode::Engaged);
    let mut keys: Vec<(String, Ink, String)> = Vec::new();
    let mut key = |key: &str, name: &str| keys.push((key.into(), Ink::Plain, name.into()));
    match state.overlay {
        Overlay::SortMenu { .. } => {
            key("Enter", "Sort");
            key("Esc", "Close");
        }
        Overlay::Help | Overlay::Explain { .. } | Overlay::Story { .. } => {
            key("Esc", "Close");
            key("↑↓", "Scroll");
        }
        Overlay::None => {
            key("F1", "Help");
            key("q", "Quit");
            key("p", if engaged { "Pause" } else { "Engage" });
            if state.page == Page::Misses && !state.misses.all.is_empty() {
                key("Enter", "Story");
            }
            for (n, page) in Page::ALL.into_iter().enumerate() {
                let ink = if page == state.page { Ink::SortedHeading } else { Ink::Plain };
                keys.push(((n + 1).to_string(), ink, page.name().into()));
            }
            let mut key = |key: &str, name: &str| keys.push((key.into(), Ink::Plain, name.into()));
            if state.page == Page::Overview {
                key("F3", "Search");
                key("F4", if state.table.filter.is_empty() { "Filter" } else { "Filter on" });
                key("F6", "Sort");
                key("Enter", "Explain");
            }
        }
    }
    let mut spans = Vec::new();
    let mut used = 0;
    for (key, ink, name) in keys {
        let width = text::width(&key) + text::width(&name) + 1;
        if used + width > paper.width + 1 {
            break;
        }
        used += width;
        spans.push(paper.span(Ink::Key, key));
        spans.push(paper.span(ink, name));
        spans.push(Span::raw(" "));
    }
    Line::from(spans)
}
