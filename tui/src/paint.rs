//! Lines on a stream, with or without colours.

use std::io::{self, Write};

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;

/// Writes lines; without `escapes` not one escape sequence is written.
///
/// # Errors
/// Those of the stream.
pub fn write_lines(out: &mut dyn Write, lines: &[Line<'_>], escapes: bool) -> io::Result<()> {
    for line in lines {
        let mut text = String::new();
        for span in &line.spans {
            let code = if escapes { sgr(line.style.patch(span.style)) } else { String::new() };
            if code.is_empty() {
                text.push_str(&span.content);
            } else {
                text.push_str(&format!("\x1b[{code}m{}\x1b[0m", span.content));
            }
        }
        writeln!(out, "{}", text.trim_end_matches(' '))?;
    }
    out.flush()
}

/// The parameters of "select graphic rendition" for a style.
fn sgr(style: Style) -> String {
    let mut codes = Vec::new();
    for (modifier, code) in
        [(Modifier::BOLD, 1), (Modifier::DIM, 2), (Modifier::ITALIC, 3), (Modifier::REVERSED, 7)]
    {
        if style.add_modifier.contains(modifier) {
            codes.push(code);
        }
    }
    codes.extend(style.fg.and_then(palette).map(|c| c + 30));
    codes.extend(style.bg.and_then(palette).map(|c| c + 40));
    codes.iter().map(u8::to_string).collect::<Vec<_>>().join(";")
}

/// A colour's place in the terminal's palette; [`crate::theme`] uses these and no others.
fn palette(colour: Color) -> Option<u8> {
    Some(match colour {
        Color::Black => 0,
        Color::Red => 1,
        Color::Green => 2,
        Color::Yellow => 3,
        Color::Blue => 4,
        Color::Magenta => 5,
        Color::Cyan => 6,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::theme::{Ink, Theme};

    fn painted(escapes: bool) -> String {
        let style = Theme { colours: true }.style(Ink::Bad);
        let line =
            Line::from(vec!["a ".into(), ratatui::text::Span::styled("b", style), "  ".into()]);
        let mut out = Vec::new();
        write_lines(&mut out, &[line], escapes).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn colours_are_closed_again() {
        assert_eq!(painted(true), "a \x1b[1;31mb\x1b[0m\n");
    }

    #[test]
    fn a_pipe_gets_no_escape_and_no_trailing_blanks() {
        assert_eq!(painted(false), "a b\n");
    }
}
