//! Any bytes as a `ModelInferRequest`: they are one, or refused with a reason. How to run it:
//! rest.rs.

#![no_main]

#[path = "../../tests/support/outcome.rs"]
#[expect(dead_code, reason = "each target asks for one of them")]
mod outcome;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| outcome::grpc(data));
