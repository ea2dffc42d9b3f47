//! Metric families, declared once with help, unit and labels, and their samples as OpenMetrics text.
//!
//! A program lists its families with [`families!`], fills a [`Families`] with what it knows at the
//! moment, and writes that with [`encode`]. What is not known has no sample, and a family without
//! samples is not exposed. The text is prometheus-client's.

mod exposition;

pub use exposition::{CONTENT_TYPE, encode};

/// One family.
#[derive(Debug, PartialEq, Eq)]
pub struct Definition {
    /// Name without prefix, unit and suffix, which the exposition adds.
    pub name: &'static str,
    /// What it counts, as one sentence.
    pub help: &'static str,
    /// Base unit, where it has one.
    pub unit: Option<&'static str>,
    /// Its type.
    pub kind: Kind,
    /// Names of its labels, in the order of the samples' values.
    pub labels: &'static [&'static str],
}

/// Types of OpenMetrics that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows.
    Counter,
    /// What is now.
    Gauge,
    /// How many were how large.
    Histogram,
    /// Words about the program; the value is always 1.
    Info,
}

impl Kind {
    /// The type's word in the exposition format.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

impl Definition {
    /// The name of the family, as on its `# TYPE` line.
    #[must_use]
    pub fn full_name(&self, prefix: &str) -> String {
        let unit = self.unit.map(|unit| format!("_{unit}")).unwrap_or_default();
        format!("{prefix}_{}{unit}", self.name)
    }

    /// The name that a query uses (a histogram's without `_bucket`, `_sum` and `_count`).
    #[must_use]
    pub fn query_name(&self, prefix: &str) -> String {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.full_name(prefix) + suffix
    }
}

/// Declares statics of type [`Definition`], and for tests `ALL` of them in order:
/// `NAME = Kind "name" "unit" ["label" "label"] "Help.";`, the unit only where there is one.
#[macro_export]
macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal $($unit:literal)? [$($label:literal)*] $help:literal;)*) => {
        $(
            pub(super) static $constant: $crate::Definition = $crate::Definition {
                name: $name,
                help: $help,
                unit: $crate::families!(@unit $($unit)?),
                kind: $crate::Kind::$kind,
                labels: &[$($label),*],
            };
        )*
        /// All of them, in the order of the exposition.
        #[cfg(test)]
        pub(super) static ALL: &[&$crate::Definition] = &[$(&$constant),*];
    };
    (@unit) => { None };
    (@unit $unit:literal) => { Some($unit) };
}

/// One family with its samples, of which there is at least one.
#[derive(Debug)]
pub struct Family {
    /// What it is.
    pub definition: &'static Definition,
    /// Its series.
    pub samples: Vec<Sample>,
}

/// One series.
#[derive(Debug)]
pub struct Sample {
    /// Label values in the definition's order.
    pub labels: Vec<String>,
    /// As the family's kind wants it.
    pub value: Value,
}

/// A series' value.
#[derive(Debug, PartialEq)]
pub enum Value {
    /// Of a counter of events.
    Count(u64),
    /// Of a counter of time.
    Seconds(f64),
    /// Of a gauge.
    Gauge(f64),
    /// Of an info.
    Info,
    /// Not cumulative: upper bounds with what lies in their buckets; the rest lies above all.
    Histogram {
        /// Of all that was counted, in the family's unit.
        sum: f64,
        /// All that was counted.
        count: u64,
        /// In rising order of the bounds.
        buckets: Vec<(f64, u64)>,
    },
}

/// Collects families in the order in which they are exposed.
#[derive(Debug, Default)]
pub struct Families(Vec<Family>);

impl Families {
    /// A family's series, if there are any.
    pub fn add(
        &mut self,
        definition: &'static Definition,
        samples: impl IntoIterator<Item = (Vec<String>, Value)>,
    ) {
        let samples: Vec<Sample> = samples
            .into_iter()
            // A rate over an interval of zero is not a number, and so not known.
            .filter(|(_, value)| {
                !matches!(value, Value::Gauge(value) | Value::Seconds(value) if !value.is_finite())
            })
            .map(|(labels, value)| Sample { labels, value })
            .collect();
        if !samples.is_empty() {
            self.0.push(Family { definition, samples });
        }
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, definition: &'static Definition, value: f64) {
        self.add(definition, [(Vec::new(), Value::Gauge(value))]);
    }

    /// A counter of events without labels.
    pub fn count(&mut self, definition: &'static Definition, value: u64) {
        self.add(definition, [(Vec::new(), Value::Count(value))]);
    }

    /// One series per item that has a value, with the item's own labels.
    pub fn each<T>(
        &mut self,
        definition: &'static Definition,
        items: &[T],
        labels: impl Fn(&T) -> Vec<String>,
        value: impl Fn(&T) -> Option<Value>,
    ) {
        let samples = items.iter().filter_map(|item| Some((labels(item), value(item)?)));
        self.add(definition, samples);
    }

    /// One series per possible state: 1 for the one that holds, 0 for the others.
    pub fn states(&mut self, definition: &'static Definition, all: &[&str], holds: &str) {
        let samples = all
            .iter()
            .map(|state| (vec![(*state).to_owned()], Value::Gauge(f64::from(*state == holds))));
        self.add(definition, samples);
    }
}

impl std::ops::Deref for Families {
    type Target = [Family];

    fn deref(&self) -> &[Family] {
        &self.0
    }
}
