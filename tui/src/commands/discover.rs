//! `downbeat discover`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use downbeat_api::{Discovered, Discovery, Request, Response};
use ratatui::text::Line;

use super::{Failure, Found, Printer, ask, unexpected};
use crate::report::{self, Paper};
use crate::text::clean;
use crate::theme::Ink;

/// Between two questions while the agent looks.
const STEP: Duration = Duration::from_secs(1);

pub(super) fn run(
    socket: &Path,
    seconds: u32,
    json: bool,
    file: Option<&Path>,
    printer: &mut Printer<'_>,
) -> Result<Found, Failure> {
    let found = survey(socket, Duration::from_secs(seconds.into()))?;
    if json {
        printer.json(&found, true)?;
    } else {
        printer.lines(&lines(&found, printer.paper))?;
    }
    let Some(file) = file else { return Ok(Found::Nothing) };
    let enough: Vec<&Discovered> = found.findings.iter().filter(|found| found.enough).collect();
    if enough.is_empty() {
        return Err(Failure::NotFound(format!(
            "nothing is sure enough for a rule: {} is not written",
            file.display()
        )));
    }
    write(file, &report::discovery::policy(&enough))?;
    if !json {
        let said = format!(
            "written: {}. Read it, change it, try it with `downbeat check {0}`, and copy it to \
             /etc/downbeat/policy.d",
            file.display()
        );
        printer.lines(&printer.paper.paragraph(Ink::Plain, &said, 0))?;
    }
    Ok(Found::Nothing)
}

/// Asks until every process was looked at, or the time is over.
fn survey(socket: &Path, most: Duration) -> Result<Discovery, Failure> {
    let begun = Instant::now();
    // The first answer knows nothing yet where `[auto]` is off; the second has at least begun.
    let mut answers = 0;
    loop {
        let found = match ask(socket, &Request::Discover)? {
            Response::Discovery(found) => *found,
            other => return Err(unexpected(socket, &other)),
        };
        answers += 1;
        if begun.elapsed() + STEP > most || (found.pending == 0 && answers > 2) {
            return Ok(found);
        }
        thread::sleep(STEP);
    }
}

fn lines(found: &Discovery, paper: Paper) -> Vec<Line<'static>> {
    let mut lines = report::discovery::table(found, paper);
    let mut said = Vec::new();
    if !found.enabled && !found.findings.is_empty() {
        said.push(
            "[auto] is off: nothing of this has an effect. `downbeat discover --write FILE` makes \
             rules of it"
                .to_owned(),
        );
    }
    if !found.beats {
        said.push(
            "beats are not seen without the kernel programs: much is less sure than it could be"
                .to_owned(),
        );
    } else if found.pending > 0 {
        said.push(format!(
            "{} are still being looked at: a longer --seconds tells more",
            crate::units::count(found.pending, "process")
        ));
    }
    for text in said {
        lines.extend(paper.paragraph(Ink::Faint, &text, 0));
    }
    lines
}

/// A file that is there is somebody's work.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AlreadyExists => "; name a file that is not there yet",
            _ => "",
        };
        Failure::Usage(format!("{}: {error}{remedy}", clean(&path.display().to_string())))
    })
}
