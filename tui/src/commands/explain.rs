//! `downbeat explain`.

use std::path::Path;

use downbeat_api::{Request, Response, Snapshot};
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
            }
            other => return Err(unexpected(socket, &other)),
        }
    }
    Ok(Found::Nothing)
}

/// The processes of that name; where none has it, those with it in their command line.
pub(super) fn named(snapshot: &Snapshot, name: &str) -> Result<Vec<u32>, Failure> {
    if name.trim().is_empty() {
        return Err(Failure::NotFound("an empty name; give a process's id or name".into()));
    }
    let own = std::process::id();
    let others = || snapshot.processes.iter().filter(|p| p.pid != own);
    let mut pids: Vec<u32> = others().filter(|p| p.name == name).map(|p| p.pid).collect();
    if pids.is_empty() {
        pids = others().filter(|p| p.command.contains(name)).map(|p| p.pid).collect();
    }
    pids.sort_unstable();
    match pids.len() {
        0 => Err(Failure::NotFound(format!("no process is called {:?}", clean(name)))),
        1..=MOST => Ok(pids),
        n => {
            let pids: Vec<_> = pids.iter().take(MOST).map(u32::to_string).collect();
            Err(Failure::NotFound(format!(
                "{n} processes are called {:?}: name one by its pid ({}, and {} more)",
                clean(name),
                pids.join(", "),
                n - MOST
            )))
        }
    }
}
