//! Jobs, blame and misses: from what the kernel programs count to what people see.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use downbeat_abi::{self as abi, CulpritKind as Kind, NO_CLASS};
use downbeat_api::{ClassCpu, Culprit, CulpritKind, Response, Rhythm, Severity, ThreadJobs};
use downbeat_policy::{Class, Deadline, Tier};

use super::misses::Pending;
use super::notices::notice;
use super::threads::monotonic_ns;
use super::{Engine, Policy};
use crate::decide::Target;
use crate::model::awake::Awake;
use crate::model::blame::Blame;
use crate::model::jobs::{JobCounts, JobSample, Jobs, releases};
use crate::model::misses::Misses;
use crate::model::{Assigned, Process};
use crate::observe::kernel::{self, ThreadJob};

/// Misses in a snapshot.
const IN_SNAPSHOT: usize = 32;

/// Threads whose jobs are at an end and unread, from which on they are read at once: each still has
/// its place.
const MOST_ENDED: usize = 128;

/// Longest time for which a process is followed on request, seconds.
const LONGEST: u32 = 3600;

/// Processes that are followed on request at a time.
const MOST_FOLLOWED: usize = 64;

/// Names of the kernel's soft interrupts by vector (`softirq_to_name`).
const SOFT_INTERRUPTS: [&str; 10] =
    ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"];

/// What is known of jobs between two samples.
#[derive(Debug, Default)]
pub(super) struct Following {
    jobs: Jobs,
    awake: Awake,
    blame: Blame,
    pub(super) misses: Misses,
    /// Misses whose cause is not told yet, oldest first.
    pub(super) pending: Vec<Pending>,
    /// Whose a thread's jobs are, also for a while after its end.
    owners: HashMap<u32, Owner>,
    /// Processes that are followed on request, and until when.
    requests: HashMap<u32, Instant>,
    /// As of the last sample: what the kernel programs saw, then what programs marked themselves.
    threads: Vec<ThreadJobs>,
    /// How many of them the kernel programs saw.
    seen: usize,
    /// Periods that were found, by thread, as of the last sample; nanoseconds.
    periods: HashMap<u32, u64>,
    /// CPU time of each slot by CPU at the last sample, nanoseconds.
    class_cpu: HashMap<u32, Vec<u64>>,
    /// Who ran while others waited, between the last sample and now.
    blamed: Vec<kernel::Blame>,
}

/// A thread and its process, by name.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) pid: u32,
    pub(super) start_time: u64,
    pub(super) thread: String,
    pub(super) process: String,
    pub(super) class: Option<String>,
    pub(super) deadline_ns: Option<u64>,
}

impl Following {
    /// Jobs by thread, as of the last sample.
    pub(super) fn threads(&self) -> &[ThreadJobs] {
        &self.threads
    }

    /// Whether a process is followed although no rule says so.
    pub(super) fn is_requested(&self, pid: u32) -> bool {
        self.requests.contains_key(&pid)
    }
}

impl Engine {
    /// The deadline of a class's jobs, nanoseconds: the policy's, or for `auto` the thread's own
    /// period, once that is known.
    fn deadline_ns(&self, tid: u32, classified: Option<Assigned>) -> Option<u64> {
        let class = self.policy.set.classes.get(classified?.class)?;
        match class.deadline? {
            Deadline::After(_) => Policy::named_deadline_ns(class),
            Deadline::Auto => self.following.periods.get(&tid).copied(),
        }
    }

    /// Tells the kernel programs what a late job of a thread is.
    pub(super) fn set_deadline(&mut self, tid: u32, classified: Option<Assigned>) {
        let deadline_ns = self.deadline_ns(tid, classified).unwrap_or(0);
        if let Some(probes) = &self.probes {
            probes.set_deadline(tid, deadline_ns);
        }
    }

    /// Follows a process's threads for a while without changing anything.
    pub(super) fn follow_on_request(&mut self, pid: u32, seconds: u32) -> Response {
        let refuse = |message: String| Response::Error { message };
        if !(1..=LONGEST).contains(&seconds) {
            return refuse(format!("{seconds} s: give 1 to {LONGEST} seconds"));
        }
        if self.probes.is_none() {
            let why = "jobs are followed by the kernel programs, which do not run here";
            return refuse(format!("{why}; see `downbeat doctor`"));
        }
        let Some(pid) = self.reader.process_of(pid) else {
            return refuse(format!("no process or thread {pid}"));
        };
        let tids = self.reader.tids(pid);
        let requests = &mut self.following.requests;
        if requests.len() >= MOST_FOLLOWED && !requests.contains_key(&pid) {
            return refuse(format!("{MOST_FOLLOWED} processes are followed already: wait"));
        }
        requests.insert(pid, Instant::now() + Duration::from_secs(seconds.into()));
        self.consider(pid);
        let message = format!("following {} threads of {pid} for {seconds} s", tids.len());
        Response::Done { message }
    }

    /// Lets go of processes whose time is over.
    fn end_requests(&mut self) {
        let now = Instant::now();
        let over = |until: &Instant| *until <= now;
        let ended: Vec<u32> = self
            .following
            .requests
            .iter()
            .filter(|(pid, until)| over(until) || self.world.get(**pid).is_none())
            .map(|(pid, _)| *pid)
            .collect();
        for pid in ended {
            self.following.requests.remove(&pid);
            self.consider(pid);
        }
    }

    /// Between two samples of the jobs: what the kernel would lose meanwhile, and the periods that
    /// something depends on.
    pub(super) fn glance_at_jobs(&mut self, now: Instant) {
        self.end_requests();
        let Some(probes) = &mut self.probes else { return };
        self.following.blamed.extend(probes.blame(monotonic_ns()));
        let mut is_needed = probes.ended_jobs() >= MOST_ENDED;
        if self.needs_periods() {
            is_needed |= self.look_at_periods();
        }
        if is_needed {
            self.read_jobs(now);
        }
    }

    /// Whether anything is decided by the periods of threads.
    fn needs_periods(&self) -> bool {
        let classes = self.policy.set.classes.iter();
        let learns = |class: &Class| matches!(class.deadline, Some(Deadline::Auto));
        let reserves = |target: &Target| target.reservation.is_some();
        self.discoveries.looks()
            || classes.clone().any(learns)
            || self.policy.targets.iter().any(reserves)
    }

    /// Looks for the period of each thread anew; returns whether there are threads that nothing is
    /// known of.
    fn look_at_periods(&mut self) -> bool {
        let Some(probes) = &self.probes else { return false };
        let following = &mut self.following;
        let mut any_new = false;
        let mut rhythms = HashMap::new();
        for (tid, releases) in probes.releases() {
            let start_time = following.owners.get(&tid).map(|owner| owner.start_time);
            match start_time.and_then(|it| following.jobs.look_at(tid, it, &releases)) {
                Some(rhythm) => {
                    rhythms.insert(tid, rhythm);
                }
                None => any_new = true,
            }
        }
        for jobs in following.threads.iter_mut().take(following.seen) {
            if let Some(rhythm) = rhythms.get(&jobs.tid) {
                jobs.rhythm = *rhythm;
            }
        }
        self.set_periods();
        any_new
    }

    fn set_periods(&mut self) {
        let period = |jobs: &ThreadJobs| match jobs.rhythm? {
            Rhythm::Periodic { period_ns, .. } => Some((jobs.tid, period_ns)),
            Rhythm::Aperiodic { .. } => None,
        };
        let seen = self.following.threads.iter().take(self.following.seen);
        self.following.periods = seen.filter_map(period).collect();
        self.set_learned_deadlines();
    }

    /// Reads jobs and blame.
    pub(super) fn sample_jobs(&mut self) {
        self.end_requests();
        let marked = self.marked_jobs();
        self.sample_followed();
        let marks = |pid: u32| marked.iter().any(|jobs| jobs.pid == pid && jobs.recent.jobs > 0);
        for jobs in &mut self.following.threads {
            // It says itself what its frames are.
            jobs.awake = jobs.awake.filter(|_| !marks(jobs.pid));
        }
        self.following.threads.extend(marked);
    }

    fn sample_followed(&mut self) {
        self.following.threads.clear();
        self.following.seen = 0;
        let Some(probes) = &mut self.probes else { return };
        let now_ns = monotonic_ns();
        let told = probes.jobs();
        let mut blamed = std::mem::take(&mut self.following.blamed);
        blamed.extend(probes.blame(now_ns));
        let owned: Vec<(ThreadJob, Owner)> = told
            .into_iter()
            .filter_map(|told| {
                let owner = self.owner_of(&told)?;
                Some((told, owner))
            })
            .collect();
        let classes = &self.policy.set.classes;
        let living = owned.iter().filter(|(told, owner)| !told.ended && owner.has_frames(classes));
        let jobs = living.map(|(told, owner)| ((told.tid, owner.start_time), &*told.job));
        let awake = self.following.awake.sample(now_ns, jobs);
        let samples: Vec<JobSample> = owned
            .into_iter()
            .map(|(told, owner)| {
                let awake_ns = awake.get(&(told.tid, owner.start_time)).copied();
                job_sample(told, owner, awake_ns)
            })
            .collect();
        let living: HashMap<u32, Owner> = samples
            .iter()
            .filter(|sample| !sample.ended)
            .filter_map(|sample| {
                Some((sample.tid, self.following.owners.get(&sample.tid)?.clone()))
            })
            .collect();
        self.following.threads = self.following.jobs.sample(samples);
        self.following.seen = self.following.threads.len();
        // A thread that ended may still have misses that wait for their cause: they have its name.
        self.following.owners = living;
        let waits: Vec<(Option<String>, Culprit)> = blamed
            .iter()
            .filter_map(|blame| {
                Some((self.class_name(blame.victim), self.culprit(&blame.culprit)?))
            })
            .collect();
        self.following.blame.sample(waits);
        self.set_periods();
        self.note_lost_misses();
    }

    /// A miss that found the ring full is counted, but has no story and no cause.
    fn note_lost_misses(&mut self) {
        let lost = self.probes.as_ref().map_or(0, |probes| probes.counters().dropped_misses);
        let said = if lost == 0 {
            Vec::new()
        } else {
            let text = format!(
                "{lost} misses since the start are counted without a cause: they came faster than \
                 their stories could be read"
            );
            vec![notice(Severity::Info, text, None)]
        };
        self.notices.set("lost misses", said);
    }

    fn owner_of(&mut self, told: &ThreadJob) -> Option<Owner> {
        let ThreadJob { tid, ended, .. } = *told;
        // The id of one that ended may be another's by now.
        let known = self.following.owners.get(&tid).filter(|_| ended).cloned();
        let owner = known.or_else(|| self.owner(tid))?;
        if !ended {
            self.following.owners.insert(tid, owner.clone());
        }
        Some(owner)
    }

    /// Whose a thread is: as the picture knows it, or knew it.
    pub(super) fn owner(&self, tid: u32) -> Option<Owner> {
        let known = || self.following.owners.get(&tid).cloned();
        let has = |process: &&Process| process.threads.contains_key(&tid);
        let watched = || self.world.followed().filter(|process| process.watched).find(has);
        let Some(process) = self.world.process_of(tid).filter(has).or_else(watched) else {
            return known();
        };
        let thread = process.threads.get(&tid)?;
        let class = thread.classified.and_then(|c| self.policy.set.classes.get(c.class));
        Some(Owner {
            pid: process.pid,
            start_time: thread.start_time,
            thread: thread.name.clone(),
            process: process.facts.comm.clone(),
            class: class.map(|class| class.name.clone()),
            deadline_ns: self.deadline_ns(tid, thread.classified),
        })
    }

    /// A deadline of `auto` follows the period that was found.
    fn set_learned_deadlines(&mut self) {
        let learned: Vec<(u32, Option<Assigned>)> = self
            .following
            .threads
            .iter()
            .take(self.following.seen)
            .filter_map(|jobs| {
                let process = self.world.get(jobs.pid)?;
                let classified = process.threads.get(&jobs.tid)?.classified?;
                let class = self.policy.set.classes.get(classified.class)?;
                let learns = matches!(class.deadline, Some(Deadline::Auto));
                learns.then_some((jobs.tid, Some(classified)))
            })
            .collect();
        for (tid, classified) in learned {
            self.set_deadline(tid, classified);
        }
    }

    /// A culprit by name.
    pub(super) fn culprit(&self, culprit: &abi::Culprit) -> Option<Culprit> {
        let abi::Culprit { kind, id, comm, ns } = *culprit;
        let own_name = || {
            let len = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
            String::from_utf8_lossy(&comm[..len]).into_owned()
        };
        let (kind, name) = match Kind::from_raw(kind)? {
            Kind::None => return None,
            Kind::Class => (CulpritKind::Class, self.class_name(id).unwrap_or_default()),
            Kind::Program => (CulpritKind::Program, own_name()),
            Kind::Workload => (CulpritKind::Workload, String::new()),
            Kind::Kernel => (CulpritKind::Kernel, own_name()),
            Kind::HardInterrupt => {
                let name = self.irq_name(id).map_or_else(|| format!("irq {id}"), ToOwned::to_owned);
                (CulpritKind::HardInterrupt, name)
            }
            Kind::SoftInterrupt => {
                let name = SOFT_INTERRUPTS.get(id as usize).copied().unwrap_or("softirq");
                (CulpritKind::SoftInterrupt, name.to_owned())
            }
            Kind::Timer => (CulpritKind::Timer, String::new()),
            Kind::Idle => (CulpritKind::Idle, String::new()),
            Kind::Stolen => (CulpritKind::Stolen, String::new()),
            Kind::Unknown => (CulpritKind::Unknown, String::new()),
        };
        Some(Culprit { kind, name, ns })
    }

    fn class_name(&self, slot: u32) -> Option<String> {
        if slot == NO_CLASS {
            return None;
        }
        self.slots.name(slot).map(ToOwned::to_owned)
    }

    /// Forgets classes that the policy does not have any more.
    pub(super) fn forget_old_classes(&mut self) {
        let classes = &self.policy.set.classes;
        let kept = |name: &str| classes.iter().any(|class| class.name == name);
        self.following.jobs.keep_classes(kept);
        self.following.blame.keep_classes(kept);
        self.following.misses.keep_classes(kept);
    }

    /// The latest misses, newest last.
    pub(super) fn all_misses(&self) -> Response {
        Response::Misses { misses: self.following.misses.latest(crate::model::misses::KEPT) }
    }

    /// Puts what is known into a picture.
    pub(super) fn show_jobs(&mut self, snapshot: &mut downbeat_api::Snapshot) {
        let names: Vec<String> =
            self.policy.set.classes.iter().map(|class| class.name.clone()).collect();
        snapshot.jobs = self.following.threads.clone();
        snapshot.blame = self.following.blame.classes(names.iter().map(String::as_str));
        snapshot.misses = self.following.misses.latest(IN_SNAPSHOT);
        snapshot.causes = self.following.misses.causes();
        for class in &mut snapshot.classes {
            class.jobs = self.following.jobs.class(&class.name);
        }
    }

    /// Which share of each CPU each class used, over `interval` seconds.
    pub(super) fn show_class_cpus(&mut self, snapshot: &mut downbeat_api::Snapshot, interval: f64) {
        let Some(probes) = &self.probes else { return };
        if interval <= 0.0 {
            return;
        }
        let online: Vec<u32> = snapshot.cpus.iter().map(|cpu| cpu.id).collect();
        for (class, slot) in snapshot.classes.iter_mut().zip(&self.policy.slots) {
            let Some(slot) = *slot else { continue };
            let now = probes.class_cpu(slot);
            let before = self.following.class_cpu.insert(slot, now.clone()).unwrap_or_default();
            let share = |cpu: u32| {
                let at = |times: &[u64]| times.get(cpu as usize).copied().unwrap_or(0);
                at(&now).saturating_sub(at(&before)) as f64 / 1e9 / interval
            };
            let cpus = online.iter().map(|&cpu| ClassCpu { cpu, share: share(cpu).min(1.0) });
            class.cpus = Some(cpus.collect());
        }
    }
}

impl Owner {
    /// Whether someone waits for what the thread does.
    fn has_frames(&self, classes: &[Class]) -> bool {
        let class = || classes.iter().find(|class| Some(&class.name) == self.class.as_ref());
        self.deadline_ns.is_some() || class().is_some_and(|class| class.tier != Tier::Background)
    }
}

fn job_sample(told: ThreadJob, owner: Owner, awake_ns: Option<u64>) -> JobSample {
    let ThreadJob { tid, job, ended } = told;
    let Owner { pid, start_time, thread, process, class, deadline_ns } = owner;
    let (counts, releases) = (JobCounts::from(&*job), releases(&job));
    JobSample {
        tid,
        start_time,
        pid,
        thread,
        process,
        class,
        deadline_ns,
        awake_ns,
        counts,
        releases,
        ended,
    }
}
