//! The real terminal: taken, given back whatever happens, and lent out on ctrl-z.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc::{self, SyncSender};
use std::time::{Duration, Instant};
use std::{panic, process, thread};

use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;

use crate::app::{App, NAP, Turn};
use crate::conn::{self, Event};
use crate::state::State;
use crate::theme::Theme;

/// How long the loop may take to end after a signal before the terminal is torn from it.
const GRACE: Duration = Duration::from_secs(2);

/// Whether there is a terminal to draw on and to read keys from.
#[must_use]
pub fn possible() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Shows the live screen until the user or a signal ends it.
///
/// # Errors
/// Those of the terminal.
pub fn run(socket: &Path, theme: Theme) -> io::Result<()> {
    give_back_on_panic();
    let (events_in, events) = mpsc::sync_channel(conn::WAITING);
    let (questions, asked) = mpsc::channel();
    signals(events_in.clone())?;
    let held = Held::take()?;
    let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
    let size = terminal.size()?;
    let start = Instant::now();
    let state = State::new((size.width, size.height), theme);
    let mut app = App::new(state, events, questions, move || start.elapsed());
    conn::watch(socket, events_in.clone());
    conn::ask(socket, asked, events_in.clone());
    conn::keys(events_in);
    app.redraw(&mut terminal)?;
    let mut stopped = false;
    loop {
        match app.turn(&mut terminal, NAP)? {
            Turn::Next => continue,
            Turn::Quit => break,
            Turn::Suspend => {
                give_back();
                signal_hook::low_level::emulate_default_handler(SIGTSTP)?;
                take()?;
                stopped = true;
            }
            // The signal that woke us from our own stop: the terminal is taken already.
            Turn::Reopen if stopped => stopped = false,
            Turn::Reopen => {
                // Whoever had the terminal meanwhile left modes of their own.
                disable_raw_mode()?;
                take()?;
            }
        }
        app.redraw(&mut terminal)?;
    }
    drop(held);
    Ok(())
}

/// The terminal, until this is dropped.
struct Held;

impl Held {
    fn take() -> io::Result<Self> {
        let held = Self;
        take()?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        give_back();
    }
}

fn take() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)
}

/// Gives the terminal back. Errors are of no use: where it fails, there is no terminal any more.
fn give_back() {
    drop(disable_raw_mode());
    drop(execute!(io::stdout(), LeaveAlternateScreen, cursor::Show));
    drop(io::stdout().flush());
}

/// A panic is told on the ordinary screen, and ends the program in whichever thread it happens.
fn give_back_on_panic() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        give_back();
        tell(info);
        process::exit(101);
    }));
}

/// Turns signals into events.
fn signals(events: SyncSender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT])?;
    thread::spawn(move || {
        for signal in signals.forever() {
            let event = match signal {
                SIGTSTP => Event::Suspend,
                SIGCONT => Event::Continue,
                _ => Event::End,
            };
            if matches!(event, Event::End) {
                // The loop may hang in a write to a terminal that takes nothing (ctrl-s).
                thread::spawn(|| {
                    thread::sleep(GRACE);
                    drop(disable_raw_mode());
                    process::exit(1);
                });
            }
            if events.send(event).is_err() {
                return;
            }
        }
    });
    Ok(())
}
