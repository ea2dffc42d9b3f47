//! The kernel programs: build them from source, and check that the committed object is what the
//! source says.

mod command;
mod linker;
mod object;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use self::command::run;
use self::object::Program;
use self::toolchain::Toolchain;
use crate::workspace;

/// The committed object, from the repository's root.
const OBJECT: &str = "ebpf/object/downbeat.bpf.o";

/// What made it.
const RECORD: &str = "ebpf/object/build.toml";

const TARGET: &str = "bpfel-unknown-none";

/// What to do with the built object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Compare it with the committed one instead of replacing that.
    pub check: bool,
}

/// Builds the kernel programs from source, setting up what that needs.
///
/// # Errors
/// One line that says what is missing and how to get it; with `check`, where the committed
/// object differs from its source.
pub fn build(options: Options) -> anyhow::Result<()> {
    if options.check {
        return check();
    }
    let root = workspace::root();
    let built = compile(root)?;
    let path = root.join(OBJECT);
    let stripped = object::strip(&built.object)?;
    let folder = path.parent().context("the object has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    write(&path, &stripped)?;
    write(&root.join(RECORD), built.record.as_bytes())?;
    println!("{OBJECT}: {} bytes", stripped.len());
    for Program { name, instructions, .. } in object::programs(&stripped)? {
        println!("  {name}: {instructions} instructions");
    }
    Ok(())
}

/// Builds the kernel programs anew and compares them, instruction by instruction, with the
/// committed object.
///
/// # Errors
/// As [`build`].
pub fn check() -> anyhow::Result<()> {
    let root = workspace::root();
    let path = root.join(OBJECT);
    let committed = fs::read(&path)
        .with_context(|| format!("{}: run `cargo xtask build-ebpf` and commit", path.display()))?;
    let built = compile(root)?;
    let record = fs::read_to_string(root.join(RECORD)).unwrap_or_default();
    if let Some(difference) = object::difference(&committed, &object::strip(&built.object)?)? {
        let toolchain = if record == built.record {
            String::new()
        } else {
            let flat = |text: &str| text.lines().collect::<Vec<_>>().join(", ");
            format!(" (built with {}, committed with {})", flat(&built.record), flat(&record))
        };
        bail!(
            "{OBJECT} is not what its source says: {difference}{toolchain}. Run `cargo xtask \
             build-ebpf` and commit ebpf/object"
        );
    }
    println!("{OBJECT}: the same instructions as from source");
    Ok(())
}

struct Built {
    /// As the linker left it, with debug information.
    object: Vec<u8>,
    /// Versions of what made it.
    record: String,
}

fn compile(root: &Path) -> anyhow::Result<Built> {
    let toolchain = toolchain::find_or_install()?;
    let linker = linker::find_or_install(root, &toolchain)?;
    let target = root.join("target/bpf");
    let mut cargo = toolchain.cargo();
    cargo
        .args(["build", "--quiet", "--package", "downbeat-ebpf", "--profile", "bpf"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root, &linker)?.join("\x1f"))
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    run(&mut cargo).context("compiling the kernel programs")?;
    let path = target.join(TARGET).join("bpf/downbeat");
    let object = fs::read(&path).with_context(|| path.display().to_string())?;
    let record = format!(
        "# What made downbeat.bpf.o; `cargo xtask build-ebpf` writes both.\n\
         rustc = \"{}\"\nllvm = \"{}\"\nbpf-linker = \"{}\"\n",
        toolchain.version,
        toolchain.llvm,
        linker::VERSION
    );
    Ok(Built { object, record })
}

/// Flags of the compiler. Folders of this machine are cut from every path that could end up in
/// the object, so that another machine builds the same one.
fn flags(root: &Path, linker: &Path) -> anyhow::Result<Vec<String>> {
    let mut flags = vec![
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.display()),
        format!("--remap-path-prefix={}=.", root.display()),
    ];
    let registry = cargo_home()?.join("registry/src");
    for entry in fs::read_dir(&registry).into_iter().flatten().flatten() {
        flags.push(format!("--remap-path-prefix={}=registry", entry.path().display()));
    }
    Ok(flags)
}

fn cargo_home() -> anyhow::Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .context("neither CARGO_HOME nor HOME is set")
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

impl Toolchain {
    /// The cargo that builds with it.
    fn cargo(&self) -> Command {
        let mut command = workspace::cargo();
        command.env("RUSTC", &self.rustc);
        if self.from_source {
            command.args(["-Z", "build-std=core"]);
            // The library, cargo and two of the crates use unstable features.
            command.env("RUSTC_BOOTSTRAP", "1");
            if let Some(source) = &self.library_source {
                command.env("__CARGO_TESTS_ONLY_SRC_ROOT", source);
            }
        } else {
            // Of all crates only these two use an unstable feature: inline assembly for BPF.
            command.env("RUSTC_BOOTSTRAP", "aya_ebpf,downbeat");
        }
        command
    }
}
