//! The shipped examples of programs as workers, with the real programs.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use downbeat_api::pool::WorkerState;

use crate::rest::{Input, ask, infer, start};
use crate::support::installed;

/// An example, as it ships.
pub fn example(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/pool.d/examples");
    fs::read_to_string(folder.join(file)).unwrap()
}

/// What a program writes, given an input.
pub fn output_of(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", output.status);
    writer.join().unwrap().unwrap();
    output.stdout
}

/// Somebody says this; 16 kHz, one channel, 16 bits.
pub fn spoken(voice: &str, text: &str) -> Vec<u8> {
    let speed = ["-s", "140", "-v", voice, "--stdin", "--stdout"];
    let wav = output_of("espeak-ng", &speed, text.as_bytes());
    let to_raw =
        ["-v", "error", "-i", "pipe:0", "-ar", "16000", "-ac", "1", "-f", "s16le", "pipe:1"];
    output_of("ffmpeg", &to_raw, &wav)
}

#[test]
fn text_in_a_picture_is_read() {
    if !installed("tesseract", "tesseract-ocr") || !installed("ffmpeg", "ffmpeg") {
        return;
    }
    let (pool, address) = start(&example("32-reading.toml"), Path::new("/no/models"));
    pool.wait_for("reading", WorkerState::Ready);
    let drawn = "color=white:s=640x120,drawtext=text='Platform 9 to Oxford':fontcolor=black:\
                 fontsize=48:x=20:y=30";
    let picture = output_of(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            drawn,
            "-frames:v",
            "1",
            "-f",
            "image2pipe",
            "-c:v",
            "png",
            "-",
        ],
        b"",
    );
    let answer = ask(&address, "reading", &picture);
    let text = String::from_utf8_lossy(answer.string()).trim().to_owned();
    assert_eq!(text, "Platform 9 to Oxford", "{}", pool.log());
    let broken = ask(&address, "reading", &picture[..picture.len() / 2]);
    assert_eq!(broken.status, 500, "{broken:?}");
    let reason = broken.json["error"].as_str().unwrap();
    assert!(reason.contains("`reading`"), "{reason}");
}

#[test]
fn a_spoken_word_is_understood() {
    let programs = installed("pocketsphinx_continuous", "pocketsphinx pocketsphinx-en-us")
        && installed("espeak-ng", "espeak-ng")
        && installed("ffmpeg", "ffmpeg");
    if !programs {
        return;
    }
    let (pool, address) = start(&example("33-dictation.toml"), Path::new("/no/models"));
    pool.wait_for("dictation", WorkerState::Ready);
    let sound = spoken("en-us", "stop");
    let shape = [sound.len() / 2];
    let utterance = Input { name: "pcm", datatype: "INT16", shape: &shape, data: &sound };
    let answer = infer(&address, "dictation", &[utterance]);
    let text = String::from_utf8_lossy(answer.string()).trim().to_owned();
    assert_eq!(text, "stop", "{}", pool.log());
    let silence = vec![0; 16_000];
    let nothing = Input { name: "pcm", datatype: "INT16", shape: &[8_000], data: &silence };
    let answer = infer(&address, "dictation", &[nothing]);
    assert_eq!(String::from_utf8_lossy(answer.string()).trim(), "");
}

#[test]
fn a_program_that_is_missing_is_named_with_the_packages_that_bring_it() {
    let empty = tempfile::tempdir().unwrap();
    for (file, worker, program, packages) in [
        ("30-speech.toml", "speech", "espeak-ng", "espeak-ng"),
        ("31-frames.toml", "half", "ffmpeg", "ffmpeg"),
        ("32-reading.toml", "reading", "tesseract", "tesseract-ocr"),
        (
            "33-dictation.toml",
            "dictation",
            "pocketsphinx_continuous",
            "pocketsphinx pocketsphinx-en-us",
        ),
    ] {
        // The last `env` of a worker is the example's own, if it has one.
        let path = format!("PATH = \"{}\"", empty.path().display());
        let text = example(file);
        let text = if text.contains("env = { ") {
            text.replace("env = { ", &format!("env = {{ {path}, "))
        } else {
            format!("{text}\nenv = {{ {path} }}\n")
        };
        let (pool, address) = start(&text, Path::new("/no/models"));
        let note = pool.wait_for(worker, WorkerState::Failed).note.unwrap();
        assert!(note.starts_with(&format!("{program}: not found in PATH (")), "{note}");
        assert!(note.contains(&format!("install it (`apt-get install {packages}`)")), "{note}");
        let refused =
            crate::rest::call(&address, &format!("GET /v2/models/{worker}/ready"), "", b"");
        assert_eq!(refused.status, 503, "{refused:?}");
    }
}
