//! RNNoise as a model of the channel: recordings, and streams that come in pieces.

use std::collections::VecDeque;

use bytes::Bytes;
use downbeat_link::{DataType, FailureKind, SequencePlace, Tensor, TensorSpec};

use super::{Face, Failure, Model};
use crate::denoise::{Denoiser, FRAME, FULL_SCALE, MAX_CHANNELS, to_i16};

/// Name of the one input.
const INPUT: &str = "pcm";

/// Name of the one output.
const OUTPUT: &str = "denoised";

/// Samples of one channel in one request: ten seconds.
const MAX_SAMPLES: usize = 1000 * FRAME;

/// Streams whose state is kept at a time. One more costs the one that was silent for longest its
/// state: a client that went away without saying so must not keep memory for ever.
const MAX_SEQUENCES: usize = 64;

/// Recordings and streams at 48 kHz.
///
/// A request without a sequence is a recording of its own: the network's answers lag by one frame,
/// so silence follows the recording and the first answer is dropped. What comes back is aligned with
/// what went in. The requests of a sequence are one stream without gaps: their answers together are
/// the stream 10 ms later, and the first begins with 10 ms of silence.
pub struct Recordings {
    face: Face,
    /// The one that was used last is last.
    sequences: VecDeque<(String, Denoiser)>,
}

impl Recordings {
    /// Without any stream.
    pub fn new() -> Self {
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            datatype: DataType::Fp32,
            shape: vec![-1, -1],
        };
        let (inputs, outputs) = (vec![spec(INPUT)], vec![spec(OUTPUT)]);
        let face = Face { engine: "RNNoise".into(), inputs, outputs, batching: false };
        Self { face, sequences: VecDeque::new() }
    }

    fn stream(
        &mut self,
        place: &SequencePlace,
        channels: usize,
        samples: &mut [f32],
    ) -> Result<(), Failure> {
        let known = self.sequences.iter().position(|(id, _)| *id == place.id);
        let known = known.and_then(|at| self.sequences.remove(at));
        let mut denoiser = match known {
            _ if place.start => Denoiser::new(channels),
            Some((_, denoiser)) => denoiser,
            None => {
                return Err(Failure::new(
                    FailureKind::UnknownSequence,
                    format!(
                        "sequence `{}` is not known: it was not started, or its worker is new; start it again",
                        place.id
                    ),
                ));
            }
        };
        let was = denoiser.channels();
        let result = if was == channels {
            process(&mut denoiser, samples);
            Ok(())
        } else {
            let reason = format!(
                "{channels} channels after {was} in sequence `{}`; start a sequence for each number of channels",
                place.id
            );
            Err(Failure::new(FailureKind::Invalid, reason))
        };
        if !place.end {
            if self.sequences.len() == MAX_SEQUENCES {
                self.sequences.pop_front();
            }
            self.sequences.push_back((place.id.clone(), denoiser));
        }
        result
    }
}

fn process(denoiser: &mut Denoiser, samples: &mut [f32]) {
    for frame in samples.chunks_exact_mut(FRAME * denoiser.channels()) {
        denoiser.process(frame);
    }
}

fn channels(tensor: &Tensor) -> usize {
    // `check` saw that it is small.
    tensor.shape.get(1).map_or(1, |channels| *channels as usize)
}

impl Model for Recordings {
    fn face(&self) -> &Face {
        &self.face
    }

    fn check(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, String> {
        let [input] = <[Tensor; 1]>::try_from(inputs)
            .map_err(|inputs| format!("{} inputs; the model takes one, `{INPUT}`", inputs.len()))?;
        if input.name != INPUT {
            return Err(format!("there is no input `{}`; the model takes `{INPUT}`", input.name));
        }
        let samples_fit = |samples: u64| {
            (FRAME as u64..=MAX_SAMPLES as u64).contains(&samples)
                && samples.is_multiple_of(FRAME as u64)
        };
        let fits = match *input.shape.as_slice() {
            [samples] => samples_fit(samples),
            [samples, channels] => {
                samples_fit(samples) && (1..=MAX_CHANNELS as u64).contains(&channels)
            }
            _ => false,
        };
        if !fits {
            return Err(format!(
                "input `{INPUT}` has shape {:?}; send [N] or [N, CHANNELS] with N a multiple of \
                 {FRAME} up to {MAX_SAMPLES} and 1 to {MAX_CHANNELS} channels",
                input.shape
            ));
        }
        match input.datatype {
            DataType::Int16 => {}
            DataType::Fp32 => {
                let numbers = floats(&input.data);
                if let Some((at, number)) = numbers.enumerate().find(|(_, it)| !it.is_finite()) {
                    return Err(format!(
                        "element {at} of `{INPUT}` is {number}; a sample is a finite number"
                    ));
                }
            }
            other => {
                return Err(format!(
                    "input `{INPUT}` has datatype {}; send FP32 (-1 to 1) or INT16",
                    other.name()
                ));
            }
        }
        Ok(vec![input])
    }

    fn compute(
        &mut self,
        sequence: Option<&SequencePlace>,
        inputs: Vec<Tensor>,
    ) -> Result<Vec<Tensor>, Failure> {
        let mut outputs = Vec::with_capacity(inputs.len());
        for input in inputs {
            let channels = channels(&input);
            let mut samples: Vec<f32> = match input.datatype {
                DataType::Fp32 => floats(&input.data).map(|sample| sample * FULL_SCALE).collect(),
                _ => integers(&input.data).map(f32::from).collect(),
            };
            match sequence {
                Some(place) => self.stream(place, channels, &mut samples)?,
                None => {
                    let frame = FRAME * channels;
                    samples.resize(samples.len() + frame, 0.0);
                    process(&mut Denoiser::new(channels), &mut samples);
                    samples.drain(..frame);
                }
            }
            let data: Bytes = match input.datatype {
                DataType::Fp32 => {
                    samples.iter().flat_map(|it| (it / FULL_SCALE).to_le_bytes()).collect()
                }
                _ => samples.iter().flat_map(|it| to_i16(*it).to_le_bytes()).collect(),
            };
            outputs.push(Tensor { name: OUTPUT.into(), data, ..input });
        }
        Ok(outputs)
    }
}

fn floats(data: &[u8]) -> impl Iterator<Item = f32> {
    data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

fn integers(data: &[u8]) -> impl Iterator<Item = i16> {
    data.as_chunks::<2>().0.iter().map(|bytes| i16::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tones and a hiss, the same in every run.
    fn sound(samples: usize) -> Vec<i16> {
        let mut state = 1_u32;
        let mut hiss = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 22) as f32 - 512.0
        };
        (0..samples)
            .map(|i| {
                ((i as f32 * 0.03).sin() * 4000.0 + (i as f32 * 0.09).sin() * 2000.0 + hiss())
                    as i16
            })
            .collect()
    }

    fn pcm(samples: &[i16], channels: u64) -> Tensor {
        let shape = vec![samples.len() as u64 / channels, channels];
        let data = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        Tensor { name: INPUT.into(), datatype: DataType::Int16, shape, data }
    }

    fn place(id: &str, start: bool, end: bool) -> Option<SequencePlace> {
        Some(SequencePlace { id: id.into(), start, end })
    }

    fn answer(model: &mut Recordings, at: Option<&SequencePlace>, input: Tensor) -> Vec<i16> {
        let inputs = model.check(vec![input]).unwrap();
        let [output] = <[Tensor; 1]>::try_from(model.compute(at, inputs).unwrap()).unwrap();
        assert_eq!(output.name, OUTPUT);
        integers(&output.data).collect()
    }

    #[test]
    fn a_sequence_is_one_stream_whatever_its_pieces() {
        let sound = sound(12 * FRAME);
        let mut model = Recordings::new();
        let whole = answer(&mut model, None, pcm(&sound, 1));
        let mut stream = Vec::new();
        for (index, piece) in [0..1, 1..4, 4..5, 5..12].into_iter().enumerate() {
            // A stream beside it must not matter.
            let beside = place("other", index == 0, false);
            answer(&mut model, beside.as_ref(), pcm(&sound[..FRAME], 1));
            let at = place("mic", index == 0, index == 3);
            let piece = pcm(&sound[piece.start * FRAME..piece.end * FRAME], 1);
            stream.extend(answer(&mut model, at.as_ref(), piece));
        }
        assert_eq!(stream[FRAME..], whole[..11 * FRAME]);
    }

    #[test]
    fn floats_and_integers_give_the_same_sound() {
        let sound = sound(4 * FRAME);
        let mut model = Recordings::new();
        let integers = answer(&mut model, None, pcm(&sound, 2));
        let data: Vec<u8> =
            sound.iter().flat_map(|it| (f32::from(*it) / FULL_SCALE).to_le_bytes()).collect();
        let input = Tensor { datatype: DataType::Fp32, data: data.into(), ..pcm(&sound, 2) };
        let outputs = model.compute(None, vec![input]).unwrap();
        assert_eq!((outputs[0].datatype, &outputs[0].shape), (DataType::Fp32, &vec![960, 2]));
        let rounded: Vec<i16> =
            floats(&outputs[0].data).map(|it| to_i16(it * FULL_SCALE)).collect();
        assert_eq!(rounded, integers);
    }

    #[test]
    fn a_sequence_that_is_not_known_is_refused() {
        let mut model = Recordings::new();
        let piece = || vec![pcm(&[0; FRAME], 1)];
        let failure = model.compute(place("mic", false, false).as_ref(), piece()).unwrap_err();
        assert_eq!(failure.kind, FailureKind::UnknownSequence);
        model.compute(place("mic", true, true).as_ref(), piece()).unwrap();
        let failure = model.compute(place("mic", false, false).as_ref(), piece()).unwrap_err();
        assert_eq!(failure.kind, FailureKind::UnknownSequence);

        for stream in 0..=MAX_SEQUENCES {
            model.compute(place(&stream.to_string(), true, false).as_ref(), piece()).unwrap();
        }
        let oldest = model.compute(place("0", false, false).as_ref(), piece()).unwrap_err();
        assert_eq!(oldest.kind, FailureKind::UnknownSequence);
        assert!(model.compute(place("1", false, false).as_ref(), piece()).is_ok());
    }

    #[test]
    fn a_sequence_keeps_its_number_of_channels() {
        let mut model = Recordings::new();
        model.compute(place("mic", true, false).as_ref(), vec![pcm(&[0; FRAME], 1)]).unwrap();
        let two = vec![pcm(&[0; 2 * FRAME], 2)];
        let failure = model.compute(place("mic", false, false).as_ref(), two).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Invalid);
        assert!(failure.reason.starts_with("2 channels after 1"), "{}", failure.reason);
    }

    #[test]
    fn what_is_no_sound_is_refused() {
        let model = Recordings::new();
        let refusal = |input: Tensor| model.check(vec![input]).unwrap_err();
        let good = || pcm(&[0; FRAME], 1);
        assert!(refusal(Tensor { name: "x".into(), ..good() }).contains("takes `pcm`"));
        for shape in [vec![479], vec![0, 1], vec![480, 0], vec![480, 65], vec![], vec![480, 1, 1]] {
            let error = refusal(Tensor { shape, ..good() });
            assert!(error.contains("send [N] or [N, CHANNELS]"), "{error}");
        }
        let long = Tensor { shape: vec![MAX_SAMPLES as u64 + 480], ..good() };
        assert!(refusal(long).contains("send [N]"));
        let fp64 = Tensor { datatype: DataType::Fp64, ..good() };
        assert!(refusal(fp64).contains("FP64; send FP32"));
        let mut data = vec![0; 4 * FRAME];
        data[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
        let nan = Tensor { datatype: DataType::Fp32, data: data.into(), ..good() };
        assert!(refusal(nan).starts_with("element 1 of `pcm` is NaN"));
        assert!(model.check(vec![good(), good()]).unwrap_err().starts_with("2 inputs"));
    }
}
