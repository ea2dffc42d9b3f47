//! Screens as text, and keys.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use downbeat_api::Snapshot;
use downbeat_tui::conn::Event;
use downbeat_tui::state::State;
use downbeat_tui::text;
use downbeat_tui::theme::Theme;
use downbeat_tui::view;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

/// Columns and rows of the terminals that every page is drawn on.
pub const SIZES: [(u16, u16); 4] = [(40, 10), (80, 24), (120, 40), (200, 50)];

/// A screen that got one snapshot.
pub fn state(snapshot: Snapshot, size: (u16, u16)) -> State {
    let mut state = State::new(size, Theme { colours: true });
    state.update(Event::Snapshot(Box::new(snapshot)), Duration::from_secs(100));
    state
}

/// Types; arrows and circled numbers stand for the keys that have no letter.
pub fn press(state: &mut State, keys: &str) {
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '↓' => KeyCode::Down,
            '⇟' => KeyCode::PageDown,
            '⇲' => KeyCode::End,
            '␛' => KeyCode::Esc,
            '③' => KeyCode::F(3),
            '⌂' => KeyCode::Home,
            '⑥' => KeyCode::F(6),
            c => KeyCode::Char(c),
        };
        let key = KeyEvent::new(code, KeyModifiers::NONE);
        state.update(Event::Key(key), state.now);
    }
}

/// One frame.
pub fn buffer(state: &State) -> Buffer {
    let (width, height) = state.size;
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, state)).unwrap();
    terminal.backend().buffer().clone()
}

/// The screen as text, each line as wide as it looks, with a bar at its end.
pub fn screen(state: &State) -> String {
    let buffer = buffer(state);
    let mut out = String::new();
    for y in 0..buffer.area.height {
        let mut x = 0;
        while x < buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            out.push_str(symbol);
            x += u16::try_from(text::width(symbol)).unwrap().max(1);
        }
        assert_eq!(x, buffer.area.width, "line {y} ends inside a wide character");
        out.push_str("│\n");
    }
    out
}
