//! The values of a worker's keys. Each function says what is wrong and what to write instead; the
//! caller names the key and the place.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::{Program, Restart, nearest};

const MODELS: [&str; 1] = ["denoise"];
const RESTARTS: [&str; 3] = ["always", "on-failure", "never"];

/// The names that have a meaning of their own in the pool's run directory.
const RESERVED: [&str; 1] = ["control"];

/// Longest name; it stands in a socket's path, which has 107 bytes in all.
const MAX_NAME: usize = 32;

const DEADLINES: std::ops::RangeInclusive<Duration> =
    Duration::from_micros(100)..=Duration::from_secs(60);

pub fn worker_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if !first || name.len() > MAX_NAME || !name.chars().all(plain) {
        return Err(format!(
            "`{name}` cannot be a worker's name: use 1 to {MAX_NAME} letters, digits, `-` and \
             `_`, a letter or a digit first"
        ));
    }
    if RESERVED.contains(&name) {
        return Err(format!("`{name}` is the pool's own socket; choose another name"));
    }
    Ok(())
}

pub fn model(value: &DeValue<'_>) -> Result<Program, String> {
    match string(value)? {
        "denoise" => Ok(Program::Denoise),
        other => Err(unknown_word(other, &MODELS, "models")),
    }
}

pub fn command(value: &DeValue<'_>) -> Result<Program, String> {
    const WANTED: &str = "write `command = [\"PROGRAM\", \"ARGUMENT\"]`";
    let Some(array) = value.as_array() else {
        return Err(format!("expected an array of strings, found {}; {WANTED}", value.type_str()));
    };
    let words = array
        .iter()
        .map(|word| string(word.get_ref()).map(str::to_owned))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|reason| format!("{reason}; {WANTED}"))?;
    if words.first().is_none_or(String::is_empty) {
        return Err(format!("names no program; {WANTED}"));
    }
    Ok(Program::Command(words))
}

pub fn env(value: &DeValue<'_>) -> Result<BTreeMap<String, String>, String> {
    let Some(table) = value.as_table() else {
        return Err(format!(
            "expected a table, found {}; write `env = {{ NAME = \"value\" }}`",
            value.type_str()
        ));
    };
    table
        .iter()
        .map(|(name, value)| {
            let name = name.get_ref().as_ref();
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(format!("`{name}` cannot be a variable's name"));
            }
            if name == "NOTIFY_SOCKET" || name.starts_with("DOWNBEAT_") {
                return Err(format!("`{name}` is set by the pool itself; leave it out"));
            }
            let value = string(value.get_ref()).map_err(|reason| format!("`{name}`: {reason}"))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

pub fn folder(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let path = PathBuf::from(string(value)?);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("`{}` is relative; write the whole path from `/`", path.display()))
    }
}

pub fn deadline(value: &DeValue<'_>) -> Result<Duration, String> {
    const WANTED: &str = "write a time with its unit, like \"10ms\", \"800us\" or \"1.5s\"";
    let text = string(value).map_err(|reason| format!("{reason}; {WANTED}"))?;
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds_per_unit = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err(format!("`{text}` is not a time; {WANTED}")),
    };
    let duration = number
        .trim()
        .parse::<f64>()
        .ok()
        .and_then(|number| Duration::try_from_secs_f64(number * seconds_per_unit).ok())
        .ok_or_else(|| format!("`{text}` is not a time; {WANTED}"))?;
    if DEADLINES.contains(&duration) {
        Ok(duration)
    } else {
        Err(format!("`{text}` is out of range; a deadline is 100us to 60s"))
    }
}

pub fn restart(value: &DeValue<'_>) -> Result<Restart, String> {
    match string(value)? {
        "always" => Ok(Restart::Always),
        "on-failure" => Ok(Restart::OnFailure),
        "never" => Ok(Restart::Never),
        other => Err(unknown_word(other, &RESTARTS, "values")),
    }
}

fn string<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    let text =
        value.as_str().ok_or_else(|| format!("expected a string, found {}", value.type_str()))?;
    // The kernel's strings end at the first NUL.
    if text.contains('\0') { Err("contains a NUL".into()) } else { Ok(text) }
}

fn unknown_word(word: &str, known: &[&str], what: &str) -> String {
    match nearest(word, known) {
        Some(near) => format!("`{word}` is unknown: did you mean \"{near}\"?"),
        None => format!("`{word}` is unknown: the {what} are {}", known.join(", ")),
    }
}
