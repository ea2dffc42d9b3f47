//! `downbeat discover`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use downbeat_agent::observe::policy_files::shell_word;
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
    if let Some(file) = file {
        // Told before the look, which takes a while; and nothing stays if it is interrupted.
        create(file).and_then(|_| fs::remove_file(file)).map_err(|error| refused(file, &error))?;
    }
    let found = survey(socket, Duration::from_secs(seconds.into()))?;
    if json {
        printer.json(&found, true)?;
    } else {
        printer.lines(&lines(&found, printer.paper))?;
    }
    let Some(file) = file else { return Ok(Found::Nothing) };
    let all: Vec<&Discovered> = found.findings.iter().collect();
    if !all.iter().any(|found| found.enough) {
        return Err(Failure::NotFound(format!(
            "nothing is sure enough for a rule: {} is not written",
            file.display()
        )));
    }
    write(file, &report::discovery::policy(&all))?;
    if !json {
        let said = "written. Read it, change it, and see what it matches with the command below; \
                    then copy it to /etc/downbeat/policy.d";
        let mut lines = printer.paper.paragraph(Ink::Plain, said, 0);
        // Never wrapped: it is there to be copied.
        let command = format!("  downbeat check {}", clean(&shell_word(file)));
        lines.push(Line::from(printer.paper.span(Ink::Strong, command)));
        printer.lines(&lines)?;
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

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let written = create(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| refused(path, &error))
}

/// A new file, which nobody but its owner can write whatever the umask: one that others can write is
/// no policy. A file that is there is somebody's work.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)
}

fn refused(path: &Path, error: &io::Error) -> Failure {
    let remedy = match error.kind() {
        io::ErrorKind::AlreadyExists => "; name a file that is not there yet",
        _ => "",
    };
    Failure::Usage(format!("{}: {error}{remedy}", clean(&path.display().to_string())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use downbeat_agent::observe::policy_files;

    use super::*;

    #[test]
    fn what_is_written_is_a_policy_under_any_umask_and_replaces_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("found.toml");
        let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o002));
        let written = write(&path, "schema = 1\n");
        nix::sys::stat::umask(before);
        written.expect("a new file");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        policy_files::read_file(&path).expect("a file that may be policy");
        let error = write(&path, "").expect_err("it is there").to_string();
        assert!(error.ends_with("name a file that is not there yet"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("a text"), "schema = 1\n");
    }
}
