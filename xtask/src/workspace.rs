//! Where the workspace is, and how it is built.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use downbeat_tests::agent::PROGRAMS;

/// The workspace's folder.
pub fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// Where builds go.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// `cargo` in the workspace's folder.
pub fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Builds every default member for use.
pub fn build_release() -> Result<()> {
    let status = cargo().args(["build", "--release"]).status().context("cargo: starting it")?;
    ensure!(status.success(), "cargo build --release: {status}");
    Ok(())
}

/// Builds what the demo runs: without the engine that computes models, which takes minutes to build
/// and has no part in it, and without what is not run by it.
pub fn build_demo() -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--release", "--no-default-features"]);
    for program in PROGRAMS {
        command.args(["--bin", program]);
    }
    let status = command.status().context("cargo: starting it")?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// The folder of the release programs.
pub fn release_programs() -> PathBuf {
    target().join("release")
}

/// The folder of the programs that tests run.
pub fn test_programs() -> PathBuf {
    target().join("debug")
}
