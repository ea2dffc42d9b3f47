//! The parameters of a request: what a client asks besides the answer. Both protocols have the
//! same ones; both make a map of [`Parameter`]s, and [`terms`] reads it.
//!
//! - `timeout`: microseconds from the arrival, as Triton has it; 0 means none.
//! - `deadline_ns`: nanoseconds from the arrival. Clocks differ between machines, so neither is a
//!   time of day. Of several, gRPC's own deadline included, the earliest counts.
//! - `priority`: smaller goes first; 0 means none.
//! - `parent`: the `id` of the request on whose behalf this one is made (as the header
//!   `x-downbeat-parent`): it has that one's deadline, or an earlier one of its own.
//! - `sequence_id` (a number or a string; 0 and "" mean none), `sequence_start`, `sequence_end`.
//!
//! Others are left alone: clients send what only some servers know.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::inference::{Refusal, Sequence, Terms};

/// All parameters of a request, an input or an output.
pub type Parameters = HashMap<String, Parameter>;

/// The longest name of a sequence, in bytes.
const MAX_SEQUENCE: usize = 128;

/// The value of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// true or false.
    Bool(bool),
    /// A number that is no less than 0.
    Unsigned(u64),
    /// A number that is less than 0.
    Signed(i64),
    /// A number with a fraction.
    Float(f64),
    /// A string.
    Text(String),
    /// What the protocol has no parameters of.
    Other,
}

// By hand: what is derived tries one kind after the other, and puts each failure into words.
impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParameterVisitor)
    }
}

struct ParameterVisitor;

impl<'de> Visitor<'de> for ParameterVisitor {
    type Value = Parameter;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a parameter")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Parameter, E> {
        Ok(Parameter::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Parameter, E> {
        Ok(Parameter::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Parameter, E> {
        Ok(u64::try_from(value).map_or(Parameter::Signed(value), Parameter::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Parameter, E> {
        Ok(Parameter::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Parameter, E> {
        Ok(Parameter::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Parameter, E> {
        Ok(Parameter::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Parameter, A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Parameter::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Parameter, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Parameter::Other)
    }
}

/// A whole number that is no less than 0.
///
/// # Errors
/// [`Refusal::Invalid`] for anything else.
pub fn whole(parameters: &Parameters, key: &str) -> Result<Option<u64>, Refusal> {
    match parameters.get(key) {
        None => Ok(None),
        Some(Parameter::Unsigned(value)) => Ok(Some(*value)),
        Some(_) => Err(Refusal::Invalid(format!(
            "parameter `{key}` is no whole number from 0 to {}",
            u64::MAX
        ))),
    }
}

/// true or false; false where absent.
///
/// # Errors
/// [`Refusal::Invalid`] for anything else.
pub fn flag(parameters: &Parameters, key: &str) -> Result<bool, Refusal> {
    match parameters.get(key) {
        None => Ok(false),
        Some(Parameter::Bool(value)) => Ok(*value),
        Some(_) => Err(Refusal::Invalid(format!("parameter `{key}` is not true or false"))),
    }
}

/// Adds what the parameters of a request ask to what its connection and head said.
///
/// # Errors
/// [`Refusal::Invalid`] naming the parameter.
pub fn terms(parameters: &Parameters, terms: &mut Terms) -> Result<(), Refusal> {
    let timeout = whole(parameters, "timeout")?.filter(|&us| us > 0).map(Duration::from_micros);
    let own = match whole(parameters, "deadline_ns")? {
        Some(0) => {
            return Err(Refusal::Invalid(
                "parameter `deadline_ns` is 0; it counts nanoseconds from the request's arrival, \
                 so write 10000000 for 10 ms, or leave it out"
                    .into(),
            ));
        }
        own => own.map(Duration::from_nanos),
    };
    if let Some(limit) = timeout.into_iter().chain(own).min() {
        terms.deadline = earlier(terms.deadline, terms.arrival, limit);
    }
    terms.priority = whole(parameters, "priority")?.unwrap_or(0);
    terms.sequence = sequence(parameters)?;
    match parameters.get("parent") {
        None => {}
        Some(Parameter::Text(id)) if !id.is_empty() => terms.parent = Some(id.clone()),
        Some(_) => {
            return Err(Refusal::Invalid(
                "parameter `parent` is no string with the `id` of another request".into(),
            ));
        }
    }
    Ok(())
}

/// Refuses what Triton offers for a tensor and this server does not: to ignore it would be a wrong
/// answer.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn offered(tensor: &str, parameters: &Parameters) -> Result<(), Refusal> {
    refuse(tensor, parameters, "classification", "leave it out, and sort the output yourself")
}

/// The same for an output.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn offered_output(output: &str, parameters: &Parameters) -> Result<(), Refusal> {
    offered(output, parameters)?;
    let instead = "leave it out: outputs come with the answer";
    refuse(output, parameters, "shared_memory_region", instead)
}

fn refuse(tensor: &str, parameters: &Parameters, key: &str, instead: &str) -> Result<(), Refusal> {
    if !parameters.contains_key(key) {
        return Ok(());
    }
    Err(Refusal::Invalid(format!(
        "`{tensor}` has the parameter `{key}`, which is not offered here; {instead}"
    )))
}

/// The earlier of two deadlines. One that no clock can hold is none.
pub fn earlier(deadline: Option<Instant>, arrival: Instant, limit: Duration) -> Option<Instant> {
    deadline.into_iter().chain(arrival.checked_add(limit)).min()
}

fn sequence(parameters: &Parameters) -> Result<Option<Sequence>, Refusal> {
    let (start, end) = (flag(parameters, "sequence_start")?, flag(parameters, "sequence_end")?);
    let id = match parameters.get("sequence_id") {
        None | Some(Parameter::Unsigned(0)) => None,
        Some(Parameter::Unsigned(id)) => Some(id.to_string()),
        Some(Parameter::Signed(id)) => Some(id.to_string()),
        Some(Parameter::Text(id)) if id.is_empty() => None,
        Some(Parameter::Text(id)) if id.len() <= MAX_SEQUENCE => Some(id.clone()),
        Some(_) => {
            return Err(Refusal::Invalid(format!(
                "parameter `sequence_id` is no number and no string of up to {MAX_SEQUENCE} bytes"
            )));
        }
    };
    match id {
        Some(id) => Ok(Some(Sequence { id, start, end })),
        None if start || end => Err(Refusal::Invalid(
            "`sequence_start` and `sequence_end` need a `sequence_id` that is not 0".into(),
        )),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Terms, Refusal> {
        let mut read = Terms::of("test");
        terms(&serde_json::from_str(json).unwrap(), &mut read)?;
        Ok(read)
    }

    #[test]
    fn the_earliest_deadline_counts() {
        let limit = |json: &str| {
            let terms = read(json).unwrap();
            terms.deadline.map(|deadline| deadline - terms.arrival)
        };
        assert_eq!(limit("{}"), None);
        assert_eq!(limit(r#"{"timeout":0}"#), None);
        assert_eq!(limit(r#"{"timeout":1500}"#), Some(Duration::from_micros(1500)));
        assert_eq!(limit(r#"{"timeout":1500,"deadline_ns":7}"#), Some(Duration::from_nanos(7)));
        assert_eq!(limit(r#"{"timeout":1,"deadline_ns":7000}"#), Some(Duration::from_micros(1)));
        assert_ne!(limit(r#"{"timeout":18446744073709551615}"#), Some(Duration::ZERO));
        let now = Instant::now();
        let grpc = now.checked_add(Duration::from_secs(1));
        assert_eq!(earlier(grpc, now, Duration::from_secs(2)), grpc);
        assert_eq!(earlier(grpc, now, Duration::MAX), grpc);
    }

    #[test]
    fn sequences_are_numbers_or_names() {
        let sequence = |json: &str| read(json).unwrap().sequence;
        assert_eq!(sequence(r#"{"sequence_id":0}"#), None);
        assert_eq!(sequence(r#"{"sequence_id":""}"#), None);
        let started = sequence(r#"{"sequence_id":42,"sequence_start":true}"#).unwrap();
        assert_eq!(started, Sequence { id: "42".into(), start: true, end: false });
        let ended = sequence(r#"{"sequence_id":"cam","sequence_end":true}"#).unwrap();
        assert_eq!(ended, Sequence { id: "cam".into(), start: false, end: true });
    }

    #[test]
    fn what_is_no_value_of_a_parameter_is_refused_by_name() {
        for (json, name) in [
            (r#"{"timeout":-1}"#, "timeout"),
            (r#"{"timeout":1e300}"#, "timeout"),
            (r#"{"timeout":18446744073709551616}"#, "timeout"),
            (r#"{"deadline_ns":0}"#, "deadline_ns"),
            (r#"{"deadline_ns":"soon"}"#, "deadline_ns"),
            (r#"{"priority":[1]}"#, "priority"),
            (r#"{"sequence_id":1,"sequence_start":1}"#, "sequence_start"),
            (r#"{"sequence_start":true}"#, "sequence_id"),
            (r#"{"sequence_id":{}}"#, "sequence_id"),
            (r#"{"sequence_id":1.5}"#, "sequence_id"),
            (r#"{"parent":7}"#, "parent"),
            (r#"{"parent":""}"#, "parent"),
        ] {
            let message = read(json).unwrap_err().to_string();
            assert!(message.contains(&format!("`{name}`")), "{json}: {message}");
        }
    }
}
