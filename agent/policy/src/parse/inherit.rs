//! Classes with what they inherit, and what holds only for the whole of a class.

use std::collections::BTreeMap;

use super::class::{ClassDraft, Keys};
use super::{File, suggest, table};
use crate::{
    Amount, Class, CpuLevers, CpuMax, Deadline, Goal, IoLevers, Irqs, MemoryLevers, Sched, Span,
    Tier, Uclamp,
};

/// Where a class stands: the file and the place in it.
type Place = (usize, usize);

/// Finds every class's keys with those of the classes above it, and checks them. Problems are noted
/// with the files; nothing is given for a class that has one.
pub(super) fn classes(files: &mut [File<'_>]) -> BTreeMap<Place, Class> {
    let mut by_name: BTreeMap<String, Place> = BTreeMap::new();
    for (f, file) in files.iter().enumerate() {
        for (c, draft) in file.classes.iter().enumerate() {
            by_name.entry(draft.name.clone()).or_insert((f, c));
        }
    }
    let complete = files.iter().all(|file| file.complete);
    let mut found = Vec::new();
    let mut classes = BTreeMap::new();
    for (f, file) in files.iter().enumerate() {
        for (c, draft) in file.classes.iter().enumerate() {
            let above = match chain(files, &by_name, (f, c)) {
                Ok(above) => above,
                Err(Broken::Ring { at, message }) => {
                    found.push((f, at, message));
                    continue;
                }
                // It may well stand in a file that could not be read.
                Err(Broken::Unknown { at, message }) => {
                    if complete {
                        found.push((f, at, message));
                    }
                    continue;
                }
                Err(Broken::ToldElsewhere) => continue,
            };
            if above.iter().any(|(f, c)| !files[*f].classes[*c].sound) {
                continue;
            }
            let keys = above.iter().map(|(f, c)| &files[*f].classes[*c].keys);
            let keys = keys.fold(Keys::default(), Keys::or);
            let problems = problems(draft, &keys);
            match keys.tier {
                Some(tier) if problems.is_empty() => {
                    classes.insert((f, c), keys.class(draft, tier));
                }
                _ => found.extend(problems.into_iter().map(|(at, message)| (f, at, message))),
            }
        }
    }
    for (f, at, message) in found {
        files[f].notes.add(at, message);
    }
    classes
}

/// Why a class cannot be put together.
enum Broken {
    /// It inherits from a class that there is not.
    Unknown { at: usize, message: String },
    /// It inherits from itself, and is the first of the ring.
    Ring { at: usize, message: String },
    /// Another class is told of it.
    ToldElsewhere,
}

/// The class at `place` and all above it, in the order in which keys are looked for.
fn chain(
    files: &[File<'_>],
    by_name: &BTreeMap<String, Place>,
    place: Place,
) -> Result<Vec<Place>, Broken> {
    let draft = |(f, c): Place| -> &ClassDraft { &files[f].classes[c] };
    let mut chain = vec![place];
    let mut last = place;
    while let Some((at, name)) = &draft(last).inherits {
        let Some(above) = by_name.get(name).copied() else {
            let of = draft(last);
            if last != place {
                return Err(Broken::ToldElsewhere);
            }
            let key = table::joined(&table::joined("class", &of.name), "inherits");
            let hint = suggest::hint(name, by_name.keys().map(String::as_str), "defined");
            let message = format!("{key}: no class `{}`; {hint}", table::shown(name));
            return Err(Broken::Unknown { at: *at, message });
        };
        if let Some(start) = chain.iter().position(|link| *link == above) {
            let ring = &chain[start..];
            if start > 0 || ring.iter().any(|link| *link < place) {
                return Err(Broken::ToldElsewhere);
            }
            let names = ring.iter().chain([&place]).map(|link| table::shown(&draft(*link).name));
            let names: Vec<String> = names.collect();
            let key = table::joined(&table::joined("class", &draft(place).name), "inherits");
            let message = format!(
                "{key}: goes round in a ring ({}); take one of these out",
                names.join(" → ")
            );
            return Err(Broken::Ring { at: draft(place).place("inherits"), message });
        }
        chain.push(above);
        last = above;
    }
    Ok(chain)
}

/// What does not hold for a whole class, with the place of the key.
fn problems(draft: &ClassDraft, keys: &Keys) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let class = table::joined("class", &draft.name);
    let mut add = |key: &str, inside: &str, message: &str| {
        found.push((draft.place(key), format!("{class}.{key}{inside}: {message}")));
    };
    // Where it inherits, the last class above it is told.
    if keys.tier.is_none() && draft.inherits.is_none() {
        add("tier", "", "missing; write for example `tier = \"interactive\"`");
    }
    if keys.partition == Some(true) && keys.cpus.is_none() {
        add("partition", "", "of which CPUs? Write `cpus` too, for example `cpus = \"2-3\"`");
    }
    if keys.irqs == Some(Irqs::KeepOff) && keys.cpus.is_none() {
        add("irqs", "", "off which CPUs? Write `cpus` too, for example `cpus = \"2-3\"`");
    }
    if keys.freeze == Some(true) && keys.tier.is_some_and(|tier| tier != Tier::Background) {
        add("freeze", "", "only work of the tier `background` can be held still");
    }
    match (keys.cpu.burst, keys.cpu.max) {
        (Some(burst), Some(CpuMax::Quota { quota, .. })) if burst > quota => {
            add("cpu", ".burst", "more than the quota of `max`, which Linux refuses");
        }
        (Some(_), None | Some(CpuMax::Unlimited)) => {
            add("cpu", ".burst", "of which quota? Write `max` too, for example `max = \"150%\"`");
        }
        _ => {}
    }
    if let Uclamp { min: Some(min), max: Some(max) } = keys.cpu.uclamp
        && min > max
    {
        add("cpu", ".uclamp", "`min` is above `max`");
    }
    if keys.cpu.idle == Some(true) && keys.cpu.weight.is_some() {
        add("cpu", ".idle", "an idle group has no weight; leave one of the two out");
    }
    let MemoryLevers { min, low, high, max, oom: _ } = keys.memory;
    for (low_key, low, high_key, high) in
        [("min", min, "max", max), ("low", low, "max", max), ("high", high, "max", max)]
    {
        if above(low, high) {
            let message = format!("`{low_key}` is above `{high_key}`, so it is never reached");
            add("memory", "", &message);
        }
    }
    if keys.goal.misses.is_some() && keys.deadline.is_none() {
        add("target", ".misses", "misses of what? Write `deadline` too, for example `\"auto\"`");
    }
    if let (Some(Sched::Set(parameters)), Some(Deadline::After(deadline))) =
        (&keys.sched, keys.deadline)
        && let Some(Span::Given(budget)) = parameters.budget
        && budget > deadline
    {
        add("sched", ".budget", "more than the class's deadline: no frame could be in time");
    }
    found
}

/// Whether both are known to be in the wrong order on every host.
fn above(low: Option<Amount>, high: Option<Amount>) -> bool {
    match (low, high) {
        (Some(Amount::Bytes(low)), Some(Amount::Bytes(high))) => low > high,
        (Some(Amount::Share(low)), Some(Amount::Share(high))) => low > high,
        _ => false,
    }
}

impl Keys {
    /// What is given here, else above.
    fn or(self, above: &Self) -> Self {
        let CpuLevers { weight, max, idle, burst, uclamp } = self.cpu;
        // An idle group has no weight, and one without a limit nothing to save up: what is given
        // here takes away what is above.
        let cpu = CpuLevers {
            weight: weight.or(above.cpu.weight.filter(|_| idle != Some(true))),
            max: max.or(above.cpu.max),
            idle: idle.or(above.cpu.idle.filter(|_| weight.is_none())),
            burst: burst.or(above.cpu.burst.filter(|_| max != Some(CpuMax::Unlimited))),
            uclamp: Uclamp {
                min: uclamp.min.or(above.cpu.uclamp.min),
                max: uclamp.max.or(above.cpu.uclamp.max),
            },
        };
        let MemoryLevers { min, low, high, max, oom } = self.memory;
        let memory = MemoryLevers {
            min: min.or(above.memory.min),
            low: low.or(above.memory.low),
            high: high.or(above.memory.high),
            max: max.or(above.memory.max),
            oom: oom.or(above.memory.oom),
        };
        let IoLevers { priority, weight, max, latency } = self.io;
        let io = IoLevers {
            priority: priority.or(above.io.priority),
            weight: weight.or(above.io.weight),
            max: if max.is_empty() { above.io.max.clone() } else { max },
            latency: latency.or(above.io.latency),
        };
        let Goal { misses, wait_p99, response_p99 } = self.goal;
        let goal = Goal {
            misses: misses.or(above.goal.misses),
            wait_p99: wait_p99.or(above.goal.wait_p99),
            response_p99: response_p99.or(above.goal.response_p99),
        };
        Self {
            modality: self.modality.or(above.modality),
            tier: self.tier.or(above.tier),
            deadline: self.deadline.or(above.deadline),
            cpus: self.cpus.or_else(|| above.cpus.clone()),
            partition: self.partition.or(above.partition),
            sched: self.sched.or_else(|| above.sched.clone()),
            cpu,
            memory,
            io,
            gpu: self.gpu.or(above.gpu),
            goal,
            timer_slack: self.timer_slack.or(above.timer_slack),
            freeze: self.freeze.or(above.freeze),
            irqs: self.irqs.or(above.irqs),
            wakeup_latency: self.wakeup_latency.or(above.wakeup_latency),
            energy: self.energy.or(above.energy),
            adopt: self.adopt.or(above.adopt),
        }
    }

    fn class(self, draft: &ClassDraft, tier: Tier) -> Class {
        let Self {
            modality,
            tier: _,
            deadline,
            cpus,
            partition,
            sched,
            cpu,
            memory,
            io,
            gpu,
            goal,
            timer_slack,
            freeze,
            irqs,
            wakeup_latency,
            energy,
            adopt,
        } = self;
        Class {
            name: draft.name.clone(),
            inherits: draft.inherits.as_ref().map(|(_, name)| name.clone()),
            modality: modality.unwrap_or_default(),
            tier,
            deadline,
            cpus,
            partition: partition.unwrap_or_default(),
            sched: sched.unwrap_or_default(),
            cpu,
            memory,
            io,
            gpu: gpu.unwrap_or_default(),
            goal,
            timer_slack,
            freeze: freeze.unwrap_or_default(),
            irqs: irqs.unwrap_or_default(),
            wakeup_latency,
            energy,
            adopt: adopt.unwrap_or_default(),
            origin: draft.origin.clone(),
        }
    }
}
