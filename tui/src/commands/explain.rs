//! `downbeat explain`.

use std::path::Path;

use downbeat_api::{Process, Request, Response, Snapshot};
use ratatui::text::Line;

use super::{Failure, Found, Printer, ask, found_in_picture, unexpected};
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
        Err(_) => found_in_picture(socket, |picture| named(picture, process))?,
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
    let mut found: Vec<&Process> = others().filter(|p| is_called(p, name)).collect();
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

/// The one process that is called so, or whose program is: for commands that change something.
pub(super) fn exactly_one(snapshot: &Snapshot, name: &str) -> Result<u32, Failure> {
    let own = std::process::id();
    let others = || snapshot.processes.iter().filter(|p| p.pid != own);
    let listed = |found: &[&Process]| {
        let mut some: Vec<String> = found
            .iter()
            .take(MOST)
            .map(|p| format!("{} {}", p.pid, clean(program(&p.command))))
            .collect();
        if found.len() > MOST {
            some.push(format!("and {} more", found.len() - MOST));
        }
        some.join(", ")
    };
    let mut found: Vec<&Process> = others().filter(|p| is_called(p, name)).collect();
    found.sort_unstable_by_key(|p| p.pid);
    let quoted = format!("{:?}", clean(name));
    match found.as_slice() {
        [one] => Ok(one.pid),
        [] => {
            let partly = |p: &&Process| !name.trim().is_empty() && p.command.contains(name);
            let mut near: Vec<&Process> = others().filter(partly).collect();
            near.sort_unstable_by_key(|p| p.pid);
            let hint = if near.is_empty() {
                String::new()
            } else {
                format!("; with this in their command line there are {}", listed(&near))
            };
            Err(Failure::NotFound(format!(
                "no process is called {quoted}: give its whole name, or its id{hint}"
            )))
        }
        several => Err(Failure::NotFound(format!(
            "{} processes are called {quoted}: name one by its id ({})",
            several.len(),
            listed(several)
        ))),
    }
}

/// Whether a process, or the program that it runs, has this name.
fn is_called(process: &Process, name: &str) -> bool {
    process.name == name || program(&process.command) == name
}

/// The file name of the program that a command line starts.
fn program(command: &str) -> &str {
    let first = command.split(' ').next().unwrap_or(command);
    first.rsplit('/').next().unwrap_or(first)
}
