//! Figures beside what was asked for.

use std::fmt;

use serde::Serialize;

/// What is asked of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// Nothing: it explains the others.
    Nothing,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The part that it belongs to.
    pub part: &'static str,
    /// What was measured.
    pub what: String,
    /// In which unit, for both numbers.
    pub unit: &'static str,
    /// What is asked of it.
    pub asked: Asked,
    /// What it is.
    pub measured: f64,
    /// What belongs to it, in words.
    pub note: String,
}

impl Row {
    /// A figure of which something is asked.
    pub fn new(what: impl Into<String>, unit: &'static str, asked: Asked, measured: f64) -> Self {
        Self { part: "", what: what.into(), unit, asked, measured, note: String::new() }
    }

    /// With something said of it.
    pub fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    /// As part of `part`.
    pub fn of(self, part: &'static str) -> Self {
        Self { part, ..self }
    }

    /// Whether it is as asked; nothing where nothing is asked.
    pub fn met(&self) -> Option<bool> {
        match self.asked {
            Asked::AtMost(most) => Some(self.measured <= most),
            Asked::AtLeast(least) => Some(self.measured >= least),
            Asked::Nothing => None,
        }
    }

    fn verdict(&self) -> &'static str {
        match self.met() {
            Some(true) => "met",
            Some(false) => "NOT met",
            None => "",
        }
    }

    fn asked(&self) -> String {
        match self.asked {
            Asked::AtMost(most) => format!("at most {}", number(most)),
            Asked::AtLeast(least) => format!("at least {}", number(least)),
            Asked::Nothing => String::new(),
        }
    }
}

/// A number with the digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        1000.0.. => format!("{value:.0}"),
        // Shares near the whole differ in the second digit.
        10.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, unit, measured, note, .. } = self;
        write!(f, "  {what}: {} {unit}", number(*measured))?;
        if self.met().is_some() {
            write!(f, " (asked: {}; {})", self.asked(), self.verdict())?;
        }
        if note.is_empty() { Ok(()) } else { write!(f, "; {note}") }
    }
}

/// All figures of which something is asked, as a table.
pub fn table(rows: &[Row]) -> String {
    let mut text =
        String::from("| part | figure | asked | measured | |\n| --- | --- | --- | --- | --- |\n");
    for row in rows.iter().filter(|row| row.met().is_some()) {
        text += &format!(
            "| {} | {} | {} {} | {} | {} |\n",
            row.part,
            row.what,
            row.asked(),
            row.unit,
            number(row.measured),
            row.verdict()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_just_what_was_asked_is_met() {
        let at_most = |measured| Row::new("x", "µs", Asked::AtMost(60.0), measured).met();
        assert_eq!((at_most(60.0), at_most(60.1)), (Some(true), Some(false)));
        let at_least = |measured| Row::new("x", "%", Asked::AtLeast(99.9), measured).met();
        assert_eq!((at_least(99.9), at_least(99.89)), (Some(true), Some(false)));
        assert_eq!(Row::new("x", "", Asked::Nothing, 1.0).met(), None);
    }

    #[test]
    fn the_table_has_what_was_asked_for_only() {
        let rows = [
            Row::new("a", "µs", Asked::AtMost(60.0), 61.234).of("added"),
            Row::new("b", "µs", Asked::Nothing, 1.0).of("added"),
        ];
        let text = table(&rows);
        assert!(text.ends_with("| added | a | at most 60 µs | 61.23 | NOT met |\n"), "{text}");
        assert!(!text.contains("| b |"), "{text}");
    }
}
