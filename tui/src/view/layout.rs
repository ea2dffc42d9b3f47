//! Where everything stands, from the size of the screen alone: the most important first, and what
//! has no room is left out.

use crate::report::{Paper, meters, notices};
use crate::state::{Link, Overlay, Page, State};

/// Below this height the footer goes.
const FOOTER_FROM: usize = 7;

/// From this height on parts are kept apart by empty lines.
const AIRY_FROM: usize = 30;

/// From this height on an explanation leaves the table above it in sight.
const SPLIT_FROM: usize = 24;

/// From this many rows on the misses page counts the causes.
const CAUSES_FROM: usize = 6;

/// Heights of the screen's parts, in rows. Their sum is at most the screen's height.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Columns.
    pub width: usize,
    /// The title line.
    pub title: usize,
    /// The line that says that the agent is gone.
    pub lost: usize,
    /// CPUs, memory …
    pub meters: usize,
    /// What a person should know.
    pub notices: usize,
    /// Empty line before the classes, and again before the processes.
    pub gap: usize,
    /// Classes with their heading.
    pub classes: usize,
    /// Processes with their heading.
    pub processes: usize,
    /// Keys, or what is being typed.
    pub footer: usize,
    /// Everything between title and footer.
    pub body: usize,
    /// Rows of the pane that lies over the body's lower end; 0 where none lies there.
    pub pane: usize,
}

/// Plans the screen.
#[must_use]
pub fn plan(state: &State) -> Plan {
    let (width, height) = (usize::from(state.size.0), usize::from(state.size.1));
    let mut left = height;
    let mut take = |rows: usize| {
        let got = rows.min(left);
        left -= got;
        got
    };
    let mut plan = Plan { width, title: take(1), ..Plan::default() };
    plan.footer = take(usize::from(height >= FOOTER_FROM || state.prompt.is_some()));
    plan.lost = take(usize::from(matches!(state.link, Link::Lost { .. })));
    plan.body = left;
    plan.pane = match state.overlay {
        Overlay::None | Overlay::SortMenu { .. } => 0,
        Overlay::Explain { .. } if height >= SPLIT_FROM && state.page == Page::Overview => {
            plan.body * 3 / 5
        }
        Overlay::Story { .. } if height >= SPLIT_FROM && state.page == Page::Misses => {
            plan.body * 3 / 4
        }
        Overlay::Explain { .. } | Overlay::Story { .. } | Overlay::Help => plan.body,
    };
    overview(state, &mut plan, height);
    plan
}

fn overview(state: &State, plan: &mut Plan, height: usize) {
    let Some(snapshot) = &state.snapshot else {
        return;
    };
    let paper = Paper { width: plan.width, theme: state.theme };
    let body = plan.body;
    let most = (body * 3 / 10).max(1).min(body);
    plan.meters = meters::lines(snapshot, paper, most).len();
    let most = match body {
        ..7 => 0,
        7..18 => 1,
        18..36 => 3,
        _ => 6,
    };
    plan.notices = notices::all(snapshot).len().min(most);
    plan.gap = usize::from(height >= AIRY_FROM);
    let rest = body.saturating_sub(plan.meters + plan.notices + 2 * plan.gap);
    let wanted = if snapshot.classes.is_empty() { 1 } else { snapshot.classes.len() + 1 };
    // At least a heading and three processes, where a heading and a class fit as well.
    let most = if rest >= wanted + 8 { wanted } else { (rest / 2).max(2) };
    plan.classes = wanted.min(most).min(rest);
    plan.processes = rest - plan.classes;
    if plan.processes < 2 {
        plan.processes = 0;
        plan.classes = wanted.min(rest);
    }
}

/// Rows of processes that are in sight.
#[must_use]
pub fn process_rows(state: &State) -> usize {
    let plan = plan(state);
    let above = plan.body - plan.processes;
    let visible = (plan.body - plan.pane).saturating_sub(above);
    visible.saturating_sub(1)
}

/// The line that counts causes over the misses: whether it has room.
#[must_use]
pub fn causes_row(plan: &Plan) -> bool {
    plan.body >= CAUSES_FROM
}

/// Rows of misses that are in sight.
#[must_use]
pub fn miss_rows(state: &State) -> usize {
    let plan = plan(state);
    let above = 1 + usize::from(causes_row(&plan));
    (plan.body - plan.pane).saturating_sub(above)
}

/// Lines of a scrolling page or overlay that are in sight.
#[must_use]
pub fn body_rows(state: &State) -> usize {
    let plan = plan(state);
    match state.overlay {
        // The pane's own heading takes one.
        Overlay::Help | Overlay::Explain { .. } | Overlay::Story { .. } => {
            plan.pane.saturating_sub(1)
        }
        Overlay::None | Overlay::SortMenu { .. } => plan.body,
    }
}
