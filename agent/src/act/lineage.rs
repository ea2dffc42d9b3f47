//! What threads and child processes may have from a creator that downbeat changed.
//!
//! A child starts with its creator's values. It may be met only after its creator was put back,
//! ended, or was followed by grandchildren, so what a process once passed on is kept a while.

use std::collections::HashMap;

use super::control::Control;
use super::journal::{Change, Past};
use super::subject::{Subject, ThreadId};
use super::value::{Sched, Value};

/// How long after a value was last seen as ours a child may have started with it, and how long it
/// is remembered; in clock ticks, of which a second has 100 on every architecture that runs this.
/// Two looks at the whole host lie within it.
pub const MEMORY: u64 = 200;

/// What each process may have passed on, by its id.
#[derive(Debug, Default)]
pub struct Lineage {
    by_process: HashMap<u32, Vec<Heirloom>>,
}

#[derive(Clone, Debug)]
struct Heirloom {
    change: Change,
    /// Clock ticks since boot.
    last_ours: u64,
}

impl Lineage {
    /// Notes that a thread of `pid` has `change` at the time `at`.
    pub fn note(&mut self, pid: u32, change: &Change, at: u64) {
        let heirlooms = self.by_process.entry(pid).or_default();
        let same = |known: &&mut Heirloom| {
            known.change.ours == change.ours && known.change.old == change.old
        };
        match heirlooms.iter_mut().find(same) {
            Some(known) => {
                known.last_ours = known.last_ours.max(at);
                known.change.since = known.change.since.min(change.since);
            }
            None => heirlooms.push(Heirloom { change: change.clone(), last_ours: at }),
        }
    }

    /// A child process that ended before it could be looked at: its own children have what
    /// `parent` passed on.
    pub fn pass_on(&mut self, parent: u32, child: u32) {
        if let Some(heirlooms) = self.by_process.get(&parent).cloned() {
            self.by_process.insert(child, heirlooms);
        }
    }

    /// What a thread that started at `start_time` can have from any of these processes.
    pub fn left_by(&self, creators: &[u32], start_time: u64) -> Vec<Change> {
        creators
            .iter()
            .filter_map(|pid| self.by_process.get(pid))
            .flatten()
            .filter(|it| (it.change.since..=it.last_ours + MEMORY).contains(&start_time))
            .map(|it| it.change.clone())
            .collect()
    }

    /// All of it, as the journal keeps it.
    pub fn past(&self) -> Vec<Past> {
        let past = |pid: u32| {
            move |it: &Heirloom| Past {
                pid,
                tid: 0,
                change: it.change.clone(),
                until: it.last_ours,
            }
        };
        self.by_process.iter().flat_map(|(pid, all)| all.iter().map(past(*pid))).collect()
    }

    /// Forgets what nobody can have inherited any more.
    pub fn expire(&mut self, now: u64) {
        self.by_process.retain(|_, heirlooms| {
            heirlooms.retain(|it| it.last_ours + MEMORY >= now);
            !heirlooms.is_empty()
        });
    }
}

/// Those of `changes` that `child` has by inheritance, at most one per lever: the value that it
/// has, and the old one of its creator.
pub fn inherited<'a, C: Control>(
    control: &C,
    child: ThreadId,
    changes: impl IntoIterator<Item = &'a Change>,
) -> Vec<Change> {
    let mut found: Vec<Change> = Vec::new();
    for change in changes {
        let lever = change.ours.lever();
        let of_process = lever.is_per_process() && child.pid != child.tid;
        if of_process || found.iter().any(|known| known.ours.lever() == lever) {
            continue;
        }
        let Ok(current) = control.read(lever, &Subject::Thread(child)) else {
            continue;
        };
        let differs = !current.agrees_with(&change.old) || lost_slack(control, child, &change.old);
        if comes_from(&current, &change.ours) && differs {
            found.push(Change { old: change.old.clone(), ours: current, since: change.since });
        }
    }
    found
}

/// Whether a child that has `current` can have it from a creator that has `ours`.
fn comes_from(current: &Value, ours: &Value) -> bool {
    match (current, ours) {
        (Value::Sched(current), Value::Sched(ours)) if ours.resets_on_fork() => {
            current.agrees_with(&Sched::DEFAULT) || current.agrees_with(ours)
        }
        _ => current.agrees_with(ours),
    }
}

/// Whether a child of a real-time thread started without timer slack, as the kernel has it.
fn lost_slack<C: Control>(control: &C, child: ThreadId, old: &Value) -> bool {
    matches!(old, Value::Sched(Sched { timer_slack: Some(1..), .. }))
        && control.timer_slack(child.tid).is_ok_and(|slack| slack == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u32 = 10;
    const B: u32 = 20;

    fn change(old: i16, ours: i16) -> Change {
        Change { old: Value::OomScoreAdj(old), ours: Value::OomScoreAdj(ours), since: 1000 }
    }

    #[test]
    fn what_was_put_back_a_moment_ago_is_still_inherited() {
        let mut lineage = Lineage::default();
        lineage.note(A, &change(0, 300), 1000);
        lineage.expire(1100);
        assert_eq!(lineage.left_by(&[B, A], 1100), [change(0, 300)]);
        assert!(lineage.left_by(&[A], 999).is_empty(), "it started before");
        assert!(lineage.left_by(&[A], 5000).is_empty(), "it started long after");
        lineage.expire(5000);
        assert!(lineage.by_process.is_empty());
    }

    #[test]
    fn a_grandchild_inherits_from_a_parent_that_nobody_saw() {
        let mut lineage = Lineage::default();
        lineage.note(A, &change(0, 300), 1000);
        lineage.pass_on(A, B);
        assert_eq!(lineage.left_by(&[B], 1001), [change(0, 300)]);
    }

    #[test]
    fn many_threads_with_the_same_values_are_one_heirloom() {
        let mut lineage = Lineage::default();
        for since in [1000, 1005, 990] {
            lineage.note(A, &Change { since, ..change(0, 300) }, 1005);
        }
        assert_eq!(lineage.left_by(&[A], 990), [Change { since: 990, ..change(0, 300) }]);
    }
}
