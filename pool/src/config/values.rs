//! The values of a worker's keys. Each function says what is wrong and what to write instead; the
//! caller names the key and the place.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use downbeat_link::{DataType, TensorSpec};
use toml::de::DeValue;

use super::{Engine, Media, Program, Restart, nearest};

/// The names that have a meaning of their own in the pool's run directory.
const RESERVED: [&str; 3] = ["control", "grpc", "rest"];

/// Longest name; it stands in a socket's path, which has 107 bytes in all.
const MAX_NAME: usize = 32;

const DEADLINES: RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_secs(60);

const IDLES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);

/// Longest name of a model in the store.
const MAX_MODEL: usize = 64;

/// Inputs or outputs of one worker.
const MAX_SPECS: usize = 64;

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

/// `denoise`, or the name of a model in the store; whether it is there shows when it is started.
pub fn model(value: &DeValue<'_>) -> Result<Program, String> {
    let name = string(value)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if name == "denoise" {
        Ok(Program::Denoise)
    } else if first && name.len() <= MAX_MODEL && name.chars().all(plain) {
        Ok(Program::Model(name.to_owned()))
    } else {
        Err(format!(
            "`{name}` cannot be a model's name: write \"denoise\", or the name of a folder in the \
             model store"
        ))
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
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let (text, duration) = time(value, &units, "\"10ms\", \"800us\" or \"1.5s\"")?;
    if DEADLINES.contains(&duration) {
        Ok(duration)
    } else {
        Err(format!("`{text}` is out of range; a deadline is 100us to 60s"))
    }
}

pub fn idle(value: &DeValue<'_>) -> Result<Duration, String> {
    let units = [("s", 1.0), ("min", 60.0), ("h", 3600.0)];
    let (text, duration) = time(value, &units, "\"30s\", \"5min\" or \"1h\"")?;
    if IDLES.contains(&duration) {
        Ok(duration)
    } else {
        Err(format!("`{text}` is out of range; write 1s to 168h"))
    }
}

pub fn time<'a>(
    value: &'a DeValue<'_>,
    units: &[(&str, f64)],
    examples: &str,
) -> Result<(&'a str, Duration), String> {
    let wanted = || format!("write a time with its unit, like {examples}");
    let text = string(value).map_err(|reason| format!("{reason}; {}", wanted()))?;
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = units.iter().find(|(name, _)| *name == unit).map(|(_, seconds)| seconds);
    number
        .trim()
        .parse::<f64>()
        .ok()
        .zip(seconds)
        .and_then(|(number, seconds)| Duration::try_from_secs_f64(number * seconds).ok())
        .map(|duration| (text, duration))
        .ok_or_else(|| format!("`{text}` is not a time; {}", wanted()))
}

pub fn restart(value: &DeValue<'_>) -> Result<Restart, String> {
    let known = [
        ("always", Restart::Always),
        ("on-failure", Restart::OnFailure),
        ("never", Restart::Never),
    ];
    one_of(value, &known, "values")
}

pub fn engine(value: &DeValue<'_>) -> Result<Engine, String> {
    let known = [Engine::Tract, Engine::Ort].map(|engine| (engine.name(), engine));
    one_of(value, &known, "engines")
}

pub fn media(value: &DeValue<'_>) -> Result<Media, String> {
    let known = [
        ("audio", Media::Audio),
        ("video", Media::Video),
        ("text", Media::Text),
        ("background", Media::Background),
    ];
    one_of(value, &known, "media")
}

/// `[{ name = "x", datatype = "FP32", shape = [1, -1] }]`.
pub fn specs(value: &DeValue<'_>) -> Result<Vec<TensorSpec>, String> {
    const WANTED: &str = "write `[{ name = \"x\", datatype = \"FP32\", shape = [1, -1] }]`";
    let Some(array) = value.as_array() else {
        return Err(format!("expected an array, found {}; {WANTED}", value.type_str()));
    };
    if array.len() > MAX_SPECS {
        return Err(format!("{} are declared, and at most {MAX_SPECS} may be", array.len()));
    }
    let mut specs: Vec<TensorSpec> = Vec::new();
    for value in array.iter() {
        let spec = spec(value.get_ref()).map_err(|reason| format!("{reason}; {WANTED}"))?;
        if specs.iter().any(|other| other.name == spec.name) {
            return Err(format!("`{}` is declared twice", spec.name));
        }
        specs.push(spec);
    }
    Ok(specs)
}

fn spec(value: &DeValue<'_>) -> Result<TensorSpec, String> {
    const KEYS: [&str; 3] = ["name", "datatype", "shape"];
    let Some(table) = value.as_table() else {
        return Err(format!("expected a table, found {}", value.type_str()));
    };
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.get_ref().as_ref())) {
        return Err(format!("unknown key `{}`: the keys are {}", key.get_ref(), KEYS.join(", ")));
    }
    let get = |key: &str| {
        table.get(key).map(toml::Spanned::get_ref).ok_or_else(|| format!("`{key}` is missing"))
    };
    let name = string(get("name")?)?;
    if name.is_empty() {
        return Err("`name` is empty".into());
    }
    let datatype = string(get("datatype")?)?;
    let datatype = DataType::parse(datatype)
        .ok_or_else(|| unknown_word(datatype, &DataType::ALL.map(DataType::name), "types"))?;
    let shape = get("shape")?;
    let Some(shape) = shape.as_array() else {
        return Err(format!("`shape`: expected an array, found {}", shape.type_str()));
    };
    let dimension = |value: &DeValue<'_>| {
        integer(value)
            .filter(|size| (-1..=i64::from(u32::MAX)).contains(size))
            .ok_or_else(|| "`shape`: a dimension is -1 (any) or 0 to 4294967295".to_owned())
    };
    if shape.len() > downbeat_link::MAX_DIMENSIONS {
        return Err(format!("`shape`: at most {} dimensions", downbeat_link::MAX_DIMENSIONS));
    }
    let shape = shape.iter().map(|size| dimension(size.get_ref())).collect::<Result<_, _>>()?;
    Ok(TensorSpec { name: name.to_owned(), datatype, shape })
}

pub fn number(value: &DeValue<'_>, range: RangeInclusive<u64>) -> Result<u64, String> {
    let (first, last) = range.clone().into_inner();
    integer(value)
        .ok_or_else(|| format!("expected a whole number, found {}", value.type_str()))
        .map(|number| u64::try_from(number).ok().filter(|number| range.contains(number)))?
        .ok_or_else(|| format!("is out of range; write {first} to {last}"))
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// One of the words given, each with what it means.
pub fn one_of<T: Copy>(value: &DeValue<'_>, known: &[(&str, T)], what: &str) -> Result<T, String> {
    let word = string(value)?;
    let meaning = known.iter().find(|(name, _)| *name == word).map(|(_, meaning)| *meaning);
    meaning.ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        unknown_word(word, &names, what)
    })
}

pub fn string<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    let text =
        value.as_str().ok_or_else(|| format!("expected a string, found {}", value.type_str()))?;
    // The kernel's strings end at the first NUL.
    if text.contains('\0') { Err("contains a NUL".into()) } else { Ok(text) }
}

pub fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("expected true or false, found {}", value.type_str()))
}

fn unknown_word(word: &str, known: &[&str], what: &str) -> String {
    match nearest(word, known) {
        Some(near) => format!("`{word}` is unknown: did you mean \"{near}\"?"),
        None => format!("`{word}` is unknown: the {what} are {}", known.join(", ")),
    }
}
