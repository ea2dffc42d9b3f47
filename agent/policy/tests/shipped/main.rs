//! Every policy that ships is good, and matches what it says it is for.

mod examples;
mod programs;

use std::fs;
use std::path::{Path, PathBuf};

use downbeat_policy::{Deadline, Modality, PolicySet, ProcessFacts, Sched, Source, Tier};

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

/// Debian 12's, and what most links of another name come to.
const PYTHON: &str = "/usr/bin/python3.11";

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

/// The pool's one thread that every request passes through, and not those beside it.
#[test]
fn the_pools_dispatcher_goes_ahead_and_its_helpers_do_not() {
    let set = parsed(&policies());
    let pool = process("/usr/bin/downbeat-pool", "/usr/bin/downbeat-pool --pool-dir /etc/pool.d");
    let of =
        |thread| set.classify(&pool, thread).map(|found| set.classes[found.class].name.as_str());
    assert_eq!(of("downbeat-pool"), Some("dispatcher"));
    assert_eq!(of("tokio-rt-worker"), None);
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

/// Nothing that costs more than a look at `/proc` is read for the shipped rules alone, and nothing
/// is guessed. The one variable tells ComfyUI's `main.py` from all others, for as much as a command
/// line costs.
#[test]
fn the_shipped_set_asks_for_nothing_costly() {
    let set = parsed(&policies());
    let env = ["PWD".to_owned()].into();
    assert_eq!(set.needs(), downbeat_policy::Needs { env, ..downbeat_policy::Needs::default() });
    assert!(!set.auto.enabled);
    for (modality, class) in &set.auto.classes {
        assert_ne!(set.classes[*class].tier, Tier::Realtime, "{}", modality.name());
    }
}

/// An example promises nothing that no part of the agent does yet.
#[test]
fn no_example_names_what_is_not_acted_on() {
    for folder in [policies(), policies().join("demo"), policies().join("examples")] {
        for source in sources(&folder) {
            let words =
                ["gpu ", "target "].map(|key| source.text.lines().any(|l| l.starts_with(key)));
            assert_eq!(words, [false; 2], "{}", source.path.display());
        }
    }
}

/// What a process has as a whole follows its main thread, so that such keys in a class for some
/// threads alone would do nothing.
#[test]
fn classes_of_threads_alone_ask_for_nothing_that_is_the_processs() {
    let shipped = sources(&policies());
    let examples = sources(&policies().join("examples"));
    for example in examples {
        let set = [&shipped[..], std::slice::from_ref(&example)].concat();
        let set = PolicySet::parse(&set).expect("a good example");
        for (at, class) in set.classes.iter().enumerate() {
            let mut rules = set.rules.iter().filter(|rule| rule.class == at).peekable();
            let named = rules.peek().is_some();
            let of_threads = rules.flat_map(|rule| &rule.matchers).all(|m| !m.thread.is_empty());
            let of_process = class.adopt || class.memory.oom.is_some();
            assert!(!(named && of_threads && of_process), "{}", class.name);
        }
    }
}
