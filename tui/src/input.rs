//! Keys, as in htop: which command a key is depends on what is on the screen.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::state::table::SortKey;
use crate::state::{Command, Overlay, Page, Prompt, State};

/// Every key and what it does, for the help.
pub const HELP: [(&str, &str); 20] = [
    ("p", "engage or disengage: put everything back, or apply decisions again"),
    ("1 … 8, Tab", "overview, classes, jobs, blame, misses, pool, GPU, actions"),
    ("↑ ↓ PgUp PgDn", "move (also k and j)"),
    ("Home End", "first and last"),
    ("Enter, e", "why is this process as it is? On the misses page: why was this one late?"),
    ("F3, /", "search; F3 while typing, n afterwards: the next"),
    ("F4, \\", "show only what contains a text; Esc shows all again"),
    ("F6, < >", "choose the column to sort by"),
    ("C", "sort by class, then CPU (as at the start)"),
    ("P", "sort by CPU"),
    ("M", "sort by memory"),
    ("G", "sort by GPU memory"),
    ("T", "sort by threads"),
    ("N", "sort by process id"),
    ("I", "sort the other way round"),
    ("F1, h, ?", "this help"),
    ("Esc", "close what is open"),
    ("ctrl-z", "stop; fg brings it back"),
    ("F10, q", "quit"),
    ("ctrl-c", "quit, wherever you are"),
];

/// What a key asks for here, if anything.
#[must_use]
pub fn command(state: &State, key: KeyEvent) -> Option<Command> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Command::Quit),
            KeyCode::Char('z') => Some(Command::Suspend),
            KeyCode::Char('u') if state.prompt.is_some() => Some(Command::EraseAll),
            _ => None,
        };
    }
    if let Some(prompt) = &state.prompt {
        return typing(prompt, key.code);
    }
    match &state.overlay {
        Overlay::None => {}
        Overlay::SortMenu { .. } => {
            if key.code == KeyCode::Enter {
                return Some(Command::Choose);
            }
            if closes(key.code) || key.code == KeyCode::F(6) {
                return Some(Command::Close);
            }
            return movement(key.code);
        }
        Overlay::Help | Overlay::Explain { .. } | Overlay::Story { .. } => {
            if closes(key.code) || matches!(key.code, KeyCode::Enter | KeyCode::F(1)) {
                return Some(Command::Close);
            }
            if let (Overlay::Help, KeyCode::Char('h' | '?')) = (&state.overlay, key.code) {
                return Some(Command::Close);
            }
        }
    }
    movement(key.code).or_else(|| anywhere(key.code)).or_else(|| match state.page {
        Page::Overview => on_overview(state, key.code),
        Page::Misses => {
            matches!(key.code, KeyCode::Enter | KeyCode::Char('e')).then_some(Command::Choose)
        }
        _ => None,
    })
}

fn closes(code: KeyCode) -> bool {
    matches!(code, KeyCode::Esc | KeyCode::Char('q') | KeyCode::F(10))
}

fn typing(prompt: &Prompt, code: KeyCode) -> Option<Command> {
    let search = matches!(prompt, Prompt::Search { .. });
    Some(match code {
        KeyCode::Enter => Command::Accept,
        KeyCode::Esc if search => Command::Accept,
        KeyCode::Esc => Command::Cancel,
        KeyCode::Backspace => Command::Erase,
        KeyCode::F(3) if search => Command::FindNext,
        KeyCode::F(4) if !search => Command::Accept,
        KeyCode::Char(c) => Command::Type(c),
        other => return movement(other),
    })
}

fn movement(code: KeyCode) -> Option<Command> {
    Some(match code {
        KeyCode::Up | KeyCode::Char('k') => Command::Move(-1),
        KeyCode::Down | KeyCode::Char('j') => Command::Move(1),
        KeyCode::PageUp => Command::Screen(-1),
        KeyCode::PageDown => Command::Screen(1),
        KeyCode::Home => Command::First,
        KeyCode::End => Command::Last,
        _ => return None,
    })
}

fn anywhere(code: KeyCode) -> Option<Command> {
    Some(match code {
        KeyCode::F(10) | KeyCode::Char('q') => Command::Quit,
        KeyCode::F(1) | KeyCode::Char('h' | '?') => Command::Help,
        KeyCode::Tab => Command::NextPage,
        KeyCode::BackTab => Command::PreviousPage,
        KeyCode::Char('p') => Command::Toggle,
        KeyCode::Char(c @ '1'..='9') => {
            let index = usize::try_from(u32::from(c) - u32::from('1')).unwrap_or(0);
            return Page::ALL.get(index).copied().map(Command::Show);
        }
        _ => return None,
    })
}

fn on_overview(state: &State, code: KeyCode) -> Option<Command> {
    Some(match code {
        KeyCode::Enter => Command::Choose,
        KeyCode::Char('e') => Command::Explain,
        KeyCode::Char('n') if !state.search.is_empty() => Command::FindNext,
        KeyCode::F(3) | KeyCode::Char('/') => Command::Search,
        KeyCode::F(4) | KeyCode::Char('\\') => Command::Filter,
        KeyCode::F(6) | KeyCode::Char('<' | '>') => Command::SortMenu,
        KeyCode::Char('C') => Command::Sort(SortKey::Class),
        KeyCode::Char('P') => Command::Sort(SortKey::Cpu),
        KeyCode::Char('M') => Command::Sort(SortKey::Rss),
        KeyCode::Char('G') => Command::Sort(SortKey::Gpu),
        KeyCode::Char('T') => Command::Sort(SortKey::Threads),
        KeyCode::Char('N') => Command::Sort(SortKey::Pid),
        KeyCode::Char('I') => Command::Invert,
        KeyCode::Esc => Command::Cancel,
        _ => return None,
    })
}
