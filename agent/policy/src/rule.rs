//! Rules: which threads a class is for.

use crate::{Origin, PolicySet, ProcessFacts};

/// `[[rule]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its `name`, or `rule N` by its place in the file.
    pub name: String,
    /// Index into [`PolicySet::classes`].
    pub class: usize,
    /// Higher is tried first; 0 where not given.
    pub priority: i32,
    /// All tables of which one must hold (`match`, with `any` spread out).
    pub matchers: Vec<Matcher>,
    /// None of these may hold (`unless`).
    pub unless: Vec<Matcher>,
    /// Where it is defined.
    pub origin: Origin,
}

/// One table of patterns, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matcher {
    /// Path of the executable; a pattern without a slash matches its last part.
    pub exe: Vec<Pattern>,
    /// The main thread's name.
    pub comm: Vec<Pattern>,
    /// The arguments joined by spaces.
    pub cmdline: Vec<Pattern>,
    /// User name or number.
    pub user: Vec<Pattern>,
    /// cgroup path.
    pub cgroup: Vec<Pattern>,
    /// The parent's executable or name, as for `exe` or `comm`.
    pub parent: Vec<Pattern>,
    /// The thread's own name.
    pub thread: Vec<Pattern>,
}

/// A shell-style pattern: `*` any run of characters (slashes too), `?` one, `[…]` a set,
/// `\` takes the next character as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(pub String);

/// What [`PolicySet::classify`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    /// Index into [`PolicySet::classes`].
    pub class: usize,
    /// Index into [`PolicySet::rules`].
    pub rule: usize,
}

impl PolicySet {
    /// The class of the thread named `thread` in `process`: the first rule that holds.
    #[must_use]
    pub fn classify(&self, _process: &ProcessFacts, _thread: &str) -> Option<Classified> {
        None
    }

    /// Whether any rule looks at a thread's own name, so that a renamed thread must be matched
    /// again.
    #[must_use]
    pub fn looks_at_threads(&self) -> bool {
        false
    }
}
