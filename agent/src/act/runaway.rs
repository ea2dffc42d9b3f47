//! A real-time thread that does not let go of its CPU loses what it was given.
//!
//! A thread of its own looks at the run time of each thread that the agent made real-time, above
//! all of them in priority: the engine may be among those that a runaway keeps from running. It
//! sleeps while there is none. Reservations are not looked at, since the kernel holds them to their
//! budget.

mod pace;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_getres};

use super::control::{Control, sched_setattr};
use super::journal::Change;
use super::subject::{Subject, ThreadId};
use super::value::{Lever, RESET_ON_FORK, Sched, Value};
use crate::observe::run_times::{RunTimes, voluntary_switches};
use crate::roots::Roots;
use pace::{Pace, Verdict};

/// How often each thread is looked at: with the shortest limit, a runaway loses its priority within
/// 90 ms of its last pause.
const PERIOD: Duration = Duration::from_millis(40);

/// The shortest time on end after which a thread is a runaway.
const SHORTEST: Duration = Duration::from_millis(50);

/// Threads whose files stay open between two looks; those beyond are opened each time.
const KEPT_OPEN: usize = 256;

/// Above what the agent gives (49 at most by itself) and what a policy is likely to ask for.
const PRIORITY: u32 = 99;

/// A thread that was made real-time.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// Which one.
    pub thread: ThreadId,
    /// What it was given.
    pub ours: Sched,
    /// What goes back.
    pub old: Sched,
    /// How long it may have a CPU on end; what is shorter than 50 ms counts as 50 ms.
    pub limit: Duration,
}

/// A thread that lost its real time.
#[derive(Clone, Debug, PartialEq)]
pub struct Demoted {
    /// Which one.
    pub thread: ThreadId,
    /// How long it had had a CPU on end, or why it could not be demoted.
    pub outcome: Result<Duration, String>,
}

#[derive(Debug)]
enum Order {
    Watch(Box<Given>),
    Forget(u32),
}

/// The thread that watches, seen from the engine.
#[derive(Debug)]
pub struct RunawayWatch {
    orders: Sender<Order>,
    demoted: Receiver<Demoted>,
    /// Threads that are watched or will be: while there are none, nobody needs to be forgotten.
    watched: Arc<AtomicUsize>,
}

impl RunawayWatch {
    /// Starts watching, below `roots`. `sleeps` says whether a thread has not run since it last slept,
    /// where that is known without a system call, for whom a look at its file can be spared.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start<C: Control + Send + 'static>(
        control: C,
        roots: &Roots,
        sleeps: impl Fn(u32) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, receiver) = mpsc::channel();
        let (sender, demoted) = mpsc::channel();
        let count = Arc::new(AtomicUsize::new(0));
        let watched = Threads { by_tid: HashMap::new(), count: Arc::clone(&count) };
        let watcher =
            Watcher { control, proc: roots.proc.clone(), sleeps, watched, demoted: sender };
        thread::Builder::new().name("runaways".into()).spawn(move || {
            let tid = nix::unistd::gettid().as_raw().cast_unsigned();
            let policy = libc::SCHED_FIFO.cast_unsigned();
            let own = Sched { policy, priority: PRIORITY, flags: RESET_ON_FORK, ..Sched::DEFAULT };
            // Where no real time is granted, there is also nobody to watch.
            if let Err(error) = sched_setattr(tid, &own) {
                tracing::debug!("priority of the watch for runaways: {error}");
            }
            watcher.run(&receiver);
        })?;
        Ok(Self { orders, demoted, watched: count })
    }

    /// From its next look on this thread is watched.
    pub fn watch(&self, given: Given) {
        self.watched.fetch_add(1, Ordering::Relaxed);
        // The watching thread ends with the process alone.
        let _ = self.orders.send(Order::Watch(Box::new(given)));
    }

    /// This thread has no real time from us any more.
    pub fn forget(&self, tid: u32) {
        // Each order wakes a watch that has nobody to look at.
        if self.watched.load(Ordering::Relaxed) > 0 {
            let _ = self.orders.send(Order::Forget(tid));
        }
    }

    /// Who was demoted since the last call.
    #[must_use]
    pub fn demoted(&self) -> Vec<Demoted> {
        self.demoted.try_iter().collect()
    }
}

#[derive(Debug)]
struct Watcher<C, F> {
    control: C,
    proc: PathBuf,
    sleeps: F,
    watched: Threads,
    demoted: Sender<Demoted>,
}

/// The threads that are watched, and how many are or will be.
#[derive(Debug)]
struct Threads {
    by_tid: HashMap<u32, Watched>,
    count: Arc<AtomicUsize>,
}

impl Threads {
    fn insert(&mut self, tid: u32, watched: Watched) {
        if self.by_tid.insert(tid, watched).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn remove(&mut self, tid: u32) -> Option<Watched> {
        let watched = self.by_tid.remove(&tid)?;
        self.count.fetch_sub(1, Ordering::Relaxed);
        Some(watched)
    }
}

#[derive(Debug)]
struct Watched {
    // Apart, since most looks need none of it: those at all others stay in few cache lines.
    given: Box<Given>,
    file: Option<File>,
    pace: Pace,
}

impl<C: Control, F: Fn(u32) -> bool> Watcher<C, F> {
    /// Orders wake it only while it has nobody to look at; else they wait for its next look, which is
    /// the first that a thread's pace is told from anyway.
    fn run(mut self, orders: &Receiver<Order>) {
        let begun = Instant::now();
        let mut next = Duration::ZERO;
        loop {
            if self.watched.by_tid.is_empty() {
                let Ok(order) = orders.recv() else { return };
                self.take(order);
                next = begun.elapsed() + PERIOD;
            }
            thread::sleep(next.saturating_sub(begun.elapsed()));
            loop {
                match orders.try_recv() {
                    Ok(order) => self.take(order),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            next = self.look(begun.elapsed());
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Watch(given) => {
                let tid = given.thread.tid;
                let pace = Pace::new(given.limit.max(SHORTEST), tick());
                self.watched.insert(tid, Watched { given, file: None, pace });
            }
            Order::Forget(tid) => drop(self.watched.remove(tid)),
        }
    }

    /// Looks at everyone; returns when to look next.
    fn look(&mut self, now: Duration) -> Duration {
        let mut next = now + PERIOD;
        let mut over = Vec::new();
        let mut open = self.watched.by_tid.values().filter(|it| it.file.is_some()).count();
        for (tid, watched) in &mut self.watched.by_tid {
            if (self.sleeps)(*tid) {
                watched.pace.slept();
                continue;
            }
            let ran = match &watched.file {
                Some(file) => ran(file),
                None => {
                    File::open(self.proc.join(tid.to_string()).join("schedstat")).and_then(|file| {
                        let ran = ran(&file);
                        watched.file = (open < KEPT_OPEN).then_some(file);
                        open += usize::from(watched.file.is_some());
                        ran
                    })
                }
            };
            let thread = watched.given.thread;
            let sleeps = || voluntary_switches(&self.proc, thread.pid, thread.tid).ok();
            match ran.map(|ran| watched.pace.look(now, ran, sleeps)) {
                Ok(Verdict::Paused) => {}
                Ok(Verdict::OnEndUntil(due)) => next = next.min(due),
                Ok(Verdict::Runaway(on_end)) => over.push((*tid, Some(on_end))),
                // It has ended.
                Err(_) => over.push((*tid, None)),
            }
        }
        for (tid, on_end) in over {
            if let (Some(watched), Some(on_end)) = (self.watched.remove(tid), on_end) {
                self.demote(&watched.given, on_end);
            }
        }
        next
    }

    fn demote(&self, given: &Given, on_end: Duration) {
        let subject = Subject::Thread(given.thread);
        let (old, ours) = (Value::Sched(given.old), Value::Sched(given.ours));
        let change = Change { old, ours, since: 0 };
        // What someone else gave it is theirs.
        let Some(Ok(now)) =
            self.control.is_same(&subject).then(|| self.control.read(Lever::Sched, &subject))
        else {
            return;
        };
        if !now.agrees_with(&change.ours) {
            return;
        }
        let old = change.to_go_back(&now);
        if let Some(kept) = change.kept(&old) {
            tracing::info!("{subject}: {kept}");
        }
        let set = self.control.write(&subject, &old);
        let outcome = set.map(|()| on_end).map_err(|error| error.to_string());
        let _ = self.demoted.send(Demoted { thread: given.thread, outcome });
    }
}

/// CPU time of a thread from its `schedstat` file.
fn ran(file: &File) -> io::Result<Duration> {
    let mut bytes = [0; 96];
    let length = file.read_at(&mut bytes, 0)?;
    let text = std::str::from_utf8(bytes.get(..length).unwrap_or_default()).unwrap_or_default();
    let times = RunTimes::parse(text);
    times.map(|times| times.ran).ok_or_else(|| io::Error::other("a schedstat without numbers"))
}

/// How late the kernel may count the run time of a thread that goes on running.
fn tick() -> Duration {
    clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::from_millis(10), Duration::from)
}

#[cfg(test)]
mod tests;
