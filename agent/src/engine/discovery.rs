//! Programs without a rule: watched for signs of their modality, and, where the policy says so,
//! given the class that it names for it.
//!
//! What a process holds open and has mapped makes it a candidate. A candidate's threads are
//! followed for a while, since a beat says most about what it works on. A class is given and taken
//! as if by a rule that comes after all others. For somebody who asks, whatever is at work is
//! followed for a while: a beat alone is worth telling, and too little for a class.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use downbeat_api::{Discovered, Discovery, Response, Rhythm, Severity};
use downbeat_policy::{Auto, Modality, ProcessKind};

use super::Engine;
use super::notices::notice;
use crate::model::discovery::{Beat, Finding, finding, shows_signs};
use crate::model::{By, Process};

/// How long a candidate's threads are followed.
const FOLLOWED: Duration = Duration::from_secs(10);

/// The same of one that shows nothing: a beat is found within 3 s.
const GLANCED_AT: Duration = Duration::from_secs(5);

/// From the end of that to the next time.
const RESTED: Duration = Duration::from_secs(60);

/// Candidates followed at a time, and threads of one that makes it worth while: a program with
/// more does not work in frames.
const MOST_FOLLOWED: usize = 16;
const MOST_THREADS: usize = 256;

/// How long too little may speak for a class before it is taken: a pause in a call is no end.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long processes are looked at for someone who asks where `[auto]` is off.
const SURVEY: Duration = Duration::from_secs(30);

/// Candidates at a time; a host has far fewer programs that hold a device open.
const MOST: usize = 1024;

/// CPU time that looking at devices and libraries may take at a tick, while events wait.
pub(super) const AT_A_TICK: Duration = Duration::from_millis(2);

/// The same at the start, when nothing waits.
pub(super) const AT_THE_START: Duration = Duration::from_millis(250);

/// Programs in the notice; the rest are counted.
const NAMED: usize = 6;

/// What is known of processes without a rule.
#[derive(Debug, Default)]
pub(super) struct Discoveries {
    candidates: BTreeMap<u32, Candidate>,
    /// Processes whose facts were read since the last look.
    changed: BTreeSet<u32>,
    /// Someone asked: until then processes are looked at although `[auto]` is off.
    survey: Option<Instant>,
    is_on: bool,
}

/// One process that shows something.
#[derive(Debug)]
struct Candidate {
    start_time: u64,
    /// It shows something beside a beat; without that it is here for somebody who asked.
    signs: bool,
    watch: Watch,
    /// As last seen.
    beats: Vec<Beat>,
    finding: Option<Finding>,
    /// Whose class it has.
    given: Option<Modality>,
    /// Since when too little speaks for it.
    doubtful: Option<Instant>,
}

/// Whether a candidate's threads are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// It waits for its turn.
    Waits,
    Until(Instant),
    RestsUntil(Instant),
}

impl Discoveries {
    /// The class of a process that no rule names, as its place in the policy in force.
    pub(super) fn class_of(&self, pid: u32, start_time: u64, auto: &Auto) -> Option<usize> {
        let known = self.candidates.get(&pid).filter(|known| known.start_time == start_time)?;
        known.class(auto)
    }

    /// Whether a process is followed for its beat alone.
    pub(super) fn follows(&self, pid: u32) -> bool {
        let watch = self.candidates.get(&pid).map(|known| known.watch);
        matches!(watch, Some(Watch::Until(_)))
    }

    /// Whether processes are looked at for what they work on.
    pub(super) fn looks(&self) -> bool {
        self.is_on
    }

    /// A process's facts were read.
    pub(super) fn note(&mut self, pid: u32) {
        if self.is_on {
            self.changed.insert(pid);
        }
    }

    /// What speaks for the class that a process has.
    fn evidence(&self, pid: u32) -> Option<&Finding> {
        self.candidates.get(&pid)?.finding.as_ref()
    }
}

impl Engine {
    /// Has those facts read that the policy, or someone who asks, needs.
    pub(super) fn want_facts(&mut self) {
        let mut needs = self.policy.set.needs();
        let surveyed = self.discoveries.survey.is_some();
        let is_on = self.policy.set.auto.enabled || surveyed;
        needs.uses |= surveyed;
        needs.maps |= surveyed;
        self.reader.want(needs);
        if is_on && !self.discoveries.is_on {
            self.discoveries.changed.extend(self.world.processes().map(|process| process.pid));
        }
        self.discoveries.is_on = is_on;
    }

    /// Looks at processes of which something else is known than a moment ago.
    pub(super) fn take_in_news(&mut self, slice: Duration) {
        for pid in self.reader.news(slice) {
            self.consider(pid);
        }
    }

    /// Once a sample: who is a candidate, who gets a class, who loses it.
    pub(super) fn discover(&mut self) {
        let now = Instant::now();
        if self.discoveries.survey.is_some_and(|until| until <= now) {
            self.discoveries.survey = None;
            self.want_facts();
            let before: Vec<u32> = self.discoveries.candidates.keys().copied().collect();
            self.discoveries.candidates.retain(|_, known| known.signs);
            // Facts that nobody asks for any more are read no more.
            for pid in before {
                self.consider(pid);
            }
        }
        if !self.discoveries.is_on {
            self.end_discovery();
            return;
        }
        self.take_in_candidates();
        self.take_in_the_busy();
        for pid in self.discoveries.candidates.keys().copied().collect::<Vec<_>>() {
            self.judge(pid, now);
        }
        self.follow_candidates(now);
        self.note_discoveries();
    }

    fn end_discovery(&mut self) {
        self.discoveries.changed.clear();
        if self.discoveries.candidates.is_empty() {
            return;
        }
        let before = std::mem::take(&mut self.discoveries.candidates);
        for (pid, _) in before.iter().filter(|(_, known)| known.holds_something()) {
            self.consider(*pid);
        }
        self.note_discoveries();
    }

    /// Processes that show signs and that no rule names become candidates.
    fn take_in_candidates(&mut self) {
        let own = std::process::id();
        let changed = std::mem::take(&mut self.discoveries.changed);
        let mut lost = Vec::new();
        for pid in changed.into_iter().filter(|pid| *pid != own) {
            let process = self.world.get(pid);
            let start_time = process.map(|process| process.start_time);
            let signs = process.is_some_and(|process| shows_signs(&process.facts));
            let candidates = &mut self.discoveries.candidates;
            let known = candidates.get(&pid);
            let surveyed = known.is_some_and(|known| !known.signs);
            let fits = process.is_some_and(|p| !is_named(p)) && (signs || surveyed);
            if known.is_some_and(|known| !fits || Some(known.start_time) != start_time) {
                let was = candidates.remove(&pid);
                lost.extend(was.filter(Candidate::holds_something).map(|_| pid));
            }
            if let Some(start_time) = start_time.filter(|_| fits)
                && candidates.len() < MOST
            {
                let known = candidates.entry(pid).or_insert_with(|| Candidate::new(start_time));
                known.signs = signs;
            }
        }
        for pid in lost {
            self.consider(pid);
        }
        let world = &self.world;
        self.discoveries.candidates.retain(|pid, known| {
            world.get(*pid).is_some_and(|process| process.start_time == known.start_time)
        });
    }

    /// While somebody asks, every process that was at work a moment ago may have a beat.
    fn take_in_the_busy(&mut self) {
        if self.discoveries.survey.is_none() || self.probes.is_none() {
            return;
        }
        let busy = |process: &&Process| {
            process.cpu > 0.0 && process.facts.kind == ProcessKind::Ordinary && !is_named(process)
        };
        let candidates = &mut self.discoveries.candidates;
        for process in self.world.processes().filter(busy) {
            if candidates.len() >= MOST {
                return;
            }
            let new = || Candidate::new(process.start_time);
            candidates.entry(process.pid).or_insert_with(new);
        }
    }

    /// Weighs what speaks for a candidate, and gives or takes its class.
    fn judge(&mut self, pid: u32, now: Instant) {
        let beats = self.beats_of(pid);
        let Some(process) = self.world.get(pid) else { return };
        let Some(known) = self.discoveries.candidates.get_mut(&pid) else { return };
        // Threads that are not followed show no beat, and still have the one they had; those that are
        // followed again show theirs after a while.
        let is_new = match known.watch {
            _ if known.has_class(&self.policy.set.auto) => true,
            Watch::Until(until) => until <= now || !beats.is_empty(),
            Watch::Waits | Watch::RestsUntil(_) => false,
        };
        if is_new {
            known.beats = beats;
        }
        known.finding = finding(&process.facts, &known.beats);
        let before = known.given;
        let wanted = known.finding.as_ref().and_then(|found| {
            found.is_enough(before == Some(found.modality)).then_some(found.modality)
        });
        if wanted == before {
            known.doubtful = None;
            return;
        }
        let doubtful = *known.doubtful.get_or_insert(now);
        if before.is_some() && now.saturating_duration_since(doubtful) < PATIENCE {
            return;
        }
        known.given = wanted;
        known.doubtful = None;
        if !self.policy.set.auto.enabled {
            return;
        }
        self.say_discovered(pid, before);
        self.consider(pid);
    }

    fn say_discovered(&self, pid: u32, before: Option<Modality>) {
        let name = self.world.get(pid).map_or("", |process| &process.facts.comm);
        let Some(known) = self.discoveries.candidates.get(&pid) else { return };
        let class = known.given.and_then(|modality| self.class_for(modality));
        match (class, &known.finding) {
            (Some(class), Some(found)) => {
                let evidence = found.evidence.join("; ");
                tracing::info!(pid, name, class, "discovered: {evidence}");
            }
            _ if before.is_some() => {
                tracing::info!(pid, name, "too little speaks for what was discovered: let go");
            }
            _ => {}
        }
    }

    /// Follows the threads of some candidates, each in its turn.
    fn follow_candidates(&mut self, now: Instant) {
        if self.probes.is_none() {
            return;
        }
        let mut changed = Vec::new();
        let mut followed = 0;
        for (pid, known) in &mut self.discoveries.candidates {
            match known.watch {
                Watch::Until(until) if until <= now => {
                    known.watch = Watch::RestsUntil(now + RESTED);
                    changed.push(*pid);
                }
                Watch::Until(_) => followed += 1,
                Watch::RestsUntil(until) if until <= now => known.watch = Watch::Waits,
                Watch::RestsUntil(_) | Watch::Waits => {}
            }
        }
        // What shows something goes before what is only busy.
        let (shows, is_busy): (Vec<_>, Vec<_>) =
            self.discoveries.candidates.iter_mut().partition(|(_, known)| known.signs);
        for (pid, known) in shows.into_iter().chain(is_busy) {
            if followed >= MOST_FOLLOWED {
                break;
            }
            let small = |process: &Process| process.threads.len() <= MOST_THREADS;
            // One with a class is followed for that.
            if known.watch == Watch::Waits
                && !known.has_class(&self.policy.set.auto)
                && self.world.get(*pid).is_some_and(small)
            {
                known.watch = Watch::Until(now + if known.signs { FOLLOWED } else { GLANCED_AT });
                changed.push(*pid);
                followed += 1;
            }
        }
        for pid in changed {
            self.consider(pid);
        }
    }

    /// The beats of a process's threads, as of the last sample.
    fn beats_of(&self, pid: u32) -> Vec<Beat> {
        let beat = |jobs: &downbeat_api::ThreadJobs| match jobs.rhythm? {
            Rhythm::Periodic { period_ns, .. } => {
                Some(Beat { thread: jobs.thread.clone(), period_ns })
            }
            Rhythm::Aperiodic { .. } => None,
        };
        let threads = self.following.threads().iter();
        threads.filter(|jobs| jobs.pid == pid).filter_map(beat).collect()
    }

    fn class_for(&self, modality: Modality) -> Option<&str> {
        let class = self.policy.set.auto.class(modality)?;
        Some(&self.policy.set.classes.get(class)?.name)
    }

    fn note_discoveries(&mut self) {
        let given = |(pid, known): (&u32, &Candidate)| {
            let class = self.class_for(known.given?)?;
            let name = &self.world.get(*pid)?.facts.comm;
            Some(format!("{name} ({pid}) is {class}"))
        };
        let mut named = Vec::new();
        if self.policy.set.auto.enabled {
            named.extend(self.discoveries.candidates.iter().filter_map(given));
        }
        let said = if named.is_empty() {
            Vec::new()
        } else {
            let more = named.len().saturating_sub(NAMED);
            named.truncate(NAMED);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            let text = format!("discovered, without a rule: {}{more}", named.join(", "));
            let remedy = "`downbeat explain PID` says why; a rule for it goes first";
            vec![notice(Severity::Info, text, Some(remedy))]
        };
        self.notices.set("discovery", said);
    }

    /// Why a process that no rule names has a class, one sign a line.
    pub(super) fn evidence_for(&self, process: &Process) -> Vec<String> {
        let discovered = process.threads.values().filter_map(|thread| thread.classified);
        if !discovered.into_iter().any(|assigned| assigned.by == By::Discovery) {
            return Vec::new();
        }
        self.discoveries.evidence(process.pid).map_or_else(Vec::new, |found| found.evidence.clone())
    }

    /// What a process was found to work on, where that was enough for a class.
    pub(super) fn discovered_modality(&self, process: &Process) -> Option<Modality> {
        let known = self.discoveries.candidates.get(&process.pid)?;
        known.given.filter(|_| known.start_time == process.start_time)
    }

    /// What [`By::Discovery`] means for a process, in a line.
    pub(super) fn discovered_as(&self, pid: u32) -> String {
        match self.discoveries.evidence(pid) {
            Some(Finding { modality, confidence, .. }) => {
                let percent = (confidence * 100.0).round();
                format!("discovered: {} ({percent} % sure), and no rule names it", modality.name())
            }
            None => "discovered".to_owned(),
        }
    }

    /// What would be discovered here, whether or not `[auto]` is on. Whoever asks has processes
    /// looked at for a while, so that the next answer knows more.
    pub(super) fn discovered_so_far(&mut self) -> Response {
        self.discoveries.survey = Some(Instant::now() + SURVEY);
        let was_on = self.discoveries.is_on;
        self.want_facts();
        if !was_on {
            // Nobody wanted to know what they hold open: now they are looked at in their turn.
            self.consider_all();
        }
        let auto = &self.policy.set.auto;
        let mut findings: Vec<Discovered> = self
            .discoveries
            .candidates
            .iter()
            .filter_map(|(pid, known)| {
                let facts = &self.world.get(*pid)?.facts;
                let found = known.finding.as_ref()?;
                let class = self.class_for(found.modality).map(ToOwned::to_owned);
                Some(Discovered {
                    pid: *pid,
                    name: facts.comm.clone(),
                    exe: facts.exe.clone(),
                    cmdline: facts.cmdline.clone(),
                    modality: found.modality.name().to_owned(),
                    confidence: found.confidence,
                    enough: found.is_enough(known.given == Some(found.modality)),
                    evidence: found.evidence.clone(),
                    given: auto.enabled && class.is_some() && known.given == Some(found.modality),
                    class,
                })
            })
            .collect();
        findings.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then(a.pid.cmp(&b.pid)));
        let unwatched = |known: &&Candidate| !matches!(known.watch, Watch::RestsUntil(_));
        let watched = self.discoveries.candidates.values().filter(unwatched);
        let pending = if self.probes.is_some() { watched.count() } else { 0 };
        let pending = pending + self.discoveries.changed.len() + self.reader.unseen();
        let (enabled, beats) = (auto.enabled, self.probes.is_some());
        Response::Discovery(Box::new(Discovery {
            enabled,
            beats,
            pending: pending as u64,
            findings,
        }))
    }
}

impl Candidate {
    fn new(start_time: u64) -> Self {
        Self {
            start_time,
            signs: false,
            watch: Watch::Waits,
            beats: Vec::new(),
            finding: None,
            given: None,
            doubtful: None,
        }
    }

    fn class(&self, auto: &Auto) -> Option<usize> {
        if auto.enabled { auto.class(self.given?) } else { None }
    }

    fn has_class(&self, auto: &Auto) -> bool {
        self.class(auto).is_some()
    }

    /// Whether the process is treated otherwise than without discovery.
    fn holds_something(&self) -> bool {
        self.given.is_some() || matches!(self.watch, Watch::Until(_))
    }
}

/// Whether a rule or a person gives a thread of a process its class.
fn is_named(process: &Process) -> bool {
    let mut assigned = process.threads.values().filter_map(|thread| thread.classified);
    assigned.any(|assigned| assigned.by != By::Discovery)
}
