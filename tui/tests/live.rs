//! The whole screen over a real socket: an agent that speaks the protocol, keys, and time.

mod support;

use std::path::Path;
use std::sync::mpsc::{self, SyncSender};
use std::time::{Duration, Instant};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use downbeat_api::{Mode, Request, SOCKET_NAME};
use downbeat_tui::app::{App, Turn};
use downbeat_tui::conn::{self, Event};
use downbeat_tui::state::State;
use downbeat_tui::theme::Theme;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use support::agent::FakeAgent;
use support::host;

const TICK: Duration = Duration::from_millis(20);

/// Longer than anything here takes on a machine that others use as well.
const PATIENCE: Duration = Duration::from_secs(20);

struct Screen<C> {
    app: App<C>,
    terminal: Terminal<TestBackend>,
    keys: SyncSender<Event>,
}

fn open(run_dir: &Path) -> Screen<impl Fn() -> Duration + use<>> {
    let (events_in, events) = mpsc::sync_channel(conn::WAITING);
    let (questions, asked) = mpsc::channel();
    let socket = run_dir.join(SOCKET_NAME);
    conn::watch(&socket, events_in.clone());
    conn::ask(&socket, asked, events_in.clone());
    let start = Instant::now();
    let state = State::new((100, 30), Theme { colours: true });
    let app = App::new(state, events, questions, move || start.elapsed());
    Screen { app, terminal: Terminal::new(TestBackend::new(100, 30)).unwrap(), keys: events_in }
}

impl<C: Fn() -> Duration> Screen<C> {
    fn press(&self, code: KeyCode) {
        self.keys.send(Event::Key(KeyEvent::new(code, KeyModifiers::NONE))).unwrap();
    }

    fn text(&self) -> String {
        self.terminal.backend().to_string()
    }

    /// Takes turns until the screen shows `what`.
    fn until(&mut self, what: &str) {
        let start = Instant::now();
        while !self.text().contains(what) {
            assert!(start.elapsed() < PATIENCE, "no {what:?} in\n{}", self.text());
            let turn = self.app.turn(&mut self.terminal, TICK).unwrap();
            assert_eq!(turn, Turn::Next);
        }
    }
}

#[test]
fn it_shows_what_the_agent_says_and_follows_it() {
    let dir = tempfile::tempdir().unwrap();
    let agent = FakeAgent::start(dir.path(), host::small(), TICK);
    let mut screen = open(dir.path());
    screen.until("whisper-server");
    screen.until("ENGAGED");
    agent.say(|snapshot| snapshot.processes[0].command = "/usr/bin/renamed".into());
    screen.until("/usr/bin/renamed");
}

#[test]
fn a_key_pauses_and_engages_again() {
    let dir = tempfile::tempdir().unwrap();
    let agent = FakeAgent::start(dir.path(), host::small(), TICK);
    let mut screen = open(dir.path());
    screen.until("ENGAGED");
    screen.press(KeyCode::Char('p'));
    screen.until(" PAUSED ");
    screen.until("paused: 31 values put back");
    screen.press(KeyCode::Char('p'));
    screen.until(" ENGAGED ");
    assert_eq!(agent.asked(), [Request::Pause, Request::Resume]);
}

#[test]
fn the_key_is_answered_before_the_agent_is() {
    let dir = tempfile::tempdir().unwrap();
    // One picture, and then none for longer than the test takes.
    let _agent = FakeAgent::start(dir.path(), host::small(), Duration::from_secs(3_600));
    let mut screen = open(dir.path());
    screen.until("ENGAGED");
    screen.press(KeyCode::Char('p'));
    screen.until("paused …");
}

#[test]
fn an_agent_that_only_observes_is_not_asked_to_engage() {
    let dir = tempfile::tempdir().unwrap();
    let mut snapshot = host::small();
    snapshot.mode = Mode::ObserveOnly;
    let agent = FakeAgent::start(dir.path(), snapshot, TICK);
    let mut screen = open(dir.path());
    screen.until("OBSERVE ONLY");
    screen.press(KeyCode::Char('p'));
    screen.until("start it without to engage");
    assert_eq!(agent.asked(), []);
}

#[test]
fn it_outlives_the_agent_and_finds_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let agent = FakeAgent::start(dir.path(), host::small(), TICK);
    let mut screen = open(dir.path());
    screen.until("whisper-server");
    drop(agent);
    screen.until("agent went away");
    screen.until("NO AGENT");
    assert!(screen.text().contains("whisper-server"), "the last picture stays");
    let mut next = host::small();
    next.host = "second".into();
    let _agent = FakeAgent::start(dir.path(), next, TICK);
    screen.until("second");
    screen.until("ENGAGED");
}

#[test]
fn it_waits_for_an_agent_that_is_not_there_yet() {
    let dir = tempfile::tempdir().unwrap();
    let mut screen = open(dir.path());
    screen.until("no agent yet");
    screen.until("Start one with");
    let _agent = FakeAgent::start(dir.path(), host::small(), TICK);
    screen.until("whisper-server");
}

#[test]
fn enter_tells_why_a_process_is_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let agent = FakeAgent::start(dir.path(), host::small(), TICK);
    let mut screen = open(dir.path());
    screen.until("whisper-server");
    screen.press(KeyCode::Enter);
    screen.until("left alone: someone else set 2-3 since");
    assert_eq!(agent.asked().first(), Some(&Request::Explain { pid: 812 }));
    screen.press(KeyCode::Esc);
    let start = Instant::now();
    while screen.text().contains("left alone") {
        assert!(start.elapsed() < PATIENCE);
        screen.app.turn(&mut screen.terminal, TICK).unwrap();
    }
}

#[test]
fn quitting_beats_any_number_of_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let _agent = FakeAgent::start(dir.path(), host::crowd(2_000), Duration::from_millis(1));
    let mut screen = open(dir.path());
    screen.until("worker-");
    screen.press(KeyCode::Char('q'));
    let start = Instant::now();
    while screen.app.turn(&mut screen.terminal, TICK).unwrap() != Turn::Quit {
        assert!(start.elapsed() < PATIENCE);
    }
}

#[test]
fn rubbish_from_the_socket_is_told_and_does_not_end_the_screen() {
    use std::io::{Read, Write};
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join(SOCKET_NAME);
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else {
                return;
            };
            drop(connection.read(&mut [0; 64]));
            drop(connection.write_all(b"{\"answer\":\"\x1b[31mnonsense\"}\n"));
        }
    });
    let mut screen = open(dir.path());
    screen.until("Client and agent differ in");
    assert!(!screen.text().contains('\x1b'));
}
