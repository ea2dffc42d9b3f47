//! Which rules are worth a look for a process, made once per policy.
//!
//! Most rules name programs. Those are found by the name of the process's executable or of its main
//! thread; the others are passed by where the process lacks a byte that their patterns have. Both
//! leave out only rules that cannot hold.

use std::collections::HashMap;
use std::fmt;

use crate::matching::Subject;
use crate::pattern::ByteSet;
use crate::{Matcher, Pattern, Rule};

/// Places of rules, in the order in which they are tried.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Index {
    /// By the last part of the executable's path.
    by_exe: HashMap<Box<str>, Vec<u32>>,
    /// By the main thread's name.
    by_comm: HashMap<Box<str>, Vec<u32>>,
    /// Tables of patterns that name no program.
    gates: Vec<Gate>,
    /// Rules that look at threads' names.
    threaded: Vec<u32>,
}

/// What a process must have for one table of patterns.
#[derive(Clone, Copy, PartialEq)]
struct Gate {
    rule: u32,
    /// Every match has these bytes there.
    needs: Option<(Field, ByteSet)>,
}

/// A text of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Exe,
    ExeLast,
    Comm,
    Cmdline,
    Cgroup,
    Unit,
    Thread,
}

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        // More rules than that do not fit into files of bounded size.
        for (place, rule) in (0_u32..).zip(rules) {
            for matcher in &rule.matchers {
                index.add(place, matcher);
            }
            let mut all = rule.matchers.iter().chain(&rule.unless);
            if all.any(|matcher| !matcher.thread.is_empty()) {
                index.threaded.push(place);
            }
        }
        index
    }

    fn add(&mut self, rule: u32, matcher: &Matcher) {
        let names = |patterns: &[Pattern], name: fn(&Pattern) -> Option<&str>| {
            let names: Option<Vec<Box<str>>> =
                patterns.iter().map(|pattern| name(pattern).map(Into::into)).collect();
            names.filter(|names| !names.is_empty())
        };
        let (names, map) = if let Some(names) = names(&matcher.exe, Pattern::last_part) {
            (names, &mut self.by_exe)
        } else if let Some(names) = names(&matcher.comm, Pattern::literal) {
            (names, &mut self.by_comm)
        } else {
            self.gates.push(Gate { rule, needs: needs(matcher) });
            return;
        };
        for name in names {
            let places = map.entry(name).or_default();
            if places.last() != Some(&rule) {
                places.push(rule);
            }
        }
    }

    /// Places of the rules that may hold for a process whose executable's path ends in `exe` and
    /// whose main thread is called `comm`, ascending and without repeats.
    pub(crate) fn candidates<'i>(
        &'i self,
        exe: &str,
        comm: &str,
        subject: &'i Subject<'_>,
    ) -> impl Iterator<Item = usize> + 'i {
        let named = |map: &'i HashMap<Box<str>, Vec<u32>>, name: &str| {
            map.get(name).map_or(&[][..], Vec::as_slice)
        };
        let mut by_exe = named(&self.by_exe, exe).iter().copied().peekable();
        let mut by_comm = named(&self.by_comm, comm).iter().copied().peekable();
        let open = |gate: &&Gate| {
            gate.needs.is_none_or(|(field, needs)| needs.is_within(subject.bytes(field)))
        };
        let mut gates = self.gates.iter().filter(open).map(|gate| gate.rule).peekable();
        std::iter::from_fn(move || {
            let heads = [by_exe.peek(), by_comm.peek(), gates.peek()];
            let next = *heads.into_iter().flatten().min()?;
            by_exe.next_if_eq(&next);
            by_comm.next_if_eq(&next);
            while gates.next_if_eq(&next).is_some() {}
            usize::try_from(next).ok()
        })
    }

    /// Places of the rules that look at threads' names.
    pub(crate) fn threaded(&self) -> impl Iterator<Item = usize> + '_ {
        self.threaded.iter().filter_map(|place| usize::try_from(*place).ok())
    }
}

/// The text of which a table needs most, with the bytes that all patterns of the key have.
fn needs(matcher: &Matcher) -> Option<(Field, ByteSet)> {
    let Matcher { exe, comm, cmdline, cgroup, unit, thread, .. } = matcher;
    let exe_field = if exe.iter().all(Pattern::has_slash) { Field::Exe } else { Field::ExeLast };
    // A mixed list is held against both texts.
    let mixed = exe.iter().any(Pattern::has_slash) && exe_field == Field::ExeLast;
    let exe = if mixed { &[][..] } else { exe };
    let keys = [
        (exe_field, exe),
        (Field::Comm, comm),
        (Field::Cmdline, cmdline),
        (Field::Cgroup, cgroup),
        (Field::Unit, unit),
        (Field::Thread, thread),
    ];
    let shared = keys.into_iter().filter_map(|(field, patterns)| {
        let needs = patterns.iter().map(Pattern::needs).reduce(ByteSet::shared)?;
        Some((field, needs))
    });
    // The first of several that need as much: it is the shortest text.
    shared.rev().max_by_key(|(_, needs)| needs.count()).filter(|(_, needs)| needs.count() > 0)
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It follows from the rules, which are shown beside it.
        f.write_str("Index")
    }
}
