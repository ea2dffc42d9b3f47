//! What the host took lately, by time: to say why a frame was late that ended some time ago.
//!
//! Everything here is read now and then, so a question about 10 ms is answered by the readings
//! that lie around them: `ns` of `window_ns`, not scaled down to what was asked, since nobody knows
//! when within the window it was. The kernel counts throttling when the group may run again; one that
//! is not over yet is told by the reading after its end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use downbeat_api::CpuTime;

use super::cause::{Steal, Throttled};
use crate::observe::cgroups::Throttle;
use crate::observe::pressure::{Totals, share};

/// What is kept, nanoseconds: misses are explained within a second or two.
const KEPT_NS: u64 = 30_000_000_000;

/// Entries of one kind that are kept: 30 s of four readings a second, each with 32 groups.
const KEPT: usize = 4096;

/// What the host took over the last 30 s.
#[derive(Clone, Debug, Default)]
pub struct HostHistory {
    throttles: VecDeque<Throttle>,
    steal: VecDeque<StealSpan>,
    pressure: VecDeque<PressureSpan>,
    /// When steal was last read, and each CPU's steal since boot in nanoseconds.
    steal_before: Option<(u64, BTreeMap<u32, u64>)>,
    pressure_before: Option<(u64, Totals)>,
}

/// Steal of all CPUs between two readings.
#[derive(Clone, Debug)]
struct StealSpan {
    from_ns: u64,
    to_ns: u64,
    /// Of the CPUs of which any was taken, ascending.
    cpus: Vec<(u32, u64)>,
}

/// Time that tasks of the host waited for something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PressureSpan {
    /// Monotonic time of the first reading.
    pub from_ns: u64,
    /// Monotonic time of the last reading.
    pub to_ns: u64,
    /// What passed between them.
    pub waits: Totals,
}

impl HostHistory {
    /// Takes in what quotas took.
    pub fn throttled(&mut self, told: impl IntoIterator<Item = Throttle>) {
        for throttle in told {
            push(&mut self.throttles, throttle, |throttle| throttle.to_ns);
        }
    }

    /// Takes in the CPUs' times as read at `now_ns`. A CPU that was offline says nothing yet.
    pub fn cpu_times(&mut self, now_ns: u64, times: &[CpuTime]) {
        let ns = |time: &CpuTime| (time.id, (time.steal * 1e9) as u64);
        let now: BTreeMap<u32, u64> = times.iter().map(ns).collect();
        if let Some((from_ns, before)) = &self.steal_before {
            let cpus = now
                .iter()
                .filter_map(|(cpu, ns)| Some((*cpu, ns.saturating_sub(*before.get(cpu)?))))
                .filter(|(_, ns)| *ns > 0)
                .collect();
            let steal = StealSpan { from_ns: *from_ns, to_ns: now_ns, cpus };
            push(&mut self.steal, steal, |steal| steal.to_ns);
        }
        self.steal_before = Some((now_ns, now));
    }

    /// Takes in the host's pressure as read at `now_ns`.
    pub fn pressure(&mut self, now_ns: u64, totals: Totals) {
        if let Some((from_ns, before)) = self.pressure_before {
            let waits = totals.since(before);
            let span = PressureSpan { from_ns, to_ns: now_ns, waits };
            push(&mut self.pressure, span, |span| span.to_ns);
        }
        self.pressure_before = Some((now_ns, totals));
    }

    /// Whether a quota held `class` back between two monotonic times, and which one most; nothing
    /// when none did, as far as it was read. Where the time ends in the last quarter of a second,
    /// ask again a tick later. The kernel counts each CPU of the group apart, so the time may be
    /// longer than its window.
    #[must_use]
    pub fn throttled_between(&self, class: &str, from_ns: u64, to_ns: u64) -> Option<Throttled> {
        let mut by_group: BTreeMap<&Arc<str>, (u64, u64)> = BTreeMap::new();
        for throttle in self.throttles.iter().filter(|throttle| &*throttle.class == class) {
            // It may have begun before the reading that it was counted after.
            let begun = throttle.from_ns.min(throttle.to_ns.saturating_sub(throttle.ns));
            if begun < to_ns && throttle.to_ns > from_ns {
                let (ns, window_ns) = by_group.entry(&throttle.path).or_default();
                *ns = ns.saturating_add(throttle.ns);
                let read = throttle.to_ns.saturating_sub(throttle.from_ns);
                *window_ns = window_ns.saturating_add(read);
            }
        }
        let (path, (ns, window_ns)) = by_group.into_iter().max_by_key(|(_, (ns, _))| *ns)?;
        Some(Throttled { ns, window_ns, cgroup: path.to_string() })
    }

    /// What the hypervisor took of one CPU, or of all together, between two monotonic times, in
    /// steps of 10 ms as the kernel shows it; nothing where it was not read. Zero means that it was
    /// read and nothing was taken.
    #[must_use]
    pub fn steal_between(&self, cpu: Option<u32>, from_ns: u64, to_ns: u64) -> Option<Steal> {
        let mut stolen: Option<Steal> = None;
        for steal in self.steal.iter().filter(|s| s.from_ns < to_ns && s.to_ns > from_ns) {
            let sum = stolen.get_or_insert(Steal::default());
            let wanted = |(id, _): &&(u32, u64)| cpu.is_none_or(|cpu| cpu == *id);
            sum.ns += steal.cpus.iter().filter(wanted).map(|(_, ns)| ns).sum::<u64>();
            let read = steal.to_ns.saturating_sub(steal.from_ns);
            sum.window_ns = sum.window_ns.saturating_add(read);
        }
        stolen
    }

    /// What tasks of the host waited for between two monotonic times; nothing where it was not
    /// read.
    #[must_use]
    pub fn pressure_between(&self, from_ns: u64, to_ns: u64) -> Option<PressureSpan> {
        let mut found = self.pressure.iter().filter(|p| p.from_ns < to_ns && p.to_ns > from_ns);
        let first = *found.next()?;
        Some(found.fold(first, |sum, span| PressureSpan {
            from_ns: sum.from_ns.min(span.from_ns),
            to_ns: sum.to_ns.max(span.to_ns),
            waits: sum.waits.plus(span.waits),
        }))
    }
}

impl PressureSpan {
    /// The time that it covers, nanoseconds.
    #[must_use]
    pub fn span_ns(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns)
    }

    /// The share of it in which some task waited for a CPU, 0 to 1.
    #[must_use]
    pub fn cpu(&self) -> Option<f64> {
        share(0, self.waits.cpu_some, self.span_ns())
    }

    /// The same for memory.
    #[must_use]
    pub fn memory(&self) -> Option<f64> {
        share(0, self.waits.memory_some, self.span_ns())
    }

    /// The same for block devices.
    #[must_use]
    pub fn io(&self) -> Option<f64> {
        share(0, self.waits.io_some, self.span_ns())
    }
}

/// Appends, and lets go of what is old or too much.
fn push<T>(entries: &mut VecDeque<T>, entry: T, ended: impl Fn(&T) -> u64) {
    let oldest = ended(&entry).saturating_sub(KEPT_NS);
    while entries.front().is_some_and(|front| ended(front) < oldest) || entries.len() >= KEPT {
        entries.pop_front();
    }
    entries.push_back(entry);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn throttle(class: &str, path: &str, (from, to): (u64, u64), ms: u64) -> Throttle {
        Throttle {
            class: class.into(),
            path: path.into(),
            from_ns: from * MS,
            to_ns: to * MS,
            ns: ms * MS,
        }
    }

    fn cpu(id: u32, steal: f64) -> CpuTime {
        CpuTime { id, steal, ..CpuTime::default() }
    }

    #[test]
    fn the_group_that_was_held_back_longest_is_named() {
        let mut history = HostHistory::default();
        history.throttled([
            throttle("voice", "/a", (1000, 1250), 20),
            throttle("voice", "/b", (1000, 1250), 30),
            throttle("voice", "/a", (1250, 1500), 15),
            throttle("batch", "/c", (1000, 1250), 200),
        ]);
        let told = |from, to| history.throttled_between("voice", from * MS, to * MS);
        let told_of = |path: &str, ns, span| {
            Some(Throttled { ns: ns * MS, window_ns: span * MS, cgroup: path.into() })
        };
        assert_eq!(told(1100, 1110), told_of("/b", 30, 250));
        assert_eq!(told(1200, 1300), told_of("/a", 35, 500));
        assert_eq!(told(1500, 1600), None);
        assert_eq!(told(900, 960), None);
        assert_eq!(history.throttled_between("video", 0, 9000 * MS), None);
    }

    #[test]
    fn a_throttle_that_is_longer_than_the_reading_began_before_it() {
        let mut history = HostHistory::default();
        history.throttled([throttle("voice", "/a", (1000, 1250), 400)]);
        assert!(history.throttled_between("voice", 870 * MS, 880 * MS).is_some());
        assert!(history.throttled_between("voice", 800 * MS, 840 * MS).is_none());
    }

    #[test]
    fn steal_is_told_by_cpu_and_zero_is_not_unknown() {
        let mut history = HostHistory::default();
        history.cpu_times(1000 * MS, &[cpu(0, 5.0), cpu(1, 7.0)]);
        assert_eq!(history.steal_between(None, 0, 2000 * MS), None, "one reading says nothing");
        history.cpu_times(1250 * MS, &[cpu(0, 5.0), cpu(1, 7.03), cpu(2, 9.0)]);
        let ns = |cpu, from, to| {
            history
                .steal_between(cpu, from * MS, to * MS)
                .map(|s| (s.ns.div_ceil(MS), s.window_ns / MS))
        };
        assert_eq!(ns(Some(0), 1100, 1110), Some((0, 250)));
        assert_eq!(ns(Some(1), 1100, 1110), Some((30, 250)));
        assert_eq!(ns(Some(2), 1100, 1110), Some((0, 250)), "it came online since");
        assert_eq!(ns(None, 1100, 1110), Some((30, 250)));
        assert_eq!(ns(None, 1250, 1260), None);
    }

    #[test]
    fn pressure_adds_up_over_readings() {
        let mut history = HostHistory::default();
        for (at, cpu_some) in [(1000, 10), (1250, 110), (1500, 160)] {
            history.pressure(at * MS, Totals { cpu_some, ..Totals::default() });
        }
        let span = history.pressure_between(1200 * MS, 1300 * MS).unwrap();
        assert_eq!((span.waits.cpu_some, span.span_ns()), (150, 500 * MS));
        assert_eq!((span.cpu(), span.io()), (Some(0.0003), Some(0.0)));
        let span = history.pressure_between(1300 * MS, 1310 * MS).unwrap();
        assert_eq!((span.waits.cpu_some, span.from_ns), (50, 1250 * MS));
        assert_eq!(history.pressure_between(0, 1000 * MS), None);
    }

    #[test]
    fn what_is_old_is_let_go() {
        let mut history = HostHistory::default();
        for second in 0..100 {
            history.throttled([throttle("voice", "/a", (second * 1000, second * 1000 + 250), 1)]);
        }
        assert!(history.throttled_between("voice", 0, 60_000 * MS).is_none());
        assert!(history.throttled_between("voice", 80_000 * MS, 81_000 * MS).is_some());
        history.throttled((0..10_000).map(|_| throttle("voice", "/a", (99_000, 99_250), 1)));
        assert_eq!(history.throttles.len(), KEPT);
    }

    proptest! {
        #[test]
        fn any_order_of_times_is_survived(
            readings in prop::collection::vec((any::<u64>(), any::<u64>(), 0..u64::MAX / 4096), 0..20),
            from in any::<u64>(), to in any::<u64>(),
        ) {
            let mut history = HostHistory::default();
            for (a, b, ns) in readings {
                let told = Throttle { class: "c".into(), path: "/".into(), from_ns: a, to_ns: b, ns };
                history.throttled([told]);
                history.cpu_times(a, &[cpu(0, b as f64 / 1e12)]);
                history.pressure(a, Totals { io_full: b / 4096, ..Totals::default() });
            }
            let _ = history.throttled_between("c", from, to);
            let _ = history.steal_between(None, from, to);
            let _ = history.pressure_between(from, to);
        }
    }
}
