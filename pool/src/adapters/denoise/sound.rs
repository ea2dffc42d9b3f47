//! Sound as a tensor: `[samples]` or `[samples, channels]` at 48 kHz, where the samples are whole
//! frames of 480.

use std::time::Duration;

use bytes::Bytes;
use downbeat_link::{DataType, Tensor};

use crate::inference::Refusal;

/// Name of the one input.
pub const INPUT: &str = "pcm";

/// Name of the one output.
pub const OUTPUT: &str = "denoised";

/// Samples of one channel in one frame.
pub const FRAME: usize = 480;

/// How long one frame lasts.
const FRAME_LASTS: Duration = Duration::from_millis(10);

/// Channels of a request.
const MAX_CHANNELS: usize = 64;

/// Samples of one channel in one request: ten seconds.
const MAX_SAMPLES: usize = 1000 * FRAME;

/// What a request holds, before its samples are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Samples of one channel.
    pub samples: usize,
    /// Channels.
    pub channels: usize,
}

impl Extent {
    /// Of a request's inputs.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for all that is wrong but the samples themselves.
    pub fn of(inputs: &[Tensor]) -> Result<Self, Refusal> {
        Self::of_one(inputs).map(|(_, extent)| extent)
    }

    fn of_one(inputs: &[Tensor]) -> Result<(&Tensor, Self), Refusal> {
        let [input] = inputs else {
            return Err(Refusal::Invalid(format!(
                "{} inputs; the model takes one, `{INPUT}`",
                inputs.len()
            )));
        };
        if input.name != INPUT {
            return Err(Refusal::Invalid(format!(
                "there is no input `{}`; the model takes `{INPUT}`",
                input.name
            )));
        }
        let extent = Self::of_shape(&input.shape)?;
        input.check().map_err(|error| Refusal::Invalid(error.to_string()))?;
        if !matches!(input.datatype, DataType::Int16 | DataType::Fp32) {
            return Err(Refusal::Invalid(format!(
                "input `{INPUT}` has datatype {}; send FP32 (-1 to 1) or INT16",
                input.datatype.name()
            )));
        }
        Ok((input, extent))
    }

    fn of_shape(shape: &[u64]) -> Result<Self, Refusal> {
        let fits = |samples: u64, channels: u64| {
            let samples = usize::try_from(samples).ok()?;
            let channels = usize::try_from(channels).ok()?;
            let whole = (FRAME..=MAX_SAMPLES).contains(&samples) && samples % FRAME == 0;
            (whole && (1..=MAX_CHANNELS).contains(&channels)).then_some(Self { samples, channels })
        };
        let extent = match *shape {
            [samples] => fits(samples, 1),
            [samples, channels] => fits(samples, channels),
            _ => None,
        };
        extent.ok_or_else(|| {
            Refusal::Invalid(format!(
                "input `{INPUT}` has shape {shape:?}; send [N] or [N, CHANNELS] with N a multiple \
                 of {FRAME} up to {MAX_SAMPLES} and 1 to {MAX_CHANNELS} channels"
            ))
        })
    }

    /// Frames of one channel.
    #[must_use]
    pub fn frames(self) -> u32 {
        u32::try_from(self.samples / FRAME).unwrap_or(u32::MAX)
    }

    /// Frames of all channels, each of which is computed by itself.
    #[must_use]
    pub fn frames_of_all_channels(self) -> u32 {
        u32::try_from(self.channels).map_or(u32::MAX, |channels| self.frames() * channels)
    }

    /// How long it lasts.
    #[must_use]
    pub fn lasts(self) -> Duration {
        FRAME_LASTS * self.frames()
    }
}

/// Sound in a request or an answer, interleaved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sound {
    datatype: DataType,
    shape: Vec<u64>,
    /// In each frame.
    pub channels: usize,
    /// One for each channel, and again.
    pub samples: Vec<i16>,
}

impl Sound {
    /// Reads a request's samples.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub fn of(inputs: &[Tensor]) -> Result<Self, Refusal> {
        let (input, Extent { channels, .. }) = Extent::of_one(inputs)?;
        let samples = match input.datatype {
            DataType::Int16 => {
                input.data.as_chunks().0.iter().map(|it| i16::from_le_bytes(*it)).collect()
            }
            _ => {
                let elements = input.data.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it));
                elements.enumerate().map(sample).collect::<Result<_, _>>()?
            }
        };
        Ok(Self { datatype: input.datatype, shape: input.shape.clone(), channels, samples })
    }

    /// As an answer.
    pub fn tensor(self) -> Tensor {
        let data: Bytes = match self.datatype {
            DataType::Int16 => self.samples.iter().flat_map(|it| it.to_le_bytes()).collect(),
            _ => self
                .samples
                .iter()
                .flat_map(|it| (f32::from(*it) / 32_768.0).to_le_bytes())
                .collect(),
        };
        Tensor { name: OUTPUT.into(), datatype: self.datatype, shape: self.shape, data }
    }
}

fn sample((index, element): (usize, f32)) -> Result<i16, Refusal> {
    if element.is_finite() {
        // `as` saturates: what is louder than full scale is clipped.
        return Ok((element * 32_768.0).round() as i16);
    }
    Err(Refusal::Invalid(format!(
        "element {index} of `{INPUT}` is {element}; a sample is a finite number"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(datatype: DataType, shape: &[u64], data: Vec<u8>) -> Vec<Tensor> {
        vec![Tensor { name: INPUT.into(), datatype, shape: shape.to_vec(), data: data.into() }]
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn floats_are_scaled_and_clipped() {
        let mut values = [0.0; FRAME];
        values[..4].copy_from_slice(&[0.5, -1.0, 1.0, -7.0]);
        let inputs = input(DataType::Fp32, &[480], floats(&values));
        assert_eq!(Extent::of(&inputs).unwrap().lasts(), Duration::from_millis(10));
        let sound = Sound::of(&inputs).unwrap();
        assert_eq!(sound.samples[..4], [16_384, -32_768, 32_767, -32_768]);
        assert_eq!(sound.tensor().data[..4], 0.5_f32.to_le_bytes());
    }

    #[test]
    fn integers_come_back_as_they_went() {
        let raw: Vec<u8> = (0..960_i16).flat_map(|it| (it * 30 - 15_000).to_le_bytes()).collect();
        let sound = Sound::of(&input(DataType::Int16, &[480, 2], raw.clone())).unwrap();
        assert_eq!((sound.channels, sound.samples[0]), (2, -15_000));
        assert_eq!(sound.tensor().data, raw);
    }

    #[test]
    fn wrong_sound_is_told_what_to_send() {
        let mut values = [0.0; FRAME];
        values[7] = f32::NAN;
        let cases = [
            (vec![], "0 inputs; the model takes one, `pcm`"),
            (input(DataType::Fp64, &[480], vec![0; 480 * 8]), "datatype FP64; send FP32"),
            (input(DataType::Fp32, &[481], vec![]), "shape [481]; send [N]"),
            (input(DataType::Fp32, &[0], vec![]), "shape [0]; send [N]"),
            (input(DataType::Fp32, &[480, 65], vec![]), "1 to 64 channels"),
            (input(DataType::Fp32, &[480, 1, 1], vec![]), "shape [480, 1, 1]"),
            (input(DataType::Fp32, &[480_000_000], vec![]), "up to 480000"),
            (input(DataType::Fp32, &[u64::MAX], vec![]), "up to 480000"),
            (input(DataType::Fp32, &[480], vec![0; 4]), "`pcm` has 4 bytes"),
            (input(DataType::Fp32, &[480], floats(&values)), "element 7 of `pcm` is NaN"),
        ];
        for (inputs, wanted) in cases {
            let message = Sound::of(&inputs).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        }
    }
}
