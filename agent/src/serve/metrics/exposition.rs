//! The OpenMetrics text of a snapshot, through prometheus-client's encoder.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use downbeat_api::Snapshot;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::catalogue::{Kind, WAIT_BOUNDS_NS};
use super::collect::{Family, Value, families, seconds};

/// What `/metrics` says it is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "downbeat";

/// The whole exposition, `# EOF` included.
///
/// # Errors
/// What the encoder says; writing into a string has no reason to fail.
pub fn encode(snapshot: &Arc<Snapshot>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(OneSnapshot(Arc::clone(snapshot))));
    let mut text = String::with_capacity(16 << 10);
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct OneSnapshot(Arc<Snapshot>);

impl Collector for OneSnapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        families(&self.0).iter().try_for_each(|family| write_family(&mut encoder, family))
    }
}

fn write_family(encoder: &mut DescriptorEncoder<'_>, family: &Family) -> fmt::Result {
    let Family { definition, samples } = family;
    let unit = definition.unit.map(|unit| match unit {
        "seconds" => Unit::Seconds,
        "bytes" => Unit::Bytes,
        "celsius" => Unit::Celsius,
        other => Unit::Other(other.to_owned()),
    });
    let kind = match definition.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
        Kind::Info => MetricType::Info,
    };
    let mut metric =
        encoder.encode_descriptor(definition.name, definition.help, unit.as_ref(), kind)?;
    for sample in samples {
        let values: Vec<Cow<'_, str>> =
            sample.labels.iter().map(|label| printable(label)).collect();
        let names = definition.labels.iter().copied();
        let labels: Vec<(&str, &str)> = names.zip(values.iter().map(AsRef::as_ref)).collect();
        if sample.value == Value::Info {
            metric.encode_info(&labels)?;
        } else if labels.is_empty() {
            write_value(&mut metric, &sample.value)?;
        } else {
            write_value(&mut metric.encode_family(&labels)?, &sample.value)?;
        }
    }
    Ok(())
}

/// A program may call itself anything: what would command the terminal of whoever looks at the text
/// is replaced. Line breaks are left to the encoder, which escapes them.
fn printable(label: &str) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && c != '\n';
    if label.contains(commands) {
        Cow::Owned(label.replace(commands, "\u{fffd}"))
    } else {
        Cow::Borrowed(label)
    }
}

fn write_value(metric: &mut MetricEncoder<'_>, value: &Value) -> fmt::Result {
    const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;
    match value {
        Value::Count(count) => metric.encode_counter(count, NO_EXEMPLAR),
        Value::Seconds(total) => metric.encode_counter(total, NO_EXEMPLAR),
        Value::Gauge(value) => metric.encode_gauge(value),
        Value::Info => Ok(()),
        Value::Histogram { sum_ns, count, counts } => {
            let above = count - counts.iter().sum::<u64>();
            let mut buckets: Vec<(f64, u64)> = WAIT_BOUNDS_NS
                .iter()
                .zip(counts)
                .map(|(bound, count)| (seconds(*bound), *count))
                .collect();
            buckets.push((f64::INFINITY, above));
            metric.encode_histogram::<NoLabelSet>(seconds(*sum_ns), *count, &buckets, None)
        }
    }
}
