//! Every policy that ships is good, and matches what it says it is for.

use std::fs;
use std::path::{Path, PathBuf};

use downbeat_policy::{
    ContainerFacts, Deadline, Modality, ParentFacts, PolicySet, ProcessFacts, Sched, Source, Tier,
    Uses,
};

fn policies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies")
}

/// The policy files directly in `folder`, in name order.
fn sources(folder: &Path) -> Vec<Source> {
    let entries = fs::read_dir(folder).expect("a folder of policies");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    paths.sort();
    let text = |path: &PathBuf| fs::read_to_string(path).expect("a text");
    paths.iter().map(|path| Source { path: path.clone(), text: text(path) }).collect()
}

fn parsed(folder: &Path) -> PolicySet {
    let sources = sources(folder);
    assert!(!sources.is_empty(), "{}", folder.display());
    PolicySet::parse(&sources).unwrap_or_else(|problems| {
        panic!("{}", problems.iter().map(|p| format!("{p}\n")).collect::<String>())
    })
}

fn process(exe: &str, cmdline: &str) -> ProcessFacts {
    let name: String = exe.rsplit('/').next().unwrap_or_default().chars().take(15).collect();
    ProcessFacts {
        exe: Some(exe.into()),
        comm: name,
        cmdline: cmdline.into(),
        ..ProcessFacts::default()
    }
}

/// The class that a process of one thread gets.
fn class<'s>(set: &'s PolicySet, process: &ProcessFacts) -> Option<&'s str> {
    set.classify(process, &process.comm).map(|found| set.classes[found.class].name.as_str())
}

#[test]
fn the_demo_knows_its_load() {
    let set = parsed(&policies().join("demo"));
    for (exe, cmdline, expected) in [
        ("/opt/x/downbeat-worker", "downbeat-worker denoise --socket a.sock", Some("voice")),
        ("/opt/x/downbeat-load", "/opt/x/downbeat-load video --fps 30", Some("vision")),
        ("/opt/x/downbeat-load", "/opt/x/downbeat-load hog", Some("batch")),
        ("/opt/x/downbeat-load", "/opt/x/downbeat-load bursty --seconds 6", Some("batch")),
        ("/opt/x/downbeat-load", "/opt/x/downbeat-load audio", None),
        ("/usr/bin/bash", "bash -c denoise", None),
    ] {
        assert_eq!(class(&set, &process(exe, cmdline)), expected, "{cmdline}");
    }
    let named = |name: &str| set.classes.iter().find(|c| c.name == name).expect("a class");
    let deadline = |name: &str| match named(name).deadline {
        Some(Deadline::After(after)) => after.as_millis(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!((named("voice").modality, named("voice").tier), (Modality::Audio, Tier::Realtime));
    assert_eq!((named("vision").modality, named("vision").tier), (Modality::Video, Tier::Realtime));
    assert_eq!(named("batch").tier, Tier::Background);
    assert_eq!((deadline("voice"), deadline("vision")), (10, 33));
    assert!(set.classes.iter().all(|c| c.sched == Sched::Auto));
}

const PYTHON: &str = "/usr/bin/python3.11";

#[test]
fn the_shipped_set_knows_real_programs() {
    let set = parsed(&policies());
    for (exe, cmdline, expected) in [
        // Voice.
        ("/usr/local/bin/whisper-server", "whisper-server -m base.bin", Some("speech")),
        ("/usr/bin/vosk-transcriber", "vosk-transcriber -i a.wav", Some("speech")),
        (PYTHON, "python3 -m wyoming_faster_whisper --model tiny", Some("speech")),
        (PYTHON, "/usr/bin/python3 /usr/local/bin/wyoming-faster-whisper", Some("speech")),
        (PYTHON, "python3 -m wyoming_openwakeword", Some("speech")),
        (PYTHON, "python3 ./asr_server.py /opt/model", Some("speech")),
        (PYTHON, "python /app/.venv/bin/uvicorn speaches.main:create_app", Some("speech")),
        ("/opt/piper/piper", "piper --model en.onnx", Some("speech")),
        (PYTHON, "python3 -m wyoming_piper --voice en", Some("speech")),
        ("/usr/bin/espeak-ng", "espeak-ng hello", Some("speech")),
        ("/usr/bin/pipewire", "pipewire", None),
        ("/usr/lib/downbeat/downbeat-worker", "downbeat-worker denoise --socket x", Some("voice")),
        // Video.
        ("/usr/bin/ffmpeg", "ffmpeg -f v4l2 -i /dev/video0 -f null -", Some("video")),
        ("/usr/bin/ffmpeg", "ffmpeg -i rtsp://camera/1 out.mkv", Some("video")),
        ("/usr/bin/gst-launch-1.0", "gst-launch-1.0 v4l2src ! fakesink", Some("video")),
        ("/usr/bin/gst-launch-1.0", "gst-launch-1.0 filesrc location=a ! fakesink", None),
        ("/opt/nvidia/deepstream/bin/deepstream-app", "deepstream-app -c a.txt", Some("video")),
        ("/usr/bin/obs", "obs --startstreaming", Some("video")),
        ("/usr/bin/v4l2-ctl", "v4l2-ctl --stream-mmap --stream-to=-", Some("video")),
        ("/usr/bin/v4l2-ctl", "v4l2-ctl --list-devices", None),
        // Pictures and words.
        ("/opt/tritonserver/bin/tritonserver", "tritonserver --model-store m", Some("vision")),
        (PYTHON, "python3 /opt/ComfyUI/main.py --listen", Some("vision")),
        ("/usr/local/bin/llama-server", "llama-server -m m.gguf", Some("language")),
        ("/usr/local/bin/ollama", "ollama serve", Some("language")),
        (PYTHON, "/usr/bin/python3 /usr/local/bin/vllm serve model", Some("language")),
        (PYTHON, "VLLM::EngineCore_0", Some("language")),
        (PYTHON, "python3 -m sglang.launch_server --model-path m", Some("language")),
        ("/usr/local/bin/text-generation-launcher", "text-generation-launcher", Some("language")),
        // Background.
        ("/usr/bin/ffmpeg", "ffmpeg -i in.mkv out.mp4", Some("background")),
        ("/usr/lib/jellyfin-ffmpeg/ffmpeg", "ffmpeg -i in.mkv -f hls -", Some("background")),
        ("/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus", "cc1plus -quiet x.cc", Some("background")),
        ("/home/ann/.rustup/toolchains/stable/bin/rustc", "rustc x.rs", Some("background")),
        ("/usr/bin/x86_64-linux-gnu-ld.bfd", "ld.bfd -o a", Some("background")),
        ("/usr/bin/apt-get", "apt-get -y upgrade", Some("background")),
        (PYTHON, "python3 /usr/bin/unattended-upgrade", Some("background")),
        ("/usr/libexec/tracker-miner-fs-3", "tracker-miner-fs-3", Some("background")),
        ("/usr/bin/rsync", "rsync -a /home /backup", Some("background")),
        ("/usr/bin/restic", "restic backup /home", Some("background")),
        (PYTHON, "/usr/bin/python3 /usr/bin/borg create ::a /home", Some("background")),
        // What must be left alone.
        ("/usr/bin/bash", "bash", None),
        ("/usr/bin/bash", "bash -c 'ffmpeg -f v4l2 -i /dev/video0 a.mkv'", None),
        ("/usr/bin/vim", "vim /opt/ComfyUI/main.py", None),
        ("/usr/bin/less", "less whisper-server.log", None),
        ("/usr/bin/grep", "grep -r vllm serve .", None),
        (PYTHON, "python3 -m http.server", None),
        (PYTHON, "python3 /usr/bin/networkd-dispatcher", None),
        ("/usr/sbin/sshd", "sshd: ann", None),
        ("/usr/lib/systemd/systemd", "/sbin/init", None),
        ("/usr/lib/firefox/firefox", "firefox", None),
        ("/usr/bin/gnome-shell", "gnome-shell", None),
        ("/usr/lib/postgresql/15/bin/postgres", "postgres: checkpointer", None),
        ("/usr/sbin/nginx", "nginx: worker process", None),
        ("/usr/bin/dockerd", "dockerd -H fd://", None),
        ("/usr/bin/cargo", "cargo build", None),
        ("/usr/bin/make", "make -j8", None),
    ] {
        assert_eq!(class(&set, &process(exe, cmdline)), expected, "{cmdline}");
    }
    let pipewire = process("/usr/bin/pipewire", "pipewire");
    let found = set.classify(&pipewire, "data-loop.0").expect("the thread that moves samples");
    assert_eq!(set.classes[found.class].name, "voice");
    let viewer = ProcessFacts {
        parent: Some(ParentFacts {
            exe: Some("/usr/bin/jellyfin".into()),
            comm: "jellyfin".into(),
        }),
        ..process("/usr/lib/jellyfin-ffmpeg/ffmpeg", "ffmpeg -i in.mkv -f hls -")
    };
    assert_eq!(class(&set, &viewer), Some("video"));
}

/// A rule without its reason helps nobody who must decide whether to keep it.
#[test]
fn every_shipped_rule_has_a_name_and_a_comment() {
    let folders = [policies(), policies().join("demo"), policies().join("examples")];
    for source in folders.iter().flat_map(|folder| sources(folder)) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (i, _) in lines.iter().enumerate().filter(|(_, line)| **line == "[[rule]]") {
            let place = format!("{}:{}", source.path.display(), i + 1);
            assert!(i > 0 && lines[i - 1].starts_with("# "), "{place}: no comment");
            assert!(lines.get(i + 1).is_some_and(|l| l.starts_with("name ")), "{place}: no name");
        }
    }
}

/// Each example is to be copied beside the shipped files, so it is checked together with them.
#[test]
fn every_example_fits_the_shipped_set() {
    let examples = sources(&policies().join("examples"));
    assert!(!examples.is_empty());
    for example in examples {
        let mut set = sources(&policies());
        let place = example.path.clone();
        set.push(example);
        if let Err(problems) = PolicySet::parse(&set) {
            panic!("{}: {problems:#?}", place.display());
        }
    }
}

/// The shipped files with one example beside them.
fn with_example(name: &str) -> PolicySet {
    let mut set = sources(&policies());
    let mut examples = sources(&policies().join("examples"));
    examples.retain(|example| example.path.ends_with(name));
    assert_eq!(examples.len(), 1, "{name}");
    set.append(&mut examples);
    PolicySet::parse(&set).unwrap_or_else(|problems| panic!("{name}: {problems:#?}"))
}

/// The class of a thread.
fn class_of<'s>(set: &'s PolicySet, process: &ProcessFacts, thread: &str) -> Option<&'s str> {
    set.classify(process, thread).map(|found| set.classes[found.class].name.as_str())
}

#[test]
fn the_workstation_tells_a_person_s_programs_from_others() {
    let set = with_example("workstation.toml");
    let of_person = |process: ProcessFacts| ProcessFacts {
        cgroup: Some("/user.slice/user-1000.slice/session-2.scope".into()),
        ..process
    };
    let whisper = process("/usr/bin/whisper-server", "whisper-server");
    assert_eq!(class(&set, &of_person(whisper.clone())), Some("dictation"));
    assert_eq!(class(&set, &whisper), Some("speech"));
    let model = of_person(process("/usr/local/bin/ollama", "ollama serve"));
    assert_eq!(class(&set, &model), Some("local-model"));
    let ancestor = |comm: &str| ParentFacts { exe: None, comm: comm.into() };
    let below = |process: ProcessFacts| ProcessFacts {
        parent: Some(ancestor("sh")),
        ancestors: vec![ancestor("make"), ancestor("bash")],
        ..process
    };
    let tool = process("/usr/bin/protoc", "protoc a.proto");
    assert_eq!(class(&set, &below(tool.clone())), Some("builds"));
    assert_eq!(class(&set, &tool), None);
    assert_eq!(class(&set, &below(process("/usr/bin/gdb", "gdb a.out"))), None);
    assert!(set.needs().ancestors);
}

#[test]
fn the_edge_box_knows_threads() {
    let set = with_example("edge-box.toml");
    let detect = process("/opt/frontdoor/bin/detect", "detect --cameras 2");
    for (thread, expected) in [
        ("infer", Some("detector")),
        ("infer-1", Some("detector")),
        ("capture-0", Some("capture")),
        ("detect", None),
        ("web", None),
    ] {
        assert_eq!(class_of(&set, &detect, thread), expected, "{thread}");
    }
    assert_eq!(class(&set, &process("/usr/bin/rclone", "rclone copy a b:")), Some("uploads"));
    let capture = set.classes.iter().find(|class| class.name == "capture").expect("a class");
    assert!(capture.partition && capture.sched.words().starts_with("deadline"));
}

#[test]
fn the_gpu_server_knows_containers_and_libraries() {
    let set = with_example("gpu-server.toml");
    let container = |image: &str| ContainerFacts {
        engine: "containerd".into(),
        id: "0".repeat(64),
        image: Some(image.into()),
        ..ContainerFacts::default()
    };
    let in_image = |image: &str| ProcessFacts {
        container: Some(container(image)),
        ..process(PYTHON, "python3 -m something")
    };
    assert_eq!(class(&set, &in_image("docker.io/vllm/vllm-openai:v0.9")), Some("serving"));
    assert_eq!(class(&set, &in_image("docker.io/library/redis:7")), None);
    let second = ProcessFacts {
        container: Some(ContainerFacts {
            labels: vec![("app.kubernetes.io/component".into(), "inference".into())],
            ..container("docker.io/vllm/vllm-openai:v0.9")
        }),
        env: vec![("NVIDIA_VISIBLE_DEVICES".into(), "1".into())],
        ..process(PYTHON, "python3 -m something")
    };
    assert_eq!(class(&set, &second), Some("serving-1"));
    let training = ProcessFacts {
        uses: Uses { gpu: true, ..Uses::default() },
        maps: vec!["libtorch_cuda.so".into()],
        user: Some("ann".into()),
        ..process(PYTHON, "python3 train.py")
    };
    assert_eq!(class(&set, &training), Some("jobs"));
    let on_cpu = ProcessFacts { uses: Uses::default(), ..training.clone() };
    assert_eq!(class(&set, &on_cpu), None);
    let of_root = ProcessFacts { user: Some("root".into()), ..training };
    assert_eq!(class(&set, &of_root), None);
    let needs = set.needs();
    assert!(needs.uses && needs.maps && needs.containers);
    assert_eq!(needs.env.into_iter().collect::<Vec<_>>(), ["NVIDIA_VISIBLE_DEVICES"]);
}

#[test]
fn the_studio_tells_live_from_rendered() {
    let set = with_example("content-studio.toml");
    assert_eq!(class(&set, &process("/usr/bin/obs", "obs")), Some("live"));
    let encoder = process("/usr/bin/ffmpeg", "ffmpeg -i - -f flv out");
    assert_eq!(class(&set, &encoder), Some("background"));
    let obs = ParentFacts { exe: Some("/usr/bin/obs".into()), comm: "obs".into() };
    let of_obs = ProcessFacts { parent: Some(obs), ..encoder };
    assert_eq!(class(&set, &of_obs), Some("live"));
    for (exe, cmdline, expected) in [
        ("/usr/bin/blender", "blender -b scene.blend -a", Some("renders")),
        ("/usr/bin/blender", "blender scene.blend", None),
        ("/usr/bin/melt", "melt edit.mlt", Some("renders")),
        ("/usr/bin/whisper-cli", "whisper-cli -m m.bin -f take.wav", Some("post")),
        ("/usr/bin/whisper-cli", "whisper-cli -m m.bin take.wav", Some("speech")),
    ] {
        assert_eq!(class(&set, &process(exe, cmdline)), expected, "{cmdline}");
    }
}

/// Nothing that costs more than a look at `/proc` is read for the shipped rules alone, and nothing
/// is guessed.
#[test]
fn the_shipped_set_asks_for_nothing_costly() {
    let set = parsed(&policies());
    assert_eq!(set.needs(), downbeat_policy::Needs::default());
    assert!(!set.auto.enabled);
    for (modality, class) in &set.auto.classes {
        assert_ne!(set.classes[*class].tier, Tier::Realtime, "{}", modality.name());
    }
}
