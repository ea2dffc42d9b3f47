//! Room for another model: which idle ones are unloaded for it. Pure, but for reading what is free.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

/// Bytes that stay free beside what is started: for the pool itself and what others ask for
/// meanwhile.
const RESERVE: u64 = 64 << 20;

/// A model that could be unloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Its name.
    pub name: String,
    /// When it last had work.
    pub used: Duration,
    /// Bytes that it uses.
    pub memory: u64,
}

/// Why a start has to wait, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Something is being unloaded for it.
    Soon(String),
    /// There is no room and there will be none.
    Short(String),
}

/// What is to be done for a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room.
    Enough,
    /// There is when what is being stopped has gone.
    Coming,
    /// There will be room when these are unloaded: those that had no work for longest.
    After(Vec<String>),
    /// There is none, whatever is unloaded.
    None,
}

/// How to make room for `need` bytes where `free` are and `coming` will be, when what is being
/// stopped has gone.
#[must_use]
pub fn make(need: u64, free: u64, coming: u64, idle: &[Idle]) -> Room {
    let need = need.saturating_add(RESERVE);
    if need <= free {
        return Room::Enough;
    }
    let mut free = free.saturating_add(coming);
    if need <= free {
        return Room::Coming;
    }
    let mut oldest_first: Vec<_> = idle.iter().collect();
    oldest_first.sort_by_key(|model| model.used);
    let mut names = Vec::new();
    for model in oldest_first {
        free = free.saturating_add(model.memory);
        names.push(model.name.clone());
        if need <= free {
            return Room::After(names);
        }
    }
    Room::None
}

/// Bytes that the host can still give (`MemAvailable`), of a file like `/proc/meminfo`; nothing
/// where it does not say.
#[must_use]
pub fn available(meminfo: &Path) -> Option<u64> {
    let text = fs::read_to_string(meminfo).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Bytes that a process has in memory; nothing where it is gone.
#[must_use]
pub fn resident(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten()?;
    text.split(' ').nth(1)?.parse::<u64>().ok()?.checked_mul(u64::try_from(page).ok()?)
}

/// A size for people.
#[must_use]
pub fn megabytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn idle(name: &str, used: u64, mib: u64) -> Idle {
        Idle { name: name.into(), used: Duration::from_secs(used), memory: mib * MIB }
    }

    #[test]
    fn the_one_used_longest_ago_goes_first_and_no_more_than_are_needed() {
        let all = [idle("b", 20, 100), idle("a", 10, 100), idle("c", 30, 100)];
        assert_eq!(make(100 * MIB, 200 * MIB, 0, &all), Room::Enough);
        assert_eq!(make(100 * MIB, 100 * MIB, 0, &all), Room::After(vec!["a".into()]));
        assert_eq!(make(200 * MIB, 100 * MIB, 0, &all), Room::After(vec!["a".into(), "b".into()]));
    }

    #[test]
    fn what_is_being_stopped_is_waited_for() {
        let all = [idle("a", 10, 100)];
        assert_eq!(make(200 * MIB, 100 * MIB, 170 * MIB, &all), Room::Coming);
        assert_eq!(make(200 * MIB, 100 * MIB, 70 * MIB, &all), Room::After(vec!["a".into()]));
    }

    #[test]
    fn nothing_is_unloaded_in_vain() {
        assert_eq!(make(500 * MIB, 100 * MIB, 0, &[idle("a", 1, 100)]), Room::None);
        assert_eq!(make(u64::MAX, u64::MAX - 1, 0, &[]), Room::None);
    }

    #[test]
    fn what_is_free_is_read_as_the_kernel_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("meminfo");
        fs::write(&file, "MemTotal:  16 kB\nMemAvailable:    7 kB\n").unwrap();
        assert_eq!(available(&file), Some(7 * 1024));
        fs::write(&file, "MemTotal:  16 kB\n").unwrap();
        assert_eq!(available(&file), None);
        assert!(resident(std::process::id()).unwrap() > 4096);
    }

    proptest! {
        #[test]
        fn what_goes_is_enough_and_none_of_it_is_too_much(
            need in 0..1000u64, free in 0..1000u64,
            models in prop::collection::vec((0..100u64, 0..300u64), 0..8),
        ) {
            let all: Vec<_> = models.iter().enumerate()
                .map(|(at, (used, mib))| idle(&at.to_string(), *used, *mib)).collect();
            let total = |names: &[String]| all.iter().filter(|it| names.contains(&it.name))
                .map(|it| it.memory).sum::<u64>();
            let needed = need * MIB + RESERVE;
            match make(need * MIB, free * MIB, 0, &all) {
                Room::Enough | Room::Coming => prop_assert!(needed <= free * MIB),
                Room::After(names) => {
                    prop_assert!(free * MIB + total(&names) >= needed);
                    let fewer = &names[..names.len() - 1];
                    prop_assert!(free * MIB + total(fewer) < needed);
                }
                Room::None => prop_assert!(
                    free * MIB + all.iter().map(|it| it.memory).sum::<u64>() < needed),
            }
        }
    }
}
