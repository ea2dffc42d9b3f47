//! `downbeat restore`.

use std::io::ErrorKind;
use std::path::Path;

use downbeat_agent::act::{LockError, RestoreError, RestoreReport, restore};
use downbeat_agent::roots::Roots;
use downbeat_agent::supervise::PoolGroup;
use ratatui::text::Line;

use super::{Failure, Found, Printer};
use crate::report::Paper;
use crate::text::clean;
use crate::theme::Ink;
use crate::units;

pub(super) fn run(run_dir: &Path, printer: &mut Printer<'_>) -> Result<Found, Failure> {
    if !run_dir.exists() {
        let text = format!(
            "no run directory {}, so nothing to put back there; name the agent's with --run-dir",
            run_dir.display()
        );
        printer.lines(&printer.paper.paragraph(Ink::Plain, &clean(&text), 0))?;
        return Ok(Found::Nothing);
    }
    let roots = Roots::default();
    let report = match restore(run_dir, &roots) {
        Err(RestoreError::Lock(LockError::Unusable { path, source }))
            if source.kind() == ErrorKind::PermissionDenied =>
        {
            return Err(Failure::Refused(format!(
                "{}: {source}; run as the user that the agent ran as, which is root as a rule",
                path.display()
            )));
        }
        other => other?,
    };
    // One that never was, or still has processes, is nothing to tell of.
    if let Ok(group) = PoolGroup::find(&roots, run_dir) {
        group.remove_empty();
    }
    printer.lines(&lines(&report, run_dir, printer.paper))?;
    Ok(if report.failed.is_empty() { Found::Nothing } else { Found::Problems })
}

fn lines(report: &RestoreReport, run_dir: &Path, paper: Paper) -> Vec<Line<'static>> {
    let RestoreReport { restored, handed_off, gone, failed, notes } = report;
    let mut parts = Vec::new();
    if *restored > 0 {
        parts.push(format!("{} put back", units::count(*restored, "value")));
    }
    if *handed_off > 0 {
        parts.push(format!(
            "{} left alone, since someone else changed them after downbeat",
            units::count(*handed_off, "value")
        ));
    }
    if *gone > 0 {
        parts.push(format!("{} gone meanwhile", units::count(*gone, "thread")));
    }
    if !failed.is_empty() {
        parts.push(format!("{} not put back", units::count(failed.len() as u64, "value")));
    }
    if parts.is_empty() {
        parts.push(format!("nothing to put back in {}", clean(&run_dir.display().to_string())));
    }
    let mut lines = paper.paragraph(Ink::Plain, &parts.join("; "), 0);
    for note in notes {
        lines.extend(paper.paragraph(Ink::Plain, &clean(note), 2));
    }
    for reason in failed {
        lines.extend(paper.paragraph(Ink::Bad, &format!("✗ {}", clean(reason)), 2));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::theme::Theme;

    fn told(report: &RestoreReport) -> String {
        let paper = Paper { width: 200, theme: Theme { colours: false } };
        let lines = lines(report, Path::new("/run/x"), paper);
        lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_report_is_told_in_words() {
        assert_eq!(told(&RestoreReport::default()), "nothing to put back in /run/x");
        let report = RestoreReport {
            restored: 1,
            handed_off: 2,
            gone: 3,
            failed: vec!["thread 7: sched_setattr: EPERM\x1b[2J".into()],
            notes: vec!["journal.jsonl: a journal of an earlier boot, removed".into()],
        };
        assert_eq!(
            told(&report),
            "1 value put back; 2 values left alone, since someone else changed them after \
             downbeat; 3 threads gone meanwhile; 1 value not put back\n\
             journal.jsonl: a journal of an earlier boot, removed\n\
             ✗ thread 7: sched_setattr: EPERM?[2J"
        );
    }
}
