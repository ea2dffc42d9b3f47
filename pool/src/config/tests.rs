use super::*;
use downbeat_link::DataType;
use std::fs;

fn source(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: text.into() }
}

fn fixtures(kind: &str) -> Vec<(PathBuf, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/config/fixtures").join(kind);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let texts = paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "toml"));
    texts.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// Each invalid file ends in comments that are exactly the messages it must give.
#[test]
fn invalid_fixtures_give_their_messages() {
    let fixtures = fixtures("invalid");
    assert!(fixtures.len() >= 6);
    for (path, text) in fixtures {
        let wanted: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("#> ")).collect();
        assert!(!wanted.is_empty(), "{}: no message is expected", path.display());
        let problems = parse(&[source("x.toml", &text)])
            .err()
            .unwrap_or_else(|| panic!("{}: was accepted", path.display()));
        let found: Vec<_> = problems
            .iter()
            .map(|problem| problem.to_string().trim_start_matches("x.toml:").to_owned())
            .collect();
        assert_eq!(found, wanted, "{}", path.display());
    }
}

#[test]
fn valid_fixtures_and_the_shipped_examples_are_accepted() {
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../policies/pool.d/examples");
    let mut all: Vec<_> = fs::read_dir(examples).unwrap().map(|e| e.unwrap().path()).collect();
    all.extend(fixtures("valid").into_iter().map(|(path, _)| path));
    assert!(all.len() >= 4);
    for path in all {
        let text = fs::read_to_string(&path).unwrap();
        if let Err(problems) = parse(&[source(&path.display().to_string(), &text)]) {
            panic!("{}", in_one_line(&problems));
        }
    }
}

fn every_key() -> BTreeMap<String, WorkerConfig> {
    let (_, text) =
        fixtures("valid").into_iter().find(|(path, _)| path.ends_with("every-key.toml")).unwrap();
    let workers = parse(&[source("x.toml", &text)]).unwrap();
    workers.into_iter().map(|worker| (worker.name.clone(), worker)).collect()
}

fn spec(name: &str, datatype: DataType, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: shape.to_vec() }
}

#[test]
fn every_key_is_understood() {
    let workers = every_key();
    assert_eq!(
        workers["mic"],
        WorkerConfig {
            deadline: Some(Duration::from_millis(10)),
            ..WorkerConfig::new("mic", Program::Denoise)
        }
    );
    assert_eq!(
        workers["picture"],
        WorkerConfig {
            env: BTreeMap::from([("A".into(), "b".into()), ("C".into(), String::new())]),
            dir: Some("/tmp".into()),
            deadline: Some(Duration::from_micros(33_300)),
            restart: Restart::OnFailure,
            ..WorkerConfig::new("picture", Program::Command(vec!["ffmpeg".into(), "-h".into()]))
        }
    );
    assert_eq!(
        workers["glyphs"],
        WorkerConfig {
            engine: Engine::Ort,
            instances: Instances { min: 1, max: 4, spare: 1 },
            media: Some(Media::Video),
            cheaper: Some("glyphs-small".into()),
            batch: 8,
            deadline: Some(Duration::from_millis(33)),
            idle: Duration::from_secs(300),
            placement: Placement {
                threads: Some(2),
                cpus: Some(CpuList([0, 1, 2, 3, 6].into())),
                numa: Some(0),
                gpu: Some(vec!["0".into()]),
                memory: Some(512 << 20),
                network: true,
                sandbox: Sandbox::On {
                    read: vec!["/srv/fonts".into()],
                    write: vec!["/var/cache/glyphs".into()],
                },
                user: Some("glyphs".into()),
            },
            ..WorkerConfig::new("glyphs", Program::Model("glyphs".into()))
        }
    );
}

#[test]
fn every_adapter_is_understood() {
    let workers = every_key();
    let adapter = |name: &str| workers[name].adapter.clone().unwrap();
    assert_eq!(
        adapter("whisper"),
        Adapter::Http(Http {
            port: Some(8080),
            health: Some("/health".into()),
            path: Some("/inference".into()),
            body: HttpBody::Form("file".into()),
            content_type: Some("audio/wav".into()),
            url: None,
        })
    );
    assert_eq!(workers["whisper"].inputs, [spec("audio", DataType::Bytes, &[1])]);
    assert_eq!(workers["whisper"].outputs, [spec("text", DataType::Bytes, &[-1])]);
    let whisper = Wyoming {
        service: WyomingService::Transcribe,
        languages: vec!["en".into(), "de-CH".into()],
        rate: 8000,
        longest: Duration::from_secs(30),
    };
    assert_eq!(workers["whisper"].wyoming, Some(whisper));
    let keywords = workers["keywords"].wyoming.clone().unwrap();
    assert_eq!(
        keywords.service,
        WyomingService::Detect {
            words: vec!["go".into(), "stop".into()],
            threshold: 900,
            step: Duration::from_millis(200),
        }
    );
    assert_eq!((keywords.rate, keywords.longest), (16_000, Duration::from_secs(60)));
    assert!(workers["llama"].openai);
    assert_eq!(workers["llama"].instances, Instances { min: 2, max: 2, spare: 0 });
    assert_eq!(adapter("voice"), Adapter::Stdio(Stdio { kept: None }));
    assert_eq!(adapter("echo"), Adapter::Stdio(Stdio { kept: Some(StdioFraming::Length) }));
    assert_eq!(adapter("words"), Adapter::Stdio(Stdio { kept: Some(StdioFraming::Lines) }));
    let triton = Oip {
        url: Some("http://127.0.0.1:8000".into()),
        model: Some("resnet".into()),
        ..Oip::default()
    };
    assert_eq!(adapter("triton"), Adapter::Oip(triton));
    assert_eq!(workers["triton"].program, Program::Elsewhere);
}

#[test]
fn a_name_declared_twice_names_both_places() {
    let files = [
        source("10-a.toml", "[worker.mic]\nmodel = \"denoise\"\n"),
        source("20-b.toml", "\n[worker.mic]\ncommand = [\"true\"]\n"),
    ];
    let problems = parse(&files).unwrap_err();
    assert_eq!(
        in_one_line(&problems),
        "20-b.toml:2:9: [worker.mic] is already declared at 10-a.toml:1; rename one of them"
    );
}

#[test]
fn no_file_declares_no_worker() {
    assert_eq!(parse(&[]), Ok(vec![]));
    assert_eq!(parse(&[source("x.toml", "")]), Ok(vec![]));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\[worker\\.[a-z\u{e4}]\\]\n|[a-z]{1,8} = |\"[^\"]{0,5}\"|\\PC|\n){0,20}") {
        let _ = parse(&[source("x.toml", &text)]);
    }
}
