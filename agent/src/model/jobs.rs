//! Jobs per thread and per class, from what the kernel programs counted since each thread is
//! followed.

use std::collections::{BTreeMap, HashMap};

use downbeat_abi::{JOB_FIRST_BUCKET, Job, RELEASES};
use downbeat_api::{ClassJobs, JobSummary, Release, Rhythm, ThreadJobs};

use super::histogram::Histogram;
use super::rhythm::{goes_on, rhythm};

/// What releases a thread, in the order of [`JobCounts::released`].
pub(super) const RELEASE_KINDS: [Release; 4] =
    [Release::Timer, Release::Interrupt, Release::Wake, Release::Marked];

/// Jobs counted since a thread is followed, or within some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Completed.
    pub jobs: u64,
    /// Of these, after their deadline.
    pub missed: u64,
    /// Of the missed ones, those that would have been in time had they started when released.
    pub late_starts: u64,
    /// Releases by a timer, an interrupt, a wake, a mark.
    pub released: [u64; RELEASE_KINDS.len()],
    /// Release to completion.
    pub response: Histogram,
    /// CPU time.
    pub cost: Histogram,
    /// Release to release.
    pub interval: Histogram,
}

impl JobCounts {
    /// What came since `earlier`. A count that is lower than before began anew, and with it all
    /// others.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        if self.jobs < earlier.jobs {
            return self.clone();
        }
        let released =
            std::array::from_fn(|kind| self.released[kind].saturating_sub(earlier.released[kind]));
        Self {
            jobs: self.jobs - earlier.jobs,
            missed: self.missed.saturating_sub(earlier.missed),
            late_starts: self.late_starts.saturating_sub(earlier.late_starts),
            released,
            response: self.response.since(&earlier.response),
            cost: self.cost.since(&earlier.cost),
            interval: self.interval.since(&earlier.interval),
        }
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        self.jobs = self.jobs.saturating_add(other.jobs);
        self.missed = self.missed.saturating_add(other.missed);
        self.late_starts = self.late_starts.saturating_add(other.late_starts);
        for (sum, more) in self.released.iter_mut().zip(other.released) {
            *sum = sum.saturating_add(more);
        }
        self.response.merge(&other.response);
        self.cost.merge(&other.cost);
        self.interval.merge(&other.interval);
    }

    /// The figures that are shown.
    #[must_use]
    pub fn summary(&self) -> JobSummary {
        JobSummary {
            jobs: self.jobs,
            missed: self.missed,
            late_starts: self.late_starts,
            response: self.response.summary(),
            cost: self.cost.summary(),
            interval: self.interval.summary(),
        }
    }

    /// What released the thread most often; the first of several that did so equally often.
    #[must_use]
    pub fn release(&self) -> Option<Release> {
        let most = *self.released.iter().max()?;
        let kind = self.released.iter().position(|count| *count == most && most > 0)?;
        Some(RELEASE_KINDS[kind])
    }
}

impl From<&Job> for JobCounts {
    fn from(job: &Job) -> Self {
        let [timer, interrupt, wake] = job.released;
        let histogram =
            |buckets: &[u32], sum| Histogram::from_counts(JOB_FIRST_BUCKET, buckets, sum);
        Self {
            jobs: job.jobs,
            missed: job.missed,
            late_starts: job.late_starts,
            released: [timer, interrupt, wake, 0],
            response: histogram(&job.response, job.response_sum_ns),
            cost: histogram(&job.cost, job.cost_sum_ns),
            interval: histogram(&job.interval, job.interval_sum_ns),
        }
    }
}

/// The release times that the kernel programs keep of a thread, oldest first.
#[must_use]
pub fn releases(job: &Job) -> Vec<u64> {
    in_order(job.release_count, &job.releases)
}

/// The same from the two fields of a [`Job`].
#[must_use]
pub fn in_order(count: u64, releases: &[u64; RELEASES]) -> Vec<u64> {
    let next = (count % RELEASES as u64) as usize;
    let (newer, older) = releases.split_at(next);
    let older = if count < RELEASES as u64 { &[] } else { older };
    let mut releases: Vec<u64> = Vec::with_capacity(RELEASES);
    for time in older.iter().chain(newer) {
        // The kernel writes while this is read: the oldest place may hold the newest time already.
        if releases.last().is_some_and(|before| time < before) {
            releases.clear();
        }
        releases.push(*time);
    }
    releases
}

/// One thread and its jobs at one moment.
#[derive(Clone, Debug)]
pub struct JobSample {
    /// Thread.
    pub tid: u32,
    /// Its start time, clock ticks since boot: ids are reused.
    pub start_time: u64,
    /// Its process.
    pub pid: u32,
    /// The thread's own name.
    pub thread: String,
    /// The process's name.
    pub process: String,
    /// Class; absent for a thread that is only watched.
    pub class: Option<String>,
    /// Its deadline, nanoseconds after the release.
    pub deadline_ns: Option<u64>,
    /// For how long it has not slept, nanoseconds, where that is worth telling.
    pub awake_ns: Option<u64>,
    /// Everything since the thread is followed.
    pub counts: JobCounts,
    /// The latest release times, `CLOCK_MONOTONIC` nanoseconds, oldest first.
    pub releases: Vec<u64>,
    /// This is the last of it: it counts for its class and is shown no more.
    pub ended: bool,
}

/// What was known at the last sample.
#[derive(Debug, Default)]
pub struct Jobs {
    threads: HashMap<(u32, u64), Known>,
    classes: BTreeMap<String, ClassSums>,
}

/// A thread at the last sample.
#[derive(Debug)]
struct Known {
    counts: JobCounts,
    rhythm: Option<Rhythm>,
    /// Samples since its rhythm was looked for from scratch.
    age: u32,
}

/// A beat that goes on is looked for from scratch at each so many samples: jitter and skipped frames
/// change before the period does.
const LOOKED_FOR_EACH: u32 = 4;

#[derive(Debug, Default)]
struct ClassSums {
    recent: JobCounts,
    total: JobCounts,
}

impl Jobs {
    /// Takes in all threads that are followed, and those that ended since the last sample.
    /// Returns the living ones, by class (threads without one last), process and thread; forgets
    /// those that are not in the sample.
    pub fn sample(&mut self, samples: impl IntoIterator<Item = JobSample>) -> Vec<ThreadJobs> {
        for sums in self.classes.values_mut() {
            sums.recent = JobCounts::default();
        }
        let mut before = std::mem::take(&mut self.threads);
        let mut shown = Vec::new();
        for sample in samples {
            let key = (sample.tid, sample.start_time);
            let earlier = before.remove(&key);
            let recent = match &earlier {
                Some(earlier) => sample.counts.since(&earlier.counts),
                None => sample.counts.clone(),
            };
            if let Some(class) = &sample.class {
                let sums = self.classes.entry(class.clone()).or_default();
                sums.recent.merge(&recent);
                sums.total.merge(&recent);
            }
            if !sample.ended {
                let (rhythm, age) = latest_rhythm(earlier.as_ref(), sample.tid, &sample.releases);
                shown.push(thread(&sample, &recent, rhythm));
                self.threads.insert(key, Known { counts: sample.counts, rhythm, age });
            }
        }
        shown.sort_by(|a, b| {
            let place = |jobs: &ThreadJobs| (jobs.pid, jobs.tid);
            let by_class = a.class.is_none().cmp(&b.class.is_none()).then(a.class.cmp(&b.class));
            by_class.then(place(a).cmp(&place(b)))
        });
        shown
    }

    /// Looks at the rhythm of one of the last sample's threads by its latest releases. Nothing where
    /// there is no such thread.
    pub fn look_at(
        &mut self,
        tid: u32,
        start_time: u64,
        releases: &[u64],
    ) -> Option<Option<Rhythm>> {
        let known = self.threads.get_mut(&(tid, start_time))?;
        (known.rhythm, known.age) = latest_rhythm(Some(known), tid, releases);
        Some(known.rhythm)
    }

    /// Jobs of a class's threads, those that ended included; absent when it never had any.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<ClassJobs> {
        let sums = self.classes.get(name)?;
        Some(ClassJobs {
            recent: sums.recent.summary(),
            total: sums.total.summary(),
            response_buckets: sums.total.response.cumulative(),
        })
    }

    /// Forgets the classes that a new policy does not have.
    pub fn keep_classes(&mut self, kept: impl Fn(&str) -> bool) {
        self.classes.retain(|name, _| kept(name));
    }
}

/// The rhythm at a sample, and its age.
fn latest_rhythm(earlier: Option<&Known>, tid: u32, releases: &[u64]) -> (Option<Rhythm>, u32) {
    if let Some(Known { rhythm: Some(known), age, .. }) = earlier
        && age + 1 < LOOKED_FOR_EACH
        && goes_on(known, releases)
    {
        return (Some(*known), age + 1);
    }
    // Threads that began together are not all looked at in the same second ever after.
    let age = if earlier.is_some() { 0 } else { tid % LOOKED_FOR_EACH };
    (rhythm(releases), age)
}

fn thread(sample: &JobSample, recent: &JobCounts, rhythm: Option<Rhythm>) -> ThreadJobs {
    ThreadJobs {
        tid: sample.tid,
        pid: sample.pid,
        thread: sample.thread.clone(),
        process: sample.process.clone(),
        class: sample.class.clone(),
        release: recent.release(),
        rhythm,
        deadline_ns: sample.deadline_ns,
        awake: sample.awake_ns.map(|ns| ns as f64 / 1e9),
        recent: recent.summary(),
        total: sample.counts.summary(),
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use downbeat_abi::{JOB_FIRST_BUCKET, bucket_of};
    use downbeat_api::Rhythm;
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn counts(responses: &[u64]) -> JobCounts {
        let mut counts = JobCounts { jobs: responses.len() as u64, ..JobCounts::default() };
        counts.released[0] = counts.jobs;
        responses.iter().for_each(|ns| counts.response.record(*ns));
        counts
    }

    fn sample(tid: u32, class: Option<&str>, counts: JobCounts) -> JobSample {
        JobSample {
            tid,
            start_time: 5,
            pid: 1,
            thread: "audio".into(),
            process: "player".into(),
            class: class.map(Into::into),
            deadline_ns: Some(10 * MS),
            awake_ns: None,
            counts,
            releases: Vec::new(),
            ended: false,
        }
    }

    #[test]
    fn a_sample_tells_what_came_since_the_last_and_in_all() {
        let mut jobs = Jobs::default();
        jobs.sample([sample(7, Some("voice"), counts(&[MS, MS]))]);
        let told = jobs.sample([sample(7, Some("voice"), counts(&[MS, MS, 3 * MS]))]);
        assert_eq!((told[0].recent.jobs, told[0].total.jobs), (1, 3));
        assert_eq!(told[0].recent.response.sum_ns, 3 * MS);
        assert_eq!(told[0].release, Some(Release::Timer));
        let class = jobs.class("voice").unwrap();
        assert_eq!((class.recent.jobs, class.total.jobs), (1, 3));
        assert_eq!(class.response_buckets.last(), Some(&(u64::MAX, 3)));
        assert_eq!(jobs.class("batch"), None);
    }

    #[test]
    fn a_thread_that_ended_counts_for_its_class_and_is_shown_no_more() {
        let mut jobs = Jobs::default();
        jobs.sample([sample(7, Some("voice"), counts(&[MS]))]);
        let last = JobSample { ended: true, ..sample(7, Some("voice"), counts(&[MS, MS])) };
        assert_eq!(jobs.sample([last]), []);
        assert_eq!(jobs.class("voice").unwrap().recent.jobs, 1);
        // Another thread got its id, and with it its start time within the same clock tick.
        let told = jobs.sample([sample(7, Some("voice"), counts(&[MS]))]);
        assert_eq!((told[0].recent.jobs, told[0].total.jobs), (1, 1));
        assert_eq!(jobs.class("voice").unwrap().total.jobs, 3);
    }

    #[test]
    fn an_id_that_is_reused_starts_anew() {
        let mut jobs = Jobs::default();
        jobs.sample([sample(7, Some("voice"), counts(&[MS; 5]))]);
        let next = JobSample { start_time: 6, ..sample(7, None, counts(&[MS])) };
        let told = jobs.sample([next.clone()]);
        assert_eq!(told[0].recent.jobs, 1);
        assert_eq!(jobs.class("voice").unwrap().total.jobs, 5);
        // The same thread, which was not followed for a while: counts that fell began anew.
        let told = jobs.sample([JobSample { counts: counts(&[]), ..next }]);
        assert_eq!((told[0].recent.jobs, told[0].release), (0, None));
    }

    #[test]
    fn a_thread_that_changes_its_class_takes_nothing_along() {
        let mut jobs = Jobs::default();
        jobs.sample([sample(7, Some("voice"), counts(&[MS; 5]))]);
        jobs.sample([sample(7, Some("video"), counts(&[MS; 6]))]);
        assert_eq!(jobs.class("voice").unwrap().total.jobs, 5);
        assert_eq!(jobs.class("voice").unwrap().recent.jobs, 0);
        assert_eq!(jobs.class("video").unwrap().total.jobs, 1);
        jobs.keep_classes(|name| name == "video");
        assert_eq!(jobs.class("voice"), None);
    }

    #[test]
    fn threads_come_by_class_and_those_without_one_last() {
        let mut jobs = Jobs::default();
        let told = jobs.sample([
            sample(1, None, counts(&[])),
            sample(3, Some("voice"), counts(&[])),
            sample(2, Some("voice"), counts(&[])),
            sample(4, Some("audio"), counts(&[])),
        ]);
        assert_eq!(told.iter().map(|jobs| jobs.tid).collect::<Vec<_>>(), [4, 2, 3, 1]);
    }

    #[test]
    fn what_the_kernel_counted_is_taken_over() {
        let mut job = Job::zeroed();
        (job.jobs, job.missed, job.late_starts, job.released) = (3, 2, 1, [1, 2, 0]);
        job.response[bucket_of(5 * MS) - JOB_FIRST_BUCKET] = 3;
        job.response_sum_ns = 15 * MS;
        job.release_count = 70;
        for count in 0..70_u64 {
            job.releases[(count % 64) as usize] = 1_000 + count * 10 * MS;
        }
        let counts = JobCounts::from(&job);
        assert_eq!(counts.release(), Some(Release::Interrupt));
        let summary = counts.summary();
        assert_eq!((summary.jobs, summary.missed, summary.late_starts), (3, 2, 1));
        assert_eq!((summary.response.count, summary.response.sum_ns), (3, 15 * MS));
        let p50 = summary.response.p50_ns.unwrap();
        assert!((5 * MS..=5 * MS + 5 * MS / 8).contains(&p50), "{p50}");
        let releases = releases(&job);
        assert_eq!((releases.len(), releases[0]), (64, 1_000 + 6 * 10 * MS));
        assert!(releases.is_sorted());
        assert!(matches!(rhythm(&releases), Some(Rhythm::Periodic { period_ns, .. })
            if period_ns == 10 * MS));
    }

    #[test]
    fn releases_that_are_few_or_just_being_written_stay_in_order() {
        let mut job = Job::zeroed();
        assert!(releases(&job).is_empty());
        job.release_count = 2;
        (job.releases[0], job.releases[1]) = (5, 9);
        assert_eq!(releases(&job), [5, 9]);
        // The kernel has written the time of the 65th release and not yet its count.
        job.release_count = 64;
        job.releases = std::array::from_fn(|n| n as u64 + 100);
        job.releases[0] = 164;
        assert_eq!(releases(&job), (101..164).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn a_class_has_what_its_threads_had(
            steps in prop::collection::vec(prop::collection::vec((0..4_u32, 0..3_u64, any::<bool>()), 0..6), 1..12),
        ) {
            let mut jobs = Jobs::default();
            let mut now: BTreeMap<u32, u64> = BTreeMap::new();
            let mut completed = 0;
            for step in steps {
                let mut samples = BTreeMap::new();
                for (tid, more, ended) in step {
                    completed += more;
                    *now.entry(tid).or_default() += more;
                    let made = counts(&vec![MS; now[&tid] as usize]);
                    samples.insert(tid, JobSample { ended, ..sample(tid, Some("voice"), made) });
                }
                // Whoever is not in the step is idle, not gone.
                for (tid, total) in &now {
                    let idle = counts(&vec![MS; *total as usize]);
                    samples.entry(*tid).or_insert_with(|| sample(*tid, Some("voice"), idle));
                }
                now.retain(|tid, _| !samples[tid].ended);
                jobs.sample(samples.into_values());
                let total = jobs.class("voice").map_or(0, |class| class.total.jobs);
                prop_assert_eq!(total, completed);
            }
        }
    }
}
