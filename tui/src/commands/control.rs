//! `downbeat pause` and `downbeat resume`.

use std::path::Path;

use downbeat_api::{Request, Response};
use ratatui::text::Line;

use super::{Failure, Found, Printer, ask, unexpected};

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
        other => Err(unexpected(socket, &other)),
    }
}
