//! One worker's life as a state machine: pure, with the time passed in.
//!
//! Times are spans since a common start. [`Supervisor::next`] says what is to be done now; the
//! caller does it and reports what happened through the other methods.

use std::collections::VecDeque;
use std::time::Duration;

use downbeat_api::pool::WorkerState;

use crate::backoff;
use crate::config::Restart;

/// This many deaths within [`DEATH_WINDOW`] and the worker stays down.
pub const MAX_DEATHS: usize = 5;

/// See [`MAX_DEATHS`].
pub const DEATH_WINDOW: Duration = Duration::from_secs(60);

/// An external command that lives so long counts as ready.
pub const PROOF_OF_LIFE: Duration = Duration::from_millis(200);

/// A built-in worker that is not ready by then hangs.
pub const READY_LIMIT: Duration = Duration::from_secs(10);

/// A model that is not loaded by then hangs; the largest are read from slow disks.
pub const LOAD_LIMIT: Duration = Duration::from_secs(120);

/// From SIGTERM to SIGKILL.
pub const STOP_LIMIT: Duration = Duration::from_secs(2);

/// How a worker tells that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// By `READY=1`; without it in [`READY_LIMIT`] it is killed.
    Notified,
    /// By loading its model, or by answering; without it in [`LOAD_LIMIT`] it is killed.
    Loaded,
    /// By `READY=1`, or by being alive for [`PROOF_OF_LIFE`].
    Alive,
}

/// Why a worker is killed that did not end by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sentence {
    /// Its death counts like any other.
    Passing(String),
    /// It will not go better the next time: it stays down.
    Lasting(String),
}

/// What the caller is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start the process, then [`Supervisor::spawned`] or [`Supervisor::refused`].
    Spawn,
    /// SIGTERM to the process group.
    Terminate,
    /// SIGKILL to the process group.
    Kill,
    /// Ask again at this time.
    Wait(Duration),
    /// Ask again after the next event.
    Idle,
}

/// One worker's life.
#[derive(Clone, Debug)]
pub struct Supervisor {
    restart: Restart,
    readiness: Readiness,
    phase: Phase,
    deaths: VecDeque<Duration>,
    /// Deaths since it last ran for [`DEATH_WINDOW`].
    in_a_row: u32,
    starts: u64,
    note: Option<String>,
    /// Why it is being killed.
    sentence: Option<Sentence>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No process; one is due at `until`.
    Waiting {
        until: Duration,
    },
    Running {
        since: Duration,
        ready: bool,
    },
    /// SIGKILL is still to be sent, for a reason that is kept.
    Condemned {
        since: Duration,
    },
    /// Killed for a reason that is kept.
    Killed {
        since: Duration,
    },
    /// SIGTERM is still to be sent.
    ToStop,
    Stopping {
        kill_at: Duration,
    },
    /// SIGKILL was sent after SIGTERM.
    Finishing,
    Failed,
    Stopped,
}

impl Supervisor {
    /// A worker that is due at once.
    #[must_use]
    pub fn new(restart: Restart, readiness: Readiness, now: Duration) -> Self {
        Self {
            restart,
            readiness,
            phase: Phase::Waiting { until: now },
            deaths: VecDeque::new(),
            in_a_row: 0,
            starts: 0,
            note: None,
            sentence: None,
        }
    }

    /// What is to be done at `now`. Each signal is asked for once.
    pub fn next(&mut self, now: Duration) -> Next {
        match self.phase {
            Phase::Waiting { until } if now >= until => Next::Spawn,
            Phase::Waiting { until } => Next::Wait(until),
            Phase::Running { since, ready: false } => match self.readiness {
                Readiness::Alive if now >= since + PROOF_OF_LIFE => {
                    self.ready();
                    Next::Idle
                }
                Readiness::Alive => Next::Wait(since + PROOF_OF_LIFE),
                Readiness::Notified => self.hurry_up(now, since, READY_LIMIT),
                Readiness::Loaded => self.hurry_up(now, since, LOAD_LIMIT),
            },
            Phase::Condemned { since } => {
                self.phase = Phase::Killed { since };
                Next::Kill
            }
            Phase::ToStop => {
                self.phase = Phase::Stopping { kill_at: now + STOP_LIMIT };
                Next::Terminate
            }
            Phase::Stopping { kill_at } if now >= kill_at => {
                self.phase = Phase::Finishing;
                Next::Kill
            }
            Phase::Stopping { kill_at } => Next::Wait(kill_at),
            Phase::Running { ready: true, .. }
            | Phase::Killed { .. }
            | Phase::Finishing
            | Phase::Failed
            | Phase::Stopped => Next::Idle,
        }
    }

    /// Waits for a worker that is not ready, up to a limit.
    fn hurry_up(&mut self, now: Duration, since: Duration, limit: Duration) -> Next {
        if now < since + limit {
            return Next::Wait(since + limit);
        }
        let reason = format!("not ready within {} s", limit.as_secs());
        self.sentence = Some(Sentence::Passing(reason));
        self.phase = Phase::Killed { since };
        Next::Kill
    }

    /// Has a running worker killed, for a reason that its status shows.
    pub fn condemn(&mut self, sentence: Sentence) {
        if let Phase::Running { since, .. } = self.phase {
            self.sentence = Some(sentence);
            self.phase = Phase::Condemned { since };
        }
    }

    /// The process runs.
    pub fn spawned(&mut self, now: Duration) {
        self.phase = Phase::Running { since: now, ready: false };
        self.starts += 1;
    }

    /// The process could not be started, and trying again would not help.
    pub fn refused(&mut self, reason: String) {
        self.phase = Phase::Failed;
        self.note = Some(reason);
    }

    /// The worker says that it is ready, or has lived long enough.
    pub fn ready(&mut self) {
        if let Phase::Running { ready, .. } = &mut self.phase {
            *ready = true;
        }
    }

    /// The process ended (`clean`: by itself, with status 0) or could not be started for now.
    /// `how` says it in words; `random` is from 0 to 1.
    pub fn ended(&mut self, now: Duration, clean: bool, how: &str, random: f64) {
        let since = match self.phase {
            Phase::ToStop | Phase::Stopping { .. } | Phase::Finishing => {
                self.phase = Phase::Stopped;
                self.note = Some(how.to_owned());
                return;
            }
            Phase::Running { since, .. } => since,
            Phase::Condemned { since } | Phase::Killed { since } => {
                match self.sentence.take() {
                    Some(Sentence::Lasting(reason)) => self.refused(reason),
                    Some(Sentence::Passing(reason)) => self.died(now, since, &reason, random),
                    None => self.died(now, since, how, random),
                }
                return;
            }
            Phase::Waiting { .. } => now,
            Phase::Failed | Phase::Stopped => return,
        };
        let again = match self.restart {
            Restart::Always => true,
            Restart::OnFailure => !clean,
            Restart::Never => false,
        };
        if again {
            self.died(now, since, how, random);
        } else {
            self.phase = Phase::Stopped;
            self.note = Some(format!("{how}; its restart policy leaves it so"));
        }
    }

    fn died(&mut self, now: Duration, since: Duration, how: &str, random: f64) {
        if now.saturating_sub(since) >= DEATH_WINDOW {
            self.in_a_row = 0;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.deaths.push_back(now);
        while self.deaths.front().is_some_and(|first| now.saturating_sub(*first) >= DEATH_WINDOW) {
            self.deaths.pop_front();
        }
        if self.deaths.len() >= MAX_DEATHS {
            self.phase = Phase::Failed;
            self.note = Some(format!(
                "{how}; {MAX_DEATHS} times within {} s, so it stays down until its configuration \
                 changes or the pool gets SIGHUP",
                DEATH_WINDOW.as_secs()
            ));
        } else {
            self.phase = Phase::Waiting { until: now + backoff::delay(self.in_a_row, random) };
            self.note = Some(how.to_owned());
        }
    }

    /// Ends it for good.
    pub fn stop(&mut self) {
        self.phase = match self.phase {
            Phase::Running { .. } | Phase::Condemned { .. } => Phase::ToStop,
            // Its SIGKILL is on the way already.
            Phase::Killed { .. } => Phase::Finishing,
            Phase::Waiting { .. } | Phase::Failed => Phase::Stopped,
            already => already,
        };
    }

    /// Cuts the patience with a worker that is being stopped.
    pub fn hurry(&mut self, now: Duration) {
        if let Phase::Stopping { kill_at } = &mut self.phase {
            *kill_at = now;
        }
    }

    /// Gives a worker that is down another chance, at once and with its deaths forgotten.
    pub fn retry(&mut self, now: Duration) {
        if matches!(self.phase, Phase::Waiting { .. } | Phase::Failed | Phase::Stopped) {
            self.phase = Phase::Waiting { until: now };
            self.deaths.clear();
            self.in_a_row = 0;
        }
    }

    /// Whether it is down and will stay so.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Failed | Phase::Stopped)
    }

    /// For the status.
    #[must_use]
    pub fn state(&self) -> WorkerState {
        match self.phase {
            Phase::Waiting { .. } if self.note.is_none() => WorkerState::Starting,
            Phase::Waiting { .. } => WorkerState::Backoff,
            Phase::Running { ready: false, .. }
            | Phase::Condemned { .. }
            | Phase::Killed { .. } => WorkerState::Starting,
            Phase::Running { ready: true, .. } => WorkerState::Ready,
            Phase::Failed => WorkerState::Failed,
            Phase::ToStop | Phase::Stopping { .. } | Phase::Finishing | Phase::Stopped => {
                WorkerState::Stopped
            }
        }
    }

    /// Why it is down, or how it last ended.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Starts after the first.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.starts.saturating_sub(1)
    }
}

#[cfg(test)]
#[path = "supervise_tests.rs"]
mod tests;
