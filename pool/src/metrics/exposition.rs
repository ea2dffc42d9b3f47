//! The OpenMetrics text, through prometheus-client's encoder.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::catalogue::Kind;
use super::collect::{Family, Value, families};
use crate::oip::Models;

/// What `/metrics` says it is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "downbeat_pool";

/// The whole exposition, `# EOF` included.
///
/// # Errors
/// What the encoder says; writing into a string has no reason to fail.
pub fn encode(models: &Models) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Everything(models.clone())));
    let mut text = String::with_capacity(16 << 10);
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Everything(Models);

impl Collector for Everything {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        families(&self.0).iter().try_for_each(|family| write_family(&mut encoder, family))
    }
}

fn write_family(encoder: &mut DescriptorEncoder<'_>, family: &Family) -> fmt::Result {
    let Family { definition, samples } = family;
    let unit = definition.unit.map(|unit| match unit {
        "seconds" => Unit::Seconds,
        "bytes" => Unit::Bytes,
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
        let values = sample.labels.iter().map(String::as_str);
        let labels: Vec<(&str, &str)> = definition.labels.iter().copied().zip(values).collect();
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

fn write_value(metric: &mut MetricEncoder<'_>, value: &Value) -> fmt::Result {
    const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;
    match value {
        Value::Count(count) => metric.encode_counter(count, NO_EXEMPLAR),
        Value::Seconds(total) => metric.encode_counter(total, NO_EXEMPLAR),
        Value::Gauge(value) => metric.encode_gauge(value),
        Value::Info => Ok(()),
        Value::Histogram { sum, count, buckets } => {
            let above = count.saturating_sub(buckets.iter().map(|(_, count)| count).sum());
            let mut buckets = buckets.clone();
            buckets.push((f64::INFINITY, above));
            metric.encode_histogram::<NoLabelSet>(*sum, *count, &buckets, None)
        }
    }
}
