//! Which class a thread has. Allocates nothing.

use std::cell::OnceCell;

use crate::index::Field;
use crate::pattern::ByteSet;
use crate::{
    Classified, Matcher, NamedPattern, Pattern, PolicySet, ProcessFacts, ProcessKind, Rule,
};

impl PolicySet {
    /// The class of the thread named `thread` in `process`: the first rule that holds. The main
    /// thread is given by its own name too. Allocates nothing.
    #[must_use]
    pub fn classify(&self, process: &ProcessFacts, thread: &str) -> Option<Classified> {
        let subject = Subject::new(process, thread);
        let candidates = self.index.candidates(subject.exe.last.text, &process.comm, &subject);
        let mut rules = candidates.filter_map(|place| Some((place, self.rules.get(place)?)));
        let (rule, found) = rules.find(|(_, rule)| rule.holds(&subject))?;
        Some(Classified { class: found.class, rule })
    }

    /// Whether a thread of `process` may have another class once it has another name, so that
    /// also its threads without a class must be watched.
    #[must_use]
    pub fn looks_at_threads_of(&self, process: &ProcessFacts) -> bool {
        let subject = Subject::new(process, "");
        let mut rules = self.index.threaded().filter_map(|place| self.rules.get(place));
        rules.any(|rule| rule.looks_at_threads_of(&subject))
    }
}

impl Rule {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        self.matchers.iter().any(|m| m.is_for(subject.facts.kind) && m.holds(subject))
            && !self.unless.iter().any(|m| m.holds(subject))
    }

    fn looks_at_threads_of(&self, subject: &Subject<'_>) -> bool {
        let looks = |m: &Matcher| !m.thread.is_empty() && m.holds_for_process(subject);
        let mut matchers = self.matchers.iter().filter(|m| m.is_for(subject.facts.kind));
        matchers.clone().any(looks)
            || self.unless.iter().any(looks) && matchers.any(|m| m.holds_for_process(subject))
    }
}

impl Matcher {
    fn is_for(&self, kind: ProcessKind) -> bool {
        match kind {
            ProcessKind::Ordinary => true,
            ProcessKind::Kernel => !self.comm.is_empty(),
            ProcessKind::KeptOut => false,
        }
    }

    fn holds(&self, subject: &Subject<'_>) -> bool {
        holds(&self.thread, |p| subject.thread.fits(p)) && self.holds_for_process(subject)
    }

    /// All keys but the thread's name. What is short or seldom there comes first, the command line
    /// last.
    fn holds_for_process(&self, subject: &Subject<'_>) -> bool {
        let Self {
            exe,
            comm,
            cmdline,
            user,
            group,
            cgroup,
            unit,
            container,
            image,
            pod,
            label,
            parent,
            ancestor,
            env,
            thread: _,
            uses,
            maps,
        } = self;
        holds(comm, |p| subject.comm.fits(p))
            && holds(exe, |p| subject.exe.fits(p))
            && holds(uses, |kind| subject.facts.uses.has(*kind))
            && holds(parent, |p| subject.is_child_of(p))
            && holds(user, |p| subject.user.fits(p))
            && holds(group, |p| subject.group.fits(p))
            && holds(unit, |p| subject.is_of_unit(p))
            && holds(container, |p| subject.is_container(p))
            && holds(image, |p| subject.has_image(p))
            && holds(pod, |p| subject.is_in_pod(p))
            && holds(cgroup, |p| subject.cgroup.fits(p))
            && holds(label, |p| subject.labels().any(|pair| p.fits(pair)))
            && holds(env, |p| subject.facts.env.iter().any(|pair| p.fits(pair)))
            && holds(maps, |p| subject.facts.maps.iter().any(|name| is_library(p, name)))
            && holds(ancestor, |p| subject.descends_from(p))
            && holds(cmdline, |p| subject.cmdline.fits(p))
    }
}

impl NamedPattern {
    fn fits(&self, (name, value): &(String, String)) -> bool {
        *name == self.name && self.value.as_ref().is_none_or(|pattern| pattern.matches(value))
    }
}

/// A key that is not given holds.
fn holds<T>(patterns: &[T], fits: impl FnMut(&T) -> bool) -> bool {
    patterns.is_empty() || patterns.iter().any(fits)
}

/// A thread, with what several rules need of it worked out once.
pub(crate) struct Subject<'a> {
    facts: &'a ProcessFacts,
    exe: ExePath<'a>,
    comm: Text<'a>,
    cmdline: Text<'a>,
    user: Owner<'a>,
    group: Owner<'a>,
    cgroup: Text<'a>,
    unit: Text<'a>,
    parent_exe: ExePath<'a>,
    parent_comm: Text<'a>,
    thread: Text<'a>,
}

impl<'a> Subject<'a> {
    fn new(facts: &'a ProcessFacts, thread: &'a str) -> Self {
        let parent = facts.parent.as_ref();
        Self {
            facts,
            exe: ExePath::new(facts.exe.as_deref()),
            comm: Text::new(&facts.comm),
            cmdline: Text::new(&facts.cmdline),
            user: Owner::new(facts.user.as_deref(), Some(facts.uid)),
            group: Owner::new(facts.group.as_deref(), facts.gid),
            cgroup: Text::new(facts.cgroup.as_deref().unwrap_or_default()),
            unit: Text::new(facts.unit.as_deref().unwrap_or_default()),
            parent_exe: ExePath::new(parent.and_then(|p| p.exe.as_deref())),
            parent_comm: Text::new(parent.map_or("", |p| &p.comm)),
            thread: Text::new(thread),
        }
    }

    /// The bytes of one of its texts.
    pub(crate) fn bytes(&self, field: Field) -> ByteSet {
        match field {
            Field::Exe => self.exe.path.bytes(),
            Field::ExeLast => self.exe.last.bytes(),
            Field::Comm => self.comm.bytes(),
            Field::Cmdline => self.cmdline.bytes(),
            Field::Cgroup => self.cgroup.bytes(),
            Field::Unit => self.unit.bytes(),
            Field::Thread => self.thread.bytes(),
        }
    }

    fn is_child_of(&self, pattern: &Pattern) -> bool {
        self.parent_exe.fits(pattern) || (!pattern.has_slash() && self.parent_comm.fits(pattern))
    }

    fn descends_from(&self, pattern: &Pattern) -> bool {
        self.is_child_of(pattern)
            || self.facts.ancestors.iter().any(|ancestor| {
                let exe = ExePath::new(ancestor.exe.as_deref());
                exe.fits(pattern) || (!pattern.has_slash() && fits_whole(pattern, &ancestor.comm))
            })
    }

    fn is_of_unit(&self, pattern: &Pattern) -> bool {
        if pattern.as_str().contains('.') {
            return self.unit.fits(pattern);
        }
        self.unit.text.strip_suffix(".service").is_some_and(|name| fits_whole(pattern, name))
            || self.unit.fits(pattern)
    }

    fn is_container(&self, pattern: &Pattern) -> bool {
        self.facts.container.as_ref().is_some_and(|container| {
            let name = container.name.as_deref().unwrap_or_default();
            fits_whole(pattern, name) || fits_whole(pattern, &container.id)
        })
    }

    fn has_image(&self, pattern: &Pattern) -> bool {
        let image = self.facts.container.as_ref().and_then(|container| container.image.as_deref());
        let Some(mut image) = image else {
            return false;
        };
        if !pattern.has_slash() {
            image = image.rsplit_once('/').map_or(image, |(_, last)| last);
        }
        let untagged = untagged(image);
        fits_whole(pattern, image) || fits_whole(pattern, untagged)
    }

    fn is_in_pod(&self, pattern: &Pattern) -> bool {
        let Some(container) = &self.facts.container else {
            return false;
        };
        let pod = container.pod.as_deref().unwrap_or_default();
        if !pattern.has_slash() {
            return fits_whole(pattern, pod);
        }
        let namespace = container.namespace.as_deref().unwrap_or_default();
        let mut joined = [0; LONGEST_POD];
        let parts = [namespace.as_bytes(), b"/", pod.as_bytes()];
        let mut rest = joined.as_mut_slice();
        for part in parts {
            let Some((start, after)) = rest.split_at_mut_checked(part.len()) else {
                return false;
            };
            start.copy_from_slice(part);
            rest = after;
        }
        let length = LONGEST_POD - rest.len();
        let joined = std::str::from_utf8(&joined[..length]).unwrap_or_default();
        !pod.is_empty() && pattern.matches(joined)
    }

    fn labels(&self) -> impl Iterator<Item = &'a (String, String)> {
        self.facts.container.iter().flat_map(|container| &container.labels)
    }
}

/// More than Kubernetes takes: 63 bytes of a namespace, a slash, 253 of a pod's name.
const LONGEST_POD: usize = 320;

/// What could not be read is empty and matches nothing.
fn fits_whole(pattern: &Pattern, text: &str) -> bool {
    !text.is_empty() && pattern.matches(text)
}

/// An image without its tag and digest. A colon before a slash belongs to the registry's port.
fn untagged(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    }
}

/// Whether a library's file name fits; its version and ending may be left out.
fn is_library(pattern: &Pattern, name: &str) -> bool {
    let name = if pattern.as_str().contains('.') {
        name
    } else {
        name.split_once('.').map_or(name, |(stem, _)| stem)
    };
    fits_whole(pattern, name)
}

/// A user or a group, by name and by number.
struct Owner<'a> {
    name: Text<'a>,
    number: Option<Decimal>,
}

impl<'a> Owner<'a> {
    fn new(name: Option<&'a str>, number: Option<u32>) -> Self {
        Self { name: Text::new(name.unwrap_or_default()), number: number.map(Decimal::new) }
    }

    fn fits(&self, pattern: &Pattern) -> bool {
        self.name.fits(pattern) || self.number.as_ref().is_some_and(|n| pattern.matches(n.as_str()))
    }
}

/// A text that many patterns are held against.
struct Text<'a> {
    text: &'a str,
    /// Filled by the first pattern that asks.
    bytes: OnceCell<ByteSet>,
}

impl<'a> Text<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, bytes: OnceCell::new() }
    }

    fn bytes(&self) -> ByteSet {
        *self.bytes.get_or_init(|| ByteSet::of(self.text))
    }

    /// What could not be read is empty and matches nothing.
    fn fits(&self, pattern: &Pattern) -> bool {
        !self.text.is_empty() && pattern.may_match(self.bytes()) && pattern.matches(self.text)
    }
}

/// An executable's path and its last part.
struct ExePath<'a> {
    path: Text<'a>,
    last: Text<'a>,
}

impl<'a> ExePath<'a> {
    fn new(path: Option<&'a str>) -> Self {
        let path = path.unwrap_or_default();
        let last = path.rsplit_once('/').map_or(path, |(_, last)| last);
        Self { path: Text::new(path), last: Text::new(last) }
    }

    fn fits(&self, pattern: &Pattern) -> bool {
        if pattern.has_slash() { self.path.fits(pattern) } else { self.last.fits(pattern) }
    }
}

/// A uid's digits, without an allocation.
struct Decimal {
    /// ASCII digits, at the end.
    digits: [u8; 10],
    start: usize,
}

impl Decimal {
    fn new(mut number: u32) -> Self {
        let mut digits = [b'0'; 10];
        let mut start = digits.len();
        // `u32::MAX` has ten digits.
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            start -= 1;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        Self { digits, start }
    }

    fn as_str(&self) -> &str {
        // ASCII digits are UTF-8.
        std::str::from_utf8(&self.digits[self.start..]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
