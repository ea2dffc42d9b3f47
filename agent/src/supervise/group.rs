//! The control group that is handed over to the pool (version 2): below it the pool makes one for
//! each worker, and whatever becomes of the pool, all of them end together.
//!
//! It lies at the top of the hierarchy, or in this agent's own group where systemd manages the
//! hierarchy and has handed that over, and is named for the run directory, so agents side by side
//! have one each. Nothing at the top of the hierarchy is switched on for it; the memory controller is
//! passed on to it only from a group that is this agent's own.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{User, chown};

use crate::act::Kernel;
use crate::observe::cgroups::Hierarchies;
use crate::roots::Roots;

/// Where the agent's groups for classes lie while nobody manages the hierarchy. They come and go by
/// themselves, so the pool's lies beside them.
const UNMANAGED: &str = "/downbeat.slice";

/// Precedes the run directory in the group's name.
const PREFIX: &str = "downbeat-pool-";

/// The pool's own group in it; see `downbeat_pool::groups`.
const OWN: &str = "pool";

/// What the pool's user may write in a group that is its own: who is in it, and what it passes on.
const HANDED_OVER: [&str; 3] = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];

/// Tries to remove groups whose processes were killed, and the pause between two.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// The pool's group.
#[derive(Clone, Debug)]
pub struct PoolGroup {
    folder: PathBuf,
    /// The group above it is this agent's own.
    below_own: bool,
}

impl PoolGroup {
    /// Finds its place; nothing is made yet.
    ///
    /// # Errors
    /// Why there can be none.
    pub fn find(roots: &Roots, run_dir: &Path) -> Result<Self, String> {
        let place = Kernel::new(roots).place_for_groups()?;
        let mut hierarchies = Hierarchies::default();
        hierarchies.refresh(roots, std::process::id());
        let above = if &*place == UNMANAGED { "/" } else { &*place };
        let mount = hierarchies.v2.first();
        let above = mount
            .and_then(|mount| mount.folder(above))
            .ok_or_else(|| format!("the group {above} lies outside of what is mounted"))?;
        let run_dir =
            fs::canonicalize(run_dir).map_err(|error| format!("{}: {error}", run_dir.display()))?;
        Ok(Self { folder: above.join(name(&run_dir)), below_own: &*place != UNMANAGED })
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes it where it is missing, hands it over to `user`, and opens the file that lets a process
    /// into the pool's own group in it.
    ///
    /// # Errors
    /// The path and the kernel's reason.
    pub fn hand_over(&self, user: Option<&User>) -> Result<OwnedFd, String> {
        if let Some(above) = self.folder.parent() {
            remove_forsaken(above);
            if self.below_own {
                pass_memory_on(above);
            }
        }
        for folder in [self.folder.clone(), self.folder.join(OWN)] {
            let named = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
            match fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(named(&folder, error));
                }
                _ => {}
            }
            let Some(user) = user else { continue };
            let files = HANDED_OVER.iter().map(|file| folder.join(file));
            for path in [folder.clone()].into_iter().chain(files) {
                chown(&path, Some(user.uid), Some(user.gid))
                    .map_err(|errno| named(&path, errno.into()))?;
            }
        }
        let procs = self.folder.join(OWN).join("cgroup.procs");
        let opened = OpenOptions::new().write(true).open(&procs);
        opened.map(OwnedFd::from).map_err(|error| format!("{}: {error}", procs.display()))
    }

    /// Removes what a killed agent left of it; a group with processes stays.
    pub fn remove_empty(&self) {
        remove_all(&self.folder);
    }

    /// Ends everyone in it, at once.
    pub fn end(&self) {
        // Before kernel 5.14 there is no such file, and the pool's keeper ends them.
        let _ = put(&self.folder.join("cgroup.kill"), "1");
    }

    /// Ends everyone in it and removes it.
    pub async fn remove(&self) {
        self.end();
        for _ in 0..TRIES {
            if remove_all(&self.folder) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        tracing::warn!("{}: processes are still ending in it", self.folder.display());
    }
}

/// Removes the groups of agents that were killed with their pools, and whose run directories are gone
/// since: nobody else knows of them.
fn remove_forsaken(above: &Path) {
    for entry in fs::read_dir(above).into_iter().flatten().flatten() {
        let run_dir = entry.file_name().to_str().and_then(run_dir);
        if run_dir.is_some_and(|run_dir| !run_dir.exists()) {
            remove_all(&entry.path());
        }
    }
}

/// Whether a group and those in it are gone now.
fn remove_all(folder: &Path) -> bool {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_all(&entry.path());
        }
    }
    match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Where it cannot be, the pool says so.
fn pass_memory_on(folder: &Path) {
    let _ = put(&folder.join("cgroup.subtree_control"), "+memory");
}

/// A run directory as a name, as systemd writes paths in names.
fn name(run_dir: &Path) -> String {
    let mut name = PREFIX.to_owned();
    let path = OsStr::as_bytes(run_dir.as_os_str());
    for byte in path.strip_prefix(b"/").unwrap_or(path) {
        match byte {
            b'/' => name.push('-'),
            b'.' | b'_' | b':' => name.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => name.push(char::from(*byte)),
            byte => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    name
}

/// The run directory of a group with this name; nothing for other groups.
fn run_dir(name: &str) -> Option<PathBuf> {
    let mut rest = name.strip_prefix(PREFIX)?.bytes();
    let mut path = vec![b'/'];
    while let Some(byte) = rest.next() {
        path.push(match byte {
            b'-' => b'/',
            b'\\' => {
                let digits = [rest.next().filter(|x| *x == b'x')?, rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits[1..]).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    Some(PathBuf::from(OsStr::from_bytes(&path)))
}

fn put(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_directory_has_a_name_of_its_own() {
        let names = ["/run/downbeat", "/run-downbeat", "/run/downbeat.1"];
        let names = names.map(|path| name(Path::new(path)));
        assert_eq!(names[0], "downbeat-pool-run-downbeat");
        assert_eq!(names[1], "downbeat-pool-run\\x2ddownbeat");
        assert_eq!(names[2], "downbeat-pool-run-downbeat.1");
        for path in ["/run/downbeat", "/run-downbeat", "/tmp/a b/\u{e9}", "/x\\y"] {
            assert_eq!(run_dir(&name(Path::new(path))).as_deref(), Some(Path::new(path)));
        }
        assert_eq!(run_dir("downbeat.slice"), None);
        assert_eq!(run_dir("downbeat-pool-a\\x2"), None);
    }

    #[test]
    fn groups_of_run_directories_that_are_gone_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join(name(folder.path()));
        let gone = folder.path().join(name(Path::new("/no/such/run")));
        let other = folder.path().join("voice");
        for group in [&there, &gone, &other] {
            fs::create_dir_all(group.join(OWN)).unwrap();
        }
        remove_forsaken(folder.path());
        assert!(there.exists() && !gone.exists() && other.exists());
    }

    #[test]
    fn a_restore_takes_what_a_killed_agent_left() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("downbeat-pool-x");
        fs::create_dir_all(folder.join(OWN)).unwrap();
        let group = PoolGroup { folder: folder.clone(), below_own: false };
        group.remove_empty();
        assert!(!folder.exists());
        group.remove_empty();
    }

    #[test]
    fn a_group_goes_with_those_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        fs::create_dir_all(top.join("pool")).unwrap();
        fs::create_dir_all(top.join("worker-mic")).unwrap();
        assert!(remove_all(&top));
        assert!(!top.exists());
        assert!(remove_all(&top), "gone already");
    }

    #[test]
    fn without_a_hierarchy_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let roots = Roots {
            proc: folder.path().join("proc"),
            sys: folder.path().join("sys"),
            dev: folder.path().join("dev"),
        };
        let error = PoolGroup::find(&roots, folder.path()).unwrap_err();
        assert!(error.contains("version 2"), "{error}");
    }
}
