//! One file while it is read: tables, their keys, and what is wrong with them.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Problem, Source, nearest, place};

/// One file while it is read.
pub struct File<'a> {
    pub(super) source: &'a Source,
    problems: Vec<Problem>,
}

impl<'a> File<'a> {
    pub fn new(source: &'a Source) -> Self {
        Self { source, problems: Vec::new() }
    }

    /// How many problems it has so far.
    pub fn count(&self) -> usize {
        self.problems.len()
    }

    /// Its problems, in line order.
    pub fn take_problems(&mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.place);
        std::mem::take(&mut self.problems)
    }

    /// The value of `key`, read by `read`; nothing where it is absent or wrong. `prefix` stands
    /// before the key in messages, like `http.`.
    pub fn get<T>(
        &mut self,
        table: &DeTable<'_>,
        prefix: &str,
        key: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<T> {
        let value = table.get(key)?;
        self.checked(value.span().start, &format!("{prefix}{key}"), read(value.get_ref()))
    }

    pub fn checked<T>(&mut self, at: usize, key: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|message| self.problem(at, format!("`{key}`: {message}"))).ok()
    }

    /// The table under `key`; anything else is a problem that says what to write, `wanted`.
    pub fn table<'t>(
        &mut self,
        table: &'t DeTable<'_>,
        key: &str,
        wanted: &str,
    ) -> Option<(&'t DeTable<'t>, usize)>
    where
        't: 't,
    {
        let value = table.get(key)?;
        let at = value.span().start;
        match value.get_ref() {
            DeValue::Table(inner) => Some((inner, at)),
            other => {
                self.problem(
                    at,
                    format!(
                        "`{key}`: expected a table, found {}; write {wanted}",
                        other.type_str()
                    ),
                );
                None
            }
        }
    }

    /// Every key that is not among `known` is a problem.
    pub fn only(&mut self, table: &DeTable<'_>, known: &[&str], of: &str) {
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                self.unknown_key(key.span().start, name, known, of);
            }
        }
    }

    pub fn wrong_type(&mut self, key: &str, wanted: &str, value: &Spanned<DeValue<'_>>) {
        let found = value.get_ref().type_str();
        self.problem(value.span().start, format!("`{key}`: expected {wanted}, found {found}"));
    }

    fn unknown_key(&mut self, at: usize, key: &str, known: &[&str], of: &str) {
        let hint = match nearest(key, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the keys of {of} are {}", known.join(", ")),
        };
        self.problem(at, format!("unknown key `{key}`: {hint}"));
    }

    pub fn problem(&mut self, offset: usize, message: String) {
        let place = Some(self.place(offset));
        self.problems.push(Problem { path: self.source.path.clone(), place, message });
    }

    /// Line and column of a byte offset.
    pub fn place(&self, offset: usize) -> (usize, usize) {
        place(&self.source.text, offset)
    }
}

/// Where the value of a key begins; where `or` is, if the key is absent.
pub fn at(table: &DeTable<'_>, key: &str, or: usize) -> usize {
    table.get(key).map_or(or, |value| value.span().start)
}
