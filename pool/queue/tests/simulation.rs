//! The queue against first-in-first-out in a simulated pool: virtual time, seeded, deterministic.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use downbeat_queue::{
    Event, JobId, Limits, Media, ModelId, ModelSpec, Offer, Queue, Step, Ticket, WorkerId,
    WorkerSpec,
};
use fastrand::Rng;

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A model and what its jobs really take: `per_unit·n + fixed`, give or take a fifth, and now and
/// then twice as long.
#[derive(Clone)]
struct Kind {
    spec: ModelSpec,
    per_unit: Duration,
    fixed: Duration,
}

impl Kind {
    fn takes(&self, units: u32, rng: &mut Rng) -> Duration {
        let mean = self.per_unit * units + self.fixed;
        let part = if rng.u32(..200) == 0 { 2.0 } else { 0.8 + 0.4 * rng.f64() };
        mean.mul_f64(part)
    }
}

#[derive(Clone)]
struct Arrival {
    at: Duration,
    kind: usize,
    client: &'static str,
    /// Of an utterance: its number, whether it starts or ends here.
    utterance: Option<(usize, bool, bool)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Tally {
    offered: usize,
    in_time: usize,
    late: usize,
    refused: usize,
    busy: Duration,
}

impl Tally {
    fn attainment(&self) -> f64 {
        self.in_time as f64 / self.offered as f64
    }
}

/// Requests per second at random intervals.
fn poisson(
    rate: f64,
    until: Duration,
    kind: usize,
    client: &'static str,
    rng: &mut Rng,
) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    let mut at = 0.0;
    loop {
        at += -(1.0 - rng.f64()).ln() / rate;
        let at = Duration::from_secs_f64(at);
        if at > until {
            return arrivals;
        }
        arrivals.push(Arrival { at, kind, client, utterance: None });
    }
}

fn periodic(
    each: Duration,
    from: Duration,
    until: Duration,
    kind: usize,
    client: &'static str,
) -> Vec<Arrival> {
    (0..)
        .map(|n| from + each * n)
        .take_while(|at| *at <= until)
        .map(|at| Arrival { at, kind, client, utterance: None })
        .collect()
}

/// Shared by both: the workers that run any kind.
fn simulate(kinds: &[Kind], mut arrivals: Vec<Arrival>, workers: u64, seed: u64) -> Vec<Tally> {
    arrivals.sort_by_key(|arrival| arrival.at);
    let mut rng = Rng::with_seed(seed);
    let mut queue = Queue::new(Limits { client_share: 1.0, ..Limits::default() });
    let ids: Vec<ModelId> = kinds.iter().map(|kind| queue.add_model(kind.spec.clone())).collect();
    for worker in 0..workers {
        let spec = WorkerSpec { models: ids.clone(), concurrency: 1, group: None };
        queue.attach(Duration::ZERO, WorkerId(worker), spec);
    }
    let mut tallies = vec![Tally::default(); kinds.len()];
    let mut open: BTreeMap<Ticket, (usize, Option<Duration>)> = BTreeMap::new();
    let mut ends: BinaryHeap<Reverse<(Duration, JobId, usize, Duration)>> = BinaryHeap::new();
    let mut arrivals = arrivals.into_iter().peekable();
    loop {
        let next_arrival = arrivals.peek().map(|arrival| arrival.at);
        let next_end = ends.peek().map(|Reverse((at, ..))| *at);
        let Some(now) = next_arrival.into_iter().chain(next_end).min() else {
            break;
        };
        if next_end == Some(now) {
            let Reverse((_, job, kind, took)) = ends.pop().unwrap();
            tallies[kind].busy += took;
            for ticket in queue.finished(now, job, Some(took)) {
                let (asked, deadline) = open.remove(&ticket).expect("answered once");
                let in_time = deadline.is_none_or(|deadline| now <= deadline);
                *(if in_time { &mut tallies[asked].in_time } else { &mut tallies[asked].late }) +=
                    1;
            }
        } else {
            let arrival = arrivals.next().unwrap();
            let tally = &mut tallies[arrival.kind];
            tally.offered += 1;
            let mut offer = Offer::new(ids[arrival.kind], arrival.client);
            offer.batch_key = Some(0);
            offer.sequence = arrival.utterance.map(|(number, start, end)| Step {
                id: number.to_string().into(),
                start,
                end,
            });
            match queue.offer(now, offer) {
                Ok(admitted) => {
                    open.insert(admitted.ticket, (arrival.kind, admitted.deadline));
                }
                Err(refusal) => {
                    assert!(!refusal.reason.is_empty());
                    tally.refused += 1;
                }
            }
        }
        while let Some(event) = queue.poll(now) {
            match event {
                Event::Start(job) => {
                    let kind = ids.iter().position(|id| *id == job.model).unwrap();
                    let took = kinds[kind].takes(job.units, &mut rng);
                    ends.push(Reverse((now + took, job.id, kind, took)));
                }
                Event::Dropped { ticket, .. } => {
                    let (kind, _) = open.remove(&ticket).expect("dropped once");
                    tallies[kind].refused += 1;
                }
                Event::SequenceClosed { .. } => {}
            }
        }
    }
    assert!(open.is_empty(), "every request has an answer");
    for tally in &tallies {
        assert_eq!(tally.offered, tally.in_time + tally.late + tally.refused);
    }
    tallies
}

/// What a pool without deadlines does: everything in turn, with the same batches.
fn simulate_fifo(
    kinds: &[Kind],
    mut arrivals: Vec<Arrival>,
    workers: u64,
    seed: u64,
) -> Vec<Tally> {
    arrivals.sort_by_key(|arrival| arrival.at);
    let mut rng = Rng::with_seed(seed);
    let mut tallies = vec![Tally::default(); kinds.len()];
    let mut waiting: VecDeque<(usize, Option<Duration>)> = VecDeque::new();
    let mut ends: BinaryHeap<Reverse<(Duration, u64)>> = BinaryHeap::new();
    let mut running: BTreeMap<u64, Vec<(usize, Option<Duration>)>> = BTreeMap::new();
    let mut free: BTreeSet<u64> = (0..workers).collect();
    let mut arrivals = arrivals.into_iter().peekable();
    loop {
        let next_arrival = arrivals.peek().map(|arrival| arrival.at);
        let next_end = ends.peek().map(|Reverse((at, _))| *at);
        let Some(now) = next_arrival.into_iter().chain(next_end).min() else {
            return tallies;
        };
        if next_end == Some(now) {
            let Reverse((_, worker)) = ends.pop().unwrap();
            free.insert(worker);
            for (kind, deadline) in running.remove(&worker).unwrap() {
                let in_time = deadline.is_none_or(|deadline| now <= deadline);
                *(if in_time { &mut tallies[kind].in_time } else { &mut tallies[kind].late }) += 1;
            }
        } else {
            let arrival = arrivals.next().unwrap();
            tallies[arrival.kind].offered += 1;
            let deadline = kinds[arrival.kind].spec.deadline.map(|deadline| now + deadline);
            waiting.push_back((arrival.kind, deadline));
        }
        while !free.is_empty() {
            let Some(first) = waiting.pop_front() else {
                break;
            };
            let mut batch = vec![first];
            let most = kinds[first.0].spec.max_batch.max(1) as usize;
            let mut at = 0;
            while batch.len() < most && at < waiting.len() {
                if waiting[at].0 == first.0 {
                    batch.extend(waiting.remove(at));
                } else {
                    at += 1;
                }
            }
            let worker = free.pop_first().unwrap();
            let took = kinds[first.0].takes(batch.len() as u32, &mut rng);
            tallies[first.0].busy += took;
            ends.push(Reverse((now + took, worker)));
            running.insert(worker, batch);
        }
    }
}

fn image() -> Kind {
    Kind {
        spec: ModelSpec { deadline: Some(ms(50)), ..ModelSpec::named("image") },
        per_unit: ms(5),
        fixed: Duration::ZERO,
    }
}

#[test]
fn goodput_under_overload_stays_that_of_capacity() {
    let kinds = [image()];
    let until = Duration::from_secs(20);
    // Two workers of 5 ms: 400 a second.
    let run = |part: f64, seed| {
        let arrivals = poisson(400.0 * part, until, 0, "c", &mut Rng::with_seed(seed));
        let queue = simulate(&kinds, arrivals.clone(), 2, seed)[0].clone();
        let fifo = simulate_fifo(&kinds, arrivals, 2, seed)[0].clone();
        (queue, fifo)
    };
    for seed in [1, 2] {
        let (capacity, _) = run(1.0, seed);
        for part in [1.2, 3.0] {
            let (queue, fifo) = run(part, seed);
            let kept = queue.in_time as f64 / capacity.in_time as f64;
            println!("{part}: {kept:.3} of {}; fifo {fifo:?}", capacity.in_time);
            assert!(kept >= 0.9, "goodput {kept:.3} at {part} of capacity: {queue:?}");
            let fifo_kept = fifo.in_time as f64 / capacity.in_time as f64;
            assert!(fifo_kept < 0.2, "first-in-first-out kept {fifo_kept:.3}");
            // Refused early rather than late: of what was taken, all but the quantile was in time.
            let taken = queue.in_time + queue.late;
            assert!(queue.late * 20 < taken, "{queue:?}");
        }
    }
}

#[test]
fn overload_with_mixed_deadlines_and_batches_does_not_collapse() {
    let quick = Kind {
        spec: ModelSpec { deadline: Some(ms(15)), ..ModelSpec::named("quick") },
        per_unit: ms(2),
        fixed: Duration::ZERO,
    };
    let batched = Kind {
        spec: ModelSpec { deadline: Some(ms(80)), max_batch: 8, ..ModelSpec::named("batched") },
        per_unit: us(500),
        fixed: ms(4),
    };
    let kinds = [quick, batched];
    let until = Duration::from_secs(10);
    let goodput = |part: f64| {
        let mut rng = Rng::with_seed(7);
        let mut arrivals = poisson(400.0 * part, until, 0, "a", &mut rng);
        arrivals.extend(poisson(1000.0 * part, until, 1, "b", &mut rng));
        let tallies = simulate(&kinds, arrivals, 2, 7);
        println!("{part}: {tallies:?}");
        tallies.iter().map(|tally| tally.in_time).sum::<usize>()
    };
    let capacity = goodput(1.0);
    let over = goodput(1.2);
    assert!(over as f64 >= 0.9 * capacity as f64, "{over} of {capacity}");
}

/// 10 ms audio, 33 ms video, text at random, and background work that would take all there is.
fn mixture(until: Duration) -> (Vec<Kind>, Vec<Arrival>) {
    let kinds = vec![
        Kind {
            spec: ModelSpec {
                deadline: Some(ms(10)),
                media: Media::Audio,
                ..ModelSpec::named("audio")
            },
            per_unit: us(1200),
            fixed: us(100),
        },
        Kind {
            spec: ModelSpec {
                deadline: Some(ms(33)),
                media: Media::Video,
                ..ModelSpec::named("video")
            },
            per_unit: ms(8),
            fixed: Duration::ZERO,
        },
        Kind {
            spec: ModelSpec { deadline: Some(ms(100)), max_batch: 4, ..ModelSpec::named("text") },
            per_unit: ms(2),
            fixed: ms(2),
        },
        Kind {
            spec: ModelSpec { max_batch: 8, ..ModelSpec::named("embedding") },
            per_unit: us(500),
            fixed: us(500),
        },
    ];
    let mut rng = Rng::with_seed(11);
    let mut arrivals = Vec::new();
    // Utterances of three seconds, one after another.
    for (n, arrival) in periodic(ms(10), ms(1), until, 0, "mic").into_iter().enumerate() {
        let utterance = Some((n / 300, n % 300 == 0, n % 300 == 299));
        arrivals.push(Arrival { utterance, ..arrival });
    }
    arrivals.extend(periodic(us(33_333), ms(2), until, 1, "camera"));
    arrivals.extend(poisson(40.0, until, 2, "chat", &mut rng));
    arrivals.extend(periodic(us(200), ms(3), until, 3, "index"));
    (kinds, arrivals)
}

#[test]
fn frames_are_in_time_beside_text_and_background_at_saturation() {
    let until = Duration::from_secs(20);
    let (kinds, arrivals) = mixture(until);
    let workers = 2;
    let queue = simulate(&kinds, arrivals.clone(), workers, 5);
    let fifo = simulate_fifo(&kinds, arrivals, workers, 5);
    for (kind, (queue, fifo)) in kinds.iter().zip(queue.iter().zip(&fifo)) {
        println!("{}: {queue:?}\n    fifo {fifo:?}", kind.spec.name);
    }
    assert!(queue[0].attainment() >= 0.999, "audio {}", queue[0].attainment());
    assert!(queue[1].attainment() >= 0.995, "video {}", queue[1].attainment());
    assert!(queue[2].attainment() >= 0.99, "text {}", queue[2].attainment());
    assert!(fifo[0].attainment() < 0.5, "audio, first in first out: {}", fifo[0].attainment());
    let all = until * workers as u32;
    let left = all.saturating_sub(queue[..3].iter().map(|tally| tally.busy).sum());
    let filled = queue[3].busy.as_secs_f64() / left.as_secs_f64();
    assert!(filled >= 0.9, "background fills {filled:.3} of what is left");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (kinds, arrivals) = mixture(Duration::from_secs(5));
    let once = simulate(&kinds, arrivals.clone(), 2, 3);
    assert_eq!(once, simulate(&kinds, arrivals, 2, 3));
}

#[test]
fn too_many_utterances_are_refused_at_their_start_and_never_within() {
    let kinds = [Kind {
        spec: ModelSpec {
            deadline: Some(ms(20)),
            media: Media::Audio,
            ..ModelSpec::named("audio")
        },
        per_unit: ms(4),
        fixed: Duration::ZERO,
    }];
    // One worker carries five of these at most; twelve come, half a second apart.
    let until = Duration::from_secs(20);
    let mut arrivals = Vec::new();
    for utterance in 0..12_u32 {
        let from = ms(500) * utterance + us(700) * utterance;
        for (n, arrival) in periodic(ms(20), from, until, 0, "mic").into_iter().enumerate() {
            let last = arrival.at + ms(20) > until;
            let utterance = Some((utterance as usize, n == 0, last));
            arrivals.push(Arrival { utterance, ..arrival });
        }
    }
    let tally = &simulate(&kinds, arrivals, 1, 9)[0];
    println!("{tally:?}");
    // What was begun goes on in time: no piece of it is late or lost.
    assert!(tally.late * 200 < tally.in_time, "{tally:?}");
    // Four or five of twelve, each of up to 1000 pieces.
    assert!(tally.in_time > 3500, "{tally:?}");
}
