//! A guest's file system: our programs, the libraries that they need, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use downbeat_tests::agent::PROGRAMS;

use crate::workspace;

const INIT: &str = "downbeat-guest";
/// Users that programs look up.
const PASSWD: &str = "root:x:0:0:root:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// Packs an initramfs with the programs in `programs` and returns its path.
pub fn build(programs: &Path) -> Result<PathBuf> {
    let folder = workspace::target().join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("{}: making it", folder.display()))?;
    // A folder of this call's own: two may run at a time.
    let root = tempfile::Builder::new().prefix("image.").tempdir_in(&folder)?;
    let at = |inside: &str| root.path().join(inside);
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "run"] {
        fs::create_dir(at(dir))?;
    }
    fs::write(at("etc/passwd"), PASSWD)?;
    fs::write(at("etc/group"), GROUP)?;
    let mut libraries = BTreeSet::new();
    for program in PROGRAMS.iter().chain([&INIT]) {
        let from = programs.join(program);
        libraries.extend(libraries_of(&from)?);
        strip(&from, &at("bin").join(program))?;
    }
    std::os::unix::fs::symlink(format!("bin/{INIT}"), at("init"))?;
    for library in libraries {
        let to = root.path().join(library.strip_prefix("/").unwrap_or(&library));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(&library, &to).with_context(|| format!("{}: copying it", library.display()))?;
    }
    let image = folder.join(format!("initramfs.{}.cpio", std::process::id()));
    pack(root.path(), &image)?;
    Ok(image)
}

/// The shared libraries that a program asks for, its loader among them.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd: starting it")?;
    ensure!(
        output.status.success(),
        "ldd {}: {}; build first (`cargo build`)",
        program.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    // `name => /path (address)`, and `/path (address)` for the loader.
    let paths = text.lines().filter_map(|line| {
        line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from)
    });
    Ok(paths.collect())
}

/// Copies without debug information, which would fill the guest's memory.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let stripped = Command::new("strip").arg("-g").arg("-o").arg(to).arg(from).status();
    if stripped.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    // No binutils: it fits all the same, and takes longer.
    fs::copy(from, to).map(drop).with_context(|| format!("{}: copying it", from.display()))
}

fn pack(root: &Path, image: &Path) -> Result<()> {
    let list = Command::new("find")
        .arg(".")
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("find: starting it")?;
    let mut list = list;
    let names = list.stdout.take().context("find: no output")?;
    let out = fs::File::create(image).with_context(|| format!("{}: making it", image.display()))?;
    let packed = Command::new("cpio")
        .args(["--quiet", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(root)
        .stdin(names)
        .stdout(out)
        .status()
        .context("cpio: starting it")?;
    let listed = list.wait()?;
    ensure!(packed.success() && listed.success(), "cpio: {packed}, find: {listed}");
    Ok(())
}
