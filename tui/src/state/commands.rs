//! What a key asks for.

use downbeat_api::{Mode, Request};

use super::table::SortKey;
use super::{CHANGE_TAKES, Effect, Link, Overlay, Page, Prompt, State};
use crate::view::layout;

/// What a key asks for, once [`crate::input`] knows where it was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// End the program.
    Quit,
    /// Stop it, as ctrl-z does.
    Suspend,
    /// Show a page.
    Show(Page),
    /// The page after this one.
    NextPage,
    /// The page before.
    PreviousPage,
    /// Rows or lines down; negative: up.
    Move(isize),
    /// Screens down; negative: up.
    Screen(isize),
    /// To the first row.
    First,
    /// To the last row.
    Last,
    /// Sort by this; the same key again changes nothing.
    Sort(SortKey),
    /// Sort the other way round.
    Invert,
    /// Open the menu of sort keys.
    SortMenu,
    /// Take what is chosen: explain the process, tell the miss's story, or use the sort key.
    Choose,
    /// Open the explanation of the chosen process.
    Explain,
    /// Engage or disengage.
    Toggle,
    /// All keys.
    Help,
    /// Close what lies over the page.
    Close,
    /// Type a search.
    Search,
    /// Type a filter.
    Filter,
    /// A typed character.
    Type(char),
    /// Take the last one back.
    Erase,
    /// Take all of it back.
    EraseAll,
    /// The next row that the search finds.
    FindNext,
    /// End typing and keep its effect.
    Accept,
    /// Show all rows again.
    Cancel,
}

/// What the arrows move through.
enum Rows {
    /// The process table.
    Processes,
    /// The misses.
    Misses,
    /// The lines of a page or of what lies over it.
    Lines,
}

impl State {
    /// Does what a key asks for.
    pub fn obey(&mut self, command: Command) -> Vec<Effect> {
        match command {
            Command::Quit => return vec![Effect::Quit],
            Command::Suspend => return vec![Effect::Suspend],
            Command::Show(page) => return self.show(page),
            Command::NextPage => return self.turn(1),
            Command::PreviousPage => return self.turn(Page::ALL.len() - 1),
            Command::Move(rows) => self.scroll_by(rows),
            Command::Screen(screens) => {
                let height = match self.rows() {
                    Rows::Processes => layout::process_rows(self),
                    Rows::Misses => layout::miss_rows(self),
                    Rows::Lines => layout::body_rows(self),
                };
                // One row of the old screen stays, so that the eye finds its place.
                let rows = isize::try_from(height.saturating_sub(1).max(1)).unwrap_or(isize::MAX);
                self.scroll_by(screens.saturating_mul(rows));
            }
            Command::First => self.scroll_by(isize::MIN),
            Command::Last => self.scroll_by(isize::MAX),
            Command::Sort(key) => self.sort(key),
            Command::Invert => {
                self.table.inverted = !self.table.inverted;
                self.refresh();
            }
            Command::SortMenu => {
                let current = SortKey::ALL.iter().position(|k| *k == self.table.sort);
                self.open(Overlay::SortMenu { cursor: current.unwrap_or(0) });
            }
            Command::Choose => {
                if let Overlay::SortMenu { cursor } = self.overlay {
                    self.overlay = Overlay::None;
                    self.sort(SortKey::ALL[cursor]);
                } else if self.page == Page::Misses {
                    self.tell();
                } else {
                    return self.explain();
                }
            }
            Command::Explain => return self.explain(),
            Command::Toggle => return self.toggle(),
            Command::Help => self.open(Overlay::Help),
            Command::Close => self.open(Overlay::None),
            Command::Search => {
                self.prompt = Some(Prompt::Search { text: String::new(), found: true });
            }
            Command::Filter => self.prompt = Some(Prompt::Filter),
            Command::Type(c) => self.edit(|text| text.push(c)),
            Command::Erase => self.edit(|text| _ = text.pop()),
            Command::EraseAll => self.edit(String::clear),
            Command::FindNext => self.find_next(),
            Command::Accept => {
                if let Some(Prompt::Search { text, .. }) = self.prompt.take() {
                    self.search = text;
                }
            }
            Command::Cancel => {
                self.prompt = None;
                self.table.filter.clear();
                self.refresh();
            }
        }
        Vec::new()
    }

    /// What the arrows move through.
    fn rows(&self) -> Rows {
        match (self.page, &self.overlay) {
            (Page::Overview, Overlay::None) => Rows::Processes,
            (Page::Misses, Overlay::None) => Rows::Misses,
            _ => Rows::Lines,
        }
    }

    fn show(&mut self, page: Page) -> Vec<Effect> {
        self.page = page;
        self.open(Overlay::None);
        match page {
            // Snapshots bring the last few only.
            Page::Misses => vec![Effect::Ask(Request::Misses)],
            _ => Vec::new(),
        }
    }

    fn turn(&mut self, by: usize) -> Vec<Effect> {
        let at = Page::ALL.iter().position(|p| *p == self.page).unwrap_or(0);
        self.show(Page::ALL[(at + by) % Page::ALL.len()])
    }

    fn open(&mut self, overlay: Overlay) {
        self.overlay = overlay;
        self.scroll = 0;
    }

    fn scroll_by(&mut self, rows: isize) {
        if let Overlay::SortMenu { cursor } = &mut self.overlay {
            *cursor = cursor.saturating_add_signed(rows).min(SortKey::ALL.len() - 1);
            return;
        }
        match self.rows() {
            Rows::Processes => {
                let row = self.table.cursor.saturating_add_signed(rows);
                if let Some(snapshot) = &self.snapshot {
                    self.table.go_to(row, snapshot);
                }
            }
            Rows::Misses => {
                self.misses.go_to(self.misses.cursor.saturating_add_signed(rows));
            }
            // Too far down is put right when the state settles.
            Rows::Lines => self.scroll = self.scroll.saturating_add_signed(rows),
        }
    }

    fn refresh(&mut self) {
        if let Some(snapshot) = &self.snapshot {
            self.table.refresh(snapshot);
        }
    }

    fn sort(&mut self, key: SortKey) {
        if self.table.sort != key {
            self.table.sort = key;
            self.table.inverted = false;
        }
        self.refresh();
    }

    fn explain(&mut self) -> Vec<Effect> {
        let process = self.snapshot.as_ref().and_then(|s| self.table.under_cursor(s));
        let Some(pid) = process.map(|p| p.pid) else {
            return Vec::new();
        };
        self.open(Overlay::Explain { pid, answer: None, asked: self.now });
        vec![Effect::Ask(Request::Explain { pid })]
    }

    fn tell(&mut self) {
        if let Some(miss) = self.misses.under_cursor() {
            let miss = Box::new(miss.clone());
            self.open(Overlay::Story { miss });
        }
    }

    fn toggle(&mut self) -> Vec<Effect> {
        let Some(mode) = self.snapshot.as_ref().map(|s| s.mode) else {
            return Vec::new();
        };
        if matches!(self.link, Link::Lost { .. }) {
            self.say("no agent: nothing to engage");
            return Vec::new();
        }
        if self.pending.is_some() {
            return Vec::new();
        }
        let (next, request) = match mode {
            Mode::Engaged => (Mode::Paused, Request::Pause),
            Mode::Paused => (Mode::Engaged, Request::Resume),
            Mode::ObserveOnly => {
                self.say("the agent runs with --observe-only: start it without to engage");
                return Vec::new();
            }
        };
        self.pending = Some((next, self.now + CHANGE_TAKES));
        vec![Effect::Ask(request)]
    }

    fn edit(&mut self, change: impl FnOnce(&mut String)) {
        let Some(snapshot) = &self.snapshot else {
            return;
        };
        match &mut self.prompt {
            Some(Prompt::Search { text, found }) => {
                change(text);
                let from = self.table.cursor;
                *found = text.is_empty() || self.table.find(text, from, snapshot);
            }
            Some(Prompt::Filter) => {
                change(&mut self.table.filter);
                self.table.refresh(snapshot);
            }
            None => {}
        }
    }

    fn find_next(&mut self) {
        let Some(snapshot) = &self.snapshot else {
            return;
        };
        let from = self.table.cursor + 1;
        if let Some(Prompt::Search { text, found }) = &mut self.prompt {
            if !text.is_empty() {
                *found = self.table.find(text, from, snapshot);
            }
        } else if !self.search.is_empty() && !self.table.find(&self.search, from, snapshot) {
            self.say(format!("nothing contains {:?}", self.search));
        }
    }
}
