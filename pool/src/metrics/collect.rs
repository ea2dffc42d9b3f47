//! What was counted and what is now, as samples of the catalogue's families. What is not known has
//! no sample.

use std::time::Duration;

use downbeat_api::pool::{WorkerState, declared_name};
use downbeat_openmetrics::{Definition, Families, Value};
use downbeat_queue::Load;

use super::catalogue::{self, BATCH_BOUNDS};
use super::status;
use crate::inference::Metadata;
use crate::oip::Models;
use crate::oip::statistics::{BOUNDS_US, Counts, Histogram};
use crate::view::{Kind, Snapshot};

/// One model at this moment.
struct Model<'a> {
    name: &'a str,
    state: &'static str,
    counts: Counts,
    load: Option<Load>,
    snapshot: &'a Snapshot,
    bytes: Option<u64>,
}

/// Words of the outcome of requests, and those of [`crate::inference::Refusal::word`] in each.
const OUTCOMES: [(&str, &[&str]); 4] = [
    ("refused", &REASONS),
    ("invalid", &["invalid", "too_large"]),
    ("failed", &["failed"]),
    ("cancelled", &["cancelled"]),
];

/// Words of those that are refused for want of time, room or a worker.
const REASONS: [&str; 6] = ["late", "full", "client_share", "shed", "unavailable", "expired"];

type Figure = fn(&Model<'_>) -> Vec<(Vec<String>, Value)>;

/// Everything that is known.
pub(super) fn families(models: &Models) -> Families {
    let backend = models.backend();
    let snapshot = backend.view.lock().clone();
    let mut loads = backend.dispatcher.loads();
    let all: Vec<_> = snapshot
        .models
        .iter()
        .map(|(name, model)| Model {
            name,
            state: status::word(status::state(models, name, model).0),
            counts: backend.statistics.of(name),
            load: loads.remove(name),
            snapshot: &snapshot,
            bytes: match &model.kind {
                Kind::Declared { stored: Some(stored) } => {
                    let target = backend.store.describe(stored, None);
                    target.ok().map(|target| target.artifact.bytes)
                }
                _ => None,
            },
        })
        .collect();
    let mut families = Families::default();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    families.add(&catalogue::BUILD, [(vec![version], Value::Info)]);
    if let Some((resident, cpu)) = own_cost() {
        families.gauge(&catalogue::RESIDENT, resident as f64);
        families.add(&catalogue::CPU, [(vec![], Value::Seconds(cpu.as_secs_f64()))]);
    }
    for (definition, figure) in FIGURES {
        let of = |model: &Model<'_>| {
            let mut samples = figure(model);
            samples.iter_mut().for_each(|(labels, _)| labels.insert(0, model.name.to_owned()));
            samples
        };
        families.add(definition, all.iter().flat_map(of));
    }
    families
}

/// Samples of one model, without its name, which is the first label of all.
const FIGURES: [(&Definition, Figure); 18] = [
    (&catalogue::MODEL, |model| {
        let metadata = model.snapshot.models.get(model.name).and_then(|it| it.metadata.as_deref());
        metadata.map_or_else(Vec::new, |Metadata { versions, platform, .. }| {
            let version = versions.last().cloned().unwrap_or_default();
            vec![(vec![version, platform.clone()], Value::Info)]
        })
    }),
    (&catalogue::STATE, |model| {
        let states = ["ready", "loading", "unavailable", "drained"];
        let holds = |state: &str| Value::Gauge(f64::from(u8::from(state == model.state)));
        states.map(|state| (vec![state.to_owned()], holds(state))).into()
    }),
    (&catalogue::BYTES, |model| known(model.bytes.map(|bytes| Value::Gauge(bytes as f64)))),
    (&catalogue::INSTANCES, |model| {
        [
            ("starting", WorkerState::Starting),
            ("ready", WorkerState::Ready),
            ("backoff", WorkerState::Backoff),
            ("failed", WorkerState::Failed),
            ("stopped", WorkerState::Stopped),
        ]
        .map(|(word, state)| {
            let workers = &model.snapshot.status.workers;
            let own = workers.iter().filter(|it| declared_name(&it.name) == model.name);
            let count = own.filter(|it| it.state == state).count();
            (vec![word.to_owned()], Value::Gauge(count as f64))
        })
        .into()
    }),
    (&catalogue::RESTARTS, |model| {
        one(Value::Count(model.snapshot.restarts.get(model.name).copied().unwrap_or(0)))
    }),
    (&catalogue::REQUESTS, |model| {
        let of =
            |words: &[&str]| words.iter().filter_map(|word| model.counts.refused.get(word)).sum();
        let mut samples =
            vec![(vec!["success".to_owned()], Value::Count(model.counts.success.total.count))];
        samples
            .extend(OUTCOMES.map(|(word, words)| (vec![word.to_owned()], Value::Count(of(words)))));
        samples
    }),
    (&catalogue::REFUSALS, |model| {
        let of = |word: &str| model.counts.refused.get(word).copied().unwrap_or(0);
        REASONS.map(|word| (vec![word.to_owned()], Value::Count(of(word)))).into()
    }),
    (&catalogue::WITH_DEADLINE, |model| one(Value::Count(model.counts.with_deadline))),
    (&catalogue::IN_TIME, |model| one(Value::Count(model.counts.in_time))),
    (&catalogue::DURATION, |model| one(times(&model.counts.success))),
    (&catalogue::QUEUE, |model| one(times(&model.counts.queue))),
    (&catalogue::COMPUTE, |model| one(times(&model.counts.compute))),
    (&catalogue::BATCH, |model| one(batches(&model.counts))),
    (&catalogue::SOUND, |model| {
        known(model.counts.sound.map(|(lasts, _)| Value::Seconds(lasts.as_secs_f64())))
    }),
    (&catalogue::SOUND_COMPUTE, |model| {
        known(model.counts.sound.map(|(_, computed)| Value::Seconds(computed.as_secs_f64())))
    }),
    (&catalogue::QUEUED, |model| {
        let tiers = |load: &Load| [("deadline", load.waiting), ("background", load.background)];
        let sample = |(tier, count): (&str, usize)| (vec![tier.into()], Value::Gauge(count as f64));
        model.load.as_ref().map(tiers).into_iter().flatten().map(sample).collect()
    }),
    (&catalogue::RUNNING, |model| {
        known(model.load.as_ref().map(|load| Value::Gauge(load.running as f64)))
    }),
    (&catalogue::SLOTS, |model| {
        known(model.load.as_ref().map(|load| Value::Gauge(load.slots as f64)))
    }),
];

fn one(value: Value) -> Vec<(Vec<String>, Value)> {
    vec![(Vec::new(), value)]
}

fn known(value: Option<Value>) -> Vec<(Vec<String>, Value)> {
    value.map_or_else(Vec::new, one)
}

fn times(histogram: &Histogram) -> Value {
    let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
    Value::Histogram {
        sum: histogram.total.time.as_secs_f64(),
        count: histogram.total.count,
        buckets: bounds.zip(histogram.counts).collect(),
    }
}

fn batches(counts: &Counts) -> Value {
    let mut buckets: Vec<_> = BATCH_BOUNDS.iter().map(|bound| (*bound as f64, 0)).collect();
    for (size, batches) in &counts.batches {
        if let Some(at) = BATCH_BOUNDS.iter().position(|bound| *size as u64 <= *bound) {
            buckets[at].1 += batches.executions(*size);
        }
    }
    let requests: u64 = counts.batches.values().map(|batches| batches.requests).sum();
    Value::Histogram { sum: requests as f64, count: counts.executions(), buckets }
}

/// Resident memory in bytes and CPU time of this process; nothing where /proc does not say.
fn own_cost() -> Option<(u64, Duration)> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok()?;
    let spent = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec().unsigned_abs(), time.tv_usec().unsigned_abs() as u32 * 1000)
    };
    let cpu = spent(usage.user_time()) + spent(usage.system_time());
    Some((pages.checked_mul(page.unsigned_abs())?, cpu))
}
