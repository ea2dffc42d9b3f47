use super::*;
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

#[test]
fn every_key_is_understood() {
    let (_, text) =
        fixtures("valid").into_iter().find(|(path, _)| path.ends_with("every-key.toml")).unwrap();
    let workers = parse(&[source("x.toml", &text)]).unwrap();
    assert_eq!(
        workers,
        [
            WorkerConfig {
                name: "mic".into(),
                program: Program::Denoise,
                env: BTreeMap::new(),
                dir: None,
                deadline: Some(Duration::from_millis(10)),
                restart: Restart::Always,
            },
            WorkerConfig {
                name: "picture".into(),
                program: Program::Command(vec!["ffmpeg".into(), "-h".into()]),
                env: BTreeMap::from([("A".into(), "b".into()), ("C".into(), String::new())]),
                dir: Some("/tmp".into()),
                deadline: Some(Duration::from_micros(33_300)),
                restart: Restart::OnFailure,
            },
        ]
    );
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
