//! Any bytes as the body of a REST inference request: they are one, or refused with a reason.
//!
//! `cargo fuzz run rest` where cargo-fuzz and a nightly toolchain are installed. On stable, since
//! the coverage passes are LLVM's own and need no `-Z`, from the repository's root:
//!
//! ```sh
//! RUSTFLAGS="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
//!   -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
//!   -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares" \
//! cargo build --release --manifest-path pool/fuzz/Cargo.toml \
//!   --target x86_64-unknown-linux-gnu --target-dir target
//! target/x86_64-unknown-linux-gnu/release/rest -max_total_time=600 -max_len=4096 \
//!   target/fuzz-rest pool/fuzz/corpus/rest
//! ```
//!
//! `target/fuzz-rest` must be there (`mkdir -p`). tests/any_inference.rs reads the corpus without a
//! fuzzer.

#![no_main]

#[path = "../../tests/support/outcome.rs"]
#[expect(dead_code, reason = "each target asks for one of them")]
mod outcome;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| outcome::rest(data));
