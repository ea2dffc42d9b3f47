//! What the kernel goes on noting after a kill of the agent, until a restore reads it: pinned in the
//! BPF file system, in one folder for each run directory and agent.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData};
use downbeat_abi::Origin;
use nix::sys::statfs::{FsType, statfs};

use super::lineage::{MAP, origin_in};
use super::load::is_first_namespace;
use crate::observe::process::ProcessReader;
use crate::roots::Roots;

/// `BPF_FS_MAGIC`
const BPF_FS: FsType = FsType(0xcafe_4a11);

/// Root alone may look at it.
const MODE: u32 = 0o700;

/// What a file's name may have, bytes.
const NAME_MAX: usize = 255;

/// The file system in which kernel objects are pinned.
#[must_use]
pub fn bpf_fs(roots: &Roots) -> PathBuf {
    roots.sys.join("fs/bpf")
}

/// Whether it is mounted there.
#[must_use]
pub fn is_bpf_fs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS)
}

/// One agent's folder of pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// An empty folder for this process as the agent of `run_dir`.
    ///
    /// # Errors
    /// Where the BPF file system is not mounted, with the remedy, and as `mkdir(2)`.
    pub(super) fn make(run_dir: &Path, roots: &Roots) -> io::Result<Self> {
        let root = bpf_fs(roots);
        if !is_bpf_fs(&root) {
            let path = root.display();
            return Err(io::Error::other(format!(
                "{path} is no BPF file system; mount -t bpf bpf {path}, and start the agent again"
            )));
        }
        let pid = std::process::id();
        let start_time = ProcessReader::new(roots).stat(pid)?.start_time;
        let (path, (device, inode)) = (fs::canonicalize(run_dir)?, identity(run_dir)?);
        let name = Name { path, device, inode, pid, start_time }.text();
        if name.len() > NAME_MAX {
            return Err(io::Error::other(format!(
                "{}: its path is too long to name a folder in {}; give a shorter --run-dir",
                run_dir.display(),
                root.display()
            )));
        }
        let folder = all(roots).join(name);
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: making it: {error}", folder.display()))
        };
        DirBuilder::new().recursive(true).mode(MODE).create(&folder).map_err(named)?;
        Ok(Self { folder })
    }

    /// What agents of `run_dir` that were killed have left. Call it while holding its lock.
    #[must_use]
    pub fn left_in(run_dir: &Path, roots: &Roots) -> Vec<Self> {
        let Ok(wanted) = identity(run_dir) else { return Vec::new() };
        let is_its = |name: &Name| (name.device, name.inode) == wanted;
        list(roots).filter(|(name, _)| is_its(name)).map(|(_, pins)| pins).collect()
    }

    /// Those of agents that have ended and whose run directory is gone, with all that could be put
    /// back.
    #[must_use]
    pub fn stale(roots: &Roots) -> Vec<Self> {
        // Elsewhere nobody can tell who lives.
        if !is_first_namespace(&roots.proc) {
            return Vec::new();
        }
        let reader = ProcessReader::new(roots);
        let is_stale = |name: &Name| {
            let lives = reader.stat(name.pid).is_ok_and(|it| it.start_time == name.start_time);
            let is_there = identity(&name.path).is_ok_and(|it| it == (name.device, name.inode));
            !lives && !is_there
        };
        list(roots).filter(|(name, _)| is_stale(name)).map(|(_, pins)| pins).collect()
    }

    /// The map, for look-ups that see what the kernel adds meanwhile.
    ///
    /// # Errors
    /// One line: mostly a lack of rights.
    pub fn open(&self) -> io::Result<PinnedLineage> {
        let path = self.path(MAP);
        let map = MapData::from_pin(&path).and_then(Map::from_map_data);
        let named = |error| io::Error::other(format!("{}: {error}", path.display()));
        map.map(|map| PinnedLineage { map }).map_err(named)
    }

    /// Removes the folder, with which the kernel's programs end.
    ///
    /// # Errors
    /// The first of those of `unlink(2)` and `rmdir(2)`, with its path.
    pub fn remove(&self) -> io::Result<()> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: removing it: {error}", self.folder.display()))
        };
        for entry in fs::read_dir(&self.folder).map_err(named)?.flatten() {
            fs::remove_file(entry.path()).map_err(named)?;
        }
        fs::remove_dir(&self.folder).map_err(named)?;
        if let Some(all) = self.folder.parent() {
            // Another agent may have its own there.
            let _ = fs::remove_dir(all);
        }
        Ok(())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// A pinned map of where processes come from.
pub struct PinnedLineage {
    map: Map,
}

impl std::fmt::Debug for PinnedLineage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinnedLineage").finish_non_exhaustive()
    }
}

impl PinnedLineage {
    /// Where a process comes from, if it comes from one that the agent had changed.
    #[must_use]
    pub fn origin(&self, pid: u32) -> Option<Origin> {
        origin_in(&self.map, pid)
    }
}

/// What the name of a folder says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    /// The run directory as its agent saw it.
    path: PathBuf,
    device: u64,
    inode: u64,
    /// The agent.
    pid: u32,
    /// In clock ticks since boot.
    start_time: u64,
}

impl Name {
    /// The BPF file system takes no dots: what is neither letter, digit nor minus is `_` and two
    /// hexadecimal digits, and a slash is a plus.
    fn text(&self) -> String {
        let mut text = String::new();
        for byte in self.path.as_os_str().as_bytes() {
            match byte {
                b'/' => text.push('+'),
                b'-' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => text.push(char::from(*byte)),
                // Writing into a String cannot fail.
                other => drop(write!(text, "_{other:02x}")),
            }
        }
        let Self { path: _, device, inode, pid, start_time } = self;
        let _ = write!(text, "@{device:x}-{inode:x}-{pid}-{start_time}");
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let (escaped, identity) = text.rsplit_once('@')?;
        let mut path = Vec::new();
        let mut rest = escaped.as_bytes();
        while let [byte, after @ ..] = rest {
            rest = after;
            path.push(match byte {
                b'+' => b'/',
                b'_' => {
                    let (digits, after) = rest.split_at_checked(2)?;
                    rest = after;
                    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
                }
                other => *other,
            });
        }
        let mut numbers = identity.split('-');
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let device = hex(numbers.next()?)?;
        let inode = hex(numbers.next()?)?;
        let pid = numbers.next()?.parse().ok()?;
        let start_time = numbers.next()?.parse().ok()?;
        let path = PathBuf::from(OsString::from_vec(path));
        numbers.next().is_none().then_some(Self { path, device, inode, pid, start_time })
    }
}

/// Where all agents' folders are.
fn all(roots: &Roots) -> PathBuf {
    bpf_fs(roots).join("downbeat")
}

fn list(roots: &Roots) -> impl Iterator<Item = (Name, Pins)> {
    let entries = fs::read_dir(all(roots)).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let name = Name::parse(entry.file_name().to_str()?)?;
        Some((name, Pins { folder: entry.path() }))
    })
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> Name {
        Name { path: path.into(), device: 0x1a, inode: 0x2b3c, pid: 4711, start_time: 99 }
    }

    #[test]
    fn a_folder_is_named_for_a_run_directory_and_says_which() {
        let text = name("/run/downbeat").text();
        assert_eq!(text, "+run+downbeat@1a-2b3c-4711-99");
        for path in ["/run/downbeat", "/tmp/a.b_c@d +e/rün", "/"] {
            let text = name(path).text();
            assert!(!text.contains(['.', '/']), "{text}");
            assert_eq!(Name::parse(&text), Some(name(path)), "{text}");
        }
    }

    #[test]
    fn what_others_put_there_is_no_name() {
        for text in
            ["", "maps", "+run@", "+run@1-2-3", "+run@1-2-3-4-5", "+r_zz@1-2-3-4", "+_4@1-2-3-4"]
        {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_folders_of_ended_agents_whose_run_directory_is_gone_are_stale() {
        let sys = tempfile::tempdir().unwrap();
        let roots = Roots { sys: sys.path().into(), ..Roots::default() };
        let run = tempfile::tempdir().unwrap();
        let (device, inode) = identity(run.path()).unwrap();
        let there = Name { path: run.path().into(), device, inode, pid: u32::MAX, start_time: 1 };
        let gone = Name { inode: inode + 1, ..there.clone() };
        let own = std::process::id();
        let start_time = ProcessReader::new(&roots).stat(own).unwrap().start_time;
        let alive = Name { pid: own, start_time, ..gone.clone() };
        for name in [&there, &gone, &alive] {
            fs::create_dir_all(all(&roots).join(name.text())).unwrap();
        }
        let pins = |name: &Name| Pins { folder: all(&roots).join(name.text()) };
        assert_eq!(Pins::stale(&roots), [pins(&gone)]);
        assert_eq!(Pins::left_in(run.path(), &roots), [pins(&there)]);
        pins(&gone).remove().unwrap();
        assert_eq!(Pins::stale(&roots), []);
    }

    #[test]
    fn a_folder_that_is_no_bpf_file_system_is_told_with_the_remedy() {
        let sys = tempfile::tempdir().unwrap();
        let roots = Roots { sys: sys.path().into(), ..Roots::default() };
        let error = Pins::make(sys.path(), &roots).unwrap_err().to_string();
        assert!(error.contains("mount -t bpf bpf"), "{error}");
    }
}
