//! `downbeat status`.

use std::path::Path;

use downbeat_api::{Client, Snapshot};
use ratatui::text::Line;

use super::{Failure, Found, Printer};
use crate::{report, sanitise};

pub(super) fn run(
    socket: &Path,
    json: bool,
    watch: bool,
    printer: &mut Printer<'_>,
) -> Result<Found, Failure> {
    if !watch {
        let mut snapshot = Client::connect(socket)?.snapshot()?;
        return print(&mut snapshot, json, true, printer);
    }
    for snapshot in Client::connect(socket)?.watch()? {
        print(&mut snapshot?, json, false, printer)?;
    }
    Ok(Found::Nothing)
}

/// `alone`: nothing follows it.
fn print(
    snapshot: &mut Snapshot,
    json: bool,
    alone: bool,
    printer: &mut Printer<'_>,
) -> Result<Found, Failure> {
    if json {
        // As the agent says it: only what a terminal could misread is escaped.
        printer.json(snapshot, alone)?;
        return Ok(Found::Nothing);
    }
    sanitise::snapshot(snapshot);
    let mut lines = report::status::lines(snapshot, printer.paper);
    if !alone {
        lines.push(Line::default());
    }
    printer.lines(&lines)?;
    Ok(Found::Nothing)
}
