//! What the screen knows. Changed by events and commands alone, with the time passed in; nothing
//! here does I/O.

mod commands;
pub mod history;
pub mod misses;
pub mod table;

use std::time::Duration;

use downbeat_api::{Explanation, Miss, Mode, Request, Response, Snapshot};
use ratatui::text::Line;

pub use commands::Command;
use history::History;
use misses::Misses;
use table::Table;

use crate::conn::Event;
use crate::theme::Theme;
use crate::view::layout;

/// How long a message stays in the footer.
const MESSAGE_STAYS: Duration = Duration::from_secs(5);

/// How long the agent may take to follow a pause or resume before the key works again.
const CHANGE_TAKES: Duration = Duration::from_secs(10);

/// A picture older than this has its age shown.
pub const STALE: Duration = Duration::from_secs(2);

/// How often an open explanation is asked for again.
const EXPLAIN_AGAIN: Duration = Duration::from_secs(1);

/// The pages, in the order of their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Page {
    /// Meters, classes and processes.
    #[default]
    Overview,
    /// Classes over time.
    Classes,
    /// Threads that work in periods.
    Jobs,
    /// Who had the CPU while classes waited.
    Blame,
    /// The latest misses.
    Misses,
    /// The pool's workers.
    Pool,
    /// GPUs.
    Gpu,
    /// What the agent did.
    Actions,
}

impl Page {
    /// All, in order.
    pub const ALL: [Self; 8] = [
        Self::Overview,
        Self::Classes,
        Self::Jobs,
        Self::Blame,
        Self::Misses,
        Self::Pool,
        Self::Gpu,
        Self::Actions,
    ];

    /// The key that shows it.
    #[must_use]
    pub fn number(self) -> usize {
        Self::ALL.iter().position(|page| *page == self).unwrap_or(0) + 1
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Classes => "Classes",
            Self::Jobs => "Jobs",
            Self::Blame => "Blame",
            Self::Misses => "Misses",
            Self::Pool => "Pool",
            Self::Gpu => "GPU",
            Self::Actions => "Actions",
        }
    }
}

/// The connection to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// No answer yet.
    Connecting,
    /// Snapshots come.
    Live,
    /// None come; it is tried again and again.
    Lost {
        /// Why, in one line.
        reason: String,
    },
}

/// What lies over the page.
#[derive(Clone, Debug, Default)]
pub enum Overlay {
    /// Nothing.
    #[default]
    None,
    /// All keys.
    Help,
    /// Why a process is as it is.
    Explain {
        /// The process.
        pid: u32,
        /// The agent's answer, once it is there.
        answer: Option<Result<Box<Explanation>, String>>,
        /// When the agent was last asked.
        asked: Duration,
    },
    /// The story of a miss.
    Story {
        /// The miss: it stays in sight when the agent has forgotten it.
        miss: Box<Miss>,
    },
    /// Choice of the column to sort by.
    SortMenu {
        /// Index into [`table::SortKey::ALL`].
        cursor: usize,
    },
}

/// A line that is being typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// F3.
    Search {
        /// Typed so far.
        text: String,
        /// Some row contains it.
        found: bool,
    },
    /// F4; the text is the table's filter itself.
    Filter,
}

/// What the loop has to do for the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the agent.
    Ask(Request),
    /// End.
    Quit,
    /// Stop like any program under ctrl-z.
    Suspend,
    /// Take the terminal again.
    Reopen,
}

/// Everything that a frame is drawn from.
#[derive(Clone, Debug)]
pub struct State {
    /// The latest picture.
    pub snapshot: Option<Box<Snapshot>>,
    /// When it came.
    pub received: Duration,
    /// The time of this frame, on the same clock.
    pub now: Duration,
    /// The connection.
    pub link: Link,
    /// The page.
    pub page: Page,
    /// What lies over it.
    pub overlay: Overlay,
    /// The process table.
    pub table: Table,
    /// The latest misses.
    pub misses: Misses,
    /// What is being typed.
    pub prompt: Option<Prompt>,
    /// The latest search.
    pub search: String,
    /// First line shown of a page or an overlay that is longer than the screen.
    pub scroll: usize,
    /// A line in the footer, and when it goes.
    pub message: Option<(String, Duration)>,
    /// A change of mode that was asked for, and when it is given up.
    pub pending: Option<(Mode, Duration)>,
    /// The classes' last minutes.
    pub history: History,
    /// Columns and rows of the screen.
    pub size: (u16, u16),
    /// Colours.
    pub theme: Theme,
}

impl State {
    /// Nothing known yet.
    #[must_use]
    pub fn new(size: (u16, u16), theme: Theme) -> Self {
        Self {
            snapshot: None,
            received: Duration::ZERO,
            now: Duration::ZERO,
            link: Link::Connecting,
            page: Page::default(),
            overlay: Overlay::default(),
            table: Table::default(),
            misses: Misses::default(),
            prompt: None,
            search: String::new(),
            scroll: 0,
            message: None,
            pending: None,
            history: History::default(),
            size,
            theme,
        }
    }

    /// Age of the picture, once there is one.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.snapshot.is_some().then(|| self.now.saturating_sub(self.received))
    }

    /// Takes in what came from outside.
    pub fn update(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        self.now = now;
        let effects = match event {
            Event::Snapshot(snapshot) => self.take(snapshot),
            Event::Lost(reason) => {
                self.link = Link::Lost { reason };
                self.pending = None;
                Vec::new()
            }
            Event::Answer(request, answer) => {
                self.answered(&request, answer);
                Vec::new()
            }
            Event::Resize(width, height) => {
                self.size = (width, height);
                Vec::new()
            }
            Event::Key(key) => {
                let command = crate::input::command(self, key);
                command.map(|c| self.obey(c)).unwrap_or_default()
            }
            Event::End => vec![Effect::Quit],
            Event::Suspend => vec![Effect::Suspend],
            Event::Continue => vec![Effect::Reopen],
        };
        self.settle();
        effects
    }

    /// Lets time pass; says whether the screen has to be drawn again.
    pub fn pass(&mut self, now: Duration) -> bool {
        let ages = !matches!(self.link, Link::Live)
            || now.saturating_sub(self.received) >= STALE
            || self.message.is_some()
            || self.pending.is_some();
        self.now = now;
        self.settle();
        ages
    }

    /// What follows from time and size alone.
    fn settle(&mut self) {
        if self.message.as_ref().is_some_and(|(_, until)| *until <= self.now) {
            self.message = None;
        }
        if self.pending.is_some_and(|(_, until)| until <= self.now) {
            self.pending = None;
        }
        self.table.scroll_into(layout::process_rows(self));
        self.misses.scroll_into(layout::miss_rows(self));
        let last = self.body().len().saturating_sub(layout::body_rows(self));
        self.scroll = self.scroll.min(last);
    }

    /// Lines of the page or overlay that scrolls; none where only the table does.
    fn body(&self) -> Vec<Line<'static>> {
        if self.scroll == 0 { Vec::new() } else { crate::view::body(self) }
    }

    fn take(&mut self, snapshot: Box<Snapshot>) -> Vec<Effect> {
        self.link = Link::Live;
        self.received = self.now;
        self.history.add(&snapshot.classes, self.now);
        self.table.refresh(&snapshot);
        if self.snapshot.as_ref().is_some_and(|known| !same_agent(known, &snapshot)) {
            // A new agent counts from the start: the same numbers are other misses.
            self.misses = Misses::default();
        }
        self.misses.take(&snapshot.misses);
        if self.pending.is_some_and(|(mode, _)| mode == snapshot.mode) {
            self.pending = None;
        }
        self.snapshot = Some(snapshot);
        match &mut self.overlay {
            Overlay::Explain { pid, asked, .. } if *asked + EXPLAIN_AGAIN <= self.now => {
                *asked = self.now;
                vec![Effect::Ask(Request::Explain { pid: *pid })]
            }
            _ => Vec::new(),
        }
    }

    fn answered(&mut self, request: &Request, answer: Result<Response, String>) {
        match (request, answer) {
            (Request::Explain { pid: asked }, answer) => {
                if let Overlay::Explain { pid, answer: shown, .. } = &mut self.overlay
                    && pid == asked
                {
                    *shown = Some(match answer {
                        Ok(Response::Explain(explanation)) => Ok(explanation),
                        Ok(_) => Err("the agent answered something else".into()),
                        Err(reason) => Err(reason),
                    });
                }
            }
            (_, Ok(Response::Misses { misses })) => self.misses.take(&misses),
            (_, Ok(Response::Done { message })) => self.say(message),
            (_, Ok(_)) => {}
            (_, Err(reason)) => {
                self.pending = None;
                self.say(reason);
            }
        }
    }

    fn say(&mut self, message: impl Into<String>) {
        self.message = Some((message.into(), self.now + MESSAGE_STAYS));
    }
}

/// Whether both come from one life of the agent: it began at the same time.
fn same_agent(a: &Snapshot, b: &Snapshot) -> bool {
    let began = |snapshot: &Snapshot| snapshot.unix_time - snapshot.uptime;
    // Clocks are read one after the other, and the wall clock is slewed; an agent that was started
    // again began longer after the old one.
    (began(a) - began(b)).abs() < 2.0
}
