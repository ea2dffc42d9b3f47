//! Threads that never sleep: the kernel programs see where a frame ends by the sleep after it, so
//! such a thread shows neither jobs nor misses, however late it is.

use std::collections::HashMap;

use downbeat_abi::Job;

/// From when on it is told, nanoseconds: a single long frame is no news.
pub const TOLD_FROM_NS: u64 = 2_000_000_000;

/// Since when each thread is awake.
#[derive(Debug, Default)]
pub struct Awake {
    threads: HashMap<(u32, u64), Seen>,
}

/// A thread at the first look since its last sleep.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at_ns: u64,
    sleeps: Sleeps,
    turns: Turns,
    /// It had a CPU or waited for one since. One that slept since before it was followed looks the
    /// same otherwise.
    works: bool,
}

/// What every sleep, and every wake of a thread that still runs, changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sleeps {
    jobs: u64,
    releases: u64,
    release_ns: u64,
    asleep_ns: u64,
}

/// What every turn on a CPU changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turns {
    run_since_ns: u64,
    run_ns: u64,
    wait_ns: u64,
}

impl Awake {
    /// Takes in all threads that live, each with its id, start time and jobs, at `now_ns`
    /// (monotonic). Returns those that have been awake for [`TOLD_FROM_NS`] or more, and for how
    /// long; forgets those that are not in the sample.
    pub fn sample<'a>(
        &mut self,
        now_ns: u64,
        jobs: impl IntoIterator<Item = ((u32, u64), &'a Job)>,
    ) -> HashMap<(u32, u64), u64> {
        let before = std::mem::take(&mut self.threads);
        let mut told = HashMap::new();
        for (thread, job) in jobs {
            if job.slept_ns != 0 {
                continue;
            }
            let sleeps = Sleeps::of(job);
            let turns = Turns::of(job);
            let new = Seen { at_ns: now_ns, sleeps, turns, works: false };
            let mut seen =
                before.get(&thread).copied().filter(|s| s.sleeps == sleeps).unwrap_or(new);
            // Whoever runs now may have done so all the time, without a change.
            seen.works |= turns != seen.turns || turns.run_since_ns != 0;
            let awake_ns = now_ns.saturating_sub(seen.at_ns);
            if seen.works && awake_ns >= TOLD_FROM_NS {
                told.insert(thread, awake_ns);
            }
            self.threads.insert(thread, seen);
        }
        told
    }
}

impl Sleeps {
    fn of(job: &Job) -> Self {
        let story = &job.story;
        let asleep = [story.io_ns, story.fault_ns, story.sleep_ns, job.pending_io_ns];
        Self {
            jobs: job.jobs,
            releases: job.release_count,
            release_ns: story.release_ns,
            asleep_ns: asleep.into_iter().fold(0, u64::saturating_add),
        }
    }
}

impl Turns {
    fn of(job: &Job) -> Self {
        let Job { run_since_ns, ref story, .. } = *job;
        Self { run_since_ns, run_ns: story.run_ns, wait_ns: story.wait_ns }
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const THREAD: (u32, u64) = (7, 5);

    fn told(awake: &mut Awake, second: u64, job: &Job) -> Option<u64> {
        awake.sample(second * SECOND, [(THREAD, job)]).get(&THREAD).map(|ns| ns / SECOND)
    }

    /// As the kernel programs leave it for a thread that has run since `since`.
    fn runs(since: u64) -> Job {
        Job { run_since_ns: since, ..Job::zeroed() }
    }

    #[test]
    fn a_thread_that_runs_all_the_time_is_told_from_two_seconds_on() {
        let mut awake = Awake::default();
        let job = runs(5);
        let seconds: Vec<_> = (10..14).map(|second| told(&mut awake, second, &job)).collect();
        assert_eq!(seconds, [None, None, Some(2), Some(3)]);
    }

    #[test]
    fn turns_with_others_are_no_sleep() {
        let mut awake = Awake::default();
        let mut job = runs(5);
        for second in 10..12 {
            assert_eq!(told(&mut awake, second, &job), None);
            job.story.run_ns += SECOND / 2;
            job.story.wait_ns += SECOND / 2;
            job.run_since_ns = 0;
        }
        assert_eq!(told(&mut awake, 12, &job), Some(2));
    }

    #[test]
    fn each_kind_of_sleep_begins_anew() {
        let changes: [fn(&mut Job); 7] = [
            |job| job.jobs += 1,
            |job| job.release_count += 1,
            |job| job.story.release_ns += 1,
            |job| job.story.sleep_ns += 1,
            |job| job.story.io_ns += 1,
            |job| job.story.fault_ns += 1,
            |job| job.pending_io_ns += 1,
        ];
        for change in changes {
            let mut awake = Awake::default();
            let mut job = runs(5);
            told(&mut awake, 10, &job);
            assert_eq!(told(&mut awake, 15, &job), Some(5));
            change(&mut job);
            assert_eq!(told(&mut awake, 16, &job), None);
            assert_eq!(told(&mut awake, 19, &job), Some(3));
        }
    }

    #[test]
    fn one_that_sleeps_is_not_told() {
        let mut awake = Awake::default();
        let job = runs(5);
        told(&mut awake, 10, &job);
        let asleep = Job { slept_ns: 12 * SECOND, run_since_ns: 0, ..job };
        assert_eq!(told(&mut awake, 13, &asleep), None);
        assert_eq!(told(&mut awake, 14, &job), None, "it slept in between");
    }

    #[test]
    fn one_that_slept_since_before_it_was_followed_is_not_told() {
        let mut awake = Awake::default();
        let job = Job::zeroed();
        assert!((10..20).all(|second| told(&mut awake, second, &job).is_none()));
    }

    #[test]
    fn an_id_that_is_reused_and_a_thread_that_was_left_out_begin_anew() {
        let mut awake = Awake::default();
        let job = runs(5);
        told(&mut awake, 10, &job);
        assert!(awake.sample(13 * SECOND, [((7, 6), &job)]).is_empty());
        assert_eq!(told(&mut awake, 14, &job), None);
    }
}
