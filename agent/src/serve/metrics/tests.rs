//! The exposition of literal snapshots, read back by a small strict parser, and over real HTTP.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use downbeat_api::*;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::catalogue::{ALL, WAIT_BOUNDS_NS};
use super::samples::{bare, full};
use super::*;
use crate::serve::View;

fn text(snapshot: Snapshot) -> String {
    encode(&Arc::new(snapshot)).unwrap()
}

/// One series as read back.
#[derive(Debug, PartialEq)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// Reads an exposition as the specification has it: metadata before samples, samples only of the
/// family that was announced, no series twice, `# EOF` last.
fn parse(text: &str) -> Result<Vec<Series>, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("does not end in # EOF")?;
    let (mut family, mut series) = (String::new(), Vec::new());
    let (mut families, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for line in body.split_terminator('\n') {
        if let Some(meta) = line.strip_prefix("# ") {
            let mut words = meta.splitn(3, ' ');
            let (keyword, name) = (words.next().unwrap_or(""), words.next().ok_or("no name")?);
            match keyword {
                "HELP" if families.insert(name.to_owned()) => family = name.to_owned(),
                "TYPE" | "UNIT" if name == family => {}
                _ => return Err(format!("metadata out of place: {line}")),
            }
            continue;
        }
        let sample = parse_sample(line)?;
        let suffix = sample.name.strip_prefix(&family).ok_or(format!("stray {line}"))?;
        if !["", "_total", "_info", "_bucket", "_sum", "_count"].contains(&suffix) {
            return Err(format!("{line} after {family}"));
        }
        if !seen.insert(format!("{} {:?}", sample.name, sample.labels)) {
            return Err(format!("twice: {line}"));
        }
        series.push(sample);
    }
    Ok(series)
}

fn parse_sample(line: &str) -> Result<Series, String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (key, quoted) = rest.split_once("=\"").ok_or("no label value")?;
            let mut value = String::new();
            let mut chars = quoted.char_indices();
            let close = loop {
                match chars.next().ok_or("unclosed label value")? {
                    (at, '"') => break at,
                    (_, '\\') => match chars.next() {
                        Some((_, 'n')) => value.push('\n'),
                        Some((_, c @ ('\\' | '"'))) => value.push(c),
                        other => return Err(format!("escape {other:?}")),
                    },
                    (_, c) => value.push(c),
                }
            };
            labels.push((key.to_owned(), value));
            rest = &quoted[close + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').ok_or("no space")?;
    let value = value.parse().map_err(|_| format!("value {value}"))?;
    Ok(Series { name: name.to_owned(), labels, value })
}

fn value(series: &[Series], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut found = series.iter().filter(|series| {
        series.name == name
            && labels
                .iter()
                .all(|(key, value)| series.labels.iter().any(|(k, v)| k == key && v == value))
    });
    let value = found.next()?.value;
    assert!(found.next().is_none(), "{name} {labels:?} is not one series");
    Some(value)
}

#[test]
fn a_full_snapshot_in_openmetrics() {
    let text = text(full());
    parse(&text).unwrap();
    insta::assert_snapshot!(text);
}

#[test]
fn what_is_not_known_has_no_series() {
    let text = text(bare());
    parse(&text).unwrap();
    insta::assert_snapshot!(text);
}

#[test]
fn a_full_snapshot_shows_every_family_of_the_catalogue() {
    let text = text(full());
    for family in ALL {
        let name = family.query_name(PREFIX);
        assert!(text.lines().any(|line| line.starts_with(&name)), "{name}");
    }
}

#[test]
fn values_that_are_known_for_one_and_not_for_another_stay_apart() {
    let series = parse(&text(full())).unwrap();
    let get = |name: &str, labels: &[(&str, &str)]| value(&series, name, labels);
    assert_eq!(
        get("downbeat_class_gpu_memory_bytes", &[("class", "voice")]),
        Some(1_074_790_400.0)
    );
    assert_eq!(get("downbeat_class_gpu_memory_bytes", &[("class", "batch")]), None);
    assert_eq!(get("downbeat_class_frames_total", &[("class", "batch")]), None);
    assert_eq!(get("downbeat_gpu_power_watts", &[("uuid", "GPU-2")]), None);
    assert_eq!(
        get("downbeat_pool_worker_compute_seconds", &[("worker", "denoise"), ("quantile", "0.99")]),
        None
    );
    assert_eq!(get("downbeat_class_throttled_seconds_total", &[("class", "voice")]), Some(1.5));
    assert_eq!(get("downbeat_class_throttled_seconds_total", &[("class", "batch")]), None);
    let memory = |kind| {
        let labels = [("class", "voice"), ("resource", "memory"), ("kind", kind)];
        get("downbeat_class_pressure_ratio", &labels)
    };
    assert_eq!((memory("some"), memory("full")), (Some(0.125), None));
    let stalled = [("resource", "cpu"), ("kind", "full")];
    assert_eq!(get("downbeat_pressure_stalled_seconds_total", &stalled), None);
    let soft = [("cpu", "3"), ("mode", "softirq")];
    assert_eq!(get("downbeat_cpu_seconds_total", &soft), Some(7.0));
    let backoff = [("worker", "denoise"), ("state", "backoff")];
    assert_eq!(get("downbeat_pool_worker_state", &backoff), Some(1.0));
    assert_eq!(
        get("downbeat_actions_total", &[("lever", "sched"), ("outcome", "handed_off")]),
        Some(3.0)
    );
}

#[test]
fn bounds_are_rounded_up_and_stable() {
    let series = parse(&text(full())).unwrap();
    let buckets: Vec<(f64, f64)> = series
        .iter()
        .filter(|series| series.name == "downbeat_run_queue_wait_seconds_bucket")
        .map(|series| {
            let le = &series.labels.iter().find(|(key, _)| key == "le").unwrap().1;
            (le.replace("+Inf", "inf").parse().unwrap(), series.value)
        })
        .collect();
    assert_eq!(buckets.len(), WAIT_BOUNDS_NS.len() + 1);
    assert!(buckets.is_sorted(), "{buckets:?}");
    // The waits of the finer bucket that ends at 1023 ns lie below 1.024 µs.
    assert_eq!(buckets[0], (1.024e-6, 2.0));
    assert_eq!(buckets[1], (2.048e-6, 5.0));
    assert_eq!(buckets[9], (524.288e-6, 5.0));
    assert_eq!(buckets[10], (1.048_576e-3, 8.0));
    assert_eq!(buckets[23], (8.589_934_592, 9.0));
    assert_eq!(buckets[24], (f64::INFINITY, 10.0));
    let count = value(&series, "downbeat_run_queue_wait_seconds_count", &[]);
    assert_eq!(count, Some(10.0));
    assert_eq!(value(&series, "downbeat_run_queue_wait_seconds_sum", &[]), Some(0.04));
}

#[test]
fn a_rate_that_is_not_a_number_is_absent() {
    let mut snapshot = full();
    snapshot.classes[0].cpu = f64::NAN;
    let series = parse(&text(snapshot)).unwrap();
    assert_eq!(value(&series, "downbeat_class_used_cpus", &[("class", "voice")]), None);
    assert_eq!(value(&series, "downbeat_class_used_cpus", &[("class", "batch")]), Some(0.25));
}

proptest! {
    #[test]
    fn any_name_is_read_back_as_it_was(name in any::<String>(), sched in any::<String>(),
                                       gpu in "[\\\\\"\n{}=,# \\PC]{0,12}") {
        let mut snapshot = full();
        snapshot.classes.truncate(1);
        snapshot.classes[0].name = name.clone();
        snapshot.classes[0].sched = sched.clone();
        snapshot.gpu.devices.truncate(1);
        snapshot.gpu.devices[0].name = gpu.clone();
        snapshot.actions.levers[0].lever = name.clone();
        let series = parse(&text(snapshot)).map_err(TestCaseError::fail)?;
        prop_assert_eq!(
            value(&series, "downbeat_class_info", &[("class", &name), ("sched", &sched)]),
            Some(1.0)
        );
        prop_assert_eq!(value(&series, "downbeat_gpu_power_watts", &[("name", &gpu)]), Some(71.5));
        prop_assert_eq!(
            value(&series, "downbeat_actions_total", &[("lever", &name), ("outcome", "applied")]),
            Some(4.0)
        );
    }

    #[test]
    fn any_histogram_stays_cumulative(mut buckets in prop::collection::vec((any::<u64>(), any::<u32>()), 0..40)) {
        buckets.sort_unstable();
        let mut seen = 0;
        let buckets: Vec<(u64, u64)> = buckets
            .into_iter()
            .map(|(bound, count)| { seen += u64::from(count); (bound, seen) })
            .collect();
        let mut snapshot = full();
        let wait = snapshot.classes[0].wait.as_mut().unwrap();
        wait.total.count = seen;
        wait.buckets = buckets;
        let series = parse(&text(snapshot)).map_err(TestCaseError::fail)?;
        let counts: Vec<f64> = series
            .iter()
            .filter(|series| series.name == "downbeat_run_queue_wait_seconds_bucket")
            .map(|series| series.value)
            .collect();
        prop_assert!(counts.is_sorted());
        prop_assert_eq!(counts.last().copied(), Some(seen as f64));
    }
}

async fn ask(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn over_http_the_latest_snapshot_is_served_and_a_hung_agent_is_unhealthy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = watch::channel(Arc::new(bare()));
    let server = tokio::spawn(serve(listener, View::new(receiver, Arc::default())));

    let page = ask(address, "/").await;
    assert!(page.contains("href=\"metrics\"") && page.contains("href=\"healthz\""), "{page}");
    let answer = ask(address, "/metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains(&format!("content-type: {CONTENT_TYPE}\r\n")), "{head}");
    parse(body).unwrap();
    assert!(body.contains("downbeat_ticks_total 42\n"));
    assert!(ask(address, "/other").await.starts_with("HTTP/1.1 404"));

    // The literal snapshot is years old.
    let health = ask(address, "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 503") && health.contains("hangs"), "{health}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    sender.send(Arc::new(Snapshot { tick: 43, unix_time: now, ..bare() })).unwrap();
    assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(ask(address, "/metrics").await.contains("downbeat_ticks_total 43\n"));
    server.abort();
}
