//! What holds whatever comes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use downbeat_queue::{
    Cancelled, Cause, Event, Guess, Job, Limits, Media, ModelId, ModelSpec, Offer, Queue, Step,
    Ticket, WorkerId, WorkerSpec,
};
use proptest::prelude::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[derive(Clone, Debug)]
enum Act {
    Offer {
        model: usize,
        client: usize,
        deadline: Option<u64>,
        priority: u64,
        units: u32,
        sequence: Option<(u8, bool, bool)>,
        child: bool,
    },
    Finish {
        which: usize,
        works: bool,
    },
    Cancel {
        which: usize,
    },
    Pass(u64),
    Attach(u64),
    Detach(u64),
    Drain(u64),
}

fn steps() -> impl Strategy<Value = Vec<Act>> {
    let sequence = proptest::option::weighted(0.4, (0..4_u8, any::<bool>(), any::<bool>()));
    let offer =
        (
            0..3_usize,
            0..3_usize,
            proptest::option::of(0..80_u64),
            0..3_u64,
            1..4_u32,
            sequence,
            any::<bool>(),
        )
            .prop_map(|(model, client, deadline, priority, units, sequence, child)| {
                Act::Offer { model, client, deadline, priority, units, sequence, child }
            });
    let step = prop_oneof![
        12 => offer,
        8 => (any::<usize>(), proptest::bool::weighted(0.9)).prop_map(|(which, works)| Act::Finish { which, works }),
        1 => any::<usize>().prop_map(|which| Act::Cancel { which }),
        4 => (0..40_u64).prop_map(Act::Pass),
        1 => (0..3_u64).prop_map(Act::Attach),
        1 => (0..3_u64).prop_map(Act::Detach),
        1 => (0..3_u64).prop_map(Act::Drain),
    ];
    proptest::collection::vec(step, 1..150)
}

/// The queue and what its caller knows of it.
struct Pool {
    queue: Queue,
    models: Vec<(ModelId, ModelSpec)>,
    workers: BTreeMap<WorkerId, bool>,
    now: Duration,
    open: BTreeMap<Ticket, Option<(ModelId, Step)>>,
    running: Vec<Job>,
    answered: BTreeSet<Ticket>,
    /// The ticket of each sequence that started last, and where.
    last_of: BTreeMap<(ModelId, String), (Ticket, WorkerId)>,
}

const CLIENTS: [&str; 3] = ["a", "b", "c"];
const MOST: usize = 12;

impl Pool {
    fn new() -> Self {
        let mut queue = Queue::new(Limits::default());
        let medias = [Media::Audio, Media::Video, Media::Other];
        let mut models = Vec::new();
        for (at, media) in medias.into_iter().enumerate() {
            let spec = ModelSpec {
                media,
                max_batch: [1, 2, 6][at],
                max_queue: MOST,
                cheaper: models.last().map(|(id, _)| *id).filter(|_| at == 2),
                sequence_idle: ms(200),
                ..ModelSpec::named(format!("m{at}"))
            };
            models.push((queue.add_model(spec.clone()), spec));
        }
        Self {
            queue,
            models,
            workers: BTreeMap::new(),
            now: ms(1),
            open: BTreeMap::new(),
            running: Vec::new(),
            answered: BTreeSet::new(),
            last_of: BTreeMap::new(),
        }
    }

    fn attach(&mut self, id: u64) {
        self.detach(id);
        let models = self.models.iter().map(|(id, _)| *id).collect();
        let spec = WorkerSpec { models, concurrency: 1 + id as usize % 2, group: None };
        self.queue.attach(self.now, WorkerId(id), spec);
        self.workers.insert(WorkerId(id), false);
        self.poll();
    }

    fn detach(&mut self, id: u64) {
        self.queue.detach(self.now, WorkerId(id));
        self.workers.remove(&WorkerId(id));
        self.running.retain(|job| job.worker != WorkerId(id));
        self.poll();
    }

    fn answer(&mut self, ticket: Ticket) {
        assert!(self.open.remove(&ticket).is_some(), "{ticket:?} is answered, and was not open");
        assert!(self.answered.insert(ticket), "{ticket:?} is answered twice");
    }

    fn poll(&mut self) {
        while let Some(event) = self.queue.poll(self.now) {
            match event {
                Event::Start(job) => self.started(job),
                Event::Dropped { ticket, refusal } => {
                    assert!(!refusal.reason.is_empty());
                    self.answer(ticket);
                }
                Event::SequenceClosed { model, id, .. } => {
                    self.last_of.remove(&(model, id.to_string()));
                }
            }
        }
        for worker in self.workers.keys() {
            let running = self.running.iter().filter(|job| job.worker == *worker).count();
            assert!(running <= 1 + worker.0 as usize % 2, "{worker:?} runs {running}");
        }
    }

    fn started(&mut self, job: Job) {
        assert!(self.workers.contains_key(&job.worker), "{:?} is not attached", job.worker);
        let (_, spec) = self.models.iter().find(|(id, _)| *id == job.model).unwrap();
        assert!(!job.tickets.is_empty());
        assert!(job.tickets.len() == 1 || job.units <= spec.max_batch, "{job:?}");
        for ticket in &job.tickets {
            assert!(self.open.contains_key(ticket), "{ticket:?} starts, and is over");
        }
        if let Some(step) = &job.sequence {
            assert_eq!(job.tickets.len(), 1);
            let ticket = job.tickets[0];
            let same = self.running.iter().any(|other| {
                other.model == job.model && other.sequence.as_ref().is_some_and(|s| s.id == step.id)
            });
            assert!(!same, "two of one sequence at a time");
            let key = (job.model, step.id.to_string());
            if let Some((last, worker)) = self.last_of.get(&key) {
                if !step.start {
                    assert!(*last < ticket, "out of order");
                    assert_eq!(*worker, job.worker, "the sequence moved");
                }
            } else {
                assert!(step.start, "a sequence begins without its start");
            }
            self.last_of.insert(key, (ticket, job.worker));
        } else {
            assert!(!self.workers[&job.worker], "a drained worker gets new work");
        }
        self.running.push(job);
    }

    fn finish(&mut self, at: usize, works: bool) {
        let job = self.running.remove(at);
        let took = works.then_some(ms(u64::from(job.units)));
        let done = self.queue.finished(self.now, job.id, took);
        for ticket in done {
            assert!(job.tickets.contains(&ticket), "the answer of another request");
            self.answer(ticket);
        }
        assert!(self.queue.finished(self.now, job.id, None).is_empty(), "a job ends once");
        self.poll();
    }

    fn step(&mut self, step: &Act) {
        match step.clone() {
            Act::Offer { model, client, deadline, priority, units, sequence, child } => {
                let sequence =
                    sequence.map(|(id, start, end)| Step { id: id.to_string().into(), start, end });
                let parent = self.open.keys().next_back().copied().filter(|_| child);
                let deadline = deadline.map(|deadline| self.now + ms(deadline));
                let offer = Offer {
                    deadline,
                    priority,
                    units,
                    batch_key: Some(u64::from(priority > 1)),
                    sequence: sequence.clone(),
                    parent,
                    ..Offer::new(self.models[model].0, CLIENTS[client])
                };
                match self.queue.offer(self.now, offer) {
                    Ok(admitted) => {
                        if let (Some(wanted), Some(got)) = (deadline, admitted.deadline) {
                            assert!(got <= wanted);
                        }
                        self.open.insert(admitted.ticket, sequence.map(|s| (admitted.model, s)));
                    }
                    Err(refusal) => assert!(!refusal.reason.is_empty()),
                }
                self.poll();
                let load = self.queue.load(self.now, self.models[model].0).unwrap();
                assert!(load.waiting + load.background <= MOST + MOST / 2, "{load:?}");
            }
            Act::Finish { which, works } => {
                if !self.running.is_empty() {
                    self.finish(which % self.running.len(), works);
                }
            }
            Act::Cancel { which } => {
                let Some(ticket) = self.open.keys().nth(which % self.open.len().max(1)).copied()
                else {
                    return;
                };
                let running = self.running.iter().find(|job| job.tickets.contains(&ticket));
                match self.queue.cancel(self.now, ticket) {
                    Cancelled::Waiting => assert!(running.is_none()),
                    Cancelled::Running { worker, job, .. } => {
                        assert_eq!(running.map(|job| (job.worker, job.id)), Some((worker, job)));
                    }
                    Cancelled::Unknown => panic!("{ticket:?} is open"),
                }
                assert_eq!(self.queue.cancel(self.now, ticket), Cancelled::Unknown);
                self.answer(ticket);
                self.poll();
            }
            Act::Pass(time) => {
                self.now += ms(time);
                self.poll();
            }
            Act::Attach(id) => self.attach(id),
            Act::Detach(id) => self.detach(id),
            Act::Drain(id) => {
                self.queue.drain(WorkerId(id));
                if let Some(drained) = self.workers.get_mut(&WorkerId(id)) {
                    *drained = true;
                }
            }
        }
    }

    /// Everything that runs ends, until nothing is left.
    fn end(&mut self) {
        self.attach(9);
        for _ in 0..10_000 {
            if let Some(at) = self.running.len().checked_sub(1) {
                self.now += ms(1);
                self.finish(at, true);
            } else if self.open.is_empty() {
                assert_eq!((self.queue.waiting(), self.queue.running()), (0, 0));
                return;
            } else {
                let due = self.queue.next_due(self.now);
                self.now =
                    due.expect("something waits and nothing will happen").max(self.now + ms(1));
                self.poll();
            }
        }
        panic!("requests without an answer: {:?}", self.open);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_is_answered_once_in_order_and_within_the_limits(steps in steps()) {
        let mut pool = Pool::new();
        pool.attach(0);
        pool.attach(1);
        for step in steps {
            pool.step(&step);
        }
        pool.end();
    }

    /// On one worker and for work that is there at once, earliest deadline first misses nothing if
    /// any order does; whatever is taken is in time.
    #[test]
    fn what_is_feasible_on_one_worker_is_all_taken_and_all_in_time(
        work in proptest::collection::vec((1..20_u32, 1..150_u64), 1..15)
    ) {
        let mut sorted = work.clone();
        sorted.sort_by_key(|(_, deadline)| *deadline);
        let feasible = sorted
            .iter()
            .scan(0, |end, (takes, deadline)| {
                *end += u64::from(*takes);
                Some(*end <= *deadline)
            })
            .all(|in_time| in_time);

        let mut queue = Queue::new(Limits { client_share: 1.0, ..Limits::default() });
        let guess = Guess { per_unit: ms(1), fixed: Duration::ZERO };
        let model = queue.add_model(ModelSpec { guess, ..ModelSpec::named("m") });
        let spec = WorkerSpec { models: vec![model], concurrency: 1, group: None };
        queue.attach(Duration::ZERO, WorkerId(0), spec);
        let mut taken = BTreeMap::new();
        for (units, deadline) in &work {
            let offer = Offer { units: *units, ..Offer::new(model, "c").by(ms(*deadline)) };
            match queue.offer(Duration::ZERO, offer) {
                Ok(admitted) => { taken.insert(admitted.ticket, ms(*deadline)); }
                Err(refusal) => prop_assert!(!feasible, "{refusal}"),
            }
        }
        let mut now = Duration::ZERO;
        let mut last = Duration::ZERO;
        while let Some(event) = queue.poll(now) {
            let Event::Start(job) = event else {
                panic!("{event:?}");
            };
            now += ms(u64::from(job.units));
            for ticket in queue.finished(now, job.id, None) {
                let deadline = taken.remove(&ticket).unwrap();
                prop_assert!(now <= deadline, "{now:?} is after {deadline:?}");
                prop_assert!(last <= deadline, "not in order of deadlines");
                last = deadline;
            }
        }
        prop_assert!(taken.is_empty());
    }
}

fn one_worker(spec: ModelSpec, limits: Limits) -> (Queue, ModelId) {
    let mut queue = Queue::new(limits);
    let model = queue.add_model(spec);
    let spec = WorkerSpec { models: vec![model], concurrency: 1, group: None };
    queue.attach(Duration::ZERO, WorkerId(0), spec);
    (queue, model)
}

fn start(queue: &mut Queue, now: Duration) -> Job {
    match queue.poll(now) {
        Some(Event::Start(job)) => job,
        other => panic!("wanted a start, got {other:?}"),
    }
}

#[test]
fn a_flood_of_one_client_does_not_starve_the_background_work_of_another() {
    let (mut queue, model) = one_worker(ModelSpec::named("m"), Limits::default());
    for _ in 0..400 {
        queue.offer(Duration::ZERO, Offer::new(model, "flood")).unwrap();
    }
    let modest: Vec<_> =
        (0..3).map(|_| queue.offer(ms(0), Offer::new(model, "modest")).unwrap().ticket).collect();
    let mut first = Vec::new();
    for turn in 1..=7 {
        let job = start(&mut queue, ms(turn));
        first.extend(queue.finished(ms(turn + 1), job.id, Some(ms(1))));
    }
    assert!(modest.iter().all(|ticket| first.contains(ticket)), "{modest:?} among {first:?}");
}

#[test]
fn a_flood_with_deadlines_leaves_room_once_others_are_refused() {
    let spec = ModelSpec {
        guess: Guess { per_unit: ms(10), fixed: Duration::ZERO },
        ..ModelSpec::named("m")
    };
    let (mut queue, model) = one_worker(spec, Limits::default());
    let (mut answered, mut refused, mut job) = (0, 0, None::<(Job, Duration)>);
    // Each millisecond the flood offers as much as it can; the other once in 100 ms.
    let mut modest = BTreeSet::new();
    for now in 1..5000 {
        let now = ms(now);
        if let Some((running, end)) = &job
            && *end <= now
        {
            for ticket in queue.finished(now, running.id, Some(ms(10))) {
                answered += usize::from(modest.remove(&ticket));
            }
            job = None;
        }
        for _ in 0..3 {
            let _ = queue.offer(now, Offer::new(model, "flood").by(now + ms(100)));
        }
        if now.as_millis().is_multiple_of(100) {
            match queue.offer(now, Offer::new(model, "modest").by(now + ms(100))) {
                Ok(admitted) => {
                    modest.insert(admitted.ticket);
                }
                Err(_) => refused += 1,
            }
        }
        while let Some(event) = queue.poll(now) {
            if let Event::Start(started) = event {
                job = Some((started, now + ms(10)));
            }
        }
    }
    assert!(answered >= 40 && refused <= 5, "{answered} answered, {refused} refused");
}

#[test]
fn one_client_has_its_share_of_a_queue_at_most() {
    let (mut queue, model) =
        one_worker(ModelSpec { max_queue: 10, ..ModelSpec::named("m") }, Limits::default());
    let taken = (0..10).filter(|_| queue.offer(ms(0), Offer::new(model, "a")).is_ok()).count();
    assert_eq!(taken, 5);
    let refusal = queue.offer(ms(0), Offer::new(model, "a")).unwrap_err();
    assert_eq!(refusal.cause, Cause::ClientShare);
    assert!(refusal.retry_after.is_some());
    assert!(queue.offer(ms(0), Offer::new(model, "b")).is_ok());
}

#[test]
fn background_work_waits_for_deadline_work_but_for_the_job_that_runs() {
    let (mut queue, model) = one_worker(ModelSpec::named("m"), Limits::default());
    queue.offer(ms(0), Offer::new(model, "a")).unwrap();
    queue.offer(ms(0), Offer::new(model, "a")).unwrap();
    let first = start(&mut queue, ms(0));
    let urgent = queue.offer(ms(1), Offer::new(model, "b").by(ms(90))).unwrap();
    assert_eq!(queue.poll(ms(1)), None);
    queue.finished(ms(2), first.id, Some(ms(2)));
    assert_eq!(start(&mut queue, ms(2)).tickets, [urgent.ticket]);
}

#[test]
fn video_gives_up_its_oldest_frame_and_says_so() {
    let spec = ModelSpec {
        media: Media::Video,
        deadline: Some(ms(30)),
        guess: Guess { per_unit: ms(12), fixed: Duration::ZERO },
        ..ModelSpec::named("video")
    };
    let (mut queue, model) = one_worker(spec, Limits { client_share: 1.0, ..Limits::default() });
    let frame =
        |queue: &mut Queue, at| queue.offer(ms(at), Offer::new(model, "cam")).map(|a| a.ticket);
    let first = frame(&mut queue, 0).unwrap();
    assert_eq!(start(&mut queue, ms(0)).tickets, [first]);
    let second = frame(&mut queue, 1).unwrap();
    let third = frame(&mut queue, 2).expect("in the place of the second");
    let Some(Event::Dropped { ticket, refusal }) = queue.poll(ms(2)) else {
        panic!("the second frame goes");
    };
    assert_eq!((ticket, refusal.cause), (second, Cause::Shed));
    assert!(third > second);
}

#[test]
fn a_cheaper_model_is_tried_before_a_refusal() {
    let mut queue = Queue::new(Limits::default());
    let spec = |name: &str, per_unit, cheaper| ModelSpec {
        guess: Guess { per_unit, fixed: Duration::ZERO },
        cheaper,
        ..ModelSpec::named(name)
    };
    let small = queue.add_model(spec("small", ms(5), None));
    let large = queue.add_model(spec("large", ms(50), Some(small)));
    for (worker, model) in [(0, small), (1, large)] {
        let spec = WorkerSpec { models: vec![model], concurrency: 1, group: None };
        queue.attach(ms(0), WorkerId(worker), spec);
    }
    // Measured just now, so nothing is let in to measure anew.
    queue.observe(ms(0), large, 1, ms(50));
    assert_eq!(queue.offer(ms(0), Offer::new(large, "c").by(ms(60))).unwrap().model, large);
    assert_eq!(queue.offer(ms(0), Offer::new(large, "c").by(ms(70))).unwrap().model, small);
    assert_eq!(
        queue.offer(ms(0), Offer::new(large, "c").by(ms(3))).unwrap_err().cause,
        Cause::Late
    );
}

#[test]
fn sub_requests_inherit_the_deadline() {
    let (mut queue, model) = one_worker(ModelSpec::named("m"), Limits::default());
    let parent = queue.offer(ms(0), Offer::new(model, "c").by(ms(40))).unwrap();
    let child = Offer { parent: Some(parent.ticket), ..Offer::new(model, "c").by(ms(90)) };
    assert_eq!(queue.offer(ms(1), child.clone()).unwrap().deadline, Some(ms(40)));
    queue.cancel(ms(2), parent.ticket);
    assert_eq!(queue.offer(ms(2), child).unwrap_err().cause, Cause::Expired);
}

#[test]
fn work_of_a_lost_worker_runs_once_more_elsewhere_and_not_twice() {
    let (mut queue, model) = one_worker(ModelSpec::named("m"), Limits::default());
    let admitted = queue.offer(ms(0), Offer::new(model, "c").by(ms(500))).unwrap();
    let job = start(&mut queue, ms(0));
    for worker in [1, 2] {
        let spec = WorkerSpec { models: vec![model], concurrency: 1, group: None };
        queue.attach(ms(1), WorkerId(worker), spec);
    }
    queue.detach(ms(2), job.worker);
    let again = start(&mut queue, ms(2));
    assert_eq!(again.tickets, [admitted.ticket]);
    assert!(queue.finished(ms(3), job.id, Some(ms(3))).is_empty(), "a late word of the lost one");
    queue.detach(ms(4), again.worker);
    let Some(Event::Dropped { ticket, refusal }) = queue.poll(ms(4)) else {
        panic!("not a third time");
    };
    assert_eq!((ticket, refusal.cause), (admitted.ticket, Cause::WorkerLost));
}

#[test]
fn a_model_that_refuses_by_its_own_estimate_is_measured_anew() {
    let (mut queue, model) = one_worker(ModelSpec::named("m"), Limits::default());
    queue.observe(ms(0), model, 1, ms(900));
    let refusal = queue.offer(ms(10), Offer::new(model, "c").by(ms(20))).unwrap_err();
    assert_eq!((refusal.cause, refusal.retry_after), (Cause::Late, None));
    let mut now = ms(1500);
    for _ in 0..30 {
        queue.offer(now, Offer::new(model, "c").by(now + ms(10))).expect("a measurement is due");
        let job = start(&mut queue, now);
        queue.finished(now + ms(1), job.id, Some(ms(1)));
        now += ms(1500);
    }
    assert!(queue.offer(now, Offer::new(model, "c").by(now + ms(10))).is_ok());
}

#[test]
fn a_group_runs_as_much_as_it_may_and_background_takes_no_place_of_deadline_work() {
    let mut queue = Queue::new(Limits { client_share: 1.0, ..Limits::default() });
    let model = queue.add_model(ModelSpec::named("m"));
    let group = downbeat_queue::GroupId(0);
    queue.limit_group(group, Some(1));
    for worker in 0..3 {
        let spec = WorkerSpec { models: vec![model], concurrency: 1, group: Some(group) };
        queue.attach(ms(0), WorkerId(worker), spec);
    }
    queue.offer(ms(0), Offer::new(model, "c")).unwrap();
    queue.offer(ms(0), Offer::new(model, "c")).unwrap();
    start(&mut queue, ms(0));
    assert_eq!(queue.poll(ms(0)), None, "one background job at a time");
    queue.offer(ms(0), Offer::new(model, "c").by(ms(50))).unwrap();
    queue.offer(ms(0), Offer::new(model, "c").by(ms(50))).unwrap();
    assert!(start(&mut queue, ms(0)).deadline.is_some());
    assert_eq!(queue.poll(ms(0)), None, "one job with a deadline at a time");
}

#[test]
fn batches_form_as_far_as_the_slack_of_all_allows() {
    let spec = ModelSpec {
        max_batch: 8,
        guess: Guess { per_unit: ms(2), fixed: ms(4) },
        ..ModelSpec::named("m")
    };
    let (mut queue, model) = one_worker(spec, Limits { client_share: 1.0, ..Limits::default() });
    let offer = |deadline| Offer { batch_key: Some(1), ..Offer::new(model, "c").by(ms(deadline)) };
    let blocker = queue.offer(ms(0), Offer::new(model, "c").by(ms(6))).unwrap();
    assert_eq!(start(&mut queue, ms(0)).tickets, [blocker.ticket]);
    // Two are done at 6 + 8 = 14 ms, three at 16 ms: one too late for the first.
    for deadline in [15, 60, 60, 60] {
        queue.offer(ms(0), offer(deadline)).unwrap();
    }
    queue.finished(ms(6), downbeat_queue::JobId(1), None);
    let job = start(&mut queue, ms(6));
    assert_eq!(job.tickets.len(), 2, "{job:?}");
    queue.finished(ms(14), job.id, None);
    assert_eq!(start(&mut queue, ms(14)).tickets.len(), 2);
}
