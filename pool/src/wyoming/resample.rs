//! Another rate: rubato's windowed sinc, in pieces of any length, without its delay.

use audioadapter_buffers::direct::InterleavedSlice;
use rubato::{
    Async, FixedAsync, Resampler as _, SincInterpolationParameters, SincInterpolationType,
    WindowFunction,
};

/// Samples that are resampled at a time: a sixth of a millisecond's work, so nobody waits for it.
const PIECE: usize = 256;

/// One stream of one channel.
pub struct Resampler {
    inner: Async<f32>,
    /// Less than a piece.
    input: Vec<f32>,
    output: Vec<f32>,
    /// Of what comes out first, so much is from before the stream.
    early: usize,
    from: u32,
    to: u32,
    taken: u64,
    given: u64,
}

impl std::fmt::Debug for Resampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, to, taken, given, .. } = self;
        write!(f, "Resampler {{ {taken} at {from} Hz to {given} at {to} Hz }}")
    }
}

impl Resampler {
    /// From one rate to another, in samples a second.
    ///
    /// # Errors
    /// The library's.
    pub fn new(from: u32, to: u32) -> Result<Self, String> {
        let parameters = SincInterpolationParameters::new(128, WindowFunction::BlackmanHarris2)
            .oversampling_factor(128)
            .interpolation(SincInterpolationType::Linear);
        let ratio = f64::from(to) / f64::from(from);
        let inner = Async::new_sinc(ratio, 1.0, &parameters, PIECE, 1, FixedAsync::Input)
            .map_err(|error| format!("{from} Hz to {to} Hz: {error}"))?;
        let (output, early) = (vec![0.0; inner.output_frames_max()], inner.output_delay());
        let input = Vec::with_capacity(PIECE);
        Ok(Self { inner, input, output, early, from, to, taken: 0, given: 0 })
    }

    /// Takes samples, and calls `give` for each of the other rate that follows from them.
    ///
    /// # Errors
    /// The library's.
    pub fn push(
        &mut self,
        samples: impl Iterator<Item = f32>,
        mut give: impl FnMut(f32),
    ) -> Result<(), String> {
        for sample in samples {
            self.taken += 1;
            self.input.push(sample);
            if self.input.len() == PIECE {
                self.run(u64::MAX, &mut give)?;
            }
        }
        Ok(())
    }

    /// Gives what is still to come: the stream lasts as long as before.
    ///
    /// # Errors
    /// The library's.
    pub fn finish(&mut self, mut give: impl FnMut(f32)) -> Result<(), String> {
        let wanted = (self.taken * u64::from(self.to)).div_ceil(u64::from(self.from));
        while self.given < wanted {
            self.input.resize(PIECE, 0.0);
            self.run(wanted, &mut give)?;
        }
        Ok(())
    }

    fn run(&mut self, wanted: u64, give: &mut impl FnMut(f32)) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| format!("resampling: {error}");
        let capacity = self.output.len();
        let input = InterleavedSlice::new(&self.input, 1, PIECE).map_err(|it| failed(&it))?;
        let mut output =
            InterleavedSlice::new_mut(&mut self.output, 1, capacity).map_err(|it| failed(&it))?;
        let (_, count) = self
            .inner
            .process_into_buffer(&input, &mut output, None)
            .map_err(|error| failed(&error))?;
        self.input.clear();
        let early = self.early.min(count);
        self.early -= early;
        for value in &self.output[early..count] {
            if self.given < wanted {
                self.given += 1;
                give(*value);
            }
        }
        Ok(())
    }
}
