//! What the control group of a class should have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use downbeat_api::HostFacts;
use downbeat_policy::{Amount, Class, CpuMax, IoMax};

use super::affinity;
use crate::act::{CpuLimit, CpuShare, Cpuset, PerDevice, Value};
use crate::observe::machine::Machine;

/// The kernel's own period and weight.
const PERIOD_US: u64 = 100_000;
const WEIGHT: u64 = 100;

/// What the group of a class's processes should have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupTarget {
    /// One value per lever of a group that the class touches.
    pub values: Vec<Value>,
    /// Its processes go into a group of the agent's own.
    pub adopt: bool,
    /// That group is a partition, and so has to lie at the top.
    pub partition: bool,
    /// What this host cannot do of it.
    pub lacking: Vec<String>,
}

impl GroupTarget {
    /// Controllers that its values need.
    #[must_use]
    pub fn controllers(&self) -> BTreeSet<String> {
        let names = self.values.iter().filter_map(|value| {
            let (controller, _) = value.lever().name().split_once('.').unwrap_or(("", ""));
            match value {
                Value::Cpuset(_) => Some("cpuset"),
                _ => Some(controller).filter(|name| !name.is_empty()),
            }
        });
        names.map(str::to_owned).collect()
    }
}

impl GroupTarget {
    /// Its values as systemd can be asked for them: it knows no burst and no partition.
    #[must_use]
    pub fn of_unit(&self) -> Vec<Value> {
        let for_systemd = |value: &Value| match value {
            Value::CpuMax(limit) => Value::CpuMax(CpuLimit { burst_us: 0, ..*limit }),
            value => value.clone(),
        };
        self.values.iter().map(for_systemd).collect()
    }
}

/// Turns a class of the policy into values for a group on this host; nothing for a class that
/// names none.
#[must_use]
pub fn group(class: &Class, host: &HostFacts, machine: &Machine) -> Option<GroupTarget> {
    let mut target = GroupTarget { adopt: class.adopt, ..GroupTarget::default() };
    let memory = |amount: Option<Amount>| {
        // The kernel rounds down to whole pages, and would be taken for someone else.
        let whole = |bytes: u64| bytes - bytes % machine.page_bytes.max(1);
        amount.map(|amount| amount.bytes(host.memory.unwrap_or(u64::MAX)).map(whole))
    };
    let values = [
        cpu_share(class).map(Value::CpuWeight),
        cpu_limit(class).map(Value::CpuMax),
        memory(class.memory.min).map(Value::MemoryMin),
        memory(class.memory.low).map(Value::MemoryLow),
        memory(class.memory.high).map(Value::MemoryHigh),
        memory(class.memory.max).map(Value::MemoryMax),
        class.io.weight.map(|weight| Value::IoWeight(Some(weight.into()))),
        io_max(class, machine, &mut target.lacking).map(Value::IoMax),
        class.io.latency.and_then(|latency| io_latency(latency, machine)).map(Value::IoLatency),
        class.freeze.then_some(Value::Freeze(true)),
    ];
    target.values.extend(values.into_iter().flatten());
    if class.partition {
        partition(class, host, &mut target);
    }
    if !class.adopt && class.cpu.burst.is_some() && class.cpu.max.is_some() {
        target.lacking.push(format!(
            "class {} names a burst, which systemd does not know: units get the quota alone; set \
             `adopt = true`",
            class.name
        ));
    }
    (target.adopt || !target.values.is_empty() || !target.lacking.is_empty()).then_some(target)
}

fn cpu_share(class: &Class) -> Option<CpuShare> {
    let weight = class.cpu.weight.map(|weight| CpuShare::Weight(weight.into()));
    match class.cpu.idle {
        Some(true) => Some(CpuShare::Idle),
        Some(false) => weight.or(Some(CpuShare::Weight(WEIGHT))),
        None => weight,
    }
}

fn cpu_limit(class: &Class) -> Option<CpuLimit> {
    let burst_us = class.cpu.burst.map_or(0, microseconds);
    match class.cpu.max {
        Some(CpuMax::Quota { quota, period }) => Some(CpuLimit {
            quota_us: Some(microseconds(quota)),
            period_us: microseconds(period),
            burst_us,
        }),
        Some(CpuMax::Unlimited) => {
            Some(CpuLimit { quota_us: None, period_us: PERIOD_US, burst_us: 0 })
        }
        None => None,
    }
}

fn io_max(class: &Class, machine: &Machine, lacking: &mut Vec<String>) -> Option<PerDevice> {
    let mut devices = BTreeMap::new();
    for entry in &class.io.max {
        let wanted = entry.device.as_deref().map(|node| node.trim_start_matches("/dev/"));
        let before = devices.len();
        for disk in &machine.disks {
            if wanted.is_none_or(|name| name == disk.name) {
                devices.insert(disk.number.clone(), limits(entry));
            }
        }
        if devices.len() == before {
            let name = entry.device.as_deref().unwrap_or("a disk");
            lacking.push(format!(
                "class {} limits {name}, which is no whole disk of this host",
                class.name
            ));
        }
    }
    (!devices.is_empty()).then_some(PerDevice(devices))
}

/// In the words and the order of the kernel.
fn limits(entry: &IoMax) -> String {
    let or_max = |value: Option<u64>| value.map_or_else(|| "max".to_owned(), |it| it.to_string());
    let IoMax { device: _, read, write, read_ops, write_ops } = entry;
    let [read, write, read_ops, write_ops] = [read, write, read_ops, write_ops].map(|v| or_max(*v));
    format!("rbps={read} wbps={write} riops={read_ops} wiops={write_ops}")
}

fn io_latency(latency: Duration, machine: &Machine) -> Option<PerDevice> {
    let target = format!("target={}", microseconds(latency));
    let devices = machine.disks.iter().map(|disk| (disk.number.clone(), target.clone()));
    let devices: BTreeMap<String, String> = devices.collect();
    (!devices.is_empty()).then_some(PerDevice(devices))
}

fn partition(class: &Class, host: &HostFacts, target: &mut GroupTarget) {
    let cpus = class.cpus.as_ref().map(|choice| affinity::cpus(choice, host).cpus);
    let cpus = cpus.unwrap_or_default();
    if !class.adopt {
        target.lacking.push(format!(
            "class {} asks for a partition, which only a group of downbeat's own can be: a unit is \
             held to these CPUs, and others may use them too; set `adopt = true`",
            class.name
        ));
        if !cpus.is_empty() {
            target.values.push(Value::Cpuset(Cpuset { cpus, partition: "member".into() }));
        }
    } else if cpus.is_empty() || cpus == host.cpus {
        target.lacking.push(format!(
            "class {} asks for a partition of no CPU or of all: somebody else needs one",
            class.name
        ));
    } else {
        target.partition = true;
        target.values.push(Value::Cpuset(Cpuset { cpus, partition: "root".into() }));
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{class, host};
    use super::*;
    use crate::observe::machine::Disk;

    fn machine() -> Machine {
        let disk = |name: &str, number: &str| Disk { name: name.into(), number: number.into() };
        let disks = vec![disk("sda", "8:0"), disk("sdb", "8:16")];
        Machine { page_bytes: 4096, disks, ..Machine::default() }
    }

    fn words(body: &str) -> Vec<String> {
        let body = format!("tier = \"background\"\nsched = \"keep\"\n{body}");
        let target = group(&class(&body), &host(), &machine());
        let values = target.map(|target| target.values).unwrap_or_default();
        values.iter().map(|value| format!("{} {value}", value.lever().name())).collect()
    }

    #[test]
    fn a_class_that_names_no_group_lever_has_no_group() {
        assert_eq!(words(""), Vec::<String>::new());
        let none = group(&class("tier = \"realtime\""), &host(), &machine());
        assert_eq!(none, None);
    }

    #[test]
    fn every_group_lever_arrives() {
        let body = "cpu = { weight = 800, max = \"50%\", burst = \"10ms\" }\n\
            memory = { low = \"1000000B\", high = \"max\" }\n\
            io = { weight = 50, latency = \"20ms\" }\nfreeze = true";
        assert_eq!(
            words(body),
            [
                "cpu.weight 800",
                "cpu.max 50000/100000 us burst 10000 us",
                "memory.low 976KiB",
                "memory.high max",
                "io.weight 50",
                "io.latency 8:0 target=20000, 8:16 target=20000",
                "freeze frozen",
            ]
        );
        assert_eq!(words("cpu = { idle = true }"), ["cpu.weight idle"]);
    }

    #[test]
    fn a_unit_gets_the_quota_without_the_burst_that_systemd_lacks() {
        let body = "tier = \"background\"\nsched = \"keep\"\n\
            cpu = { max = \"50%\", burst = \"10ms\" }";
        let target = group(&class(body), &host(), &machine()).unwrap();
        assert!(target.lacking[0].contains("burst"), "{:?}", target.lacking);
        let quota = CpuLimit { quota_us: Some(50_000), period_us: PERIOD_US, burst_us: 0 };
        assert_eq!(target.of_unit(), [Value::CpuMax(quota)]);
        let adopted = group(&class(&format!("{body}\nadopt = true")), &host(), &machine());
        assert_eq!(adopted.unwrap().lacking, Vec::<String>::new());
    }

    #[test]
    fn the_controllers_are_those_of_the_values() {
        let body = "tier = \"background\"\nsched = \"keep\"\nadopt = true\nfreeze = true\n\
            cpu = { weight = 10 }\nmemory = { max = \"1GiB\" }";
        let target = group(&class(body), &host(), &machine()).unwrap();
        assert!(target.adopt);
        assert_eq!(target.controllers(), BTreeSet::from(["cpu".into(), "memory".into()]));
    }

    #[test]
    fn a_partition_needs_a_group_of_our_own_and_leaves_a_cpu_for_others() {
        let of = |rest: &str| {
            let body = format!("tier = \"realtime\"\npartition = true\n{rest}");
            group(&class(&body), &host(), &machine()).unwrap()
        };
        let of_a_unit = of("cpus = \"1\"");
        assert!(of_a_unit.lacking[0].contains("adopt"));
        let set = Cpuset { cpus: vec![1], partition: "member".into() };
        assert_eq!(of_a_unit.of_unit(), [Value::Cpuset(set)]);
        assert!(of("cpus = \"0-1\"\nadopt = true").lacking[0].contains("somebody else"));
        let target = of("cpus = \"1\"\nadopt = true");
        assert!(target.partition && target.lacking.is_empty());
        let set = Cpuset { cpus: vec![1], partition: "root".into() };
        assert_eq!(target.values, [Value::Cpuset(set)]);
    }
}
