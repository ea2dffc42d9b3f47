use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use downbeat_api::pool::{ModelState, PoolStatus, Worker, WorkerState};

use super::catalogue::{ALL, BATCH_BOUNDS};
use super::{PREFIX, encode, status};
use crate::dispatch::{Declaration, Dispatcher};
use crate::inference::{Refusal, Response, Spent};
use crate::oip::statistics::{BOUNDS_US, Over};
use crate::oip::{Backend, Models};
use crate::store::Store;
use crate::view::{Kind, Model, Openai, Standing, View};

const MS: Duration = Duration::from_millis(1);

fn worker(name: &str, state: WorkerState, restarts: u64) -> Worker {
    Worker {
        name: name.into(),
        kind: "x".into(),
        state,
        pid: None,
        restarts,
        note: None,
        socket: None,
        frames: None,
        missed: None,
        compute_p50_ns: None,
        compute_p99_ns: None,
    }
}

/// A pool with a model that answered some requests and one that has not been asked.
fn pool() -> Models {
    let view = View::default();
    let model = |standing| Model {
        standing,
        metadata: None,
        kind: Kind::Declared { stored: None },
        deadline: Some(10 * MS),
    };
    let down = Standing::Down("its worker failed".into());
    let models = [("busy", model(Standing::Ready)), ("idle", model(down))];
    let models = models.map(|(name, model)| (name.to_owned(), model)).into();
    let workers = vec![
        worker("busy", WorkerState::Ready, 1),
        worker("busy#2", WorkerState::Starting, 2),
        worker("idle", WorkerState::Failed, 0),
    ];
    view.publish(PoolStatus { workers, ..PoolStatus::default() }, models, Openai::new());
    let dispatcher = Dispatcher::new(Default::default());
    dispatcher.declare(Declaration {
        name: "busy".into(),
        media: None,
        deadline: None,
        batch: 4,
        cheaper: None,
        cold_start: None,
        channel: false,
        denoise: false,
    });
    let models = Models::new(Backend::new(view, dispatcher, Store::new(Path::new("/no/models"))));
    let counted = |ms: u32, outcome| {
        let over = Over { at: Instant::now(), spent: ms * MS, deadline: Some(10 * MS) };
        models.backend().statistics.count("busy", &over, &outcome);
    };
    for (ms, batch) in [(4, 2), (4, 2), (30, 1)] {
        let spent = Spent { queued: MS, computed: 3 * MS, batch, sound: Some(20 * MS) };
        counted(ms, Ok(Response { version: "1".into(), outputs: vec![], spent }));
    }
    counted(1, Err(Refusal::Unavailable("x".into())));
    counted(1, Err(Refusal::Invalid("x".into())));
    models
}

/// The value of a series in the text.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn what_was_counted_is_exposed() {
    let text = encode(&pool()).unwrap();
    assert!(text.ends_with("# EOF\n"));
    for (series, wanted) in [
        ("downbeat_pool_requests_total{model=\"busy\",outcome=\"success\"}", 3.0),
        ("downbeat_pool_requests_total{model=\"busy\",outcome=\"refused\"}", 1.0),
        ("downbeat_pool_requests_total{model=\"busy\",outcome=\"invalid\"}", 1.0),
        ("downbeat_pool_requests_total{model=\"idle\",outcome=\"success\"}", 0.0),
        ("downbeat_pool_refusals_total{model=\"busy\",reason=\"unavailable\"}", 1.0),
        ("downbeat_pool_deadline_requests_total{model=\"busy\"}", 4.0),
        ("downbeat_pool_deadline_met_total{model=\"busy\"}", 2.0),
        ("downbeat_pool_request_duration_seconds_bucket{le=\"0.005\",model=\"busy\"}", 2.0),
        ("downbeat_pool_request_duration_seconds_count{model=\"busy\"}", 3.0),
        ("downbeat_pool_queue_duration_seconds_sum{model=\"busy\"}", 0.003),
        ("downbeat_pool_batch_requests_bucket{le=\"1.0\",model=\"busy\"}", 1.0),
        ("downbeat_pool_batch_requests_count{model=\"busy\"}", 2.0),
        ("downbeat_pool_audio_seconds_total{model=\"busy\"}", 0.06),
        ("downbeat_pool_audio_compute_seconds_total{model=\"busy\"}", 0.006),
        ("downbeat_pool_instances{model=\"busy\",state=\"ready\"}", 1.0),
        ("downbeat_pool_restarts_total{model=\"busy\"}", 3.0),
        ("downbeat_pool_model_state{model=\"idle\",state=\"unavailable\"}", 1.0),
        ("downbeat_pool_queued_requests{model=\"busy\",tier=\"deadline\"}", 0.0),
    ] {
        let is = value(&text, series);
        assert!((is - wanted).abs() < 1e-9, "{series} is {is}, not {wanted}");
    }
    assert!(value(&text, "downbeat_pool_resident_memory_bytes") > 1e6);
    assert!(
        !text.contains("downbeat_pool_audio_seconds_total{model=\"idle\"}"),
        "absent is absent"
    );
    assert!(!text.contains("downbeat_pool_slots{model=\"idle\"}"), "nothing is queued for it");
}

#[tokio::test]
async fn every_family_that_is_exposed_is_in_the_catalogue() {
    let text = encode(&pool()).unwrap();
    let known: Vec<_> = ALL.iter().map(|family| family.full_name(PREFIX)).collect();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(known.iter().any(|known| known == name), "{name}");
    }
}

#[tokio::test]
async fn the_status_tells_the_last_minute() {
    let models = pool();
    models.drain("idle").unwrap();
    let status = status::of(&models, Instant::now());
    let [busy, idle] = &status.models[..] else { panic!("{status:?}") };
    assert_eq!(
        (busy.state, busy.ready, busy.instances, busy.restarts),
        (ModelState::Ready, 1, 2, 3)
    );
    assert_eq!((busy.requests, busy.not_answered), (5, 2));
    assert_eq!((busy.p50_ns, busy.p99_ns), (Some(4_000_000), Some(30_000_000)));
    assert_eq!(busy.attainment(), Some(0.5));
    assert!(busy.real_time_factor.is_some_and(|factor| (factor - 0.1).abs() < 1e-9));
    assert_eq!((idle.state, idle.requests, idle.attainment()), (ModelState::Drained, 0, None));
}

const HEAD: &str = "# Metrics of the pool

The pool's REST server has these at `/metrics` (`http://127.0.0.1:8600/metrics`, or `rest.sock`) in
OpenMetrics 1.0. This page is made from the code: `UPDATE=1 cargo test -p downbeat-pool --lib metrics`
writes it anew.

- The agent's [metrics](metrics.md) have the workers' processes (`downbeat_pool_up`,
  `downbeat_pool_worker_…`); these have models and their requests. No series is in both, so scrape both
  (`dashboards/prometheus.yml`).
- Base units, counters since the pool's start, absent where nothing is known.
- Series grow with the models of pool.d and those that clients loaded from the store, and with nothing
  that a client can make up.
- Requests are counted where they come in, whichever protocol they come by; what `/v1/*` passes on and
  frames of streams are not among them.
- Attainment is `rate(downbeat_pool_deadline_met_total[5m]) / rate(downbeat_pool_deadline_requests_total[5m])`,
  the real-time factor `rate(downbeat_pool_audio_compute_seconds_total[5m]) / rate(downbeat_pool_audio_seconds_total[5m])`.
- Durations are in the family's words: the queue is Triton's `nv_inference_queue_duration`, the
  computation its `nv_inference_compute_infer_duration`, the request its `nv_inference_request_duration`.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n");
    for family in ALL {
        let kind = family.kind.word();
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let name = family.query_name(PREFIX);
        writeln!(page, "| `{name}` | {kind} | {} | {} |", labels.join(" "), family.help).unwrap();
    }
    let seconds: Vec<_> = BOUNDS_US.iter().map(|us| (*us as f64 / 1e6).to_string()).collect();
    let batches: Vec<_> = BATCH_BOUNDS.iter().map(u64::to_string).collect();
    write!(
        page,
        "\nBuckets of durations, in seconds: {}, +Inf. Buckets of batches, in requests: {}, +Inf.\n",
        seconds.join(", "),
        batches.join(", ")
    )
    .unwrap();
    page
}

#[test]
fn the_page_in_docs_is_the_catalogue() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pool-metrics.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, page, "docs/pool-metrics.md is stale: run this test with UPDATE=1");
}
