//! The order that the queue is compared with.

use std::time::Duration;

use downbeat_queue::{Event, Limits, ModelSpec, Offer, Order, Queue, Ticket, WorkerId, WorkerSpec};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The order in which one worker gets three requests that came while it was busy, of which the last
/// is the most urgent, and one that is late whatever is done.
fn served(order: Order) -> (Vec<Ticket>, usize) {
    let mut queue = Queue::new(Limits { order, ..Limits::default() });
    let model = queue.add_model(ModelSpec::named("m"));
    queue.observe(ms(0), model, 1, ms(10));
    let spec = WorkerSpec { models: vec![model], concurrency: 1, group: None };
    queue.attach(ms(0), WorkerId(1), spec);
    let mut refused = 0;
    for deadline in [500, 400, 300, 200, 5] {
        let offer = Offer { priority: 1000 - deadline, ..Offer::new(model, "a client") };
        refused += usize::from(queue.offer(ms(0), offer.by(ms(deadline))).is_err());
        if deadline == 500 {
            assert!(matches!(queue.poll(ms(0)), Some(Event::Start(_))));
        }
    }
    let mut served = Vec::new();
    let mut now = ms(10);
    let mut job = downbeat_queue::JobId(1);
    loop {
        queue.finished(now, job, Some(ms(10)));
        match queue.poll(now) {
            Some(Event::Start(next)) => {
                served.extend(next.tickets);
                (job, now) = (next.id, now + ms(10));
            }
            Some(other) => panic!("{other:?}"),
            None => return (served, refused),
        }
    }
}

#[test]
fn by_deadline_the_most_urgent_is_first_and_what_would_be_late_is_refused() {
    assert_eq!(served(Order::Deadline), ([4, 3, 2].map(Ticket).to_vec(), 1));
}

#[test]
fn by_arrival_nothing_is_put_aside_and_nothing_refused() {
    assert_eq!(served(Order::Arrival), ([2, 3, 4, 5].map(Ticket).to_vec(), 0));
}
