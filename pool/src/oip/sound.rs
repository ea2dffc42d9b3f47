//! How long the sound in a request or an answer lasts, where its form says so: WAV.

use std::time::Duration;

use downbeat_link::{DataType, Tensor};

/// Of the first tensor that is a WAV file; nothing where none is.
pub fn lasts(tensors: &[Tensor]) -> Option<Duration> {
    let strings = tensors.iter().filter(|tensor| tensor.datatype == DataType::Bytes);
    strings.filter_map(|tensor| wav(tensor.strings().next()?)).next()
}

/// Of a WAV file: its data by its bytes a second.
fn wav(file: &[u8]) -> Option<Duration> {
    let rest = file.strip_prefix(b"RIFF")?.get(4..)?.strip_prefix(b"WAVE")?;
    let (mut rest, mut rate) = (rest, None);
    while let Some((head, body)) = rest.split_at_checked(8) {
        let size = u32::from_le_bytes(head[4..8].try_into().ok()?) as usize;
        // A program that writes into a pipe does not know the size of what is to come.
        let size = size.min(body.len());
        match &head[..4] {
            b"fmt " => rate = Some(u32::from_le_bytes(body.get(8..12)?.try_into().ok()?)),
            b"data" => {
                let rate = rate.filter(|rate| *rate > 0)?;
                return Duration::try_from_secs_f64(size as f64 / f64::from(rate)).ok();
            }
            _ => {}
        }
        // Chunks begin at even places.
        rest = body.get(size + size % 2..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(file: &[u8]) -> Tensor {
        let mut data = u32::try_from(file.len()).unwrap().to_le_bytes().to_vec();
        data.extend_from_slice(file);
        Tensor { name: "x".into(), datatype: DataType::Bytes, shape: vec![1], data: data.into() }
    }

    fn file(claimed: u32, samples: usize) -> Vec<u8> {
        let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
        file.extend(16_000_u32.to_le_bytes());
        file.extend(32_000_u32.to_le_bytes());
        file.extend([2, 0, 16, 0]);
        file.extend(b"LIST\x03\0\0\0abc\0data");
        file.extend(claimed.to_le_bytes());
        file.extend(vec![0; samples * 2]);
        file
    }

    #[test]
    fn a_wav_file_says_how_long_it_lasts() {
        let of = |file: &[u8]| lasts(&[tensor(b"text"), tensor(file)]);
        assert_eq!(of(&file(16_000, 8_000)), Some(Duration::from_millis(500)));
        assert_eq!(of(&file(0x7fff_f000, 8_000)), Some(Duration::from_millis(500)), "from a pipe");
        let whole = file(16_000, 8_000);
        assert_eq!(of(&whole[..whole.len() - 16_000]), Some(Duration::ZERO));
        for end in 0..56 {
            assert_eq!(of(&whole[..end]), None, "cut at {end}");
        }
        let still = whole
            .iter()
            .enumerate()
            .map(|(at, byte)| if (28..32).contains(&at) { 0 } else { *byte });
        assert_eq!(of(&still.collect::<Vec<_>>()), None, "no bytes a second");
        assert_eq!(lasts(&[]), None);
    }
}
