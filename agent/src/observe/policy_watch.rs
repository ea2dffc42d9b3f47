//! Tells when something changed in the policy folders, those among them that do not exist yet.
//!
//! What changed is not told: whoever asks reads the folders anew and compares. Everything on the way
//! to a policy is watched: a folder's parent, for the folder that is made or removed, each symbolic
//! link, and the file at the end of one, which is edited where it lies.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// What happens to a file that is at the end of a link.
const FILE: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

/// What happens to folders and links in their parent.
const FOLDERS: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// What happens to files of a policy folder.
const FILES: AddWatchFlags = FOLDERS.union(FILE);

/// Adds to what is watched of a folder in place of replacing it: one folder may hold policies and
/// another policy folder.
const ADD: AddWatchFlags = AddWatchFlags::from_bits_retain(libc::IN_MASK_ADD);

/// Links on the way to a file that are followed, as the kernel does (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// Watches the policy folders.
#[derive(Debug)]
pub struct PolicyWatch {
    folders: Vec<PathBuf>,
    inotify: Inotify,
    watched: HashMap<WatchDescriptor, Interest>,
    /// Files that someone began to write and has not closed.
    being_written: BTreeSet<PathBuf>,
}

/// What matters of something that is watched.
#[derive(Clone, Debug, Default, PartialEq)]
struct Interest {
    path: PathBuf,
    /// Every policy in it: it is a policy folder.
    policies: bool,
    /// The file itself.
    is_file: bool,
    /// These names: on the way to a policy folder or a file.
    names: BTreeSet<OsString>,
}

impl Interest {
    fn holds_for(&self, name: Option<&OsStr>) -> bool {
        // Without a name something happened to what is watched itself.
        name.is_none_or(|name| (self.policies && is_policy(name)) || self.names.contains(name))
    }
}

impl PolicyWatch {
    /// Watches `folders`.
    ///
    /// # Errors
    /// When the kernel has no inotify instance or watch left for this user.
    pub fn new(folders: &[PathBuf]) -> io::Result<Self> {
        let folders = folders.to_vec();
        let (inotify, watched) = arm(&folders)?;
        Ok(Self { folders, inotify, watched, being_written: BTreeSet::new() })
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
            for event in &events {
                changed |= self.take_in(event);
            }
        }
        if changed {
            // Folders and links may have come or gone. What changes while the watches are laid anew
            // is read afterwards by whoever is told of this change.
            (self.inotify, self.watched) = arm(&self.folders)?;
        }
        Ok(changed)
    }

    /// Whether a policy is being written: its writer still has it open.
    #[must_use]
    pub fn is_being_written(&self) -> bool {
        !self.being_written.is_empty()
    }

    /// Those who write now are not waited for any more: they may never come to an end.
    pub fn give_up_on_writers(&mut self) {
        self.being_written.clear();
    }

    /// Whether an event is a change.
    fn take_in(&mut self, event: &InotifyEvent) -> bool {
        if event.mask.intersects(AddWatchFlags::IN_Q_OVERFLOW) {
            return true;
        }
        let Some(interest) = self.watched.get(&event.wd) else { return false };
        if !interest.holds_for(event.name.as_deref()) {
            return false;
        }
        if !(interest.policies || interest.is_file) {
            return true;
        }
        let path = event
            .name
            .as_ref()
            .map_or_else(|| interest.path.clone(), |name| interest.path.join(name));
        let begins = AddWatchFlags::IN_MODIFY;
        let ends = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        if event.mask.intersects(ends) {
            self.being_written.remove(&path);
        } else if event.mask.intersects(begins)
            || (event.mask.contains(AddWatchFlags::IN_CREATE) && is_new_file(&path))
        {
            self.being_written.insert(path);
        }
        true
    }
}

/// A name that the reader of policies reads.
fn is_policy(name: &OsStr) -> bool {
    name.as_bytes().ends_with(b".toml") && !name.as_bytes().starts_with(b".")
}

/// Whether somebody who made it has it open: not so with a link, hard or symbolic.
fn is_new_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.nlink() == 1)
}

struct Arms {
    inotify: Inotify,
    watched: HashMap<WatchDescriptor, Interest>,
}

impl Arms {
    /// Watches `path`; returns its interest, or nothing when there is no such thing.
    fn add(&mut self, path: &Path, flags: AddWatchFlags) -> io::Result<Option<&mut Interest>> {
        match self.inotify.add_watch(path, flags | ADD) {
            Ok(watch) => {
                let interest = self.watched.entry(watch).or_default();
                interest.path = path.to_owned();
                Ok(Some(interest))
            }
            // A folder that cannot be entered cannot be read either, which the reader reports.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn add_name(&mut self, folder: &Path, name: &OsStr) -> io::Result<bool> {
        let found = self.add(folder, FOLDERS)?;
        Ok(found.map(|interest| interest.names.insert(name.to_owned())).is_some())
    }

    fn add_folder(&mut self, folder: &Path) -> io::Result<()> {
        let found = self.add(folder, FILES | AddWatchFlags::IN_ONLYDIR)?;
        let exists = found.map(|interest| interest.policies = true).is_some();
        let mut below = folder;
        // Up to the nearest ancestor that exists, and always to the parent.
        while let (Some(parent), Some(name)) = (below.parent(), below.file_name()) {
            if self.add_name(parent, name)? || exists {
                break;
            }
            below = parent;
        }
        self.add_links(folder)?;
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_link = entry.file_type().is_ok_and(|found| found.is_symlink());
            if is_link && is_policy(&entry.file_name()) {
                let path = entry.path();
                self.add_links(&path)?;
                if let Some(file) = self.add(&path, FILE)? {
                    file.is_file = true;
                }
            }
        }
        Ok(())
    }

    /// Watches every link on the way to `path`, and the folder and the name where the way ends.
    fn add_links(&mut self, path: &Path) -> io::Result<()> {
        for (folder, name) in way_to(path) {
            self.add_name(&folder, &name)?;
        }
        Ok(())
    }
}

/// Each link on the way to `path`, and the last thing that is there, by folder and name; nothing
/// where the way has no link.
fn way_to(path: &Path) -> Vec<(PathBuf, OsString)> {
    let mut way = Vec::new();
    let mut at = PathBuf::from("/");
    let mut left: Vec<OsString> = names(path);
    while let Some(name) = left.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let here = at.join(&name);
        let Ok(target) = fs::read_link(&here) else {
            if left.is_empty() && !way.is_empty() {
                way.push((at, name));
                return way;
            }
            at = here;
            continue;
        };
        way.push((at.clone(), name));
        if way.len() > MOST_LINKS {
            break;
        }
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        left.extend(names(&target));
    }
    way
}

/// The names in a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    let mut names: Vec<OsString> = path.components().filter_map(name).collect();
    names.reverse();
    names
}

fn arm(folders: &[PathBuf]) -> io::Result<(Inotify, HashMap<WatchDescriptor, Interest>)> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let mut arms = Arms { inotify, watched: HashMap::new() };
    for folder in folders {
        arms.add_folder(&std::path::absolute(folder)?)?;
    }
    Ok((arms.inotify, arms.watched))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
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
        // What no reader reads is no change.
        fs::write(folder.join("note.tmp"), "").unwrap();
        fs::write(folder.join(".a.toml"), "").unwrap();
        assert!(!changed(&mut watch));
    }

    #[test]
    fn a_file_is_being_written_until_its_writer_closes_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().to_path_buf();
        let mut watch = PolicyWatch::new(std::slice::from_ref(&folder)).unwrap();
        let mut file = fs::File::create(folder.join("a.toml")).unwrap();
        assert!(changed(&mut watch) && watch.is_being_written());
        file.write_all(b"schema").unwrap();
        assert!(changed(&mut watch) && watch.is_being_written());
        assert!(!changed(&mut watch) && watch.is_being_written());
        drop(file);
        assert!(changed(&mut watch) && !watch.is_being_written());
        symlink("a.toml", folder.join("b.toml")).unwrap();
        fs::hard_link(folder.join("a.toml"), folder.join("c.toml")).unwrap();
        assert!(changed(&mut watch) && !watch.is_being_written(), "nobody has a link open");
        let file = fs::OpenOptions::new().append(true).open(folder.join("c.toml"));
        file.unwrap().write_all(b" = 1").unwrap();
        assert!(changed(&mut watch) && !watch.is_being_written());
    }

    #[test]
    fn the_file_at_the_end_of_a_link_is_watched_where_it_lies() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for name in ["policy.d", "there", "there/one", "there/two"] {
            fs::create_dir(at(name)).unwrap();
        }
        for name in ["there/one/x.toml", "there/two/x.toml"] {
            fs::write(at(name), "schema = 1\n").unwrap();
        }
        // As a Kubernetes volume has it: the link of the middle is swapped.
        symlink("one", at("there/..data")).unwrap();
        symlink("../there/..data/x.toml", at("policy.d/x.toml")).unwrap();
        let mut watch = PolicyWatch::new(&[at("policy.d")]).unwrap();
        assert!(!changed(&mut watch));
        fs::write(at("there/one/x.toml"), "schema = 1\n#\n").unwrap();
        assert!(changed(&mut watch), "edited in place");
        fs::write(at("there/one/new"), "schema = 1\n").unwrap();
        assert!(!changed(&mut watch), "a neighbour");
        fs::rename(at("there/one/new"), at("there/one/x.toml")).unwrap();
        assert!(changed(&mut watch), "replaced");
        symlink("two", at("there/..next")).unwrap();
        fs::rename(at("there/..next"), at("there/..data")).unwrap();
        assert!(changed(&mut watch), "another folder");
        fs::write(at("there/two/x.toml"), "").unwrap();
        assert!(changed(&mut watch), "which is watched now");
        fs::remove_file(at("there/two/x.toml")).unwrap();
        assert!(changed(&mut watch), "the link leads nowhere");
        fs::write(at("there/two/x.toml"), "").unwrap();
        assert!(changed(&mut watch), "and somewhere again");
    }

    #[test]
    fn links_in_a_circle_end() {
        let root = tempfile::tempdir().unwrap();
        for (from, to) in [("a.toml", "b.toml"), ("b.toml", "a.toml")] {
            symlink(to, root.path().join(from)).unwrap();
        }
        let mut watch = PolicyWatch::new(&[root.path().to_path_buf()]).unwrap();
        assert!(!changed(&mut watch));
        fs::remove_file(root.path().join("a.toml")).unwrap();
        assert!(changed(&mut watch));
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
