//! `downbeat jobs`.

use std::path::Path;

use downbeat_api::{Snapshot, ThreadJobs};
use ratatui::text::Line;

use super::{Failure, Found, Printer, picture_with_rates};
use crate::text::clean;
use crate::theme::Ink;
use crate::{report, sanitise};

pub(super) fn run(
    socket: &Path,
    who: Option<&str>,
    json: bool,
    printer: &mut Printer<'_>,
) -> Result<Found, Failure> {
    let mut snapshot = picture_with_rates(socket, |snapshot| {
        snapshot.jobs.is_empty() || snapshot.jobs.iter().any(|jobs| jobs.recent.jobs > 0)
    })?;
    if let Some(who) = who {
        choose(&mut snapshot, who)?;
    }
    if json {
        printer.json(&snapshot.jobs, true)?;
        return Ok(Found::Nothing);
    }
    sanitise::snapshot(&mut snapshot);
    let paper = printer.paper;
    let jobs: Vec<&ThreadJobs> = snapshot.jobs.iter().collect();
    let mut lines = if jobs.is_empty() {
        vec![Line::from(paper.span(Ink::Plain, report::jobs::nothing(&snapshot)))]
    } else {
        report::jobs::table(&snapshot, &jobs, paper)
    };
    lines.extend(report::jobs::lost(&snapshot, paper));
    printer.lines(&lines)?;
    Ok(Found::Nothing)
}

/// Leaves only the jobs of one process or thread: by its id, by its name, or by a part of that.
fn choose(snapshot: &mut Snapshot, who: &str) -> Result<(), Failure> {
    if who.trim().is_empty() {
        return Err(Failure::NotFound("an empty name; give a process's id or name".into()));
    }
    let by_id = who.parse::<u32>().ok();
    let exact = |jobs: &ThreadJobs| match by_id {
        Some(id) => jobs.pid == id || jobs.tid == id,
        None => jobs.process == who || jobs.thread == who,
    };
    let part = |jobs: &ThreadJobs| {
        by_id.is_none() && (jobs.process.contains(who) || jobs.thread.contains(who))
    };
    if snapshot.jobs.iter().any(exact) {
        snapshot.jobs.retain(exact);
    } else if snapshot.jobs.iter().any(part) {
        snapshot.jobs.retain(part);
    } else {
        let who = clean(who);
        return Err(Failure::NotFound(format!(
            "no jobs of {who} are followed: either no rule gives it a class, or it did not work \
             in periods yet. `downbeat explain {who}` tells its class, and `downbeat follow {who}` \
             follows it without one"
        )));
    }
    Ok(())
}
