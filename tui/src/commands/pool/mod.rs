//! `downbeat pool …`, over the pool's control socket and its REST server's socket.

mod http;
mod infer;
mod picture;
mod sound;
mod tensor;

use std::path::Path;
use std::thread;
use std::time::Duration;

use downbeat_api::Client;
use downbeat_api::pool::{
    CONTROL_SOCKET, LogLine, PoolClient, PoolRequest, PoolResponse, PoolStatus,
};
use ratatui::text::Line;

use super::{Failure, Found, Printer};
use crate::cli::{PoolCommand, Target};
use crate::report;
use crate::report::pool::Classes;
use crate::sanitise;

/// How long the pool may take for an answer that it has.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take to load or to drain a model: it gives up before that.
const LONG_PATIENCE: Duration = Duration::from_secs(180);

/// Takes the cursor to the beginning of an empty screen (ECMA-48: CUP, ED).
const AGAIN: &[u8] = b"\x1b[H\x1b[2J";

/// From one picture to the next.
const STEP: Duration = Duration::from_secs(1);

pub(super) fn run(
    target: &Target,
    command: &PoolCommand,
    printer: &mut Printer<'_>,
) -> Result<Found, Failure> {
    let folder = target.pool_dir();
    let control = folder.join(CONTROL_SOCKET);
    let named = |name: &String| name.clone();
    match command {
        PoolCommand::Ls { json } => ls(&control, &target.socket(), *json, printer),
        PoolCommand::Top => top(&control, &target.socket(), printer),
        PoolCommand::Load { name } => {
            change(&control, &PoolRequest::Load { name: named(name) }, printer)
        }
        PoolCommand::Unload { name } => {
            change(&control, &PoolRequest::Unload { name: named(name) }, printer)
        }
        PoolCommand::Drain { name } => {
            change(&control, &PoolRequest::Drain { name: named(name) }, printer)
        }
        PoolCommand::Logs { name, follow } => logs(&control, name, *follow, printer),
        PoolCommand::Infer(ask) => infer::run(&folder, ask, printer),
    }
}

/// An answer to another question than ours.
fn unexpected(client: &PoolClient, response: &PoolResponse) -> Failure {
    let mut reason = format!("{response:?}");
    reason.truncate(reason.floor_char_boundary(60));
    client.garbled(reason).into()
}

fn status(control: &Path) -> Result<PoolStatus, Failure> {
    let mut client = PoolClient::connect(control, Some(PATIENCE))?;
    match client.request(&PoolRequest::Status)? {
        PoolResponse::Status(status) => Ok(status),
        other => Err(unexpected(&client, &other)),
    }
}

/// The classes of the workers' processes, where an agent runs that knows them and tells us.
fn classes(agent: &Path) -> Classes {
    let snapshot = Client::connect(agent).and_then(|mut client| client.snapshot());
    snapshot
        .map(|mut snapshot| {
            sanitise::snapshot(&mut snapshot);
            report::pool::classes(&snapshot)
        })
        .unwrap_or_default()
}

fn ls(
    control: &Path,
    agent: &Path,
    json: bool,
    printer: &mut Printer<'_>,
) -> Result<Found, Failure> {
    let mut status = status(control)?;
    if json {
        printer.json(&status, true)?;
        return Ok(Found::Nothing);
    }
    sanitise::pool_status(&mut status);
    printer.lines(&report::pool::status(&status, &classes(agent), printer.paper))?;
    Ok(Found::Nothing)
}

/// On a terminal each picture takes the place of the one before.
fn top(control: &Path, agent: &Path, printer: &mut Printer<'_>) -> Result<Found, Failure> {
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    loop {
        let mut status = status(control)?;
        sanitise::pool_status(&mut status);
        let classes = classes(agent);
        if terminal {
            let (columns, rows) = crossterm::terminal::size()?;
            printer.paper.width = usize::from(columns.max(20));
            let mut lines = report::pool::status(&status, &classes, printer.paper);
            // The line break behind the last one would scroll.
            lines.truncate(usize::from(rows.saturating_sub(1)).max(1));
            printer.out.write_all(AGAIN)?;
            printer.lines(&lines)?;
        } else {
            printer.lines(&report::pool::status(&status, &classes, printer.paper))?;
            printer.lines(&[Line::default()])?;
        }
        printer.out.flush()?;
        thread::sleep(STEP);
    }
}

fn change(
    control: &Path,
    request: &PoolRequest,
    printer: &mut Printer<'_>,
) -> Result<Found, Failure> {
    let mut client = PoolClient::connect(control, Some(LONG_PATIENCE))?;
    match client.request(request)? {
        PoolResponse::Done { mut message } => {
            sanitise::text(&mut message);
            printer.lines(&[Line::from(message)])?;
            Ok(Found::Nothing)
        }
        other => Err(unexpected(&client, &other)),
    }
}

fn logs(
    control: &Path,
    name: &str,
    follow: bool,
    printer: &mut Printer<'_>,
) -> Result<Found, Failure> {
    let mut client = PoolClient::connect(control, (!follow).then_some(PATIENCE))?;
    let mut response = client.request(&PoolRequest::Logs { name: name.into(), follow })?;
    loop {
        let PoolResponse::Logs { lines } = response else {
            return Err(unexpected(&client, &response));
        };
        for mut line in lines {
            sanitise::log_line(&mut line);
            let LogLine { unix_time, instance, text } = line;
            let time = humantime::format_rfc3339_millis(
                std::time::UNIX_EPOCH + Duration::try_from_secs_f64(unix_time).unwrap_or_default(),
            );
            printer.lines(&[Line::from(format!("{time} {instance}: {text}"))])?;
        }
        if !follow {
            return Ok(Found::Nothing);
        }
        response = client.receive()?;
    }
}
