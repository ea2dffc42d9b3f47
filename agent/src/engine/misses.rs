//! Misses: from the kernel's story to the one cause that people see.

use std::time::{Duration, Instant};

use downbeat_abi as abi;
use downbeat_api::{Culprit, CulpritKind, Miss, Release, Stalls};

use super::Engine;
use super::jobs::Owner;
use super::threads::{monotonic_ns, unix_time};
use crate::model::cause::{MissFacts, cause};
use crate::model::gpu::gpu_state;
use crate::model::host_history::PressureSpan;

/// How long after a miss its cause is told: the kernel counts a throttled group only when it is
/// let go again, and the host's files are read each 250 ms.
const SETTLED: Duration = Duration::from_millis(600);

/// Misses that wait for that; more are told at once, with what is known by then.
const MOST_PENDING: usize = 1024;

/// A miss whose cause is not told yet.
#[derive(Debug)]
pub(super) struct Pending {
    seen: Instant,
    owner: Owner,
    miss: Box<abi::Miss>,
}

impl Engine {
    /// Takes in a miss. Its cause is told when the host's files had time to show theirs.
    pub(super) fn on_miss(&mut self, miss: Box<abi::Miss>) {
        let Some(owner) = self.owner(miss.tid) else { return };
        if self.following.pending.len() >= MOST_PENDING {
            self.tell_misses(Duration::ZERO);
        }
        self.following.pending.push(Pending { seen: Instant::now(), owner, miss });
    }

    /// Tells the causes of misses that have waited long enough.
    pub(super) fn tell_settled_misses(&mut self) {
        self.tell_misses(SETTLED);
    }

    fn tell_misses(&mut self, after: Duration) {
        let pending = &mut self.following.pending;
        let settled = pending.partition_point(|pending| pending.seen.elapsed() >= after);
        let settled: Vec<Pending> = pending.drain(..settled).collect();
        for pending in settled {
            let miss = self.tell(pending);
            self.following.misses.push(miss);
        }
    }

    fn tell(&self, pending: Pending) -> Miss {
        let Pending { owner, miss, .. } = pending;
        let gpus = self.snapshots.borrow();
        let abi::Miss { time_ns, tid, release, cpu, deadline_ns, story, .. } = *miss;
        let release_ns = story.release_ns;
        let stalls = Stalls {
            io_ns: story.io_ns,
            fault_ns: story.fault_ns,
            faults: story.faults,
            reclaim_ns: story.reclaim_ns,
            sleep_ns: story.sleep_ns,
        };
        let kept = story.culprits.iter().take(story.culprit_count as usize);
        let mut culprits: Vec<Culprit> = kept.filter_map(|c| self.culprit(c)).collect();
        if story.other_ns > 0 {
            let (kind, name) = (CulpritKind::Others, String::new());
            culprits.push(Culprit { kind, name, ns: story.other_ns });
        }
        culprits.sort_by_key(|culprit| std::cmp::Reverse(culprit.ns));
        let history = self.host_history();
        let quota = |class: &str| history.throttled_between(class, release_ns, time_ns);
        let (class, earlier) = self.class_in_force(tid, &owner);
        let pressure = history.pressure_between(release_ns, time_ns);
        let response_ns = time_ns.saturating_sub(release_ns);
        let start_ns = story.started_ns.saturating_sub(release_ns);
        let facts = MissFacts {
            deadline_ns,
            response_ns,
            start_ns,
            late_ns: story.late_ns,
            behind_ns: behind_ns(&story, release, response_ns),
            wait_ns: story.wait_ns,
            run_ns: story.run_ns,
            cost_ns: story.cost_ns,
            stalls,
            culprits: culprits.clone(),
            // What was read before a reload is kept under the name that the class had.
            throttled: class.as_deref().and_then(quota).or_else(|| quota(earlier.as_deref()?)),
            steal: history.steal_between(Some(cpu), release_ns, time_ns),
            memory_pressure: pressure.as_ref().and_then(PressureSpan::memory),
            io_pressure: pressure.as_ref().and_then(PressureSpan::io),
            gpu: gpu_state(&gpus.gpu, owner.pid, |pid| {
                self.world.get(pid).map(|process| process.facts.comm.clone())
            }),
        };
        let mut cause = cause(&facts);
        if let Some(earlier) = earlier {
            cause.evidence.push(format!("its class was {earlier} then; the policy has changed"));
        }
        let ago = monotonic_ns().saturating_sub(time_ns) as f64 / 1e9;
        Miss {
            // Given by the list that takes it.
            id: 0,
            unix_time: unix_time() - ago,
            tid,
            pid: owner.pid,
            thread: owner.thread,
            process: owner.process,
            class,
            deadline_ns,
            release_ns,
            release: match release {
                0 => Release::Timer,
                1 => Release::Interrupt,
                _ => Release::Wake,
            },
            response_ns,
            start_ns,
            late_ns: story.late_ns,
            wait_ns: story.wait_ns,
            run_ns: story.run_ns,
            cost_ns: story.cost_ns,
            stalls,
            culprits,
            cause,
        }
    }

    /// The class under which a miss is told, and the one that its thread had then where that is
    /// another: a reload may have come between, and what it took away would be counted for ever.
    fn class_in_force(&self, tid: u32, owner: &Owner) -> (Option<String>, Option<String>) {
        let in_force = |name: &String| self.policy.class_named(name).is_some();
        let Some(then) = owner.class.clone().filter(|name| !in_force(name)) else {
            return (owner.class.clone(), None);
        };
        let now = self.owner(tid).filter(|now| now.start_time == owner.start_time);
        (now.and_then(|now| now.class).filter(in_force), Some(then))
    }
}

/// How long a timer's release came before the thread was free: what nothing else accounts for.
fn behind_ns(story: &abi::Story, release: u32, response_ns: u64) -> u64 {
    if release != abi::ReleaseKind::Timer as u32 {
        return 0;
    }
    let known = [story.late_ns, story.wait_ns, story.run_ns];
    let asleep = [story.io_ns, story.fault_ns, story.sleep_ns];
    known.into_iter().chain(asleep).fold(response_ns, u64::saturating_sub)
}
