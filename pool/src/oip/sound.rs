//! How long the sound in a request or an answer lasts, where its form says so: WAV.

use std::time::Duration;

use bytes::Bytes;
use downbeat_link::{DataType, Tensor};

use crate::wyoming::wav;

/// Of the first tensor that is a WAV file; nothing where none is.
pub fn lasts(tensors: &[Tensor]) -> Option<Duration> {
    let strings = tensors.iter().filter(|tensor| tensor.datatype == DataType::Bytes);
    strings.filter_map(|tensor| wav(&tensor.data.slice_ref(tensor.strings().next()?))).next()
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
        let of = |file: &[u8]| lasts(&[tensor(b"text"), tensor(file)]);
        let whole = wav::write(16_000, &[7; 8_000]);
        assert_eq!(of(&whole), Some(Duration::from_millis(500)));
        assert_eq!(of(&whole[..whole.len() - 8_000]), Some(Duration::from_millis(250)), "cut");
        assert_eq!(of(b"RIFF"), None);
        assert_eq!(lasts(&[]), None);
    }
}
