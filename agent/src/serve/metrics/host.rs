//! What the rest of the host does, and each class's control groups, as samples.

use downbeat_api::{
    Class, ClassCgroups, HostLoad, HostPressure, ResourcePressure, Stall, Throttling, WorstStall,
};
use downbeat_openmetrics::{Families, Value};

use super::catalogue;
use super::collect::seconds;

pub(super) fn add_load(families: &mut Families, load: &HostLoad) {
    let HostLoad { pressure, pressure_missing: _, cpu_times, interrupts } = load;
    let times = cpu_times.iter().flat_map(|time| {
        [
            ("user", time.user),
            ("nice", time.nice),
            ("system", time.system),
            ("idle", time.idle),
            ("iowait", time.iowait),
            ("irq", time.irq),
            ("softirq", time.softirq),
            ("steal", time.steal),
        ]
        .map(|(mode, seconds)| {
            (vec![time.id.to_string(), mode.to_owned()], Value::Seconds(seconds))
        })
    });
    families.add(&catalogue::CPU_SECONDS, times);
    if let Some(interrupts) = interrupts {
        let sources = [("device", interrupts.device_total), ("system", interrupts.system_total)];
        let sample = |(source, total): (&str, u64)| (vec![source.to_owned()], Value::Count(total));
        families.add(&catalogue::INTERRUPTS, sources.map(sample));
        let name = |soft: &downbeat_api::SoftInterrupt| vec![soft.name.clone()];
        families.each(&catalogue::SOFTIRQS, &interrupts.soft, name, |soft| {
            Some(Value::Count(soft.total))
        });
    }
    if let Some(HostPressure { cpu, memory, io }) = pressure {
        let stalled = [("cpu", cpu), ("memory", memory), ("io", io)].into_iter().flat_map(
            |(resource, ResourcePressure { some, full })| {
                let sample = |kind: &str, stall: &Stall| {
                    let labels = vec![resource.to_owned(), kind.to_owned()];
                    (labels, Value::Seconds(stall.total_seconds))
                };
                let full = full.as_ref().map(|full| sample("full", full));
                [Some(sample("some", some)), full].into_iter().flatten()
            },
        );
        families.add(&catalogue::STALLED, stalled);
    }
}

pub(super) fn add_groups(families: &mut Families, classes: &[Class]) {
    let shares = classes.iter().flat_map(|class| {
        let cpus = class.cpus.iter().flatten();
        cpus.map(|cpu| (vec![class.name.clone(), cpu.cpu.to_string()], Value::Gauge(cpu.share)))
    });
    families.add(&catalogue::CLASS_CPU_SHARE, shares);
    let name = |class: &Class| vec![class.name.clone()];
    let throttling = |class: &Class| class.cgroups.as_ref()?.throttling.clone();
    type Figure = fn(&Throttling) -> Value;
    let figures: [(_, Figure); 4] = [
        (&catalogue::CLASS_PERIODS, |t| Value::Count(t.periods)),
        (&catalogue::CLASS_THROTTLED_PERIODS, |t| Value::Count(t.throttled_periods)),
        (&catalogue::CLASS_THROTTLED, |t| Value::Seconds(seconds(t.total_ns))),
        (&catalogue::CLASS_LIMITED, |t| Value::Gauge(f64::from(t.limited))),
    ];
    for (definition, figure) in figures {
        families.each(definition, classes, name, |class| Some(figure(&throttling(class)?)));
    }
    families.add(&catalogue::CLASS_PRESSURE, classes.iter().flat_map(pressure));
}

fn pressure(class: &Class) -> Vec<(Vec<String>, Value)> {
    let Some(ClassCgroups { cpu, memory, io, .. }) = &class.cgroups else {
        return Vec::new();
    };
    let of = |(resource, worst): (&str, &Option<WorstStall>)| {
        let shares = worst.as_ref().map(|worst| (Some(worst.some), worst.full));
        let (some, full) = shares.unwrap_or_default();
        let labels = |kind: &str| vec![class.name.clone(), resource.to_owned(), kind.to_owned()];
        [("some", some), ("full", full)]
            .into_iter()
            .filter_map(|(kind, share)| Some((labels(kind), Value::Gauge(share?))))
            .collect::<Vec<_>>()
    };
    [("cpu", cpu), ("memory", memory), ("io", io)].into_iter().flat_map(of).collect()
}
