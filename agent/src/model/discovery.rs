//! What a program without a rule works on, by what it shows: the devices that it holds open, the
//! libraries that it has mapped, and the beat of its threads.
//!
//! Each sign speaks for one modality with a weight; weights of one modality add up. No weak sign is
//! enough alone: half of a desktop is connected to the sound server, and many a daemon has a timer.

use std::ops::RangeInclusive;

use downbeat_policy::{Modality, ProcessFacts};

/// From this confidence on a process gets the class of its modality.
pub const GIVEN: f64 = 0.6;

/// Below this one it loses the class again. In between it keeps what it has, so that a device that
/// is closed for a moment changes nothing.
pub const KEPT: f64 = 0.45;

/// However much speaks for it, it stays a guess.
const SUREST: f64 = 0.95;

/// What a program shows at most without a device and without a beat: a transcode has all of a
/// video program's libraries, and nobody waits for its frames.
const WITHOUT_LIFE: f64 = 0.5;

/// A beat of one of the process's threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Beat {
    /// The thread's own name.
    pub thread: String,
    /// Nanoseconds between two releases.
    pub period_ns: u64,
}

impl Beat {
    fn told(&self) -> String {
        let ms = self.period_ns as f64 / 1e6;
        format!("its thread {} has a beat of {ms:.2} ms", self.thread)
    }
}

/// What a process seems to work on.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The modality that most speaks for.
    pub modality: Modality,
    /// 0 to 0.95; see [`GIVEN`].
    pub confidence: f64,
    /// What speaks for it, one sign a line, for a person.
    pub evidence: Vec<String>,
}

impl Finding {
    /// Whether a process gets the class of its modality, which it has already or not.
    #[must_use]
    pub fn is_enough(&self, has_it: bool) -> bool {
        self.confidence >= if has_it { KEPT } else { GIVEN }
    }
}

/// What a library speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It hears or speaks.
    Speech,
    /// It carries sound, as in most programs of a desktop.
    SoundPath,
    /// It encodes, decodes or carries pictures in time.
    Frames,
    /// It looks at pictures.
    Vision,
    /// It makes text.
    Language,
    /// It runs some model.
    Runtime,
}

/// Beginnings of libraries' file names. A name goes to the longest beginning that fits.
const LIBRARIES: [(&str, Kind); 52] = [
    ("libwhisper", Kind::Speech),
    ("libpiper", Kind::Speech),
    ("libvosk", Kind::Speech),
    ("libkaldi", Kind::Speech),
    ("libsherpa-onnx", Kind::Speech),
    ("libespeak", Kind::Speech),
    ("libpocketsphinx", Kind::Speech),
    ("libflite", Kind::Speech),
    ("librnnoise", Kind::Speech),
    ("libfvad", Kind::Speech),
    ("libwebrtc_audio", Kind::Speech),
    ("libwebrtc-audio", Kind::Speech),
    ("libasound", Kind::SoundPath),
    ("libpulse", Kind::SoundPath),
    ("libpipewire", Kind::SoundPath),
    ("libjack", Kind::SoundPath),
    ("libportaudio", Kind::SoundPath),
    ("libopus", Kind::SoundPath),
    ("libavcodec", Kind::Frames),
    ("libx264", Kind::Frames),
    ("libx265", Kind::Frames),
    ("libSvtAv1", Kind::Frames),
    ("libvpx", Kind::Frames),
    ("libv4l2", Kind::Frames),
    ("libcamera", Kind::Frames),
    ("libgstvideo", Kind::Frames),
    ("libgstv4l2", Kind::Frames),
    ("libobs", Kind::Frames),
    ("libnvidia-encode", Kind::Frames),
    ("libnvcuvid", Kind::Frames),
    ("libnvds", Kind::Frames),
    ("libopencv_dnn", Kind::Vision),
    ("libopencv_objdetect", Kind::Vision),
    ("libtesseract", Kind::Vision),
    ("libncnn", Kind::Vision),
    ("libdarknet", Kind::Vision),
    ("libllama", Kind::Language),
    ("libmlc_llm", Kind::Language),
    ("libexllama", Kind::Language),
    ("libctranslate2", Kind::Runtime),
    ("libggml", Kind::Runtime),
    ("libonnxruntime", Kind::Runtime),
    ("libtorch", Kind::Runtime),
    ("libtensorflow", Kind::Runtime),
    ("libtflite", Kind::Runtime),
    ("libnvinfer", Kind::Runtime),
    ("libopenvino", Kind::Runtime),
    ("libcudart", Kind::Runtime),
    ("libcublas", Kind::Runtime),
    ("libcudnn", Kind::Runtime),
    ("libMIOpen", Kind::Runtime),
    ("librknnrt", Kind::Runtime),
];

/// Periods of sound, ms: frames of 10 and 20 ms, and buffers of 128 to 1024 samples at 48 and
/// 44.1 kHz, and 512 at 16 kHz.
const SOUND: [f64; 13] =
    [2.5, 2.667, 2.902, 5.0, 5.333, 5.805, 10.0, 10.667, 11.61, 20.0, 21.333, 23.22, 32.0];

/// Periods of pictures, ms: 24, 25, 30, 50, 60 and 120 a second, with the television's variants.
const PICTURES: [f64; 10] =
    [41.708, 41.667, 40.0, 33.367, 33.333, 20.0, 16.683, 16.667, 8.342, 8.333];

/// How near a beat is to a period of one of the lists, as a part of it.
const NEAR: f64 = 0.015;

/// Beats outside of this are nobody's frames, ms.
const FRAMES: RangeInclusive<f64> = 2.4..=50.5;

/// Beats outside of this read no sensor in time, ms: from 1000 to 1 a second.
const READINGS: RangeInclusive<f64> = 0.98..=1020.0;

/// Sums of what speaks for each modality.
#[derive(Default)]
struct Scales {
    audio: Scale,
    video: Scale,
    image: Scale,
    text: Scale,
    sensor: Scale,
    /// A model runs, whatever it works on.
    runtime: Scale,
}

#[derive(Default)]
struct Scale {
    weight: f64,
    /// A device or a beat is among it: it works now, and in time.
    lives: bool,
    evidence: Vec<String>,
}

impl Scale {
    fn add(&mut self, weight: f64, why: impl Into<String>) {
        self.weight += weight;
        self.evidence.push(why.into());
    }

    fn add_living(&mut self, weight: f64, why: impl Into<String>) {
        self.lives = true;
        self.add(weight, why);
    }
}

/// Whether a process shows anything that makes it worth following its threads' beats.
#[must_use]
pub fn shows_signs(facts: &ProcessFacts) -> bool {
    facts.uses.any() || facts.maps.iter().any(|name| kind_of(name).is_some())
}

/// What a process seems to work on; nothing where nothing speaks for anything.
#[must_use]
pub fn finding(facts: &ProcessFacts, beats: &[Beat]) -> Option<Finding> {
    let mut scales = Scales::default();
    weigh_devices(facts, &mut scales);
    weigh_libraries(&facts.maps, &mut scales);
    weigh_beats(beats, &mut scales);
    if facts.uses.sensor {
        weigh_readings(beats, &mut scales.sensor);
    }
    let Scales { audio, video, image, text, sensor, runtime } = scales;
    let candidates = [
        (Modality::Audio, audio),
        (Modality::Video, video),
        (Modality::Image, image),
        (Modality::Text, text),
        (Modality::Sensor, sensor),
    ];
    candidates
        .into_iter()
        .filter(|(_, scale)| scale.weight > 0.0)
        .map(|(modality, scale)| conclude(modality, scale, &runtime))
        // The first one of two that weigh the same: sound is the less patient.
        .reduce(|best, next| if next.confidence > best.confidence { next } else { best })
}

fn conclude(modality: Modality, mut scale: Scale, runtime: &Scale) -> Finding {
    // A model beside it makes each of them likelier, and is none of them alone.
    scale.weight += runtime.weight;
    scale.evidence.extend_from_slice(&runtime.evidence);
    let in_time = modality == Modality::Video && !scale.lives;
    let most = if in_time { WITHOUT_LIFE } else { SUREST };
    Finding { modality, confidence: scale.weight.min(most), evidence: scale.evidence }
}

fn weigh_devices(facts: &ProcessFacts, scales: &mut Scales) {
    let uses = facts.uses;
    if uses.sound {
        scales.audio.add_living(0.4, "holds a sound device or a sound server open");
    }
    if uses.camera {
        scales.video.add_living(0.6, "holds a camera open");
    }
    if uses.encoder {
        scales.video.add_living(0.6, "holds a video encoder or decoder open");
    }
    if uses.gpu && scales_for_gpu(&facts.maps) {
        scales.runtime.add(0.1, "holds a GPU open");
    }
}

/// Everything that draws holds a GPU open as well.
fn scales_for_gpu(maps: &[String]) -> bool {
    let computes = |kind| matches!(kind, Kind::Runtime | Kind::Language | Kind::Vision);
    maps.iter().filter_map(|name| kind_of(name)).any(computes)
}

fn weigh_libraries(maps: &[String], scales: &mut Scales) {
    let of = |kind: Kind| maps.iter().find(|name| kind_of(name) == Some(kind));
    let mapped = |name: &String| format!("has {name} mapped");
    if let Some(name) = of(Kind::Speech) {
        scales.audio.add(0.6, mapped(name));
    }
    if let Some(name) = of(Kind::SoundPath) {
        scales.audio.add(0.1, mapped(name));
    }
    if let Some(name) = of(Kind::Frames) {
        scales.video.add(0.3, mapped(name));
    }
    if let Some(name) = of(Kind::Vision) {
        scales.image.add(0.4, mapped(name));
    }
    if let Some(name) = of(Kind::Language) {
        scales.text.add(0.6, mapped(name));
    }
    if let Some(name) = of(Kind::Runtime) {
        scales.runtime.add(0.3, mapped(name));
    }
}

/// The one beat that says most: a process with ten timers is no better a sign than one with one.
fn weigh_beats(beats: &[Beat], scales: &mut Scales) {
    let weights = |beat: &Beat| {
        let ms = beat.period_ns as f64 / 1e6;
        let near = |periods: &[f64]| periods.iter().any(|period| (ms / period - 1.0).abs() < NEAR);
        match (near(&SOUND), near(&PICTURES), FRAMES.contains(&ms)) {
            (_, _, false) => (0.0, 0.0),
            (true, true, _) => (0.25, 0.25),
            (true, false, _) => (0.35, 0.0),
            (false, true, _) => (0.0, 0.35),
            (false, false, _) => (0.15, 0.15),
        }
    };
    let most = |weight: fn((f64, f64)) -> f64| {
        let weighed = beats.iter().map(|beat| (weight(weights(beat)), beat));
        weighed.filter(|(weight, _)| *weight > 0.0).max_by(|a, b| a.0.total_cmp(&b.0))
    };
    if let Some((weight, beat)) = most(|(audio, _)| audio) {
        scales.audio.add_living(weight, beat.told());
    }
    if let Some((weight, beat)) = most(|(_, video)| video) {
        scales.video.add_living(weight, beat.told());
    }
}

/// A sensor alone may be looked at now and then; with a beat somebody waits for each reading.
fn weigh_readings(beats: &[Beat], sensor: &mut Scale) {
    sensor.add_living(0.4, "holds a sensor, or the bus or port of one, open");
    let of_readings = |beat: &&Beat| READINGS.contains(&(beat.period_ns as f64 / 1e6));
    if let Some(beat) = beats.iter().filter(of_readings).min_by_key(|beat| beat.period_ns) {
        sensor.add_living(0.35, beat.told());
    }
}

/// What a library's file name speaks for.
fn kind_of(name: &str) -> Option<Kind> {
    let fits = |(start, _): &&(&str, Kind)| name.starts_with(start);
    let longest = LIBRARIES.iter().filter(fits).max_by_key(|(start, _)| start.len())?;
    Some(longest.1)
}

#[cfg(test)]
mod tests {
    use downbeat_policy::Uses;
    use proptest::prelude::*;

    use super::*;

    fn facts(uses: Uses, maps: &[&str]) -> ProcessFacts {
        let maps = maps.iter().map(|&name| name.to_owned()).collect();
        ProcessFacts { uses, maps, ..ProcessFacts::default() }
    }

    fn beats(periods_ms: &[f64]) -> Vec<Beat> {
        let beat = |ms: &f64| Beat { thread: "worker".into(), period_ns: (ms * 1e6) as u64 };
        periods_ms.iter().map(beat).collect()
    }

    const NONE: Uses =
        Uses { gpu: false, sound: false, camera: false, encoder: false, sensor: false };
    const SOUND_OPEN: Uses = Uses { sound: true, ..NONE };
    const CAMERA: Uses = Uses { camera: true, ..NONE };
    const SENSOR: Uses = Uses { sensor: true, ..NONE };
    const GPU: Uses = Uses { gpu: true, ..NONE };

    #[test]
    fn programs_are_what_they_show() {
        use Modality::{Audio, Sensor, Text, Video};
        let onnx = "libonnxruntime.so.1.17.0";
        for (what, uses, maps, periods, expected) in [
            ("a speech server", NONE, &["libwhisper.so.1", "libggml.so"][..], &[][..], Audio),
            ("a voice", NONE, &["libpiper_phonemize.so.1", onnx], &[], Audio),
            ("a voice detector at the microphone", SOUND_OPEN, &[onnx], &[], Audio),
            ("a player", SOUND_OPEN, &["libasound.so.2"], &[21.333], Audio),
            ("a denoiser over the network", NONE, &[onnx], &[10.0], Audio),
            ("a camera viewer", CAMERA, &[], &[], Video),
            ("a detector behind a camera", CAMERA, &[onnx], &[33.37], Video),
            ("a model on frames from elsewhere", NONE, &[onnx], &[33.333], Video),
            ("a streamer", NONE, &["libavcodec.so.60"], &[16.667], Video),
            ("a control loop", SENSOR, &[], &[4.0], Sensor),
            ("a slow logger of a sensor", SENSOR, &[], &[1000.0, 3000.0], Sensor),
            ("a language server", GPU, &["libllama.so", "libggml-cuda.so"], &[], Text),
        ] {
            let found = finding(&facts(uses, maps), &beats(periods)).expect(what);
            assert_eq!(found.modality, expected, "{what}: {found:?}");
            assert!(found.is_enough(false), "{what}: {found:?}");
        }
    }

    #[test]
    fn what_many_programs_show_is_not_enough() {
        for (what, uses, maps, periods) in [
            ("a desktop's panel", SOUND_OPEN, &["libpulse.so.0"][..], &[][..]),
            ("a serial console", SENSOR, &[], &[]),
            ("a daemon with a timer", NONE, &[], &[10.0]),
            ("a game", Uses { gpu: true, ..SOUND_OPEN }, &["libasound.so.2"], &[16.667]),
            ("a transcode", NONE, &["libavcodec.so.60", "libx264.so.164"], &[]),
            ("a batch of some model", GPU, &["libtorch_cuda.so", "libavcodec.so.60"], &[]),
            ("a slow poll beside a model", NONE, &["libonnxruntime.so"], &[1000.0]),
        ] {
            let found = finding(&facts(uses, maps), &beats(periods));
            assert!(!found.as_ref().is_some_and(|f| f.is_enough(false)), "{what}: {found:?}");
        }
        assert_eq!(finding(&facts(GPU, &["libc.so.6"]), &beats(&[])), None);
        assert!(!shows_signs(&facts(NONE, &["libc.so.6"])));
    }

    #[test]
    fn all_that_speaks_for_it_is_said() {
        let speech = facts(SOUND_OPEN, &["libonnxruntime.so.1", "libc.so.6"]);
        let found = finding(&speech, &beats(&[1000.0, 10.0])).unwrap();
        assert_eq!(
            found.evidence,
            [
                "holds a sound device or a sound server open",
                "its thread worker has a beat of 10.00 ms",
                "has libonnxruntime.so.1 mapped",
            ]
        );
    }

    #[test]
    fn what_it_has_it_keeps_until_little_speaks_for_it() {
        let found =
            |confidence| Finding { modality: Modality::Audio, confidence, evidence: Vec::new() };
        assert!(!found(0.5).is_enough(false) && found(0.5).is_enough(true));
        assert!(!found(0.4).is_enough(true));
    }

    proptest! {
        #[test]
        fn more_signs_never_lower_the_confidence(
            bits in 0_u8..32,
            more in 0_u8..32,
            libraries in prop::collection::vec(0..LIBRARIES.len(), 0..6),
            periods in prop::collection::vec(1.0_f64..100.0, 0..3),
        ) {
            let uses = |bits: u8| Uses {
                gpu: bits & 1 > 0,
                sound: bits & 2 > 0,
                camera: bits & 4 > 0,
                encoder: bits & 8 > 0,
                sensor: bits & 16 > 0,
            };
            let names: Vec<&str> = libraries.iter().map(|&at| LIBRARIES[at].0).collect();
            let confidence = |uses, maps: &[&str], periods: &[f64]| {
                finding(&facts(uses, maps), &beats(periods)).map_or(0.0, |found| found.confidence)
            };
            let half = confidence(uses(bits), &names[..names.len() / 2], &periods[..periods.len() / 2]);
            let whole = confidence(uses(bits | more), &names, &periods);
            prop_assert!(whole >= half && (0.0..=SUREST).contains(&whole), "{half} {whole}");
        }
    }
}
