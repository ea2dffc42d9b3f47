//! The regions that are registered.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use downbeat_link::Region;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, fstatfs, open};
use rustix::io::Errno;
use serde::Serialize;

use super::Place;
use super::files::Files;
use crate::inference::Refusal;

/// Bytes of a region's name, and of its file's.
const MAX_NAME: usize = 255;

/// `TMPFS_MAGIC`: reading from anything else may take any time.
const TMPFS: u32 = 0x0102_1994;

/// A region, for its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// Its file's name below `/dev/shm`.
    pub key: String,
    /// Where it begins in the file, bytes.
    pub offset: u64,
    /// Bytes.
    pub byte_size: u64,
}

#[derive(Debug)]
struct Known {
    shown: Shown,
    file: Arc<OwnedFd>,
}

impl Known {
    /// Its file has no name any more: its client ended, or is done with it.
    fn is_gone(&self) -> bool {
        fstat(&self.file).is_ok_and(|found| found.st_nlink == 0)
    }
}

/// Regions by user and name.
#[derive(Debug)]
pub struct Regions {
    folder: PathBuf,
    known: Mutex<BTreeMap<(u32, String), Known>>,
    files: Files,
}

impl Default for Regions {
    fn default() -> Self {
        Self::below(Path::new("/dev/shm"))
    }
}

impl Regions {
    /// Whose files are in `folder`.
    #[must_use]
    pub fn below(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), known: Mutex::default(), files: Files::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u32, String), Known>> {
        // A map is whole after each call on it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a part of a file of this user under a name.
    ///
    /// # Errors
    /// [`Refusal::Invalid`]: a taken name, a file that is not there, that is another's or that is too
    /// short, too many regions.
    pub fn register(&self, user: u32, shown: Shown) -> Result<(), Refusal> {
        let Shown { name, key, offset, byte_size } = &shown;
        if !(1..=MAX_NAME).contains(&name.len()) {
            return Err(Refusal::Invalid(format!(
                "a region's name has 1 to {MAX_NAME} bytes; this one has {}",
                name.len()
            )));
        }
        let path = self.path(key)?;
        let told = |why: &dyn std::fmt::Display| {
            Refusal::Invalid(format!("shared memory region `{name}`: {}: {why}", path.display()))
        };
        let (file, found) = opened(&path, user).map_err(|why| told(&why))?;
        let there = u64::try_from(found.st_size).unwrap_or(0);
        let end = offset.checked_add(*byte_size).filter(|_| *byte_size > 0);
        if end.is_none_or(|end| end > there) {
            return Err(told(&format!(
                "it has {there} bytes, and {byte_size} from byte {offset} on are no part of it"
            )));
        }
        let mut known = self.lock();
        // What is left of clients that ended counts no more.
        known.retain(|_, region| !region.is_gone());
        if known.contains_key(&(user, name.clone())) {
            return Err(Refusal::Invalid(format!(
                "shared memory region `{name}` is registered already; unregister it first"
            )));
        }
        let file = self.files.keep(user, file).map_err(Refusal::Invalid)?;
        known.insert((user, name.clone()), Known { shown, file });
        Ok(())
    }

    /// As `shm_open(3)` has it: a name with or without a slash before it.
    fn path(&self, key: &str) -> Result<PathBuf, Refusal> {
        let name = key.strip_prefix('/').unwrap_or(key);
        let plain = (1..=MAX_NAME).contains(&name.len())
            && ![".", ".."].contains(&name)
            && !name.contains(['/', '\0']);
        if plain {
            return Ok(self.folder.join(name));
        }
        let key: String = key.chars().take(MAX_NAME).collect();
        Err(Refusal::Invalid(format!(
            "`{key}` is no key of shared memory; it is the name of a file of {}, as shm_open(3) \
             takes it",
            self.folder.display()
        )))
    }

    /// Forgets one region of a user, or all; one that is not there is forgotten.
    pub fn unregister(&self, user: u32, name: Option<&str>) {
        self.lock().retain(|(of, is), _| *of != user || name.is_some_and(|name| name != is));
    }

    /// One region of a user, or all.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for one that is not registered.
    pub fn shown(&self, user: u32, name: Option<&str>) -> Result<Vec<Shown>, Refusal> {
        let wanted =
            |(of, is): &(u32, String)| *of == user && name.is_none_or(|wanted| wanted == is);
        let known = self.lock();
        let found = known.iter().filter(|(key, _)| wanted(key));
        let shown: Vec<_> = found.map(|(_, region)| region.shown.clone()).collect();
        match name {
            Some(name) if shown.is_empty() => Err(unknown(name)),
            _ => Ok(shown),
        }
    }

    /// Where an input is.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a region that is not this user's, is shorter, or has lost its file.
    pub fn region(&self, user: u32, place: &Place) -> Result<Region, Refusal> {
        let Place { region: name, offset, bytes } = place;
        let known = self.lock();
        let region = known.get(&(user, name.clone())).ok_or_else(|| unknown(name))?;
        let Shown { offset: start, byte_size, .. } = region.shown;
        if offset.checked_add(*bytes).is_none_or(|end| end > byte_size) {
            return Err(Refusal::Invalid(format!(
                "shared memory region `{name}` has {byte_size} bytes, and {bytes} from byte \
                 {offset} on are no part of it"
            )));
        }
        if region.is_gone() {
            return Err(Refusal::Invalid(format!(
                "the file of shared memory region `{name}` was removed; register one that is there"
            )));
        }
        // Its own offset and size were added up when it was registered.
        Ok(Region { file: Arc::clone(&region.file), offset: start + offset, length: *bytes })
    }
}

fn unknown(name: &str) -> Refusal {
    Refusal::Invalid(format!(
        "no shared memory region `{name}`; register it first, as the same user"
    ))
}

/// A file of this user, for reading.
fn opened(path: &Path, user: u32) -> Result<(OwnedFd, Stat), String> {
    // A fifo would keep whoever opens it waiting; a link may lead anywhere.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => "no such file; make it with shm_open(3), on the host of the pool".into(),
        Errno::ACCESS | Errno::PERM => {
            format!("{errno}: the pool's user may not open it; give it that right, or its group")
        }
        Errno::LOOP => "a link; give the file itself".into(),
        errno => errno.to_string(),
    })?;
    let found = fstat(&file).map_err(|errno| errno.to_string())?;
    let system = fstatfs(&file).map_err(|errno| errno.to_string())?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile
        || system.f_type as u32 != TMPFS
    {
        return Err("no file of shared memory (tmpfs)".into());
    }
    // Rights of groups and lists are not looked at: whose they are is not known here.
    if found.st_uid != user || !Mode::from_raw_mode(found.st_mode).contains(Mode::RUSR) {
        return Err(format!(
            "it belongs to user {} with mode {:o}; user {user} may register own files that are \
             readable",
            found.st_uid,
            found.st_mode & 0o7777
        ));
    }
    Ok((file, found))
}

#[cfg(test)]
#[path = "regions_tests.rs"]
mod tests;
