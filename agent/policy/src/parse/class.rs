//! `[class.NAME]`, as one file gives it: what it inherits comes later.

use std::collections::BTreeMap;

use super::notes::Notes;
use super::table::{Field, Table};
use super::value;
use crate::language::{
    self, BUDGET, BURST, DEADLINE, GOAL, IO_LATENCY, PERIOD, SLICE, TIMER_SLACK, WAKEUP_LATENCY,
    WEIGHT,
};
use crate::{
    CpuChoice, CpuLevers, Deadline, Energy, Goal, GpuShare, IoClass, IoLevers, IoMax, IoPriority,
    Irqs, MemoryLevers, Modality, Origin, Sched, SchedParameters, SchedPolicy, Share, Span, Tier,
    Uclamp,
};

/// Keys that people put straight into the class.
const MISPLACED: [(&str, &str); 10] = [
    ("policy", "belongs inside `sched`: sched = { policy = … }"),
    ("priority", "belongs inside `sched`: sched = { policy = \"fifo\", priority = … }"),
    ("nice", "belongs inside `sched`: sched = { policy = \"other\", nice = … }"),
    ("slice", "belongs inside `sched`: sched = { policy = \"other\", slice = … }"),
    ("budget", "belongs inside `sched`: sched = { policy = \"deadline\", budget = … }"),
    ("ioprio", "is called `io`: io = { class = \"best-effort\", level = … }"),
    ("oom", "belongs inside `memory`: memory = { oom = … }"),
    ("weight", "belongs inside `cpu` or `io`: cpu = { weight = … }"),
    ("uclamp", "belongs inside `cpu`: cpu = { uclamp = { min = … } }"),
    ("affinity", "is called `cpus`: cpus = \"0-3,6\""),
];

/// Characters of a class's name: it becomes a label in metrics and a column on the screen.
const LONGEST_NAME: usize = 32;

/// The level of a process that asks for none (`IOPRIO_NORM`).
const DEFAULT_IO_LEVEL: u8 = 4;

/// Bytes of a device's path.
const LONGEST_DEVICE: usize = 255;

/// A class, which is known by its name even where the rest of it is wrong.
pub(super) struct ClassDraft {
    pub(super) name: String,
    /// Byte offset of the name.
    pub(super) at: usize,
    pub(super) origin: Origin,
    /// Byte offsets of its keys.
    places: BTreeMap<&'static str, usize>,
    /// Byte offset of the name of the class that it inherits from, and the name.
    pub(super) inherits: Option<(usize, String)>,
    /// What it gives itself; what was refused is left out.
    pub(super) keys: Keys,
    /// Whether nothing was refused.
    pub(super) sound: bool,
}

/// The keys of a class that are given.
#[derive(Clone, Default)]
pub(super) struct Keys {
    pub(super) modality: Option<Modality>,
    pub(super) tier: Option<Tier>,
    pub(super) deadline: Option<Deadline>,
    pub(super) cpus: Option<CpuChoice>,
    pub(super) partition: Option<bool>,
    pub(super) sched: Option<Sched>,
    pub(super) cpu: CpuLevers,
    pub(super) memory: MemoryLevers,
    pub(super) io: IoLevers,
    pub(super) gpu: Option<GpuShare>,
    pub(super) goal: Goal,
    pub(super) timer_slack: Option<std::time::Duration>,
    pub(super) freeze: Option<bool>,
    pub(super) irqs: Option<Irqs>,
    pub(super) wakeup_latency: Option<std::time::Duration>,
    pub(super) energy: Option<Energy>,
    pub(super) adopt: Option<bool>,
}

impl ClassDraft {
    /// Reads one class. What is wrong is reported.
    pub(super) fn read(field: &Field<'_>, notes: &mut Notes<'_>) -> Self {
        let before = notes.count();
        check_name(field, notes);
        let mut draft = Self {
            name: field.name().to_owned(),
            at: field.at(),
            origin: notes.origin(field.at()),
            places: BTreeMap::new(),
            inherits: None,
            keys: Keys::default(),
            sound: false,
        };
        if let Some(table) = field.table("a table", notes) {
            draft.read_table(&table, notes);
        }
        draft.sound = notes.count() == before;
        draft
    }

    fn read_table(&mut self, table: &Table<'_>, notes: &mut Notes<'_>) {
        table.refuse_unknown_or_misplaced(language::CLASS, &MISPLACED, notes);
        for key in language::CLASS {
            if let Some(field) = table.get(key.name) {
                self.places.insert(key.name, field.at());
            }
        }
        self.inherits = table.get("inherits").and_then(|field| {
            let name = field.string("the name of a class", notes)?;
            Some((field.value_at(), name.to_owned()))
        });
        let keys = &mut self.keys;
        let mut reader = Reader { table, notes };
        keys.modality =
            reader.get("modality", |f, n| f.choice(&Modality::ALL.map(|m| (m.name(), m)), n));
        keys.tier = reader.get("tier", |f, n| f.choice(&Tier::ALL.map(|t| (t.name(), t)), n));
        keys.deadline =
            reader.get("deadline", |f, n| value::span(f, DEADLINE, n)).map(|span| match span {
                Span::Auto => Deadline::Auto,
                Span::Given(after) => Deadline::After(after),
            });
        keys.cpus = reader.get("cpus", cpus);
        keys.partition = reader.get("partition", Field::flag);
        keys.sched = reader.get("sched", sched);
        keys.cpu = reader.get("cpu", cpu).unwrap_or_default();
        keys.memory = reader.get("memory", memory).unwrap_or_default();
        keys.io = reader.get("io", io).unwrap_or_default();
        keys.gpu = reader.get("gpu", gpu).flatten();
        keys.goal = reader.get("target", goal).unwrap_or_default();
        keys.timer_slack = reader.get("timer_slack", |f, n| value::duration(f, TIMER_SLACK, n));
        keys.freeze = reader.get("freeze", Field::flag);
        keys.irqs = reader.get("irqs", |f, n| f.choice(&Irqs::ALL.map(|i| (i.name(), i)), n));
        keys.wakeup_latency =
            reader.get("wakeup_latency", |f, n| value::duration(f, WAKEUP_LATENCY, n));
        keys.energy = reader.get("energy", |f, n| f.choice(&Energy::ALL.map(|e| (e.name(), e)), n));
        keys.adopt = reader.get("adopt", Field::flag);
    }

    /// Byte offset of one of its keys, or of its name where the key is inherited.
    pub(super) fn place(&self, key: &str) -> usize {
        self.places.get(key).copied().unwrap_or(self.at)
    }
}

/// Reads the keys of one table.
struct Reader<'r, 't, 's> {
    table: &'r Table<'t>,
    notes: &'r mut Notes<'s>,
}

impl<'t, 's> Reader<'_, 't, 's> {
    fn get<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&Field<'t>, &mut Notes<'s>) -> Option<T>,
    ) -> Option<T> {
        self.table.get(key).and_then(|field| read(&field, self.notes))
    }
}

fn check_name(field: &Field<'_>, notes: &mut Notes<'_>) {
    let name = field.name();
    let good = (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !good {
        field.refuse_name(
            format!("a class's name is 1 to {LONGEST_NAME} letters (a-z), digits, `-` and `_`"),
            notes,
        );
    }
}

fn cpus(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<CpuChoice> {
    let text = field.string("\"all\", a list such as \"0-3,6\" or a name", notes)?;
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
    table.refuse_unknown(language::SCHED, notes);
    let policy = table
        .require("policy", "policy = \"fifo\"", notes)
        .and_then(|field| field.choice(&SchedPolicy::ALL.map(|p| (p.name(), p)), notes));
    let mut reader = Reader { table, notes };
    let priority = reader.get("priority", |f, n| f.integer_in(1..=99_u8, n));
    let nice = reader.get("nice", |f, n| f.integer_in(-20..=19_i8, n));
    let slice = reader.get("slice", |f, n| value::duration(f, SLICE, n));
    let budget = reader.get("budget", |f, n| value::span(f, BUDGET, n));
    let period = reader.get("period", |f, n| value::span(f, PERIOD, n));
    let policy = policy?;
    let reserves = policy == SchedPolicy::Deadline;
    for (key, fits) in [
        ("priority", policy.is_realtime()),
        ("nice", policy.is_fair()),
        ("slice", policy.is_fair()),
        ("budget", reserves),
        ("period", reserves),
    ] {
        if !fits && let Some(field) = table.get(key) {
            field.refuse_name(
                format!("the policy `{}` has none; it {}", policy.name(), takes(policy)),
                notes,
            );
        }
    }
    if let (Some(Span::Given(budget)), Some(Span::Given(period))) = (budget, period)
        && budget > period
        && let Some(field) = table.get("budget")
    {
        field.refuse("more than its period; a CPU has no more time than that", notes);
    }
    Some(Sched::Set(SchedParameters { policy, priority, nice, slice, budget, period }))
}

fn takes(policy: SchedPolicy) -> &'static str {
    match policy {
        SchedPolicy::Other | SchedPolicy::Batch => "takes nice and slice",
        SchedPolicy::Fifo | SchedPolicy::RoundRobin => "takes priority",
        SchedPolicy::Deadline => "takes budget and period",
        SchedPolicy::Idle => "takes nothing more",
    }
}

fn cpu(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<CpuLevers> {
    let table = field.table("a table such as { weight = 800 }", notes)?;
    if table.refuse_empty("write for example `weight = 800`, or leave the key out", notes) {
        return None;
    }
    table.refuse_unknown(language::CPU, notes);
    let mut reader = Reader { table: &table, notes };
    Some(CpuLevers {
        weight: reader.get("weight", weight),
        max: reader.get("max", value::cpu_max),
        idle: reader.get("idle", Field::flag),
        burst: reader.get("burst", |f, n| value::duration(f, BURST, n)),
        uclamp: reader.get("uclamp", uclamp).unwrap_or_default(),
    })
}

fn weight(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<u16> {
    let (low, high) = WEIGHT;
    field.integer_in(low..=high, notes).and_then(|weight| u16::try_from(weight).ok())
}

fn uclamp(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<Uclamp> {
    let table = field.table("a table such as { min = \"50%\" }", notes)?;
    if table.refuse_empty("write for example `min = \"50%\"`, or leave the key out", notes) {
        return None;
    }
    table.refuse_unknown(language::UCLAMP, notes);
    let mut reader = Reader { table: &table, notes };
    Some(Uclamp { min: reader.get("min", value::part), max: reader.get("max", value::part) })
}

fn memory(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<MemoryLevers> {
    let table = field.table("a table such as { low = \"256MiB\", oom = -500 }", notes)?;
    if table.refuse_empty("write for example `oom = -500`, or leave the key out", notes) {
        return None;
    }
    table.refuse_unknown(language::MEMORY, notes);
    let mut reader = Reader { table: &table, notes };
    Some(MemoryLevers {
        min: reader.get("min", value::amount),
        low: reader.get("low", value::amount),
        high: reader.get("high", value::amount),
        max: reader.get("max", value::amount),
        oom: reader.get("oom", |f, n| f.integer_in(-1000..=1000_i16, n)),
    })
}

fn io(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<IoLevers> {
    let table = field.table("a table such as { class = \"best-effort\", level = 2 }", notes)?;
    if table.refuse_empty("write for example `class = \"idle\"`, or leave the key out", notes) {
        return None;
    }
    table.refuse_unknown(language::IO, notes);
    let priority = io_priority(&table, notes);
    let mut reader = Reader { table: &table, notes };
    Some(IoLevers {
        priority,
        weight: reader.get("weight", weight),
        max: reader.get("max", io_max).unwrap_or_default(),
        latency: reader.get("latency", |f, n| value::duration(f, IO_LATENCY, n)),
    })
}

fn io_priority(table: &Table<'_>, notes: &mut Notes<'_>) -> Option<IoPriority> {
    let level = table.get("level");
    if level.is_some() {
        table.require("class", "class = \"best-effort\"", notes);
    }
    let class =
        table.get("class").and_then(|f| f.choice(&IoClass::ALL.map(|c| (c.name(), c)), notes));
    let number = level.as_ref().and_then(|field| field.integer_in(0..=7_u8, notes));
    match (class?, level) {
        (IoClass::Idle, Some(field)) => {
            field.refuse_name("the class `idle` has no levels; leave it out", notes);
            None
        }
        (IoClass::Idle, None) => Some(IoPriority { class: IoClass::Idle, level: 0 }),
        (class, None) => Some(IoPriority { class, level: DEFAULT_IO_LEVEL }),
        (class, Some(_)) => Some(IoPriority { class, level: number? }),
    }
}

/// A table or a list of tables.
fn io_max(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<Vec<IoMax>> {
    const WANTED: &str = "a table such as { read = \"50MB/s\" }, or a list of them";
    let Some(list) = field.as_array() else {
        return io_limit(field, WANTED, notes).map(|limit| vec![limit]);
    };
    if list.is_empty() {
        field.refuse("an empty list limits nothing; leave the key out", notes);
    }
    let mut limits: Vec<IoMax> = Vec::new();
    for element in field.elements(list) {
        let Some(limit) = io_limit(&element, WANTED, notes) else { continue };
        if limits.iter().any(|other| other.device == limit.device) {
            element.refuse("a second entry for the same device; put both into one", notes);
            continue;
        }
        limits.push(limit);
    }
    Some(limits)
}

fn io_limit(field: &Field<'_>, wanted: &str, notes: &mut Notes<'_>) -> Option<IoMax> {
    let table = field.table(wanted, notes)?;
    table.refuse_unknown(language::IO_MAX, notes);
    let limits = ["read", "write", "read_ops", "write_ops"];
    if limits.iter().all(|key| table.get(key).is_none()) {
        field.refuse("limits nothing; write for example `read = \"50MB/s\"`", notes);
        return None;
    }
    let mut reader = Reader { table: &table, notes };
    Some(IoMax {
        device: reader.get("device", device),
        read: reader.get("read", value::rate),
        write: reader.get("write", value::rate),
        read_ops: reader.get("read_ops", value::requests),
        write_ops: reader.get("write_ops", value::requests),
    })
}

fn device(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<String> {
    let path = field.string("a device node such as \"/dev/nvme0n1\"", notes)?;
    let parts = path.strip_prefix("/dev/").filter(|_| path.len() <= LONGEST_DEVICE);
    let good = parts.is_some_and(|parts| {
        parts.split('/').all(|part| !matches!(part, "" | "." | ".."))
            && !parts.chars().any(char::is_control)
    });
    if !good {
        field.refuse("a device node is a plain path below /dev, such as \"/dev/nvme0n1\"", notes);
    }
    good.then(|| path.to_owned())
}

fn gpu(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<Option<GpuShare>> {
    const WANTED: &str = "\"keep\", \"yield\" or a percentage such as \"30%\"";
    let table = field.table("a table such as { share = \"yield\" }", notes)?;
    table.refuse_unknown(language::GPU, notes);
    let field = table.require("share", "share = \"yield\"", notes)?;
    match field.string(WANTED, notes)? {
        "keep" => Some(Some(GpuShare::Keep)),
        "yield" => Some(Some(GpuShare::Yield)),
        _ => value::part_of(&field, WANTED, notes).map(|share| Some(GpuShare::Part(share))),
    }
}

fn goal(field: &Field<'_>, notes: &mut Notes<'_>) -> Option<Goal> {
    let table = field.table("a table such as { misses = \"0.1%\" }", notes)?;
    if table.refuse_empty("write for example `misses = \"0.1%\"`, or leave the key out", notes) {
        return None;
    }
    table.refuse_unknown(language::TARGET, notes);
    let mut reader = Reader { table: &table, notes };
    let misses: Option<Share> = reader.get("misses", value::part);
    Some(Goal {
        misses,
        wait_p99: reader.get("wait_p99", |f, n| value::duration(f, GOAL, n)),
        response_p99: reader.get("response_p99", |f, n| value::duration(f, GOAL, n)),
    })
}
