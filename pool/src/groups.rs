//! Control groups of the workers, one for each instance, below a group that was handed over to the
//! pool (`--cgroup`, which the agent gives).
//!
//! ```text
//! HANDED OVER/pool         the pool itself: a group that passes controllers on can hold no process
//! HANDED OVER/worker-ID    an instance and all that it starts, whatever it does to its session
//! ```
//!
//! `cgroup.kill` (Linux 5.14) ends such a group with everyone in it, also those that fork while it is
//! written. Version 2 alone: a group of version 1 cannot be ended at once.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

/// The pool's own group below the one that was handed over.
pub const OWN: &str = "pool";

/// Precedes an instance's name.
const WORKER: &str = "worker-";

/// Looks at a group on a kernel without `cgroup.kill`: its members may fork while they are killed.
const ROUNDS: usize = 10;

/// Between two tries to remove groups.
const PAUSE: Duration = Duration::from_millis(10);

/// The workers' groups, or none.
#[derive(Clone, Debug, Default)]
pub struct Groups(Option<Arc<Top>>);

#[derive(Debug)]
struct Top {
    folder: PathBuf,
    /// Whether workers' groups have the memory controller.
    memory: bool,
    /// Groups that are to be removed when the last of their processes is gone.
    left: Mutex<BTreeSet<PathBuf>>,
}

impl Top {
    fn left(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        // A set is whole after each call.
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Groups {
    /// Those below `folder`, which must belong to the pool's user. Passes the memory controller on
    /// to them where it is there.
    ///
    /// # Errors
    /// Why there can be none, and the remedy.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let shown = folder.display();
        let procs = folder.join("cgroup.procs");
        OpenOptions::new().write(true).open(&procs).map_err(|error| {
            format!("{}: {error}; name a group of version 2 of the pool's user", procs.display())
        })?;
        let own = fs::read_to_string(folder.join(OWN).join("cgroup.procs")).unwrap_or_default();
        let inside = own.lines().any(|pid| pid.parse() == Ok(std::process::id()));
        if !inside && !geteuid().is_root() {
            return Err(format!(
                "{shown}: the pool is not in its group `{OWN}`, so the kernel lets it move nobody \
                 into another; let the agent start it"
            ));
        }
        let memory = pass_memory_on(folder).unwrap_or_else(|error| {
            tracing::info!("{shown}: memory is not accounted by worker: {error}");
            false
        });
        Ok(Self(Some(Arc::new(Top { folder: folder.to_owned(), memory, left: Mutex::default() }))))
    }

    /// The group of instance `id`, which may use `memory` bytes; nothing where there are no groups.
    /// It is made when the first process is to enter it.
    #[must_use]
    pub fn of(&self, id: &str, memory: Option<u64>) -> Option<Group> {
        let top = Arc::clone(self.0.as_ref()?);
        let folder = top.folder.join(format!("{WORKER}{id}"));
        Some(Group { top, folder, memory })
    }

    /// Ends everyone in the workers' groups and removes the groups, as far as that goes at once.
    /// Returns how many groups had processes.
    pub fn clear(&self) -> usize {
        let Some(top) = &self.0 else { return 0 };
        clear(&top.folder)
    }

    /// Removes groups that could not be removed before; whether some are still left.
    #[must_use]
    pub fn sweep(&self) -> bool {
        let Some(top) = &self.0 else { return false };
        let mut left = top.left();
        left.retain(|folder| !remove(folder));
        !left.is_empty()
    }

    /// Bytes that workers may still take before the limit of a group above them, which the host's
    /// free memory does not show; nothing where there is no limit.
    #[must_use]
    pub fn room(&self) -> Option<u64> {
        let top = self.0.as_ref()?;
        let rooms = top.folder.ancestors().filter_map(|folder| {
            let limit = number(&folder.join("memory.max"))?;
            Some(limit.saturating_sub(number(&folder.join("memory.current"))?))
        });
        rooms.min()
    }
}

/// Ends everyone in the workers' groups below `top` and removes the groups, as far as that goes at
/// once. Returns how many groups had processes.
pub fn clear(top: &Path) -> usize {
    let mut populated = 0;
    for folder in workers(top) {
        populated += usize::from(is_populated(&folder));
        end(&folder);
        remove(&folder);
    }
    populated
}

/// Waits, for `patience` at most, until the last of those that were ended are gone, and removes
/// their groups.
pub fn remove_all(top: &Path, patience: Duration) {
    let until = Instant::now() + patience;
    while !workers(top).iter().all(|folder| remove(folder)) && Instant::now() < until {
        std::thread::sleep(PAUSE);
    }
}

/// The workers' groups below `top`.
fn workers(top: &Path) -> Vec<PathBuf> {
    let is_worker = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with(WORKER));
    let entries = fs::read_dir(top).into_iter().flatten().flatten();
    entries.filter(|entry| is_worker(&entry.file_name())).map(|entry| entry.path()).collect()
}

/// Whether the workers' groups get the memory controller.
fn pass_memory_on(folder: &Path) -> io::Result<bool> {
    let has = |file: &str| -> io::Result<bool> {
        Ok(fs::read_to_string(folder.join(file))?.split_ascii_whitespace().any(|it| it == "memory"))
    };
    if !has("cgroup.controllers")? {
        return Ok(false);
    }
    if !has("cgroup.subtree_control")? {
        put(&folder.join("cgroup.subtree_control"), "+memory")?;
    }
    Ok(true)
}

/// One instance's group. When it is dropped, everyone in it is killed and it is removed.
#[derive(Debug)]
pub struct Group {
    top: Arc<Top>,
    folder: PathBuf,
    memory: Option<u64>,
}

impl Group {
    /// Makes the group where it is missing, and opens the file that lets the writer of `0` into it.
    ///
    /// # Errors
    /// The path and the kernel's reason.
    pub fn entrance(&self) -> Result<OwnedFd, String> {
        let named = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        self.top.left().remove(&self.folder);
        match fs::create_dir(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(named(&self.folder, error));
            }
            _ => {}
        }
        if self.top.memory {
            let limit = self.folder.join("memory.max");
            let text = self.memory.map_or_else(|| "max".into(), |bytes| bytes.to_string());
            put(&limit, &text).map_err(|error| named(&limit, error))?;
            // Half a worker is none: the whole group is ended when its memory is used up.
            let _ = put(&self.folder.join("memory.oom.group"), "1");
        }
        let procs = self.folder.join("cgroup.procs");
        let opened = OpenOptions::new().write(true).open(&procs);
        opened.map(OwnedFd::from).map_err(|error| named(&procs, error))
    }

    /// Ends everyone in it.
    pub fn end(&self) {
        end(&self.folder);
    }

    /// Bytes that those in it allocated, without the page cache, which the kernel takes back;
    /// nothing where nobody counts them.
    #[must_use]
    pub fn anonymous(&self) -> Option<u64> {
        let stat = fs::read_to_string(self.folder.join("memory.stat")).ok()?;
        let line = stat.lines().find_map(|line| line.strip_prefix("anon "))?;
        line.trim().parse().ok()
    }

    /// How often the kernel killed for its limit.
    #[must_use]
    pub fn memory_kills(&self) -> u64 {
        let events = fs::read_to_string(self.folder.join("memory.events")).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        end(&self.folder);
        if !remove(&self.folder) {
            self.top.left().insert(self.folder.clone());
        }
    }
}

/// Sends SIGKILL to everyone in a group.
fn end(folder: &Path) {
    match put(&folder.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound && folder.is_dir() => {}
        // The group is gone, or all in it are ending.
        _ => return,
    }
    for _ in 0..ROUNDS {
        let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let pids = members.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 0);
        let killed = pids.filter(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok()).count();
        if killed == 0 {
            return;
        }
    }
}

/// Whether a group is gone now.
fn remove(folder: &Path) -> bool {
    match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn is_populated(folder: &Path) -> bool {
    let events = fs::read_to_string(folder.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
}

fn put(path: &Path, text: &str) -> io::Result<()> {
    // Never made: in a folder that is no group these files would be ordinary ones.
    let mut file: File = OpenOptions::new().write(true).open(path)?;
    file.write_all(text.as_bytes())
}

/// A file's number; nothing for `max`, or without the file.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
