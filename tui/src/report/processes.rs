//! The table of processes.

use downbeat_api::{Class, Override, Process, Snapshot};
use ratatui::text::Line;

use super::Paper;
use super::grid::{self, Cell, Chosen, Column};
use crate::text;
use crate::text::Align::{Left, Right};
use crate::theme::{Ink, Theme};
use crate::units;

/// The columns, in their order on the screen.
pub const COLUMNS: [Column; 11] = [
    Column { title: "PID", min: 7, max: 10, align: Right, rank: 1 },
    Column { title: "USER", min: 8, max: 9, align: Left, rank: 6 },
    Column { title: "CLASS", min: 8, max: 16, align: Left, rank: 3 },
    Column { title: "SCHED", min: 8, max: 11, align: Left, rank: 5 },
    Column { title: "NI", min: 3, max: 3, align: Right, rank: 9 },
    Column { title: "CPU%", min: 5, max: 6, align: Right, rank: 2 },
    Column { title: "RES", min: 5, max: 5, align: Right, rank: 4 },
    Column { title: "GPU", min: 5, max: 5, align: Right, rank: 10 },
    Column { title: "THR", min: 4, max: 7, align: Right, rank: 7 },
    Column { title: "S", min: 1, max: 1, align: Left, rank: 8 },
    Column { title: "COMMAND", min: 12, max: usize::MAX, align: Left, rank: 0 },
];

/// Index of a column by its title's meaning.
pub mod column {
    /// PID.
    pub const PID: usize = 0;
    /// USER.
    pub const USER: usize = 1;
    /// CLASS.
    pub const CLASS: usize = 2;
    /// SCHED.
    pub const SCHED: usize = 3;
    /// NI.
    pub const NICE: usize = 4;
    /// CPU%.
    pub const CPU: usize = 5;
    /// RES.
    pub const RSS: usize = 6;
    /// GPU.
    pub const GPU: usize = 7;
    /// THR.
    pub const THREADS: usize = 8;
    /// S.
    pub const STATE: usize = 9;
    /// COMMAND.
    pub const COMMAND: usize = 10;
}

/// The columns that fit; the GPU's only on a host with one.
#[must_use]
pub fn choose(snapshot: &Snapshot, paper: Paper) -> Vec<Chosen> {
    let class = snapshot.classes.iter().map(|c| text::width(&c.name) + 1).max().unwrap_or(0);
    let natural = [7, 9, class, 11, 3, 6, 5, 5, 5, 1, usize::MAX];
    let mut columns = COLUMNS;
    if snapshot.gpu.devices.is_empty() {
        // Wider than any terminal: never chosen.
        columns[column::GPU].min = usize::MAX / 2;
    }
    grid::choose(&columns, &natural, paper.width)
}

/// The heading.
#[must_use]
pub fn heading(chosen: &[Chosen], paper: Paper, sorted: Option<(usize, bool)>) -> Line<'static> {
    grid::heading(&COLUMNS, chosen, paper, sorted)
}

/// One process.
#[must_use]
pub fn row(
    snapshot: &Snapshot,
    process: &Process,
    chosen: &[Chosen],
    paper: Paper,
    selected: bool,
) -> Line<'static> {
    let over = selected.then_some(Ink::Selected);
    grid::row(&COLUMNS, chosen, &cells(snapshot, process), paper, over)
}

/// The class, with `!` before it where something needs attention, and `~` where the program's behaviour
/// gave it and neither a rule nor a person.
fn class(classes: &[Class], by_hand: &[Override], process: &Process) -> Cell {
    match (&process.class, process.attention) {
        (None, false) => Cell::new(Ink::Faint, units::UNKNOWN),
        (None, true) => Cell::new(Ink::Warning, "!"),
        (Some(name), true) => Cell::new(Ink::Warning, format!("!{name}")),
        (Some(name), false) => {
            let tier = classes.iter().find(|c| &c.name == name).map(|c| c.tier.as_str());
            let by_hand = || by_hand.iter().any(|it| it.pid == process.pid);
            let mark = if process.rule.is_none() && !by_hand() { "~" } else { "" };
            Cell::new(Theme::tier(tier.unwrap_or_default()), format!("{mark}{name}"))
        }
    }
}

fn cells(snapshot: &Snapshot, process: &Process) -> Vec<Cell> {
    let class = class(&snapshot.classes, &snapshot.overrides, process);
    let threads = if process.managed > 0 && process.managed < process.threads {
        format!("{}/{}", process.managed, process.threads)
    } else {
        process.threads.to_string()
    };
    let real_time = ["fifo", "rr", "deadline"].iter().any(|p| process.sched.starts_with(p));
    let quiet = if process.cpu < 0.0005 { Ink::Faint } else { Ink::Plain };
    vec![
        Cell::plain(process.pid.to_string()),
        Cell::plain(&process.user),
        class,
        Cell::new(if real_time { Ink::Realtime } else { Ink::Plain }, &process.sched),
        Cell::new(
            if process.nice == 0 { Ink::Faint } else { Ink::Plain },
            process.nice.to_string(),
        ),
        Cell::new(quiet, units::percent(process.cpu)),
        Cell::plain(units::bytes_short(process.rss)),
        match process.gpu_memory {
            Some(bytes) => Cell::plain(units::bytes_short(bytes)),
            None => Cell::new(Ink::Faint, units::UNKNOWN),
        },
        Cell::plain(threads),
        Cell::new(if process.state == 'R' { Ink::Good } else { Ink::Plain }, process.state),
        Cell::plain(if process.command.is_empty() { &process.name } else { &process.command }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_was_discovered_has_a_mark_of_its_own() {
        let process = |rule: Option<&str>, attention| Process {
            pid: 7,
            ppid: 1,
            start_time: 1,
            name: "speaker".into(),
            command: "speaker".into(),
            user: "root".into(),
            class: Some("voice".into()),
            rule: rule.map(str::to_owned),
            threads: 1,
            managed: 1,
            state: 'S',
            cpu: 0.0,
            rss: 0,
            gpu_memory: None,
            sched: "other".into(),
            nice: 0,
            affinity: "0".into(),
            attention,
        };
        let shown = |by_hand: &[Override], process: &Process| class(&[], by_hand, process).text;
        assert_eq!(shown(&[], &process(None, false)), "~voice");
        assert_eq!(shown(&[], &process(None, true)), "!voice");
        assert_eq!(shown(&[], &process(Some("crowd"), false)), "voice");
        let by_hand = Override { pid: 7, ..Override::default() };
        assert_eq!(shown(&[by_hand], &process(None, false)), "voice");
    }
}
