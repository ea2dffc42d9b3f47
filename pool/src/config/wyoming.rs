//! `wyoming = { … }`: what a worker does for clients of the Wyoming protocol.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::file::{File, at};
use super::values::{number, one_of, string, time};

/// What a worker does for clients of the Wyoming protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wyoming {
    /// Its part of a conversation.
    pub service: WyomingService,
    /// What it understands or speaks, as BCP 47 has it; at least one.
    pub languages: Vec<String>,
    /// Samples a second that it takes, one channel; of a voice, what it gives where its answer does
    /// not say so itself. 8000 to 48000.
    pub rate: u32,
    /// Longest utterance that it is sent.
    pub longest: Duration,
}

/// A worker's part of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WyomingService {
    /// Speech to text: gets an utterance whole.
    Transcribe,
    /// Text to speech.
    Synthesize,
    /// Listens for words: a model of the store that tells of a piece of sound which of its labels is
    /// in it.
    Detect {
        /// Labels that are reported; the others mean that nothing was said.
        words: Vec<String>,
        /// From where on a label counts as heard, in thousandths.
        threshold: u16,
        /// Between the ends of two pieces.
        step: Duration,
    },
}

const DEFAULT_RATE: u32 = 16_000;
const DEFAULT_LONGEST: Duration = Duration::from_secs(60);
const DEFAULT_THRESHOLD: u16 = 800;
const DEFAULT_STEP: Duration = Duration::from_millis(250);

const RATES: RangeInclusive<u64> = 8_000..=48_000;
const LONGEST: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
const STEPS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(10);
const WANTED: &str = "`wyoming = { service = \"transcribe\", languages = [\"en\"] }`";

/// Most words or languages of one worker.
const MOST: usize = 256;

/// Longest word or language, in bytes.
const MAX_WORD: usize = 64;

/// A service by its name, before its own keys are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Transcribe,
    Synthesize,
    Detect,
}

pub fn read(file: &mut File<'_>, table: &DeTable<'_>) -> Option<Wyoming> {
    const KEYS: [&str; 7] =
        ["service", "languages", "rate", "longest", "words", "threshold", "step"];
    let (inner, place) = file.table(table, "wyoming", WANTED)?;
    file.only(inner, &KEYS, "`wyoming`");
    let kind = file.get(inner, "wyoming.", "service", |value| {
        let known = [
            ("transcribe", Kind::Transcribe),
            ("synthesize", Kind::Synthesize),
            ("detect", Kind::Detect),
        ];
        one_of(value, &known, "services")
    });
    let languages = file.get(inner, "wyoming.", "languages", languages);
    for key in ["service", "languages"] {
        if !inner.contains_key(key) {
            file.problem(place, format!("`wyoming.{key}`: missing; write {WANTED}"));
        }
    }
    let words = file.get(inner, "wyoming.", "words", words);
    let threshold = file.get(inner, "wyoming.", "threshold", share);
    let step = file.get(inner, "wyoming.", "step", |v| within(v, &STEPS, "10ms to 10s"));
    let rate = file.get(inner, "wyoming.", "rate", |v| number(v, RATES));
    let longest = file.get(inner, "wyoming.", "longest", |v| within(v, &LONGEST, "1s to 600s"));
    let kind = kind?;
    let only = |file: &mut File<'_>, key: &str, fits: bool, of: &str| {
        if inner.contains_key(key) && !fits {
            let message = format!("`wyoming.{key}`: is for the service {of}; leave it out");
            file.problem(at(inner, key, place), message);
        }
    };
    for key in ["words", "threshold", "step"] {
        only(file, key, kind == Kind::Detect, "\"detect\"");
    }
    only(file, "longest", kind == Kind::Transcribe, "\"transcribe\"");
    if kind == Kind::Detect && !inner.contains_key("words") {
        let message = "`wyoming.words`: missing; write the labels of the model to be reported, like \
                       [\"go\", \"stop\"]";
        file.problem(place, message.into());
    }
    let service = match kind {
        Kind::Transcribe => WyomingService::Transcribe,
        Kind::Synthesize => WyomingService::Synthesize,
        Kind::Detect => WyomingService::Detect {
            words: words.unwrap_or_default(),
            threshold: threshold.unwrap_or(DEFAULT_THRESHOLD),
            step: step.unwrap_or(DEFAULT_STEP),
        },
    };
    Some(Wyoming {
        service,
        languages: languages.unwrap_or_default(),
        rate: rate.and_then(|rate| u32::try_from(rate).ok()).unwrap_or(DEFAULT_RATE),
        longest: longest.unwrap_or(DEFAULT_LONGEST),
    })
}

fn languages(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let found = strings(value, "[\"en\", \"de-CH\"]")?;
    match found.iter().find(|name| !name.chars().all(plain)) {
        None => Ok(found),
        Some(odd) => Err(format!("`{odd}` is no language; write one like \"en\" or \"de-CH\"")),
    }
}

fn words(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    strings(value, "[\"go\", \"stop\"]")
}

fn strings(value: &DeValue<'_>, like: &str) -> Result<Vec<String>, String> {
    let Some(array) = value.as_array() else {
        return Err(format!("expected an array, found {}; write {like}", value.type_str()));
    };
    if array.is_empty() || array.len() > MOST {
        return Err(format!("names {}; name 1 to {MOST}, like {like}", array.len()));
    }
    let mut found: Vec<String> = Vec::with_capacity(array.len());
    for value in array.iter() {
        let word = string(value.get_ref()).map_err(|reason| format!("{reason}; write {like}"))?;
        if word.is_empty() || word.len() > MAX_WORD {
            return Err(format!("`{word}` is empty or longer than {MAX_WORD} bytes"));
        }
        if found.iter().any(|other| other == word) {
            return Err(format!("`{word}` is there twice"));
        }
        found.push(word.to_owned());
    }
    Ok(found)
}

/// A part of one, in thousandths.
fn share(value: &DeValue<'_>) -> Result<u16, String> {
    const WANTED: &str = "write a number above 0 and up to 1, like 0.8";
    let text = value.as_float().map(toml::de::DeFloat::as_str);
    let text = text.or_else(|| value.as_integer().map(toml::de::DeInteger::as_str));
    let number = text.and_then(|text| text.parse::<f64>().ok());
    let number = number.ok_or_else(|| format!("found {}; {WANTED}", value.type_str()))?;
    if number > 0.0 && number <= 1.0 {
        // In range by the line above.
        return Ok((number * 1000.0).ceil() as u16);
    }
    Err(format!("{number} is out of range; {WANTED}"))
}

fn within(
    value: &DeValue<'_>,
    range: &RangeInclusive<Duration>,
    told: &str,
) -> Result<Duration, String> {
    let units = [("ms", 1e-3), ("s", 1.0)];
    let (text, duration) = time(value, &units, "\"250ms\" or \"30s\"")?;
    if range.contains(&duration) {
        Ok(duration)
    } else {
        Err(format!("`{text}` is out of range; write {told}"))
    }
}
