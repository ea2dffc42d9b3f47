//! Whatever comes as an inference request, it is one or refused with a reason.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use downbeat_pool::oip;
use proptest::prelude::*;

#[path = "support/outcome.rs"]
mod outcome;

fn corpus(of: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(of);
    let files = fs::read_dir(folder).expect("the corpus");
    let read = |file: std::io::Result<fs::DirEntry>| fs::read(file.expect("a file").path());
    files.map(|file| read(file).expect("a file that can be read")).collect()
}

#[test]
fn the_corpus_is_read_or_refused() {
    let (rest, grpc) = (corpus("rest"), corpus("grpc"));
    let wyoming = corpus("wyoming");
    assert!(wyoming.len() >= 3);
    wyoming.iter().for_each(|data| outcome::wyoming(data));
    rest.iter().for_each(|data| outcome::rest(data));
    grpc.iter().for_each(|data| outcome::grpc(data));
    let taken = |data: &Vec<u8>| oip::read_grpc(Bytes::from(data.clone())).is_ok();
    assert!(grpc.iter().filter(|data| taken(data)).count() >= 2, "no message is taken any more");
    let taken = |data: &Vec<u8>| {
        let length = usize::from(u16::from_le_bytes([data[0], data[1]]));
        let json = (length < 65_535).then_some(length);
        oip::read_rest(json, &Bytes::copy_from_slice(&data[2..])).is_ok()
    };
    assert!(rest.iter().filter(|data| taken(data)).count() >= 3, "no body is taken any more");
}

fn damaged() -> impl Strategy<Value = (prop::sample::Index, Vec<u8>, usize)> {
    (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..8), 0..8_usize)
}

fn damage(mut data: Vec<u8>, (at, with, length): (prop::sample::Index, Vec<u8>, usize)) -> Vec<u8> {
    let start = at.index(data.len());
    let end = (start + length).min(data.len());
    data.splice(start..end, with);
    data
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes_are_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..200)) {
        outcome::rest(&data);
        outcome::grpc(&data);
        outcome::wyoming(&data);
    }

    #[test]
    fn a_damaged_request_is_read_or_refused(
        rest in prop::sample::select(corpus("rest")),
        grpc in prop::sample::select(corpus("grpc")),
        wyoming in prop::sample::select(corpus("wyoming")),
        how in damaged(),
    ) {
        outcome::rest(&damage(rest, how.clone()));
        outcome::grpc(&damage(grpc, how.clone()));
        outcome::wyoming(&damage(wyoming, how));
    }
}
