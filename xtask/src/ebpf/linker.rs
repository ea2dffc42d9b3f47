//! bpf-linker: from Rust's LLVM bitcode to one BPF object.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::command::{output, run};
use super::toolchain::Toolchain;
use crate::workspace;

/// The version that made the committed object.
pub(super) const VERSION: &str = "0.13.0";

/// LLVM versions that it can be built for.
const LLVM_MAJORS: [&str; 3] = ["21", "22", "23"];

/// The linker in `target/tools`, installed there on first use.
pub(super) fn find_or_install(root: &Path, toolchain: &Toolchain) -> anyhow::Result<PathBuf> {
    let tools = root.join("target/tools");
    let linker = tools.join("bin/bpf-linker");
    // One whose LLVM went with an updated toolchain does not start and is made again.
    let version = output(Command::new(&linker).arg("--version"));
    if version.is_some_and(|version| version.ends_with(VERSION)) {
        return Ok(linker);
    }
    install(&tools, toolchain)?;
    Ok(linker)
}

/// Builds the linker against the LLVM that comes with the Rust that runs here.
fn install(tools: &Path, toolchain: &Toolchain) -> anyhow::Result<()> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))
        .context("rustc --print sysroot failed: is Rust in the path?")?;
    let folder = Path::new(&sysroot).join("lib");
    let (library, major) = llvm(&folder)?;
    let wanted = toolchain.llvm.split('.').next().unwrap_or_default();
    if major != wanted {
        bail!(
            "{} is LLVM {major}, but {} writes bitcode of LLVM {}: install a Rust with LLVM \
             {wanted} (`rustup update`)",
            library.display(),
            toolchain.version,
            toolchain.llvm
        );
    }
    if !LLVM_MAJORS.contains(&major.as_str()) {
        bail!(
            "bpf-linker {VERSION} knows LLVM {}, and Rust here comes with LLVM {major}: raise the \
             version in {}",
            LLVM_MAJORS.join(", "),
            file!()
        );
    }
    println!("installing bpf-linker {VERSION} into {} (about a minute, once)", tools.display());
    run(workspace::cargo()
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--quiet", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{major},no-llvm-linking")])
        .arg("--root")
        .arg(tools)
        .env("RUSTFLAGS", link_flags(&folder, &library))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR"))
    .context("installing bpf-linker")
}

fn link_flags(folder: &Path, library: &Path) -> String {
    format!("-Clink-arg={} -Clink-arg=-Wl,-rpath,{}", library.display(), folder.display())
}

/// Rust's own LLVM, `libLLVM.so.MAJOR.MINOR-…`, and its major version.
fn llvm(folder: &Path) -> anyhow::Result<(PathBuf, String)> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let version = name.to_str().and_then(|name| name.strip_prefix("libLLVM.so."));
        if let Some(major) = version.and_then(|version| version.split('.').next()) {
            return Ok((entry.path(), major.to_owned()));
        }
    }
    bail!(
        "{}: no libLLVM.so.*; this Rust was not installed by rustup. Install rustup's stable \
         toolchain, or put bpf-linker {VERSION} into target/tools/bin by hand",
        folder.display()
    )
}
