//! Sound and text as a worker's tensors, and back. Pure.
//!
//! A first input of BYTES takes sound as a WAV file and text as it is; one of INT16 or FP32 takes
//! the samples. A first output of BYTES gives text as it is, or as JSON with a `text`, and sound as a
//! WAV file; one of INT16 or FP32 gives samples.

use bytes::Bytes;
use downbeat_link::{DataType, Tensor, TensorSpec};
use serde::Deserialize;

use super::sound::{Format, bytes_of};
use super::wav::{self, Sound};

/// Samples at `rate` as a worker's first input.
///
/// # Errors
/// Why the input takes no sound, or not this much.
pub fn sound_input(spec: &TensorSpec, rate: u32, samples: &[i16]) -> Result<Tensor, String> {
    let (data, count) = match spec.datatype {
        DataType::Bytes => (string(&wav::write(rate, samples))?, 1),
        DataType::Int16 => (bytes_of(samples), samples.len()),
        DataType::Fp32 => {
            let values = samples.iter().map(|sample| f32::from(*sample) / 32_768.0);
            (values.flat_map(f32::to_le_bytes).collect(), samples.len())
        }
        other => {
            return Err(format!(
                "its input `{}` is {}; sound goes to BYTES (a WAV file), INT16 or FP32 (samples)",
                spec.name,
                other.name()
            ));
        }
    };
    let shape = shape(spec, count)?;
    Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data })
}

/// A text as a worker's first input.
///
/// # Errors
/// The input takes no text.
pub fn text_input(spec: &TensorSpec, text: &str) -> Result<Tensor, String> {
    if spec.datatype != DataType::Bytes {
        let (name, is) = (&spec.name, spec.datatype.name());
        return Err(format!("its input `{name}` is {is}; text goes to BYTES"));
    }
    let (data, shape) = (string(text.as_bytes())?, shape(spec, 1)?);
    Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data })
}

/// One row with so many elements.
fn shape(spec: &TensorSpec, elements: usize) -> Result<Vec<u64>, String> {
    let Some((last, rows)) = spec.shape.split_last() else {
        return Ok(Vec::new());
    };
    let elements = elements as u64;
    let fits = |wanted: i64, is: u64| wanted < 0 || wanted.unsigned_abs() == is;
    if !fits(*last, elements) || !rows.iter().all(|rows| fits(*rows, 1)) {
        return Err(format!(
            "its input `{}` has shape {:?}, into which {elements} elements do not fit",
            spec.name, spec.shape
        ));
    }
    Ok(rows.iter().map(|_| 1).chain([elements]).collect())
}

fn string(bytes: &[u8]) -> Result<Bytes, String> {
    let length = u32::try_from(bytes.len()).map_err(|_| "longer than 4 GiB".to_owned())?;
    Ok([&length.to_le_bytes(), bytes].concat().into())
}

/// Samples that a model takes at a time, where its first input says so.
#[must_use]
pub fn window(spec: &TensorSpec) -> Option<usize> {
    spec.shape.last().and_then(|last| usize::try_from(*last).ok()).filter(|count| *count > 0)
}

/// The text of a worker's first output, in one line.
///
/// # Errors
/// It is none.
pub fn text_output(outputs: &[Tensor]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Said {
        text: String,
    }
    let bytes = first_string(outputs)?;
    let said: Option<Said> = serde_json::from_slice(&bytes).ok();
    let text = said.map_or_else(|| String::from_utf8_lossy(&bytes).into_owned(), |said| said.text);
    let words: Vec<_> = text.split_whitespace().collect();
    Ok(words.join(" "))
}

/// The sound of a worker's first output; raw samples have the rate that is declared.
///
/// # Errors
/// It is none.
pub fn sound_output(outputs: &[Tensor], rate: u32) -> Result<Sound, String> {
    let format = Format::mono(rate);
    match outputs.first() {
        Some(tensor) if tensor.datatype == DataType::Int16 => {
            Ok(Sound { format, samples: tensor.data.clone() })
        }
        Some(tensor) if tensor.datatype == DataType::Fp32 => {
            let values = tensor.data.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it));
            // `as` saturates, and makes nothing of what is no number.
            let samples: Vec<_> = values.map(|it| (it * 32_768.0).round() as i16).collect();
            Ok(Sound { format, samples: bytes_of(&samples) })
        }
        _ => wav::read(&first_string(outputs)?),
    }
}

/// The numbers of a worker's first output.
///
/// # Errors
/// They are none.
pub fn numbers_output(outputs: &[Tensor]) -> Result<Vec<f32>, String> {
    match outputs.first() {
        Some(tensor) if tensor.datatype == DataType::Fp32 => {
            Ok(tensor.data.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it)).collect())
        }
        other => Err(not_this(other, "FP32")),
    }
}

fn first_string(outputs: &[Tensor]) -> Result<Bytes, String> {
    let tensor = outputs.first().filter(|tensor| tensor.datatype == DataType::Bytes);
    let string = tensor.and_then(|tensor| Some(tensor.data.slice_ref(tensor.strings().next()?)));
    string.ok_or_else(|| not_this(outputs.first(), "BYTES with a string in it"))
}

fn not_this(output: Option<&Tensor>, wanted: &str) -> String {
    match output {
        None => "it gave no output".into(),
        Some(tensor) => {
            format!("its output `{}` is {}, and not {wanted}", tensor.name, tensor.datatype.name())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(datatype: DataType, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: "x".into(), datatype, shape: shape.to_vec() }
    }

    fn bytes(text: &[u8]) -> Vec<Tensor> {
        let data = string(text).unwrap();
        vec![Tensor { name: "y".into(), datatype: DataType::Bytes, shape: vec![1], data }]
    }

    #[test]
    fn sound_goes_as_the_input_wants_it() {
        let samples = [0, 16_384, -32_768];
        let file = sound_input(&spec(DataType::Bytes, &[1]), 16_000, &samples).unwrap();
        assert_eq!(file.shape, [1]);
        assert_eq!(file.check(), Ok(()));
        assert_eq!(wav::read(&file.data.slice(4..)).unwrap().samples, bytes_of(&samples));
        let raw = sound_input(&spec(DataType::Int16, &[-1, 3]), 16_000, &samples).unwrap();
        assert_eq!((raw.shape, raw.data), (vec![1, 3], bytes_of(&samples)));
        let floats = sound_input(&spec(DataType::Fp32, &[-1]), 16_000, &samples).unwrap();
        assert_eq!(floats.shape, [3]);
        assert_eq!(floats.data[4..8], 0.5_f32.to_le_bytes());
        let error = sound_input(&spec(DataType::Int16, &[-1, 4]), 16_000, &samples).unwrap_err();
        assert!(error.contains("[-1, 4], into which 3 elements do not fit"), "{error}");
        let error = sound_input(&spec(DataType::Uint8, &[-1]), 16_000, &samples).unwrap_err();
        assert!(error.contains("`x` is UINT8"), "{error}");
    }

    #[test]
    fn text_comes_as_it_is_or_in_json() {
        assert_eq!(text_output(&bytes(b" hello\n\nworld \n")).unwrap(), "hello world");
        assert_eq!(text_output(&bytes(b"{\"text\": \" hi\", \"x\": 1}")).unwrap(), "hi");
        assert_eq!(text_output(&bytes(b"{\"x\": 1}")).unwrap(), "{\"x\": 1}");
        assert_eq!(text_output(&bytes(b"")).unwrap(), "");
        assert!(text_output(&[]).unwrap_err().contains("no output"));
        let error = text_input(&spec(DataType::Int64, &[1]), "x").unwrap_err();
        assert!(error.contains("text goes to BYTES"), "{error}");
        assert_eq!(text_input(&spec(DataType::Bytes, &[-1]), "x").unwrap().check(), Ok(()));
    }

    #[test]
    fn a_voice_is_a_file_or_samples() {
        let file = wav::write(22_050, &[1, 2]);
        assert_eq!(sound_output(&bytes(&file), 16_000).unwrap().format.rate, 22_050);
        let raw = |datatype, data: Vec<u8>| {
            vec![Tensor { name: "y".into(), datatype, shape: vec![1], data: data.into() }]
        };
        let floats = raw(DataType::Fp32, 0.5_f32.to_le_bytes().into());
        assert_eq!(sound_output(&floats, 16_000).unwrap().samples, bytes_of(&[16_384]));
        assert_eq!(numbers_output(&floats), Ok(vec![0.5]));
        let integers = raw(DataType::Int16, vec![7, 0]);
        assert_eq!(sound_output(&integers, 16_000).unwrap().format, Format::mono(16_000));
        assert!(numbers_output(&integers).unwrap_err().contains("`y` is INT16, and not FP32"));
        assert!(sound_output(&bytes(b"no sound"), 16_000).unwrap_err().contains("no WAV file"));
    }
}
