//! Real time that has to be followed: reservations whose numbers are learned, and threads that run
//! away.

use std::collections::HashMap;
use std::time::Duration;

use downbeat_api::{Rhythm, ThreadJobs};
use downbeat_policy::Deadline;

use crate::act::{Demoted, Done, Event, Given, Kernel, Lever, RunawayWatch, Sched, Value};
use crate::decide::{Measured, still_fits};
use crate::engine::Engine;
use crate::observe::kernel::Sleepers;
use crate::observe::run_times::{RunTimes, voluntary_switches};
use crate::roots::Roots;

use super::probation::{Probations, Seen};

/// Real time that was given.
#[derive(Debug)]
pub(super) struct Realtime {
    watch: Option<RunawayWatch>,
    /// By thread, what its reservation was learned to be.
    reservations: HashMap<u32, Sched>,
    probations: Probations,
}

impl Realtime {
    pub(super) fn new(roots: &Roots, acts: bool, sleepers: Option<Sleepers>) -> Self {
        let sleeps = move |tid| sleepers.as_ref().is_some_and(|sleepers| sleepers.has(tid));
        let start = || RunawayWatch::start(Kernel::new(roots), roots, sleeps);
        let watch = acts.then(start).and_then(|started| {
            started.inspect_err(|error| tracing::error!("no watch for runaways: {error}")).ok()
        });
        Self { watch, reservations: HashMap::new(), probations: Probations::default() }
    }

    pub(super) fn reservation(&self, tid: u32) -> Option<Sched> {
        self.reservations.get(&tid).copied()
    }
}

impl Engine {
    /// Has the watch follow what was given and taken.
    pub(in crate::engine) fn watch_realtime(&self, done: &[Done]) {
        let Some(watch) = &self.levers.realtime.watch else { return };
        for done in done.iter().filter(|done| done.lever == Lever::Sched) {
            let Some(thread) = done.subject.thread() else { continue };
            match &done.event {
                Event::Applied { old: Value::Sched(old), new: Value::Sched(new) }
                    if new.is_realtime() && !new.is_reservation() && !old.is_realtime() =>
                {
                    let limit = self.longest_frame(thread.pid, thread.tid);
                    watch.watch(Given { thread, ours: *new, old: *old, limit });
                }
                // A value that was refused is followed by the one in its place.
                Event::Failed { .. } => {}
                _ => watch.forget(thread.tid),
            }
        }
    }

    /// The deadline of a thread's class: one that runs for longer on end is late anyway.
    fn longest_frame(&self, pid: u32, tid: u32) -> Duration {
        let thread = self.world.get(pid).and_then(|process| process.threads.get(&tid));
        let class = thread
            .and_then(|thread| thread.classified)
            .and_then(|assigned| self.policy.set.classes.get(assigned.class));
        match class.and_then(|class| class.deadline) {
            Some(Deadline::After(deadline)) => deadline,
            Some(Deadline::Auto) | None => Duration::ZERO,
        }
    }

    /// Tells of threads that lost their real time since they ran away.
    pub(in crate::engine) fn tell_runaways(&mut self) {
        let watch = self.levers.realtime.watch.as_ref();
        let demoted = watch.map_or_else(Vec::new, RunawayWatch::demoted);
        for Demoted { thread, outcome } in demoted {
            let ran = match outcome {
                Ok(ran) => ran,
                Err(error) => {
                    tracing::error!("thread {} runs away and stays real-time: {error}", thread.tid);
                    continue;
                }
            };
            let needs = self.levers.realtime.probations.begin(thread);
            let reason = format!(
                "it had a CPU for {} ms on end, longer than a frame may take: it is as it was \
                 before until it sleeps for half of {} s",
                ran.as_millis(),
                needs.as_secs()
            );
            let done = self.actuator.as_mut().map(|it| it.demoted(thread, &reason));
            self.enter(&done.unwrap_or_default());
        }
    }

    /// Gives real time back to threads that lost it and sleep again.
    pub(in crate::engine) fn end_probations(&mut self) {
        let roots = &self.levers.roots;
        let over = self.levers.realtime.probations.look(self.started.elapsed(), |thread| {
            let times = RunTimes::read(roots, thread.pid, thread.tid).ok()?;
            let sleeps = voluntary_switches(&roots.proc, thread.pid, thread.tid).ok()?;
            Some(Seen { times, sleeps })
        });
        for thread in over {
            let process = self.world.get(thread.pid);
            let known = process.filter(|it| it.thread_id(thread.tid) == Some(thread));
            let of_thread = known.and_then(|it| it.threads.get(&thread.tid));
            let Some(assigned) = of_thread.and_then(|it| it.classified) else { continue };
            if let Some(actuator) = &mut self.actuator {
                actuator.forgive(thread);
            }
            self.apply(&[(thread, Some(assigned))]);
        }
    }

    /// Makes and renews reservations from what the job probe measured.
    pub(in crate::engine) fn renew_reservations(&mut self) {
        let mut renewed = Vec::new();
        for jobs in self.following.threads() {
            let process = self.world.get(jobs.pid);
            let Some(process) = process else { continue };
            let thread = process.threads.get(&jobs.tid);
            let Some(assigned) = thread.and_then(|thread| thread.classified) else { continue };
            let target = self.policy.targets.get(assigned.class);
            let Some(reservation) = target.and_then(|target| target.reservation) else { continue };
            let Some(now) = measured(jobs).and_then(|it| reservation.sched(Some(it))) else {
                continue;
            };
            let known = self.levers.realtime.reservations.get(&jobs.tid);
            if known.is_some_and(|known| still_fits(known, &now)) {
                continue;
            }
            let Some(id) = process.thread_id(jobs.tid) else { continue };
            renewed.push((id, assigned, now));
        }
        let world = &self.world;
        self.levers.realtime.reservations.retain(|tid, _| world.process_of(*tid).is_some());
        for (id, assigned, sched) in renewed {
            self.levers.realtime.reservations.insert(id.tid, sched);
            self.apply(&[(id, Some(assigned))]);
        }
    }
}

fn measured(jobs: &ThreadJobs) -> Option<Measured> {
    let Some(Rhythm::Periodic { period_ns, .. }) = jobs.rhythm else { return None };
    let total = &jobs.total;
    Some(Measured { jobs: total.jobs, cost_ns: total.cost.p99_ns?, period_ns })
}
