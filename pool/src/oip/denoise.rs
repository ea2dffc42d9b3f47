//! The noise remover as a model: it takes one tensor `pcm` and gives one, `denoised`, of the same
//! type and shape: `[samples]` or `[samples, channels]` at 48 kHz, where the samples are whole
//! frames of 480. A request is a recording of its own: nothing is kept between two requests.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use downbeat_link::{DataType, Tensor, TensorSpec};
use downbeat_queue::Cause;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::warn;

use super::stream;
use crate::inference::{Metadata, Refusal, Request, Response, Spent};

/// Name of the one input.
const INPUT: &str = "pcm";

/// Name of the one output.
const OUTPUT: &str = "denoised";

/// Samples of one channel in one frame.
pub const FRAME: usize = 480;

/// How long one frame lasts.
const FRAME_LASTS: Duration = Duration::from_millis(10);

/// Channels of a request.
const MAX_CHANNELS: usize = 64;

/// Samples of one channel in one request: ten seconds.
const MAX_SAMPLES: usize = 1000 * FRAME;

/// Requests that are computed at a time; a few more wait for [`PATIENCE`].
const MAX_BUSY: usize = 8;

/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// The noise removers of all workers.
#[derive(Clone, Debug)]
pub struct Denoise {
    free: Arc<Semaphore>,
}

impl Default for Denoise {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(MAX_BUSY)) }
    }
}

impl Denoise {
    /// The one version.
    pub const VERSION: &str = "1";

    /// What it takes and gives.
    pub fn metadata(name: &str) -> Metadata {
        let tensor = |name: &str| TensorSpec {
            name: name.into(),
            datatype: DataType::Fp32,
            shape: vec![-1, -1],
        };
        Metadata {
            name: name.into(),
            versions: vec![Self::VERSION.into()],
            platform: "downbeat_rnnoise".into(),
            inputs: vec![tensor(INPUT)],
            outputs: vec![tensor(OUTPUT)],
            max_rows: None,
        }
    }

    /// Answers a request through a worker's socket.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], [`Refusal::Full`], [`Refusal::Failed`].
    pub async fn infer(
        &self,
        socket: PathBuf,
        deadline: Option<Duration>,
        request: Request,
    ) -> Result<Response, Refusal> {
        if let Some(other) = request.outputs.iter().find(|name| *name != OUTPUT) {
            return Err(Refusal::Invalid(format!(
                "there is no output `{other}`; the model gives `{OUTPUT}`"
            )));
        }
        let sound = Sound::of(request.inputs)?;
        let turn = timeout(PATIENCE, Arc::clone(&self.free).acquire_owned()).await;
        let Ok(Ok(permit)) = turn else {
            return Err(Refusal::Full {
                cause: Cause::Full,
                reason: "too many requests at a time; try again".into(),
                retry_after: PATIENCE,
            });
        };
        let lasts = sound.lasts();
        let queued = request.terms.arrival.elapsed();
        let answer = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let begun = Instant::now();
            let samples = stream::denoise(&socket, deadline, sound.channels, &sound.samples)?;
            Ok((Sound { samples, ..sound }, begun.elapsed()))
        });
        match answer.await {
            Ok(Ok((sound, computed))) => Ok(Response {
                version: Self::VERSION.into(),
                outputs: vec![sound.tensor()],
                spent: Spent { queued, computed, batch: 1, sound: Some(lasts) },
            }),
            Ok(Err(error)) => Err(stream_refusal(&request.model, &error)),
            Err(error) => Err(Refusal::Failed(error.to_string())),
        }
    }
}

fn stream_refusal(name: &str, error: &std::io::Error) -> Refusal {
    warn!(worker = name, "inference failed: {error}");
    Refusal::Failed(format!("model `{name}`: {error}; its worker may just have died, try again"))
}

/// Sound in a request or an answer, interleaved.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sound {
    datatype: DataType,
    shape: Vec<u64>,
    channels: usize,
    samples: Vec<i16>,
}

impl Sound {
    fn of(inputs: Vec<Tensor>) -> Result<Self, Refusal> {
        let [input] = <[Tensor; 1]>::try_from(inputs).map_err(|inputs| {
            Refusal::Invalid(format!("{} inputs; the model takes one, `{INPUT}`", inputs.len()))
        })?;
        if input.name != INPUT {
            return Err(Refusal::Invalid(format!(
                "there is no input `{}`; the model takes `{INPUT}`",
                input.name
            )));
        }
        let channels = channels(&input.shape)?;
        input.check().map_err(|error| Refusal::Invalid(error.to_string()))?;
        let samples = match input.datatype {
            DataType::Int16 => {
                input.data.as_chunks().0.iter().map(|it| i16::from_le_bytes(*it)).collect()
            }
            DataType::Fp32 => {
                let elements = input.data.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it));
                elements.enumerate().map(sample).collect::<Result<_, _>>()?
            }
            other => {
                return Err(Refusal::Invalid(format!(
                    "input `{INPUT}` has datatype {}; send FP32 (-1 to 1) or INT16",
                    other.name()
                )));
            }
        };
        Ok(Self { datatype: input.datatype, shape: input.shape, channels, samples })
    }

    fn lasts(&self) -> Duration {
        let frames = self.samples.len() / self.channels / FRAME;
        FRAME_LASTS * u32::try_from(frames).unwrap_or(u32::MAX)
    }

    fn tensor(self) -> Tensor {
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

fn channels(shape: &[u64]) -> Result<usize, Refusal> {
    let fits = |samples: u64, channels: u64| {
        let samples = usize::try_from(samples).ok()?;
        let channels = usize::try_from(channels).ok()?;
        let whole = (FRAME..=MAX_SAMPLES).contains(&samples) && samples % FRAME == 0;
        (whole && (1..=MAX_CHANNELS).contains(&channels)).then_some(channels)
    };
    let channels = match *shape {
        [samples] => fits(samples, 1),
        [samples, channels] => fits(samples, channels),
        _ => None,
    };
    channels.ok_or_else(|| {
        Refusal::Invalid(format!(
            "input `{INPUT}` has shape {shape:?}; send [N] or [N, CHANNELS] with N a multiple of \
             {FRAME} up to {MAX_SAMPLES} and 1 to {MAX_CHANNELS} channels"
        ))
    })
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
        let sound = Sound::of(input(DataType::Fp32, &[480], floats(&values))).unwrap();
        assert_eq!(sound.samples[..4], [16_384, -32_768, 32_767, -32_768]);
        assert_eq!(sound.lasts(), Duration::from_millis(10));
        assert_eq!(sound.tensor().data[..4], 0.5_f32.to_le_bytes());
    }

    #[test]
    fn integers_come_back_as_they_went() {
        let raw: Vec<u8> = (0..960_i16).flat_map(|it| (it * 30 - 15_000).to_le_bytes()).collect();
        let sound = Sound::of(input(DataType::Int16, &[480, 2], raw.clone())).unwrap();
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
            let message = Sound::of(inputs).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        }
    }
}
