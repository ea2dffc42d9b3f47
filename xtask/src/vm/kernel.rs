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
pub const SERIES: [Series; 3] = [
    Series { name: "6.1", suite: "bookworm" },
    Series { name: "6.12", suite: "trixie" },
    Series { name: "7.2", suite: "trixie-backports" },
];

/// In every suite; depends on its newest cloud kernel.
const META: &str = "linux-image-cloud-amd64";

/// The image, in the series' folder.
const IMAGE: &str = "boot/vmlinuz";

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
    download(series, &folder).with_context(|| {
        let Series { name, suite } = series;
        let by_hand = folder.join(IMAGE);
        format!(
            "kernel {name} cannot be fetched from Debian's {suite}: let apt-get reach Debian \
             (`apt-get update` must work), or put such a kernel as {}",
            by_hand.display()
        )
    })?;
    Ok(folder.join(IMAGE))
}

/// Unpacks the suite's newest cloud kernel in `folder`.
fn download(series: &Series, folder: &Path) -> Result<()> {
    ensure!(packages::find("apt-get").is_some(), "apt-get not found: is this machine a Debian?");
    fs::create_dir_all(folder).with_context(|| format!("{}: making it", folder.display()))?;
    let apt = Apt::reaching(series.suite, folder)?;
    let names = apt.run("apt-cache", &["pkgnames", "linux-"])?;
    let package = newest(&names, series.name)
        .with_context(|| format!("{} has no cloud kernel {}", series.suite, series.name))?;
    apt.run("apt-get", &["download", package])?;
    let unpacked = tempfile::tempdir_in(folder)?;
    for file in fs::read_dir(folder)?.flatten() {
        let path = file.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").arg(&path).arg(unpacked.path());
            let status = unpack.status().context("dpkg-deb: starting it")?;
            ensure!(status.success(), "dpkg-deb -x {}: {status}", path.display());
            fs::remove_file(&path)?;
        }
    }
    let found = images_in(unpacked.path());
    let image = found.first().with_context(|| format!("{package} holds no kernel"))?;
    fs::create_dir_all(folder.join("boot"))?;
    fs::rename(image, folder.join(IMAGE))?;
    Ok(())
}

/// The newest package with a cloud kernel of a series, among these names. A suite keeps older
/// series beside its newest one, and later series have the image in a package of its own.
fn newest<'a>(names: &'a str, series: &str) -> Option<&'a str> {
    ["linux-binary-", "linux-image-"].iter().find_map(|kind| {
        let prefix = format!("{kind}{series}.");
        names
            .lines()
            .filter(|name| name.starts_with(&prefix) && name.ends_with("-cloud-amd64"))
            .max_by_key(|name| numbers(name))
    })
}

fn numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn kernel_in(folder: &Path) -> Option<PathBuf> {
    images_in(folder).pop()
}

/// Kernel images where packages have them: `boot/vmlinuz-VERSION`, and in later series
/// `usr/lib/modules/VERSION/vmlinuz`.
fn images_in(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path())
    };
    let mut images: Vec<PathBuf> = entries(folder.join("boot"))
        .chain(entries(folder.join("usr/lib/modules")).map(|version| version.join("vmlinuz")))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("vmlinuz") && path.is_file()
        })
        .collect();
    images.sort();
    images
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

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_newest_cloud_kernel_of_a_series_is_chosen() {
        let names = "\
linux-image-7.2.12+deb13-cloud-amd64
linux-binary-7.2.9+deb13-cloud-amd64
linux-binary-7.2.12+deb13-cloud-amd64
linux-binary-7.2.13+deb13-rt-amd64
linux-binary-7.20.1+deb13-cloud-amd64
linux-image-6.1.0-9-cloud-amd64
linux-image-6.1.0-56-cloud-amd64
linux-image-6.1.0-57-cloud-amd64-dbg";
        assert_eq!(newest(names, "7.2"), Some("linux-binary-7.2.12+deb13-cloud-amd64"));
        assert_eq!(newest(names, "6.1"), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest(names, "6.12"), None);
    }
}
