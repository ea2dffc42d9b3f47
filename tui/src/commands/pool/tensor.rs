//! What a person gives for an input, as a tensor: a file of sound, a picture or raw elements, text,
//! or JSON. Pure: files are read before.

use serde::Deserialize;
use serde_json::Value;

use super::{picture, sound};

/// An input or an output as the model's metadata has it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Spec {
    /// Name.
    pub name: String,
    /// The protocol's word.
    pub datatype: String,
    /// -1 stands for any size.
    pub shape: Vec<i64>,
}

/// What a person gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// The content of a file.
    File(Vec<u8>),
    /// An argument.
    Text(String),
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    /// Sizes.
    pub shape: Vec<u64>,
    /// Elements.
    pub data: Vec<u8>,
    /// Samples of one channel a second, where it is sound.
    pub rate: Option<u32>,
}

/// Samples of a noise remover's frame.
const FRAME: usize = 480;

/// The tensor for an input.
///
/// # Errors
/// Why what was given is none, with what would be.
pub(super) fn of(spec: &Spec, given: Given) -> Result<Tensor, String> {
    if spec.datatype == "BYTES" {
        return Ok(string(spec, given));
    }
    let size = element_size(&spec.datatype)
        .ok_or_else(|| format!("it has datatype {}, which is not known here", spec.datatype))?;
    match given {
        Given::File(file) => {
            if let Some(sound) = sound::read(&file) {
                return samples(spec, sound?);
            }
            if let Some(picture) = picture::read(&file) {
                let picture::Picture { width, height, levels } = picture?;
                if spec.datatype != "UINT8" {
                    return Err(format!("a picture is UINT8, and it takes {}", spec.datatype));
                }
                let wanted = &spec.shape[spec.shape.len().saturating_sub(2)..];
                let is = [height, width].map(|size| i64::try_from(size).unwrap_or(i64::MAX));
                if wanted.iter().zip(is).any(|(wanted, is)| *wanted >= 0 && *wanted != is) {
                    return Err(format!(
                        "the picture has {height} rows and {width} columns, and it takes {wanted:?} \
                         (`convert FILE -resize {}x{}! OUT.pgm`)",
                        wanted.last().unwrap_or(&0),
                        wanted.first().unwrap_or(&0)
                    ));
                }
                return shaped(spec, levels, size, None);
            }
            shaped(spec, file, size, None)
        }
        Given::Text(text) => match serde_json::from_str::<Value>(&text) {
            Ok(value @ (Value::Array(_) | Value::Number(_) | Value::Bool(_))) => {
                numbers(spec, &value, size)
            }
            Ok(Value::String(text)) => letters(spec, text.into_bytes()),
            _ => letters(spec, text.into_bytes()),
        },
    }
}

/// One string.
fn string(spec: &Spec, given: Given) -> Tensor {
    let bytes = match given {
        Given::File(file) => file,
        Given::Text(text) => match serde_json::from_str::<Value>(&text) {
            Ok(Value::String(text)) => text.into_bytes(),
            _ => text.into_bytes(),
        },
    };
    let mut data = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    data.extend(bytes);
    Tensor { shape: vec![1; spec.shape.len().max(1)], data, rate: None }
}

/// Text for a model that takes its bytes, filled with 0 to the length that it takes.
fn letters(spec: &Spec, mut bytes: Vec<u8>) -> Result<Tensor, String> {
    if spec.datatype != "UINT8" {
        return Err(format!(
            "it takes {} {:?}: give a JSON array of numbers, or @FILE",
            spec.datatype, spec.shape
        ));
    }
    if let Some(&last @ 1..) = spec.shape.last() {
        bytes.resize(usize::try_from(last).unwrap_or(usize::MAX).min(1 << 20), 0);
    }
    shaped(spec, bytes, 1, None)
}

fn samples(spec: &Spec, sound: sound::Sound) -> Result<Tensor, String> {
    let sound::Sound { rate, channels, mut samples } = sound;
    let channels = usize::from(channels);
    let any = spec.shape.iter().filter(|size| **size < 0).count();
    match *spec.shape {
        // A recording of any length, in whole frames.
        [-1, -1] => {
            let frames = (samples.len() / channels).div_ceil(FRAME).max(1);
            samples.resize(frames * FRAME * channels, 0);
        }
        _ if channels > 1 => {
            return Err(format!(
                "the sound has {channels} channels, and it takes one (`ffmpeg -i FILE -ac 1 OUT.wav`)"
            ));
        }
        [.., last] if last > 0 && any <= 1 => {
            let last = usize::try_from(last).unwrap_or(usize::MAX);
            let rows = if any == 1 { samples.len().div_ceil(last).max(1) } else { 1 };
            samples.resize(rows.saturating_mul(last).min(1 << 26), 0);
        }
        _ => {}
    }
    let data: Vec<u8> = match spec.datatype.as_str() {
        "INT16" => samples.iter().flat_map(|it| it.to_le_bytes()).collect(),
        "FP32" => samples.iter().flat_map(|it| (f32::from(*it) / 32_768.0).to_le_bytes()).collect(),
        other => return Err(format!("sound is INT16 or FP32, and it takes {other}")),
    };
    if let [-1, -1] = *spec.shape {
        let shape = vec![(samples.len() / channels) as u64, channels as u64];
        return Ok(Tensor { shape, data, rate: Some(rate) });
    }
    let size = if spec.datatype == "INT16" { 2 } else { 4 };
    shaped(spec, data, size, Some(rate))
}

/// Elements whose number gives the one size that is left open.
fn shaped(spec: &Spec, data: Vec<u8>, size: usize, rate: Option<u32>) -> Result<Tensor, String> {
    let mut sizes = spec.shape.iter().filter_map(|size| u64::try_from(*size).ok());
    let fixed = sizes.try_fold(1_u64, u64::checked_mul).unwrap_or(u64::MAX).max(1);
    let elements = (data.len() / size) as u64;
    let open = spec.shape.iter().filter(|size| **size < 0).count();
    let fits = data.len().is_multiple_of(size)
        && elements.is_multiple_of(fixed)
        && (open > 0 || elements == fixed)
        && elements > 0;
    if !fits {
        return Err(format!(
            "{} bytes are no {} {:?}, where -1 stands for any size",
            data.len(),
            spec.datatype,
            spec.shape
        ));
    }
    let mut rest = elements / fixed;
    let shape = spec.shape.iter().map(|wanted| match u64::try_from(*wanted) {
        Ok(wanted) => wanted,
        // The first that is open takes all.
        Err(_) => std::mem::replace(&mut rest, 1),
    });
    Ok(Tensor { shape: shape.collect(), data, rate })
}

/// Numbers in JSON; their nesting is the shape where it is as deep as that.
fn numbers(spec: &Spec, value: &Value, size: usize) -> Result<Tensor, String> {
    let mut data = Vec::new();
    flatten(&spec.datatype, value, &mut data)?;
    let mut sizes = Vec::new();
    let mut inner = value;
    while let Value::Array(values) = inner {
        sizes.push(values.len() as u64);
        let Some(first) = values.first() else { break };
        inner = first;
    }
    let whole = sizes.iter().product::<u64>().checked_mul(size as u64) == Some(data.len() as u64);
    if whole && sizes.len() == spec.shape.len() {
        return Ok(Tensor { shape: sizes, data, rate: None });
    }
    shaped(spec, data, size, None)
}

fn flatten(datatype: &str, value: &Value, data: &mut Vec<u8>) -> Result<(), String> {
    let wrong = || format!("{value} is no {datatype}");
    macro_rules! whole {
        ($kind:ty) => {
            data.extend(
                value
                    .as_i64()
                    .map(i128::from)
                    .or_else(|| value.as_u64().map(i128::from))
                    .and_then(|number| <$kind>::try_from(number).ok())
                    .ok_or_else(wrong)?
                    .to_le_bytes(),
            )
        };
    }
    if let Value::Array(values) = value {
        return values.iter().try_for_each(|value| flatten(datatype, value, data));
    }
    match datatype {
        "BOOL" => data.push(value.as_bool().ok_or_else(wrong)?.into()),
        "INT8" => whole!(i8),
        "INT16" => whole!(i16),
        "INT32" => whole!(i32),
        "INT64" => whole!(i64),
        "UINT8" => whole!(u8),
        "UINT16" => whole!(u16),
        "UINT32" => whole!(u32),
        "UINT64" => whole!(u64),
        #[expect(clippy::cast_possible_truncation, reason = "that is the model's precision")]
        "FP32" => data.extend((value.as_f64().ok_or_else(wrong)? as f32).to_le_bytes()),
        "FP64" => data.extend(value.as_f64().ok_or_else(wrong)?.to_le_bytes()),
        other => return Err(format!("{other} is sent as @FILE only")),
    }
    Ok(())
}

/// Bytes of an element; nothing for strings and what is not known.
pub(super) fn element_size(datatype: &str) -> Option<usize> {
    Some(match datatype {
        "BOOL" | "INT8" | "UINT8" => 1,
        "INT16" | "UINT16" | "FP16" | "BF16" => 2,
        "INT32" | "UINT32" | "FP32" => 4,
        "INT64" | "UINT64" | "FP64" => 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::sound::Sound;
    use super::*;

    fn spec(datatype: &str, shape: &[i64]) -> Spec {
        Spec { name: "x".into(), datatype: datatype.into(), shape: shape.to_vec() }
    }

    fn text(text: &str) -> Given {
        Given::Text(text.into())
    }

    fn wav(channels: u16, samples: usize) -> Given {
        Given::File(sound::write(&Sound { rate: 16_000, channels, samples: vec![256; samples] }))
    }

    #[test]
    fn text_is_bytes_filled_up_or_one_string() {
        let tensor = of(&spec("UINT8", &[-1, 8]), text("hello")).unwrap();
        assert_eq!((tensor.shape, &tensor.data[..]), (vec![1, 8], b"hello\0\0\0".as_slice()));
        let tensor = of(&spec("UINT8", &[-1, 3]), text("\"hello\"")).unwrap();
        assert_eq!((tensor.shape, &tensor.data[..]), (vec![1, 3], b"hel".as_slice()));
        let tensor = of(&spec("BYTES", &[1]), text("hi")).unwrap();
        assert_eq!((tensor.shape, &tensor.data[..]), (vec![1], b"\x02\0\0\0hi".as_slice()));
        assert!(of(&spec("FP32", &[-1, 3]), text("hello")).unwrap_err().contains("JSON array"));
    }

    #[test]
    fn sound_becomes_rows_or_whole_frames() {
        let tensor = of(&spec("INT16", &[-1, 16_000]), wav(1, 100)).unwrap();
        assert_eq!((tensor.shape, tensor.data.len()), (vec![1, 16_000], 32_000));
        let tensor = of(&spec("INT16", &[-1, 16_000]), wav(1, 16_001)).unwrap();
        assert_eq!(tensor.shape, [2, 16_000]);
        let tensor = of(&spec("FP32", &[-1, -1]), wav(2, 1000)).unwrap();
        assert_eq!((tensor.shape, tensor.rate), (vec![960, 2], Some(16_000)));
        assert_eq!(tensor.data[..4], (256.0_f32 / 32_768.0).to_le_bytes());
        assert!(of(&spec("INT16", &[-1, 160]), wav(2, 160)).unwrap_err().contains("one"));
        assert!(of(&spec("UINT8", &[-1, 160]), wav(1, 160)).unwrap_err().contains("takes UINT8"));
    }

    #[test]
    fn a_picture_has_the_size_that_is_taken() {
        let file = || Given::File(b"P5\n3 2\n255\nabcdef".to_vec());
        let tensor = of(&spec("UINT8", &[-1, 2, 3]), file()).unwrap();
        assert_eq!((tensor.shape, &tensor.data[..]), (vec![1, 2, 3], b"abcdef".as_slice()));
        let message = of(&spec("UINT8", &[-1, 28, 28]), file()).unwrap_err();
        assert!(message.contains("-resize 28x28!"), "{message}");
        assert!(of(&spec("FP32", &[-1, 2, 3]), file()).unwrap_err().contains("takes FP32"));
    }

    #[test]
    fn numbers_have_the_shape_of_their_nesting() {
        let tensor = of(&spec("FP32", &[-1, 2]), text("[[1, 2], [3, 4.5]]")).unwrap();
        assert_eq!((tensor.shape, tensor.data.len()), (vec![2, 2], 16));
        let tensor = of(&spec("INT16", &[-1, 2]), text("[1, -2, 3, 4]")).unwrap();
        assert_eq!((tensor.shape, tensor.data[2..4].to_vec()), (vec![2, 2], vec![0xfe, 0xff]));
        for (datatype, wrong) in [("UINT8", "[256]"), ("INT16", "[1.5]"), ("BOOL", "[1]")] {
            assert!(of(&spec(datatype, &[-1]), text(wrong)).unwrap_err().contains("is no"));
        }
        let message = of(&spec("FP32", &[-1, 2]), text("[1, 2, 3]")).unwrap_err();
        assert!(message.contains("no FP32 [-1, 2]"), "{message}");
        assert!(of(&spec("FP32", &[-1, 2]), text("[[], [1]]")).is_err());
    }
}
