//! The pool's queue: which request runs next, where, and which is refused. Pure: it starts nothing,
//! waits for nothing and reads no clock; the time is passed in, since any start of the caller's.
//!
//! - **Order**: earliest deadline first across models and classes; ties by priority, then arrival.
//!   Work without a deadline is background work: it starts where nothing with a deadline could, and
//!   turns go round among its clients.
//! - **Admission**: what waits is laid out on the workers that can do it, with service times
//!   `a·n + b` learned per model. A request that would be late, or make one late that was taken
//!   before, is refused at once, with a reason and a time after which to try again.
//! - **Expiry**: what cannot be in time any more is dropped before it starts.
//! - **Shedding**: a declared cheaper model is tried first; background work goes before work with a
//!   deadline; video gives up the oldest frame of the same stream; an utterance that began is never
//!   shed, only given up whole when it is hopelessly behind, and new utterances are refused first.
//! - **Batches** form where the slack of all of them allows, from what waits; nothing waits for one.
//! - **Sequences** stick to one worker and keep their order, one request at a time.
//! - **Clients** have a share of every queue and of what runs; while others are refused, also of
//!   the time before a deadline.
//! - **Workers** that end have their requests run once more elsewhere, if time and sequence allow.
//!
//! Every request that was taken leaves once: by [`Queue::finished`], by [`Event::Dropped`] or by
//! [`Queue::cancel`].
//!
//! ```
//! use std::time::Duration;
//! use downbeat_queue::{Event, Limits, ModelSpec, Offer, Queue, WorkerId, WorkerSpec};
//!
//! let ms = Duration::from_millis;
//! let mut queue = Queue::new(Limits::default());
//! let model = queue.add_model(ModelSpec { deadline: Some(ms(50)), ..ModelSpec::named("speech") });
//! let spec = WorkerSpec { models: vec![model], concurrency: 1, group: None };
//! queue.attach(ms(0), WorkerId(1), spec);
//!
//! let admitted = queue.offer(ms(10), Offer::new(model, "a client")).unwrap();
//! assert_eq!(admitted.deadline, Some(ms(60)));
//! let Some(Event::Start(job)) = queue.poll(ms(10)) else { panic!("an idle worker takes it") };
//! assert_eq!(job.tickets, [admitted.ticket]);
//! // … the worker computes …
//! assert_eq!(queue.finished(ms(40), job.id, Some(ms(30))), [admitted.ticket]);
//!
//! // It takes 30 ms, as is known now; so this one is refused while it is early.
//! let refusal = queue.offer(ms(41), Offer::new(model, "a client").by(ms(51))).unwrap_err();
//! assert!(refusal.reason.contains("late by"), "{refusal}");
//! ```

mod admission;
mod batch;
mod edf;
mod fairness;
mod load;
mod offer;
mod queue;
mod request;
mod sequence;
mod service;
mod shed;
mod start;

pub use load::Load;
pub use queue::Queue;
pub use request::{
    Admitted, Cancelled, Cause, Event, GroupId, Guess, Job, JobId, Limits, Media, ModelId,
    ModelSpec, Offer, Order, Refusal, Step, Ticket, WorkerId, WorkerSpec,
};
pub use service::Fit;
