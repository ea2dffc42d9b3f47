//! Jobs, blame and misses: from what the kernel programs count to what people see.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use downbeat_abi::{self as abi, CulpritKind as Kind, NO_CLASS};
use downbeat_api::{
    ClassCpu, Culprit, CulpritKind, Miss, Release, Response, Rhythm, Severity, Stalls, ThreadJobs,
};
use downbeat_policy::Deadline;

use super::notices::notice;
use super::threads::{monotonic_ns, unix_time};
use super::{Engine, Policy};
use crate::model::blame::Blame;
use crate::model::cause::{MissFacts, cause};
use crate::model::host_history::PressureSpan;
use crate::model::jobs::{JobCounts, JobSample, Jobs, releases};
use crate::model::misses::Misses;
use crate::model::{Assigned, Process};
use crate::observe::kernel::ThreadJob;

/// How long after a miss its cause is told: the kernel counts a throttled group only when it is
/// let go again, and the host's files are read each 250 ms.
const SETTLED: Duration = Duration::from_millis(600);

/// Misses that wait for that; more are told at once, with what is known by then.
const MOST_PENDING: usize = 1024;

/// Misses in a snapshot.
const IN_SNAPSHOT: usize = 32;

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
    blame: Blame,
    misses: Misses,
    /// Misses whose cause is not told yet, oldest first.
    pending: Vec<Pending>,
    /// Whose a thread's jobs are, also for a while after its end.
    owners: HashMap<u32, Owner>,
    /// Processes that are followed on request, and until when.
    requests: HashMap<u32, Instant>,
    /// As of the last sample.
    threads: Vec<ThreadJobs>,
    /// Periods that were found, by thread, as of the last sample; nanoseconds.
    periods: HashMap<u32, u64>,
    /// CPU time of each slot by CPU at the last sample, nanoseconds.
    class_cpu: HashMap<u32, Vec<u64>>,
}

/// A thread and its process, by name.
#[derive(Clone, Debug)]
struct Owner {
    pid: u32,
    start_time: u64,
    thread: String,
    process: String,
    class: Option<String>,
    deadline_ns: Option<u64>,
}

#[derive(Debug)]
struct Pending {
    seen: Instant,
    owner: Owner,
    miss: Box<abi::Miss>,
}

impl Following {
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
        let tids = self.reader.tids(pid);
        if tids.is_empty() {
            return refuse(format!("no process {pid}"));
        }
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

    /// Reads jobs and blame at a sample of `interval` seconds.
    pub(super) fn sample_jobs(&mut self) {
        self.end_requests();
        let marked = self.marked_jobs();
        self.sample_followed();
        self.following.threads.extend(marked);
    }

    fn sample_followed(&mut self) {
        self.following.threads.clear();
        let Some(probes) = &mut self.probes else { return };
        let now_ns = monotonic_ns();
        let (told, blamed) = (probes.jobs(), probes.blame(now_ns));
        let samples: Vec<JobSample> =
            told.into_iter().filter_map(|job| self.job_sample(job)).collect();
        let living: HashMap<u32, Owner> = samples
            .iter()
            .filter(|sample| !sample.ended)
            .filter_map(|sample| {
                Some((sample.tid, self.following.owners.get(&sample.tid)?.clone()))
            })
            .collect();
        self.following.threads = self.following.jobs.sample(samples);
        let period = |jobs: &ThreadJobs| match jobs.rhythm? {
            Rhythm::Periodic { period_ns, .. } => Some((jobs.tid, period_ns)),
            Rhythm::Aperiodic { .. } => None,
        };
        self.following.periods = self.following.threads.iter().filter_map(period).collect();
        // A thread that ended may still have misses that wait for their cause: they have its name.
        self.following.owners = living;
        let waits: Vec<(Option<String>, Culprit)> = blamed
            .iter()
            .filter_map(|blame| {
                Some((self.class_name(blame.victim), self.culprit(&blame.culprit)?))
            })
            .collect();
        self.following.blame.sample(waits);
        self.set_learned_deadlines();
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

    fn job_sample(&mut self, told: ThreadJob) -> Option<JobSample> {
        let ThreadJob { tid, job, ended } = told;
        // The id of one that ended may be another's by now.
        let known = self.following.owners.get(&tid).filter(|_| ended).cloned();
        let owner = known.or_else(|| self.owner(tid))?;
        if !ended {
            self.following.owners.insert(tid, owner.clone());
        }
        let Owner { pid, start_time, thread, process, class, deadline_ns } = owner;
        let (counts, releases) = (JobCounts::from(&*job), releases(&job));
        Some(JobSample {
            tid,
            start_time,
            pid,
            thread,
            process,
            class,
            deadline_ns,
            counts,
            releases,
            ended,
        })
    }

    /// Whose a thread is: as the picture knows it, or knew it.
    fn owner(&self, tid: u32) -> Option<Owner> {
        let known = || self.following.owners.get(&tid).cloned();
        let has = |process: &&Process| process.threads.contains_key(&tid);
        let watched = || self.world.processes().filter(|process| process.watched).find(has);
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
        let class = owner.class.as_deref();
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
            throttled: class.and_then(|c| history.throttled_between(c, release_ns, time_ns)),
            steal: history.steal_between(Some(cpu), release_ns, time_ns),
            memory_pressure: pressure.as_ref().and_then(PressureSpan::memory),
            io_pressure: pressure.as_ref().and_then(PressureSpan::io),
            gpu: None,
        };
        let ago = monotonic_ns().saturating_sub(time_ns) as f64 / 1e9;
        Miss {
            // Given by the list that takes it.
            id: 0,
            unix_time: unix_time() - ago,
            tid,
            pid: owner.pid,
            thread: owner.thread,
            process: owner.process,
            class: owner.class,
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
            cause: cause(&facts),
        }
    }

    /// A culprit by name.
    fn culprit(&self, culprit: &abi::Culprit) -> Option<Culprit> {
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

/// How long a timer's release came before the thread was free: what nothing else accounts for.
fn behind_ns(story: &abi::Story, release: u32, response_ns: u64) -> u64 {
    if release != abi::ReleaseKind::Timer as u32 {
        return 0;
    }
    let known = [story.late_ns, story.wait_ns, story.run_ns];
    let asleep = [story.io_ns, story.fault_ns, story.sleep_ns];
    known.into_iter().chain(asleep).fold(response_ns, u64::saturating_sub)
}
