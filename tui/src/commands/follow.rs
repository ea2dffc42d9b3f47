//! `downbeat follow`.

use std::path::Path;
use std::time::{Duration, Instant};

use downbeat_api::{Client, Request, Response, Snapshot};
use ratatui::text::Line;

use super::{Failure, Found, Printer, ask, explain, found_in_picture, unexpected};
use crate::report::follow::Follow;
use crate::sanitise;

/// From one line to the next.
const STEP: Duration = Duration::from_secs(1);

pub(super) fn run(
    socket: &Path,
    process: &str,
    seconds: u32,
    printer: &mut Printer<'_>,
) -> Result<Found, Failure> {
    let pid = match process.parse::<u32>() {
        Ok(pid) => pid,
        Err(_) => found_in_picture(socket, |picture| one(picture, process))?,
    };
    match ask(socket, &Request::Follow { pid, seconds })? {
        Response::Done { message } => printer.lines(&[Line::from(message)])?,
        other => return Err(unexpected(socket, &other)),
    }
    let mut follow = Follow::new(pid);
    let (start, mut shown) = (Instant::now(), 0);
    for snapshot in Client::connect(socket)?.watch()? {
        let mut snapshot = snapshot?;
        sanitise::snapshot(&mut snapshot);
        let elapsed = start.elapsed();
        let over = elapsed >= Duration::from_secs(seconds.into());
        let gone = snapshot.processes.iter().all(|p| p.pid != pid);
        let step = elapsed.as_secs() / STEP.as_secs();
        // A line says what happened since the one before: a first step without time has none.
        if step > shown || over || gone {
            shown = step;
            printer.lines(&follow.step(&snapshot, elapsed, printer.paper))?;
        } else {
            follow.begin(&snapshot, elapsed);
        }
        if over || gone {
            printer.lines(&follow.end(gone, printer.paper))?;
            let seen = if follow.saw_jobs() { Found::Nothing } else { Found::Problems };
            return Ok(seen);
        }
    }
    Ok(Found::Nothing)
}

/// The one process of that name.
pub(super) fn one(snapshot: &Snapshot, name: &str) -> Result<u32, Failure> {
    match explain::named(snapshot, name)?.as_slice() {
        [pid] => Ok(*pid),
        pids => {
            let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
            Err(Failure::NotFound(format!(
                "{} processes are called {name:?}: name one by its pid ({})",
                pids.len(),
                pids.join(", ")
            )))
        }
    }
}
