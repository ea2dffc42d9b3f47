//! What a load tells of itself: a line when it begins, its account at the end. Both are JSON.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One line on standard output, at once.
pub fn tell(line: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(line)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output")
}

/// The account into the file at `path`, or as a line on standard output where that is `-`.
pub fn write(path: &Path, account: &impl Serialize) -> Result<()> {
    if path == Path::new("-") {
        return tell(account);
    }
    let text = serde_json::to_string(account)?;
    fs::write(path, text + "\n").with_context(|| format!("{}: writing it", path.display()))
}
