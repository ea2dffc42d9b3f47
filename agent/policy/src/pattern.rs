//! Shell-style patterns, compiled once when a policy is read.
//!
//! A pattern is cut at its stars into pieces of fixed length in characters. The first piece must
//! start the text, the last must end it, and each one between is searched for once, from where
//! the one before it ended: the leftmost place is always the best one, so nothing is ever tried
//! again. The time is linear in the text, whatever the pattern.
//!
//! Own code, since the glob crates give `{}`, `**` or `/` a meaning that a command line must not
//! have.

use std::fmt;

use memchr::memmem::Finder;

/// Longest pattern, in bytes.
const LONGEST: usize = 1024;

/// A shell-style pattern for a whole text: `*` any run of characters (slashes too), `?` one,
/// `[…]` one of a set (`[a-z_]`; `[!…]` one that is not in it), `\` takes the next character as
/// it is.
#[derive(Clone)]
pub struct Pattern {
    text: Box<str>,
    has_slash: bool,
    /// Bytes that every matching text has.
    needs: ByteSet,
    head: Piece,
    /// What follows the first star.
    tail: Option<Tail>,
}

/// What follows a pattern's first star.
#[derive(Clone)]
struct Tail {
    /// Between two stars each; none is empty.
    between: Box<[Between]>,
    last: Piece,
}

/// A part of a pattern without stars.
#[derive(Clone)]
enum Piece {
    Literal(Box<str>),
    Units(Box<[Unit]>),
}

/// A [`Piece`] that is to be searched for.
#[derive(Clone)]
struct Between {
    piece: Piece,
    /// For a literal. Boxed: with its tables it is some hundred bytes.
    finder: Option<Box<Finder<'static>>>,
}

/// A set of bytes in which two may share a place: it can tell only that one is *not* there.
#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) struct ByteSet(u128);

/// What one character is held against.
#[derive(Clone)]
enum Unit {
    Char(char),
    Any,
    Set { negated: bool, ranges: Vec<(char, char)> },
}

/// Why a pattern was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing in it.
    #[error("an empty pattern matches nothing; leave the key out, or write `*`")]
    Empty,
    /// More than 1024 bytes.
    #[error("a pattern of {0} bytes is too long; {LONGEST} is the most")]
    TooLong(usize),
    /// A `[` without its `]`.
    #[error("`[` opens a set that no `]` closes; write `\\[` for the character itself")]
    OpenSet,
    /// A range like `z-a`.
    #[error("the range `{0}-{1}` is empty; write it the other way round")]
    EmptyRange(char, char),
    /// Ends in `\`.
    #[error("nothing follows the last `\\`; write `\\\\` for the character itself")]
    NothingEscaped,
    /// NUL or another control character.
    #[error("a pattern with the control character {0:?} can never match")]
    Control(char),
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// [`PatternError`] where the text is not a pattern or could never match.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > LONGEST {
            return Err(PatternError::TooLong(text.len()));
        }
        if let Some(control) = text.chars().find(|c| c.is_control()) {
            return Err(PatternError::Control(control));
        }
        let mut pieces = split(text)?;
        // `split` gives one piece more than there are stars, so the first always exists.
        let head = Piece::new(pieces.remove(0));
        let tail = pieces.pop().map(|last| {
            let between = pieces.into_iter().filter(|piece| !piece.is_empty());
            Tail { between: between.map(Between::new).collect(), last: Piece::new(last) }
        });
        let mut pattern = Self {
            text: text.into(),
            has_slash: text.contains('/'),
            needs: ByteSet::default(),
            head,
            tail,
        };
        let literals: String = pattern.pieces().map(Piece::literals).collect();
        pattern.needs = ByteSet::of(&literals);
        Ok(pattern)
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether all of `text` fits.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let Some(rest) = self.head.strip_prefix(text) else {
            return false;
        };
        let Some(tail) = &self.tail else {
            return rest.is_empty();
        };
        let Some(mut rest) = tail.last.strip_suffix(rest) else {
            return false;
        };
        for piece in &tail.between {
            match piece.skip_first(rest) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        true
    }

    /// Whether it is about a whole path and not about its last part.
    #[must_use]
    pub fn has_slash(&self) -> bool {
        self.has_slash
    }

    /// Whether a text with these bytes may match; mostly it may not, which is known at once.
    pub(crate) fn may_match(&self, bytes: ByteSet) -> bool {
        self.needs.is_within(bytes)
    }

    /// Bytes of the shortest text that can match.
    pub(crate) fn shortest(&self) -> usize {
        self.pieces().map(Piece::shortest).sum()
    }

    /// Whether it matches one text only.
    pub(crate) fn is_literal(&self) -> bool {
        self.literal().is_some()
    }

    /// The one text that it matches, where there is only one.
    pub(crate) fn literal(&self) -> Option<&str> {
        match (&self.head, &self.tail) {
            (Piece::Literal(text), None) => Some(text),
            _ => None,
        }
    }

    /// What every path that it matches has behind its last slash, where that is one text only; of a
    /// pattern without a slash, the text itself.
    pub(crate) fn last_part(&self) -> Option<&str> {
        let last = match &self.tail {
            None => self.literal()?,
            Some(Tail { last: Piece::Literal(last), .. }) if last.contains('/') => last,
            Some(_) => return None,
        };
        Some(last.rsplit_once('/').map_or(last, |(_, part)| part))
    }

    /// Bytes that every matching text has.
    pub(crate) fn needs(&self) -> ByteSet {
        self.needs
    }

    /// The character that every match begins with, where there is one.
    pub(crate) fn first_char(&self) -> Option<char> {
        match &self.head {
            Piece::Literal(text) => text.chars().next(),
            Piece::Units(units) => match units.first() {
                Some(Unit::Char(c)) => Some(*c),
                _ => None,
            },
        }
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        let tail = self.tail.iter();
        let tail = tail.flat_map(|t| t.between.iter().map(|b| &b.piece).chain([&t.last]));
        [&self.head].into_iter().chain(tail)
    }
}

impl ByteSet {
    pub(crate) fn of(text: &str) -> Self {
        // ASCII keeps a place for each; a longer character's bytes share them.
        Self(text.bytes().fold(0, |set, byte| set | 1 << (byte & 127)))
    }

    /// Whether `other` may have all of it.
    pub(crate) fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// What both have.
    pub(crate) fn shared(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn count(self) -> u32 {
        self.0.count_ones()
    }
}

/// Cuts a pattern at its stars: always one piece more than stars.
fn split(text: &str) -> Result<Vec<Vec<Unit>>, PatternError> {
    let mut pieces = Vec::new();
    let mut piece = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' => pieces.push(std::mem::take(&mut piece)),
            '?' => piece.push(Unit::Any),
            '[' => piece.push(set(&mut chars)?),
            '\\' => piece.push(Unit::Char(chars.next().ok_or(PatternError::NothingEscaped)?)),
            _ => piece.push(Unit::Char(c)),
        }
    }
    pieces.push(piece);
    Ok(pieces)
}

/// Reads a set up to its `]`; a `]` that comes first is one of its characters, as in a shell.
fn set(chars: &mut std::str::Chars<'_>) -> Result<Unit, PatternError> {
    let mut next = || match chars.next() {
        Some('\\') => Ok((chars.next().ok_or(PatternError::NothingEscaped)?, true)),
        Some(c) => Ok((c, false)),
        None => Err(PatternError::OpenSet),
    };
    let mut item = next()?;
    let negated = matches!(item, ('!' | '^', false));
    if negated {
        item = next()?;
    }
    let mut ranges = Vec::new();
    loop {
        let low = item.0;
        item = next()?;
        if item != ('-', false) {
            ranges.push((low, low));
        } else {
            let high = next()?;
            if high == (']', false) {
                // A dash that comes last is one of the characters.
                ranges.extend([(low, low), ('-', '-')]);
                break;
            }
            if high.0 < low {
                return Err(PatternError::EmptyRange(low, high.0));
            }
            ranges.push((low, high.0));
            item = next()?;
        }
        if item == (']', false) {
            break;
        }
    }
    Ok(Unit::Set { negated, ranges })
}

impl Unit {
    fn fits(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::Any => true,
            Self::Set { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

impl Piece {
    fn new(units: Vec<Unit>) -> Self {
        let literal: Option<String> = units
            .iter()
            .map(|unit| match unit {
                Unit::Char(c) => Some(*c),
                Unit::Any | Unit::Set { .. } => None,
            })
            .collect();
        literal.map_or(Self::Units(units.into()), |text| Self::Literal(text.into()))
    }

    /// What follows the piece at the start of `text`.
    fn strip_prefix<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Self::Literal(literal) => text.strip_prefix(&**literal),
            Self::Units(units) => {
                let mut chars = text.chars();
                let fits = units.iter().all(|u| chars.next().is_some_and(|c| u.fits(c)));
                fits.then_some(chars.as_str())
            }
        }
    }

    /// What precedes the piece at the end of `text`.
    fn strip_suffix<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Self::Literal(literal) => text.strip_suffix(&**literal),
            Self::Units(units) => {
                let mut chars = text.chars();
                let mut units = units.iter().rev();
                let fits = units.all(|u| chars.next_back().is_some_and(|c| u.fits(c)));
                fits.then_some(chars.as_str())
            }
        }
    }

    fn shortest(&self) -> usize {
        match self {
            Self::Literal(literal) => literal.len(),
            Self::Units(units) => units
                .iter()
                .map(|unit| match unit {
                    Unit::Char(c) => c.len_utf8(),
                    Unit::Any | Unit::Set { .. } => 1,
                })
                .sum(),
        }
    }

    /// Its characters that are neither `?` nor a set.
    fn literals(&self) -> String {
        match self {
            Self::Literal(literal) => literal.to_string(),
            Self::Units(units) => units
                .iter()
                .filter_map(|unit| match unit {
                    Unit::Char(c) => Some(*c),
                    Unit::Any | Unit::Set { .. } => None,
                })
                .collect(),
        }
    }
}

impl Between {
    fn new(units: Vec<Unit>) -> Self {
        let piece = Piece::new(units);
        let finder = match &piece {
            Piece::Literal(text) => Some(Box::new(Finder::new(text.as_bytes()).into_owned())),
            Piece::Units(_) => None,
        };
        Self { piece, finder }
    }

    /// What follows the piece's leftmost place in `text`.
    fn skip_first<'t>(&self, text: &'t str) -> Option<&'t str> {
        if let Some(finder) = &self.finder {
            let at = finder.find(text.as_bytes())?;
            return text.get(at + finder.needle().len()..);
        }
        let mut chars = text.chars();
        loop {
            if let Some(after) = self.piece.strip_prefix(chars.as_str()) {
                return Some(after);
            }
            chars.next()?;
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests;
