//! From a declaration to a process that can be started: its marks, where it may write, its control
//! group, and what it enters between fork and exec.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, chown, getppid};

use crate::config::{Sandbox, WorkerConfig};
use crate::confine::{self, Confinement, NODES, Needs};
use crate::descriptors;
use crate::groups::{Group, Groups};
use crate::paths::Paths;
use crate::process::SpawnError;
use crate::program::CommandLine;

/// Environment variable that names a process's worker and instance.
pub const WORKER_MARK: &str = "DOWNBEAT_WORKER";

/// Environment variable that names its pool, by the run directory.
pub const POOL_MARK: &str = "DOWNBEAT_POOL";

/// Environment variable that names the pool's process, and counts what that started: `POOL.NUMBER`.
pub const LAUNCH_MARK: &str = "DOWNBEAT_LAUNCH";

/// Environment variable with the worker's deadline, microseconds.
const DEADLINE: &str = "DOWNBEAT_DEADLINE_US";

/// A built-in worker keeps memory that tensors gave back, 32 MiB at least (mallopt(3)): to get the
/// pages of a picture of 300 kB anew for each request costs more than to compute a small model. Where
/// the allocator gives them back by its own rules, it does with some workers and not with others.
const TENSOR_MEMORY: [(&str, &str); 2] =
    [("MALLOC_TRIM_THRESHOLD_", "33554432"), ("MALLOC_MMAP_THRESHOLD_", "33554432")];

/// Processes that the pool started and that run, by number.
#[derive(Clone, Debug, Default)]
pub struct Launches(Arc<Mutex<Running>>);

#[derive(Debug, Default)]
struct Running {
    last: u64,
    pids: BTreeMap<u64, Option<Pid>>,
}

impl Launches {
    fn lock(&self) -> MutexGuard<'_, Running> {
        // Each change of it is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Launch {
        let mut running = self.lock();
        running.last += 1;
        let number = running.last;
        running.pids.insert(number, None);
        Launch { launches: self.clone(), number, temporary: None }
    }

    /// Whether this process was started here and is still somebody's.
    #[must_use]
    pub fn has(&self, pid: Pid) -> bool {
        self.lock().pids.values().any(|known| *known == Some(pid))
    }

    /// Whether what bears this number is still somebody's.
    #[must_use]
    pub fn runs(&self, number: u64) -> bool {
        self.lock().pids.contains_key(&number)
    }
}

/// One process, for as long as it is somebody's. Its temporary folder goes with it.
#[derive(Debug)]
pub struct Launch {
    launches: Launches,
    number: u64,
    temporary: Option<Temporary>,
}

impl Launch {
    /// It runs under this id.
    pub fn runs_as(&self, pid: Pid) {
        self.launches.lock().pids.insert(self.number, Some(pid));
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        self.launches.lock().pids.remove(&self.number);
    }
}

/// A folder that goes when this does.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Temporary {
    fn make(folder: PathBuf) -> Result<Self, SpawnError> {
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(SpawnError::Passing(format!("{}: {error}", folder.display())))
            }
            _ => Ok(Self(folder)),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where the processes of one instance live, one after the other.
#[derive(Debug)]
pub struct Home {
    id: String,
    paths: Paths,
    groups: Groups,
    launches: Launches,
    group: OnceLock<Option<Group>>,
}

/// What one kind of process needs besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// A file to read: its model.
    pub read: Option<&'a Path>,
    /// A folder to write: that of its socket.
    pub write: Option<&'a Path>,
    /// A descriptor that it inherits, whose number it gets as `--channel`.
    pub channel: Option<&'a OwnedFd>,
    /// The socket on which it reports.
    pub notify: Option<&'a Path>,
}

impl Home {
    /// Of instance `id`; nothing of it is made yet.
    #[must_use]
    pub fn new(id: &str, paths: &Paths, groups: &Groups, launches: &Launches) -> Self {
        Self {
            id: id.to_owned(),
            paths: paths.clone(),
            groups: groups.clone(),
            launches: launches.clone(),
            group: OnceLock::new(),
        }
    }

    /// The instance's control group, once a process was prepared and where it has one.
    #[must_use]
    pub fn group(&self) -> Option<&Group> {
        self.group.get()?.as_ref()
    }

    /// A command that is ready to be started on the main thread (see [`crate::process`]), but for
    /// its standard streams; and what is to be kept while it runs.
    ///
    /// # Errors
    /// What of its placement cannot be followed on this machine, or what the host is short of.
    pub fn prepare(
        &self,
        config: &WorkerConfig,
        line: &CommandLine,
        extras: Extras<'_>,
    ) -> Result<(Command, Launch), SpawnError> {
        let mut launch = self.launches.next();
        let confinement = self.confine(config, line, extras, &mut launch)?;
        let memory = config.placement.memory;
        let group = self.group.get_or_init(|| self.groups.of(&self.id, memory)).as_ref();
        let entrance = group.map(Group::entrance).transpose().map_err(SpawnError::Passing)?;
        let mut command = Command::new(&line.program);
        command
            .args(&line.arguments)
            .current_dir(config.dir.as_deref().unwrap_or(Path::new("/")))
            .envs(&confinement.env)
            .envs(extras.channel.iter().flat_map(|_| TENSOR_MEMORY))
            .envs(&config.env)
            .env(WORKER_MARK, &self.id)
            .env(POOL_MARK, &self.paths.run_dir)
            .env(LAUNCH_MARK, format!("{}.{}", std::process::id(), launch.number))
            .process_group(0);
        match extras.notify {
            Some(notify) => command.env("NOTIFY_SOCKET", notify),
            None => command.env_remove("NOTIFY_SOCKET"),
        };
        if let Some(deadline) = config.deadline {
            command.env(DEADLINE, deadline.as_micros().to_string());
        }
        if let Some((user, group)) = confinement.user {
            command.uid(user.as_raw()).gid(group.as_raw());
        }
        let channel = extras.channel.map(AsRawFd::as_raw_fd);
        if let Some(number) = channel {
            command.arg("--channel").arg(number.to_string());
        }
        let pool = Pid::this();
        // SAFETY: the closure runs in the child between fork and exec and makes a few syscalls; it
        // neither allocates nor takes a lock. The channel's descriptor is open there: whoever called
        // holds it until the child has been started.
        unsafe {
            command.pre_exec(move || {
                if let Some(entrance) = &entrance {
                    // `0` is the writer: nothing that it starts can be outside.
                    nix::unistd::write(entrance, b"0")?;
                }
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The pool may have died before the line above; then no signal would ever come.
                if getppid() != pool {
                    return Err(Errno::ESRCH.into());
                }
                prctl::set_no_new_privs()?;
                descriptors::put_back()?;
                if let Some(number) = channel {
                    // Without FD_CLOEXEC, in the child alone.
                    Errno::result(libc::fcntl(number, libc::F_SETFD, 0))?;
                }
                // Last, so that nothing above needs what it takes away.
                confinement.enter()
            });
        }
        Ok((command, launch))
    }

    /// Where it runs and what it may do. A confined one gets a temporary folder of its own.
    fn confine(
        &self,
        config: &WorkerConfig,
        line: &CommandLine,
        extras: Extras<'_>,
        launch: &mut Launch,
    ) -> Result<Confinement, SpawnError> {
        let placement = &config.placement;
        // `/` is where those are that asked for no folder.
        let dir = config.dir.as_deref().filter(|dir| *dir != Path::new("/"));
        let library = config.library_folder();
        let read = [Some(line.program.as_path()), extras.read, dir, library];
        let mut needs = Needs {
            read: read.into_iter().flatten().map(Path::to_owned).collect(),
            write: extras.write.map(Path::to_owned).into_iter().collect(),
        };
        if placement.sandbox != Sandbox::Off {
            let folder = self.paths.temporary(&self.id);
            needs.write.push(folder.clone());
            launch.temporary = Some(Temporary::make(folder)?);
        }
        let mut confinement =
            confine::prepare(placement, &needs, Path::new(NODES)).map_err(SpawnError::Lasting)?;
        let temporary = launch.temporary.as_ref().map(|folder| folder.0.as_path());
        if let Some(folder) = temporary {
            confinement.env.insert("TMPDIR", folder.display().to_string());
        }
        if let Some((user, group)) = confinement.user {
            for path in [extras.notify, temporary].into_iter().flatten() {
                chown(path, Some(user), Some(group)).map_err(|errno| {
                    SpawnError::Lasting(format!("`user`: chown {}: {errno}", path.display()))
                })?;
            }
        }
        Ok(confinement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_known_while_its_launch_is_kept() {
        let launches = Launches::default();
        let (first, second) = (launches.next(), launches.next());
        first.runs_as(Pid::from_raw(7));
        assert!(launches.has(Pid::from_raw(7)) && !launches.has(Pid::from_raw(8)));
        assert!(launches.runs(second.number));
        let number = first.number;
        drop(first);
        assert!(!launches.has(Pid::from_raw(7)) && !launches.runs(number));
        assert!(launches.next().number > second.number, "numbers are never used twice");
    }

    #[test]
    fn a_temporary_folder_goes_with_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.tmp");
        let temporary = Temporary::make(path.clone()).unwrap();
        fs::write(path.join("half"), "x").unwrap();
        drop(temporary);
        assert!(!path.exists());
    }
}
