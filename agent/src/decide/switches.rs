//! What the host's own switches should be while some classes have threads.

use std::collections::BTreeMap;

use downbeat_api::HostFacts;
use downbeat_policy::{Class, Energy, Irqs};

use super::affinity;
use crate::observe::machine::Machine;

/// What all classes that run ask of the host together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// The longest time that an idle CPU may take to wake, microseconds.
    pub wakeup_latency_us: Option<u32>,
    /// CPUs that device interrupts keep off.
    pub quiet_cpus: Vec<u32>,
    /// Energy preference by frequency domain.
    pub energy: BTreeMap<u32, &'static str>,
}

/// Joins the wishes of classes: the shortest latency, the interrupts kept off from all, the
/// preference that asks for most speed.
#[must_use]
pub fn switches<'a>(
    classes: impl IntoIterator<Item = &'a Class>,
    host: &HostFacts,
    machine: &Machine,
) -> Switches {
    let mut all = Switches::default();
    let mut energy: BTreeMap<u32, Energy> = BTreeMap::new();
    for class in classes {
        let cpus = class.cpus.as_ref().map(|choice| affinity::cpus(choice, host).cpus);
        if let Some(latency) = class.wakeup_latency {
            let us = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
            all.wakeup_latency_us = Some(all.wakeup_latency_us.map_or(us, |other| other.min(us)));
        }
        if class.irqs == Irqs::KeepOff {
            all.quiet_cpus.extend(cpus.iter().flatten());
        }
        let Some(wanted) = class.energy else { continue };
        for domain in &machine.domains {
            let concerns = |cpus: &Vec<u32>| domain.cpus.iter().any(|cpu| cpus.contains(cpu));
            let takes = domain.preferences.iter().any(|name| name == wanted.name());
            if takes && cpus.as_ref().is_none_or(concerns) {
                let now = energy.entry(domain.number).or_insert(wanted);
                if speed(wanted) < speed(*now) {
                    *now = wanted;
                }
            }
        }
    }
    all.quiet_cpus.sort_unstable();
    all.quiet_cpus.dedup();
    all.energy = energy.into_iter().map(|(domain, wanted)| (domain, wanted.name())).collect();
    all
}

/// Place in the order from fast to frugal.
fn speed(energy: Energy) -> Option<usize> {
    Energy::ALL.iter().position(|other| *other == energy)
}

impl Switches {
    /// Where an interrupt goes that is served by `now`: off the quiet CPUs, and where nothing of
    /// its own set is left, to any other. Nothing where there is no other.
    #[must_use]
    pub fn away(&self, now: &[u32], online: &[u32]) -> Option<Vec<u32>> {
        let loud = |cpus: &[u32]| -> Vec<u32> {
            cpus.iter().copied().filter(|cpu| !self.quiet_cpus.contains(cpu)).collect()
        };
        [loud(now), loud(online)].into_iter().find(|cpus| !cpus.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{class, host};
    use super::*;
    use crate::observe::machine::FrequencyDomain;

    fn machine() -> Machine {
        let names = ["performance", "balance_performance", "power"];
        let domain = |number: u32| FrequencyDomain {
            number,
            cpus: vec![number],
            preferences: names.map(str::to_owned).to_vec(),
        };
        Machine { domains: vec![domain(0), domain(1)], ..Machine::default() }
    }

    #[test]
    fn the_most_urgent_wish_wins() {
        let classes = [
            "tier = \"realtime\"\ncpus = \"1\"\nirqs = \"keep-off\"\nwakeup_latency = \"20us\"\n\
             energy = \"performance\"",
            "tier = \"interactive\"\nwakeup_latency = \"100us\"\nenergy = \"power\"",
        ]
        .map(class);
        let all = switches(&classes, &host(), &machine());
        assert_eq!(all.wakeup_latency_us, Some(20));
        assert_eq!(all.quiet_cpus, [1]);
        assert_eq!(all.energy, BTreeMap::from([(0, "power"), (1, "performance")]));
        assert_eq!(switches([], &host(), &machine()), Switches::default());
    }

    #[test]
    fn an_interrupt_goes_off_quiet_cpus_as_long_as_there_are_others() {
        let quiet = Switches { quiet_cpus: vec![1, 2], ..Switches::default() };
        assert_eq!(quiet.away(&[0, 1, 2, 3], &[0, 1, 2, 3]), Some(vec![0, 3]));
        assert_eq!(quiet.away(&[2], &[0, 1, 2, 3]), Some(vec![0, 3]));
        assert_eq!(quiet.away(&[2], &[1, 2]), None);
    }
}
