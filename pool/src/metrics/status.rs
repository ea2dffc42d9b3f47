//! The status as the control socket tells it: the supervisor's view, with what became of requests.

use std::time::Instant;

use downbeat_api::pool::{self, ModelState, PoolStatus, WorkerState, declared_name};

use crate::oip::Models;
use crate::view::{Model, Standing};

/// Of the pool at `now`.
#[must_use]
pub fn of(models: &Models, now: Instant) -> PoolStatus {
    let snapshot = models.backend().view.lock().clone();
    let rows = snapshot.models.iter().map(|(name, model)| {
        let (state, note) = state(models, name, model);
        let own = || snapshot.status.workers.iter().filter(|it| declared_name(&it.name) == *name);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let counts = models.backend().statistics.of(name);
        let recent = models.backend().statistics.recent(name, now);
        let load = models.backend().dispatcher.load(name).unwrap_or_default();
        let ns = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let sound = counts.sound.filter(|(lasts, _)| !lasts.is_zero());
        pool::Model {
            name: name.clone(),
            state,
            note,
            version: model.metadata.as_ref().and_then(|it| it.versions.last().cloned()),
            ready: count(own().filter(|it| it.state == WorkerState::Ready).count()),
            instances: count(own().count()),
            restarts: snapshot.restarts.get(name).copied().unwrap_or(0),
            queued: (load.waiting + load.background) as u64,
            running: load.running as u64,
            requests: counts.success.total.count + counts.fail.count,
            not_answered: counts.fail.count,
            rate: recent.rate,
            p50_ns: recent.p50.map(ns),
            p99_ns: recent.p99.map(ns),
            batch: recent.batch,
            with_deadline: recent.with_deadline,
            in_time: recent.in_time,
            real_time_factor: sound
                .map(|(lasts, computed)| computed.as_secs_f64() / lasts.as_secs_f64()),
        }
    });
    PoolStatus { models: rows.collect(), ..snapshot.status.clone() }
}

/// Whether a model takes requests, and why it does not.
pub(super) fn state(models: &Models, name: &str, model: &Model) -> (ModelState, Option<String>) {
    if models.backend().drained().contains(name) {
        return (ModelState::Drained, None);
    }
    match &model.standing {
        Standing::Ready => (ModelState::Ready, None),
        Standing::Coming(reason) => (ModelState::Loading, Some(reason.clone())),
        Standing::Down(reason) => (ModelState::Unavailable, Some(reason.clone())),
    }
}

/// For labels.
pub(super) fn word(state: ModelState) -> &'static str {
    match state {
        ModelState::Ready => "ready",
        ModelState::Loading => "loading",
        ModelState::Unavailable => "unavailable",
        ModelState::Drained => "drained",
    }
}
