//! Colours: the terminal's own sixteen, so that light and dark palettes both work. Nothing is told
//! by colour alone: each also has a word or a glyph of its own.

use ratatui::style::{Color, Modifier, Style};

/// What a piece of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// Ordinary text.
    Plain,
    /// Less important.
    Faint,
    /// A name or a value that the eye should find.
    Strong,
    /// A label beside a value.
    Label,
    /// A table's heading.
    Heading,
    /// The heading of the column that the table is sorted by.
    SortedHeading,
    /// The chosen row.
    Selected,
    /// All is well.
    Good,
    /// Less well than it could be.
    Warning,
    /// Something is not done.
    Bad,
    /// CPU: user code.
    User,
    /// CPU: kernel code.
    System,
    /// CPU: interrupts.
    Irq,
    /// CPU: taken by the hypervisor.
    Steal,
    /// Badge: decisions are applied.
    BadgeEngaged,
    /// Badge: paused.
    BadgePaused,
    /// Badge: started with `--observe-only`.
    BadgeObserve,
    /// Badge: no agent.
    BadgeLost,
    /// A real-time class or what belongs to it.
    Realtime,
    /// An interactive class.
    Interactive,
    /// A background class.
    Background,
    /// A key's name in the footer.
    Key,
}

/// With or without colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    /// `--color never` and NO_COLOR switch them off; bold, dim and reversed stay.
    pub colours: bool,
}

impl Theme {
    /// The style of an ink.
    #[must_use]
    pub fn style(self, ink: Ink) -> Style {
        let plain = Style::new();
        let (modifiers, fg, bg) = match ink {
            Ink::Plain | Ink::Background => return plain,
            Ink::Faint => (Modifier::DIM, None, None),
            Ink::Strong => (Modifier::BOLD, None, None),
            Ink::Label => (Modifier::empty(), Some(Color::Cyan), None),
            Ink::Heading => (Modifier::REVERSED, Some(Color::Black), Some(Color::Green)),
            Ink::SortedHeading => (Modifier::REVERSED, Some(Color::Black), Some(Color::Cyan)),
            Ink::Selected => (Modifier::REVERSED, Some(Color::Black), Some(Color::Cyan)),
            Ink::Good => (Modifier::empty(), Some(Color::Green), None),
            Ink::Warning => (Modifier::BOLD, Some(Color::Yellow), None),
            Ink::Bad => (Modifier::BOLD, Some(Color::Red), None),
            Ink::User => (Modifier::empty(), Some(Color::Green), None),
            Ink::System => (Modifier::empty(), Some(Color::Red), None),
            Ink::Irq => (Modifier::empty(), Some(Color::Yellow), None),
            Ink::Steal => (Modifier::empty(), Some(Color::Cyan), None),
            Ink::BadgeEngaged => (Modifier::REVERSED, Some(Color::Black), Some(Color::Green)),
            Ink::BadgePaused => (Modifier::REVERSED, Some(Color::Black), Some(Color::Yellow)),
            Ink::BadgeObserve => (Modifier::REVERSED, Some(Color::Black), Some(Color::Cyan)),
            Ink::BadgeLost => (Modifier::REVERSED, Some(Color::Black), Some(Color::Red)),
            Ink::Realtime => (Modifier::BOLD, Some(Color::Magenta), None),
            Ink::Interactive => (Modifier::empty(), Some(Color::Cyan), None),
            Ink::Key => (Modifier::REVERSED, Some(Color::Black), Some(Color::Cyan)),
        };
        match (self.colours, fg, bg) {
            // On a coloured ground black is readable in every palette; reversing it is not meant.
            (true, Some(fg), Some(bg)) => plain.fg(fg).bg(bg),
            (true, Some(fg), None) => plain.fg(fg).add_modifier(modifiers),
            _ => plain.add_modifier(modifiers),
        }
    }

    /// Ink of a class by its tier.
    #[must_use]
    pub fn tier(tier: &str) -> Ink {
        match tier {
            "realtime" => Ink::Realtime,
            "interactive" => Ink::Interactive,
            "background" => Ink::Background,
            _ => Ink::Plain,
        }
    }
}
