//! Denoising of a WAV file.

use std::fmt;
use std::fs;
use std::io::{self, BufReader, BufWriter};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hound::{SampleFormat, WavReader, WavSpec, WavWriter};

use crate::denoise::{Denoiser, FRAME, FULL_SCALE, MAX_CHANNELS, SAMPLE_RATE, to_i16};

/// RIFF counts in 32 bits; this leaves room for the headers.
const MAX_DATA_BYTES: u64 = u32::MAX as u64 - 1024;

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    output: PathBuf,
    channels: u16,
    samples: u64,
    took: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.samples as f64 / f64::from(SAMPLE_RATE);
        write!(
            f,
            "{}: {seconds:.2} s of {} channel(s) denoised in {:.2} s",
            self.output.display(),
            self.channels,
            self.took.as_secs_f64()
        )
    }
}

/// Denoises `input` to `output`, which appears only when it is complete and may be the same file.
///
/// # Errors
/// Names the file, what is wrong with it and what to do.
pub fn denoise_file(input: &Path, output: &Path) -> anyhow::Result<Summary> {
    let started = Instant::now();
    let file = fs::File::open(input).with_context(|| format!("{}", input.display()))?;
    let length = file.metadata().with_context(|| format!("{}", input.display()))?;
    if !length.is_file() {
        bail!("{}: not a regular file; give a .wav file", input.display());
    }
    let mut reader =
        WavReader::new(BufReader::new(file)).map_err(|error| unreadable(input, error))?;
    let spec = reader.spec();
    check(input, spec, u64::from(reader.len()))?;

    let target = target(output)?;
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut unfinished = tempfile::Builder::new()
        .prefix(".downbeat-")
        .suffix(".wav.part")
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .with_context(|| format!("{}: cannot write in this folder", folder.display()))?;
    let mut writer = WavWriter::new(BufWriter::new(unfinished.as_file_mut()), spec)
        .map_err(|error| unwritable(output, error))?;
    let samples = match spec.sample_format {
        SampleFormat::Int => copy::<i16>(input, output, &mut reader, &mut writer)?,
        SampleFormat::Float => copy::<f32>(input, output, &mut reader, &mut writer)?,
    };
    writer.finalize().map_err(|error| unwritable(output, error))?;
    unfinished
        .persist(&target)
        .map_err(|e| e.error)
        .with_context(|| format!("{}: cannot put the finished file there", output.display()))?;
    Ok(Summary { output: output.into(), channels: spec.channels, samples, took: started.elapsed() })
}

fn check(input: &Path, spec: WavSpec, values: u64) -> anyhow::Result<()> {
    let name = input.display();
    if spec.sample_rate != SAMPLE_RATE {
        bail!(
            "{name}: {} Hz, and the model knows {SAMPLE_RATE} Hz only. Convert it: \
             `sox {name} -r 48000 OUT.wav` or `ffmpeg -i {name} -ar 48000 OUT.wav`",
            spec.sample_rate
        );
    }
    match (spec.sample_format, spec.bits_per_sample) {
        (SampleFormat::Int, 16) | (SampleFormat::Float, 32) => {}
        (format, bits) => bail!(
            "{name}: {bits}-bit {}, and this reads 16-bit integer and 32-bit float. Convert it: \
             `sox {name} -b 16 OUT.wav` or `ffmpeg -i {name} -c:a pcm_s16le OUT.wav`",
            if format == SampleFormat::Int { "integer" } else { "float" }
        ),
    }
    if usize::from(spec.channels) > MAX_CHANNELS {
        bail!(
            "{name}: {} channels, and {MAX_CHANNELS} is the most. Split it: \
             `sox {name} OUT.wav remix 1-2`",
            spec.channels
        );
    }
    if values * u64::from(spec.bits_per_sample / 8) > MAX_DATA_BYTES {
        bail!("{name}: longer than a WAV file can say; cut it: `sox {name} OUT.wav trim 0 3600`");
    }
    Ok(())
}

/// The file that `output` stands for, through links. A device or a folder in its place would be
/// replaced by the rename, so it is refused.
fn target(output: &Path) -> anyhow::Result<PathBuf> {
    match fs::metadata(output) {
        Ok(metadata) if metadata.is_file() => {
            fs::canonicalize(output).with_context(|| format!("{}", output.display()))
        }
        Ok(_) => bail!("{}: not a regular file; name a .wav file to write", output.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(output.into()),
        Err(error) => Err(error).with_context(|| format!("{}", output.display())),
    }
}

trait Sample: hound::Sample + Copy {
    fn to_model(self) -> f32;
    fn from_model(sample: f32) -> Self;
}

impl Sample for i16 {
    fn to_model(self) -> f32 {
        f32::from(self)
    }
    fn from_model(sample: f32) -> Self {
        to_i16(sample)
    }
}

impl Sample for f32 {
    fn to_model(self) -> f32 {
        self * FULL_SCALE
    }
    fn from_model(sample: f32) -> Self {
        sample / FULL_SCALE
    }
}

/// Denoises everything; returns the samples per channel.
fn copy<S: Sample>(
    input: &Path,
    output: &Path,
    reader: &mut WavReader<impl io::Read>,
    writer: &mut WavWriter<impl io::Write + io::Seek>,
) -> anyhow::Result<u64> {
    let channels = usize::from(reader.spec().channels);
    let promised = reader.len();
    let mut denoiser = Denoiser::new(channels);
    let mut frame = vec![0.0; FRAME * channels];
    let mut values = reader.samples::<S>();
    let (mut read, mut written) = (0usize, 0usize);
    // The model's output lags by one frame: the first is dropped, and silence pushes the last out.
    let mut first = true;
    loop {
        let mut filled = 0;
        while filled < frame.len() {
            let Some(value) = values.next() else { break };
            frame[filled] = value
                .map_err(|error| match error {
                    hound::Error::IoError(error) => anyhow::anyhow!(
                        "{}: truncated after {} of {promised} samples ({error}); copy or record it \
                         again",
                        input.display(),
                        read + filled
                    ),
                    other => unreadable(input, other),
                })?
                .to_model();
            filled += 1;
        }
        frame[filled..].fill(0.0);
        read += filled;
        denoiser.process(&mut frame);
        if !std::mem::take(&mut first) {
            let due = frame.len().min(read - written);
            for sample in &frame[..due] {
                writer
                    .write_sample(S::from_model(*sample))
                    .map_err(|error| unwritable(output, error))?;
            }
            written += due;
        }
        if filled == 0 && written == read {
            return Ok((read / channels) as u64);
        }
    }
}

fn unreadable(input: &Path, error: hound::Error) -> anyhow::Error {
    let reason = match error {
        hound::Error::IoError(error) => error.to_string(),
        other => other.to_string(),
    };
    anyhow::anyhow!(
        "{}: not a WAV file that can be read ({reason}). `file {0}` says what it is; convert it: \
         `ffmpeg -i {0} -ar 48000 -c:a pcm_s16le OUT.wav`",
        input.display()
    )
}

fn unwritable(output: &Path, error: hound::Error) -> anyhow::Error {
    let reason = match error {
        hound::Error::IoError(error) => error.to_string(),
        other => other.to_string(),
    };
    anyhow::anyhow!("{}: cannot write: {reason}", output.display())
}

#[cfg(test)]
#[path = "wav_tests.rs"]
mod tests;
