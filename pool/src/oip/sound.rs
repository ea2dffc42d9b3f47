//! How long the sound in a request or an answer lasts: a WAV file says so, of samples the rate must
//! be known.

use std::time::Duration;

use bytes::Bytes;
use downbeat_link::{DataType, SharedInput, Tensor};

use crate::wyoming::wav;

/// Of the first tensor that is a WAV file; else, where `rate` samples are a second of the first
/// tensor, of that one; nothing where there is neither.
pub fn lasts(tensors: &[Tensor], rate: Option<u32>) -> Option<Duration> {
    let strings = tensors.iter().filter(|tensor| tensor.datatype == DataType::Bytes);
    let file = |tensor: &Tensor| wav(&tensor.data.slice_ref(tensor.strings().next()?));
    strings.filter_map(file).next().or_else(|| {
        let first = tensors.first()?;
        samples(first.datatype, first.data.len() as u64, rate?)
    })
}

/// The same of samples that are in shared memory.
pub fn shared_lasts(inputs: &[SharedInput], rate: Option<u32>) -> Option<Duration> {
    let first = inputs.first()?;
    samples(first.datatype, first.region.length, rate?)
}

fn samples(datatype: DataType, bytes: u64, rate: u32) -> Option<Duration> {
    let size = match datatype {
        DataType::Int16 | DataType::Fp32 => datatype.size()? as u64,
        _ => return None,
    };
    let samples = (bytes / size) as f64;
    Duration::try_from_secs_f64(samples / f64::from(rate)).ok()
}

fn wav(file: &Bytes) -> Option<Duration> {
    // Most strings are none: nothing is made of them.
    let sound = file.starts_with(b"RIFF").then(|| wav::read(file))?.ok()?;
    let second = f64::from(sound.format.rate) * sound.format.frame() as f64;
    Duration::try_from_secs_f64(sound.samples.len() as f64 / second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(file: &[u8]) -> Tensor {
        let mut data = u32::try_from(file.len()).unwrap().to_le_bytes().to_vec();
        data.extend_from_slice(file);
        Tensor { name: "x".into(), datatype: DataType::Bytes, shape: vec![1], data: data.into() }
    }

    #[test]
    fn a_wav_file_says_how_long_it_lasts() {
        let of = |file: &[u8]| lasts(&[tensor(b"text"), tensor(file)], Some(16_000));
        let whole = wav::write(16_000, &[7; 8_000]);
        assert_eq!(of(&whole), Some(Duration::from_millis(500)));
        assert_eq!(of(&whole[..whole.len() - 8_000]), Some(Duration::from_millis(250)), "cut");
        assert_eq!(of(b"RIFF"), None);
        assert_eq!(lasts(&[], Some(16_000)), None);
    }

    #[test]
    fn samples_last_as_long_as_their_rate_says() {
        let samples = |datatype| Tensor {
            name: "pcm".into(),
            datatype,
            shape: vec![2, 8_000],
            data: vec![0; 32_000].into(),
        };
        let of = |datatype, rate| lasts(&[samples(datatype)], rate);
        assert_eq!(of(DataType::Int16, Some(16_000)), Some(Duration::from_secs(1)));
        assert_eq!(of(DataType::Fp32, Some(16_000)), Some(Duration::from_millis(500)));
        assert_eq!(of(DataType::Int16, None), None);
        assert_eq!(of(DataType::Uint8, Some(16_000)), None, "a picture");
        assert_eq!(of(DataType::Int16, Some(0)), None);
    }
}
