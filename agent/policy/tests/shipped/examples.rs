//! The examples, each beside the shipped files.

use downbeat_policy::{ContainerFacts, ParentFacts, PolicySet, ProcessFacts, Uses};

use super::{PYTHON, class, policies, process, sources};

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
    let script = process(PYTHON, "python3 /usr/bin/nerd-dictation begin");
    assert_eq!(class(&set, &of_person(script)), Some("dictation"));
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
        ("detect", Some("frontdoor")),
        ("web", Some("frontdoor")),
    ] {
        assert_eq!(class_of(&set, &detect, thread), expected, "{thread}");
    }
    assert_eq!(class(&set, &process("/usr/bin/rclone", "rclone copy a b:")), Some("uploads"));
    let class = |name| set.classes.iter().find(|class| class.name == name).expect("a class");
    // The kernel gives no reservation on some CPUs of a root domain alone.
    let capture = class("capture");
    assert!(capture.cpus.is_none() && capture.sched.words().starts_with("deadline"));
    // And a partition only to a group of the agent's own, into which the main thread takes all.
    assert!(class("frontdoor").partition && class("frontdoor").adopt);
    assert!(!class("detector").partition);
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
    assert_eq!(needs.env.into_iter().collect::<Vec<_>>(), ["NVIDIA_VISIBLE_DEVICES", "PWD"]);
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
