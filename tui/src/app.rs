//! The loop: events in, keys first, a frame out when something changed.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use downbeat_api::Request;
use ratatui::Terminal;
use ratatui::backend::Backend;
use ratatui::layout::Rect;

use crate::conn::Event;
use crate::state::{Effect, State};
use crate::view;

/// How long the loop sleeps when nothing happens: as long as an age may stand still on the screen.
pub const NAP: Duration = Duration::from_secs(1);

/// What the terminal's owner has to do after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Take the next one.
    Next,
    /// Give the terminal back and stop, then [`App::redraw`].
    Suspend,
    /// Take the terminal again, then [`App::redraw`].
    Reopen,
    /// End.
    Quit,
}

/// The live screen, with every source of I/O as a value.
#[derive(Debug)]
pub struct App<C> {
    state: State,
    events: Receiver<Event>,
    questions: Sender<Request>,
    clock: C,
}

impl<C: Fn() -> Duration> App<C> {
    /// A screen over `state`. `clock` counts from any fixed moment.
    pub fn new(
        state: State,
        events: Receiver<Event>,
        questions: Sender<Request>,
        clock: C,
    ) -> Self {
        Self { state, events, questions, clock }
    }

    /// What is known.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Draws everything anew.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn redraw<B: Backend>(&mut self, terminal: &mut Terminal<B>) -> Result<(), B::Error> {
        let size = terminal.size()?;
        self.state.update(Event::Resize(size.width, size.height), (self.clock)());
        terminal.resize(Rect::from((ratatui::layout::Position::ORIGIN, size)))?;
        self.draw(terminal)
    }

    /// Waits at most `nap` for events, takes in all that are there, and draws once.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn turn<B: Backend>(
        &mut self,
        terminal: &mut Terminal<B>,
        nap: Duration,
    ) -> Result<Turn, B::Error> {
        let first = match self.events.recv_timeout(nap) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => {
                if self.state.pass((self.clock)()) {
                    self.draw(terminal)?;
                }
                return Ok(Turn::Next);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(Turn::Quit),
        };
        let mut batch: Vec<Event> = std::iter::once(first).chain(self.events.try_iter()).collect();
        batch.sort_by_key(|event| !event.is_input());
        let now = (self.clock)();
        let mut turn = Turn::Next;
        for effect in batch.into_iter().flat_map(|event| self.state.update(event, now)) {
            match effect {
                // The thread behind it lives as long as the program; should it be gone, the
                // screen goes on without answers.
                Effect::Ask(request) => drop(self.questions.send(request)),
                Effect::Suspend => turn = Turn::Suspend,
                Effect::Reopen => turn = Turn::Reopen,
                Effect::Quit => return Ok(Turn::Quit),
            }
        }
        if turn == Turn::Next {
            self.draw(terminal)?;
        }
        Ok(turn)
    }

    fn draw<B: Backend>(&mut self, terminal: &mut Terminal<B>) -> Result<(), B::Error> {
        let state = &mut self.state;
        terminal.draw(|frame| {
            let area = frame.area();
            // The terminal is asked for its size at every frame; the event about it comes later.
            if (area.width, area.height) != state.size {
                state.update(Event::Resize(area.width, area.height), state.now);
            }
            view::draw(frame, state);
        })?;
        Ok(())
    }
}
