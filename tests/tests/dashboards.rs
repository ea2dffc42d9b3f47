//! The Grafana dashboard and the Prometheus rules: against the lists of metrics, and against a real
//! Prometheus that scrapes the real agent and its pool.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_api::pool::WorkerState;
use downbeat_api::{Snapshot, Source};
use downbeat_tests::agent::{Agent, Place};
use downbeat_tests::prometheus::{JOB, Prometheus, free_address, program};
use downbeat_tests::skip::root_or_skip;
use serde_json::Value;

/// A panel that may be empty, why, and whether the host is such a one.
type Excuse = (&'static str, &'static str, fn(&Snapshot) -> bool);

/// Panels that show what not every host has.
const HOST_DEPENDENT: &[Excuse] = &[
    ("GPU utilisation", "needs a GPU", no_gpu),
    ("GPU memory", "needs a GPU", no_gpu),
    ("GPU memory by class", "needs a classed process on a GPU", no_class_on_gpu),
    ("GPU temperature", "needs a GPU", no_gpu),
    ("GPU power", "needs a GPU", no_gpu),
    ("GPU processes", "needs a GPU", no_gpu),
    ("Pressure", "needs a kernel with PSI", |host| host.pressure.is_none()),
    ("Stalled", "needs a kernel with PSI", |host| host.pressure.is_none()),
    ("Held back by quotas", "needs a hierarchy with the cpu controller", no_quotas),
    ("Quota periods", "needs a hierarchy with the cpu controller", no_quotas),
    ("Pressure by class", "needs a classed process in a group of version 2", no_group_pressure),
    ("Missed deadlines", "needs kernel programs", no_bpf),
    ("Response p99", "needs kernel programs", no_bpf),
    ("Late starts", "needs kernel programs", no_bpf),
    ("Jobs", "needs kernel programs", no_bpf),
    ("Misses by cause", "needs a missed deadline", |host| host.causes.is_empty()),
    ("Blame by culprit", "needs a class that waited", |host| host.blame.is_empty()),
    ("Wait p50", "needs kernel programs", no_bpf),
    ("Wait p99", "needs kernel programs", no_bpf),
    ("Wait distribution", "needs kernel programs", no_bpf),
    ("Exec to set", "needs kernel programs", no_bpf),
    ("Agent memory", "its maps need kernel programs", no_bpf),
    ("Kernel programs: CPU", "needs kernel programs", no_bpf),
    ("Kernel programs: events", "needs kernel programs", no_bpf),
    ("Lost", "needs kernel programs", no_bpf),
];

/// Metrics that no panel shows, and why.
const NOT_SHOWN: &[(&str, &str)] = &[
    ("downbeat_uptime_seconds", "for ad-hoc queries; a restart shows in every counter"),
    ("downbeat_source", "a host without kernel programs has a notice"),
    ("downbeat_class_cpu_ratio", "for ad-hoc queries; the class's use of all CPUs is shown"),
    ("downbeat_class_quota_groups", "the periods of quotas show whether there are any"),
    ("downbeat_policy_rules", "for ad-hoc queries; classes and their members are shown"),
    ("downbeat_policy_read_timestamp_seconds", "for ad-hoc queries and alerts of one's own"),
    ("downbeat_exec_to_set_processes_total", "the times beside it are what matters"),
    ("downbeat_pool_batch_requests_bucket", "for ad-hoc queries; the mean is shown"),
    ("downbeat_pool_model_info", "for ad-hoc queries: which version is served"),
    ("downbeat_pool_model_bytes", "for ad-hoc queries; it changes with the version only"),
];

fn no_gpu(host: &Snapshot) -> bool {
    host.gpu.devices.is_empty()
}

fn no_class_on_gpu(host: &Snapshot) -> bool {
    !host.processes.iter().any(|process| process.class.is_some() && process.gpu_memory.is_some())
}

fn no_quotas(host: &Snapshot) -> bool {
    let mut groups = host.classes.iter().filter_map(|class| class.cgroups.as_ref());
    !groups.any(|groups| groups.throttling.is_some())
}

fn no_group_pressure(host: &Snapshot) -> bool {
    let mut groups = host.classes.iter().filter_map(|class| class.cgroups.as_ref());
    !groups.any(|groups| groups.cpu.is_some())
}

fn no_bpf(host: &Snapshot) -> bool {
    host.source != Source::Bpf
}

fn repository(inside: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(inside)
}

fn read(inside: &str) -> Result<String> {
    let path = repository(inside);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn dashboard() -> Result<Value> {
    serde_json::from_str(&read("dashboards/downbeat.json")?).context("dashboards/downbeat.json")
}

/// Every panel but the rows.
fn panels(dashboard: &Value) -> Result<Vec<&Value>> {
    let panels = dashboard["panels"].as_array().context("no panels")?;
    Ok(panels.iter().filter(|panel| panel["type"] != "row").collect())
}

fn title(panel: &Value) -> &str {
    panel["title"].as_str().unwrap_or("(no title)")
}

/// A panel's queries.
fn queries(panel: &Value) -> Vec<&str> {
    let targets = panel["targets"].as_array();
    targets.into_iter().flatten().filter_map(|target| target["expr"].as_str()).collect()
}

/// The names in the lists of metrics with their labels, as a query may use them.
fn documented() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let page = read("docs/metrics.md")? + &read("docs/pool-metrics.md")?;
    let mut metrics = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `downbeat_")) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (name, kind, labels) = (
            cells.next().context("no name")?.trim_matches('`'),
            cells.next().context("no type")?,
            cells.next().context("no labels")?,
        );
        let mut labels: BTreeSet<String> =
            labels.split_whitespace().map(|label| label.trim_matches('`').to_owned()).collect();
        labels.extend(["job".to_owned(), "instance".to_owned()]);
        if kind == "histogram" {
            metrics.insert(format!("{name}_sum"), labels.clone());
            metrics.insert(format!("{name}_count"), labels.clone());
            labels.insert("le".to_owned());
            metrics.insert(format!("{name}_bucket"), labels);
        } else {
            metrics.insert(name.to_owned(), labels);
        }
    }
    ensure!(metrics.len() > 40, "only {} metrics in docs", metrics.len());
    Ok(metrics)
}

/// Names of metrics in a query; those that a recording rule made have a colon and are left out.
fn metrics_in(query: &str) -> BTreeSet<&str> {
    query
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
        .filter(|word| word.starts_with("downbeat_"))
        .collect()
}

/// Pairs of a metric and a label that its selector names.
fn selected_labels(query: &str) -> Vec<(&str, &str)> {
    let mut pairs = Vec::new();
    for (at, _) in query.match_indices('{') {
        let metric = query[..at]
            .rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
            .next()
            .unwrap_or("");
        let selector = query[at + 1..].split('}').next().unwrap_or("");
        for matcher in selector.split(',').filter(|matcher| !matcher.is_empty()) {
            let label = matcher.split(['=', '!']).next().unwrap_or("").trim();
            pairs.push((metric, label));
        }
    }
    pairs
}

#[test]
fn every_query_uses_metrics_and_labels_that_exist() -> Result<()> {
    let documented = documented()?;
    let dashboard = dashboard()?;
    let rules = read("dashboards/rules.yml")?;
    let variables = dashboard["templating"]["list"].as_array().context("no variables")?;
    let mut all: Vec<(String, &str)> = Vec::new();
    for panel in panels(&dashboard)? {
        all.extend(queries(panel).into_iter().map(|query| (title(panel).to_owned(), query)));
    }
    let of_variables = variables.iter().filter_map(|variable| variable["definition"].as_str());
    all.extend(of_variables.map(|query| ("a variable".to_owned(), query)));
    let expressions = rules.lines().filter(|line| {
        // Prose may say what it likes.
        !["#", "summary:", "description:"].iter().any(|start| line.trim_start().starts_with(start))
    });
    all.extend(expressions.map(|line| ("rules.yml".to_owned(), line)));
    for (place, query) in all {
        for metric in metrics_in(query) {
            ensure!(documented.contains_key(metric), "{place}: no metric {metric}: {query}");
        }
        for (metric, label) in selected_labels(query) {
            let Some(labels) = documented.get(metric) else {
                continue;
            };
            ensure!(labels.contains(label), "{place}: {metric} has no label {label}: {query}");
        }
    }
    Ok(())
}

#[test]
fn every_metric_is_on_the_dashboard_or_named_as_not() -> Result<()> {
    let text = read("dashboards/downbeat.json")?;
    let shown = metrics_in(&text);
    let excused: BTreeSet<&str> = NOT_SHOWN.iter().map(|(name, _)| *name).collect();
    for name in documented()?.keys() {
        let part_of_histogram = name.ends_with("_sum") || name.ends_with("_count");
        let known = shown.contains(name.as_str()) || excused.contains(name.as_str());
        ensure!(known || part_of_histogram, "{name} is on no panel and not in NOT_SHOWN");
    }
    for name in excused {
        ensure!(!shown.contains(name), "{name} is shown after all");
    }
    Ok(())
}

#[test]
fn every_panel_says_what_it_shows_and_in_which_unit() -> Result<()> {
    let dashboard = dashboard()?;
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().context("no panels")? {
        ensure!(ids.insert(panel["id"].as_u64()), "{}: its id is another's", title(panel));
        ensure!(titles.insert(title(panel)), "{}: its title is another's", title(panel));
        let place = &panel["gridPos"];
        let right = place["x"].as_u64().unwrap_or(99) + place["w"].as_u64().unwrap_or(99);
        ensure!(right <= 24, "{}: it reaches beyond the page", title(panel));
    }
    for panel in panels(&dashboard)? {
        let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        ensure!(text(&panel["description"]), "{}: no description", title(panel));
        ensure!(text(&panel["fieldConfig"]["defaults"]["unit"]), "{}: no unit", title(panel));
        ensure!(!queries(panel).is_empty(), "{}: no query", title(panel));
        let targets = panel["targets"].as_array().into_iter().flatten();
        for source in targets.map(|target| &target["datasource"]).chain([&panel["datasource"]]) {
            ensure!(source["uid"] == "${datasource}", "{}: a fixed data source", title(panel));
        }
        for query in queries(panel) {
            ensure!(query.contains("$instance"), "{}: not by instance: {query}", title(panel));
        }
    }
    for (known, _, _) in HOST_DEPENDENT {
        ensure!(titles.contains(known), "{known} is excused and is no panel");
    }
    Ok(())
}

#[test]
fn the_dashboard_chooses_its_source_job_instance_and_class() -> Result<()> {
    let dashboard = dashboard()?;
    let variables = dashboard["templating"]["list"].as_array().context("no variables")?;
    let names: Vec<&str> =
        variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    ensure!(names == ["datasource", "job", "instance", "class"], "{names:?}");
    // Grafana 10.0 writes 38.
    ensure!(dashboard["schemaVersion"].as_u64() >= Some(38));
    Ok(())
}

#[test]
fn promtool_accepts_the_rules_and_the_example_and_the_alerts_fire() -> Result<()> {
    let promtool = program("promtool")?;
    for args in [
        &["check", "config", "prometheus.yml"][..],
        &["check", "rules", "--lint=all", "--lint-fatal", "rules.yml"],
        &["test", "rules", "rules.test.yml"],
    ] {
        let output =
            Command::new(&promtool).args(args).current_dir(repository("dashboards")).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "promtool {}: {said}", args.join(" "));
    }
    let rules = read("dashboards/rules.yml")?;
    let tests = read("dashboards/rules.test.yml")?;
    for line in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        ensure!(tests.contains(&format!("alertname: {line}")), "no test fires {line}");
    }
    Ok(())
}

const POLICY: &str = r#"
schema = 1

[class.voice]
modality = "audio"
tier = "realtime"
deadline = "10ms"
sched = { policy = "fifo", priority = 7 }

[class.batch]
tier = "background"
sched = "idle"

[[rule]]
class = "voice"
match = { exe = "{bin}/downbeat-worker" }

[[rule]]
class = "batch"
match = { exe = "{bin}/downbeat-load", cmdline = "* hog*" }
"#;

const POOL: &str = r#"
schema = 1

[worker.mic]
model = "denoise"

[worker.echo]
command = ["cat"]
stdio = { mode = "once" }
deadline = "10s"
"#;

/// Sends sound to the model `echo` again and again until it is dropped.
struct Asker(Arc<AtomicBool>);

impl Asker {
    fn start(pool: SocketAddr) -> Self {
        let going_on = Arc::new(AtomicBool::new(true));
        let until = Arc::clone(&going_on);
        thread::spawn(move || {
            while until.load(Ordering::Relaxed) {
                // One that fails is seen by the panels that stay empty.
                let _ = ask(pool);
                thread::sleep(Duration::from_millis(200));
            }
        });
        Self(going_on)
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// One request with a tenth of a second of silence as WAV.
fn ask(pool: SocketAddr) -> std::io::Result<()> {
    let mut sound = b"RIFF\xa4\x0c\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    sound.extend([16_000_u32, 32_000].map(u32::to_le_bytes).as_flattened());
    sound.extend(b"\x02\0\x10\0data\x80\x0c\0\0");
    sound.resize(44 + 3200, 0);
    let mut body = (sound.len() as u32).to_le_bytes().to_vec();
    body.extend(sound);
    let head = format!(
        "{{\"inputs\":[{{\"name\":\"input\",\"datatype\":\"BYTES\",\"shape\":[1],\
         \"parameters\":{{\"binary_data_size\":{}}}}}]}}",
        body.len()
    );
    let mut stream = TcpStream::connect(pool)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Inference-Header-Content-Length: {}\r\nContent-Length: {}\r\n\r\n{head}",
        head.len(),
        head.len() + body.len()
    )?;
    stream.write_all(&body)?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

#[test]
fn every_panel_has_data_from_a_real_agent_in_a_real_prometheus() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    place.policy("50-test.toml", POLICY)?;
    place.pool("50-test.toml", POOL)?;
    let (metrics, rest) = (free_address()?, free_address()?);
    let (agent, prometheus) = start(&place, metrics, rest)?;

    let socket = agent.wait_for(|snapshot| {
        let mic = snapshot.pool.as_ref()?.workers.iter().find(|worker| worker.name == "mic")?;
        if mic.state == WorkerState::Ready { mic.socket.clone() } else { None }
    })?;
    let record = |name: &str| place.records().join(name).to_string_lossy().into_owned();
    let (card, hog) = (record("card"), record("hog"));
    let audio = ["audio", "--channels", "1", "--seconds", "120", "--socket", &socket];
    let _card = place.load(&[&audio[..], &["--record", &card]].concat())?;
    let _asker = Asker::start(rest);
    let _hog = place.load(&["hog", "--seconds", "120", "--record", &hog])?;
    let snapshot = agent.wait_for(|snapshot| {
        let voice = snapshot.classes.iter().find(|class| class.name == "voice")?;
        let batch = snapshot.classes.iter().find(|class| class.name == "batch")?;
        let flows = voice.misses?.frames > 100 && batch.threads > 0;
        flows.then(|| snapshot.clone())
    })?;
    prometheus.wait_for_scrapes(3)?;

    let dashboard = dashboard()?;
    let mut empty = Vec::new();
    for panel in panels(&dashboard)? {
        for query in queries(panel) {
            let query = substituted(query);
            let mut values = Vec::new();
            // A rate wants two scrapes of a series that may have begun a moment ago.
            downbeat_tests::processes::wait_until(Duration::from_secs(6), || {
                values = prometheus.query(&query).unwrap_or_default();
                values.iter().any(|value| value.is_finite()) || excused(panel, &snapshot)
            });
            values = prometheus.query(&query).with_context(|| title(panel).to_owned())?;
            let some = values.iter().any(|value| value.is_finite());
            if !some && !excused(panel, &snapshot) {
                empty.push(format!("{}: {query} → {values:?}", title(panel)));
            }
        }
    }
    ensure!(empty.is_empty(), "panels without data:\n{}", empty.join("\n"));
    Ok(())
}

fn excused(panel: &Value, host: &Snapshot) -> bool {
    HOST_DEPENDENT.iter().any(|(name, _, lacks)| *name == title(panel) && lacks(host))
}

/// The agent of `place` with its metrics and its pool's REST server at these addresses, and a
/// Prometheus that scrapes both.
fn start(place: &Place, metrics: SocketAddr, rest: SocketAddr) -> Result<(Agent, Prometheus)> {
    let command = place.agent_command_at(&metrics.to_string(), &rest.to_string());
    let agent = Agent::start(command, place.run_dir(), place.path("agent.log"))?;
    Ok((agent, Prometheus::scraping(&[metrics, rest])?))
}

/// As Grafana sends it with everything chosen.
fn substituted(query: &str) -> String {
    query
        .replace("$job", JOB)
        .replace("$instance", ".*")
        .replace("$class", ".*")
        .replace("$__rate_interval", "5s")
}
