//! What the queue does in moments that matter, one after the other.

use std::collections::BTreeSet;
use std::time::Duration;

use downbeat_queue::{
    Cause, Event, Guess, Job, Limits, Media, ModelId, ModelSpec, Offer, Queue, Step, WorkerId,
    WorkerSpec,
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
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
fn one_client_has_its_share_of_the_memory_at_most() {
    let limits = Limits { bytes: 100, ..Limits::default() };
    let (mut queue, model) = one_worker(ModelSpec::named("m"), limits);
    let holding = |client: &str, bytes| Offer { bytes, ..Offer::new(model, client) };
    queue.offer(ms(0), holding("a", 30)).unwrap();
    let running = start(&mut queue, ms(0));
    queue.offer(ms(0), holding("a", 40)).unwrap();
    queue.offer(ms(0), holding("a", 10)).unwrap();
    let refusal = queue.offer(ms(0), holding("a", 1)).unwrap_err();
    assert_eq!(refusal.cause, Cause::ClientShare);
    // One is taken however large; all together are bounded.
    queue.offer(ms(0), holding("b", 50)).unwrap();
    assert_eq!(queue.offer(ms(0), holding("c", 1)).unwrap_err().cause, Cause::Full);
    // The other's goes first, which had no service yet; then one of its own.
    queue.finished(ms(2), running.id, Some(ms(2)));
    let running = start(&mut queue, ms(2));
    queue.finished(ms(4), running.id, Some(ms(2)));
    start(&mut queue, ms(4));
    queue.offer(ms(4), holding("a", 1)).unwrap();
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

/// A model whose frames take 12 ms and have 30, with one worker.
fn camera() -> (Queue, ModelId) {
    let spec = ModelSpec {
        media: Media::Video,
        deadline: Some(ms(30)),
        guess: Guess { per_unit: ms(12), fixed: Duration::ZERO },
        ..ModelSpec::named("video")
    };
    one_worker(spec, Limits { client_share: 1.0, ..Limits::default() })
}

#[test]
fn video_gives_up_its_oldest_frame_and_says_so() {
    let (mut queue, model) = camera();
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

/// A model that takes 50 ms, and the cheaper one beside it, which takes 5.
fn large_and_small() -> (Queue, ModelId, ModelId) {
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
    (queue, large, small)
}

#[test]
fn a_cheaper_model_is_tried_before_a_refusal() {
    let (mut queue, large, small) = large_and_small();
    assert_eq!(queue.offer(ms(0), Offer::new(large, "c").by(ms(60))).unwrap().model, large);
    assert_eq!(queue.offer(ms(0), Offer::new(large, "c").by(ms(70))).unwrap().model, small);
    assert_eq!(
        queue.offer(ms(0), Offer::new(large, "c").by(ms(3))).unwrap_err().cause,
        Cause::Late
    );
}

#[test]
fn a_sequence_that_begins_stays_with_the_model_that_was_asked() {
    let (mut queue, large, small) = large_and_small();
    queue.offer(ms(0), Offer::new(large, "c").by(ms(60))).unwrap();
    let begins = |end| Offer {
        sequence: Some(Step { id: "s".into(), start: true, end }),
        ..Offer::new(large, "c").by(ms(70))
    };
    let refused = queue.offer(ms(0), begins(false)).unwrap_err();
    assert_eq!(refused.cause, Cause::Late, "what follows would ask the large one");
    assert_eq!(queue.offer(ms(0), begins(true)).unwrap().model, small, "nothing follows");
}

#[test]
fn a_frame_that_takes_the_place_of_its_streams_first_begins_it() {
    let (mut queue, model) = camera();
    let frame = |start| Offer {
        sequence: Some(Step { id: "s".into(), start, end: false }),
        ..Offer::new(model, "cam")
    };
    queue.offer(ms(0), Offer::new(model, "other")).unwrap();
    let other = start(&mut queue, ms(0));
    let first = queue.offer(ms(1), frame(true)).unwrap().ticket;
    let second = queue.offer(ms(2), frame(false)).expect("in the place of the first").ticket;
    assert!(
        matches!(queue.poll(ms(2)), Some(Event::Dropped { ticket, .. }) if ticket == first),
        "the first goes"
    );
    queue.finished(ms(12), other.id, Some(ms(12)));
    let job = start(&mut queue, ms(12));
    assert_eq!(job.tickets, [second]);
    assert!(job.sequence.is_some_and(|step| step.start), "nobody knows of its stream");
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
