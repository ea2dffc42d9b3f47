//! Classes that people gave to single processes by hand. They go before every rule, end by
//! themselves where a time was given, and outlive a reload: a class is known by its name.

use std::collections::BTreeMap;

/// Processes that can have a class by hand at a time. A person sets a few; more is a program that
/// should be a rule.
pub const MOST: usize = 1024;

/// One process's class by hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// Start time of the process, clock ticks since boot: its id alone is reused.
    pub start_time: u64,
    /// The class's name.
    pub class: String,
    /// Its place in the policy in force; absent while that has no class of this name.
    pub index: Option<usize>,
    /// When it ends, nanoseconds of the monotonic clock; absent: with the process.
    pub until_ns: Option<u64>,
    /// When it was set, seconds since 1970.
    pub since_unix: f64,
    /// Who set it.
    pub by_uid: u32,
}

/// All of them, by process id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    by_pid: BTreeMap<u32, Override>,
}

impl Overrides {
    /// Gives a process a class, in place of what it had by hand before. False when there are
    /// [`MOST`] others already.
    pub fn set(&mut self, pid: u32, wanted: Override) -> bool {
        if self.by_pid.len() >= MOST && !self.by_pid.contains_key(&pid) {
            return false;
        }
        self.by_pid.insert(pid, wanted);
        true
    }

    /// Takes a process's class by hand away; returns it.
    pub fn release(&mut self, pid: u32) -> Option<Override> {
        self.by_pid.remove(&pid)
    }

    /// What a process has by hand.
    #[must_use]
    pub fn get(&self, pid: u32, start_time: u64) -> Option<&Override> {
        self.by_pid.get(&pid).filter(|found| found.start_time == start_time)
    }

    /// Place of the class that a process has by hand in the policy in force.
    #[must_use]
    pub fn class_of(&self, pid: u32, start_time: u64) -> Option<usize> {
        self.get(pid, start_time)?.index
    }

    /// Finds every class in a new policy by its name.
    pub fn find_classes(&mut self, find: impl Fn(&str) -> Option<usize>) {
        for of_process in self.by_pid.values_mut() {
            of_process.index = find(&of_process.class);
        }
    }

    /// Ends those whose time is over; returns their processes.
    pub fn expire(&mut self, now_ns: u64) -> Vec<u32> {
        let over = |found: &Override| found.until_ns.is_some_and(|until| until <= now_ns);
        let ended: Vec<u32> =
            self.by_pid.iter().filter(|(_, found)| over(found)).map(|(pid, _)| *pid).collect();
        self.by_pid.retain(|_, found| !over(found));
        ended
    }

    /// Forgets those whose process is gone.
    pub fn keep_living(&mut self, lives: impl Fn(u32, u64) -> bool) {
        self.by_pid.retain(|pid, found| lives(*pid, found.start_time));
    }

    /// All, by process id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Override)> {
        self.by_pid.iter().map(|(pid, found)| (*pid, found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voice(until_ns: Option<u64>) -> Override {
        let class = "voice".to_owned();
        Override { start_time: 7, class, index: Some(2), until_ns, since_unix: 0.0, by_uid: 0 }
    }

    #[test]
    fn it_belongs_to_one_life_of_a_process_id() {
        let mut overrides = Overrides::default();
        assert!(overrides.set(10, voice(None)));
        assert_eq!(overrides.class_of(10, 7), Some(2));
        assert_eq!(overrides.class_of(10, 8), None, "the id is another process's now");
        overrides.keep_living(|_, start_time| start_time == 8);
        assert_eq!(overrides, Overrides::default());
    }

    #[test]
    fn it_ends_when_its_time_is_over_and_not_before() {
        let mut overrides = Overrides::default();
        overrides.set(10, voice(Some(100)));
        overrides.set(11, voice(None));
        assert!(overrides.expire(99).is_empty());
        assert_eq!(overrides.expire(100), [10]);
        assert!(overrides.expire(u64::MAX).is_empty(), "one without a time ends with its process");
        assert_eq!(overrides.class_of(11, 7), Some(2));
    }

    #[test]
    fn a_class_that_a_reload_moved_is_found_by_its_name_and_one_that_is_gone_waits() {
        let mut overrides = Overrides::default();
        overrides.set(10, voice(None));
        overrides.find_classes(|name| (name == "voice").then_some(5));
        assert_eq!(overrides.class_of(10, 7), Some(5));
        overrides.find_classes(|_| None);
        assert_eq!(overrides.class_of(10, 7), None);
        assert_eq!(overrides.get(10, 7).unwrap().class, "voice");
        overrides.find_classes(|_| Some(0));
        assert_eq!(overrides.class_of(10, 7), Some(0));
    }

    #[test]
    fn a_full_house_takes_no_new_process_and_still_changes_a_known_one() {
        let mut overrides = Overrides::default();
        for pid in 0..MOST as u32 {
            assert!(overrides.set(pid, voice(None)));
        }
        assert!(!overrides.set(MOST as u32, voice(None)));
        assert!(overrides.set(0, voice(Some(1))));
    }
}
