//! Draws the state. Pure: the same state gives the same frame.

mod charts;
mod edges;
pub mod layout;

use downbeat_api::{Mode, Snapshot, Source};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Widget};

use crate::report::{self, Paper, classes, explain, meters, misses, notices, processes, story};
use crate::state::table::SortKey;
use crate::state::{Link, Overlay, Page, State};
use crate::theme::Ink;
use crate::{input, text};
use layout::Plan;

/// Draws one frame.
pub fn draw(frame: &mut Frame<'_>, state: &State) {
    let area = frame.area();
    let plan = layout::plan(state);
    let sheet = &mut Sheet { buffer: frame.buffer_mut(), area, y: 0 };
    let paper = Paper { width: usize::from(area.width), theme: state.theme };
    sheet.lines(&[edges::title(state, paper)], plan.title);
    if let Link::Lost { reason } = &state.link {
        sheet.lines(&[edges::lost(state, reason, paper)], plan.lost);
    }
    let top = sheet.y;
    match (&state.snapshot, state.page) {
        (None, _) => sheet.lines(&edges::nothing_yet(state, paper), plan.body),
        (Some(snapshot), Page::Overview) => overview(sheet, state, snapshot, paper, &plan),
        (Some(snapshot), Page::Misses) => miss_table(sheet, state, snapshot, paper, &plan),
        (Some(snapshot), page) => {
            let lines = page_lines(state, snapshot, page, paper);
            let scroll = if plan.pane > 0 { 0 } else { state.scroll };
            sheet.lines(lines.get(scroll..).unwrap_or_default(), plan.body);
        }
    }
    if matches!(state.link, Link::Lost { .. }) {
        let body = sheet.rect(top, plan.body);
        sheet.buffer.set_style(body, Style::new().add_modifier(Modifier::DIM));
    }
    sheet.y = top + plan.body - plan.pane;
    pane(sheet, state, paper, &plan);
    if let Overlay::SortMenu { cursor } = state.overlay {
        sheet.y = top;
        sort_menu(sheet, state, cursor, paper, plan.body);
    }
    sheet.y = top + plan.body;
    sheet.lines(&[edges::footer(state, paper)], plan.footer);
}

/// A frame that is written from top to bottom.
struct Sheet<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    y: usize,
}

impl Sheet<'_> {
    /// Writes at most `rows` lines, and moves on by `rows`.
    fn lines(&mut self, lines: &[Line<'_>], rows: usize) {
        let area = self.rect(self.y, rows);
        for (y, line) in (area.top()..area.bottom()).zip(lines) {
            self.buffer.set_line(area.x, y, line, area.width);
        }
        self.y += rows;
    }

    /// `rows` rows from row `y`, as far as there are so many.
    fn rect(&self, y: usize, rows: usize) -> Rect {
        let y = u16::try_from(y).unwrap_or(u16::MAX).min(self.area.height);
        let rows = u16::try_from(rows).unwrap_or(u16::MAX).min(self.area.height - y);
        Rect { y: self.area.y + y, height: rows, ..self.area }
    }
}

fn overview(sheet: &mut Sheet<'_>, state: &State, snapshot: &Snapshot, paper: Paper, plan: &Plan) {
    sheet.lines(&meters::lines(snapshot, paper, plan.meters), plan.meters);
    let all = notices::all(snapshot);
    sheet.lines(&notices::brief(&all, paper, plan.notices), plan.notices);
    sheet.y += plan.gap;
    sheet.lines(&classes::lines(snapshot, paper, plan.classes), plan.classes);
    sheet.y += plan.gap;
    process_table(sheet, state, snapshot, paper, plan.processes);
}

fn process_table(
    sheet: &mut Sheet<'_>,
    state: &State,
    snapshot: &Snapshot,
    paper: Paper,
    rows: usize,
) {
    if rows == 0 {
        return;
    }
    let table = &state.table;
    let chosen = processes::choose(snapshot, paper);
    let ascending = table.sort.ascends() != table.inverted;
    let sorted = Some((table.sort.column(), ascending));
    sheet.lines(&[processes::heading(&chosen, paper, sorted)], 1);
    let mut lines: Vec<_> = table
        .rows
        .iter()
        .enumerate()
        .skip(table.offset)
        .take(rows - 1)
        .filter_map(|(at, &row)| {
            let process = snapshot.processes.get(row)?;
            Some(processes::row(snapshot, process, &chosen, paper, at == table.cursor))
        })
        .collect();
    if lines.is_empty() {
        let text = if table.filter.is_empty() {
            "no processes".to_owned()
        } else {
            format!("nothing contains {:?}; Esc shows all", table.filter)
        };
        lines.push(Line::from(paper.span(Ink::Faint, text)));
    }
    sheet.lines(&lines, rows - 1);
}

fn miss_table(
    sheet: &mut Sheet<'_>,
    state: &State,
    snapshot: &Snapshot,
    paper: Paper,
    plan: &Plan,
) {
    let known = &state.misses;
    if known.all.is_empty() {
        let lines = paper.paragraph(Ink::Faint, &misses::nothing(snapshot), 0);
        return sheet.lines(&lines, plan.body);
    }
    if layout::causes_row(plan) {
        let causes = misses::causes(snapshot).unwrap_or_default();
        let causes = text::cut(&causes, paper.width).into_owned();
        sheet.lines(&[Line::from(paper.span(Ink::Plain, causes))], 1);
    }
    let rows = || known.all.iter().skip(known.offset).take(layout::miss_rows(state));
    let chosen = misses::choose(known.all.iter(), snapshot.unix_time, paper);
    let mut lines = vec![misses::heading(&chosen, paper)];
    lines.extend(rows().enumerate().map(|(n, miss)| {
        let selected = known.offset + n == known.cursor;
        misses::row(miss, snapshot.unix_time, &chosen, paper, selected)
    }));
    sheet.lines(&lines, plan.body - usize::from(layout::causes_row(plan)));
}

/// Lines of a page that is nothing else than lines.
fn page_lines(state: &State, snapshot: &Snapshot, page: Page, paper: Paper) -> Vec<Line<'static>> {
    match page {
        Page::Overview | Page::Misses => Vec::new(),
        Page::Jobs => report::jobs::lines(snapshot, paper),
        Page::Blame => report::blame::lines(snapshot, paper),
        Page::Classes => charts::lines(state, snapshot, paper),
        Page::Pool => report::pool::lines(snapshot, paper),
        Page::Gpu => report::gpu::lines(snapshot, paper),
        Page::Actions => report::actions::lines(snapshot, paper),
    }
}

/// All lines of what scrolls now: the overlay where one lies over the page, else the page.
#[must_use]
pub fn body(state: &State) -> Vec<Line<'static>> {
    let paper = Paper { width: usize::from(state.size.0), theme: state.theme };
    match (&state.overlay, &state.snapshot) {
        (Overlay::Help, _) => help(paper),
        (Overlay::Explain { pid, answer, .. }, _) => match answer {
            None => vec![Line::from(paper.span(Ink::Faint, format!("asking about {pid} …")))],
            Some(Ok(explanation)) => explain::lines(explanation, paper),
            Some(Err(reason)) => paper.paragraph(Ink::Bad, reason, 2),
        },
        (Overlay::Story { miss }, snapshot) => {
            let now = snapshot.as_ref().map_or(miss.unix_time, |s| s.unix_time);
            story::lines(miss, now, paper)
        }
        (Overlay::None | Overlay::SortMenu { .. }, Some(snapshot)) => {
            page_lines(state, snapshot, state.page, paper)
        }
        (Overlay::None | Overlay::SortMenu { .. }, None) => Vec::new(),
    }
}

fn pane(sheet: &mut Sheet<'_>, state: &State, paper: Paper, plan: &Plan) {
    if plan.pane == 0 {
        return;
    }
    let lines = body(state);
    let rows = plan.pane - 1;
    let name = match &state.overlay {
        Overlay::Explain { pid, .. } => format!(" Why is {pid} as it is?"),
        Overlay::Story { miss } => format!(" Why was {} late?", miss.process),
        _ => " Keys".into(),
    };
    let more = lines.len().saturating_sub(rows + state.scroll);
    let right = if more > 0 { format!("↓ {more} more · Esc ") } else { "Esc ".into() };
    let room = paper.width.saturating_sub(text::width(&right));
    let heading = format!("{}{right}", text::fit(&name, room, text::Align::Left));
    Clear.render(sheet.rect(sheet.y, plan.pane), sheet.buffer);
    sheet.lines(&[Line::from(paper.span(Ink::SortedHeading, heading))], 1);
    sheet.lines(lines.get(state.scroll..).unwrap_or_default(), rows);
}

fn help(paper: Paper) -> Vec<Line<'static>> {
    let keys = input::HELP.iter().map(|(key, what)| {
        let mut lines = text::wrap(what, paper.width.saturating_sub(15), 0).into_iter();
        let first = lines.next().unwrap_or_default();
        let head = Line::from(vec![
            paper.span(Ink::Label, text::fit(key, 14, text::Align::Left)),
            Span::raw(" "),
            Span::raw(first),
        ]);
        let rest = lines.map(|line| Line::from(format!("{}{line}", " ".repeat(15))));
        std::iter::once(head).chain(rest).collect::<Vec<_>>()
    });
    let mut lines: Vec<_> = keys.flatten().collect();
    lines.push(Line::default());
    lines.push(Line::from(vec![
        paper.span(Ink::Label, text::fit("CPU bars", 15, text::Align::Left)),
        paper.span(Ink::User, "| user "),
        paper.span(Ink::System, "# system "),
        paper.span(Ink::Irq, "* irq "),
        paper.span(Ink::Steal, "% steal"),
    ]));
    let legend = "WAIT is the time from runnable to running. MISSES are frames later than their \
                  deadline. A class with ! has a lever that failed or was taken over: Enter tells.";
    lines.extend(paper.paragraph(Ink::Faint, legend, 0));
    lines
}

fn sort_menu(sheet: &mut Sheet<'_>, state: &State, cursor: usize, paper: Paper, rows: usize) {
    const WIDTH: u16 = 14;
    if rows == 0 {
        return;
    }
    let list = rows.min(SortKey::ALL.len() + 1) - 1;
    let first = (cursor + 1).saturating_sub(list);
    let mut area = sheet.rect(sheet.y, list + 1);
    area.width = area.width.min(WIDTH);
    Clear.render(area, sheet.buffer);
    let width = usize::from(area.width);
    let fit = |text: &str| text::fit(text, width, text::Align::Left);
    let mut lines = vec![Line::from(paper.span(Ink::Heading, fit("Sort by")))];
    lines.extend(SortKey::ALL.iter().enumerate().skip(first).take(list).map(|(n, key)| {
        let mark = if *key == state.table.sort { '•' } else { ' ' };
        let name = fit(&format!("{mark} {}", processes::COLUMNS[key.column()].title));
        Line::from(paper.span(if n == cursor { Ink::Selected } else { Ink::Plain }, name))
    }));
    sheet.lines(&lines, list + 1);
}

/// What the agent does, in a word, and its ink.
#[must_use]
pub fn badge(mode: Mode) -> (Ink, &'static str) {
    match mode {
        Mode::Engaged => (Ink::BadgeEngaged, "ENGAGED"),
        Mode::Paused => (Ink::BadgePaused, "PAUSED"),
        Mode::ObserveOnly => (Ink::BadgeObserve, "OBSERVE ONLY"),
    }
}

/// Where the picture comes from, in a word.
#[must_use]
pub fn source(source: &Source) -> &'static str {
    match source {
        Source::Bpf => "BPF",
        Source::Procfs { .. } => "procfs",
    }
}
