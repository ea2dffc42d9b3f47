//! `downbeat misses` and `downbeat explain --miss`.

use std::path::Path;

use downbeat_api::{Miss, Request, Response, Snapshot};
use ratatui::text::Line;

use super::{Failure, Found, Printer, ask, blame, picture, unexpected};
use crate::report;
use crate::text::clean;
use crate::theme::Ink;

/// The word for the latest miss.
pub(super) const LAST: &str = "last";

pub(super) fn run(socket: &Path, json: bool, printer: &mut Printer<'_>) -> Result<Found, Failure> {
    let misses = latest(socket)?;
    if json {
        printer.json(&misses, true)?;
        return Ok(Found::Nothing);
    }
    let paper = printer.paper;
    let snapshot = picture(socket)?;
    if misses.is_empty() {
        printer.lines(&paper.paragraph(Ink::Plain, &report::misses::nothing(&snapshot), 0))?;
        return Ok(Found::Nothing);
    }
    let mut lines = Vec::new();
    if let Some(causes) = report::misses::causes(&snapshot) {
        lines.extend(paper.paragraph(Ink::Strong, &causes, 2));
        lines.push(Line::default());
    }
    lines.extend(report::misses::table(&misses, snapshot.unix_time, paper));
    printer.lines(&lines)?;
    Ok(Found::Nothing)
}

/// The story of one miss.
pub(super) fn explain(
    socket: &Path,
    which: &str,
    json: bool,
    printer: &mut Printer<'_>,
) -> Result<Found, Failure> {
    let misses = latest(socket)?;
    let snapshot = picture(socket)?;
    let miss = find(&misses, which, &snapshot)?;
    if json {
        printer.json(miss, true)?;
    } else {
        printer.lines(&report::story::lines(miss, snapshot.unix_time, printer.paper))?;
    }
    Ok(Found::Nothing)
}

/// Newest last.
fn latest(socket: &Path) -> Result<Vec<Miss>, Failure> {
    match ask(socket, &Request::Misses)? {
        Response::Misses { misses } => Ok(misses),
        other => Err(unexpected(socket, &other)),
    }
}

/// The miss of that number, the latest of that class, or the last.
fn find<'a>(misses: &'a [Miss], which: &str, snapshot: &Snapshot) -> Result<&'a Miss, Failure> {
    let (Some(first), Some(last)) = (misses.first(), misses.last()) else {
        return Err(Failure::NotFound(report::misses::nothing(snapshot)));
    };
    if which == LAST {
        return Ok(last);
    }
    if let Ok(id) = which.parse::<u64>() {
        return misses.iter().find(|miss| miss.id == id).ok_or_else(|| {
            Failure::NotFound(format!(
                "no miss {id}: the agent remembers {} to {}; `downbeat misses` lists them",
                first.id, last.id
            ))
        });
    }
    let of_class = |miss: &&Miss| miss.class.as_deref() == Some(which);
    if let Some(miss) = misses.iter().rev().find(of_class) {
        return Ok(miss);
    }
    if snapshot.classes.iter().all(|class| class.name != which) {
        return Err(blame::no_class(snapshot, which));
    }
    Err(Failure::NotFound(format!(
        "no miss of class {} is among the last {} that the agent remembers",
        clean(which),
        misses.len()
    )))
}
