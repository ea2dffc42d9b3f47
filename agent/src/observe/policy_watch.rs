//! Tells when something changed in the policy folders, those among them that do not exist yet.
//!
//! What changed is not told: whoever asks reads the folders anew and compares. A folder's parent is
//! watched as well, for the folder that is made, removed, or swapped as a symbolic link.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// What happens to files of a folder.
const FILES: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// What happens to folders in their parent.
const FOLDERS: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// Adds to what is watched of a folder in place of replacing it: one folder may hold policies and
/// another policy folder.
const ADD: AddWatchFlags = AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);

/// Watches the policy folders.
#[derive(Debug)]
pub struct PolicyWatch {
    folders: Vec<PathBuf>,
    inotify: Inotify,
    watched: HashMap<WatchDescriptor, Interest>,
}

/// Which names in a watched folder matter.
#[derive(Clone, Debug, Default, PartialEq)]
struct Interest {
    /// All of them: it is a policy folder. A symbolic link of any name may lead to a policy.
    all: bool,
    /// These: on the way to a policy folder.
    names: Vec<OsString>,
}

impl PolicyWatch {
    /// Watches `folders`.
    ///
    /// # Errors
    /// When the kernel has no inotify instance or watch left for this user.
    pub fn new(folders: &[PathBuf]) -> io::Result<Self> {
        let folders = folders.to_vec();
        let (inotify, watched) = arm(&folders)?;
        Ok(Self { folders, inotify, watched })
    }

    /// Whether something changed since the last call. Never waits.
    ///
    /// # Errors
    /// As [`Self::new`]; later changes are not seen then.
    pub fn changed(&mut self) -> io::Result<bool> {
        let mut changed = false;
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(errno) => return Err(errno.into()),
            };
            changed |= events.iter().any(|event| {
                let own = AddWatchFlags::IN_DELETE_SELF
                    | AddWatchFlags::IN_MOVE_SELF
                    | AddWatchFlags::IN_Q_OVERFLOW;
                let interest = self.watched.get(&event.wd);
                event.mask.intersects(own)
                    || interest.is_some_and(|interest| {
                        let named = |name| interest.names.contains(name);
                        interest.all || event.name.as_ref().is_some_and(named)
                    })
            });
        }
        if changed {
            // Folders may have come or gone. What changes while the watches are laid anew is read
            // afterwards by whoever is told of this change.
            (self.inotify, self.watched) = arm(&self.folders)?;
        }
        Ok(changed)
    }
}

fn arm(folders: &[PathBuf]) -> io::Result<(Inotify, HashMap<WatchDescriptor, Interest>)> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let mut watched: HashMap<WatchDescriptor, Interest> = HashMap::new();
    let mut add = |path: &Path, name: Option<OsString>| -> io::Result<bool> {
        let flags = if name.is_some() { FOLDERS } else { FILES };
        match inotify.add_watch(path, flags | ADD) {
            Ok(watch) => {
                let interest = watched.entry(watch).or_default();
                interest.all |= name.is_none();
                interest.names.extend(name);
                Ok(true)
            }
            // A folder that cannot be entered cannot be read either, which the reader reports.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    };
    for folder in folders {
        let folder = std::path::absolute(folder)?;
        let exists = add(&folder, None)?;
        let mut below = folder.as_path();
        // Up to the nearest ancestor that exists, and always to the parent.
        while let (Some(parent), Some(name)) = (below.parent(), below.file_name()) {
            let watches = add(parent, Some(name.to_owned()))?;
            if watches || exists {
                break;
            }
            below = parent;
        }
    }
    Ok((inotify, watched))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn changed(watch: &mut PolicyWatch) -> bool {
        watch.changed().expect("inotify")
    }

    #[test]
    fn a_file_that_is_written_renamed_or_removed_is_a_change() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().to_path_buf();
        let mut watch = PolicyWatch::new(std::slice::from_ref(&folder)).unwrap();
        assert!(!changed(&mut watch));
        fs::write(folder.join("a.toml"), "schema = 1").unwrap();
        assert!(changed(&mut watch) && !changed(&mut watch));
        fs::rename(folder.join("a.toml"), folder.join("b.toml")).unwrap();
        assert!(changed(&mut watch));
        fs::remove_file(folder.join("b.toml")).unwrap();
        assert!(changed(&mut watch) && !changed(&mut watch));
    }

    #[test]
    fn a_folder_that_does_not_exist_yet_is_found_when_it_is_made() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("etc/downbeat/policy.d");
        let mut watch = PolicyWatch::new(std::slice::from_ref(&folder)).unwrap();
        fs::write(root.path().join("other"), "").unwrap();
        assert!(!changed(&mut watch), "a neighbour of no interest");
        fs::create_dir(root.path().join("etc")).unwrap();
        assert!(changed(&mut watch));
        fs::create_dir_all(&folder).unwrap();
        assert!(changed(&mut watch));
        fs::write(folder.join("a.toml"), "").unwrap();
        assert!(changed(&mut watch));
        fs::remove_dir_all(root.path().join("etc")).unwrap();
        assert!(changed(&mut watch));
        fs::create_dir_all(&folder).unwrap();
        assert!(changed(&mut watch));
    }

    #[test]
    fn a_folder_that_is_swapped_as_a_link_is_a_change() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for name in ["one", "two"] {
            fs::create_dir(at(name)).unwrap();
        }
        symlink("one", at("current")).unwrap();
        let mut watch = PolicyWatch::new(&[at("current")]).unwrap();
        symlink("two", at("next")).unwrap();
        assert!(!changed(&mut watch));
        fs::rename(at("next"), at("current")).unwrap();
        assert!(changed(&mut watch));
        fs::write(at("two").join("a.toml"), "").unwrap();
        assert!(changed(&mut watch), "the new target is the one that is watched now");
    }
}
