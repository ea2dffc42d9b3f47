//! Any bytes as a Wyoming client's events, as a format and as sound: they are taken, or refused with
//! a reason. How to run it: rest.rs.

#![no_main]

#[path = "../../tests/support/outcome.rs"]
#[expect(dead_code, reason = "each target asks for one of them")]
mod outcome;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| outcome::wyoming(data));
