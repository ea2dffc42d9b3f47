//! Which instances to start and which to let go: pure.
//!
//! Instances of another configuration or model than the current are replaced one by one: a new one
//! is started, and only when it is ready an old one leaves. New ones that never become ready replace
//! nothing.

/// An instance as this decision needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its place among the worker's instances, from 0.
    pub slot: usize,
    /// Whether it runs what is declared now.
    pub current: bool,
    /// Whether it takes requests.
    pub ready: bool,
    /// Whether it was told to leave.
    pub leaving: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Slots of instances to start.
    pub start: Vec<usize>,
    /// Slots of instances that are to answer what they have and leave.
    pub leave: Vec<usize>,
}

/// What brings a worker to `wanted` current instances. Where old and new cannot run side by side
/// (`overlap`), since both need the same socket or port, the old ones leave first.
#[must_use]
pub fn plan(wanted: usize, overlap: bool, instances: &[Instance]) -> Plan {
    let staying = |current: bool| {
        let mut found: Vec<_> =
            instances.iter().copied().filter(|it| it.current == current && !it.leaving).collect();
        // Who is to leave first comes first: not ready before ready, high before low.
        found.sort_by_key(|it| (it.ready, std::cmp::Reverse(it.slot)));
        found
    };
    let (new, old) = (staying(true), staying(false));
    let still_there = instances.iter().any(|it| !it.current || it.leaving);
    let ready = new.iter().filter(|it| it.ready).count();
    let keep_old = if overlap { wanted.saturating_sub(ready) } else { 0 };
    let leave_old = old.len().saturating_sub(keep_old);
    let leave_new = new.len().saturating_sub(wanted);
    let leave = old[..leave_old].iter().chain(&new[..leave_new]).map(|it| it.slot).collect();
    let count = if overlap || !still_there { wanted.saturating_sub(new.len()) } else { 0 };
    let taken = |slot: &usize| instances.iter().any(|it| it.slot == *slot);
    let start = (0..).filter(|slot| !taken(slot)).take(count).collect();
    Plan { start, leave }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn instance(slot: usize, current: bool, ready: bool) -> Instance {
        Instance { slot, current, ready, leaving: false }
    }

    #[test]
    fn what_is_missing_is_started_in_the_first_free_slots() {
        let some = [instance(1, true, true)];
        assert_eq!(plan(3, true, &some), Plan { start: vec![0, 2], leave: vec![] });
    }

    #[test]
    fn too_many_leave_and_who_is_not_ready_leaves_first() {
        let some = [instance(0, true, false), instance(1, true, true), instance(2, true, true)];
        assert_eq!(plan(2, true, &some), Plan { start: vec![], leave: vec![0] });
        assert_eq!(plan(1, true, &some), Plan { start: vec![], leave: vec![0, 2] });
        assert_eq!(plan(0, true, &some).leave.len(), 3);
    }

    #[test]
    fn an_old_one_stays_until_a_new_one_is_ready() {
        let old = instance(0, false, true);
        assert_eq!(plan(1, true, &[old]), Plan { start: vec![1], leave: vec![] });
        assert_eq!(plan(1, true, &[old, instance(1, true, false)]), Plan::default());
        let plan = plan(1, true, &[old, instance(1, true, true)]);
        assert_eq!(plan, Plan { start: vec![], leave: vec![0] });
    }

    #[test]
    fn where_both_need_the_same_socket_the_old_one_goes_first() {
        let old = instance(0, false, true);
        assert_eq!(plan(1, false, &[old]), Plan { start: vec![], leave: vec![0] });
        let leaving = Instance { leaving: true, ..old };
        assert_eq!(plan(1, false, &[leaving]), Plan::default());
        let again = Instance { current: true, ..leaving };
        assert_eq!(plan(1, false, &[again]), Plan::default(), "declared again while it leaves");
        assert_eq!(plan(1, false, &[]), Plan { start: vec![0], leave: vec![] });
    }

    proptest! {
        /// From any beginning, with instances that become ready and leave in time, the worker ends
        /// up with what is wanted; and with overlap it never has fewer ready ones than it had or
        /// should have.
        #[test]
        fn it_arrives_without_a_gap(
            wanted in 0..5usize, overlap: bool,
            first in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 0..6),
        ) {
            let mut now: Vec<_> = first.iter().enumerate().map(|(slot, (current, ready, leaving))|
                Instance { slot, current: *current, ready: *ready, leaving: *leaving }).collect();
            for _ in 0..20 {
                let serving = |all: &[Instance]| all.iter().filter(|it| it.ready && !it.leaving).count();
                let before = serving(&now);
                let steps = plan(wanted, overlap, &now);
                for it in &mut now {
                    it.leaving |= steps.leave.contains(&it.slot);
                }
                prop_assert!(!overlap || serving(&now) >= before.min(wanted));
                now.retain(|it| !it.leaving);
                for it in &mut now {
                    it.ready = true;
                }
                now.extend(steps.start.iter().map(|slot| instance(*slot, true, false)));
            }
            prop_assert_eq!(now.len(), wanted);
            prop_assert!(now.iter().all(|it| it.current));
        }
    }
}
