//! Whatever comes over the socket, it is a request or refused with a reason.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

#[path = "support/outcome.rs"]
mod outcome;

use downbeat_api::Request;
use outcome::check;

/// What the fuzzer found worth keeping, and one of each request.
fn corpus() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/request");
    let files = fs::read_dir(folder).expect("the corpus");
    let read = |file: std::io::Result<fs::DirEntry>| fs::read(file.expect("a file").path());
    files.map(|file| read(file).expect("a file that can be read")).collect()
}

#[test]
fn the_corpus_is_read_or_refused() {
    let corpus = corpus();
    corpus.iter().for_each(|line| check(line));
    let requests = corpus.iter().filter(|line| Request::decode(line).is_ok()).count();
    assert!(requests >= 13, "one of each request, found {requests}");
}

#[test]
fn only_what_changes_something_asks_for_that_right() {
    let changes = |line: &str| Request::decode(line.as_bytes()).expect(line).changes();
    for op in ["snapshot", "watch", "host", "misses", "plan", "discover"] {
        assert!(!changes(&format!(r#"{{"op":"{op}"}}"#)), "{op}");
    }
    for op in ["pause", "resume", "reload"] {
        assert!(changes(&format!(r#"{{"op":"{op}"}}"#)), "{op}");
    }
    assert!(changes(r#"{"op":"set","pid":1,"class":"voice"}"#));
    assert!(changes(r#"{"op":"release","pid":1}"#));
    assert!(!changes(r#"{"op":"explain","pid":1}"#));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_read_or_refused(line in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&line);
    }

    #[test]
    fn a_damaged_request_is_read_or_refused(
        line in prop::sample::select(corpus()),
        at in any::<prop::sample::Index>(),
        with in prop::collection::vec(any::<u8>(), 0..8),
        length in 0..8_usize,
    ) {
        let mut line = line;
        if !line.is_empty() {
            let start = at.index(line.len());
            let end = (start + length).min(line.len());
            line.splice(start..end, with);
        }
        check(&line);
    }
}
