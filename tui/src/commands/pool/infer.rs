//! `downbeat pool infer`.

use std::fs;
use std::path::Path;
use std::time::Instant;

use downbeat_api::pool::{
    CONTROL_SOCKET, PoolClient, PoolError, PoolRequest, PoolResponse, REST_SOCKET,
};
use ratatui::text::Line;
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::{self, Answer, HttpError};
use super::sound::{self, Sound};
use super::tensor::{self, Given, Spec, Tensor};
use super::{Failure, Found, PATIENCE, Printer};
use crate::cli::Infer;
use crate::text::clean;
use crate::units;

/// Elements of an output that are printed.
const SHOWN: usize = 8;

/// Labels of a row that are printed, the likeliest.
const LIKELIEST: usize = 3;

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    inputs: Vec<Spec>,
}

#[derive(Deserialize)]
struct Answered {
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    parameters: Size,
}

#[derive(Deserialize)]
struct Size {
    binary_data_size: usize,
}

pub(super) fn run(folder: &Path, ask: &Infer, printer: &mut Printer<'_>) -> Result<Found, Failure> {
    let rest = folder.join(REST_SOCKET);
    let path = format!("/v2/models/{}", encoded(&ask.name));
    let metadata = call(&rest, &path, None)?;
    let metadata: Metadata = serde_json::from_slice(&metadata.json)
        .map_err(|error| garbled(&rest, error.to_string()))?;
    let files = output_files(ask)?;
    let inputs = inputs(ask, &metadata.inputs)?;
    let rate = inputs.iter().find_map(|(_, tensor)| tensor.rate);
    let heads = inputs.iter().map(|(spec, tensor)| {
        json!({
            "name": spec.name, "datatype": spec.datatype, "shape": tensor.shape,
            "parameters": { "binary_data_size": tensor.data.len() },
        })
    });
    let mut parameters = json!({ "binary_data_output": !ask.json });
    if let Some(deadline) = ask.deadline {
        let ns = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        parameters["deadline_ns"] = json!(ns);
    }
    let head = json!({ "inputs": heads.collect::<Vec<_>>(), "parameters": parameters });
    let raw = inputs.into_iter().flat_map(|(_, tensor)| tensor.data).collect();
    let begun = Instant::now();
    let body = Some((head.to_string().into_bytes(), raw));
    let answer = call(&rest, &format!("{path}/infer"), body)?;
    let took = begun.elapsed();
    if ask.json {
        let answer: Value = serde_json::from_slice(&answer.json)
            .map_err(|error| garbled(&rest, error.to_string()))?;
        printer.json(&answer, true)?;
        return Ok(Found::Nothing);
    }
    let answered: Answered =
        serde_json::from_slice(&answer.json).map_err(|error| garbled(&rest, error.to_string()))?;
    let labels = labels(&folder.join(CONTROL_SOCKET), &ask.name);
    let mut data = &answer.raw[..];
    for (place, output) in answered.outputs.iter().enumerate() {
        let (own, others) = data
            .split_at_checked(output.parameters.binary_data_size)
            .ok_or_else(|| garbled(&rest, format!("`{}` is cut", output.name)))?;
        data = others;
        if let Some((_, file)) = files.iter().find(|(name, _)| *name == output.name) {
            let content = content(file, output, own, rate);
            fs::write(file, &content)
                .map_err(|error| Failure::Refused(format!("--output {file}: {error}")))?;
            let size = units::bytes(content.len() as u64);
            printer.lines(&[Line::from(format!("{}: {size} in {file}", clean(&output.name)))])?;
        } else {
            // The labels are those of the first output.
            let labels = if place == 0 { &labels[..] } else { &[] };
            let lines: Vec<_> = shown(output, own, labels).into_iter().map(Line::from).collect();
            printer.lines(&lines)?;
        }
    }
    if let Some((name, _)) =
        files.iter().find(|(name, _)| !answered.outputs.iter().any(|it| it.name == *name))
    {
        return Err(Failure::NotFound(format!("--output {name}: the answer has no such output")));
    }
    let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    printer.lines(&[Line::from(format!("answered in {}", units::nanos(ns)))])?;
    Ok(Found::Nothing)
}

fn garbled(socket: &Path, reason: String) -> Failure {
    PoolError::Garbled { path: socket.into(), reason }.into()
}

/// One call; anything but 200 is the pool's refusal.
fn call(socket: &Path, path: &str, body: Option<(Vec<u8>, Vec<u8>)>) -> Result<Answer, Failure> {
    let answer = http::call(socket, path, body).map_err(|error| match error {
        HttpError::Connect(source) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            PoolError::Denied { path: socket.into() }
        }
        HttpError::Connect(source) => PoolError::NoPool { path: socket.into(), source },
        HttpError::Broken(_) | HttpError::Request(_) => {
            PoolError::Garbled { path: socket.into(), reason: error.to_string() }
        }
    })?;
    if answer.status == 200 {
        return Ok(answer);
    }
    let said: Value = serde_json::from_slice(&answer.json).unwrap_or_default();
    let reason = said["error"].as_str().unwrap_or("the pool does not say why");
    Err(PoolError::Refused(format!("{reason} (status {})", answer.status)).into())
}

/// A name as a part of a path.
fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Names and files of `--output`.
fn output_files(ask: &Infer) -> Result<Vec<(&str, &str)>, Failure> {
    let pair = |text: &'_ String| text.split_once('=').map(|(name, file)| (name.len(), file.len()));
    ask.outputs
        .iter()
        .map(|text| {
            let whole = pair(text).is_some_and(|(name, file)| name > 0 && file > 0);
            text.split_once('=').filter(|_| whole).ok_or_else(|| {
                Failure::Usage(format!("--output {text}: write NAME=FILE, as output=answer.wav"))
            })
        })
        .collect()
}

/// The tensors of all inputs.
fn inputs<'a>(ask: &Infer, specs: &'a [Spec]) -> Result<Vec<(&'a Spec, Tensor)>, Failure> {
    let names = || specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
    if specs.is_empty() {
        return Err(Failure::NotFound(format!(
            "model `{}` does not say what it takes; declare its `inputs` in pool.d",
            ask.name
        )));
    }
    let mut found: Vec<(&Spec, Tensor)> = Vec::new();
    for text in &ask.inputs {
        let named = text
            .split_once('=')
            .and_then(|(name, value)| Some((specs.iter().find(|spec| spec.name == name)?, value)));
        let free = || specs.iter().find(|spec| !found.iter().any(|(it, _)| it.name == spec.name));
        let Some((spec, value)) = named.or_else(|| Some((free()?, text.as_str()))) else {
            return Err(Failure::Usage(format!(
                "--input {text}: one more than the model takes, which is {}",
                names()
            )));
        };
        let given =
            match value.strip_prefix('@') {
                Some(file) => Given::File(fs::read(file).map_err(|error| {
                    Failure::NotFound(format!("--input {text}: {file}: {error}"))
                })?),
                None => Given::Text(value.into()),
            };
        let tensor = tensor::of(spec, given)
            .map_err(|reason| Failure::Usage(format!("input `{}`: {reason}", spec.name)))?;
        found.push((spec, tensor));
    }
    Ok(found)
}

/// Names of the first output's places; none where the pool has none or does not tell us.
fn labels(control: &Path, name: &str) -> Vec<String> {
    let ask = || {
        let mut client = PoolClient::connect(control, Some(PATIENCE))?;
        client.request(&PoolRequest::Labels { name: name.into() })
    };
    match ask() {
        Ok(PoolResponse::Labels { labels }) => labels,
        _ => Vec::new(),
    }
}

/// What goes into the file of an output.
fn content(file: &str, output: &Output, data: &[u8], rate: Option<u32>) -> Vec<u8> {
    if output.datatype == "BYTES" {
        return strings(data).concat();
    }
    let samples: Option<Vec<i16>> = match output.datatype.as_str() {
        "INT16" => Some(data.as_chunks().0.iter().map(|it| i16::from_le_bytes(*it)).collect()),
        // `as` saturates: what is louder than full scale is clipped.
        #[expect(clippy::cast_possible_truncation, reason = "clipped")]
        "FP32" => Some(floats(data).map(|it| (it * 32_768.0).round() as i16).collect()),
        _ => None,
    };
    match (samples, rate) {
        (Some(samples), Some(rate)) if file.to_ascii_lowercase().ends_with(".wav") => {
            let channels = match output.shape[..] {
                [_, channels] => u16::try_from(channels).unwrap_or(1).max(1),
                _ => 1,
            };
            sound::write(&Sound { rate, channels, samples })
        }
        _ => data.to_vec(),
    }
}

fn floats(data: &[u8]) -> impl Iterator<Item = f32> {
    data.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it))
}

/// The strings of an output; what is cut is left out.
fn strings(mut data: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<4>() {
        let Some((string, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)
        else {
            break;
        };
        found.push(string);
        data = rest;
    }
    found
}

/// An output as a person reads it.
fn shown(output: &Output, data: &[u8], labels: &[String]) -> Vec<String> {
    let name = clean(&output.name);
    if output.datatype == "BYTES" {
        let one = |string: &[u8]| match std::str::from_utf8(string) {
            Ok(text) => text.lines().map(|line| clean(line).into_owned()).collect(),
            Err(_) => vec![format!(
                "{name}: {} that are no text; write them with --output {name}=FILE",
                units::bytes(string.len() as u64)
            )],
        };
        return strings(data).into_iter().flat_map(one).collect();
    }
    if output.datatype == "FP32"
        && !labels.is_empty()
        && output.shape.last() == Some(&(labels.len() as u64))
    {
        let values: Vec<f32> = floats(data).collect();
        return values.chunks(labels.len()).map(|row| likeliest(row, labels)).collect();
    }
    let size = tensor::element_size(&output.datatype).unwrap_or(1);
    let (all, elements) = (data.len() / size, elements(&output.datatype, data));
    let more = if all > SHOWN { format!(" … ({all})") } else { String::new() };
    let elements = elements.into_iter().take(SHOWN).collect::<Vec<_>>().join(" ");
    vec![format!("{name} {} {:?}: {elements}{more}", output.datatype, output.shape)]
}

/// The likeliest labels of a row.
fn likeliest(row: &[f32], labels: &[String]) -> String {
    let mut by_value: Vec<_> = row.iter().zip(labels).collect();
    by_value.sort_by(|a, b| b.0.total_cmp(a.0));
    let one = |(value, label): (&f32, &String)| {
        format!("{} {} %", clean(label), units::percent(f64::from(*value)))
    };
    by_value.into_iter().take(LIKELIEST).map(one).collect::<Vec<_>>().join(", ")
}

fn elements(datatype: &str, data: &[u8]) -> Vec<String> {
    macro_rules! of {
        ($kind:ty) => {
            data.as_chunks()
                .0
                .iter()
                .take(SHOWN)
                .map(|it| <$kind>::from_le_bytes(*it).to_string())
                .collect()
        };
    }
    match datatype {
        "INT8" => of!(i8),
        "INT16" => of!(i16),
        "INT32" => of!(i32),
        "INT64" => of!(i64),
        "UINT16" => of!(u16),
        "UINT32" => of!(u32),
        "UINT64" => of!(u64),
        "FP32" => of!(f32),
        "FP64" => of!(f64),
        _ => of!(u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(datatype: &str, shape: &[u64]) -> Output {
        let (name, datatype) = ("y".into(), datatype.into());
        Output { name, datatype, shape: shape.to_vec(), parameters: Size { binary_data_size: 0 } }
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn probabilities_are_told_by_their_labels() {
        let labels = ["no", "yes", "go", "stop"].map(str::to_owned);
        let data = bytes(&[0.1, 0.7, 0.15, 0.05, 1.0, 0.0, 0.0, 0.0]);
        let lines = shown(&output("FP32", &[2, 4]), &data, &labels);
        assert_eq!(lines, ["yes 70.0 %, go 15.0 %, no 10.0 %", "no 100 %, yes 0.0 %, go 0.0 %"]);
        let lines = shown(&output("FP32", &[1, 2]), &data[..8], &labels);
        assert_eq!(lines, ["y FP32 [1, 2]: 0.1 0.7"]);
    }

    #[test]
    fn strings_are_text_or_go_into_a_file() {
        let of = |bytes: &[u8]| {
            let mut data = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
            data.extend(bytes);
            shown(&output("BYTES", &[1]), &data, &[])
        };
        assert_eq!(of(b"two\nlines\x1b"), ["two", "lines?"]);
        assert!(of(b"\xff\xfe")[0].contains("--output y=FILE"), "{:?}", of(b"\xff\xfe"));
        assert!(shown(&output("BYTES", &[1]), b"\xff\xff\xff\xff", &[]).is_empty());
    }

    #[test]
    fn sound_is_written_as_a_wav_file() {
        let data = bytes(&[0.5, -1.0, 7.0, 0.0]);
        let file = content("clean.WAV", &output("FP32", &[2, 2]), &data, Some(48_000));
        let sound = sound::read(&file).unwrap().unwrap();
        assert_eq!((sound.channels, sound.samples), (2, vec![16_384, -32_768, 32_767, 0]));
        assert_eq!(content("x.raw", &output("FP32", &[2, 2]), &data, Some(48_000)), data);
    }

    #[test]
    fn a_name_is_one_part_of_a_path() {
        assert_eq!(encoded("a-b_c.1"), "a-b_c.1");
        assert_eq!(encoded("../x?y"), "..%2Fx%3Fy");
    }
}
