//! The policy in force: classes, their targets on this host, their slots in the kernel programs.

use std::collections::HashMap;

use downbeat_api::HostFacts;
use downbeat_policy::{Class, Deadline, PolicySet, ProcessFacts, ProcessKind};

use crate::decide::{self, Target};
use crate::model::{Assigned, By};

/// Slots in the kernel programs' histograms, one per class name met since the agent started.
#[derive(Debug)]
pub struct Slots {
    by_name: HashMap<String, u32>,
    capacity: u32,
}

impl Slots {
    /// No class has a slot yet; there are `capacity` of them.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        Self { by_name: HashMap::new(), capacity }
    }

    /// The class's slot, now and after every reload; nothing when all are taken.
    fn of(&mut self, name: &str) -> Option<u32> {
        if let Some(slot) = self.by_name.get(name) {
            return Some(*slot);
        }
        let slot = u32::try_from(self.by_name.len()).ok().filter(|slot| *slot < self.capacity)?;
        self.by_name.insert(name.to_owned(), slot);
        Some(slot)
    }

    /// The class whose slot it is.
    pub fn name(&self, slot: u32) -> Option<&str> {
        self.by_name.iter().find(|(_, of)| **of == slot).map(|(name, _)| name.as_str())
    }
}

/// A policy and what it means on this host.
#[derive(Debug, Default)]
pub struct Policy {
    /// Classes and rules.
    pub set: PolicySet,
    /// Per class.
    pub targets: Vec<Target>,
    /// Per class, its slot in the kernel programs.
    pub slots: Vec<Option<u32>>,
}

impl Policy {
    /// Works out what each class means on this host.
    #[must_use]
    pub fn new(set: PolicySet, host: &HostFacts, slots: &mut Slots) -> Self {
        let targets = set.classes.iter().map(|class| decide::target(class, host)).collect();
        let slots = set.classes.iter().map(|class| slots.of(&class.name)).collect();
        Self { set, targets, slots }
    }

    /// The class of a thread: what a person gave its process by hand, else by the first rule, else
    /// what was discovered of the process.
    #[must_use]
    pub fn assign(
        &self,
        by_hand: Option<usize>,
        discovered: Option<usize>,
        facts: &ProcessFacts,
        thread: &str,
    ) -> Option<Assigned> {
        match by_hand {
            Some(class) => Some(Assigned { class, by: By::Hand }),
            None => {
                let discovered = discovered.filter(|_| facts.kind == ProcessKind::Ordinary);
                let by_rule = self.set.classify(facts, thread).map(Assigned::from);
                by_rule.or(discovered.map(|class| Assigned { class, by: By::Discovery }))
            }
        }
    }

    /// The place of a class by its name.
    #[must_use]
    pub fn class_named(&self, name: &str) -> Option<usize> {
        self.set.classes.iter().position(|class| class.name == name)
    }

    /// The deadline of a class that names one, nanoseconds; `auto` and none are absent.
    pub fn named_deadline_ns(class: &Class) -> Option<u64> {
        match class.deadline? {
            Deadline::After(after) => u64::try_from(after.as_nanos()).ok(),
            Deadline::Auto => None,
        }
    }

    /// What the host could not grant, per class that asked for it.
    pub fn fallbacks(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().filter_map(|target| target.fallback.as_deref())
    }

    /// Classes that found no slot, by name.
    pub fn unmeasured(&self) -> impl Iterator<Item = &str> {
        let names = self.set.classes.iter().map(|class| class.name.as_str());
        names.zip(&self.slots).filter(|(_, slot)| slot.is_none()).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_keeps_its_slot_and_a_full_house_says_so() {
        let mut slots = Slots::new(2);
        assert_eq!(slots.of("voice"), Some(0));
        assert_eq!(slots.of("batch"), Some(1));
        assert_eq!(slots.of("voice"), Some(0));
        assert_eq!(slots.of("third"), None);
    }
}
