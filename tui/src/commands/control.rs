//! Commands that change what the agent does: `pause`, `resume`, `reload`, `set`, `release`.

use std::path::Path;

use downbeat_api::{Request, Response};
use ratatui::text::Line;

use super::{Failure, Found, Printer, ask, check, explain, found_in_picture, unexpected};

pub(super) fn run(
    socket: &Path,
    request: &Request,
    printer: &mut Printer<'_>,
) -> Result<Found, Failure> {
    match ask(socket, request)? {
        Response::Done { message } => {
            printer.lines(&[Line::from(message)])?;
            Ok(Found::Nothing)
        }
        Response::Refused { problems, more } => {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            check::tell(&problems, more, printer)?;
            printer.lines(&[Line::from("the policy that was in force stays")])?;
            Ok(Found::Problems)
        }
        other => Err(unexpected(socket, &other)),
    }
}

/// The one process that a person names by its id or its whole name: what changes something never
/// guesses.
pub(super) fn one_process(socket: &Path, process: &str) -> Result<u32, Failure> {
    match process.parse() {
        Ok(pid) => Ok(pid),
        Err(_) => found_in_picture(socket, |picture| explain::exactly_one(picture, process)),
    }
}
