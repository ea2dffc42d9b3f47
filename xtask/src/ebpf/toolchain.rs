//! A Rust compiler that has `core` for the BPF target, compiled or as source.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use super::TARGET;
use super::command::output;
use crate::packages;

/// Debian's packages with a compiler and the compiled `core`.
const PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// A compiler for the kernel programs.
#[derive(Debug)]
pub(super) struct Toolchain {
    pub(super) rustc: PathBuf,
    /// `core` is compiled along.
    pub(super) from_source: bool,
    /// Where its source lies, if not in the toolchain itself.
    pub(super) library_source: Option<PathBuf>,
    /// First line of `rustc --version`.
    pub(super) version: String,
    /// Version of its LLVM.
    pub(super) llvm: String,
}

/// Finds a compiler: with compiled `core` first, since the committed object comes from one, then
/// with its source. As root on Debian it installs one.
pub(super) fn find_or_install() -> anyhow::Result<Toolchain> {
    if let Some(toolchain) = find_compiled() {
        return Ok(toolchain);
    }
    let may_install = nix::unistd::geteuid().is_root() && packages::find("apt-get").is_some();
    if may_install {
        eprintln!("installing {}", PACKAGES.join(" "));
        // A release without these packages is no reason to stop looking.
        if let Err(error) = packages::install(&PACKAGES) {
            eprintln!("{error:#}");
        }
    }
    if let Some(toolchain) = find_compiled().or_else(find_source) {
        return Ok(toolchain);
    }
    bail!(
        "no Rust compiler here has `core` for {TARGET}: run `apt-get install {}` (Debian 12 and \
         later, as root) or `rustup component add rust-src`",
        PACKAGES.join(" ")
    )
}

/// Compilers to ask, by name and where Debian puts them when rustup's come first in the path.
fn candidates() -> impl Iterator<Item = PathBuf> {
    [own_rustc().as_str(), "rustc", "/usr/bin/rustc"].map(PathBuf::from).into_iter()
}

/// The compiler that builds this program.
fn own_rustc() -> String {
    std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned())
}

fn find_compiled() -> Option<Toolchain> {
    candidates().find_map(|rustc| {
        let folder =
            output(Command::new(&rustc).args(["--print", "target-libdir", "--target", TARGET]))?;
        let is_core = |name: &str| name.starts_with("libcore-") && name.ends_with(".rlib");
        has_entry(Path::new(&folder), is_core).then(|| describe(rustc, None)).flatten()
    })
}

fn find_source() -> Option<Toolchain> {
    let elsewhere = std::env::var_os("__CARGO_TESTS_ONLY_SRC_ROOT").map(PathBuf::from);
    candidates().find_map(|rustc| {
        let sysroot = PathBuf::from(output(Command::new(&rustc).args(["--print", "sysroot"]))?);
        let own = sysroot.join("lib/rustlib/src/rust/library");
        let source = elsewhere.clone().unwrap_or(own);
        source.join("core/Cargo.toml").exists().then(|| describe(rustc, Some(source))).flatten()
    })
}

fn describe(rustc: PathBuf, source: Option<PathBuf>) -> Option<Toolchain> {
    let text = output(Command::new(&rustc).arg("-vV"))?;
    let llvm = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    Some(Toolchain {
        version: text.lines().next()?.to_owned(),
        llvm: llvm.to_owned(),
        from_source: source.is_some(),
        library_source: source,
        rustc,
    })
}

/// Whether a folder has an entry whose name passes.
fn has_entry(folder: &Path, passes: impl Fn(&str) -> bool) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).any(|name| passes(&name))
}
