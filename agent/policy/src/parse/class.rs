//! `[class.NAME]`.

use std::time::Duration;

use super::notes::Notes;
use super::table::{Field, Table, shown};
use crate::{
    Class, CpuChoice, Deadline, IoClass, IoLevers, IoPriority, MemoryLevers, Modality, Sched,
    SchedParameters, SchedPolicy, Tier, duration,
};

const KEYS: [&str; 7] = ["modality", "tier", "deadline", "cpus", "sched", "io", "memory"];
const SCHED_KEYS: [&str; 4] = ["policy", "priority", "nice", "slice"];
const IO_KEYS: [&str; 2] = ["class", "level"];
const MEMORY_KEYS: [&str; 1] = ["oom"];

/// Keys that people put straight into the class.
const MISPLACED: [(&str, &str); 6] = [
    ("policy", "belongs inside `sched`: sched = { policy = … }"),
    ("priority", "belongs inside `sched`: sched = { policy = \"fifo\", priority = … }"),
    ("nice", "belongs inside `sched`: sched = { policy = \"other\", nice = … }"),
    ("slice", "belongs inside `sched`: sched = { policy = \"other\", slice = … }"),
    ("ioprio", "is called `io`: io = { class = \"best-effort\", level = … }"),
    ("oom", "belongs inside `memory`: memory = { oom = … }"),
];

/// Characters of a class's name: it becomes a label in metrics and a column on the screen.
const LONGEST_NAME: usize = 32;

/// The kernel's bounds of an EEVDF slice; it would silently clamp to them.
const SLICE: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(100));

/// Below the first no thread could answer, beyond the second nobody calls it a frame.
const DEADLINE: (Duration, Duration) = (Duration::from_micros(100), Duration::from_secs(60));

/// The level of a process that asks for none (`IOPRIO_NORM`).
const DEFAULT_IO_LEVEL: u8 = 4;

/// Reads one class. Nothing where a part of it is wrong, which is then reported.
pub(super) fn read(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<Class> {
    let name = name(field, notes);
    let table = field.table("a table", notes)?;
    table.refuse_unknown_or_misplaced(&KEYS, &MISPLACED, notes);
    let modality = optional(&table, "modality", notes, |field, notes| {
        field.choice(&Modality::ALL.map(|m| (m.name(), m)), notes)
    });
    let tier = table
        .require("tier", "tier = \"interactive\"", notes)
        .and_then(|field| field.choice(&Tier::ALL.map(|t| (t.name(), t)), notes));
    let deadline = optional(&table, "deadline", notes, deadline);
    let cpus = optional(&table, "cpus", notes, cpus);
    let sched = optional(&table, "sched", notes, sched);
    let io = optional(&table, "io", notes, io);
    let oom = optional(&table, "memory", notes, oom);
    Some(Class {
        modality: modality?.unwrap_or_default(),
        deadline: deadline?,
        cpus: cpus?,
        sched: sched?.unwrap_or(Sched::Auto),
        io: IoLevers { priority: io?, ..IoLevers::default() },
        memory: MemoryLevers { oom: oom?, ..MemoryLevers::default() },
        ..Class::keeping(name?, tier?, notes.origin(field.at()))
    })
}

/// `Some(None)` where the key is absent, nothing where its value was refused.
fn optional<'t, 's, T>(
    table: &Table<'t>,
    key: &str,
    notes: &mut Notes<'s>,
    read: impl FnOnce(&Field<'t>, &mut Notes<'s>) -> Option<T>,
) -> Option<Option<T>> {
    match table.get(key) {
        Some(field) => read(&field, notes).map(Some),
        None => Some(None),
    }
}

fn name<'t>(field: &Field<'t>, notes: &mut Notes<'_>) -> Option<&'t str> {
    let name = field.name();
    let good = (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !good {
        field.refuse_name(
            format!("a class's name is 1 to {LONGEST_NAME} letters (a-z), digits, `-` and `_`"),
            notes,
        );
    }
    good.then_some(name)
}

fn deadline(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<Deadline> {
    const WANTED: &str = "a duration such as \"10ms\", or \"auto\"";
    match field.string(WANTED, notes)? {
        "auto" => Some(Deadline::Auto),
        text => duration_in(field, text, WANTED, DEADLINE, notes).map(Deadline::After),
    }
}

fn duration_in(
    field: &Field<'_>,
    text: &str,
    wanted: &str,
    (low, high): (Duration, Duration),
    notes: &mut Notes<'_>,
) -> Option<Duration> {
    let Some(duration) = duration::parse(text) else {
        field.refuse(
            format!("`{}` is not {wanted}; the units are us, ms and s", shown(text)),
            notes,
        );
        return None;
    };
    let good = (low..=high).contains(&duration);
    if !good {
        let (low, high) = (duration::words(low), duration::words(high));
        field.refuse(format!("`{}` is not from {low} to {high}", shown(text)), notes);
    }
    good.then_some(duration)
}

fn cpus(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<CpuChoice> {
    let text = field.string("\"all\" or a list such as \"0-3,6\"", notes)?;
    text.parse().map_err(|error| field.refuse(error, notes)).ok()
}

fn sched(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<Sched> {
    if field.is_table() {
        return sched_table(&field.table("a table", notes)?, notes);
    }
    if field.as_str().is_none() {
        let wanted =
            "\"auto\", \"keep\", a policy or a table such as { policy = \"fifo\", priority = 20 }";
        field.wrong_type(wanted, notes);
        return None;
    }
    let mut words = vec![("auto", Sched::Auto), ("keep", Sched::Keep)];
    words.extend(SchedPolicy::ALL.map(|policy| {
        (policy.name(), Sched::Set(SchedParameters { policy, ..SchedParameters::default() }))
    }));
    field.choice(&words, notes)
}

fn sched_table(table: &Table<'_>, notes: &mut Notes<'_>) -> Option<Sched> {
    table.refuse_unknown(&SCHED_KEYS, notes);
    let policy = table
        .require("policy", "policy = \"fifo\"", notes)
        .and_then(|field| field.choice(&SchedPolicy::ALL.map(|p| (p.name(), p)), notes));
    let priority = optional(table, "priority", notes, |f, notes| f.integer_in(1..=99_u8, notes));
    let nice = optional(table, "nice", notes, |f, notes| f.integer_in(-20..=19_i8, notes));
    let slice = optional(table, "slice", notes, |field, notes| {
        const WANTED: &str = "a duration such as \"3ms\"";
        let text = field.string(WANTED, notes)?;
        duration_in(field, text, WANTED, SLICE, notes)
    });
    let policy = policy?;
    let fits = [
        ("priority", policy.is_realtime()),
        ("nice", has_nice(policy)),
        ("slice", has_nice(policy)),
    ]
    .map(|(key, fits)| fits || !refuse_parameter(table, key, policy, notes));
    if fits.contains(&false) {
        return None;
    }
    Some(Sched::Set(SchedParameters {
        policy,
        priority: priority?,
        nice: nice?,
        slice: slice?,
        ..SchedParameters::default()
    }))
}

fn has_nice(policy: SchedPolicy) -> bool {
    matches!(policy, SchedPolicy::Other | SchedPolicy::Batch)
}

/// Reports a parameter that `policy` does not have, if it is given; says whether it is.
fn refuse_parameter(
    table: &Table<'_>,
    key: &str,
    policy: SchedPolicy,
    notes: &mut Notes<'_>,
) -> bool {
    let Some(field) = table.get(key) else {
        return false;
    };
    let takes = match policy {
        SchedPolicy::Other | SchedPolicy::Batch => "takes nice and slice",
        SchedPolicy::Fifo | SchedPolicy::RoundRobin => "takes priority",
        SchedPolicy::Idle | SchedPolicy::Deadline => "takes nothing more",
    };
    field.refuse_name(format!("the policy `{}` has none; it {takes}", policy.name()), notes);
    true
}

fn io(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<IoPriority> {
    let table = field.table("a table such as { class = \"best-effort\", level = 2 }", notes)?;
    table.refuse_unknown(&IO_KEYS, notes);
    let class = table
        .require("class", "class = \"best-effort\"", notes)
        .and_then(|field| field.choice(&IoClass::ALL.map(|c| (c.name(), c)), notes));
    let level = optional(&table, "level", notes, |f, notes| f.integer_in(0..=7_u8, notes));
    let class = class?;
    match (class, table.get("level")) {
        (IoClass::Idle, Some(field)) => {
            field.refuse_name("the class `idle` has no levels; leave it out", notes);
            None
        }
        (IoClass::Idle, None) => Some(IoPriority { class, level: 0 }),
        _ => Some(IoPriority { class, level: level?.unwrap_or(DEFAULT_IO_LEVEL) }),
    }
}

fn oom(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<i16> {
    let table = field.table("a table such as { oom = -500 }", notes)?;
    if table.refuse_empty("write for example `oom = -500`, or leave the key out", notes) {
        return None;
    }
    table.refuse_unknown(&MEMORY_KEYS, notes);
    table.get("oom")?.integer_in(-1000..=1000_i16, notes)
}
