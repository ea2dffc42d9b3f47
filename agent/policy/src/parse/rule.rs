//! `[[rule]]`.
//!
//! `any` stands inside `match` or `unless`: the keys beside it must hold, and so must one of its
//! tables. It is spread out here, so that matching knows only tables of patterns.

use super::notes::Notes;
use super::table::{Field, Table, shown};
use crate::{Matcher, NamedPattern, Pattern, Rule, Use, language};

/// Keys that a reader of the design may well put beside `match`.
const MISPLACED: [(&str, &str); 1] = [("any", "belongs inside `match`: match = { any = [ … ] }")];

/// `any` is known, one level up.
const NESTED: [(&str, &str); 1] = [(
    "any",
    "does not stand inside `any`; make a table of its own of each alternative, or another rule",
)];

/// Characters of a rule's name.
const LONGEST_NAME: usize = 80;

/// Bytes of the name of an environment variable or a label: Kubernetes takes 317 for a label.
const LONGEST_VARIABLE: usize = 320;

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
    table.refuse_unknown_or_misplaced(language::RULE, &MISPLACED, notes);
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
    table.refuse_unknown(language::MATCH, notes);
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
    table.refuse_unknown_or_misplaced(language::MATCHERS, &NESTED, notes);
    for twice in table.fields().filter(|f| f.name() != "any" && beside.get(f.name()).is_some()) {
        twice.refuse_name("also stands beside `any`; give it in one of the two places", notes);
    }
    let Matcher {
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
        thread,
        uses,
        maps,
    } = matcher(&table, notes);
    Some(Matcher {
        exe: or(exe, &common.exe),
        comm: or(comm, &common.comm),
        cmdline: or(cmdline, &common.cmdline),
        user: or(user, &common.user),
        group: or(group, &common.group),
        cgroup: or(cgroup, &common.cgroup),
        unit: or(unit, &common.unit),
        container: or(container, &common.container),
        image: or(image, &common.image),
        pod: or(pod, &common.pod),
        label: or(label, &common.label),
        parent: or(parent, &common.parent),
        ancestor: or(ancestor, &common.ancestor),
        env: or(env, &common.env),
        thread: or(thread, &common.thread),
        uses: or(uses, &common.uses),
        maps: or(maps, &common.maps),
    })
}

/// What a table says itself, else what stands beside `any`.
fn or<T: Clone>(own: Vec<T>, common: &[T]) -> Vec<T> {
    if own.is_empty() { common.to_vec() } else { own }
}

/// The patterns of one table, without `any`.
fn matcher(table: &Table<'_>, notes: &mut Notes<'_>) -> Matcher {
    const WANTED: &str = "a pattern in quotes or a list of them";
    let mut read = |key: &str, check: Check| {
        each(table, key, notes, |field, notes| pattern(field, WANTED, check, notes))
    };
    Matcher {
        exe: read("exe", path_or_name),
        comm: read("comm", thread_name),
        cmdline: read("cmdline", anything),
        user: read("user", anything),
        group: read("group", anything),
        cgroup: read("cgroup", path),
        unit: read("unit", unit),
        container: read("container", anything),
        image: read("image", anything),
        pod: read("pod", anything),
        parent: read("parent", path_or_name),
        ancestor: read("ancestor", path_or_name),
        thread: read("thread", thread_name),
        maps: read("maps", file_name),
        label: named(table, "label", notes),
        env: named(table, "env", notes),
        uses: uses(table, notes),
    }
}

/// `uses`: a word or a list of words.
fn uses(table: &Table<'_>, notes: &mut Notes<'_>) -> Vec<Use> {
    let words = Use::ALL.map(|kind| (kind.name(), kind));
    each(table, "uses", notes, |field, notes| field.choice(&words, notes))
}

/// `NAME` or `NAME=PATTERN`, one or a list.
fn named(table: &Table<'_>, key: &str, notes: &mut Notes<'_>) -> Vec<NamedPattern> {
    each(table, key, notes, |field, notes| {
        let text = field.string("\"NAME\" or \"NAME=PATTERN\" or a list of them", notes)?;
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let plain = |c: char| !(c.is_control() || c.is_whitespace() || "*?[]\\".contains(c));
        if name.is_empty() || name.len() > LONGEST_VARIABLE || !name.chars().all(plain) {
            field.refuse(
                format!(
                    "`{}` has no plain name before its `=`; write \"NAME\" or \"NAME=PATTERN\": \
                     only the value may be a pattern",
                    shown(text)
                ),
                notes,
            );
            return None;
        }
        let value = match value {
            None => None,
            Some(value) => match Pattern::new(value) {
                Ok(pattern) => Some(pattern),
                Err(error) => {
                    field.refuse(error, notes);
                    return None;
                }
            },
        };
        Some(NamedPattern { name: name.to_owned(), value })
    })
}

/// A value or a list of values, each read by `read`.
fn each<'t, 's, T>(
    table: &Table<'t>,
    key: &str,
    notes: &mut Notes<'s>,
    mut read: impl FnMut(&Field<'t>, &mut Notes<'s>) -> Option<T>,
) -> Vec<T> {
    let Some(field) = table.get(key) else {
        return Vec::new();
    };
    let Some(list) = field.as_array() else {
        return read(&field, notes).into_iter().collect();
    };
    if list.is_empty() {
        field.refuse("an empty list matches nothing; leave the key out", notes);
    }
    field.elements(list).filter_map(|element| read(&element, notes)).collect()
}

/// Why a pattern can never match, and what to write instead.
type Check = fn(&Pattern) -> Option<String>;

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

fn unit(pattern: &Pattern) -> Option<String> {
    pattern
        .has_slash()
        .then(|| "a unit is a name without a slash; write for example `whisper.service`".to_owned())
}

fn file_name(pattern: &Pattern) -> Option<String> {
    pattern
        .has_slash()
        .then(|| "libraries are known by their file names; leave the folder out".to_owned())
}

fn path(pattern: &Pattern) -> Option<String> {
    let first = pattern.first_char()?;
    (first != '/').then(|| format!("a path starts with `/`; write `*/{}`", shown(pattern.as_str())))
}
