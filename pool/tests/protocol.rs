//! The code of the protocol's messages is committed, since making it takes a compiler of its language
//! that takes longer to build than the pool: it is what the definition gives.

use std::fs;
use std::path::Path;

#[test]
fn the_committed_code_is_what_the_definition_gives() {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let made = tempfile::tempdir().unwrap();
    let messages = protox::compile(["open_inference.proto"], [&proto]).unwrap();
    tonic_prost_build::configure()
        .build_client(false)
        // Raw contents stay slices of what was received.
        .bytes("ModelInferRequest.raw_input_contents")
        .bytes("ModelInferResponse.raw_output_contents")
        .out_dir(made.path())
        .compile_fds(messages)
        .unwrap();
    let code = fs::read_to_string(made.path().join("inference.rs")).unwrap();
    let committed = proto.join("inference.rs");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&committed, &code).unwrap();
    }
    assert!(
        fs::read_to_string(&committed).is_ok_and(|committed| committed == code),
        "{}: stale; `UPDATE=1 cargo test -p downbeat-pool --test protocol` writes it anew",
        committed.display()
    );
}
