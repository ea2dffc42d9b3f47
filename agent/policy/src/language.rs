//! Every key of the language with its meaning and the shape of its value. The parser takes the
//! known keys and the bounds from here, and so do the JSON Schema (`policies/schema.json`) and the
//! tables of `docs/policy.md`.

use std::time::Duration;

use crate::{Energy, IoClass, Irqs, Modality, SchedPolicy, Share, Tier, Use};

/// One key of a table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As written.
    pub name: &'static str,
    /// What it means, in a sentence.
    pub about: &'static str,
    /// What may stand behind it.
    pub shape: Shape,
    /// Whether its table is nothing without it.
    pub required: bool,
}

/// What a value may look like.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// The number of the language's version.
    Version,
    /// Any text on one line.
    Text,
    /// The name of a class.
    ClassName,
    /// One of these words.
    Words(fn() -> Vec<&'static str>),
    /// `true` or `false`.
    Flag,
    /// A whole number, both bounds included.
    Integer(i64, i64),
    /// A duration such as `"10ms"`, both bounds included.
    Duration(Bounds<Duration>),
    /// A percentage such as `"0.1%"`, both bounds included.
    Percent(Bounds<Share>),
    /// A size in bytes such as `"256MiB"`, a percentage of the memory, or `"max"`.
    Size,
    /// Bytes per second such as `"50MB/s"`.
    Rate,
    /// Requests per second: a whole number, or `"500/s"`.
    Requests,
    /// CPU time: `"150%"`, `"20ms per 100ms"` or `"max"`.
    CpuTime,
    /// CPUs: numbers, ranges and names with commas between them.
    Cpus,
    /// A device node such as `"/dev/nvme0n1"`.
    Device,
    /// A pattern or a list of patterns of which one must fit.
    Patterns,
    /// `"NAME"` or `"NAME=PATTERN"`, or a list of them of which one must fit.
    NamedPatterns,
    /// A table with these keys.
    Table(&'static [Key]),
    /// A table whose keys are names, and whose values are tables with these keys.
    Named(&'static [Key]),
    /// A list of tables with these keys.
    Tables(&'static [Key]),
    /// Any of these.
    Either(&'static [Shape]),
    /// Another shape, or a list of it.
    OrList(&'static Shape),
}

/// The smallest and the largest value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds<T> {
    /// Smallest.
    pub low: T,
    /// Largest.
    pub high: T,
}

const fn key(name: &'static str, about: &'static str, shape: Shape) -> Key {
    Key { name, about, shape, required: false }
}

const fn required(name: &'static str, about: &'static str, shape: Shape) -> Key {
    Key { name, about, shape, required: true }
}

const fn bounds<T: Copy>(low: T, high: T) -> Bounds<T> {
    Bounds { low, high }
}

const fn percent(percent: u32) -> Share {
    Share { millionths: percent * 10_000 }
}

/// Below the first no thread could answer, beyond the second nobody calls it a frame.
pub(crate) const DEADLINE: Bounds<Duration> =
    bounds(Duration::from_micros(100), Duration::from_secs(60));
/// The kernel's bounds of an EEVDF slice; it would silently clamp to them.
pub(crate) const SLICE: Bounds<Duration> =
    bounds(Duration::from_micros(100), Duration::from_millis(100));
/// Below some microseconds the switches alone use a reservation up.
pub(crate) const BUDGET: Bounds<Duration> =
    bounds(Duration::from_micros(10), Duration::from_secs(1));
/// The kernel's defaults (`sched_deadline_period_min_us`, `…_max_us`).
pub(crate) const PERIOD: Bounds<Duration> =
    bounds(Duration::from_micros(100), Duration::from_secs(4));
/// The kernel's bounds of `cpu.max`, for the quota as for the period.
pub(crate) const QUOTA_PERIOD: Bounds<Duration> =
    bounds(Duration::from_millis(1), Duration::from_secs(1));
/// Saved up within some periods.
pub(crate) const BURST: Bounds<Duration> =
    bounds(Duration::from_micros(1), Duration::from_secs(10));
/// The kernel's bounds of a weight.
pub(crate) const WEIGHT: (i64, i64) = (1, 10_000);
pub(crate) const PART: Bounds<Share> = bounds(percent(0), percent(100));
pub(crate) const TIMER_SLACK: Bounds<Duration> =
    bounds(Duration::from_nanos(1), Duration::from_secs(1));
/// No idle state takes longer to leave.
pub(crate) const WAKEUP_LATENCY: Bounds<Duration> =
    bounds(Duration::ZERO, Duration::from_millis(10));
pub(crate) const IO_LATENCY: Bounds<Duration> =
    bounds(Duration::from_micros(1), Duration::from_secs(10));
/// What a target can ask for.
pub(crate) const GOAL: Bounds<Duration> =
    bounds(Duration::from_micros(10), Duration::from_secs(60));

const WEIGHT_SHAPE: Shape = Shape::Integer(WEIGHT.0, WEIGHT.1);

fn modalities() -> Vec<&'static str> {
    Modality::ALL.map(Modality::name).to_vec()
}

fn tiers() -> Vec<&'static str> {
    Tier::ALL.map(Tier::name).to_vec()
}

fn policies() -> Vec<&'static str> {
    SchedPolicy::ALL.map(SchedPolicy::name).to_vec()
}

fn scheds() -> Vec<&'static str> {
    ["auto", "keep"].into_iter().chain(policies()).collect()
}

fn io_classes() -> Vec<&'static str> {
    IoClass::ALL.map(IoClass::name).to_vec()
}

fn irqs() -> Vec<&'static str> {
    Irqs::ALL.map(Irqs::name).to_vec()
}

fn energies() -> Vec<&'static str> {
    Energy::ALL.map(Energy::name).to_vec()
}

fn uses() -> Vec<&'static str> {
    Use::ALL.map(Use::name).to_vec()
}

fn auto() -> Vec<&'static str> {
    vec!["auto"]
}

fn gpu_words() -> Vec<&'static str> {
    vec!["keep", "yield"]
}

/// Keys at the top of a file.
pub const FILE: &[Key] = &[
    required("schema", "Version of the language; in every file.", Shape::Version),
    key("class", "What threads should have, by the class's name.", Shape::Named(CLASS)),
    key("rule", "Which threads a class is for.", Shape::Tables(RULE)),
    key("auto", "Classes for programs that no rule names.", Shape::Table(AUTO)),
];

/// Keys of `[class.NAME]`.
pub const CLASS: &[Key] = &[
    key(
        "inherits",
        "A class whose keys this one takes where it gives none of its own.",
        Shape::ClassName,
    ),
    key("modality", "What its frames are (default other).", Shape::Words(modalities)),
    key(
        "tier",
        "How urgent its work is; the one key that a class must have or inherit.",
        Shape::Words(tiers),
    ),
    key(
        "deadline",
        "From a frame's release to the moment it is worthless; auto learns it.",
        Shape::Either(&[Shape::Words(auto), Shape::Duration(DEADLINE)]),
    ),
    key("cpus", "CPUs that its threads may use.", Shape::Cpus),
    key("partition", "Nobody else runs on its CPUs (a cpuset partition); needs cpus.", Shape::Flag),
    key(
        "sched",
        "Scheduling; auto (the default) follows from tier and deadline, keep changes nothing.",
        Shape::Either(&[Shape::Words(scheds), Shape::Table(SCHED)]),
    ),
    key("cpu", "CPU time of its control group.", Shape::Table(CPU)),
    key("memory", "Memory of its control group.", Shape::Table(MEMORY)),
    key("io", "Disks.", Shape::Table(IO)),
    key("gpu", "Its part of a GPU; read and not acted on in this version.", Shape::Table(GPU)),
    key(
        "target",
        "What it should come to; shown as measured, and not yet held by anything.",
        Shape::Table(TARGET),
    ),
    key(
        "timer_slack",
        "How much later than asked the kernel may let a sleep end.",
        Shape::Duration(TIMER_SLACK),
    ),
    key("freeze", "Its control group is held still; background only.", Shape::Flag),
    key(
        "irqs",
        "keep-off sends device interrupts to other CPUs than its own; needs cpus.",
        Shape::Words(irqs),
    ),
    key(
        "wakeup_latency",
        "The longest time that an idle CPU may take to wake while the class has threads.",
        Shape::Duration(WAKEUP_LATENCY),
    ),
    key("energy", "Energy preference of its CPUs.", Shape::Words(energies)),
    key(
        "adopt",
        "Its processes are moved into a control group of the agent's own where theirs may not be \
         changed.",
        Shape::Flag,
    ),
];

/// Keys of `sched = { … }`.
pub const SCHED: &[Key] = &[
    required("policy", "Scheduling policy; see sched(7).", Shape::Words(policies)),
    key("priority", "Real-time priority, for fifo and rr (default 10).", Shape::Integer(1, 99)),
    key("nice", "Nice value, for other and batch.", Shape::Integer(-20, 19)),
    key("slice", "Time slice, for other and batch (Linux 6.12).", Shape::Duration(SLICE)),
    key(
        "budget",
        "CPU time per period, for deadline; auto (the default) is measured.",
        Shape::Either(&[Shape::Words(auto), Shape::Duration(BUDGET)]),
    ),
    key(
        "period",
        "How often a frame comes, for deadline; auto (the default) is measured.",
        Shape::Either(&[Shape::Words(auto), Shape::Duration(PERIOD)]),
    ),
];

/// Keys of `cpu = { … }`.
pub const CPU: &[Key] = &[
    key("weight", "Its share against other groups (cpu.weight, kernel default 100).", WEIGHT_SHAPE),
    key("max", "The most it gets, 100% being one CPU (cpu.max).", Shape::CpuTime),
    key("idle", "It runs only when nobody else wants to (cpu.idle).", Shape::Flag),
    key("burst", "Unused quota that it may save up (cpu.max.burst).", Shape::Duration(BURST)),
    key("uclamp", "Bounds of the load that the choice of the clock sees.", Shape::Table(UCLAMP)),
];

/// Keys of `uclamp = { … }`.
pub const UCLAMP: &[Key] = &[
    key("min", "At least as if it used this much.", Shape::Percent(PART)),
    key("max", "At most as if it used this much.", Shape::Percent(PART)),
];

/// Keys of `memory = { … }`.
pub const MEMORY: &[Key] = &[
    key("min", "Never reclaimed below (memory.min).", Shape::Size),
    key("low", "Reclaimed below only when nothing else is left (memory.low).", Shape::Size),
    key("high", "Slowed down above (memory.high).", Shape::Size),
    key("max", "Killed above (memory.max).", Shape::Size),
    key("oom", "The OOM killer's preference (oom_score_adj).", Shape::Integer(-1000, 1000)),
];

/// Keys of `io = { … }`.
pub const IO: &[Key] = &[
    key("class", "I/O priority class of its threads.", Shape::Words(io_classes)),
    key("level", "From first to last within the class (default 4).", Shape::Integer(0, 7)),
    key("weight", "Its share against other groups (io.weight).", WEIGHT_SHAPE),
    key(
        "max",
        "The most it gets, of every disk or of those named (io.max).",
        Shape::OrList(&Shape::Table(IO_MAX)),
    ),
    key(
        "latency",
        "Others are slowed down while its requests take longer (io.latency).",
        Shape::Duration(IO_LATENCY),
    ),
];

/// Keys of `io.max = { … }`.
pub const IO_MAX: &[Key] = &[
    key("device", "A disk; without it every disk.", Shape::Device),
    key("read", "Bytes read per second.", Shape::Rate),
    key("write", "Bytes written per second.", Shape::Rate),
    key("read_ops", "Requests to read per second.", Shape::Requests),
    key("write_ops", "Requests to write per second.", Shape::Requests),
];

/// Keys of `gpu = { … }`.
pub const GPU: &[Key] = &[required(
    "share",
    "keep, yield (to classes that keep theirs), or a percentage.",
    Shape::Either(&[Shape::Words(gpu_words), Shape::Percent(PART)]),
)];

/// Keys of `target = { … }`.
pub const TARGET: &[Key] = &[
    key(
        "misses",
        "At most this share of its jobs is late; needs a deadline.",
        Shape::Percent(PART),
    ),
    key("wait_p99", "99 % of its waits for a CPU are at most this long.", Shape::Duration(GOAL)),
    key("response_p99", "99 % of its jobs are done after this long.", Shape::Duration(GOAL)),
];

/// Keys of `[[rule]]`.
pub const RULE: &[Key] = &[
    key("name", "Shown wherever the rule is (default: its place in the file).", Shape::Text),
    required("class", "The class that it gives.", Shape::ClassName),
    key(
        "priority",
        "Higher is tried first (default 0), then the order of files and rules.",
        Shape::Integer(i32::MIN as i64, i32::MAX as i64),
    ),
    required("match", "All keys of the table must hold.", Shape::Table(MATCH)),
    key("unless", "The rule does not hold where this does.", Shape::Table(MATCH)),
];

/// Keys of the tables of `any`: what can be looked at.
pub const MATCHERS: &[Key] = &[
    key(
        "exe",
        "Path of the executable; a pattern without a slash matches its last part.",
        Shape::Patterns,
    ),
    key("comm", "The main thread's name, at most 15 bytes.", Shape::Patterns),
    key("cmdline", "The arguments, joined by single spaces.", Shape::Patterns),
    key("user", "Name or number of its user.", Shape::Patterns),
    key("group", "Name or number of its group.", Shape::Patterns),
    key("cgroup", "Path of its control group.", Shape::Patterns),
    key(
        "unit",
        "The innermost systemd unit that it is in; a pattern without a dot matches a service's \
         name without `.service`.",
        Shape::Patterns,
    ),
    key("container", "Name or whole id of its container.", Shape::Patterns),
    key(
        "image",
        "Its container's image; a pattern without a slash matches the last part. Tag and digest \
         may be left out.",
        Shape::Patterns,
    ),
    key(
        "pod",
        "Name of its Kubernetes pod; a pattern with a slash matches NAMESPACE/NAME.",
        Shape::Patterns,
    ),
    key("label", "A label of its container or pod.", Shape::NamedPatterns),
    key(
        "parent",
        "Its parent: a pattern with a slash matches the executable's path, one without its last \
         part or the main thread's name.",
        Shape::Patterns,
    ),
    key("ancestor", "The same of its parent or of any process above it.", Shape::Patterns),
    key("env", "An environment variable that it was started with.", Shape::NamedPatterns),
    key("thread", "A thread's own name, at most 15 bytes.", Shape::Patterns),
    key(
        "uses",
        "What it holds open: a GPU, sound, a camera, a video encoder, a sensor or the bus or port that \
         one hangs on.",
        Shape::OrList(&Shape::Words(uses)),
    ),
    key(
        "maps",
        "File name of a library that it has mapped; a pattern without a dot matches the name up to \
         its first dot.",
        Shape::Patterns,
    ),
];

/// Keys of `match` and `unless`: those of [`MATCHERS`], and `any`.
pub const MATCH: &[Key] = &{
    let mut keys = [key(
        "any",
        "Tables of which one must hold, together with the keys beside it; a key stands in one of \
         the two places.",
        Shape::Tables(MATCHERS),
    ); MATCHERS.len() + 1];
    let mut i = 0;
    while i < MATCHERS.len() {
        keys[i] = MATCHERS[i];
        i += 1;
    }
    keys
};

/// Keys of `[auto]`.
pub const AUTO: &[Key] = &[
    key(
        "enabled",
        "Programs that no rule names are looked at, and get the class named for what they show \
         (default false).",
        Shape::Flag,
    ),
    key("audio", "Class of what shows sound.", Shape::ClassName),
    key("video", "Class of what shows moving pictures.", Shape::ClassName),
    key("image", "Class of what shows single pictures.", Shape::ClassName),
    key("text", "Class of what shows tokens.", Shape::ClassName),
    key("sensor", "Class of what reads a sensor in time.", Shape::ClassName),
];
