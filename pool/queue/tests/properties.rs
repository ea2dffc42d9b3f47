//! What holds whatever comes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use downbeat_queue::{
    Cancelled, Event, Guess, Job, Limits, Media, ModelId, ModelSpec, Offer, Queue, Step, Ticket,
    WorkerId, WorkerSpec,
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
