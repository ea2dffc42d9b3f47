//! The model folder on disk: looking at it cheaply, and reading one model of it with every bound
//! checked. Nothing here follows a link out of the folder, blocks on what is no file, or reads
//! more than its bound.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use sha2::Digest;

use super::description::{self, ModelDescription, Sha256, model_name, version_number};
use super::facts::{Artifact, Candidate, Fingerprint, Scan, Stamp};

/// What describes a model, in its folder.
pub const DESCRIPTION: &str = "model.toml";

/// No description of use is longer.
const MAX_DESCRIPTION: u64 = 64 << 10;

/// No file of labels is longer.
const MAX_LABELS: u64 = 1 << 20;

/// Longest file of a model: no ONNX file can be longer, by its format.
const MAX_MODEL: u64 = 2 << 30;

/// Most things in the folder, or in a model's.
const MAX_ENTRIES: usize = 1000;

/// Looks at every model of the folder, without reading any.
///
/// # Errors
/// When the folder itself cannot be listed.
pub fn scan(root: &Path) -> Result<Scan, String> {
    let folder = open_root(root)?;
    let mut models = BTreeMap::new();
    for name in entries(&folder, root, "")? {
        // README.md beside the models is none; a folder with another name than a model may have
        // cannot be asked for.
        if model_name(&name).is_err() {
            continue;
        }
        if let Some(print) = fingerprint(&folder, root, &name) {
            models.insert(name, print);
        }
    }
    Ok(Scan { models })
}

/// What a model's folder looks like from outside; nothing where it is no folder.
fn fingerprint(folder: &OwnedFd, root: &Path, name: &str) -> Option<Fingerprint> {
    if !metadata(folder, name).ok()?.is_dir() {
        return None;
    }
    let mut stamps = BTreeMap::new();
    let mut newest = Duration::ZERO;
    // One that cannot be listed is seen without files; reading it says why.
    for inner in entries(folder, root, name).unwrap_or_default() {
        let mut path = format!("{name}/{inner}");
        if version_number(&inner).is_some() {
            // Its folder's own times say nothing of the file in it.
            path = format!("{path}/{}", description::Platform::Onnx.file());
        }
        let stamp = metadata_stamp(folder, &path);
        if let Some(stamp) = &stamp {
            newest = newest.max(stamp.changed);
        }
        stamps.insert(path, stamp);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // A time in the future (a clock that was set back) is no age at all.
    Some(Fingerprint { age: now.saturating_sub(newest), stamps })
}

fn metadata_stamp(folder: &OwnedFd, path: &str) -> Option<Stamp> {
    let metadata = metadata(folder, path).ok()?;
    let since = |seconds: i64, nanoseconds: i64| {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        Duration::new(seconds, u32::try_from(nanoseconds).unwrap_or(0))
    };
    Some(Stamp {
        inode: metadata.ino(),
        bytes: metadata.len(),
        modified: since(metadata.mtime(), metadata.mtime_nsec()),
        changed: since(metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// Reads model `name`: its description, its labels, and every version's file for its checksum.
///
/// # Errors
/// What keeps the whole model from being taken. What is wrong with one version stands there.
pub fn read(root: &Path, name: &str) -> Result<Candidate, String> {
    let folder = open_root(root)?;
    let path = root.join(name).join(DESCRIPTION);
    let (file, metadata) = regular(&folder, root, &format!("{name}/{DESCRIPTION}"))?;
    let mode = metadata.permissions().mode();
    if mode & 0o022 != 0 {
        return Err(format!(
            "{}: mode {:o} lets others than its owner write it, and so choose what runs; refused \
             until `chmod go-w`",
            path.display(),
            mode & 0o7777
        ));
    }
    let description = description::parse(&path, name, &text(file, &path, MAX_DESCRIPTION)?)
        .map_err(|problem| problem.to_string())?;
    let labels = match &description.labels {
        Some(file) => read_labels(&folder, root, &description, file)?,
        None => Vec::new(),
    };
    let folders = entries(&folder, root, name)?.into_iter().filter_map(|it| version_number(&it));
    let numbers: BTreeSet<u32> = folders.chain(description.versions.keys().copied()).collect();
    if numbers.len() > description::MAX_VERSIONS {
        return Err(format!(
            "{}: {} versions; at most {} are taken, remove old ones",
            root.join(name).display(),
            numbers.len(),
            description::MAX_VERSIONS
        ));
    }
    let versions = numbers
        .into_iter()
        .map(|number| (number, version(&folder, root, &description, number).map(Arc::new)))
        .collect();
    Ok(Candidate { description: Arc::new(description), labels: labels.into(), versions })
}

fn read_labels(
    folder: &OwnedFd,
    root: &Path,
    of: &ModelDescription,
    file: &str,
) -> Result<Vec<String>, String> {
    let inner = format!("{}/{file}", of.name);
    let path = root.join(&inner);
    let (file, _) = regular(folder, root, &inner)?;
    let labels: Vec<_> =
        text(file, &path, MAX_LABELS)?.lines().map(|line| line.trim().to_owned()).collect();
    let places = of.outputs.first().and_then(|output| output.shape.last().copied());
    if let Some(places @ 1..) = places
        && u64::try_from(labels.len()).ok() != u64::try_from(places).ok()
    {
        return Err(format!(
            "{}: {} labels, and the first output has {places} places; write one a line",
            path.display(),
            labels.len()
        ));
    }
    Ok(labels)
}

/// Opens and checks the file of one version.
fn version(
    folder: &OwnedFd,
    root: &Path,
    of: &ModelDescription,
    number: u32,
) -> Result<Artifact, String> {
    let inner = format!("{}/{number}/{}", of.name, of.platform.file());
    let path = root.join(&inner);
    let shown = path.display();
    let Some(wanted) = of.versions.get(&number).copied() else {
        return Err(format!(
            "{shown}: model.toml has no [version.{number}]; add it with the file's sha256, or \
             remove the folder"
        ));
    };
    let (file, _) = regular(folder, root, &inner)?;
    let (found, bytes) = checksum(file).map_err(|error| format!("{shown}: {error}"))?;
    if bytes > MAX_MODEL {
        return Err(format!("{shown}: longer than {MAX_MODEL} bytes, which no ONNX file can be"));
    }
    if found != wanted {
        return Err(format!(
            "{shown}: its sha256 is {found}, and model.toml says {wanted}; copy the file again, \
             or correct [version.{number}]"
        ));
    }
    Ok(Artifact { model: of.name.clone(), version: number, file: path, sha256: wanted, bytes })
}

/// SHA-256 and length of a file's contents, up to one byte beyond the bound.
fn checksum(file: File) -> io::Result<(Sha256, u64)> {
    let mut file = file.take(MAX_MODEL + 1);
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((Sha256(hasher.finalize().into()), bytes)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn text(file: File, path: &Path, limit: u64) -> Result<String, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| format!("{shown}: {error}"))?;
    if bytes.len() as u64 > limit {
        return Err(format!("{shown}: longer than {limit} bytes; shorten it"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        format!("{shown}: not UTF-8 at byte {place}; write it as UTF-8")
    })
}

/// Names in a folder below the root (or in the root itself), sorted, without hidden ones.
fn entries(folder: &OwnedFd, root: &Path, inner: &str) -> Result<Vec<String>, String> {
    let path = root.join(inner);
    let shown = path.display();
    let directory = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let inside = beneath(folder, if inner.is_empty() { "." } else { inner }, directory)
        .map_err(|reason| format!("{shown}: {reason}"))?;
    let listed = nix::dir::Dir::from_fd(inside).map_err(|error| format!("{shown}: {error}"))?;
    let mut names = Vec::new();
    for entry in listed {
        let entry = entry.map_err(|error| format!("{shown}: {error}"))?;
        let name = entry.file_name().to_bytes();
        if name.starts_with(b".") {
            continue;
        }
        if names.len() == MAX_ENTRIES {
            return Err(format!(
                "{shown}: more than {MAX_ENTRIES} files and folders; move what is no model away"
            ));
        }
        // Another name than UTF-8 is no model, no version and no file that a description can name.
        if let Ok(name) = std::str::from_utf8(name) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn open_root(root: &Path) -> Result<OwnedFd, String> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(root.as_os_str().as_bytes(), flags, Mode::empty()).map_err(|errno| {
        let remedy = match errno {
            Errno::ENOENT => "make it and put folders of models there",
            Errno::ENOTDIR => "name a folder",
            _ => "make it readable for the pool's user",
        };
        format!("{}: {}; {remedy}", root.display(), errno.desc())
    })
}

/// A regular file below the root, open, and what it is.
fn regular(folder: &OwnedFd, root: &Path, inner: &str) -> Result<(File, fs::Metadata), String> {
    let shown = root.join(inner);
    let shown = shown.display();
    // Without O_NONBLOCK a FIFO would hold the reader up for ever.
    let file = beneath(folder, inner, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
        .map_err(|reason| format!("{shown}: {reason}"))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(|error| format!("{shown}: {error}"))?;
    if metadata.is_file() {
        return Ok((file, metadata));
    }
    Err(format!("{shown}: not a regular file; put the file itself there"))
}

fn metadata(folder: &OwnedFd, inner: &str) -> Result<fs::Metadata, String> {
    let file = beneath(folder, inner, OFlag::O_PATH)?;
    File::from(file).metadata().map_err(|error| error.to_string())
}

/// Opens what `inner` means without leaving the folder: the kernel refuses `..`, absolute links
/// and links that lead out, however they change meanwhile.
fn beneath(folder: &OwnedFd, inner: &str, flags: OFlag) -> Result<OwnedFd, String> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(folder.as_fd(), inner, how).map_err(|errno| {
        let remedy = match errno {
            Errno::EXDEV => {
                return "a link leads out of the model folder; put the file itself there".into();
            }
            Errno::ENOENT => "put it there, or take it out of model.toml",
            Errno::ELOOP => "its links go round in circles; put the file itself there",
            Errno::ENOSYS => "openat2 needs kernel 5.6, and a sandbox that lets it through",
            _ => "make it readable for the pool's user",
        };
        format!("{}; {remedy}", errno.desc())
    })
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
