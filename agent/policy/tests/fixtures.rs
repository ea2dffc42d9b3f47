//! Every file of tests/fixtures/invalid with the exact messages beside it, and every one of
//! tests/fixtures/valid with what it is read as.

use std::fs;
use std::path::{Path, PathBuf};

use downbeat_policy::language::{self, Key, Shape};
use downbeat_policy::{PolicySet, Source};

fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder)
}

/// Paths with this ending, in name order.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder of fixtures");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}

/// A source that is shown by its file's name alone.
fn source(path: &Path) -> Source {
    let name = path.file_name().expect("a file");
    Source { path: name.into(), text: fs::read_to_string(path).expect("a text") }
}

fn messages(sources: &[Source]) -> String {
    match PolicySet::parse(sources) {
        Ok(set) => format!("good: {set:?}\n"),
        Err(problems) => problems.iter().map(|p| format!("{p}\n")).collect(),
    }
}

/// Where messages and expectation differ. With `UPDATE_FIXTURES` in the environment the expectation
/// becomes what was found: read the difference before you commit it.
fn difference(of: &Path, found: &str, expected: &Path) -> Option<String> {
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        fs::write(expected, found).expect("a folder that can be written");
    }
    let wanted = fs::read_to_string(expected).unwrap_or_default();
    (found != wanted).then(|| {
        format!("{}\n--- found\n{found}--- {}\n{wanted}", of.display(), expected.display())
    })
}

#[test]
fn invalid_files_are_refused_with_their_messages() {
    let files = files(&fixtures("invalid"), "toml");
    assert!(files.len() >= 60, "{} fixtures", files.len());
    let mut differences = Vec::new();
    for file in &files {
        let found = messages(&[source(file)]);
        assert!(!found.starts_with("good"), "{}: {found}", file.display());
        differences.extend(difference(file, &found, &file.with_extension("txt")));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn invalid_sets_are_refused_with_the_problems_of_all_files() {
    let mut differences = Vec::new();
    let sets = fs::read_dir(fixtures("invalid-sets")).expect("a folder of fixtures");
    for set in sets.map(|entry| entry.expect("a readable folder").path()) {
        let sources: Vec<Source> = files(&set, "toml").iter().map(|f| source(f)).collect();
        assert!(sources.len() > 1, "{}", set.display());
        differences.extend(difference(&set, &messages(&sources), &set.join("messages.txt")));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn valid_files_are_read_as_they_were() {
    for file in files(&fixtures("valid"), "toml") {
        let name = file.file_stem().expect("a file").to_string_lossy().into_owned();
        let set = PolicySet::parse(&[source(&file)]);
        let set = set.unwrap_or_else(|problems| panic!("{name}: {problems:#?}"));
        insta::with_settings!({
            snapshot_path => fixtures("valid"), prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_debug_snapshot!(name, set);
        });
    }
}

/// The keys of the language, each of which some valid fixture uses.
#[test]
fn every_key_stands_in_a_valid_fixture() {
    let texts: String = files(&fixtures("valid"), "toml").iter().map(|f| source(f).text).collect();
    let mut keys = Vec::new();
    names(language::FILE, &mut keys);
    for key in keys {
        let written = [format!("{key} = "), format!("[{key}"), format!(".{key}]")];
        assert!(written.iter().any(|way| texts.contains(way)), "{key}");
    }
}

/// All keys of a table and of the tables in it.
fn names(keys: &[Key], found: &mut Vec<&'static str>) {
    for key in keys {
        found.push(key.name);
        inside(key.shape, found);
    }
}

fn inside(shape: Shape, found: &mut Vec<&'static str>) {
    match shape {
        Shape::Table(keys) | Shape::Named(keys) | Shape::Tables(keys) => names(keys, found),
        Shape::Either(shapes) => shapes.iter().for_each(|shape| inside(*shape, found)),
        Shape::OrList(shape) => inside(*shape, found),
        _ => {}
    }
}
