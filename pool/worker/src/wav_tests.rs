use super::*;

const LENGTH: usize = 48_000 + 123;

fn spec(channels: u16, format: SampleFormat) -> WavSpec {
    WavSpec {
        channels,
        sample_rate: SAMPLE_RATE,
        bits_per_sample: if format == SampleFormat::Int { 16 } else { 32 },
        sample_format: format,
    }
}

fn tone(i: usize) -> f32 {
    0.3 * (i as f32 * 440.0 * std::f32::consts::TAU / 48_000.0).sin()
}

fn write(path: &Path, spec: WavSpec) {
    let mut writer = WavWriter::create(path, spec).unwrap();
    for i in 0..LENGTH {
        for _ in 0..spec.channels {
            match spec.sample_format {
                SampleFormat::Int => writer.write_sample((tone(i) * 32_767.0) as i16).unwrap(),
                SampleFormat::Float => writer.write_sample(tone(i)).unwrap(),
            }
        }
    }
    writer.finalize().unwrap();
}

/// The message that denoising `input` in `folder` fails with; nothing may be left there.
fn refusal(folder: &Path, input: &Path) -> String {
    let output = folder.join("out.wav");
    let before = fs::read_dir(folder).unwrap().count();
    let message = format!("{:#}", denoise_file(input, &output).unwrap_err());
    assert!(message.contains(&input.display().to_string()), "{message}");
    assert_eq!(fs::read_dir(folder).unwrap().count(), before, "something was left behind");
    message
}

#[test]
fn format_and_length_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    for format in [SampleFormat::Int, SampleFormat::Float] {
        for channels in [1, 2, 6] {
            let (input, output) = (folder.path().join("in.wav"), folder.path().join("out.wav"));
            let spec = spec(channels, format);
            write(&input, spec);
            denoise_file(&input, &output).unwrap();
            let reader = WavReader::open(&output).unwrap();
            assert_eq!(reader.spec(), spec);
            assert_eq!(reader.duration() as usize, LENGTH);
        }
    }
}

#[test]
fn the_output_is_aligned_with_the_input() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.wav"), folder.path().join("out.wav"));
    write(&input, spec(1, SampleFormat::Float));
    denoise_file(&input, &output).unwrap();
    let values: Vec<f32> =
        WavReader::open(&output).unwrap().samples::<f32>().map(Result::unwrap).collect();
    let likeness =
        |shift: usize| -> f32 { (4800..24_000).map(|i| values[i] * tone(i + shift)).sum() };
    let best = (0..109).max_by(|a, b| likeness(*a).total_cmp(&likeness(*b))).unwrap();
    // One period of 440 Hz is 109 samples; the high-pass in front of the model turns the phase
    // by a few of them.
    assert!(best <= 6 || best >= 103, "shifted by {best} samples");
}

#[test]
fn a_file_can_replace_itself_and_keeps_umask_permissions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("same.wav");
    write(&path, spec(1, SampleFormat::Int));
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    denoise_file(&path, &path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode(), mode);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn an_empty_recording_stays_empty() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.wav"), folder.path().join("out.wav"));
    WavWriter::create(&input, spec(2, SampleFormat::Int)).unwrap().finalize().unwrap();
    denoise_file(&input, &output).unwrap();
    assert_eq!(WavReader::open(&output).unwrap().duration(), 0);
}

#[test]
fn other_rates_and_widths_are_refused_with_the_command_that_converts() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.wav");
    write(&input, WavSpec { sample_rate: 44_100, ..spec(1, SampleFormat::Int) });
    let message = refusal(folder.path(), &input);
    assert!(message.contains("44100 Hz"), "{message}");
    assert!(message.contains(&format!("sox {} -r 48000", input.display())), "{message}");
    assert!(message.contains("ffmpeg"), "{message}");

    let wide = WavSpec { bits_per_sample: 24, ..spec(1, SampleFormat::Int) };
    WavWriter::create(&input, wide).unwrap().finalize().unwrap();
    assert!(refusal(folder.path(), &input).contains("24-bit integer"));

    WavWriter::create(&input, spec(65, SampleFormat::Int)).unwrap().finalize().unwrap();
    assert!(refusal(folder.path(), &input).contains("65 channels"));
}

#[test]
fn damaged_files_are_named_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.wav");
    assert!(refusal(folder.path(), &input).contains("No such file"));

    write(&input, spec(1, SampleFormat::Int));
    let whole = fs::read(&input).unwrap();
    fs::write(&input, &whole[..whole.len() / 2]).unwrap();
    let message = refusal(folder.path(), &input);
    assert!(message.contains("truncated after"), "{message}");

    fs::write(&input, b"not sound at all, not even a header").unwrap();
    assert!(refusal(folder.path(), &input).contains("not a WAV file"));
    fs::write(&input, b"").unwrap();
    assert!(refusal(folder.path(), &input).contains("not a WAV file"));
    assert!(refusal(folder.path(), folder.path()).contains("not a regular file"));

    // No header, however mangled, may do more than fail.
    for position in 0..44 {
        for value in [0, 1, 0x7f, 0xff] {
            let mut mangled = whole[..4096].to_vec();
            mangled[position] = value;
            fs::write(&input, &mangled).unwrap();
            let _ = denoise_file(&input, &folder.path().join("out.wav"));
        }
    }
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.wav");
    write(&input, spec(1, SampleFormat::Int));
    let message = |output: &Path| format!("{:#}", denoise_file(&input, output).unwrap_err());
    let nowhere = folder.path().join("missing/out.wav");
    assert!(message(&nowhere).contains("missing: cannot write"), "{}", message(&nowhere));
    // A rename over a device would replace the device.
    assert!(message(Path::new("/dev/null")).contains("not a regular file"));
    assert!(message(folder.path()).contains("not a regular file"));
}
