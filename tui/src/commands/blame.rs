//! `downbeat blame`.

use std::path::Path;

use downbeat_api::{ClassBlame, Snapshot};
use ratatui::text::Line;

use super::{Failure, Found, Printer, picture_with_rates};
use crate::text::clean;
use crate::theme::Ink;
use crate::{report, sanitise};

pub(super) fn run(
    socket: &Path,
    class: Option<&str>,
    json: bool,
    printer: &mut Printer<'_>,
) -> Result<Found, Failure> {
    let mut snapshot = picture_with_rates(socket, |_| true)?;
    if let Some(class) = class {
        choose(&mut snapshot, class)?;
    }
    if json {
        printer.json(&snapshot.blame, true)?;
        return Ok(Found::Nothing);
    }
    sanitise::snapshot(&mut snapshot);
    let paper = printer.paper;
    let lines = match class {
        Some(class) if snapshot.blame.is_empty() && has(&snapshot, class) => {
            let text = format!("{} did not wait for a CPU since the agent started", clean(class));
            vec![Line::from(paper.span(Ink::Plain, text))]
        }
        _ => report::blame::lines(&snapshot, paper),
    };
    printer.lines(&lines)?;
    Ok(Found::Nothing)
}

/// Whether classes could have waited: without the kernel programs nobody sees waits.
fn has(snapshot: &Snapshot, class: &str) -> bool {
    let bpf = matches!(snapshot.source, downbeat_api::Source::Bpf);
    bpf && snapshot.classes.iter().any(|c| c.name == class)
}

/// Leaves only the blame of one class.
fn choose(snapshot: &mut Snapshot, class: &str) -> Result<(), Failure> {
    let named = |blame: &ClassBlame| blame.class.as_deref() == Some(class);
    let in_policy = snapshot.classes.iter().any(|c| c.name == class);
    if !in_policy && !snapshot.blame.iter().any(named) {
        return Err(no_class(snapshot, class));
    }
    snapshot.blame.retain(named);
    Ok(())
}

/// The policy has no class of this name.
pub(super) fn no_class(snapshot: &Snapshot, class: &str) -> Failure {
    let names: Vec<_> = snapshot.classes.iter().map(|c| clean(&c.name)).collect();
    let known = match names.as_slice() {
        [] => "no policy is in force: put one into /etc/downbeat/policy.d".into(),
        names => format!("the policy has {}", names.join(", ")),
    };
    Failure::NotFound(format!("no class is called {:?}: {known}", clean(class)))
}
