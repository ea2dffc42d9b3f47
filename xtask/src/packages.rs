//! What commands need from Debian's packages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// A program and the package that brings it.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Looked for in `PATH` and in the folders of system programs.
    pub program: &'static str,
    /// Debian's name.
    pub package: &'static str,
}

/// Boots virtual machines.
pub const QEMU: Tool = Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" };
/// Packs their file system.
pub const CPIO: Tool = Tool { program: "cpio", package: "cpio" };
/// A terminal without a person.
pub const TMUX: Tool = Tool { program: "tmux", package: "tmux" };
/// Text to speech.
pub const ESPEAK: Tool = Tool { program: "espeak-ng", package: "espeak-ng" };
/// Sound and pictures.
pub const FFMPEG: Tool = Tool { program: "ffmpeg", package: "ffmpeg" };
/// Text in pictures.
pub const TESSERACT: Tool = Tool { program: "tesseract", package: "tesseract-ocr" };
/// Speech to text.
pub const POCKETSPHINX: Tool = Tool { program: "pocketsphinx_continuous", package: "pocketsphinx" };
/// Its English, which no program comes with.
pub const POCKETSPHINX_ENGLISH: Tool =
    Tool { program: "../share/pocketsphinx/model/en-us/en-us/mdef", package: "pocketsphinx-en-us" };
/// Scrapes metrics and checks queries.
pub const PROMETHEUS: Tool = Tool { program: "prometheus", package: "prometheus" };
/// A storm of wake-ups.
pub const HACKBENCH: Tool = Tool { program: "hackbench", package: "rt-tests" };
/// The probe that downbeat's own are measured against.
pub const RUNQLAT: Tool = Tool { program: "runqlat", package: "libbpf-tools" };
/// Another one, which lists long waits.
pub const RUNQSLOWER: Tool = Tool { program: "runqslower", package: "libbpf-tools" };

/// Where Debian asks whether a package may start its service.
const POLICY_RC: &str = "/usr/sbin/policy-rc.d";

/// Makes sure that all `tools` are there: installs what lacks when root, else names the command.
pub fn need(tools: &[Tool]) -> Result<()> {
    let lacking: Vec<&Tool> = tools.iter().filter(|tool| find(tool.program).is_none()).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = lacking.iter().map(|tool| tool.package).collect();
    let list = packages.join(" ");
    let programs: Vec<&str> = lacking.iter().map(|tool| tool.program).collect();
    let lack = format!("{} not found", programs.join(", "));
    if !nix::unistd::geteuid().is_root() {
        bail!("{lack}. Install: sudo apt-get install --no-install-recommends {list}");
    }
    if find("apt-get").is_none() {
        bail!("{lack}, and this is no Debian. Install what brings them (Debian: {list})");
    }
    eprintln!("{lack}; installing {list}");
    install(&packages)?;
    match tools.iter().find(|tool| find(tool.program).is_none()) {
        None => Ok(()),
        Some(tool) => bail!("{} is not in Debian's package {}", tool.program, tool.package),
    }
}

/// Makes sure that Python can make environments of its own: Debian splits what that needs off.
pub fn need_venv() -> Result<()> {
    let works = || {
        let check = Command::new("python3").args(["-c", "import ensurepip, venv"]).output();
        check.is_ok_and(|output| output.status.success())
    };
    if works() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() || find("apt-get").is_none() {
        bail!("python3 makes no environments. Install what it needs (Debian: python3-venv)");
    }
    eprintln!("python3 makes no environments; installing python3-venv");
    install(&["python3-venv"])?;
    ensure!(works(), "python3 in PATH makes no environments, even with Debian's python3-venv");
    Ok(())
}

/// Installs packages; needs root and apt-get.
pub fn install(packages: &[&str]) -> Result<()> {
    let _quiet = NoServices::begin()?;
    apt_get(&["update"])?;
    let install = ["install", "--yes", "--no-install-recommends"];
    apt_get(&[&install[..], packages].concat())
}

/// A program in `PATH`, or where Debian keeps those of the administrator.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

fn apt_get(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q").args(args);
    let output = command.output().context("apt-get: starting it")?;
    ensure!(
        output.status.success(),
        "apt-get {}: {}\n{}",
        args.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// While it lives, packages do not start services as they are installed (`prometheus` would).
/// Where an administrator has a rule of their own, that one stays.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self> {
        let path = Path::new(POLICY_RC);
        if path.exists() {
            return Ok(Self { ours: false });
        }
        // 101: "action forbidden by policy".
        fs::write(path, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("{POLICY_RC}: writing it"))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY_RC)
        {
            eprintln!("{POLICY_RC}: {error}; remove it by hand, or no package starts its service");
        }
    }
}
