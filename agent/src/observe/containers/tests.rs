//! Against folders as the engines leave them, and a Unix socket that answers as Docker does.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const POD_ID: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
const POD: &str = "2f6a7c9e-1b3d-4e5f-8a90-b1c2d3e4f506";

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Asks until there is an answer, as the engine's ticks do.
fn ask(root: &Path, cgroup: &str) -> ContainerFacts {
    let mut containers = Containers::new(Places::below(root));
    let known = containers.of(7, cgroup, true).unwrap();
    assert_eq!((known.id.as_str(), known.name), (ID, None), "the path alone");
    assert_eq!(wait_for_news(&mut containers), [7]);
    containers.of(7, cgroup, true).unwrap()
}

fn wait_for_news(containers: &mut Containers) -> Vec<u32> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        let news = containers.news(Instant::now());
        if !news.is_empty() {
            return news;
        }
        thread::sleep(Duration::from_millis(5));
    }
    Vec::new()
}

/// Serves one answer per path, one connection after another, and says what was asked.
fn serve(socket: &Path, answers: &[(&str, &str)]) -> Receiver<String> {
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    let answers: Vec<(String, String)> =
        answers.iter().map(|(path, body)| ((*path).to_owned(), (*body).to_owned())).collect();
    let (asked, questions) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let path = line.split(' ').nth(1).unwrap().to_owned();
            let body = answers.iter().find(|(of, _)| *of == path).map(|(_, body)| body);
            let (status, body) = body.map_or((404, "{}"), |body| (200, body.as_str()));
            // In two pieces, as an engine with a long answer does.
            let (first, second) = body.split_at(body.len() / 2);
            let head = format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
            for piece in [first, second] {
                let _ = write!(stream, "{:x}\r\n{piece}\r\n", piece.len());
            }
            let _ = stream.write_all(b"0\r\n\r\n");
            let _ = asked.send(path);
        }
    });
    questions
}

#[test]
fn docker_is_asked_over_its_socket() {
    let root = tempfile::tempdir().unwrap();
    let answer = r#"{"Id": "x", "Name": "/whisper", "State": {"Pid": 7}, "Config":
        {"Image": "onerahmet/openai-whisper:latest", "Labels": {"com.docker.compose.project": "voice"}}}"#;
    let path = format!("/containers/{ID}/json");
    let asked = serve(&root.path().join("run/docker.sock"), &[(&path, answer)]);
    let facts = ask(root.path(), &format!("/system.slice/docker-{ID}.scope"));
    assert_eq!(facts.engine, "docker");
    assert_eq!(facts.name.as_deref(), Some("whisper"));
    assert_eq!(facts.image.as_deref(), Some("onerahmet/openai-whisper:latest"));
    assert_eq!(facts.labels, [("com.docker.compose.project".into(), "voice".into())]);
    assert_eq!(asked.try_iter().collect::<Vec<_>>(), [path]);
}

#[test]
fn a_label_of_kubernetes_names_a_docker_containers_pod() {
    let root = tempfile::tempdir().unwrap();
    let answer = r#"{"Name": "/k8s_stt_voice-0_speech_x_0", "Config": {"Image": "sha256:1",
        "Labels": {"io.kubernetes.container.name": "stt", "io.kubernetes.pod.name": "voice-0",
                   "io.kubernetes.pod.namespace": "speech"}}}"#;
    serve(&root.path().join("run/docker.sock"), &[(&format!("/containers/{ID}/json"), answer)]);
    let facts = ask(root.path(), &format!("/kubepods/burstable/pod{POD}/{ID}"));
    assert_eq!(facts.engine, "docker", "found out by asking");
    let told = [facts.name, facts.pod, facts.namespace];
    assert_eq!(told, ["stt", "voice-0", "speech"].map(|text| Some(text.to_owned())));
}

#[test]
fn docker_that_does_not_run_has_left_its_file() {
    let root = tempfile::tempdir().unwrap();
    let file = format!("var/lib/docker/containers/{ID}/config.v2.json");
    write(root.path(), &file, r#"{"Name": "/db", "Config": {"Image": "postgres:16"}}"#);
    let facts = ask(root.path(), &format!("/docker/{ID}"));
    assert_eq!((facts.name.as_deref(), facts.image.as_deref()), (Some("db"), Some("postgres:16")));
}

#[test]
fn podman_is_asked_over_the_socket_of_the_containers_user() {
    let root = tempfile::tempdir().unwrap();
    let own = format!("/v4.0.0/libpod/containers/{ID}/json");
    let pod = format!("/v4.0.0/libpod/pods/{POD_ID}/json");
    let container = format!(
        r#"{{"Name": "piper", "ImageName": "localhost/piper:1", "Pod": "{POD_ID}",
             "Config": {{"Image": "x", "Labels": {{"a": "own"}}}}}}"#
    );
    let answers = [
        (own.as_str(), container.as_str()),
        (&pod, r#"{"Name": "voices", "Labels": {"a": "pod", "b": "pod"}}"#),
    ];
    let asked = serve(&root.path().join("run/user/1000/podman/podman.sock"), &answers);
    let slice = "user.slice/user-1000.slice/user@1000.service/user.slice";
    let facts = ask(root.path(), &format!("/{slice}/libpod-{ID}.scope/container"));
    assert_eq!(facts.engine, "podman");
    assert_eq!(facts.name.as_deref(), Some("piper"));
    assert_eq!(facts.image.as_deref(), Some("localhost/piper:1"));
    assert_eq!(facts.pod.as_deref(), Some("voices"));
    assert_eq!(facts.labels, [("a".into(), "own".into()), ("b".into(), "pod".into())]);
    assert_eq!(asked.try_iter().collect::<Vec<_>>(), [own, pod]);
}

#[test]
fn podman_that_serves_no_socket_has_a_list() {
    let root = tempfile::tempdir().unwrap();
    let list = format!(
        r#"[{{"id": "{POD_ID}", "names": ["other"]}},
            {{"id": "{ID}", "names": ["piper"], "image": "1f",
              "metadata": "{{\"image-name\":\"docker.io/rhasspy/piper:latest\",\"name\":\"piper\"}}"}}]"#
    );
    write(root.path(), "var/lib/containers/storage/vfs-containers/containers.json", "[]");
    write(root.path(), "var/lib/containers/storage/overlay-containers/containers.json", &list);
    let facts = ask(root.path(), &format!("/machine.slice/libpod-{ID}.scope"));
    assert_eq!(facts.name.as_deref(), Some("piper"));
    assert_eq!(facts.image.as_deref(), Some("docker.io/rhasspy/piper:latest"));
}

#[test]
fn containerd_writes_into_the_tasks_bundle() {
    let root = tempfile::tempdir().unwrap();
    let tasks = "run/containerd/io.containerd.runtime.v2.task";
    write(root.path(), &format!("{tasks}/moby/{POD_ID}/config.json"), "{}");
    write(
        root.path(),
        &format!("{tasks}/k8s.io/{ID}/config.json"),
        r#"{"ociVersion": "1.1.0", "annotations": {
            "io.kubernetes.cri.container-name": "server", "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.image-name": "docker.io/vllm/vllm-openai:v0.6",
            "io.kubernetes.cri.sandbox-name": "vllm-7d9-x2", "io.kubernetes.cri.sandbox-namespace": "llm"}}"#,
    );
    let uid = POD.replace('-', "_");
    let group = format!("/kubepods.slice/kubepods-pod{uid}.slice/cri-containerd-{ID}.scope");
    let facts = ask(root.path(), &group);
    assert_eq!(facts.engine, "containerd");
    assert_eq!(facts.name.as_deref(), Some("server"));
    assert_eq!(facts.image.as_deref(), Some("docker.io/vllm/vllm-openai:v0.6"));
    assert_eq!(facts.pod.as_deref(), Some("vllm-7d9-x2"));
    assert_eq!(facts.namespace.as_deref(), Some("llm"));
}

#[test]
fn crio_has_the_pods_labels_in_the_pods_bundle() {
    let root = tempfile::tempdir().unwrap();
    let storage = "var/lib/containers/storage/overlay-containers";
    write(
        root.path(),
        &format!("{storage}/{ID}/userdata/config.json"),
        &format!(
            r#"{{"annotations": {{"io.kubernetes.container.name": "asr", "io.kubernetes.pod.name": "asr-0",
                "io.kubernetes.pod.namespace": "speech", "io.kubernetes.cri-o.ImageName": "quay.io/asr:2",
                "io.kubernetes.cri-o.Labels": "{{\"tier\":\"own\"}}",
                "io.kubernetes.cri-o.SandboxID": "{POD_ID}"}}}}"#
        ),
    );
    write(
        root.path(),
        &format!("{storage}/{POD_ID}/userdata/config.json"),
        r#"{"annotations": {"io.kubernetes.cri-o.Labels": "{\"app\":\"asr\",\"tier\":\"pod\"}"}}"#,
    );
    let facts = ask(root.path(), &format!("/kubepods/besteffort/pod{POD}/crio-{ID}"));
    assert_eq!(facts.engine, "cri-o");
    assert_eq!(facts.image.as_deref(), Some("quay.io/asr:2"));
    assert_eq!(facts.pod.as_deref(), Some("asr-0"));
    assert_eq!(facts.labels, [("app".into(), "asr".into()), ("tier".into(), "own".into())]);
}

#[test]
fn the_kubelets_log_names_a_container_of_any_engine() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &format!("var/log/containers/cam-5_vision_detector-{ID}.log"), "");
    let facts = ask(root.path(), &format!("/kubepods/pod{POD}/{ID}"));
    assert_eq!(facts.engine, "");
    let told = [facts.name, facts.pod, facts.namespace];
    assert_eq!(told, ["detector", "cam-5", "vision"].map(|text| Some(text.to_owned())));
}

#[test]
fn nobody_is_asked_where_no_rule_wants_details() {
    let root = tempfile::tempdir().unwrap();
    let asked = serve(&root.path().join("run/docker.sock"), &[]);
    let mut containers = Containers::new(Places::below(root.path()));
    let group = format!("/docker/{ID}");
    assert_eq!(containers.of(7, &group, false).unwrap().id, ID);
    assert!(containers.news(Instant::now()).is_empty());
    assert!(containers.asker.is_none() && asked.try_recv().is_err());
}

#[test]
fn an_engine_that_hangs_lies_or_talks_without_end_costs_nobody_a_wait() {
    let root = tempfile::tempdir().unwrap();
    let group = format!("/docker/{ID}");
    let endless = format!("{{\"Name\": \"{}\"}}", "x".repeat(2 << 20));
    let path = format!("/containers/{ID}/json");
    let asked = serve(&root.path().join("run/docker.sock"), &[(&path, &endless)]);
    let mut containers = Containers::new(Places::below(root.path()));
    containers.of(7, &group, true);
    let begun = Instant::now();
    assert!(containers.news(Instant::now()).is_empty());
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    asked.recv_timeout(Duration::from_secs(10)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while containers.known[ID].due.is_none() && Instant::now() < deadline {
        assert!(containers.news(Instant::now()).is_empty());
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(containers.known[ID].failures, 1, "asked for again after a pause");
    assert_eq!(containers.of(7, &group, true).unwrap().name, None);

    // One that takes the connection and says nothing.
    let silent = tempfile::tempdir().unwrap();
    fs::create_dir_all(silent.path().join("run")).unwrap();
    let _listener = UnixListener::bind(silent.path().join("run/docker.sock")).unwrap();
    let question = Question::new(container_of(&group).unwrap(), &group);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begun = Instant::now();
    assert_eq!(runtime.block_on(Places::below(silent.path()).ask(&question)), Answer::default());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn the_containerd_of_a_kubernetes_distribution_is_found() {
    for place in ["run/k3s/containerd", "var/snap/microk8s/common/run/containerd"] {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &format!("{place}/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json"),
            r#"{"annotations": {"io.kubernetes.cri.container-name": "server"}}"#,
        );
        let facts = ask(root.path(), &format!("/kubepods/burstable/pod{POD}/{ID}"));
        assert_eq!((facts.engine.as_str(), facts.name.as_deref()), ("containerd", Some("server")));
    }
}

/// Asks at `now` and takes in the answer, which is that no engine knows the container.
fn ask_in_vain(containers: &mut Containers, now: Instant) {
    let failures = containers.known[ID].failures;
    let begun = Instant::now();
    while containers.known[ID].failures == failures && begun.elapsed() < Duration::from_secs(10) {
        containers.news(now);
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(containers.known[ID].failures, failures + 1);
}

#[test]
fn an_engine_that_comes_later_is_asked_at_once() {
    let root = tempfile::tempdir().unwrap();
    // The name is known from elsewhere, the image is not.
    write(root.path(), &format!("var/log/containers/cam-5_vision_detector-{ID}.log"), "");
    let mut containers = Containers::new(Places::below(root.path()));
    let group = format!("/kubepods/pod{POD}/{ID}");
    containers.of(7, &group, true);
    let mut now = Instant::now();
    for pause in [0, 1, 5, 30] {
        now += Duration::from_secs(pause);
        ask_in_vain(&mut containers, now);
    }
    assert_eq!(containers.of(7, &group, true).unwrap().pod.as_deref(), Some("cam-5"));
    // Nothing is due for five minutes.
    now += Duration::from_secs(2);
    assert!(containers.news(now).is_empty() && containers.known[ID].due > Some(now));
    let answer = r#"{"Name": "/it", "Config": {"Image": "detector:3"}}"#;
    let path = format!("/containers/{ID}/json");
    let asked = serve(&root.path().join("run/docker.sock"), &[(&path, answer)]);
    now += Duration::from_secs(1);
    assert!(containers.news(now).is_empty());
    asked.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(wait_for_news(&mut containers), [7]);
    assert_eq!(containers.of(7, &group, true).unwrap().image.as_deref(), Some("detector:3"));
}

#[test]
fn a_container_is_forgotten_with_its_last_process() {
    let root = tempfile::tempdir().unwrap();
    let mut containers = Containers::new(Places::below(root.path()));
    let group = format!("/docker/{ID}");
    containers.of(7, &group, true);
    containers.of(8, &group, true);
    containers.forget(7);
    assert_eq!(containers.known.len(), 1);
    containers.of(8, "/system.slice/cron.service", true);
    assert!(containers.known.is_empty() && containers.of_process.is_empty());
}

/// With a podman that runs here: `DOWNBEAT_TEST_PODMAN=ID`, the id of a container in a pod.
#[test]
#[ignore = "needs a podman and a container of its own"]
fn a_real_podman_is_understood() {
    let id = std::env::var("DOWNBEAT_TEST_PODMAN").unwrap();
    let group = format!("/machine.slice/libpod-{id}.scope");
    let question = Question::new(container_of(&group).unwrap(), &group);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let served = runtime.block_on(Places::default().ask(&question)).facts.unwrap();
    println!("{served:?}");
    let listed = records::storage(Path::new("/var/lib/containers/storage"), &id).unwrap();
    println!("{listed:?}");
    assert_eq!((&served.name, &served.image), (&listed.name, &listed.image));
    assert!(served.pod.is_some());
}
