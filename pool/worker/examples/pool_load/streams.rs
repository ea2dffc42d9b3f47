//! Streams of requests, all at the same time.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use crate::call::{Answer, Template};
use crate::connection::Connection;
use crate::plan::{Pace, Stream, Streams};
use crate::timer::{Timer, now_ns};

/// A connection that was idle for so long may have been closed by its server.
const STALE_NS: u64 = 500_000_000;

/// Numbers of one stream's requests, at most.
const NUMBERS: u64 = 1_000_000_000;

/// From the start to the first request: every connection that stays idle is there by then.
const LEAD: Duration = Duration::from_millis(50);

/// What came of all streams.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Of one CPU, by this process, from the first request to the last answer.
    pub client_cpu_seconds: f64,
    /// By stream.
    pub streams: BTreeMap<String, Told>,
}

/// What came of a stream.
#[derive(Debug, Serialize)]
pub struct Told {
    /// Requests whose time was in what is counted.
    pub asked: u64,
    /// Right answers.
    pub answered: u64,
    /// Those of them that came before their deadline.
    pub in_time: u64,
    /// Told that there is no time or no room: 408, 429, 503, 504.
    pub refused: u64,
    /// Any other status.
    pub failed: u64,
    /// No answer.
    pub lost: u64,
    /// The answer to another request, or no answer to any.
    pub wrong: u64,
    /// Not sent, for want of a connection.
    pub unsent: u64,
    /// Share of what was asked that was answered in time.
    pub attainment: f64,
    /// Right answers in time each second.
    pub goodput: f64,
    /// Of right answers, microseconds from the scheduled time.
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
    /// How often each status came.
    pub statuses: BTreeMap<u16, u64>,
    /// The first thing that went wrong, in words.
    pub note: Option<String>,
}

/// Asks all that the plan says.
pub async fn run(plan: Streams) -> Result<Results> {
    let mut idle = Vec::new();
    for group in &plan.idle {
        for _ in 0..group.connections {
            idle.push(Connection::open(&group.target).await.context("an idle connection")?);
        }
    }
    let begin = now_ns() + nanoseconds(LEAD.as_secs_f64());
    let counted = begin + nanoseconds(plan.warm_up);
    let end = counted + nanoseconds(plan.seconds);
    let cpu = cpu_seconds();
    let mut asked = Vec::new();
    for (index, stream) in (0_u64..).zip(plan.streams) {
        let expected = stream.expected.as_deref();
        let template = Template::new(&stream.path, &stream.input, stream.binary, expected)?;
        let shared = Rc::new(Shared {
            template,
            first: index * NUMBERS,
            counted,
            stream,
            jobs: RefCell::default(),
            waiting: Cell::new(0),
            open: Cell::new(0),
            here: Notify::new(),
            tally: RefCell::new(Tally::new()?),
            tasks: RefCell::default(),
        });
        let pacing = spawn_local(pace(Rc::clone(&shared), begin, end));
        asked.push((shared, pacing));
    }
    for (_, pacing) in &mut asked {
        pacing.await.context("a schedule")??;
    }
    let last = now_ns() + nanoseconds(plan.patience);
    while now_ns() < last && asked.iter().any(|(shared, _)| shared.tally.borrow().outstanding > 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let client_cpu_seconds = cpu_seconds() - cpu;
    let streams = asked.iter().map(|(shared, _)| {
        shared.tasks.borrow().iter().for_each(JoinHandle::abort);
        (shared.stream.name.clone(), shared.tally.borrow().told(plan.seconds))
    });
    Ok(Results { client_cpu_seconds, streams: streams.collect() })
}

fn nanoseconds(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds.max(0.0)).as_nanos()).unwrap_or(u64::MAX)
}

/// CPU time of this process.
fn cpu_seconds() -> f64 {
    let clock = nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID;
    nix::time::clock_gettime(clock).map(Duration::from).unwrap_or_default().as_secs_f64()
}

/// A request that is due.
struct Job {
    number: u64,
    at: u64,
}

/// What the tasks of a stream share.
struct Shared {
    template: Template,
    stream: Stream,
    /// Number of the first request.
    first: u64,
    /// When counting begins.
    counted: u64,
    jobs: RefCell<VecDeque<Job>>,
    /// Connections that have nothing to do.
    waiting: Cell<usize>,
    open: Cell<usize>,
    here: Notify,
    tally: RefCell<Tally>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

/// Lets requests leave when they are due.
async fn pace(shared: Rc<Shared>, begin: u64, end: u64) -> Result<()> {
    let mut timer = Timer::new()?;
    timer.until(begin).await?;
    let rate = match shared.stream.pace {
        Pace::AtATime(count) => {
            let count = count.min(shared.stream.connections);
            let next = Rc::new(Cell::new(0));
            let each = (0..count).map(|_| {
                spawn_local(one_after_the_other(Rc::clone(&shared), Rc::clone(&next), end))
            });
            let tasks: Vec<_> = each.collect();
            shared.tasks.borrow_mut().extend(tasks);
            return timer.until(end).await;
        }
        Pace::Even(rate) | Pace::Poisson(rate) => rate,
    };
    // Seeded, so that two servers are asked at the same times.
    let mut random = fastrand::Rng::with_seed(shared.first + 1);
    let mut since = 0.0;
    for index in 0_u64.. {
        since = match shared.stream.pace {
            Pace::Poisson(_) => since - (1.0 - random.f64()).ln() / rate,
            // Not a sum, whose error would grow.
            _ => index as f64 / rate,
        };
        let at = begin.saturating_add(nanoseconds(since));
        if at >= end {
            break;
        }
        timer.until(at).await?;
        shared.due(Job { number: shared.first + index, at });
    }
    Ok(())
}

/// One of so many at a time.
async fn one_after_the_other(shared: Rc<Shared>, next: Rc<Cell<u64>>, end: u64) {
    let mut line = Line::default();
    while now_ns() < end {
        let job = Job { number: shared.first + next.get(), at: now_ns() };
        next.set(next.get() + 1);
        shared.tally.borrow_mut().asked(job.at >= shared.counted);
        line.ask(&shared, &job).await;
    }
}

impl Shared {
    fn due(self: &Rc<Self>, job: Job) {
        self.tally.borrow_mut().asked(job.at >= self.counted);
        self.jobs.borrow_mut().push_back(job);
        let lacking = self.waiting.get() < self.jobs.borrow().len();
        if lacking && self.open.get() < self.stream.connections {
            self.open.set(self.open.get() + 1);
            let task = spawn_local(converse(Rc::clone(self)));
            self.tasks.borrow_mut().push(task);
        }
        self.here.notify_one();
    }

    async fn next(&self) -> Job {
        loop {
            if let Some(job) = self.jobs.borrow_mut().pop_front() {
                return job;
            }
            self.waiting.set(self.waiting.get() + 1);
            self.here.notified().await;
            self.waiting.set(self.waiting.get() - 1);
        }
    }
}

/// Takes due requests, one after the other.
async fn converse(shared: Rc<Shared>) {
    let mut line = Line::default();
    loop {
        let job = shared.next().await;
        line.ask(&shared, &job).await;
    }
}

/// A connection that is made when it is needed.
#[derive(Default)]
struct Line {
    connection: Option<Connection>,
    used: u64,
}

impl Line {
    async fn ask(&mut self, shared: &Shared, job: &Job) {
        let counted = job.at >= shared.counted;
        if now_ns().saturating_sub(job.at) > nanoseconds(shared.stream.give_up_ms / 1e3) {
            return shared.tally.borrow_mut().unsent(counted);
        }
        let outcome = self.outcome(shared, job).await;
        self.used = now_ns();
        let deadline = nanoseconds(shared.stream.deadline_ms / 1e3);
        let took = self.used.saturating_sub(job.at);
        shared.tally.borrow_mut().took(counted, outcome, took, deadline);
    }

    async fn outcome(&mut self, shared: &Shared, job: &Job) -> Outcome {
        let stale = now_ns().saturating_sub(self.used) > STALE_NS;
        if stale && self.connection.as_ref().is_some_and(Connection::is_closed) {
            self.connection = None;
        }
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match Connection::open(&shared.stream.target).await {
                Ok(connection) => connection,
                Err(error) => return Outcome::Lost(format!("connecting: {error:#}")),
            },
        };
        let template = &shared.template;
        let clients = shared.stream.clients as u64;
        let client = (clients > 0).then(|| (job.number % clients.max(1)) as usize);
        let head = template.head(job.number, client);
        let elements: &[u8] =
            if template.is_binary() { template.elements(job.number) } else { &[] };
        let read = |answer: &Answer<'_>| Outcome::of(template, job.number, answer);
        match connection.ask(&head, elements, read).await {
            Ok((outcome, last)) => {
                self.connection = (!last).then_some(connection);
                outcome
            }
            Err(error) => Outcome::Lost(format!("{error:#}")),
        }
    }
}

/// What became of a request.
enum Outcome {
    Answered,
    /// A status, and what was said with it.
    Refused(u16, String),
    Failed(u16, String),
    Wrong(String),
    Lost(String),
}

impl Outcome {
    fn of(template: &Template, number: u64, answer: &Answer<'_>) -> Self {
        let words = || {
            let start = &answer.json[..answer.json.len().min(200)];
            String::from_utf8_lossy(start).into_owned()
        };
        match answer.status {
            200 if template.is_answer(number, answer) => Self::Answered,
            200 => Self::Wrong(format!("to request {number}: {}", words())),
            status @ (408 | 429 | 503 | 504) => Self::Refused(status, words()),
            status => Self::Failed(status, words()),
        }
    }
}

/// What is counted of a stream.
struct Tally {
    asked: u64,
    answered: u64,
    in_time: u64,
    refused: u64,
    failed: u64,
    lost: u64,
    wrong: u64,
    unsent: u64,
    /// Counted or not, without an outcome yet.
    outstanding: u64,
    /// Counted, without an outcome yet.
    open: u64,
    times: Histogram<u64>,
    statuses: BTreeMap<u16, u64>,
    note: Option<String>,
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self {
            asked: 0,
            answered: 0,
            in_time: 0,
            refused: 0,
            failed: 0,
            lost: 0,
            wrong: 0,
            unsent: 0,
            outstanding: 0,
            open: 0,
            times: Histogram::new_with_bounds(1, 120_000_000_000, 3)?,
            statuses: BTreeMap::new(),
            note: None,
        })
    }

    fn asked(&mut self, counted: bool) {
        self.outstanding += 1;
        self.open += u64::from(counted);
        self.asked += u64::from(counted);
    }

    fn over(&mut self, counted: bool) {
        self.outstanding -= 1;
        self.open -= u64::from(counted);
    }

    fn unsent(&mut self, counted: bool) {
        self.over(counted);
        self.unsent += u64::from(counted);
    }

    fn took(&mut self, counted: bool, outcome: Outcome, took: u64, deadline: u64) {
        self.over(counted);
        if !counted {
            return;
        }
        let (count, status, note) = match outcome {
            Outcome::Answered => {
                self.in_time += u64::from(took <= deadline);
                self.times.saturating_record(took);
                (&mut self.answered, Some(200), None)
            }
            Outcome::Refused(status, words) => (&mut self.refused, Some(status), Some(words)),
            Outcome::Failed(status, words) => (&mut self.failed, Some(status), Some(words)),
            Outcome::Wrong(words) => (&mut self.wrong, Some(200), Some(words)),
            Outcome::Lost(words) => (&mut self.lost, None, Some(words)),
        };
        *count += 1;
        if let Some(status) = status {
            *self.statuses.entry(status).or_default() += 1;
        }
        self.note = self.note.take().or(note);
    }

    fn told(&self, seconds: f64) -> Told {
        let us = |quantile| self.times.value_at_quantile(quantile) as f64 / 1e3;
        Told {
            asked: self.asked,
            answered: self.answered,
            in_time: self.in_time,
            refused: self.refused,
            failed: self.failed,
            // Whoever still waits has no answer.
            lost: self.lost + self.open,
            wrong: self.wrong,
            unsent: self.unsent,
            attainment: self.in_time as f64 / self.asked.max(1) as f64,
            goodput: self.in_time as f64 / seconds,
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: self.times.max() as f64 / 1e3,
            statuses: self.statuses.clone(),
            note: self.note.clone(),
        }
    }
}
