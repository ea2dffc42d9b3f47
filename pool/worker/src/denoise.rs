//! The model: RNNoise's network over every channel of an interleaved stream.

use std::sync::OnceLock;

use nnnoiseless::{DenoiseState, RnnModel};

/// Samples of one channel in one frame: 10 ms at [`SAMPLE_RATE`].
pub const FRAME: usize = DenoiseState::FRAME_SIZE;

/// The only rate that the weights were trained for, samples per second.
pub const SAMPLE_RATE: u32 = 48_000;

/// Channels that one stream may have.
pub const MAX_CHANNELS: usize = 64;

/// Amplitude of a full-scale sample. The network expects values in the range of 16 bits.
pub const FULL_SCALE: f32 = 32_768.0;

/// Louder than this (18 dB over full scale) is no sound; a stray huge value would stay in the
/// recurrent state as infinity for the rest of the stream.
const LOUDEST: f32 = 8.0 * FULL_SCALE;

/// One denoising stream. The output lags the input by one frame.
pub struct Denoiser {
    channels: Vec<Box<DenoiseState<'static>>>,
    input: [f32; FRAME],
    output: [f32; FRAME],
}

impl Denoiser {
    /// A fresh stream of `channels` (1 to [`MAX_CHANNELS`]).
    ///
    /// The FFT keeps its tables per thread and makes them at a thread's first frame, so a silent
    /// frame goes first: the stream's own first frame then costs what all the others cost.
    #[must_use]
    pub fn new(channels: usize) -> Self {
        // All channels read one copy of the weights, which then stays in the cache.
        static MODEL: OnceLock<RnnModel> = OnceLock::new();
        let model = MODEL.get_or_init(RnnModel::default);
        let mut fresh = Self {
            channels: (0..channels).map(|_| DenoiseState::with_model(model)).collect(),
            input: [0.0; FRAME],
            output: [0.0; FRAME],
        };
        if let Some(first) = fresh.channels.first_mut() {
            first.process_frame(&mut fresh.output, &fresh.input);
            *first = DenoiseState::with_model(model);
        }
        fresh
    }

    /// Number of channels.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Replaces one frame of interleaved samples, `FRAME × channels` in the range of 16 bits, by
    /// the frame before it, denoised. Not-a-number counts as silence.
    pub fn process(&mut self, samples: &mut [f32]) {
        let stride = self.channels.len();
        for (channel, state) in self.channels.iter_mut().enumerate() {
            let own = samples.iter().skip(channel).step_by(stride);
            for (slot, sample) in self.input.iter_mut().zip(own) {
                *slot = if sample.is_nan() { 0.0 } else { sample.clamp(-LOUDEST, LOUDEST) };
            }
            state.process_frame(&mut self.output, &self.input);
            let own = samples.iter_mut().skip(channel).step_by(stride);
            for (sample, value) in own.zip(&self.output) {
                *sample = *value;
            }
        }
    }
}

/// To the nearest 16-bit sample; too loud is clipped.
#[must_use]
pub fn to_i16(sample: f32) -> i16 {
    // `as` saturates, and makes 0 of not-a-number.
    sample.round() as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::f32::consts::TAU;

    thread_local! { static ALLOCATIONS: Cell<usize> = const { Cell::new(0) }; }

    struct Counting;

    // SAFETY: everything is handed to the system's allocator unchanged; the counter is a plain
    // thread-local cell without a destructor, which allocates nothing itself.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            ALLOCATIONS.with(|count| count.set(count.get() + 1));
            // SAFETY: the caller keeps `alloc`'s contract.
            unsafe { System.alloc(layout) }
        }
        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            // SAFETY: the caller keeps `dealloc`'s contract.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    /// White noise of the given amplitude, the same in every run.
    fn noise(amplitude: f32) -> impl FnMut() -> f32 {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * amplitude
        }
    }

    /// A voice-like sound: harmonics of a gliding pitch under two formants, in syllables.
    fn voice(t: f32) -> f32 {
        let pitch = 130.0 + 15.0 * (TAU * 0.7 * t).sin();
        let syllable = (0.5 - 0.5 * (TAU * 4.0 * t).cos()).powf(0.5);
        let harmonics: f32 = (1..=24)
            .map(|n| {
                let hertz = pitch * n as f32;
                let formant = |centre: f32, width: f32| (-((hertz - centre) / width).powi(2)).exp();
                let gain = formant(600.0, 250.0) + 0.5 * formant(1500.0, 350.0) + 0.05;
                gain * (TAU * 130.0 * n as f32 * t
                    - n as f32 * 15.0 / 0.7 * ((TAU * 0.7 * t).cos() - 1.0))
                    .sin()
            })
            .sum();
        3000.0 * syllable * harmonics
    }

    fn power(samples: &[f32]) -> f32 {
        samples.iter().map(|s| s * s).sum::<f32>() / samples.len() as f32
    }

    fn denoise(samples: &[f32]) -> Vec<f32> {
        let mut denoiser = Denoiser::new(1);
        let mut output = Vec::new();
        for frame in samples.chunks_exact(FRAME) {
            let mut frame = frame.to_vec();
            denoiser.process(&mut frame);
            output.extend(frame);
        }
        output
    }

    #[test]
    fn noise_falls_by_more_than_10_db_and_the_voice_stays() {
        let mut hiss = noise(1000.0);
        let second = SAMPLE_RATE as usize;
        // Two seconds of noise alone, then two of voice with noise.
        let clean: Vec<f32> = (0..4 * second)
            .map(|i| if i < 2 * second { 0.0 } else { voice(i as f32 / second as f32) })
            .collect();
        let noisy: Vec<f32> = clean.iter().map(|s| s + hiss()).collect();
        let output = denoise(&noisy);

        // The first second is the network's time to learn the noise.
        let before = power(&noisy[second..2 * second]);
        let after = power(&output[second..2 * second]);
        let fall = 10.0 * (before / after.max(1e-9)).log10();
        assert!(fall >= 10.0, "noise fell by {fall:.1} dB only");

        let voiced = &clean[3 * second - FRAME..4 * second - FRAME];
        let kept = &output[3 * second..4 * second];
        let kept_db = 10.0 * (power(kept) / power(voiced)).log10();
        assert!(kept_db.abs() < 3.0, "the voice changed by {kept_db:.1} dB");
        let dot: f32 = voiced.iter().zip(kept).map(|(a, b)| a * b).sum();
        let likeness = dot / (power(voiced) * power(kept)).sqrt() / second as f32;
        assert!(likeness > 0.9, "output and voice correlate by {likeness:.2} only");
        eprintln!("noise fell {fall:.1} dB, voice changed {kept_db:.1} dB, likeness {likeness:.3}");
    }

    #[test]
    fn channels_do_not_touch_each_other() {
        let mut hiss = noise(4000.0);
        let left: Vec<f32> = (0..FRAME * 30).map(|i| voice(i as f32 / 48_000.0)).collect();
        let alone = denoise(&left);
        let mut denoiser = Denoiser::new(3);
        let mut together = Vec::<f32>::new();
        for frame in left.chunks_exact(FRAME) {
            let mut mixed: Vec<f32> = frame.iter().flat_map(|s| [hiss(), *s, hiss()]).collect();
            denoiser.process(&mut mixed);
            together.extend(mixed.iter().skip(1).step_by(3));
        }
        assert_eq!(alone, together);
    }

    #[test]
    fn a_bad_sample_does_not_poison_the_stream() {
        let mut denoiser = Denoiser::new(1);
        let mut frame = vec![0.0; FRAME];
        frame[0] = f32::NAN;
        frame[1] = f32::INFINITY;
        frame[2] = -f32::MAX;
        denoiser.process(&mut frame);
        for i in 0..200 {
            let mut frame: Vec<f32> =
                (0..FRAME).map(|j| voice((i * FRAME + j) as f32 / 48_000.0)).collect();
            denoiser.process(&mut frame);
            assert!(frame.iter().all(|s| s.is_finite()), "frame {i}");
            if i == 199 {
                assert!(power(&frame) > 1.0, "the stream stayed silent");
            }
        }
    }

    #[test]
    fn a_frame_allocates_nothing() {
        let mut denoiser = Denoiser::new(2);
        let mut hiss = noise(4000.0);
        let mut frame = vec![0.0; FRAME * 2];
        frame.iter_mut().for_each(|s| *s = hiss());
        denoiser.process(&mut frame);
        let before = ALLOCATIONS.with(Cell::get);
        for _ in 0..100 {
            frame.iter_mut().for_each(|s| *s = hiss());
            denoiser.process(&mut frame);
        }
        assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
    }

    #[test]
    fn samples_are_rounded_and_clipped() {
        assert_eq!([0.4, 0.6, -0.6, 40_000.0, -40_000.0].map(to_i16), [0, 1, -1, 32_767, -32_768]);
    }
}
