//! What each thread should have, and why. Pure: policy and host facts in, values out.

mod affinity;
mod groups;
mod layout;
mod reservation;
mod switches;

use std::time::Duration;

use downbeat_api::HostFacts;
use downbeat_policy::{
    Class, Deadline, Goal, GpuShare, Sched as Wish, SchedParameters, SchedPolicy, Share, Tier,
    Uclamp,
};

pub use self::groups::{GroupTarget, group};
pub use self::layout::lay_out;
pub use self::reservation::{Measured, Reservation, still_fits};
pub use self::switches::{Switches, switches};
use crate::act::{RESET_ON_FORK, Sched, Value};

/// Nice value of an interactive class.
const INTERACTIVE_NICE: i32 = -5;

/// Nice value of a real-time class on a host that grants no real-time policy: with −15, a thread
/// weighs 28 times as much as one with nice 0.
const REALTIME_NICE: i32 = -15;

/// Slice for the same case, so that the scheduler looks at the class often (kernel 6.12).
const REALTIME_SLICE: Duration = Duration::from_millis(1);

/// Default priority of `fifo` and `rr` where a policy names none.
const DEFAULT_PRIORITY: u32 = 10;

/// The whole of the largest CPU, the kernel's scale of utilisation.
const CAPACITY: u64 = 1024;

/// What every thread of a class should have.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The class's name.
    pub class: String,
    /// One value per lever of a thread that the class touches.
    pub values: Vec<Value>,
    /// What a thread gets where one of these is refused, in this order.
    pub otherwise: Vec<Value>,
    /// A reservation that is made once its numbers are known.
    pub reservation: Option<Reservation>,
    /// Its scheduling in words, for a person.
    pub words: String,
    /// What the host could not grant, and what it gets in its place.
    pub fallback: Option<String>,
}

/// Turns a class of the policy into values for this host.
#[must_use]
pub fn target(class: &Class, host: &HostFacts) -> Target {
    let mut lacking = Vec::new();
    let (sched, no_sched) = sched(class, host);
    lacking.extend(no_sched);
    let chosen = class.cpus.as_ref().map(|choice| (choice, affinity::cpus(choice, host)));
    lacking.extend(
        chosen.as_ref().and_then(|(choice, chosen)| affinity::lacking(&class.name, choice, chosen)),
    );
    let affinity = chosen.map(|(_, chosen)| chosen.cpus).filter(|cpus| !cpus.is_empty());
    let reservation = Reservation::of(class);
    let reservation = match reservation {
        Some(_) if !host.deadline => {
            lacking.push(format!(
                "class {} asks for a reservation, which this host does not grant (see `downbeat \
                 doctor`)",
                class.name
            ));
            None
        }
        // In a partition the CPUs are a root domain of their own, within which the kernel grants it.
        Some(_)
            if !(class.partition && class.adopt)
                && affinity.as_ref().is_some_and(|cpus| *cpus != host.cpus) =>
        {
            lacking.push(format!(
                "class {} asks for a reservation and for some of the CPUs alone, which the kernel \
                 gives together in a partition only: leave `cpus` away, or set `partition = true` \
                 and `adopt = true`",
                class.name
            ));
            None
        }
        other => other,
    };
    let first = reservation.and_then(|reservation| reservation.sched(None)).or(sched);
    let words = first.as_ref().map_or_else(|| "keep".to_owned(), ToString::to_string);
    let (min, max) = clamps(class, host, &mut lacking);
    let realtime = sched.is_some_and(|sched| sched.is_realtime());
    if realtime && class.timer_slack.is_some() {
        lacking.push(format!(
            "class {} names a timer slack: real-time threads have none anyway",
            class.name
        ));
    }
    lacking.extend(unheld(class));
    let slack = class.timer_slack.filter(|_| !realtime).map(nanoseconds);
    let values = [
        first.map(Value::Sched),
        min,
        max,
        affinity.map(Value::Affinity),
        class.io.priority.map(Value::ioprio),
        slack.map(Value::TimerSlack),
        class.memory.oom.map(Value::OomScoreAdj),
    ];
    Target {
        class: class.name.clone(),
        values: values.into_iter().flatten().collect(),
        otherwise: rungs(sched, host),
        reservation,
        words,
        fallback: (!lacking.is_empty()).then(|| lacking.join("; ")),
    }
}

/// What the language has and nothing acts on yet.
fn unheld(class: &Class) -> Option<String> {
    let names = [
        (class.goal != Goal::default()).then_some("`target`"),
        (class.gpu != GpuShare::default()).then_some("`gpu`"),
    ];
    let names: Vec<&str> = names.into_iter().flatten().collect();
    (!names.is_empty()).then(|| {
        format!(
            "class {} names {}, which this version reads and does not act on",
            class.name,
            names.join(" and ")
        )
    })
}

/// What a thread gets where its scheduling is refused: a reservation becomes real time, real time
/// a nice value.
fn rungs(sched: Option<Sched>, host: &HostFacts) -> Vec<Value> {
    let realtime = sched.filter(Sched::is_realtime);
    let nice = realtime.map(|_| nice_in_place_of_realtime(host));
    [realtime, nice].into_iter().flatten().map(Value::Sched).collect()
}

/// The clamps, where the host has them.
fn clamps(
    class: &Class,
    host: &HostFacts,
    lacking: &mut Vec<String>,
) -> (Option<Value>, Option<Value>) {
    let Uclamp { min, max } = class.cpu.uclamp;
    if (min.is_some() || max.is_some()) && !host.uclamp {
        lacking.push(format!(
            "class {} clamps utilisation, which this kernel cannot (see `downbeat doctor`)",
            class.name
        ));
        return (None, None);
    }
    let part = |share: Share| u32::try_from(share.of(CAPACITY)).unwrap_or(u32::MAX);
    let min = min.map(|share| Value::UclampMin(part(share)));
    (min, max.map(|share| Value::UclampMax(part(share))))
}

fn sched(class: &Class, host: &HostFacts) -> (Option<Sched>, Option<String>) {
    match &class.sched {
        Wish::Keep => (None, None),
        Wish::Auto => auto(class, host),
        // A reservation's next rung, and what it has until its numbers are known.
        Wish::Set(SchedParameters { policy: SchedPolicy::Deadline, .. }) => {
            realtime(class, host, rate_monotonic(class.deadline))
        }
        Wish::Set(SchedParameters { policy, priority, nice, slice, .. }) => {
            let realtime = matches!(policy, SchedPolicy::Fifo | SchedPolicy::RoundRobin);
            let given = priority.map_or(DEFAULT_PRIORITY, u32::from);
            let slice = slice.filter(|_| host.eevdf_slice);
            let sched = Sched {
                policy: Sched::policy_number(*policy),
                // A fork of a real-time thread that runs away takes a whole CPU: children are
                // looked at before they get the same.
                flags: if realtime { RESET_ON_FORK } else { 0 },
                nice: nice.map_or(0, i32::from),
                priority: if realtime { given } else { 0 },
                runtime: slice.map_or(0, nanoseconds),
                ..Sched::DEFAULT
            };
            if realtime && !host.realtime {
                return (Some(nice_in_place_of_realtime(host)), Some(no_realtime(class)));
            }
            (Some(sched), None)
        }
    }
}

/// `sched = "auto"`: from tier and deadline.
fn auto(class: &Class, host: &HostFacts) -> (Option<Sched>, Option<String>) {
    match class.tier {
        Tier::Realtime => realtime(class, host, rate_monotonic(class.deadline)),
        Tier::Interactive => (Some(Sched { nice: INTERACTIVE_NICE, ..Sched::DEFAULT }), None),
        Tier::Background => {
            // Idle and not merely nice: a waking frame preempts it at once, and the load
            // balancer counts its CPU as free.
            let policy = Sched::policy_number(SchedPolicy::Idle);
            (Some(Sched { policy, ..Sched::DEFAULT }), None)
        }
    }
}

fn realtime(class: &Class, host: &HostFacts, priority: u32) -> (Option<Sched>, Option<String>) {
    if !host.realtime {
        return (Some(nice_in_place_of_realtime(host)), Some(no_realtime(class)));
    }
    let policy = Sched::policy_number(SchedPolicy::Fifo);
    (Some(Sched { policy, priority, flags: RESET_ON_FORK, ..Sched::DEFAULT }), None)
}

/// The shorter the deadline, the higher the priority (Liu and Layland 1973). All stay below 50,
/// where the kernel's interrupt threads run, and below what audio servers take for themselves
/// (PipeWire 88, JACK 70 and up).
fn rate_monotonic(deadline: Option<Deadline>) -> u32 {
    let Some(Deadline::After(deadline)) = deadline else {
        return DEFAULT_PRIORITY;
    };
    match deadline.as_micros() {
        0..=5_000 => 40,
        5_001..=12_000 => 30,
        12_001..=20_000 => 25,
        20_001..=50_000 => 20,
        _ => 15,
    }
}

fn nice_in_place_of_realtime(host: &HostFacts) -> Sched {
    let runtime = if host.eevdf_slice { nanoseconds(REALTIME_SLICE) } else { 0 };
    Sched { nice: REALTIME_NICE, runtime, ..Sched::DEFAULT }
}

fn no_realtime(class: &Class) -> String {
    format!(
        "class {} asks for real time, which this host does not grant: nice {REALTIME_NICE} in its \
         place (see `downbeat doctor`)",
        class.name
    )
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use downbeat_api::Topology;
    use downbeat_policy::{PolicySet, Source};

    use super::*;

    pub(super) fn class(body: &str) -> Class {
        let text = format!("schema = 1\n[class.it]\n{body}\n");
        let source = Source { path: PathBuf::from("test.toml"), text };
        PolicySet::parse(&[source]).unwrap().classes.remove(0)
    }

    pub(super) fn host() -> HostFacts {
        HostFacts {
            kernel: "6.18".into(),
            arch: "x86_64".into(),
            cpus: vec![0, 1],
            topology: Topology::default(),
            memory: Some(8 << 30),
            realtime: true,
            eevdf_slice: true,
            uclamp: false,
            deadline: true,
            cgroup2_controllers: Vec::new(),
            findings: Vec::new(),
        }
    }

    #[test]
    fn what_nothing_acts_on_is_said() {
        let said = |body: &str| target(&class(body), &host()).fallback;
        assert_eq!(said("tier = \"background\"\ngpu = { share = \"keep\" }"), None);
        let both = "tier = \"background\"\ngpu = { share = \"yield\" }\n\
            target = { wait_p99 = \"2ms\" }";
        assert!(said(both).unwrap().contains("`target` and `gpu`, which this version reads"));
    }

    #[test]
    fn a_shorter_deadline_gets_a_higher_priority() {
        let of = |deadline: &str| {
            let body = format!("tier = \"realtime\"\ndeadline = \"{deadline}\"");
            let Value::Sched(sched) = target(&class(&body), &host()).values[0].clone() else {
                panic!("no scheduling");
            };
            sched.priority
        };
        assert!(of("5ms") > of("10ms"));
        assert!(of("10ms") > of("16ms"));
        assert!(of("16ms") > of("33ms"));
        assert!(of("33ms") > of("100ms"));
    }

    #[test]
    fn without_real_time_a_class_gets_a_nice_value_and_the_reason() {
        let host = HostFacts { realtime: false, eevdf_slice: false, ..host() };
        let got = target(&class("tier = \"realtime\"\ndeadline = \"10ms\""), &host);
        assert_eq!(got.words, "other nice -15");
        assert!(got.fallback.unwrap().contains("doctor"));
    }

    #[test]
    fn a_class_names_only_what_it_touches() {
        let got = target(&class("tier = \"background\"\nsched = \"keep\""), &host());
        assert_eq!(got.values, []);
    }

    #[test]
    fn every_lever_arrives() {
        let body = "tier = \"interactive\"\ncpus = \"1-7\"\n\
                    sched = { policy = \"batch\", nice = 4, slice = \"20ms\" }\n\
                    io = { class = \"best-effort\", level = 6 }\nmemory = { oom = 300 }";
        let got = target(&class(body), &host());
        let words: Vec<String> = got.values.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["batch nice 4 slice 20000 us", "1", "best-effort 6", "300"]);
    }

    #[test]
    fn a_list_of_cpus_that_the_host_has_not_is_not_touched() {
        let got = target(&class("tier = \"interactive\"\ncpus = \"5-7\""), &host());
        assert!(got.values.iter().all(|value| !matches!(value, Value::Affinity(_))));
    }

    #[test]
    fn a_reservation_on_some_cpus_needs_a_partition() {
        let of = |rest: &str| {
            let body = "tier = \"realtime\"\ncpus = \"1\"\n\
                sched = { policy = \"deadline\", budget = \"2ms\", period = \"10ms\" }";
            target(&class(&format!("{body}\n{rest}")), &host())
        };
        let alone = of("");
        assert!(alone.reservation.is_none() && alone.fallback.unwrap().contains("partition"));
        let in_partition = of("partition = true\nadopt = true");
        assert!(in_partition.reservation.is_some() && in_partition.fallback.is_none());
        assert!(in_partition.words.starts_with("deadline"), "{}", in_partition.words);
    }
}
