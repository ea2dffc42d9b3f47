//! TOML tables and their keys with place and full name.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::notes::Notes;
use super::suggest;
use crate::language::Key;

/// A table of the document.
pub(super) struct Table<'t> {
    /// Full name, empty at the top.
    key: String,
    /// Byte offset at which a missing key is reported.
    at: usize,
    /// In the order of the file.
    entries: Vec<Entry<'t>>,
}

type Entry<'t> = (&'t Spanned<DeString<'t>>, &'t Spanned<DeValue<'t>>);

/// A key of a table and its value, or one element of an array.
pub(super) struct Field<'t> {
    /// Full name.
    key: String,
    name: &'t str,
    /// Byte offset of the name.
    at: usize,
    value: &'t Spanned<DeValue<'t>>,
}

impl<'t> Table<'t> {
    pub(super) fn root(table: &'t DeTable<'t>) -> Self {
        Self::new(String::new(), 0, table)
    }

    fn new(key: String, at: usize, table: &'t DeTable<'t>) -> Self {
        let mut entries: Vec<Entry<'t>> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        Self { key, at, entries }
    }

    pub(super) fn get(&self, name: &str) -> Option<Field<'t>> {
        self.entries.iter().find(|(key, _)| key.get_ref() == name).map(|entry| self.field(entry))
    }

    /// The value of a key that must be there.
    pub(super) fn require(
        &self,
        name: &str,
        example: &str,
        notes: &mut Notes<'_>,
    ) -> Option<Field<'t>> {
        let field = self.get(name);
        if field.is_none() {
            let key = joined(&self.key, name);
            notes.add(self.at, format!("{key}: missing; write for example `{example}`"));
        }
        field
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = Field<'t>> {
        self.entries.iter().map(|entry| self.field(entry))
    }

    fn field(&self, (name, value): &Entry<'t>) -> Field<'t> {
        let key = joined(&self.key, name.get_ref());
        Field { key, name: name.get_ref(), at: name.span().start, value }
    }

    /// Reports each key that is none of `known`.
    pub(super) fn refuse_unknown(&self, known: &[Key], notes: &mut Notes<'_>) {
        self.refuse_unknown_or_misplaced(known, &[], notes);
    }

    /// Reports each key that is none of `known`, with words of its own for those that are known
    /// elsewhere.
    pub(super) fn refuse_unknown_or_misplaced(
        &self,
        known: &[Key],
        misplaced: &[(&str, &str)],
        notes: &mut Notes<'_>,
    ) {
        let names = known.iter().map(|key| key.name);
        for field in self.fields().filter(|field| names.clone().all(|name| name != field.name)) {
            match misplaced.iter().find(|(name, _)| *name == field.name) {
                Some((_, remedy)) => field.refuse_name(remedy, notes),
                None => {
                    let hint = suggest::hint(field.name, names.clone(), "known");
                    field.refuse_name(format!("this version knows no such key; {hint}"), notes);
                }
            }
        }
    }

    /// Whether there are no keys, which is reported.
    pub(super) fn refuse_empty(&self, remedy: &str, notes: &mut Notes<'_>) -> bool {
        if self.entries.is_empty() {
            notes.add(self.at, format!("{}: empty; {remedy}", self.key));
        }
        self.entries.is_empty()
    }
}

impl<'t> Field<'t> {
    /// The last part of its full name.
    pub(super) fn name(&self) -> &'t str {
        self.name
    }

    /// Byte offset of its name.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Reports something about the value.
    pub(super) fn refuse(&self, message: impl std::fmt::Display, notes: &mut Notes<'_>) {
        notes.add(self.value_at(), format!("{}: {message}", self.key));
    }

    /// Reports something about the key itself.
    pub(super) fn refuse_name(&self, message: impl std::fmt::Display, notes: &mut Notes<'_>) {
        notes.add(self.at, format!("{}: {message}", self.key));
    }

    /// Reports a value of the wrong type.
    pub(super) fn wrong_type(&self, wanted: &str, notes: &mut Notes<'_>) {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.refuse(format!("wants {wanted}, found {found}"), notes);
    }

    /// Where the value starts. A table made by a header or a dotted key has no start of its own
    /// that a person would look at.
    pub(super) fn value_at(&self) -> usize {
        match self.value.get_ref() {
            DeValue::Table(_) => self.at,
            _ => self.value.span().start,
        }
    }

    /// The value, if it is a string.
    pub(super) fn as_str(&self) -> Option<&'t str> {
        self.value.get_ref().as_str()
    }

    /// The value, if it is a list.
    pub(super) fn as_array(&self) -> Option<&'t DeArray<'t>> {
        self.value.get_ref().as_array()
    }

    /// Whether the value is a table.
    pub(super) fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    /// A string; anything else is reported.
    pub(super) fn string(&self, wanted: &str, notes: &mut Notes<'_>) -> Option<&'t str> {
        let text = self.as_str();
        if text.is_none() {
            self.wrong_type(wanted, notes);
        }
        text
    }

    /// Whether the value is a whole number.
    pub(super) fn is_integer(&self) -> bool {
        self.value.get_ref().is_integer()
    }

    /// `true` or `false`; anything else is reported.
    pub(super) fn flag(&self, notes: &mut Notes<'_>) -> Option<bool> {
        let flag = self.value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_type("true or false", notes);
        }
        flag
    }

    /// The value, if it is a whole number of 64 bits.
    pub(super) fn integer(&self) -> Option<i64> {
        let number = self.value.get_ref().as_integer()?;
        i64::from_str_radix(number.as_str(), number.radix()).ok()
    }

    /// A whole number of `range`; anything else is reported.
    pub(super) fn integer_in<T>(&self, range: RangeInclusive<T>, notes: &mut Notes<'_>) -> Option<T>
    where
        T: Copy + std::fmt::Display + PartialOrd + TryFrom<i64>,
    {
        let (low, high) = (*range.start(), *range.end());
        let Some(written) = self.value.get_ref().as_integer() else {
            self.wrong_type(&format!("a whole number from {low} to {high}"), notes);
            return None;
        };
        let number = self.integer().and_then(|n| T::try_from(n).ok()).filter(|n| range.contains(n));
        if number.is_none() {
            let written = shown(&written.to_string());
            self.refuse(format!("{written} is not from {low} to {high}"), notes);
        }
        number
    }

    /// One of some words; anything else is reported.
    pub(super) fn choice<T: Clone>(&self, words: &[(&str, T)], notes: &mut Notes<'_>) -> Option<T> {
        let wanted = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>();
        let text = self.string(&wanted.join(" or "), notes)?;
        let chosen = words.iter().find(|(word, _)| *word == text).map(|(_, value)| value.clone());
        if chosen.is_none() {
            let hint = suggest::hint(text, words.iter().map(|(word, _)| *word), "known");
            self.refuse(format!("this version knows no `{}`; {hint}", shown(text)), notes);
        }
        chosen
    }

    /// A table; anything else is reported.
    pub(super) fn table(&self, wanted: &str, notes: &mut Notes<'_>) -> Option<Table<'t>> {
        let table = self.value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(wanted, notes);
        }
        table.map(|table| Table::new(self.key.clone(), self.at, table))
    }

    /// The elements of a list, under the list's own name.
    pub(super) fn elements(&self, list: &'t DeArray<'t>) -> impl Iterator<Item = Self> {
        list.iter().map(|value| Field {
            key: self.key.clone(),
            name: self.name,
            at: value.span().start,
            value,
        })
    }
}

/// The full name of the key `name` in the table `parent`, as TOML writes it.
pub(super) fn joined(parent: &str, name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let name = match name {
        "" => "\"\"".to_owned(),
        _ if name.chars().all(bare) => shown(name),
        _ => format!("\"{}\"", shown(name)),
    };
    if parent.is_empty() { name } else { format!("{parent}.{name}") }
}

/// A text of the file as a message can bear it: one line, not too long, nothing that moves a
/// terminal's cursor.
pub(super) fn shown(text: &str) -> String {
    /// Characters before the rest is left out.
    const MOST: usize = 80;
    let mut shown = String::new();
    for c in text.chars().take(MOST) {
        match c {
            '\\' | '\'' | '"' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}
