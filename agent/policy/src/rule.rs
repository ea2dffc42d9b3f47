//! Rules: which threads a class is for.

use std::fmt;

use crate::{Needs, Origin, Pattern, PolicySet, Use};

/// `[[rule]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its `name`, or `rule N` by its place in the file, from 1.
    pub name: String,
    /// Index into [`PolicySet::classes`].
    pub class: usize,
    /// Higher is tried first; 0 where not given.
    pub priority: i32,
    /// All tables of which one must hold (`match`, with `any` spread out).
    pub matchers: Vec<Matcher>,
    /// None of these may hold (`unless`, with `any` spread out).
    pub unless: Vec<Matcher>,
    /// Where it is defined.
    pub origin: Origin,
}

/// One table of patterns. Each key that has patterns must hold, by any one of them. What a
/// process has empty matches no pattern, not even `*`.
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
    /// Group name or number.
    pub group: Vec<Pattern>,
    /// cgroup path.
    pub cgroup: Vec<Pattern>,
    /// systemd unit; a pattern without a dot is a service's name without `.service`.
    pub unit: Vec<Pattern>,
    /// The container's name or its whole id.
    pub container: Vec<Pattern>,
    /// The container's image. A pattern without a slash matches its last part; the tag and the
    /// digest may be left out.
    pub image: Vec<Pattern>,
    /// Name of the Kubernetes pod; with a slash, `NAMESPACE/NAME`.
    pub pod: Vec<Pattern>,
    /// A label of the container or its pod.
    pub label: Vec<NamedPattern>,
    /// The parent's executable or name: a pattern with a slash matches the executable's path, one
    /// without its last part or the parent's main thread's name.
    pub parent: Vec<Pattern>,
    /// The same of the parent or any process above it.
    pub ancestor: Vec<Pattern>,
    /// An environment variable.
    pub env: Vec<NamedPattern>,
    /// The thread's own name.
    pub thread: Vec<Pattern>,
    /// What it holds open.
    pub uses: Vec<Use>,
    /// A library that it has mapped, by file name; a pattern without a dot matches the name up to
    /// its first dot.
    pub maps: Vec<Pattern>,
}

/// `NAME` or `NAME=PATTERN`: something with a name and a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPattern {
    /// The name, literally.
    pub name: String,
    /// What its value must match; absent: any value, the empty one too.
    pub value: Option<Pattern>,
}

/// What [`PolicySet::classify`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    /// Index into [`PolicySet::classes`].
    pub class: usize,
    /// Index into [`PolicySet::rules`].
    pub rule: usize,
}

impl PolicySet {
    /// The costly facts that any rule asks for; discovery looks at devices and libraries.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let mut needs =
            Needs { uses: self.auto.enabled, maps: self.auto.enabled, ..Needs::default() };
        for matcher in self.rules.iter().flat_map(|rule| rule.matchers.iter().chain(&rule.unless)) {
            let Matcher { user, group, cgroup, unit, container, image, pod, label, .. } = matcher;
            let Matcher { env, uses, maps, ancestor, .. } = matcher;
            needs.env.extend(env.iter().map(|pattern| pattern.name.clone()));
            needs.uses |= !uses.is_empty();
            needs.maps |= !maps.is_empty();
            needs.ancestors |= !ancestor.is_empty();
            needs.containers |= !(container.is_empty() && image.is_empty() && pod.is_empty());
            needs.containers |= !label.is_empty();
            needs.owner |= !(user.is_empty() && group.is_empty());
            needs.place |= !(cgroup.is_empty() && unit.is_empty()) || needs.containers;
        }
        needs
    }
}

impl Rule {
    /// Whether it always asks for the thread's own name, and so may hold for some threads of a
    /// process and not for its main thread.
    #[must_use]
    pub fn is_for_single_threads(&self) -> bool {
        self.matchers.iter().all(|matcher| !matcher.thread.is_empty())
    }
}

impl Matcher {
    /// Whether no key has a pattern; such a table holds for everything, and the parser refuses it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for NamedPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.name),
            None => f.write_str(&self.name),
        }
    }
}
