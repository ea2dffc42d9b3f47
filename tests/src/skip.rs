//! Tests that a host cannot run say so in one line, which `cargo xtask test` counts.

use std::io::Write;

/// First word of the line.
pub const PREFIX: &str = "skipped:";

/// Says that the calling test did not run. Written past the test runner's capture, which would
/// swallow it in a test that passes.
pub fn skipped(reason: &str) {
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    // A closed standard error is no reason for a test to fail.
    let _ = std::io::stderr().write_all(format!("\n{PREFIX} {name}: {reason}\n").as_bytes());
}

/// True where the test may go on; else says that it is skipped.
#[must_use]
pub fn root_or_skip() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skipped("needs root");
    }
    root
}
