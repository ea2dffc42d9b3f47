//! `downbeat explain`.

use std::path::Path;

use downbeat_api::{Process, Request, Response, Snapshot};
use ratatui::text::Line;

use super::{Failure, Found, Printer, ask, picture, unexpected};
use crate::report;
use crate::text::clean;

/// Processes of one name that are explained, or of more that are listed.
const MOST: usize = 8;

pub(super) fn run(
    socket: &Path,
    process: &str,
    json: bool,
    printer: &mut Printer<'_>,
) -> Result<Found, Failure> {
    let pids = match process.parse::<u32>() {
        Ok(pid) => vec![pid],
        Err(_) => named(&picture(socket)?, process)?,
    };
    for (n, pid) in pids.into_iter().enumerate() {
        match ask(socket, &Request::Explain { pid })? {
            Response::Explain(explanation) if json => printer.json(&explanation, true)?,
            Response::Explain(explanation) => {
                if n > 0 {
                    printer.lines(&[Line::default()])?;
                }
                printer.lines(&report::explain::lines(&explanation, printer.paper))?;
                let jobs: Vec<_> = explanation.jobs.iter().collect();
                printer.lines(&report::jobs::sleepless(&jobs, printer.paper))?;
            }
            other => return Err(unexpected(socket, &other)),
        }
    }
    Ok(Found::Nothing)
}

/// The processes of that name, or whose program is called so; where there is none, those with it
/// in their command line.
pub(super) fn named(snapshot: &Snapshot, name: &str) -> Result<Vec<u32>, Failure> {
    if name.trim().is_empty() {
        return Err(Failure::NotFound("an empty name; give a process's id or name".into()));
    }
    let own = std::process::id();
    let others = || snapshot.processes.iter().filter(|p| p.pid != own);
    let called = |p: &&Process| p.name == name || program(&p.command) == name;
    let mut found: Vec<&Process> = others().filter(called).collect();
    let how = if found.is_empty() { "have this in their command line" } else { "are called so" };
    if found.is_empty() {
        found = others().filter(|p| p.command.contains(name)).collect();
    }
    found.sort_unstable_by_key(|p| p.pid);
    match found.len() {
        0 => Err(Failure::NotFound(format!("no process is called {:?}", clean(name)))),
        1..=MOST => Ok(found.into_iter().map(|p| p.pid).collect()),
        n => {
            let some: Vec<_> = found
                .iter()
                .take(MOST)
                .map(|p| format!("{} {}", p.pid, clean(program(&p.command))))
                .collect();
            Err(Failure::NotFound(format!(
                "{:?}: {n} processes {how}; name one by its pid ({}, and {} more)",
                clean(name),
                some.join(", "),
                n - MOST
            )))
        }
    }
}

/// The file name of the program that a command line starts.
fn program(command: &str) -> &str {
    let first = command.split(' ').next().unwrap_or(command);
    first.rsplit('/').next().unwrap_or(first)
}
