//! The live screen on a pseudo-terminal: whatever ends it, the terminal is given back.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use support::agent::FakeAgent;
use support::host;

const PATIENCE: Duration = Duration::from_secs(20);
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const SHOW_CURSOR: &str = "\x1b[?25h";

/// The program on a terminal of its own.
struct Pty {
    child: Child,
    master: File,
    slave: OwnedFd,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Pty {
    fn start(run_dir: &Path, columns: u16, rows: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let (master, slave) = (File::from(pty.master), pty.slave);
        let mut command = Command::new(env!("CARGO_BIN_EXE_downbeat"));
        command.arg("--run-dir").arg(run_dir).env("TERM", "xterm-256color");
        command.stdin(slave.try_clone().unwrap());
        command.stdout(slave.try_clone().unwrap());
        // SAFETY: setsid is async-signal-safe and touches no memory of the parent's.
        unsafe { command.pre_exec(|| setsid().map(drop).map_err(Into::into)) };
        let child = command.spawn().unwrap();
        let (send, output) = mpsc::channel();
        let mut reader = master.try_clone().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, master, slave, output, seen: String::new() }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Reads on until `what` was written since the last call.
    fn until(&mut self, what: &str) {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen.find(what) {
                self.seen.drain(..at + what.len());
                return;
            }
            assert!(start.elapsed() < PATIENCE, "no {what:?} in {:?}", self.seen);
            if let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(50)) {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }

    fn cooked(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_flags;
        modes.contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    fn ended(&mut self) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn given_back(&mut self) {
        self.until(LEAVE);
        self.until(SHOW_CURSOR);
        assert_eq!(self.ended(), 0);
        assert!(self.cooked(), "the terminal stays in raw mode");
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn opened(run_dir: &Path) -> Pty {
    let mut pty = Pty::start(run_dir, 80, 24);
    pty.until(ENTER);
    pty.until("whisper");
    assert!(!pty.cooked());
    pty
}

#[test]
fn quitting_gives_the_terminal_back() {
    let run = tempfile::tempdir().unwrap();
    let _agent = FakeAgent::start(run.path(), host::small(), Duration::from_millis(50));
    for key in [&b"q"[..], b"\x03", b"\x1b[21~"] {
        let mut pty = opened(run.path());
        pty.master.write_all(key).unwrap();
        pty.given_back();
    }
}

#[test]
fn signals_give_the_terminal_back() {
    let run = tempfile::tempdir().unwrap();
    let _agent = FakeAgent::start(run.path(), host::small(), Duration::from_millis(50));
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut pty = opened(run.path());
        kill(pty.pid(), signal).unwrap();
        pty.given_back();
    }
}

#[test]
fn it_stops_and_goes_on_like_any_program() {
    let run = tempfile::tempdir().unwrap();
    let _agent = FakeAgent::start(run.path(), host::small(), Duration::from_millis(50));
    let mut pty = opened(run.path());
    for by_key in [true, false] {
        if by_key {
            pty.master.write_all(b"\x1a").unwrap();
        } else {
            kill(pty.pid(), Signal::SIGTSTP).unwrap();
        }
        pty.until(LEAVE);
        let stopped = waitpid(pty.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
        assert!(pty.cooked());
        kill(pty.pid(), Signal::SIGCONT).unwrap();
        pty.until(ENTER);
        pty.until("whisper");
        assert!(!pty.cooked());
    }
    pty.master.write_all(b"q").unwrap();
    pty.given_back();
}

#[test]
fn it_takes_the_terminal_again_after_a_stop_that_it_could_not_see() {
    let run = tempfile::tempdir().unwrap();
    let _agent = FakeAgent::start(run.path(), host::small(), Duration::from_millis(50));
    let mut pty = opened(run.path());
    kill(pty.pid(), Signal::SIGSTOP).unwrap();
    let stopped = waitpid(pty.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    kill(pty.pid(), Signal::SIGCONT).unwrap();
    pty.until(ENTER);
    pty.until("whisper");
    assert!(!pty.cooked());
    pty.master.write_all(b"q").unwrap();
    pty.given_back();
}

#[test]
fn a_terminal_of_40_by_10_shows_the_beat() {
    let run = tempfile::tempdir().unwrap();
    let _agent = FakeAgent::start(run.path(), host::small(), Duration::from_millis(50));
    let mut pty = Pty::start(run.path(), 40, 10);
    pty.until("ENGAGED");
    pty.until("voice");
    pty.master.write_all(b"q").unwrap();
    pty.given_back();
}

#[test]
fn it_opens_without_an_agent() {
    let run = tempfile::tempdir().unwrap();
    let mut pty = Pty::start(run.path(), 80, 24);
    pty.until("NO AGENT");
    pty.master.write_all(b"q").unwrap();
    pty.given_back();
}
