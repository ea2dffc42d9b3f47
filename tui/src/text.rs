//! Text on a terminal: what may be shown, and how wide it is.

use std::borrow::Cow;

use unicode_truncate::UnicodeTruncateStr;
use unicode_width::UnicodeWidthStr;

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Whether a terminal could take this character for a command or a reader could be deceived by
/// it: controls (C0, DEL and C1, which hold escape sequences), line separators, and what is
/// invisible or turns the direction of writing.
#[must_use]
pub fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// The text with every character that [`deceives`] replaced by `?`. A process chooses its own
/// name and arguments: without this it could write anything to the terminal of whoever looks.
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(deceives) {
        Cow::Owned(text.replace(deceives, "?"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Columns that the text takes on a terminal.
#[must_use]
pub fn width(text: &str) -> usize {
    text.width()
}

/// At most `columns` columns of the text, with `…` where something was cut off.
#[must_use]
pub fn cut(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    if columns == 0 {
        return Cow::Borrowed("");
    }
    Cow::Owned(format!("{}…", text.unicode_truncate(columns - 1).0))
}

/// Exactly `columns` columns.
#[must_use]
pub fn fit(text: &str, columns: usize, align: Align) -> String {
    let shown = cut(text, columns);
    let blank = " ".repeat(columns.saturating_sub(width(&shown)));
    match align {
        Align::Left => format!("{shown}{blank}"),
        Align::Right => format!("{blank}{shown}"),
    }
}

/// The text in lines of at most `columns` columns; those after the first start with `indent`
/// blanks.
#[must_use]
pub fn wrap(text: &str, columns: usize, indent: usize) -> Vec<String> {
    // Below eight columns of text a wrapped line is harder to read than a cut one.
    if columns < indent + 8 {
        return vec![cut(text, columns).into_owned()];
    }
    let blank = " ".repeat(indent);
    let options = textwrap::Options::new(columns).subsequent_indent(&blank);
    textwrap::wrap(text, options).into_iter().map(Cow::into_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_become_harmless() {
        assert_eq!(clean("\x1b]0;owned\x07"), "?]0;owned?");
        assert_eq!(clean("\u{9b}31mred"), "?31mred");
        assert_eq!(clean("a\r\nb\tc\0"), "a??b?c?");
        assert_eq!(clean("abc\u{202e}txt.exe\u{200b}"), "abc?txt.exe?");
        assert_eq!(clean("größe 音声 🎧"), "größe 音声 🎧");
    }

    #[test]
    fn a_wide_character_is_never_cut_in_half() {
        assert_eq!(cut("音声音声", 8), "音声音声");
        assert_eq!(cut("音声音声", 6), "音声…");
        assert_eq!(fit("音声音声", 6, Align::Left), "音声… ");
        assert_eq!(fit("音声音声", 4, Align::Right), " 音…");
        assert_eq!(cut("abc", 0), "");
        assert_eq!(cut("音", 1), "…");
    }

    #[test]
    fn cells_are_as_wide_as_their_column() {
        for text in ["", "a", "音", "🎧🎧🎧", "a\u{301}b\u{301}c\u{301}", "long enough to be cut"]
        {
            for columns in 0..12 {
                assert_eq!(width(&fit(text, columns, Align::Right)), columns, "{text:?}");
            }
        }
    }

    #[test]
    fn wrapped_lines_keep_their_width() {
        let lines = wrap("run `downbeat restore` as root, then start the agent again", 24, 2);
        assert!(lines.len() > 2 && lines.iter().all(|l| width(l) <= 24), "{lines:?}");
        assert!(lines[1].starts_with("  "));
    }
}
