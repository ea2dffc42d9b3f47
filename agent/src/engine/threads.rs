//! From a process to its threads' values: matching, measuring, applying, undoing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use downbeat_abi::NO_CLASS;
use downbeat_api::Mode;
use nix::time::{ClockId, clock_gettime};

use super::Engine;
use super::ledger::Subject;
use crate::act::{Actuator, Done, Event, Kernel, Request, ThreadId, boot_ticks};
use crate::model::{Assigned, Process, Thread};
use crate::observe::kernel::KernelEvent;
use crate::observe::process::{ProcessSample, ThreadSample};

/// How often a process is listed again while it makes threads faster than they are set. The
/// kernel's events and the next tick take care of what comes later.
const ROUNDS: usize = 4;

/// Processes of a look at the whole host after which the kernel's events have their turn.
const EVENTS_EACH: usize = 16;

/// The same for the whole host, when nothing comes later.
const LAST_ROUNDS: usize = 8;

impl Engine {
    /// Acts on one event.
    pub(super) fn on_kernel_event(&mut self, event: KernelEvent) {
        match event {
            KernelEvent::Exec { pid, old_tid, time_ns, .. } => {
                if old_tid != pid {
                    self.on_succession(old_tid, pid);
                }
                if self.consider(pid) > 0 && self.mode == Mode::Engaged {
                    self.exec_to_set.record(monotonic_ns().saturating_sub(time_ns));
                }
            }
            KernelEvent::Fork { parent_pid, pid, tid, .. } => {
                self.on_fork(parent_pid, pid, tid);
            }
            KernelEvent::Exit { tid, .. } => {
                if let Some(actuator) = &mut self.actuator {
                    actuator.forget(tid);
                }
                self.world.remove_thread(tid);
            }
            KernelEvent::Rename { pid, tid, name, .. } => self.on_rename(pid, tid, name),
            KernelEvent::Miss(miss) => self.on_miss(miss),
        }
    }

    /// The main thread is another one now, under the same id: nothing that is known of the process's
    /// threads holds any more.
    fn on_succession(&mut self, old_tid: u32, pid: u32) {
        if let Some(actuator) = &mut self.actuator {
            actuator.succeed(old_tid, pid);
        }
        for tid in self.world.remove(pid).into_iter().filter(|tid| *tid != pid) {
            self.forget_thread(tid);
        }
    }

    /// A managed thread made a thread or a process, which starts with what its creator had.
    fn on_fork(&mut self, parent_pid: u32, pid: u32, tid: u32) {
        if pid == tid {
            // Said by the event, since the child may have another parent by now, or be gone and
            // have left children of its own.
            if let Some(actuator) = &mut self.actuator {
                actuator.pass_on(parent_pid, pid);
            }
            self.consider(pid);
            self.orphans |= self.world.get(pid).is_none();
        } else if let Some(child) = self.reader.thread(pid, tid) {
            self.inherit(pid, &child, &[pid]);
            self.consider_thread(pid, &child);
        }
    }

    fn on_rename(&mut self, pid: u32, tid: u32, name: String) {
        // The main thread's name is the process's: also rules without `thread` may look at it.
        if tid == pid {
            self.consider(pid);
            return;
        }
        let known = self.world.get(pid).and_then(|process| process.threads.get(&tid));
        let Some(known) = known else { return };
        let sample = ThreadSample { tid, name, start_time: known.start_time };
        self.consider_thread(pid, &sample);
    }

    /// Looks at a process anew: which threads have which class, and what they should have. Returns
    /// the number of its threads that have a class.
    pub(super) fn consider(&mut self, pid: u32) -> usize {
        let Some(mut sample) = self.reader.read(pid) else {
            self.forget_process(pid);
            return 0;
        };
        let origin = self.probes.as_ref().and_then(|probes| probes.origin(pid));
        let heirs = self.inherit_new(&sample, origin.map(|origin| origin.pid));
        if let (Some(probes), Some(_)) = (&mut self.probes, origin) {
            // What it has is journalled: its children have it from this process now.
            probes.claim(pid);
        }
        self.see_at_home(&mut sample);
        let policy = &self.policy;
        let by_hand = self.overrides.class_of(pid, sample.start_time);
        let watched = policy.set.looks_at_threads_of(&sample.facts)
            || self.following.is_requested(pid)
            || self.discoveries.follows(pid);
        let discovered = self.discoveries.class_of(pid, sample.start_time, &policy.set.auto);
        let assign = |facts: &_, name: &str| policy.assign(by_hand, discovered, facts, name);
        self.discoveries.note(pid);
        let gone = self.world.insert(&sample, watched, assign);
        for tid in gone {
            self.forget_thread(tid);
        }
        let Some(process) = self.world.get(pid) else {
            return 0;
        };
        let threads: Vec<(ThreadId, Option<Assigned>)> = process
            .threads
            .iter()
            .filter_map(|(tid, thread)| Some((process.thread_id(*tid)?, thread.classified)))
            .collect();
        // See `Subject::is_main_thread` for the order.
        let (main, others): (Vec<_>, Vec<_>) = threads.iter().partition(|(id, _)| id.tid == id.pid);
        for (id, classified) in others.into_iter().chain(main) {
            self.follow(id.tid, classified, watched);
        }
        self.apply(&threads);
        // A thread that was made while the others were set is caught by another look: from the
        // moment its creator was measured, the kernel tells of it as well.
        for _ in 0..ROUNDS {
            let managed = threads.iter().any(|(_, classified)| classified.is_some());
            if !(managed || watched || heirs) || !self.catch_up(pid) {
                break;
            }
        }
        self.world.get(pid).map_or(0, Process::managed_threads)
    }

    /// Notes what a process's threads that are not known yet have from whoever made them. Where the
    /// parent is gone, the group and the session still carry the id of an ancestor; the kernel's own
    /// note is `origin`. Returns whether there was anything.
    fn inherit_new(&mut self, sample: &ProcessSample, origin: Option<u32>) -> bool {
        let ProcessSample { pid, ppid, group, session, .. } = *sample;
        let known = self.world.get(pid).filter(|known| known.start_time == sample.start_time);
        let is_known = |thread: &&ThreadSample| {
            let known = known.and_then(|process| process.threads.get(&thread.tid));
            known.is_some_and(|known| known.start_time == thread.start_time)
        };
        let new: Vec<&ThreadSample> = sample.threads.iter().filter(|t| !is_known(t)).collect();
        let creators = [pid, origin.unwrap_or(ppid), ppid, group, session];
        let inherits = |thread| self.inherit(pid, thread, &creators);
        new.into_iter().map(inherits).fold(false, |any, has| any | has)
    }

    fn inherit(&mut self, pid: u32, thread: &ThreadSample, creators: &[u32]) -> bool {
        let id = ThreadId { pid, tid: thread.tid, start_time: thread.start_time };
        self.actuator.as_mut().is_some_and(|actuator| actuator.inherit(id, creators))
    }

    /// Looks at every process anew; returns how many values were set.
    pub(super) fn consider_all(&mut self) -> u64 {
        let before = self.applied();
        self.prepare_groups();
        for (number, pid) in (1_usize..).zip(self.reader.pids()) {
            self.consider(pid);
            // What was born meanwhile waits for no more than these.
            if number.is_multiple_of(EVENTS_EACH) {
                self.on_kernel_events();
            }
        }
        self.on_kernel_events();
        self.remove_idle_groups();
        self.applied() - before
    }

    /// Looks at one thread of a known process.
    pub(super) fn consider_thread(&mut self, pid: u32, sample: &ThreadSample) {
        let Some(process) = self.world.get(pid) else {
            self.consider(pid);
            return;
        };
        let by_hand = self.overrides.class_of(pid, process.start_time);
        let auto = &self.policy.set.auto;
        let discovered = self.discoveries.class_of(pid, process.start_time, auto);
        let classified = self.policy.assign(by_hand, discovered, &process.facts, &sample.name);
        let ThreadSample { tid, ref name, start_time } = *sample;
        let thread = Thread { name: name.clone(), start_time, classified };
        self.world.insert_thread(pid, tid, thread);
        let watched = self.world.get(pid).is_some_and(|process| process.watched);
        self.follow(tid, classified, watched);
        self.apply(&[(ThreadId { pid, tid, start_time }, classified)]);
    }

    /// Has the kernel programs follow a thread that has a class or may get one. A thread without a
    /// class loses what it has from us.
    fn follow(&mut self, tid: u32, classified: Option<Assigned>, watched: bool) {
        let slot = match classified {
            Some(classified) => self.policy.slots.get(classified.class).copied().flatten(),
            None => {
                self.put_back(tid);
                None
            }
        };
        let Some(probes) = &mut self.probes else { return };
        if classified.is_none() && !watched {
            probes.unmanage(tid);
            return;
        }
        match probes.manage(tid, slot.unwrap_or(NO_CLASS)) {
            Ok(()) => self.set_deadline(tid, classified),
            Err(error) => tracing::warn!(tid, "not measured: {error}"),
        }
    }

    /// Puts back what one thread has from us.
    fn put_back(&mut self, tid: u32) {
        if let Some(actuator) = &mut self.actuator {
            let done = actuator.undo(tid);
            self.enter(&done);
        }
    }

    /// Forgets a process that is gone.
    pub(super) fn forget_process(&mut self, pid: u32) {
        self.reader.forget(pid);
        for tid in self.world.remove(pid) {
            self.forget_thread(tid);
        }
    }

    fn forget_thread(&mut self, tid: u32) {
        if let Some(probes) = &mut self.probes {
            probes.unmanage(tid);
        }
        let Some(actuator) = &mut self.actuator else { return };
        if actuator.is_there(tid) {
            // The picture lost it, not the host: what is forgotten unchanged stays for good.
            self.put_back(tid);
        } else {
            actuator.forget(tid);
        }
    }

    /// Puts everything back and leaves alone what comes; returns how many values went back. What
    /// is made meanwhile by those who come last is found by looking again.
    pub(super) fn disengage(&mut self) -> u64 {
        if self.actuator.is_none() {
            return 0;
        }
        self.mode = Mode::Paused;
        let mut restored = 0;
        for _ in 0..LAST_ROUNDS {
            let Some(actuator) = &mut self.actuator else { break };
            let heirs = actuator.heirs();
            let done = actuator.undo_all();
            restored += done.iter().filter(|d| matches!(d.event, Event::Restored { .. })).count();
            self.enter(&done);
            self.on_kernel_events();
            self.look_for_new_processes();
            let any = |actuator: &Actuator<Kernel>| actuator.heirs() > heirs;
            if !done.is_empty() || self.actuator.as_ref().is_some_and(any) {
                continue;
            }
            break;
        }
        self.forget_groups();
        // Not at the next sample: a pause is one of everything.
        self.ask_for_units();
        self.set_switches();
        restored as u64
    }

    /// Lists the threads of every managed process again: for what no event told.
    pub(super) fn catch_up_with_threads(&mut self) {
        for pid in self.world.followed_pids() {
            self.catch_up(pid);
        }
    }

    /// Lists a process's threads again. New ones are looked at, with what they inherited; those that
    /// ended are forgotten. Returns whether there were new ones.
    fn catch_up(&mut self, pid: u32) -> bool {
        let listed = self.reader.tids(pid);
        let Some(process) = self.world.get(pid) else {
            return false;
        };
        let ended: Vec<u32> = process
            .threads
            .keys()
            .copied()
            .filter(|tid| listed.binary_search(tid).is_err())
            .collect();
        let new: Vec<u32> =
            listed.into_iter().filter(|tid| !process.threads.contains_key(tid)).collect();
        for tid in ended {
            self.world.remove_thread(tid);
            self.forget_thread(tid);
        }
        for tid in &new {
            let Some(sample) = self.reader.thread(pid, *tid) else {
                continue;
            };
            self.inherit(pid, &sample, &[pid]);
            self.consider_thread(pid, &sample);
        }
        !new.is_empty()
    }

    pub(super) fn apply(&mut self, threads: &[(ThreadId, Option<Assigned>)]) {
        // What the watch took back would look like someone else's.
        self.tell_runaways();
        if self.mode != Mode::Engaged {
            // They may have something from before the pause, through whoever made them.
            for (thread, _) in threads {
                self.put_back(thread.tid);
            }
            return;
        }
        if let Some(probes) = &mut self.probes {
            // Before anything that children inherit is set.
            let managed = threads.iter().filter(|(_, assigned)| assigned.is_some());
            let mut pids: Vec<u32> = managed.map(|(id, _)| id.pid).collect();
            pids.dedup();
            pids.into_iter().for_each(|pid| probes.claim(pid));
        }
        let Some(mut actuator) = self.actuator.take() else {
            return;
        };
        let wanted: Vec<_> = threads
            .iter()
            .filter_map(|(thread, assigned)| {
                let assigned = (*assigned)?;
                let target = self.policy.targets.get(assigned.class)?;
                Some((*thread, self.wanted(*thread, assigned, target), &target.otherwise))
            })
            .collect();
        if wanted.is_empty() {
            self.actuator = Some(actuator);
            return;
        }
        let requests: Vec<Request<'_>> = wanted
            .iter()
            .map(|(thread, wanted, otherwise)| Request {
                subject: (*thread).into(),
                wanted,
                otherwise,
            })
            .collect();
        let done = actuator.apply(&requests, boot_ticks());
        self.actuator = Some(actuator);
        self.enter(&done);
    }

    /// Counts and shows what was done.
    pub(super) fn enter(&mut self, done: &[Done]) {
        self.watch_realtime(done);
        let unix_time = unix_time();
        for of_process in done.chunk_by(|a, b| a.subject.pid() == b.subject.pid()) {
            let Some(first) = of_process.first() else {
                continue;
            };
            // What is no thread says itself what it is.
            let Some(pid) = first.subject.pid() else {
                of_process.iter().for_each(|done| self.enter_beside_threads(done, unix_time));
                continue;
            };
            let process = self.world.get(pid);
            let class = process
                .and_then(Process::classified)
                .and_then(|classified| self.policy.targets.get(classified.class))
                .map_or("", |target| &target.class);
            let name = process.map_or("", |process| &process.facts.comm);
            self.ledger.enter(Subject { pid, name, class }, of_process, unix_time);
        }
    }

    fn enter_beside_threads(&mut self, done: &Done, unix_time: f64) {
        let name = self.name_of(&done.subject);
        let subject = Subject { pid: 0, name: &name, class: "" };
        self.ledger.enter(subject, std::slice::from_ref(done), unix_time);
    }

    pub(super) fn applied(&self) -> u64 {
        self.ledger.levers().iter().map(|counts| counts.applied).sum()
    }
}

/// `CLOCK_MONOTONIC`, the clock of the kernel programs.
pub(super) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Seconds since 1970.
pub(super) fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
