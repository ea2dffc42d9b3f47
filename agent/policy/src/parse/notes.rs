//! What was found wrong in one file, by byte offset until all of it is known.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{Origin, Problem, Source};

/// The problems of one file.
pub(super) struct Notes<'s> {
    text: &'s str,
    path: Arc<PathBuf>,
    /// Byte offsets of all line ends.
    line_ends: Vec<usize>,
    /// Byte offset and message.
    found: Vec<(usize, String)>,
}

impl<'s> Notes<'s> {
    pub(super) fn new(source: &'s Source) -> Self {
        let text = source.text.as_str();
        Self {
            text,
            path: Arc::new(source.path.clone()),
            line_ends: memchr::memchr_iter(b'\n', text.as_bytes()).collect(),
            found: Vec::new(),
        }
    }

    /// Adds a problem at byte offset `at`. The message starts with the full name of the key.
    pub(super) fn add(&mut self, at: usize, message: String) {
        self.found.push((at, message));
    }

    /// Problems so far.
    pub(super) fn count(&self) -> usize {
        self.found.len()
    }

    /// The place of byte offset `at`.
    pub(super) fn origin(&self, at: usize) -> Origin {
        Origin { path: Arc::clone(&self.path), line: self.line(at) }
    }

    fn line(&self, at: usize) -> usize {
        self.line_ends.partition_point(|end| *end < at) + 1
    }

    /// In the order of the file. Columns are counted onwards from one problem to the next: a file
    /// that is one long line of mistakes is still read in linear time.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|(at, _)| *at);
        let mut problems = Vec::with_capacity(self.found.len());
        // An editor shows no byte order mark.
        let mut from = if self.text.starts_with('\u{feff}') { 3 } else { 0 };
        let mut column = 1;
        for (at, message) in std::mem::take(&mut self.found) {
            let at = self.text.floor_char_boundary(at).max(from);
            let passed = self.text.get(from..at).unwrap_or_default();
            column = match passed.rsplit_once('\n') {
                Some((_, line)) => 1 + line.chars().count(),
                None => column + passed.chars().count(),
            };
            from = at;
            let path = self.path.as_ref().clone();
            problems.push(Problem { path, line: self.line(at), column, message });
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(text: &str, offsets: &[usize]) -> Vec<(usize, usize)> {
        let source = Source { path: "x.toml".into(), text: text.into() };
        let mut notes = Notes::new(&source);
        for at in offsets {
            notes.add(*at, String::new());
        }
        notes.into_problems().into_iter().map(|p| (p.line, p.column)).collect()
    }

    #[test]
    fn columns_are_characters() {
        assert_eq!(positions("é = 1\nüü = 2", &[3, 12, 0, 7]), [(1, 1), (1, 3), (2, 1), (2, 4)]);
    }

    #[test]
    fn a_line_end_belongs_to_its_line() {
        assert_eq!(positions("ab\r\ncd", &[3, 4]), [(1, 4), (2, 1)]);
    }

    #[test]
    fn a_byte_order_mark_is_no_column() {
        assert_eq!(positions("\u{feff}ab", &[0, 3, 4]), [(1, 1), (1, 1), (1, 2)]);
    }

    #[test]
    fn an_offset_past_the_end_or_inside_a_character_is_the_nearest_before() {
        assert_eq!(positions("é", &[1, 99]), [(1, 1), (1, 2)]);
        assert_eq!(positions("", &[5]), [(1, 1)]);
    }
}
