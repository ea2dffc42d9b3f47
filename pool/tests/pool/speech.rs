//! Conversations over Wyoming, by the package that voice assistants have, with real workers.

use downbeat_api::pool::WorkerState;

use crate::clients::script_with;
use crate::programs::{example, spoken};
use crate::rest::MODELS;
use crate::support::{TestPool, installed};

/// What may be said to the recogniser: with it, a synthetic voice is understood.
const GRAMMAR: &str = "#JSGF V1.0;\ngrammar commands;\n\
    public <command> = turn ( on | off ) the ( light | radio ) | what time is it;\n";

#[test]
fn voice_assistants_speak_and_are_spoken_to() {
    let programs = installed("pocketsphinx_continuous", "pocketsphinx pocketsphinx-en-us")
        && installed("espeak-ng", "espeak-ng")
        && installed("ffmpeg", "ffmpeg");
    if !programs {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let grammar = folder.path().join("commands.gram");
    std::fs::write(&grammar, GRAMMAR).unwrap();
    let with_grammar = format!("\"-jsgf\", \"{}\", \"-infile\"", grammar.display());
    let dictation = example("33-dictation.toml")
        .replace("\"-infile\"", &with_grammar)
        // The grammar lies where a confined program may not read.
        .replace(
            "sandbox = true",
            &format!("sandbox = {{ read = [\"{}\"] }}", folder.path().display()),
        );
    // However slow the machine is, no piece of the stream is given up.
    let assistant = example("40-wyoming.toml").replace("\"100ms\"", "\"20s\"");
    let broken = "[worker.broken]\ncommand = [\"sh\", \"-c\", \"echo no luck >&2; exit 3\"]\n\
        stdio = { mode = \"once\" }\n\
        wyoming = { service = \"transcribe\", languages = [\"tlh\"], longest = \"2s\" }\n\
        [worker.slow]\ncommand = [\"sleep\", \"601.25\"]\nstdio = { mode = \"once\" }\n\
        deadline = \"60s\"\n\
        wyoming = { service = \"transcribe\", languages = [\"x-slow\"] }\n";
    let text = [dictation, assistant, broken.into()].join("\n");
    let mut pool = TestPool::start_with(&text, &["--wyoming", "127.0.0.1:0", "--models", MODELS]);
    for name in ["dictation", "voice", "listener"] {
        pool.wait_for(name, WorkerState::Ready);
    }
    let status = pool.wait("Wyoming address", |status| status.wyoming.is_some());
    let address = status.wyoming.unwrap();
    let recording = |name: &str, sound: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, sound).unwrap();
        path.display().to_string()
    };
    let sentence = recording("sentence.raw", &spoken("en-us+f3", "turn on the light"));
    let pause = vec![0; 32_000];
    let words = [&pause, &spoken("en-us", "yes"), &pause, &spoken("en-us", "stop"), &pause];
    let words = words.map(Vec::as_slice).concat();
    let words = recording("words.raw", &words);
    let socket = pool.socket("wyoming.sock").display().to_string();
    script_with(&mut pool, "speech.py", &[address, socket, sentence, words]);
}

#[test]
fn nothing_listens_where_no_worker_has_a_part_in_it() {
    let pool = TestPool::start_with(
        "[worker.cat]\ncommand = [\"cat\"]\nstdio = { mode = \"once\" }\n",
        &["--wyoming", "127.0.0.1:0"],
    );
    pool.wait_for("cat", WorkerState::Ready);
    assert_eq!(pool.try_status().unwrap().wyoming, None);
    assert!(!pool.socket("wyoming.sock").exists());
}
