//! Programs as they are started by their packages, images and manuals: the executable that the
//! kernel names, the main thread's name, the arguments.
//!
//! A script has the name of its file where its first line names the interpreter itself, as pip
//! writes it; behind `env` it has the interpreter's.

use downbeat_policy::{ParentFacts, PolicySet, ProcessFacts};

use super::{PYTHON, class, parsed, policies, process};

/// Of Python by a version manager, in an image, and in a folder of its own.
const PYENV: &str = "/root/.pyenv/versions/3.12.4/bin/python3.12";
const CONDA: &str = "/opt/conda/bin/python3.10";
const UV: &str =
    "/home/ubuntu/.local/share/uv/python/cpython-3.12.9-linux-x86_64-gnu/bin/python3.12";

const NODE: &str = "/usr/bin/node";

/// A program with the name that the kernel gives it.
fn named(exe: &str, comm: &str, cmdline: &str) -> ProcessFacts {
    assert!(comm.len() <= 15, "{comm}: the kernel keeps 15 bytes");
    ProcessFacts { comm: comm.into(), ..process(exe, cmdline) }
}

#[track_caller]
fn all_are(wanted: Option<&str>, programs: &[(&str, &str, &str)]) {
    let set = parsed(&policies());
    let found = |(exe, comm, cmdline)| class(&set, &named(exe, comm, cmdline)).map(str::to_owned);
    let wrong: Vec<_> = programs
        .iter()
        .map(|program| (program, found(*program)))
        .filter(|(_, found)| found.as_deref() != wanted)
        .collect();
    assert!(wrong.is_empty(), "not {wanted:?}: {wrong:#?}");
}

#[test]
fn speech() {
    all_are(
        Some("speech"),
        &[
            ("/usr/local/bin/whisper-server", "whisper-server", "whisper-server -m base.bin"),
            ("/opt/whisper.cpp/build/bin/whisper-stream", "whisper-stream", "./whisper-stream"),
            ("/opt/whisper.cpp/build/bin/whisper-cli", "whisper-cli", "whisper-cli -f a.wav"),
            (PYTHON, "whisper", "/usr/bin/python3 /home/ann/.local/bin/whisper a.wav --model base"),
            (PYENV, "python3", "python3 -m whisper a.wav"),
            (PYENV, "whisper-ctransl", "/opt/v/bin/python3 /opt/v/bin/whisper-ctranslate2 a.wav"),
            (PYTHON, "vosk-transcribe", "/opt/v/bin/python3 /opt/v/bin/vosk-transcriber -i a.wav"),
            (PYTHON, "python3", "python3 ./asr_server.py /opt/vosk-model-en/model"),
            ("/opt/vosk-server/asr_server", "asr_server", "./asr_server 0.0.0.0 2700 1 model"),
            (
                UV,
                "uvicorn",
                "/home/ubuntu/speaches/.venv/bin/python /home/ubuntu/speaches/.venv/bin/uvicorn --factory speaches.main:create_app",
            ),
            (PYTHON, "python3", "python3 -m wyoming_faster_whisper --uri tcp://0.0.0.0:10300"),
            (PYENV, "python", "/opt/wfw/.venv/bin/python -m wyoming_faster_whisper --model tiny"),
            (PYTHON, "wyoming-faster-", "/usr/bin/python3 /usr/local/bin/wyoming-faster-whisper"),
            (PYTHON, "python3", "python3 -m wyoming_whisper_cpp --uri tcp://0.0.0.0:10300"),
            (PYTHON, "python3", "python3 -m wyoming_vosk --uri tcp://0.0.0.0:10300"),
            (PYTHON, "python3", "python3 -m wyoming_openwakeword --uri tcp://0.0.0.0:10400"),
            (PYENV, "python", "/opt/ws/.venv/bin/python -m wyoming_satellite --name kitchen"),
            ("/usr/share/piper/piper", "piper", "/usr/share/piper/piper --model en.onnx"),
            (PYTHON, "piper", "/usr/bin/python3 /home/ann/.local/bin/piper -m en_US-lessac-medium"),
            (PYENV, "python3", "python3 -m piper -m en_US-lessac-medium -- Hello"),
            (PYENV, "python3", "python3 -m piper.http_server -m en_US-lessac-medium"),
            (PYTHON, "python3", "python3 -m wyoming_piper --piper /usr/share/piper/piper"),
            ("/usr/bin/espeak-ng", "espeak-ng", "espeak-ng hello"),
            ("/usr/bin/speech-dispatcher", "speech-dispatch", "speech-dispatcher -s"),
            ("/usr/lib/speech-dispatcher-modules/sd_espeak-ng", "sd_espeak-ng", "sd_espeak-ng"),
        ],
    );
}

/// Of a sound server only the threads that move samples.
#[test]
fn sound_servers() {
    let set = parsed(&policies());
    let thread = |exe: &str, thread: &str| {
        let found = set.classify(&process(exe, exe), thread);
        found.map(|found| set.classes[found.class].name.as_str())
    };
    for (exe, name, expected) in [
        ("/usr/bin/pipewire", "pipewire", None),
        ("/usr/bin/pipewire", "module-rt", None),
        ("/usr/bin/pipewire", "data-loop.0", Some("voice")),
        ("/usr/bin/pipewire", "pw-data-loop", Some("voice")),
        ("/usr/bin/pipewire-pulse", "data-loop.0", Some("voice")),
        ("/usr/bin/wireplumber", "wireplumber", None),
        ("/usr/bin/wireplumber", "data-loop.0", None),
        ("/usr/bin/pulseaudio", "alsa-sink-ALC29", Some("voice")),
        ("/usr/bin/pulseaudio", "pulseaudio", None),
        ("/usr/lib/firefox/firefox", "data-loop.0", None),
    ] {
        assert_eq!(thread(exe, name), expected, "{exe} {name}");
    }
    let worker = "/usr/lib/downbeat/downbeat-worker";
    all_are(Some("voice"), &[(worker, "downbeat-worker", "downbeat-worker denoise --socket x")]);
}

#[test]
fn video() {
    all_are(
        Some("video"),
        &[
            ("/usr/bin/ffmpeg", "ffmpeg", "ffmpeg -f v4l2 -i /dev/video0 -f null -"),
            ("/usr/bin/ffmpeg", "ffmpeg", "ffmpeg -i rtsp://camera/1 out.mkv"),
            ("/usr/bin/ffmpeg", "ffmpeg", "ffmpeg -re -i a.mkv -f flv rtmp://host/live"),
            (
                "/usr/lib/ffmpeg/7.0/bin/ffmpeg",
                "ffmpeg",
                "/usr/lib/ffmpeg/7.0/bin/ffmpeg -i rtsp://127.0.0.1:8554/front -f rawvideo pipe:",
            ),
            (
                "/usr/lib/plexmediaserver/Plex Transcoder",
                "Plex Transcoder",
                "/usr/lib/plexmediaserver/Plex Transcoder -i a.mkv",
            ),
            ("/usr/bin/gst-launch-1.0", "gst-launch-1.0", "gst-launch-1.0 v4l2src ! fakesink"),
            (
                "/opt/nvidia/deepstream/deepstream-7.0/bin/deepstream-app",
                "deepstream-app",
                "deepstream-app -c a.txt",
            ),
            (
                "/opt/nvidia/deepstream/deepstream-7.0/bin/deepstream-test5-app",
                "deepstream-test",
                "deepstream-test5-app -c a.txt",
            ),
            (PYTHON, "python3", "python3 deepstream_test_1.py file:///a.mp4"),
            ("/usr/bin/obs", "obs", "obs --startstreaming"),
            ("/app/bin/obs", "obs", "/app/bin/obs"),
            ("/usr/bin/obs-ffmpeg-mux", "obs-ffmpeg-mux", "obs-ffmpeg-mux a.mkv"),
            ("/usr/bin/v4l2-ctl", "v4l2-ctl", "v4l2-ctl --stream-mmap --stream-to=-"),
            ("/usr/bin/rpicam-vid", "rpicam-vid", "rpicam-vid -t 0"),
        ],
    );
    let jellyfin =
        ParentFacts { exe: Some("/usr/lib/jellyfin/bin/jellyfin".into()), comm: "jellyfin".into() };
    let viewer = ProcessFacts {
        parent: Some(jellyfin),
        ..process("/usr/lib/jellyfin-ffmpeg/ffmpeg", "ffmpeg -i in.mkv -f hls -")
    };
    assert_eq!(class(&parsed(&policies()), &viewer), Some("video"));
}

fn in_folder(set: &PolicySet, folder: &str) -> Option<String> {
    let started = ProcessFacts {
        env: vec![("PWD".into(), folder.into())],
        ..named(PYTHON, "python", "python main.py --listen")
    };
    class(set, &started).map(str::to_owned)
}

#[test]
fn vision() {
    all_are(
        Some("vision"),
        &[
            ("/opt/tritonserver/bin/tritonserver", "tritonserver", "tritonserver --model-store m"),
            (
                "/opt/tritonserver/backends/python/triton_python_backend_stub",
                "triton_python_b",
                "/opt/tritonserver/backends/python/triton_python_backend_stub /models/a/1/model.py",
            ),
            (PYTHON, "python3", "python3 /opt/ComfyUI/main.py --listen"),
            (PYTHON, "python", "/home/ann/ComfyUI/venv/bin/python main.py"),
            (PYTHON, "comfy", "/home/ann/.venv/bin/python /home/ann/.venv/bin/comfy launch"),
            (PYTHON, "frigate.process", "frigate.process:front"),
            (PYTHON, "frigate.capture", "frigate.capture:front"),
            (PYTHON, "frigate.detecto", "frigate.detector:ov"),
            (PYTHON, "python3", "python3 -u -m frigate"),
        ],
    );
    let set = parsed(&policies());
    assert_eq!(in_folder(&set, "/home/ann/ComfyUI").as_deref(), Some("vision"));
    assert_eq!(in_folder(&set, "/home/ann/my-site"), None);
    let launched = ProcessFacts {
        parent: Some(ParentFacts { exe: Some(PYTHON.into()), comm: "comfy".into() }),
        ..named(PYTHON, "python", "/home/ann/.venv/bin/python main.py")
    };
    assert_eq!(class(&set, &launched), Some("vision"));
}

#[test]
fn language() {
    all_are(
        Some("language"),
        &[
            ("/usr/local/bin/llama-server", "llama-server", "llama-server -m m.gguf"),
            ("/app/llama-server", "llama-server", "/app/llama-server --host 0.0.0.0"),
            ("/usr/local/bin/ollama", "ollama", "ollama serve"),
            (
                "/usr/local/bin/ollama",
                "ollama",
                "/usr/local/bin/ollama runner --ollama-engine --port 3",
            ),
            (
                "/tmp/ollama1/runners/cuda_v12/ollama_llama_server",
                "ollama_llama_se",
                "ollama_llama_server --model x",
            ),
            (PYTHON, "vllm", "/usr/bin/python3 /usr/local/bin/vllm serve meta/m --port 8000"),
            (PYTHON, "python3", "python3 -m vllm.entrypoints.openai.api_server --model m"),
            (PYTHON, "VLLM::EngineCor", "VLLM::EngineCore"),
            (PYTHON, "VLLM::Worker_TP", "VLLM::Worker_TP0"),
            (PYTHON, "EngineCore_0", "EngineCore_0"),
            (PYTHON, "python3", "python3 -m sglang.launch_server --model-path m"),
            (PYTHON, "sglang", "/usr/bin/python3 /usr/local/bin/sglang serve --model-path m"),
            (PYTHON, "sglang::schedul", "sglang::scheduler_TP0"),
            (PYTHON, "sglang::detoken", "sglang::detokenizer"),
            (
                "/usr/local/bin/text-generation-launcher",
                "text-generation",
                "text-generation-launcher",
            ),
            ("/usr/local/bin/text-generation-router", "text-generation", "text-generation-router"),
            (
                CONDA,
                "text-generation",
                "/opt/conda/bin/python3.10 /opt/conda/bin/text-generation-server serve google/flan-t5-small --uds-path /tmp/x",
            ),
            (PYTHON, "python3", "python3 -m llama_cpp.server --model m.gguf"),
        ],
    );
}

#[test]
fn builds() {
    all_are(
        Some("background"),
        &[
            ("/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus", "cc1plus", "cc1plus -quiet x.cc"),
            (
                "/home/ann/.rustup/toolchains/stable-x86_64-unknown-linux-gnu/bin/rustc",
                "rustc",
                "rustc x.rs",
            ),
            ("/usr/lib/llvm-14/bin/clang", "clang-14", "clang-14 -c x.c"),
            ("/usr/bin/clang-17", "clang", "clang -c x.c"),
            ("/usr/local/go/pkg/tool/linux_amd64/compile", "compile", "compile -o a"),
            ("/usr/lib/go-1.19/pkg/tool/linux_amd64/compile", "compile", "compile -o a"),
            (
                "/root/go/pkg/mod/golang.org/toolchain@v0.0.1-go1.24.1.linux-amd64/pkg/tool/linux_amd64/link",
                "link",
                "link -o a",
            ),
            ("/usr/bin/x86_64-linux-gnu-ld.bfd", "ld", "/usr/bin/ld -o a"),
            ("/usr/bin/x86_64-linux-gnu-as", "as", "as -o a.o"),
            ("/usr/lib/llvm-14/bin/lld", "ld.lld", "ld.lld -o a"),
            ("/usr/lib/llvm-14/bin/lld", "wasm-ld", "wasm-ld -o a.wasm"),
            (
                "/home/ann/.rustup/toolchains/stable-x86_64-unknown-linux-gnu/lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld",
                "rust-lld",
                "rust-lld -flavor wasm",
            ),
            ("/usr/bin/mold", "mold", "mold -o a"),
        ],
    );
}

#[test]
fn upkeep() {
    all_are(
        Some("background"),
        &[
            ("/usr/bin/apt-get", "apt-get", "apt-get -y upgrade"),
            ("/usr/lib/apt/methods/http", "http", "/usr/lib/apt/methods/http"),
            ("/usr/bin/dpkg", "dpkg", "/usr/bin/dpkg --status-fd 22 --configure --pending"),
            (PYTHON, "unattended-upgr", "/usr/bin/python3 /usr/bin/unattended-upgrade"),
            ("/usr/bin/dnf5", "dnf", "dnf upgrade"),
            ("/usr/bin/python3.9", "dnf", "/usr/bin/python3 /usr/bin/dnf makecache --timer"),
            (
                "/usr/libexec/platform-python3.6",
                "dnf",
                "/usr/libexec/platform-python /usr/bin/dnf update",
            ),
            ("/usr/libexec/packagekitd", "packagekitd", "/usr/libexec/packagekitd"),
            (PYTHON, "pip", "/opt/v/bin/python3 /opt/v/bin/pip install torch"),
            (PYTHON, "python3", "python3 -m pip install wyoming-faster-whisper"),
            (PYTHON, "pip3", "/usr/bin/python3 /usr/bin/pip3 install piper-tts"),
            (NODE, "npm install", "npm install express"),
            (NODE, "npm ci", "npm ci"),
            ("/root/.rustup/toolchains/stable/bin/cargo", "cargo", "cargo fetch --locked"),
            (
                "/usr/libexec/tracker-miner-fs-3",
                "tracker-miner-f",
                "/usr/libexec/tracker-miner-fs-3",
            ),
            ("/usr/libexec/localsearch-3", "localsearch-3", "/usr/libexec/localsearch-3"),
            ("/usr/lib/x86_64-linux-gnu/libexec/kf6/baloo_file", "baloo_file", "baloo_file"),
            (
                "/usr/lib/x86_64-linux-gnu/libexec/kf5/baloo_file_extractor",
                "baloo_file_extr",
                "baloo_file_extractor",
            ),
            ("/usr/sbin/updatedb.plocate", "updatedb", "/usr/sbin/updatedb.plocate"),
            ("/usr/bin/restic", "restic", "restic backup /home"),
            (PYTHON, "borg", "/usr/bin/python3 /usr/bin/borg create ::a /home"),
            ("/usr/local/bin/borg-linux-glibc231", "borg", "borg create ::a /home"),
            ("/usr/bin/rsync", "rsync", "rsync -a /home /backup"),
            ("/usr/bin/HandBrakeCLI", "HandBrakeCLI", "HandBrakeCLI -i a.mkv -o b.mp4"),
            ("/usr/bin/ffmpeg", "ffmpeg", "ffmpeg -i in.mkv out.mp4"),
            ("/usr/lib/jellyfin-ffmpeg/ffmpeg", "ffmpeg", "ffmpeg -i in.mkv -f hls -"),
        ],
    );
}

#[test]
fn everything_else_is_left_alone() {
    all_are(
        None,
        &[
            ("/usr/bin/bash", "bash", "bash"),
            ("/usr/bin/bash", "bash", "bash -c ffmpeg -f v4l2 -i /dev/video0 a.mkv"),
            ("/usr/bin/vim", "vim", "vim /opt/ComfyUI/main.py"),
            ("/usr/bin/less", "less", "less whisper-server.log"),
            ("/usr/bin/grep", "grep", "grep -r vllm serve ."),
            ("/usr/bin/plocate", "plocate", "plocate notes"),
            (
                "/usr/bin/gst-launch-1.0",
                "gst-launch-1.0",
                "gst-launch-1.0 filesrc location=a ! fakesink",
            ),
            ("/usr/bin/v4l2-ctl", "v4l2-ctl", "v4l2-ctl --list-devices"),
            ("/usr/bin/pipewire", "pipewire", "pipewire"),
            (PYTHON, "python3", "python3 -m http.server"),
            (PYTHON, "python3", "python3 main.py"),
            (PYTHON, "python3", "python3 train.py --data /data/piper --engine vllm"),
            (PYTHON, "python3", "python3 -m pytest tests/wyoming_piper"),
            (PYTHON, "networkd-dispat", "/usr/bin/python3 /usr/bin/networkd-dispatcher"),
            (NODE, "node", "node server.js"),
            (NODE, "npm run dev", "npm run dev"),
            (NODE, "npm start", "npm start"),
            ("/usr/sbin/sshd", "sshd", "sshd: ann"),
            ("/usr/lib/systemd/systemd", "systemd", "/sbin/init"),
            ("/usr/lib/firefox/firefox", "firefox", "firefox"),
            ("/usr/bin/gnome-shell", "gnome-shell", "gnome-shell"),
            ("/usr/lib/postgresql/15/bin/postgres", "postgres", "postgres: checkpointer"),
            ("/usr/sbin/nginx", "nginx", "nginx: worker process"),
            ("/usr/bin/dockerd", "dockerd", "dockerd -H fd://"),
            ("/root/.rustup/toolchains/stable/bin/cargo", "cargo", "cargo build"),
            ("/usr/local/go/bin/go", "go", "go build ./..."),
            ("/usr/bin/make", "make", "make -j8"),
            ("/usr/bin/clangd-14", "clangd", "clangd"),
        ],
    );
}
