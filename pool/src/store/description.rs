//! `model.toml`: what a model says of itself. Parsing and checking, without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use downbeat_link::{DataType, TensorSpec, checked_shape};
use serde::{Deserialize, Serialize};

use crate::config::Problem;

/// Longest name of a model; it may stand in a socket's path.
const MAX_NAME: usize = 64;

/// Most inputs or outputs of a model.
const MAX_TENSORS: usize = 64;

/// Most requests in one batch.
pub const MAX_BATCH: u32 = 1024;

/// Samples a second of sound.
const SAMPLE_RATES: RangeInclusive<u32> = 4_000..=192_000;

/// Most versions that one folder may hold.
pub const MAX_VERSIONS: usize = 64;

/// A model's `model.toml`, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelDescription {
    /// The model's name, which is its folder's.
    pub name: String,
    /// The format of its file.
    pub platform: Platform,
    /// For people.
    pub description: String,
    /// What it reads.
    pub media: Media,
    /// In the model's order; at least one.
    pub inputs: Vec<TensorSpec>,
    /// In the model's order; at least one.
    pub outputs: Vec<TensorSpec>,
    /// The file, beside `model.toml`, that names the places of the first output's last dimension,
    /// one a line.
    pub labels: Option<String>,
    /// Rows of one batch, 1 to [`MAX_BATCH`]. Above 1 the first dimension of every input and
    /// output is -1.
    pub max_batch: u32,
    /// Samples a second of the first input, where that is sound of one channel as INT16 or FP32.
    pub sample_rate: Option<u32>,
    /// How well it does, on what.
    pub accuracy: Option<String>,
    /// Checksums by version; at least one.
    pub versions: BTreeMap<u32, Sha256>,
}

/// The format of a model's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// `model.onnx`.
    Onnx,
}

impl Platform {
    /// For metadata.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
        }
    }

    /// The file in a version's folder.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Onnx => "model.onnx",
        }
    }
}

/// What a model reads; shedding differs by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Media {
    /// Sound.
    Audio,
    /// A sequence of pictures.
    Video,
    /// Single pictures.
    Image,
    /// Text.
    Text,
    /// Anything else.
    Other,
}

/// A checksum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// From 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut sum = [0; 32];
        for (byte, pair) in sum.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
        }
        Some(Self(sum))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Sha256> for String {
    fn from(sum: Sha256) -> Self {
        sum.to_string()
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    platform: Platform,
    #[serde(default)]
    description: String,
    media: Media,
    #[serde(rename = "input")]
    inputs: Vec<TensorSpec>,
    #[serde(rename = "output")]
    outputs: Vec<TensorSpec>,
    labels: Option<String>,
    #[serde(default = "one")]
    max_batch: u32,
    sample_rate: Option<u32>,
    accuracy: Option<String>,
    #[serde(rename = "version")]
    versions: BTreeMap<String, Version>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Version {
    sha256: String,
}

fn one() -> u32 {
    1
}

/// Whether a folder's name can be a model's.
///
/// # Errors
/// Says what names are taken.
pub fn model_name(name: &str) -> Result<(), String> {
    if name == "denoise" {
        return Err("`denoise` is built in; give the folder and the model another name".into());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && name.len() <= MAX_NAME && name.chars().all(plain) {
        return Ok(());
    }
    Err(format!(
        "`{name}` cannot be a model's name: use 1 to {MAX_NAME} letters, digits, `-`, `_` and `.`, \
         a letter or a digit first"
    ))
}

/// Reads the text of `path`, the `model.toml` in the folder of model `folder`.
///
/// # Errors
/// The first thing that is wrong, with its place where it has one.
pub fn parse(path: &Path, folder: &str, text: &str) -> Result<ModelDescription, Problem> {
    let file: File = toml::from_str(text).map_err(|error| Problem {
        path: path.into(),
        place: error.span().map(|span| place(text, span.start)),
        message: error.message().replace('\n', " "),
    })?;
    check(folder, file).map_err(|message| Problem { path: path.into(), place: None, message })
}

/// Line and column of a byte offset, in characters from 1.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line..].chars().count() + 1)
}

fn check(folder: &str, file: File) -> Result<ModelDescription, String> {
    model_name(&file.name)?;
    if file.name != folder {
        return Err(format!(
            "`name`: `{}` is not the folder's name, `{folder}`; rename one of them",
            file.name
        ));
    }
    if !(1..=MAX_BATCH).contains(&file.max_batch) {
        return Err(format!("`max_batch`: {} is not 1 to {MAX_BATCH}", file.max_batch));
    }
    check_tensors("input", &file.inputs, file.max_batch)?;
    check_tensors("output", &file.outputs, file.max_batch)?;
    check_sample_rate(file.sample_rate, &file.inputs)?;
    if let Some(labels) = &file.labels
        && (labels.is_empty() || labels.starts_with('.') || labels.contains(['/', '\0']))
    {
        return Err(format!(
            "`labels`: `{labels}` is not the name of a file beside model.toml; write one like \
             \"labels.txt\""
        ));
    }
    Ok(ModelDescription {
        versions: versions(&file.versions)?,
        name: file.name,
        platform: file.platform,
        description: file.description,
        media: file.media,
        inputs: file.inputs,
        outputs: file.outputs,
        labels: file.labels,
        max_batch: file.max_batch,
        sample_rate: file.sample_rate,
        accuracy: file.accuracy,
    })
}

fn check_sample_rate(rate: Option<u32>, inputs: &[TensorSpec]) -> Result<(), String> {
    let Some(rate) = rate else { return Ok(()) };
    let (least, most) = (SAMPLE_RATES.start(), SAMPLE_RATES.end());
    if !SAMPLE_RATES.contains(&rate) {
        return Err(format!("`sample_rate`: {rate} is not {least} to {most} samples a second"));
    }
    match inputs.first() {
        Some(first) if !matches!(first.datatype, DataType::Int16 | DataType::Fp32) => Err(format!(
            "`sample_rate`: the first input, `{}`, is {}, which is no sound; it must be INT16 or \
             FP32, or leave the key out",
            first.name,
            first.datatype.name()
        )),
        _ => Ok(()),
    }
}

fn check_tensors(kind: &str, tensors: &[TensorSpec], max_batch: u32) -> Result<(), String> {
    if !(1..=MAX_TENSORS).contains(&tensors.len()) {
        let count = tensors.len();
        return Err(format!("{count} [[{kind}]] tables; a model has 1 to {MAX_TENSORS}"));
    }
    let mut names = BTreeSet::new();
    for tensor in tensors {
        let name = &tensor.name;
        if name.is_empty() || !names.insert(name) {
            return Err(format!(
                "[[{kind}]] `{name}`: each needs a name of its own; it is the tensor's in the model"
            ));
        }
        if let Some(size) = tensor.shape.iter().find(|&&size| size < -1 || size == 0) {
            return Err(format!(
                "[[{kind}]] `{name}`: {size} in its shape; a dimension is 1 or more, or -1 for any"
            ));
        }
        let fixed: Vec<_> = tensor.shape.iter().map(|size| size.unsigned_abs() as i64).collect();
        checked_shape(name, &fixed).map_err(|error| format!("[[{kind}]] {error}"))?;
        if max_batch > 1 && tensor.shape.first() != Some(&-1) {
            return Err(format!(
                "[[{kind}]] `{name}`: batches of up to {max_batch} need -1 as first dimension; \
                 write so, or max_batch = 1"
            ));
        }
        if max_batch > 1 && tensor.datatype == DataType::Bytes {
            return Err(format!("[[{kind}]] `{name}`: BYTES cannot be batched; max_batch = 1"));
        }
    }
    Ok(())
}

fn versions(of: &BTreeMap<String, Version>) -> Result<BTreeMap<u32, Sha256>, String> {
    if !(1..=MAX_VERSIONS).contains(&of.len()) {
        let count = of.len();
        return Err(format!(
            "{count} [version.N] tables; a model has 1 to {MAX_VERSIONS}, each with the sha256 of \
             its file"
        ));
    }
    of.iter()
        .map(|(number, version)| {
            let parsed = version_number(number).ok_or_else(|| {
                format!("[version.{number}]: a version is a whole number from 1, as its folder")
            })?;
            let sum = Sha256::parse(&version.sha256).ok_or_else(|| {
                format!(
                    "[version.{number}] `sha256`: not 64 hexadecimal digits; `sha256sum \
                     {number}/model.onnx` prints them"
                )
            })?;
            Ok((parsed, sum))
        })
        .collect()
}

/// A version's number, written as a folder is named: no sign, no leading zero.
#[must_use]
pub fn version_number(text: &str) -> Option<u32> {
    if text.starts_with('0') || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
#[path = "description_tests.rs"]
mod tests;
