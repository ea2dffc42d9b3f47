//! The regions that are registered.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use downbeat_link::Region;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, fstatfs, open};
use rustix::io::Errno;
use serde::Serialize;

use super::Place;
use crate::inference::Refusal;

/// Regions of one user, at most: each keeps two descriptors open.
const MAX_REGIONS: usize = 64;

/// Bytes of all regions of one user, at most: what is written there counts as the pool's memory.
const MAX_BYTES: u64 = 1 << 30;

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
    readable: Arc<OwnedFd>,
    /// Where the owner may write to it.
    writable: Option<Arc<OwnedFd>>,
}

impl Known {
    /// Nobody can open it any more: its client ended, or forgot it.
    fn is_gone(&self) -> bool {
        fstat(&self.readable).is_ok_and(|found| found.st_nlink == 0)
    }
}

/// Regions by user and name.
#[derive(Debug)]
pub struct Regions {
    folder: PathBuf,
    known: Mutex<BTreeMap<(u32, String), Known>>,
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
        Self { folder: folder.to_owned(), known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u32, String), Known>> {
        // A map is whole after each call on it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a part of a file under a name of this user.
    ///
    /// # Errors
    /// [`Refusal::Invalid`]: a taken name, a file that is not there, that this user may not open or
    /// that is too short, too many regions.
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
        let (readable, writable) = opened(&path, user).map_err(|why| told(&why))?;
        let found = fstat(&readable).map_err(|errno| told(&errno))?;
        let there = u64::try_from(found.st_size).unwrap_or(0);
        let end = offset.checked_add(*byte_size).filter(|_| *byte_size > 0);
        if end.is_none_or(|end| end > there) {
            return Err(told(&format!(
                "it has {there} bytes, and {byte_size} from byte {offset} on are no part of it"
            )));
        }
        let mut known = self.lock();
        // What is left of clients that ended counts no more, nor keeps its memory.
        known.retain(|_, region| !region.is_gone());
        if known.contains_key(&(user, name.clone())) {
            return Err(Refusal::Invalid(format!(
                "shared memory region `{name}` is registered already; unregister it first"
            )));
        }
        let own = || known.iter().filter(|((of, _), _)| *of == user).map(|(_, it)| it);
        // None is longer than this, so nothing overflows.
        let bytes = own().map(|it| it.shown.byte_size).sum::<u64>() + byte_size.min(&MAX_BYTES);
        if own().count() >= MAX_REGIONS || *byte_size > MAX_BYTES || bytes > MAX_BYTES {
            return Err(Refusal::Invalid(format!(
                "user {user} may have {MAX_REGIONS} regions of shared memory with {MAX_BYTES} bytes \
                 together; unregister one, or take a shorter one"
            )));
        }
        let key = (user, name.clone());
        let (readable, writable) = (Arc::new(readable), writable.map(Arc::new));
        known.insert(key, Known { shown, readable, writable });
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
    /// [`Refusal::Invalid`] for a region that is not this user's, or shorter.
    pub fn readable(&self, user: u32, place: &Place) -> Result<Region, Refusal> {
        self.part(user, place, |region, offset| {
            let file = Arc::clone(&region.readable);
            Ok(Region { file, offset, length: place.bytes })
        })
    }

    /// The file that an output is written to, and from which byte on.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a region that is not this user's, shorter, or may only be read.
    pub fn writable(&self, user: u32, place: &Place) -> Result<(Arc<OwnedFd>, u64), Refusal> {
        self.part(user, place, |region, offset| match &region.writable {
            Some(file) => Ok((Arc::clone(file), offset)),
            None => Err(Refusal::Invalid(format!(
                "shared memory region `{}` may only be read; outputs need one that may be written",
                place.region
            ))),
        })
    }

    fn part<T>(
        &self,
        user: u32,
        place: &Place,
        of: impl FnOnce(&Known, u64) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let Place { region: name, offset, bytes } = place;
        let known = self.lock();
        let region = known.get(&(user, name.clone())).ok_or_else(|| unknown(name))?;
        let Shown { offset: start, byte_size, .. } = region.shown;
        match offset.checked_add(*bytes) {
            // Its own offset and size were added up when it was registered.
            Some(end) if end <= byte_size => of(region, start + offset),
            _ => Err(Refusal::Invalid(format!(
                "shared memory region `{name}` has {byte_size} bytes, and {bytes} from byte \
                 {offset} on are no part of it"
            ))),
        }
    }
}

fn unknown(name: &str) -> Refusal {
    Refusal::Invalid(format!(
        "no shared memory region `{name}`; register it first, as the same user"
    ))
}

/// The file for reading, and for writing where its user may do that.
fn opened(path: &Path, user: u32) -> Result<(OwnedFd, Option<OwnedFd>), String> {
    // A fifo would keep whoever opens it waiting; a link may lead anywhere.
    let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = |how| open(path, how | flags, Mode::empty());
    let told = |errno| match errno {
        Errno::NOENT => "no such file; make it with shm_open(3), on the host of the pool".into(),
        Errno::ACCESS | Errno::PERM => {
            format!("{errno}: the pool's user may not open it; give it that right, or its group")
        }
        Errno::LOOP => "a link; give the file itself".into(),
        errno => errno.to_string(),
    };
    let readable = opened(OFlags::RDONLY).map_err(told)?;
    let found = fstat(&readable).map_err(|errno| errno.to_string())?;
    let system = fstatfs(&readable).map_err(|errno| errno.to_string())?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile
        || system.f_type as u32 != TMPFS
    {
        return Err("no file of shared memory (tmpfs)".into());
    }
    let may = |right: Mode| allows(&found, user, right);
    if !may(Mode::ROTH) {
        return Err(format!(
            "it belongs to user {} with mode {:o}, and user {user} may not read it; its owner may \
             register it, or give others that right",
            found.st_uid,
            found.st_mode & 0o7777
        ));
    }
    let writable = may(Mode::WOTH).then(|| opened(OFlags::RDWR).ok()).flatten();
    // The name may be another file's by now.
    let same = |file: &OwnedFd| {
        fstat(file.as_fd())
            .is_ok_and(|now| (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino))
    };
    Ok((readable, writable.filter(same)))
}

/// Whether a user may do what `right` gives to others. Groups are left out: whose they are is not
/// known here.
fn allows(file: &Stat, user: u32, right: Mode) -> bool {
    let bits = if file.st_uid == user { right.bits() << 6 } else { right.bits() };
    user == 0 || file.st_mode & bits != 0
}

#[cfg(test)]
#[path = "regions_tests.rs"]
mod tests;
