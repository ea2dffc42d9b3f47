//! Sound as it comes, and as workers take it: one channel of 16 bits at their own rate. Pure.

use bytes::Bytes;

use super::event::Event;
use super::resample::Resampler;

/// Samples a second that are taken.
const RATES: std::ops::RangeInclusive<u64> = 4_000..=192_000;

/// Channels that are taken.
const CHANNELS: std::ops::RangeInclusive<u64> = 1..=8;

/// Raw samples, little endian, the channels side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Samples of one channel in a second.
    pub rate: u32,
    /// Bytes of a sample, 1 to 4. One byte counts from 0 to 255, as in WAV files; the others are
    /// signed.
    pub width: u8,
    /// At least one.
    pub channels: u8,
}

impl Format {
    /// One channel of 16 bits.
    #[must_use]
    pub fn mono(rate: u32) -> Self {
        Self { rate, width: 2, channels: 1 }
    }

    /// As `audio-start` and `audio-chunk` say it.
    ///
    /// # Errors
    /// What is missing or not taken.
    pub fn of(event: &Event) -> Result<Self, String> {
        let get = |key: &str, range: std::ops::RangeInclusive<u64>| {
            let (first, last) = range.clone().into_inner();
            let found = event.number(key).filter(|number| range.contains(number));
            found.ok_or_else(|| {
                let is = event.data.get(key).map_or("missing".into(), ToString::to_string);
                format!("`{key}` of {} is {is}; {first} to {last} are taken", event.kind)
            })
        };
        // All in range of their types by the ranges above.
        Ok(Self {
            rate: get("rate", RATES)? as u32,
            width: get("width", 1..=4)? as u8,
            channels: get("channels", CHANNELS)? as u8,
        })
    }

    /// Bytes of one moment in all channels.
    #[must_use]
    pub fn frame(self) -> usize {
        usize::from(self.width) * usize::from(self.channels)
    }

    /// The mean of the channels, from -1 to 1.
    fn means(self, bytes: &[u8]) -> impl Iterator<Item = f32> {
        let (width, channels) = (usize::from(self.width), usize::from(self.channels));
        bytes.chunks_exact(self.frame()).map(move |frame| {
            let sum: f32 = frame.chunks_exact(width).map(sample).sum();
            sum / channels as f32
        })
    }
}

/// One sample, from -1 to 1.
fn sample(bytes: &[u8]) -> f32 {
    match *bytes {
        [a] => (f32::from(a) - 128.0) / 128.0,
        [a, b] => f32::from(i16::from_le_bytes([a, b])) / 32_768.0,
        [a, b, c] => (i32::from_le_bytes([0, a, b, c]) >> 8) as f32 / 8_388_608.0,
        [a, b, c, d] => (i32::from_le_bytes([a, b, c, d]) as f64 / 2_147_483_648.0) as f32,
        // No width is more than 4.
        _ => 0.0,
    }
}

/// As 16 bits; what is louder than full scale is clipped.
fn to_16_bits(value: f32) -> i16 {
    // `as` saturates.
    (value * 32_768.0).round() as i16
}

/// Makes what comes what a worker takes.
#[derive(Debug)]
pub struct Converter {
    format: Format,
    resampler: Option<Resampler>,
}

impl Converter {
    /// To one channel of 16 bits at `rate`.
    ///
    /// # Errors
    /// The resampler's.
    pub fn new(format: Format, rate: u32) -> Result<Self, String> {
        let resampler = (format.rate != rate).then(|| Resampler::new(format.rate, rate));
        Ok(Self { format, resampler: resampler.transpose()? })
    }

    /// What it takes.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Converts a piece to the end of `to`.
    ///
    /// # Errors
    /// Where it ends within a sample, or the resampler's.
    pub fn push(&mut self, bytes: &[u8], to: &mut Vec<i16>) -> Result<(), String> {
        let frame = self.format.frame();
        if !bytes.len().is_multiple_of(frame) {
            return Err(format!(
                "a chunk has {} bytes, which is no whole number of samples of {frame} bytes (all \
                 channels together)",
                bytes.len()
            ));
        }
        match &mut self.resampler {
            None => to.extend(self.format.means(bytes).map(to_16_bits)),
            Some(resampler) => {
                let samples = self.format.means(bytes);
                resampler.push(samples, |value| to.push(to_16_bits(value)))?;
            }
        }
        Ok(())
    }

    /// What the resampler still holds.
    ///
    /// # Errors
    /// The resampler's.
    pub fn finish(&mut self, to: &mut Vec<i16>) -> Result<(), String> {
        match &mut self.resampler {
            None => Ok(()),
            Some(resampler) => resampler.finish(|value| to.push(to_16_bits(value))),
        }
    }
}

/// Samples as bytes.
#[must_use]
pub fn bytes_of(samples: &[i16]) -> Bytes {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn converted(format: Format, rate: u32, bytes: &[u8], piece: usize) -> Vec<i16> {
        let mut converter = Converter::new(format, rate).unwrap();
        let mut samples = Vec::new();
        for piece in bytes.chunks(piece * format.frame()) {
            converter.push(piece, &mut samples).unwrap();
        }
        converter.finish(&mut samples).unwrap();
        samples
    }

    #[test]
    fn every_width_has_the_same_loudness() {
        let half: [&[u8]; 4] = [&[192], &[0, 64], &[0, 0, 64], &[0, 0, 0, 64]];
        let least: [&[u8]; 4] = [&[0], &[0, 128], &[0, 0, 128], &[0, 0, 0, 128]];
        for width in 1..=4_u8 {
            let format = Format { rate: 16_000, width, channels: 1 };
            let at = usize::from(width) - 1;
            assert_eq!(converted(format, 16_000, half[at], 1), [16_384], "{width}");
            assert_eq!(converted(format, 16_000, least[at], 1), [-32_768], "{width}");
        }
    }

    #[test]
    fn channels_become_one() {
        let format = Format { rate: 16_000, width: 2, channels: 2 };
        let bytes = bytes_of(&[1000, 3000, -32_768, -32_768]);
        assert_eq!(converted(format, 16_000, &bytes, 1), [2000, -32_768]);
    }

    #[test]
    fn what_is_no_format_is_told() {
        let event = |rate: i64, width: i64, channels: i64| {
            let event = Event::new("audio-start").with("rate", rate).with("width", width);
            event.with("channels", channels)
        };
        assert_eq!(Format::of(&event(16_000, 2, 1)), Ok(Format::mono(16_000)));
        for (event, wanted) in [
            (event(0, 2, 1), "`rate` of audio-start is 0; 4000 to 192000 are taken"),
            (event(-1, 2, 1), "`rate` of audio-start is -1"),
            (event(16_000, 5, 1), "`width` of audio-start is 5; 1 to 4"),
            (event(16_000, 2, 0), "`channels` of audio-start is 0; 1 to 8"),
            (Event::new("audio-start"), "`rate` of audio-start is missing"),
        ] {
            let message = Format::of(&event).unwrap_err();
            assert!(message.starts_with(wanted), "{message}");
        }
    }

    #[test]
    fn a_chunk_that_ends_within_a_sample_is_refused() {
        let mut converter = Converter::new(Format::mono(16_000), 16_000).unwrap();
        let refusal = converter.push(&[0; 3], &mut Vec::new()).unwrap_err();
        assert!(refusal.contains("no whole number of samples of 2 bytes"), "{refusal}");
    }

    /// A tone of 440 Hz.
    fn tone(rate: u32, seconds: f32) -> Vec<i16> {
        let count = (rate as f32 * seconds) as u32;
        let at = |n: u32| (n as f32 / rate as f32 * 440.0 * std::f32::consts::TAU).sin();
        (0..count).map(|n| to_16_bits(at(n) * 0.5)).collect()
    }

    #[test]
    fn another_rate_is_the_same_tone() {
        for rate in [8_000, 11_025, 22_050, 44_100, 48_000] {
            let sent = bytes_of(&tone(rate, 1.0));
            let is = converted(Format::mono(rate), 16_000, &sent, 333);
            assert!((15_990..=16_010).contains(&is.len()), "{rate}: {} samples", is.len());
            let wanted = tone(16_000, 1.0);
            // Not the ends, where there is nothing before or behind.
            let inner = 200..15_800_usize;
            let power = |samples: &mut dyn Iterator<Item = i32>| -> f64 {
                samples.map(|it| f64::from(it).powi(2)).sum()
            };
            // Half a sample early or late is nothing that anybody hears, and 0.8 % of this tone.
            let apart = |shift: usize| {
                let pairs = inner.clone().map(|at| (is[at - 1 + shift], wanted[at]));
                power(&mut pairs.map(|(is, wanted)| i32::from(is) - i32::from(wanted)))
            };
            let least = (0..3).map(apart).fold(f64::INFINITY, f64::min);
            let share = least / power(&mut wanted[inner.clone()].iter().map(|it| i32::from(*it)));
            assert!(share < 1e-2, "{rate}: {share} of the power is wrong");
        }
    }

    #[test]
    fn what_the_new_rate_cannot_carry_is_taken_away_instead_of_folded() {
        // 11 kHz would come out as 5 kHz at 16 kHz.
        let at = |n: u32| (n as f32 / 48_000.0 * 11_000.0 * std::f32::consts::TAU).sin();
        let sent: Vec<i16> = (0..48_000).map(|n| to_16_bits(at(n) * 0.5)).collect();
        let is = converted(Format::mono(48_000), 16_000, &bytes_of(&sent), 480);
        let loudest = is[500..15_500].iter().map(|it| it.unsigned_abs()).max().unwrap();
        assert!(loudest < 330, "{loudest}: only 34 dB below what was sent");
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_make_the_same_sound(
            samples in prop::collection::vec(any::<i16>(), 0..3000),
            rate in prop::sample::select(vec![8_000_u32, 16_000, 44_100]),
            piece in 1..700_usize,
        ) {
            let bytes = bytes_of(&samples);
            let whole = converted(Format::mono(rate), 16_000, &bytes, 3000);
            prop_assert_eq!(converted(Format::mono(rate), 16_000, &bytes, piece), whole);
        }
    }
}
