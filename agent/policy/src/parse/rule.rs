//! `[[rule]]`.
//!
//! `any` stands inside `match` or `unless`: the keys beside it must hold, and so must one of its
//! tables. It is spread out here, so that matching knows only tables of patterns.

use super::notes::Notes;
use super::table::{Field, Table, shown};
use crate::{Matcher, Pattern, Rule};

const KEYS: [&str; 5] = ["name", "class", "priority", "match", "unless"];
const MATCH_KEYS: [&str; 8] =
    ["exe", "comm", "cmdline", "user", "cgroup", "parent", "thread", "any"];

/// Keys that a reader of the design may well put beside `match`.
const MISPLACED: [(&str, &str); 1] = [("any", "belongs inside `match`: match = { any = [ … ] }")];

/// Characters of a rule's name.
const LONGEST_NAME: usize = 80;

/// Bytes that the kernel keeps of a thread's name (`TASK_COMM_LEN` less the NUL).
const COMM_BYTES: usize = 15;

/// A rule whose class is not yet looked up.
pub(super) struct RuleDraft {
    /// Complete but for `class`.
    pub(super) rule: Rule,
    /// Byte offset of the class's name, and the name; absent where it was refused.
    pub(super) class: Option<(usize, String)>,
}

/// Reads all rules of a file.
pub(super) fn read_all(field: &Field<'_>, notes: &mut Notes<'_>) -> Vec<RuleDraft> {
    let Some(list) = field.as_array() else {
        field.wrong_type("a list of tables; write `[[rule]]`", notes);
        return Vec::new();
    };
    let rules = field.elements(list).enumerate();
    rules.filter_map(|(i, field)| read(&field, i + 1, notes)).collect()
}

/// Reads the rule that is the file's `number`th.
fn read(field: &Field<'_>, number: usize, notes: &mut Notes<'_>) -> Option<RuleDraft> {
    let table = field.table("tables; write `[[rule]]`", notes)?;
    table.refuse_unknown_or_misplaced(&KEYS, &MISPLACED, notes);
    let name = table.get("name").and_then(|field| name(&field, notes));
    let class = table.require("class", "class = \"voice\"", notes).and_then(|field| {
        let name = field.string("the name of a class", notes)?;
        Some((field.value_at(), name.to_owned()))
    });
    let priority = table.get("priority").and_then(|f| f.integer_in(i32::MIN..=i32::MAX, notes));
    let matchers = table
        .require("match", "match = { exe = \"*/whisper-server\" }", notes)
        .map(|field| matchers(&field, notes));
    let unless = table.get("unless").map(|field| self::matchers(&field, notes));
    Some(RuleDraft {
        rule: Rule {
            name: name.unwrap_or_else(|| format!("rule {number}")),
            class: 0,
            priority: priority.unwrap_or_default(),
            matchers: matchers.unwrap_or_default(),
            unless: unless.unwrap_or_default(),
            origin: notes.origin(field.at()),
        },
        class,
    })
}

fn name(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<String> {
    let name = field.string("a string", notes)?;
    let good = (1..=LONGEST_NAME).contains(&name.chars().count())
        && !name.chars().any(char::is_control)
        && !name.trim().is_empty();
    if !good {
        field.refuse(format!("a rule's name is one line of 1 to {LONGEST_NAME} characters"), notes);
    }
    good.then(|| name.to_owned())
}

/// Reads `match` or `unless` with `any` spread out. What is wrong is reported and left out.
fn matchers(field: &Field<'_>, notes: &mut Notes<'_>) -> Vec<Matcher> {
    const WANTED: &str = "a table such as { exe = \"*/whisper-server\" }";
    let Some(table) = field.table(WANTED, notes) else {
        return Vec::new();
    };
    if table.refuse_empty("an empty table would match every process", notes) {
        return Vec::new();
    }
    table.refuse_unknown(&MATCH_KEYS, notes);
    let common = matcher(&table, notes);
    let Some(any) = table.get("any") else {
        return vec![common];
    };
    let Some(list) = any.as_array() else {
        any.wrong_type("a list of tables such as [ { exe = \"*/piper\" } ]", notes);
        return Vec::new();
    };
    if list.is_empty() {
        any.refuse("an empty list matches nothing; leave the key out", notes);
    }
    any.elements(list).filter_map(|element| alternative(&element, &table, &common, notes)).collect()
}

/// One table of `any`, together with the keys beside `any`.
fn alternative(
    field: &Field<'_>,
    beside: &Table<'_>,
    common: &Matcher,
    notes: &mut Notes<'_>,
) -> Option<Matcher> {
    let table = field.table("tables such as { exe = \"*/piper\" }", notes)?;
    if table.refuse_empty("an empty table would match every process", notes) {
        return None;
    }
    let known = &MATCH_KEYS[..MATCH_KEYS.len() - 1];
    table.refuse_unknown(known, notes);
    for twice in table.fields().filter(|f| f.name() != "any" && beside.get(f.name()).is_some()) {
        twice.refuse_name("also stands beside `any`; give it in one of the two places", notes);
    }
    let Matcher { exe, comm, cmdline, user, cgroup, parent, thread } = matcher(&table, notes);
    let or = |own: Vec<Pattern>, common: &Vec<Pattern>| {
        if own.is_empty() { common.clone() } else { own }
    };
    Some(Matcher {
        exe: or(exe, &common.exe),
        comm: or(comm, &common.comm),
        cmdline: or(cmdline, &common.cmdline),
        user: or(user, &common.user),
        cgroup: or(cgroup, &common.cgroup),
        parent: or(parent, &common.parent),
        thread: or(thread, &common.thread),
    })
}

/// The patterns of one table, without `any`.
fn matcher(table: &Table<'_>, notes: &mut Notes<'_>) -> Matcher {
    let mut read = |key: &str, check: Check| {
        table.get(key).map_or_else(Vec::new, |field| patterns(&field, check, notes))
    };
    Matcher {
        exe: read("exe", path_or_name),
        comm: read("comm", thread_name),
        cmdline: read("cmdline", anything),
        user: read("user", anything),
        cgroup: read("cgroup", path),
        parent: read("parent", path_or_name),
        thread: read("thread", thread_name),
    }
}

/// Why a pattern can never match, and what to write instead.
type Check = fn(&Pattern) -> Option<String>;

/// A string or a list of strings.
fn patterns(field: &Field<'_>, check: Check, notes: &mut Notes<'_>) -> Vec<Pattern> {
    const WANTED: &str = "a pattern in quotes or a list of them";
    let Some(list) = field.as_array() else {
        return pattern(field, WANTED, check, notes).into_iter().collect();
    };
    if list.is_empty() {
        field.refuse("an empty list matches nothing; leave the key out", notes);
    }
    field.elements(list).filter_map(|f| pattern(&f, WANTED, check, notes)).collect()
}

fn pattern(
    field: &Field<'_>,
    wanted: &str,
    check: Check,
    notes: &mut Notes<'_>,
) -> Option<Pattern> {
    let text = field.string(wanted, notes)?;
    match Pattern::new(text) {
        Ok(pattern) => match check(&pattern) {
            None => Some(pattern),
            Some(why) => {
                field.refuse(format!("`{}` can never match: {why}", shown(text)), notes);
                None
            }
        },
        Err(error) => {
            field.refuse(error, notes);
            None
        }
    }
}

fn anything(_: &Pattern) -> Option<String> {
    None
}

fn thread_name(pattern: &Pattern) -> Option<String> {
    let shortest = pattern.shortest();
    (shortest > COMM_BYTES).then(|| {
        let kept =
            format!("the kernel keeps {COMM_BYTES} bytes of a name, and this needs {shortest}");
        if !pattern.is_literal() {
            return kept;
        }
        let text = pattern.as_str();
        let cut = text.get(..text.floor_char_boundary(COMM_BYTES)).unwrap_or_default();
        format!("{kept}; write `{}`", shown(cut))
    })
}

fn path_or_name(pattern: &Pattern) -> Option<String> {
    if pattern.has_slash() { path(pattern) } else { None }
}

fn path(pattern: &Pattern) -> Option<String> {
    let first = pattern.first_char()?;
    (first != '/').then(|| format!("a path starts with `/`; write `*/{}`", shown(pattern.as_str())))
}
