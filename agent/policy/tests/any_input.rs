//! Whatever stands in a file, it is read or refused with a place inside the file.

use std::fs;
use std::path::Path;

#[path = "support/outcome.rs"]
mod outcome;

use downbeat_policy::{PolicySet, Source};
use outcome::check;
use proptest::prelude::*;

fn valid_files() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/valid");
    let entries = fs::read_dir(folder).expect("a folder of fixtures");
    let files = entries.map(|entry| entry.expect("a readable folder").path());
    let mut files: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    files.iter().map(|file| fs::read_to_string(file).expect("a text")).collect()
}

/// One change to a text, at a place given as a share of its length.
#[derive(Clone, Debug)]
enum Change {
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, String),
    SwapLines(prop::sample::Index, prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let words = prop::sample::select(vec![
        "[",
        "]",
        "[[",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\"",
        "'",
        "\n",
        "\\",
        "#",
        "*",
        "any = ",
        "-1",
        "1e9",
        "true",
        "\"\"\"",
        "1979-05-27",
        "[class.x]\n",
        "[[rule]]\n",
        "\u{feff}",
        "é",
        "\u{1b}",
        "\0",
    ]);
    prop_oneof![
        (any::<prop::sample::Index>(), 1..20usize).prop_map(|(at, n)| Change::Remove(at, n)),
        (any::<prop::sample::Index>(), words.prop_map(str::to_owned))
            .prop_map(|(at, text)| Change::Insert(at, text)),
        (any::<prop::sample::Index>(), "\\PC{0,8}").prop_map(|(at, text)| Change::Insert(at, text)),
        (any::<prop::sample::Index>(), any::<prop::sample::Index>())
            .prop_map(|(a, b)| Change::SwapLines(a, b)),
    ]
}

fn apply(text: &str, change: &Change) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    match change {
        Change::Remove(at, n) if !chars.is_empty() => {
            let at = at.index(chars.len());
            chars.drain(at..(at + n).min(chars.len()));
        }
        Change::Insert(at, text) => {
            let at = at.index(chars.len() + 1);
            chars.splice(at..at, text.chars());
        }
        Change::SwapLines(a, b) => {
            let mut lines: Vec<&str> = text.split('\n').collect();
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
            return lines.join("\n");
        }
        Change::Remove(..) => {}
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        check(&[text]);
    }

    #[test]
    fn any_text_of_toml_characters_is_read_or_refused(
        text in "(schema = 1\n)?([a-z\\[\\]{}=.,\"' \n#0-9*-]|class\\.|rule|match|any){0,60}",
    ) {
        check(&[text]);
    }

    #[test]
    fn a_changed_valid_file_is_read_or_refused(
        file in prop::sample::select(valid_files()),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        check(&[changes.iter().fold(file, |text, change| apply(&text, change))]);
    }

    #[test]
    fn changed_files_together_are_read_or_refused(
        files in prop::collection::vec((prop::sample::select(valid_files()), change()), 1..4),
    ) {
        let texts: Vec<_> = files.iter().map(|(text, change)| apply(text, change)).collect();
        check(&texts);
    }
}

#[test]
fn deep_nesting_is_refused() {
    let text = format!("schema = 1\nclass = {}", "[".repeat(100_000));
    check(&[text]);
    let text = format!("schema = 1\n[class.{}x]\n", "x.".repeat(10_000));
    check(&[text]);
}

/// A megabyte of mistakes on one line must not take time with the square of their number.
#[test]
fn a_line_of_a_hundred_thousand_mistakes_is_read_in_linear_time() {
    let text = format!("schema = 1\nrule = [{}]", "1,".repeat(100_000));
    let start = std::time::Instant::now();
    let sources = [Source { path: "long.toml".into(), text }];
    let problems = PolicySet::parse(&sources).expect_err("no rule is a number");
    assert_eq!(problems.len(), 100_000);
    assert_eq!(problems.last().map(|p| (p.line, p.column)), Some((2, 9 + 2 * 99_999)));
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
}

/// What the fuzzer found worth keeping: fuzz/fuzz_targets/parse.rs.
#[test]
fn the_kept_corpus_is_read_or_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/parse");
    let mut read = 0;
    for entry in fs::read_dir(folder).expect("the corpus") {
        let bytes = fs::read(entry.expect("a readable folder").path()).expect("a file");
        let Ok(text) = String::from_utf8(bytes) else { continue };
        check(&text.split("\n%%\n").map(str::to_owned).collect::<Vec<_>>());
        read += 1;
    }
    assert!(read > 20, "{read} files");
}
