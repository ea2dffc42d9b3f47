//! WAV files, in memory: written for workers that take one, read from workers that give one. Pure.
//!
//! Programs that write a WAV file to a pipe do not know its length when they write the head, so what
//! the head says of it counts only as far as there is that much.

use bytes::Bytes;

use super::sound::Format;

/// A file's sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sound {
    /// What the samples are.
    pub format: Format,
    /// Whole samples.
    pub samples: Bytes,
}

/// Bytes of the head that [`write`] puts before the samples.
const HEAD: u32 = 44;

/// PCM, in a `fmt ` chunk.
const PCM: u16 = 1;

/// PCM too, with more said behind it.
const EXTENSIBLE: u16 = 0xfffe;

/// A file of one channel of 16 bits.
#[must_use]
pub fn write(rate: u32, samples: &[i16]) -> Vec<u8> {
    let format = Format::mono(rate);
    let length = u32::try_from(samples.len() * format.frame()).unwrap_or(u32::MAX - HEAD);
    let mut file = Vec::with_capacity(HEAD as usize + samples.len() * format.frame());
    file.extend(b"RIFF");
    file.extend((length + HEAD - 8).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    file.extend(PCM.to_le_bytes());
    file.extend(u16::from(format.channels).to_le_bytes());
    file.extend(rate.to_le_bytes());
    file.extend((rate * format.frame() as u32).to_le_bytes());
    file.extend((format.frame() as u16).to_le_bytes());
    file.extend((8 * u16::from(format.width)).to_le_bytes());
    file.extend(b"data");
    file.extend(length.to_le_bytes());
    file.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    file
}

/// The sound of a file.
///
/// # Errors
/// Why it is none that is understood.
pub fn read(file: &Bytes) -> Result<Sound, String> {
    let no = |what: &str| format!("it is no WAV file: {what}");
    if file.get(..4) != Some(b"RIFF") || file.get(8..12) != Some(b"WAVE") {
        return Err(no("it does not begin with RIFF and WAVE"));
    }
    let mut format = None;
    let mut at = 12;
    while let Some(head) = file.get(at..at + 8) {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let begin = at + 8;
        let end = begin.saturating_add(length).min(file.len());
        let chunk = &file[begin..end];
        match &head[..4] {
            b"fmt " => format = Some(read_format(chunk)?),
            b"data" => {
                let format: Format = format.ok_or_else(|| no("no format before the samples"))?;
                let whole = chunk.len() - chunk.len() % format.frame();
                return Ok(Sound { format, samples: file.slice(begin..begin + whole) });
            }
            _ => {}
        }
        // Chunks begin at even places.
        at = end + (end - begin) % 2;
    }
    Err(no("it has no samples"))
}

fn read_format(chunk: &[u8]) -> Result<Format, String> {
    let short = || "it is no WAV file: its format is cut short".to_owned();
    let two = |at: usize| chunk.get(at..at + 2).map(|it| u16::from_le_bytes([it[0], it[1]]));
    let kind = two(0).ok_or_else(short)?;
    let channels = two(2).ok_or_else(short)?;
    let rate = chunk.get(4..8).map(|it| u32::from_le_bytes([it[0], it[1], it[2], it[3]]));
    let rate = rate.ok_or_else(short)?;
    let bits = two(14).ok_or_else(short)?;
    let known = matches!(kind, PCM | EXTENSIBLE)
        && matches!(bits, 8 | 16 | 24 | 32)
        && (1..=8).contains(&channels)
        && rate > 0;
    if !known {
        return Err(format!(
            "its WAV file has {channels} channels of {bits} bits at {rate} Hz, format {kind}; PCM of \
             8 to 32 bits and 1 to 8 channels is understood"
        ));
    }
    // In range by the lines above.
    Ok(Format { rate, width: (bits / 8) as u8, channels: channels as u8 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let samples = [0, 1, -1, 32_767, -32_768];
        let file = Bytes::from(write(16_000, &samples));
        let sound = read(&file).unwrap();
        assert_eq!(sound.format, Format::mono(16_000));
        assert_eq!(sound.samples, super::super::sound::bytes_of(&samples));
        assert_eq!(file[4..8], (file.len() as u32 - 8).to_le_bytes());
    }

    #[test]
    fn a_length_that_nobody_knew_is_that_of_what_is_there() {
        for length in [0x7fff_f000_u32, u32::MAX] {
            let mut file = write(22_050, &[1, 2, 3]);
            file[40..44].copy_from_slice(&length.to_le_bytes());
            file.push(9);
            let sound = read(&file.into()).unwrap();
            assert_eq!(sound.samples, [1, 0, 2, 0, 3, 0].as_slice());
        }
    }

    #[test]
    fn chunks_that_mean_nothing_here_are_passed_over() {
        let file = write(8_000, &[7]);
        let mut odd = file[..36].to_vec();
        odd.extend(b"LIST\x03\0\0\0abc\0");
        odd.extend(&file[36..]);
        assert_eq!(read(&odd.into()).unwrap().samples, [7, 0].as_slice());
    }

    #[test]
    fn what_is_none_is_told_why() {
        let file = write(8_000, &[7]);
        let with = |at: usize, bytes: &[u8]| {
            let mut file = file.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            read(&file.into()).unwrap_err()
        };
        assert!(with(0, b"RIFX").contains("does not begin with RIFF"));
        assert!(with(12, b"fmtx").contains("no format before the samples"));
        assert!(with(36, b"dat.").contains("has no samples"));
        assert!(with(20, &3_u16.to_le_bytes()).contains("format 3; PCM"));
        assert!(with(22, &0_u16.to_le_bytes()).contains("0 channels"));
        assert!(with(34, &12_u16.to_le_bytes()).contains("12 bits"));
        assert!(read(&Bytes::from_static(b"RIFF")).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            mut bytes in prop::collection::vec(any::<u8>(), 0..100),
            at: prop::sample::Index,
            with: u8,
        ) {
            let _ = read(&bytes.clone().into());
            let mut file = write(16_000, &[1, 2, 3]);
            file.append(&mut bytes);
            let at = at.index(file.len());
            file[at] = with;
            if let Ok(sound) = read(&file.into()) {
                prop_assert_eq!(sound.samples.len() % sound.format.frame(), 0);
            }
        }
    }
}
