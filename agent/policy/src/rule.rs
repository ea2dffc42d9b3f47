//! Rules: which threads a class is for.

use std::cell::OnceCell;

use crate::pattern::ByteSet;
use crate::{Origin, Pattern, PolicySet, ProcessFacts};

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
    /// cgroup path.
    pub cgroup: Vec<Pattern>,
    /// The parent's executable or name: a pattern with a slash matches the executable's path, one
    /// without its last part or the parent's main thread's name.
    pub parent: Vec<Pattern>,
    /// The thread's own name.
    pub thread: Vec<Pattern>,
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
    /// The class of the thread named `thread` in `process`: the first rule that holds. The main
    /// thread is given by its own name too. Allocates nothing.
    #[must_use]
    pub fn classify(&self, process: &ProcessFacts, thread: &str) -> Option<Classified> {
        let subject = Subject::new(process, thread);
        let rule = self.rules.iter().position(|rule| rule.holds(&subject))?;
        Some(Classified { class: self.rules[rule].class, rule })
    }

    /// Whether a thread of `process` may have another class once it has another name, so that
    /// also its threads without a class must be watched.
    #[must_use]
    pub fn looks_at_threads_of(&self, process: &ProcessFacts) -> bool {
        let subject = Subject::new(process, "");
        self.rules.iter().any(|rule| rule.looks_at_threads_of(&subject))
    }
}

impl Rule {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        self.matchers.iter().any(|m| m.holds(subject))
            && !self.unless.iter().any(|m| m.holds(subject))
    }

    fn looks_at_threads_of(&self, subject: &Subject<'_>) -> bool {
        let looks = |m: &Matcher| !m.thread.is_empty() && m.holds_for_process(subject);
        let matchers = &self.matchers;
        matchers.iter().any(looks)
            || self.unless.iter().any(looks)
                && matchers.iter().any(|m| m.holds_for_process(subject))
    }
}

impl Matcher {
    /// Whether no key has a pattern; such a table holds for everything, and the parser refuses it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { exe, comm, cmdline, user, cgroup, parent, thread } = self;
        [exe, comm, cmdline, user, cgroup, parent, thread].iter().all(|key| key.is_empty())
    }

    fn holds(&self, subject: &Subject<'_>) -> bool {
        holds(&self.thread, |p| subject.thread.fits(p)) && self.holds_for_process(subject)
    }

    /// All keys but the thread's name. Short texts come first, the command line last.
    fn holds_for_process(&self, subject: &Subject<'_>) -> bool {
        let Self { exe, comm, cmdline, user, cgroup, parent, thread: _ } = self;
        holds(comm, |p| subject.comm.fits(p))
            && holds(exe, |p| subject.exe.fits(p))
            && holds(parent, |p| subject.is_child_of(p))
            && holds(user, |p| subject.user.fits(p) || p.matches(subject.uid.as_str()))
            && holds(cgroup, |p| subject.cgroup.fits(p))
            && holds(cmdline, |p| subject.cmdline.fits(p))
    }
}

/// A key that is not given holds.
fn holds(patterns: &[Pattern], fits: impl FnMut(&Pattern) -> bool) -> bool {
    patterns.is_empty() || patterns.iter().any(fits)
}

/// A thread, with what several rules need of it worked out once.
struct Subject<'a> {
    exe: ExePath<'a>,
    comm: Text<'a>,
    cmdline: Text<'a>,
    user: Text<'a>,
    uid: Decimal,
    cgroup: Text<'a>,
    parent_exe: ExePath<'a>,
    parent_comm: Text<'a>,
    thread: Text<'a>,
}

impl<'a> Subject<'a> {
    fn new(process: &'a ProcessFacts, thread: &'a str) -> Self {
        let ProcessFacts { exe, comm, cmdline, uid, user, cgroup, parent } = process;
        let parent = parent.as_ref();
        Self {
            exe: ExePath::new(exe.as_deref()),
            comm: Text::new(comm),
            cmdline: Text::new(cmdline),
            user: Text::new(user.as_deref().unwrap_or_default()),
            uid: Decimal::new(*uid),
            cgroup: Text::new(cgroup.as_deref().unwrap_or_default()),
            parent_exe: ExePath::new(parent.and_then(|p| p.exe.as_deref())),
            parent_comm: Text::new(parent.map_or("", |p| &p.comm)),
            thread: Text::new(thread),
        }
    }

    fn is_child_of(&self, pattern: &Pattern) -> bool {
        self.parent_exe.fits(pattern) || (!pattern.has_slash() && self.parent_comm.fits(pattern))
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

    /// What could not be read is empty and matches nothing.
    fn fits(&self, pattern: &Pattern) -> bool {
        !self.text.is_empty()
            && pattern.may_match(*self.bytes.get_or_init(|| ByteSet::of(self.text)))
            && pattern.matches(self.text)
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
mod tests {
    use super::*;
    use crate::ParentFacts;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|t| Pattern::new(t).expect(t)).collect()
    }

    fn process() -> ProcessFacts {
        ProcessFacts {
            exe: Some("/opt/whisper/bin/whisper-server".into()),
            comm: "whisper-server".into(),
            cmdline: "whisper-server -m tiny.bin".into(),
            uid: 1000,
            user: Some("ann".into()),
            cgroup: Some("/system.slice/whisper.service".into()),
            parent: Some(ParentFacts {
                exe: Some("/usr/bin/bash".into()),
                comm: "build.sh".into(),
            }),
        }
    }

    fn holds_for(matcher: &Matcher, process: &ProcessFacts) -> bool {
        matcher.holds(&Subject::new(process, "decoder"))
    }

    #[test]
    fn exe_without_a_slash_is_its_last_part() {
        for (pattern, expected) in [
            ("whisper-server", true),
            ("whisper-*", true),
            ("*/whisper-server", true),
            ("/opt/*", true),
            ("bin", false),
            ("*/bin", false),
            ("/whisper-server", false),
        ] {
            let matcher = Matcher { exe: patterns(&[pattern]), ..Matcher::default() };
            assert_eq!(holds_for(&matcher, &process()), expected, "{pattern}");
        }
    }

    #[test]
    fn user_is_a_name_or_a_number() {
        for (pattern, expected) in [("ann", true), ("1000", true), ("100", false), ("root", false)]
        {
            let matcher = Matcher { user: patterns(&[pattern]), ..Matcher::default() };
            assert_eq!(holds_for(&matcher, &process()), expected, "{pattern}");
        }
    }

    #[test]
    fn parent_is_an_executable_or_a_name() {
        for (pattern, expected) in [
            ("bash", true),
            ("build.sh", true),
            ("/usr/bin/bash", true),
            ("*/build.sh", false),
            ("sh", false),
        ] {
            let matcher = Matcher { parent: patterns(&[pattern]), ..Matcher::default() };
            assert_eq!(holds_for(&matcher, &process()), expected, "{pattern}");
        }
    }

    #[test]
    fn every_key_must_hold_by_one_of_its_patterns() {
        let matcher = Matcher {
            comm: patterns(&["piper", "whisper-server"]),
            cmdline: patterns(&["* -m *"]),
            cgroup: patterns(&["/system.slice/*"]),
            thread: patterns(&["dec*"]),
            ..Matcher::default()
        };
        assert!(holds_for(&matcher, &process()));
        let other = Matcher { cgroup: patterns(&["/user.slice/*"]), ..matcher };
        assert!(!holds_for(&other, &process()));
    }

    #[test]
    fn what_could_not_be_read_matches_nothing() {
        let nothing = ProcessFacts::default();
        let star = || patterns(&["*"]);
        for matcher in [
            Matcher { exe: star(), ..Matcher::default() },
            Matcher { comm: star(), ..Matcher::default() },
            Matcher { cmdline: star(), ..Matcher::default() },
            Matcher { cgroup: star(), ..Matcher::default() },
            Matcher { parent: star(), ..Matcher::default() },
        ] {
            assert!(!holds_for(&matcher, &nothing), "{matcher:?}");
        }
    }

    #[test]
    fn uids_are_written_out() {
        for uid in [0, 7, 10, 1000, 65_534, u32::MAX] {
            assert_eq!(Decimal::new(uid).as_str(), uid.to_string());
        }
    }
}
