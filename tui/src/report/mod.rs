//! What there is to say, as styled lines of a given width: the same for the screens and for
//! plain text. Nothing here knows of a terminal or reads a clock.

use ratatui::text::{Line, Span};

use crate::text;
use crate::theme::{Ink, Theme};

pub mod actions;
pub mod blame;
pub mod classes;
pub mod discovery;
pub mod explain;
pub mod follow;
pub mod gpu;
pub mod grid;
pub mod jobs;
pub mod meters;
pub mod misses;
pub mod notices;
pub mod overrides;
pub mod plan;
pub mod pool;
pub mod processes;
pub mod status;
pub mod story;
pub mod words;

/// What every report needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Paper {
    /// Columns to fill at most.
    pub width: usize,
    /// With or without colours.
    pub theme: Theme,
}

impl Paper {
    /// A piece of text in an ink.
    #[must_use]
    pub fn span<'a>(self, ink: Ink, text: impl Into<std::borrow::Cow<'a, str>>) -> Span<'a> {
        Span::styled(text, self.theme.style(ink))
    }

    /// A title over a part of a page.
    #[must_use]
    pub fn title(self, text: &str) -> Line<'static> {
        Line::from(self.span(Ink::Strong, text::cut(text, self.width).into_owned()))
    }

    /// A paragraph, wrapped.
    #[must_use]
    pub fn paragraph(self, ink: Ink, text: &str, indent: usize) -> Vec<Line<'static>> {
        text::wrap(text, self.width, indent)
            .into_iter()
            .map(|line| Line::from(self.span(ink, line)))
            .collect()
    }
}
