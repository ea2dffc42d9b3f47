//! Everything that comes from outside, as events on one channel. Each source has a thread of its
//! own, so that a hung agent never holds up a key.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use crossterm::event::KeyEvent;
use downbeat_api::{Client, ClientError, Request, Response, Snapshot};

use crate::{sanitise, text};

/// Events that wait at most. A snapshot that finds no room is dropped: the next one is newer.
pub const WAITING: usize = 16;

/// First pause before the agent is tried again; it doubles up to [`RETRY_LAST`].
const RETRY_FIRST: Duration = Duration::from_millis(125);

/// Longest pause before the agent is tried again.
const RETRY_LAST: Duration = Duration::from_secs(1);

/// What came from outside.
#[derive(Debug)]
pub enum Event {
    /// A key.
    Key(KeyEvent),
    /// The terminal has so many columns and rows now.
    Resize(u16, u16),
    /// The agent's latest picture.
    Snapshot(Box<Snapshot>),
    /// No agent, or it went away; it is tried again.
    Lost(String),
    /// The answer to something that the screen asked.
    Answer(Request, Result<Response, String>),
    /// A signal or a closed terminal ends the program.
    End,
    /// A signal from outside stops it, as ctrl-z would.
    Suspend,
    /// It was stopped and goes on: the terminal may have been someone else's meanwhile.
    Continue,
}

impl Event {
    /// Whether a person caused it: such events are handled first.
    #[must_use]
    pub fn is_input(&self) -> bool {
        matches!(self, Self::Key(_) | Self::Resize(..) | Self::End | Self::Suspend | Self::Continue)
    }
}

/// Watches the agent at `socket` until the channel closes, connecting again whenever it is gone.
pub fn watch(socket: &Path, events: SyncSender<Event>) {
    let socket = socket.to_owned();
    thread::spawn(move || {
        let mut pause = RETRY_FIRST;
        loop {
            let error = match stream(&socket, &events, &mut pause) {
                Ok(()) => return,
                Err(error) => error,
            };
            if events.send(Event::Lost(text::clean(&error.to_string()).into_owned())).is_err() {
                return;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(RETRY_LAST);
        }
    });
}

/// One connection's life; `Ok` when nobody listens to us any more.
fn stream(
    socket: &Path,
    events: &SyncSender<Event>,
    pause: &mut Duration,
) -> Result<(), ClientError> {
    for snapshot in Client::connect(socket)?.watch()? {
        let mut snapshot = Box::new(snapshot?);
        sanitise::snapshot(&mut snapshot);
        *pause = RETRY_FIRST;
        if let Err(TrySendError::Disconnected(_)) = events.try_send(Event::Snapshot(snapshot)) {
            return Ok(());
        }
    }
    Ok(())
}

/// Puts the screen's questions to the agent, each on a connection of its own.
pub fn ask(socket: &Path, questions: Receiver<Request>, events: SyncSender<Event>) {
    let socket: PathBuf = socket.to_owned();
    thread::spawn(move || {
        for request in questions {
            let answer = answer(&socket, &request)
                .map_err(|error| text::clean(&error.to_string()).into_owned());
            if events.send(Event::Answer(request, answer)).is_err() {
                return;
            }
        }
    });
}

/// One question and its answer, safe to show.
///
/// # Errors
/// Any [`ClientError`].
pub fn answer(socket: &Path, request: &Request) -> Result<Response, ClientError> {
    let mut response = Client::connect(socket)?.request(request)?;
    match &mut response {
        Response::Snapshot(snapshot) => sanitise::snapshot(snapshot),
        Response::Host(facts) => sanitise::host(facts),
        Response::Explain(explanation) => sanitise::explanation(explanation),
        Response::Plan(plan) => sanitise::plan(plan),
        Response::Discovery(found) => sanitise::discovery(found),
        Response::Refused { problems, more: _ } => problems.iter_mut().for_each(sanitise::problem),
        Response::Misses { misses } => misses.iter_mut().for_each(sanitise::miss),
        Response::Done { message } | Response::Error { message } => sanitise::text(message),
    }
    Ok(response)
}

/// Reads the terminal until the channel closes or the terminal is gone.
pub fn keys(events: SyncSender<Event>) {
    thread::spawn(move || {
        loop {
            let event = match crossterm::event::read() {
                Ok(crossterm::event::Event::Key(key)) => Event::Key(key),
                Ok(crossterm::event::Event::Resize(width, height)) => Event::Resize(width, height),
                Ok(_) => continue,
                Err(_) => Event::End,
            };
            let last = matches!(event, Event::End);
            if events.send(event).is_err() || last {
                return;
            }
        }
    });
}
