//! The OpenMetrics text, through prometheus-client's encoder.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::{Families, Family, Kind, Value};

/// What such a text says it is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The whole exposition, `# EOF` included; every name begins with `prefix` and an underscore.
///
/// # Errors
/// What the encoder says; writing into a string has no reason to fail.
pub fn encode(prefix: &str, families: Families) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(prefix);
    registry.register_collector(Box::new(Collected(families)));
    let mut text = String::with_capacity(16 << 10);
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Collected(Families);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|family| write_family(&mut encoder, family))
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
        Value::Histogram { sum, count, buckets } => {
            let above = count.saturating_sub(buckets.iter().map(|(_, count)| count).sum());
            let mut buckets = buckets.clone();
            buckets.push((f64::INFINITY, above));
            metric.encode_histogram::<NoLabelSet>(*sum, *count, &buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::families! {
        LENGTH = Histogram "length" "seconds" ["name"] "How long.";
        EVENTS = Counter "events" [] "How many.";
        HEAT = Gauge "heat" "celsius" [] "How hot.";
    }

    #[test]
    fn families_are_written_in_order_and_what_is_unknown_is_not() {
        let mut families = Families::default();
        let buckets = vec![(0.5, 2), (1.0, 3)];
        let value = Value::Histogram { sum: 4.0, count: 6, buckets };
        families.add(&LENGTH, [(vec!["a\u{1b}[31m\n\"".into()], value)]);
        families.add(&HEAT, [(vec![], Value::Gauge(f64::NAN))]);
        families.add(&EVENTS, [(vec![], Value::Count(7))]);
        let text = encode("it", families).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("# HELP")).collect();
        let name = "name=\"a\u{fffd}[31m\\n\\\"\"";
        assert_eq!(
            lines,
            [
                "# TYPE it_length_seconds histogram",
                "# UNIT it_length_seconds seconds",
                &format!("it_length_seconds_sum{{{name}}} 4.0"),
                &format!("it_length_seconds_count{{{name}}} 6"),
                &format!("it_length_seconds_bucket{{le=\"0.5\",{name}}} 2"),
                &format!("it_length_seconds_bucket{{le=\"1.0\",{name}}} 5"),
                &format!("it_length_seconds_bucket{{le=\"+Inf\",{name}}} 6"),
                "# TYPE it_events counter",
                "it_events_total 7",
                "# EOF",
            ]
        );
        assert_eq!(
            ALL.iter().map(|it| it.query_name("it")).collect::<Vec<_>>(),
            ["it_length_seconds", "it_events_total", "it_heat_celsius"]
        );
    }
}
