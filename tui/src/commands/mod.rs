//! The subcommands.

mod blame;
mod check;
mod control;
mod discover;
mod doctor;
mod explain;
mod follow;
mod jobs;
mod misses;
mod plan;
mod pool;
mod restore;
mod status;
mod survey;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::ColorChoice;
use downbeat_api::pool::PoolError;
use downbeat_api::{Client, ClientError, Request, Response, Snapshot};
use ratatui::text::Line;

use crate::cli::{Cli, Command};
use crate::report::Paper;
use crate::theme::Theme;
use crate::{conn, paint, sanitise, screen, text};

/// Columns of plain text where no terminal says otherwise.
const PIPE_WIDTH: u16 = 120;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The agent refused, or there is none.
    #[error(transparent)]
    Agent(#[from] ClientError),
    /// The pool refused, or there is none.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Our own output.
    #[error("writing the answer: {0}")]
    Output(#[from] io::Error),
    /// Nothing could be restored.
    #[error(transparent)]
    Restore(#[from] downbeat_agent::act::RestoreError),
    /// What was asked about is not there.
    #[error("{0}")]
    NotFound(String),
    /// The rights for it lack.
    #[error("{0}")]
    Refused(String),
    /// It cannot be done this way.
    #[error("{0}")]
    Usage(String),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Agent(ClientError::Refused(_))
            | Self::Pool(PoolError::Refused(_))
            | Self::Restore(_)
            | Self::NotFound(_)
            | Self::Refused(_) => 1,
            Self::Output(_) => 1,
            Self::Agent(_) | Self::Pool(_) | Self::Usage(_) => 2,
        }
    }
}

/// What a command found: everything in order, or problems that it has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Exit code 0.
    Nothing,
    /// Exit code 1.
    Problems,
}

/// Where a command writes.
struct Printer<'a> {
    out: &'a mut dyn Write,
    paper: Paper,
    escapes: bool,
}

impl Printer<'_> {
    fn lines(&mut self, lines: &[Line<'_>]) -> io::Result<()> {
        paint::write_lines(self.out, lines, self.escapes)
    }

    /// A JSON document that a terminal can show.
    fn json(&mut self, value: &impl serde::Serialize, pretty: bool) -> io::Result<()> {
        let document = if pretty {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        }?;
        writeln!(self.out, "{}", sanitise::json(&document))?;
        self.out.flush()
    }
}

/// The whole program.
#[must_use]
pub fn main(cli: &Cli) -> ExitCode {
    match run(cli) {
        Ok(Found::Nothing) => ExitCode::SUCCESS,
        Ok(Found::Problems) => ExitCode::from(1),
        // `downbeat status | head` has what it wanted.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            // Where nobody can be told, the exit code has to do.
            drop(writeln!(io::stderr(), "downbeat: {}", text::clean(&failure.to_string())));
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<Found, Failure> {
    let socket = cli.target.socket();
    let mut stdout = io::stdout().lock();
    let terminal = stdout.is_terminal();
    let width = terminal.then(|| crossterm::terminal::size().ok()).flatten();
    let escapes = colours(cli.color, terminal);
    let mut printer = Printer {
        out: &mut stdout,
        paper: Paper {
            width: width.map_or(PIPE_WIDTH, |(columns, _)| columns.max(20)).into(),
            theme: Theme { colours: escapes },
        },
        escapes,
    };
    match &cli.command {
        None => {
            // The screen locks the output itself, again for every frame.
            drop(stdout);
            live(&socket, cli.color)
        }
        Some(Command::Status { json, once: _, watch }) => {
            status::run(&socket, *json, *watch, &mut printer)
        }
        Some(Command::Check { files }) => check::run(files, &mut printer),
        Some(Command::Doctor { json }) => doctor::run(&socket, *json, &mut printer),
        Some(Command::Restore) if cli.target.connect.is_some() => Err(Failure::Usage(
            "restore reads the journal in the run directory: name it with --run-dir".into(),
        )),
        Some(Command::Restore) => restore::run(&cli.target.run_dir(), &mut printer),
        Some(Command::Explain { process: Some(process), miss: _, json }) => {
            explain::run(&socket, process, *json, &mut printer)
        }
        Some(Command::Explain { process: None, miss, json }) => {
            let which = miss.as_deref().unwrap_or(misses::LAST);
            misses::explain(&socket, which, *json, &mut printer)
        }
        Some(Command::Jobs { who, json }) => {
            jobs::run(&socket, who.as_deref(), *json, &mut printer)
        }
        Some(Command::Blame { class, json }) => {
            blame::run(&socket, class.as_deref(), *json, &mut printer)
        }
        Some(Command::Misses { json }) => misses::run(&socket, *json, &mut printer),
        Some(Command::Follow { process, seconds }) => {
            follow::run(&socket, process, *seconds, &mut printer)
        }
        Some(Command::Discover { seconds, json, write }) => {
            discover::run(&socket, *seconds, *json, write.as_deref(), &mut printer)
        }
        Some(Command::Plan { files, json }) => plan::run(&socket, files, *json, &mut printer),
        Some(Command::Reload) => control::run(&socket, &Request::Reload, &mut printer),
        Some(Command::Set { process, class, time }) => {
            let request = Request::Set {
                pid: control::one_process(&socket, process)?,
                class: class.clone(),
                seconds: time.map(|time| time.as_secs()),
            };
            control::run(&socket, &request, &mut printer)
        }
        Some(Command::Release { process }) => {
            let request = Request::Release { pid: control::one_process(&socket, process)? };
            control::run(&socket, &request, &mut printer)
        }
        Some(Command::Pool { command }) => pool::run(&cli.target, command, &mut printer),
        Some(Command::Pause) => control::run(&socket, &Request::Pause, &mut printer),
        Some(Command::Resume) => control::run(&socket, &Request::Resume, &mut printer),
    }
}

fn live(socket: &Path, color: ColorChoice) -> Result<Found, Failure> {
    if !screen::possible() {
        return Err(Failure::Usage(
            "the live screen needs a terminal for input and output. For a pipe or a file use \
             `downbeat status --once` (text) or `downbeat status --json`"
                .into(),
        ));
    }
    screen::run(socket, Theme { colours: colours(color, true) })?;
    Ok(Found::Nothing)
}

/// Whether to use colours; see no-color.org.
fn colours(choice: ColorChoice, terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
        }
    }
}

/// One question to the agent.
fn ask(socket: &Path, request: &Request) -> Result<Response, Failure> {
    Ok(conn::answer(socket, request)?)
}

/// The latest snapshot, safe to show.
fn picture(socket: &Path) -> Result<Snapshot, Failure> {
    match ask(socket, &Request::Snapshot)? {
        Response::Snapshot(snapshot) => Ok(*snapshot),
        other => Err(unexpected(socket, &other)),
    }
}

/// What `find` finds in the latest snapshot or, where that is not there, in the next one: a program
/// that has just started is in no snapshot yet.
fn found_in_picture<T>(
    socket: &Path,
    find: impl Fn(&Snapshot) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut next = snapshots(socket)?;
    match find(&next()?) {
        Err(Failure::NotFound(_)) => find(&next()?),
        found => found,
    }
}

/// A snapshot with rates in it, as the agent says it: the second one where the first covers no
/// time yet or fell between two jobs.
fn picture_with_rates(
    socket: &Path,
    rates: impl Fn(&Snapshot) -> bool,
) -> Result<Snapshot, Failure> {
    let mut next = snapshots(socket)?;
    let first = next()?;
    if first.interval > 0.0 && rates(&first) { Ok(first) } else { Ok(next()?) }
}

/// One snapshot after the other.
fn snapshots(
    socket: &Path,
) -> Result<impl FnMut() -> Result<Snapshot, ClientError> + '_, ClientError> {
    let mut watch = Client::connect(socket)?.watch()?;
    Ok(move || watch.next().unwrap_or_else(|| Err(ended(socket))))
}

/// The stream of snapshots ended.
fn ended(socket: &Path) -> ClientError {
    ClientError::Broken { path: socket.into(), source: io::ErrorKind::UnexpectedEof.into() }
}

/// An answer to another question than ours.
fn unexpected(socket: &Path, response: &Response) -> Failure {
    let mut reason = format!("{response:?}");
    reason.truncate(reason.floor_char_boundary(60));
    Failure::Agent(ClientError::Garbled { path: socket.into(), reason })
}
