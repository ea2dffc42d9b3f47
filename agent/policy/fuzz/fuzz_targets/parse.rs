//! Any bytes as policy files: they are read or refused with a place, and what was read can be
//! matched. A line `%%` starts another file of the set.
//!
//! `cargo fuzz run parse` where cargo-fuzz and a nightly toolchain are installed. On stable, since
//! the coverage passes are LLVM's own and need no `-Z`, from the repository's root:
//!
//! ```sh
//! RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
//!   -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
//!   -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares" \
//! cargo build --release --manifest-path agent/policy/fuzz/Cargo.toml \
//!   --target x86_64-unknown-linux-gnu --target-dir target
//! target/x86_64-unknown-linux-gnu/release/parse -max_total_time=600 -max_len=4096 \
//!   target/fuzz-corpus agent/policy/fuzz/corpus/parse agent/policy/tests/fixtures/valid \
//!   agent/policy/tests/fixtures/invalid
//! ```
//!
//! `target/fuzz-corpus` must be there (`mkdir -p`). What is worth keeping goes into the repository
//! with `-merge=1 agent/policy/fuzz/corpus/parse target/fuzz-corpus`; tests/any_input.rs reads it
//! without a fuzzer.

#![no_main]

#[path = "../../tests/support/outcome.rs"]
mod outcome;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let texts: Vec<String> = text.split("\n%%\n").map(str::to_owned).collect();
    outcome::check(&texts);
});
