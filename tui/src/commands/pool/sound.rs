//! WAV files of 16-bit samples: to samples, and back. Pure.

/// Sound, its channels interleaved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sound {
    /// Samples of one channel a second.
    pub rate: u32,
    /// 1 or more.
    pub channels: u16,
    /// Of all channels.
    pub samples: Vec<i16>,
}

/// Reads a WAV file; nothing for what is none.
///
/// # Errors
/// A WAV file of another form than 16-bit samples, with the remedy.
pub(super) fn read(file: &[u8]) -> Option<Result<Sound, String>> {
    let rest = file.strip_prefix(b"RIFF")?.get(4..)?.strip_prefix(b"WAVE")?;
    Some(chunks(rest))
}

fn chunks(mut rest: &[u8]) -> Result<Sound, String> {
    let mut form = None;
    while let Some((head, body)) = rest.split_at_checked(8) {
        let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        // A program that writes into a pipe does not know the size of what is to come.
        let size = size.min(body.len());
        let chunk = &body[..size];
        match (&head[..4], chunk.first_chunk::<16>()) {
            (b"fmt ", Some(fields)) => form = Some(*fields),
            (b"data", _) => {
                let Some(form) = form else { break };
                let number = |at: usize| u16::from_le_bytes([form[at], form[at + 1]]);
                let (channels, bits) = (number(2), number(14));
                if bits != 16 || channels == 0 {
                    return Err(format!(
                        "WAV of {bits} bits; send 16 (`ffmpeg -i FILE -c:a pcm_s16le OUT.wav`)"
                    ));
                }
                let rate = u32::from_le_bytes([form[4], form[5], form[6], form[7]]);
                let samples = chunk.as_chunks().0.iter().map(|it| i16::from_le_bytes(*it));
                return Ok(Sound { rate, channels, samples: samples.collect() });
            }
            _ => {}
        }
        // Chunks begin at even places.
        rest = body.get(size + size % 2..).unwrap_or_default();
    }
    Err("a WAV file without samples".into())
}

/// A WAV file.
pub(super) fn write(sound: &Sound) -> Vec<u8> {
    let Sound { rate, channels, samples } = sound;
    let bytes = u32::try_from(samples.len() * 2).unwrap_or(u32::MAX);
    let frame = channels * 2;
    let mut file = Vec::with_capacity(samples.len() * 2 + 44);
    file.extend(b"RIFF");
    file.extend(bytes.saturating_add(36).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0");
    file.extend(channels.to_le_bytes());
    file.extend(rate.to_le_bytes());
    file.extend((rate.saturating_mul(frame.into())).to_le_bytes());
    file.extend(frame.to_le_bytes());
    file.extend(b"\x10\0data");
    file.extend(bytes.to_le_bytes());
    file.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let sound = Sound { rate: 16_000, channels: 2, samples: vec![1, -2, 3, i16::MIN] };
        let file = write(&sound);
        assert_eq!(file.len(), 44 + 8);
        assert_eq!(read(&file), Some(Ok(sound)));
        for end in 12..44 {
            assert!(read(&file[..end]).unwrap().is_err(), "cut at {end}");
        }
        assert_eq!(read(b"text"), None);
        let mut eight = file;
        eight[34] = 8;
        assert!(read(&eight).unwrap().unwrap_err().contains("send 16"));
    }
}
