//! Debian's cloud kernels, by apt, unpacked and never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::packages;
use crate::workspace;

/// A kernel series and where Debian has it.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// As given on the command line.
    pub name: &'static str,
    /// Debian suite.
    suite: &'static str,
}

/// Every series that the agent is tested on.
pub const SERIES: [Series; 2] =
    [Series { name: "6.1", suite: "bookworm" }, Series { name: "6.12", suite: "trixie" }];

/// Depends on the suite's newest cloud kernel.
const META: &str = "linux-image-cloud-amd64";

/// The series' kernel image; fetched once, then kept in the target folder.
pub fn fetch(name: &str) -> Result<PathBuf> {
    let Some(series) = SERIES.iter().find(|series| series.name == name) else {
        let known = SERIES.map(|series| series.name).join(", ");
        bail!("no kernel series {name}; known: {known}");
    };
    let folder = workspace::target().join("vm").join(series.name);
    if let Some(kernel) = kernel_in(&folder) {
        return Ok(kernel);
    }
    if packages::find("apt-get").is_none() {
        bail!(
            "apt-get not found: Debian's kernel cannot be fetched. Put one as {}",
            folder.join("boot/vmlinuz").display()
        );
    }
    fs::create_dir_all(&folder).with_context(|| format!("{}: making it", folder.display()))?;
    let apt = Apt::reaching(series.suite, &folder)?;
    let package = apt.dependency(META, "linux-image-")?;
    // Newer packages keep the image itself in a package of its own.
    let package = apt.dependency(&package, "linux-binary-").unwrap_or(package);
    apt.run("apt-get", &["download", &package])?;
    for file in fs::read_dir(&folder)?.flatten() {
        let path = file.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            let status = unpack.arg("-x").arg(&path).arg(&folder).status().context("dpkg-deb")?;
            ensure!(status.success(), "dpkg-deb -x {}: {status}", path.display());
            // Modules are not used, and large.
            let _ = fs::remove_dir_all(folder.join("lib"));
            let _ = fs::remove_dir_all(folder.join("usr"));
            fs::remove_file(&path)?;
        }
    }
    kernel_in(&folder).with_context(|| format!("{package} holds no boot/vmlinuz-*"))
}

fn kernel_in(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder.join("boot")).ok()?;
    let mut images: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz"))
        .map(|entry| entry.path())
        .collect();
    images.sort();
    images.pop()
}

/// apt, reading a suite that the machine itself may not list.
struct Apt {
    folder: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn reaching(suite: &str, folder: &Path) -> Result<Self> {
        let listed = index_targets("$(RELEASE)")?.contains(&suite.to_owned());
        let mut apt = Self { folder: folder.to_path_buf(), options: Vec::new() };
        if !listed {
            // Lists of its own, beside the machine's, so that nothing of the machine changes.
            let own = folder.join("apt");
            for part in ["lists/partial", "cache/archives/partial", "parts"] {
                fs::create_dir_all(own.join(part))?;
            }
            let base = debian_base()?;
            let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
            let line = format!("deb [signed-by={keyring}] {base} {suite} main\n");
            fs::write(own.join("sources.list"), line)?;
            let at = own.display();
            apt.options = vec![
                format!("Dir::Etc::sourcelist={at}/sources.list"),
                format!("Dir::Etc::sourceparts={at}/parts"),
                format!("Dir::State::lists={at}/lists"),
                format!("Dir::Cache={at}/cache"),
            ];
            apt.run("apt-get", &["update"])?;
        } else if apt.run("apt-cache", &["show", META]).is_err() {
            // Listed, and never read on this machine.
            apt.run("apt-get", &["update"])?;
        }
        Ok(apt)
    }

    /// The newest package that `package` depends on and whose name begins so.
    fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let text = self.run("apt-cache", &["depends", package])?;
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("{package} depends on no {prefix}*: {text}"))
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command.current_dir(&self.folder);
        for option in &self.options {
            command.args(["-o", option]);
        }
        // Downloads go into this folder, which apt's own user may not be able to reach.
        command.args(["-o", "APT::Sandbox::User=root", "-q"]).args(args);
        let output = command.output().with_context(|| format!("{program}: starting it"))?;
        ensure!(
            output.status.success(),
            "{program} {}: {}\n{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Where this machine gets Debian itself from.
fn debian_base() -> Result<String> {
    let targets = index_targets("$(REPO_URI)|$(RELEASE)|$(COMPONENT)")?;
    let suites = ["bookworm", "trixie", "stable"];
    targets
        .iter()
        .filter_map(|line| {
            let mut parts = line.split('|');
            let (uri, release, component) = (parts.next()?, parts.next()?, parts.next()?);
            (component == "main" && suites.contains(&release)).then(|| uri.to_owned())
        })
        .next()
        .context("apt-get indextargets lists no Debian; is this machine one?")
}

fn index_targets(format: &str) -> Result<Vec<String>> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", format, "Created-By: Packages"]);
    let output = command.output().context("apt-get: starting it")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}
