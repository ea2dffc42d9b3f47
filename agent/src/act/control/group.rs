//! Control groups of version 2: their files, and who is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::not_of_this;
use crate::act::subject::GroupId;
use crate::act::value::{CpuLimit, CpuShare, Cpuset, Lever, PerDevice, Value, cpu_ranges};
use crate::observe::cgroups::{Hierarchies, Membership, Mount};
use crate::roots::Roots;

/// A group to which a process should go is not there any more.
#[derive(Debug, thiserror::Error)]
#[error("the group {0} is gone")]
pub(in crate::act) struct VanishedGroup(String);

impl VanishedGroup {
    /// Whether an error is this one.
    pub(in crate::act) fn is(error: &io::Error) -> bool {
        matches!(error.get_ref(), Some(inner) if inner.is::<Self>())
    }
}

/// The version 2 hierarchy, where one is mounted.
#[derive(Debug)]
pub(super) struct Groups {
    proc: PathBuf,
    mount: Option<Mount>,
}

impl Groups {
    pub(super) fn new(roots: &Roots) -> Self {
        let mut hierarchies = Hierarchies::default();
        hierarchies.refresh(roots, std::process::id());
        Self { proc: roots.proc.clone(), mount: hierarchies.v2.into_iter().next() }
    }

    /// The group that a process is in.
    pub(super) fn of_process(&self, pid: u32) -> io::Result<Arc<str>> {
        let text = fs::read_to_string(self.proc.join(pid.to_string()).join("cgroup"))?;
        let group = Membership::parse(&text).v2;
        group.map(Arc::from).ok_or_else(|| unsupported("no version 2 hierarchy is mounted here"))
    }

    /// The controllers that a group has and may pass on.
    pub(super) fn controllers_of(&self, path: &str) -> io::Result<BTreeSet<String>> {
        let names = fs::read_to_string(self.folder(path)?.join("cgroup.controllers"))?;
        Ok(names.split_ascii_whitespace().map(str::to_owned).collect())
    }

    /// Why a process could not be moved back to `home`, where the kernel would not let this agent.
    pub(super) fn no_way_home(&self, home: &str) -> Option<String> {
        let procs = self.folder(home).ok()?.join("cgroup.procs");
        let error = OpenOptions::new().write(true).open(&procs).err()?;
        let refused =
            matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS));
        refused.then(|| {
            format!(
                "it could not be moved back: {}: {error}; run downbeatd as root, or where it may \
                 write there",
                procs.display()
            )
        })
    }

    /// Moves a process with all its threads.
    pub(super) fn move_process(&self, pid: u32, path: &str) -> io::Result<()> {
        let here = self.folder(&self.of_process(pid)?)?;
        let kind = fs::read_to_string(here.join("cgroup.type")).unwrap_or_default();
        // The threads of a threaded group can each be in another one, which a move would lose.
        if kind.trim() == "threaded" {
            let reason = "its group is threaded, and a move would lose which of its threads are \
                          where; leave the process where its owner put it";
            return Err(unsupported(reason));
        }
        let folder = self.folder(path)?;
        match put(&folder.join("cgroup.procs"), &pid.to_string()) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(io::Error::other(
                "the group passes controllers on to groups of its own, so no process can be in it",
            )),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Err(unsupported("the group is a threaded one, or has one below it"))
            }
            // The folder is not there, which does not say that the process is not.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(io::Error::other(VanishedGroup(path.to_owned())))
            }
            result => result,
        }
    }

    /// The group below which the agent may make its own: at the top where nobody manages the
    /// hierarchy, else the agent's own group, if systemd handed that over. The agent's processes
    /// then move to a leaf of it, since a group that passes controllers on can hold none.
    pub(super) fn place(&self) -> Result<Arc<str>, String> {
        let (place, handed_over) = self.find_place()?;
        if let Some(folder) = handed_over {
            self.move_to_leaf(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        Ok(place)
    }

    /// The same without moving anyone; with its folder where systemd handed it over.
    pub(super) fn find_place(&self) -> Result<(Arc<str>, Option<PathBuf>), String> {
        let init = fs::read_to_string(self.proc.join("1/comm")).unwrap_or_default();
        if self.mount.is_none() {
            return Err("no version 2 hierarchy is mounted here (see `downbeat doctor`)".into());
        }
        if init.trim() != "systemd" {
            return Ok(("/downbeat.slice".into(), None));
        }
        let here = self.of_process(std::process::id()).map_err(|error| error.to_string())?;
        let place: Arc<str> = here.strip_suffix(LEAF).map_or_else(|| Arc::clone(&here), Arc::from);
        let folder = self.folder(&place).map_err(|error| error.to_string())?;
        if !is_delegated(&folder) {
            return Err(format!(
                "systemd manages the groups and has not handed {place} over: run downbeatd as a \
                 unit with Delegate=yes (packaging/systemd has one)"
            ));
        }
        Ok((place, Some(folder)))
    }

    fn move_to_leaf(&self, folder: &Path) -> io::Result<()> {
        let leaf = folder.join(LEAF.trim_start_matches('/'));
        match fs::create_dir(&leaf) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let members = fs::read_to_string(folder.join("cgroup.procs"))?;
        members.lines().try_for_each(|pid| put(&leaf.join("cgroup.procs"), pid))
    }

    /// Whether the group is still the one that is meant.
    pub(super) fn is_same(&self, id: &GroupId) -> bool {
        let found = self.folder(&id.path).and_then(fs::metadata);
        id.inode == 0 || found.is_ok_and(|found| found.ino() == id.inode)
    }

    pub(super) fn read(&self, lever: Lever, path: &str) -> io::Result<Value> {
        let folder = self.folder(path)?;
        if lever == Lever::Folder {
            return Ok(Value::Folder(folder.is_dir()));
        }
        read(lever, &folder).map_err(|error| explain(error, &folder, lever))
    }

    pub(super) fn write(&self, path: &str, value: &Value) -> io::Result<()> {
        let folder = self.folder(path)?;
        match value {
            Value::Folder(true) => match fs::create_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                result => result,
            },
            Value::Folder(false) => match fs::remove_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(io::Error::other(
                    format!("{}: processes or groups are still in it", folder.display()),
                )),
                result => result,
            },
            _ => write(&folder, value).map_err(|error| explain(error, &folder, value.lever())),
        }
    }

    /// The CPUs that the process's group leaves to those in it, where groups of version 2 say so.
    pub(super) fn cpus_of_process(&self, pid: u32) -> Option<Vec<u32>> {
        let group = self.of_process(pid).ok()?;
        // One without the controller has those of the next group above it that has it.
        let above = std::iter::successors(Some(&*group), |group| {
            group.rsplit_once('/').map(|(above, _)| above).filter(|_| *group != "/")
        });
        let text = above
            .filter_map(|group| self.folder(group).ok())
            .find_map(|folder| fs::read_to_string(folder.join("cpuset.cpus.effective")).ok())?;
        cpu_list(&text).ok()
    }

    fn folder(&self, path: &str) -> io::Result<PathBuf> {
        let mount = self.mount.as_ref();
        let mount = mount.ok_or_else(|| unsupported("no version 2 hierarchy is mounted here"))?;
        let outside = || unsupported(&format!("the group {path} lies outside of what is mounted"));
        mount.folder(path).ok_or_else(outside)
    }
}

/// A lever of a group that is there and has no such file is not gone: the kernel lacks the lever,
/// or the group's controller is off.
fn explain(error: io::Error, folder: &Path, lever: Lever) -> io::Error {
    let gone = matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV));
    if !gone {
        return error;
    }
    if !folder.is_dir() {
        return io::Error::from(io::ErrorKind::NotFound);
    }
    let controller = lever.name().split('.').next().unwrap_or_default();
    unsupported(&format!(
        "{}: this group has no {} ({error}): its {controller} controller is off, or the kernel \
         lacks it",
        folder.display(),
        lever.name()
    ))
}

fn read(lever: Lever, folder: &Path) -> io::Result<Value> {
    let text = |name: &str| fs::read_to_string(folder.join(name));
    let limit = |name: &str| text(name).and_then(|text| limit(&text));
    Ok(match lever {
        Lever::Freeze => Value::Freeze(text("cgroup.freeze")?.trim() == "1"),
        Lever::CpuWeight => {
            let idle = text("cpu.idle").is_ok_and(|idle| idle.trim() == "1");
            let weight = || text("cpu.weight").and_then(|text| number(&text));
            Value::CpuWeight(if idle { CpuShare::Idle } else { CpuShare::Weight(weight()?) })
        }
        Lever::CpuMax => {
            let max = text("cpu.max")?;
            let (quota, period) = max.trim().split_once(' ').unwrap_or((&max, "100000"));
            // Before kernel 5.14 there is no burst.
            let burst = text("cpu.max.burst").ok().and_then(|text| number(&text).ok());
            Value::CpuMax(CpuLimit {
                quota_us: self::limit(quota)?,
                period_us: number(period)?,
                burst_us: burst.unwrap_or(0),
            })
        }
        Lever::MemoryMin => Value::MemoryMin(limit("memory.min")?),
        Lever::MemoryLow => Value::MemoryLow(limit("memory.low")?),
        Lever::MemoryHigh => Value::MemoryHigh(limit("memory.high")?),
        Lever::MemoryMax => Value::MemoryMax(limit("memory.max")?),
        Lever::IoWeight => {
            let weights = text("io.weight").or_else(|_| text("io.bfq.weight"))?;
            // Either `default 100` or the number alone, and lines per device below.
            let line = weights.lines().next().unwrap_or_default();
            Value::IoWeight(Some(number(line.trim_start_matches("default "))?))
        }
        Lever::IoMax => Value::IoMax(per_device(&text("io.max")?)),
        Lever::IoLatency => Value::IoLatency(per_device(&text("io.latency")?)),
        Lever::Cpuset => {
            let partition = text("cpuset.cpus.partition");
            Value::Cpuset(Cpuset {
                cpus: cpu_list(&text("cpuset.cpus")?)?,
                // `root invalid (reason)` is read as it is: nobody's wish.
                partition: partition.map_or_else(|_| "member".into(), |it| it.trim().to_owned()),
            })
        }
        Lever::Controllers => {
            let names = text("cgroup.subtree_control")?;
            Value::Controllers(names.split_ascii_whitespace().map(str::to_owned).collect())
        }
        _ => return Err(not_of_this(lever)),
    })
}

fn write(folder: &Path, value: &Value) -> io::Result<()> {
    let set = |name: &str, text: &str| put(&folder.join(name), text);
    match value {
        Value::Freeze(frozen) => set("cgroup.freeze", if *frozen { "1" } else { "0" }),
        Value::CpuWeight(CpuShare::Idle) => set("cpu.idle", "1"),
        Value::CpuWeight(CpuShare::Weight(weight)) => {
            if fs::read(folder.join("cpu.idle")).is_ok_and(|idle| idle.starts_with(b"1")) {
                set("cpu.idle", "0")?;
            }
            set("cpu.weight", &weight.to_string())
        }
        Value::CpuMax(CpuLimit { quota_us, period_us, burst_us }) => {
            let has_burst = folder.join("cpu.max.burst").exists();
            if has_burst {
                set("cpu.max.burst", "0")?;
            }
            set("cpu.max", &format!("{} {period_us}", or_max(*quota_us)))?;
            if *burst_us > 0 { set("cpu.max.burst", &burst_us.to_string()) } else { Ok(()) }
        }
        Value::MemoryMin(bytes) => set("memory.min", &or_max(*bytes)),
        Value::MemoryLow(bytes) => set("memory.low", &or_max(*bytes)),
        Value::MemoryHigh(bytes) => set("memory.high", &or_max(*bytes)),
        Value::MemoryMax(bytes) => set("memory.max", &or_max(*bytes)),
        Value::IoWeight(Some(weight)) => match set("io.weight", &format!("default {weight}")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                set("io.bfq.weight", &weight.to_string())
            }
            result => result,
        },
        Value::IoMax(PerDevice(devices)) => {
            devices.iter().try_for_each(|(device, to)| set("io.max", &format!("{device} {to}")))
        }
        Value::IoLatency(PerDevice(devices)) => {
            devices.iter().try_for_each(|(device, to)| set("io.latency", &format!("{device} {to}")))
        }
        Value::Cpuset(wanted) => set_cpuset(folder, wanted),
        Value::Controllers(wanted) => {
            let Value::Controllers(now) = read(Lever::Controllers, folder)? else { return Ok(()) };
            set_controllers(folder, &now, wanted)
        }
        other => Err(not_of_this(other.lever())),
    }
}

fn set_cpuset(folder: &Path, wanted: &Cpuset) -> io::Result<()> {
    let partition = folder.join("cpuset.cpus.partition");
    if fs::read(&partition).is_ok_and(|now| !now.starts_with(b"member")) {
        put(&partition, "member")?;
    }
    // A line end alone means "those of the group above"; the kernel takes no empty write.
    put(&folder.join("cpuset.cpus"), &format!("{}\n", cpu_ranges(&wanted.cpus)))?;
    if wanted.partition == "member" {
        return Ok(());
    }
    put(&partition, &wanted.partition)?;
    // The kernel takes the word and says afterwards that it cannot be done.
    let now = fs::read_to_string(&partition)?;
    if now.contains("invalid") {
        put(&partition, "member")?;
        return Err(io::Error::other(format!("the kernel says `{}`", now.trim())));
    }
    Ok(())
}

fn set_controllers(
    folder: &Path,
    now: &BTreeSet<String>,
    wanted: &BTreeSet<String>,
) -> io::Result<()> {
    let on = wanted.difference(now).map(|name| format!("+{name}"));
    let off = now.difference(wanted).map(|name| format!("-{name}"));
    on.chain(off).try_for_each(|change| {
        put(&folder.join("cgroup.subtree_control"), &change)
            .map_err(|error| not_passed_on(&error, &change, folder))
    })
}

/// The group has been read a moment ago: whatever the kernel says, it is not gone.
fn not_passed_on(error: &io::Error, change: &str, folder: &Path) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::EBUSY) => "processes are in this group itself, or a group below still uses it",
        Some(libc::EINVAL) => {
            "under RT_GROUP_SCHED the cpu controller needs all real-time processes in the root \
             group; else a threaded group is in the way"
        }
        Some(libc::ENOENT) => {
            "this hierarchy has no such controller: it is mounted as version 1, or not passed on \
             from above"
        }
        _ => "",
    };
    io::Error::other(format!("{change} in {}: {error} {why}", folder.display()))
}

/// One write, as these files want it. Without blocking: since kernel 6.16 `memory.max` and
/// `memory.high` then leave the reclaiming to those who allocate.
fn put(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    file.write_all(text.as_bytes())
}

fn or_max(value: Option<u64>) -> String {
    value.map_or_else(|| "max".to_owned(), |value| value.to_string())
}

fn limit(text: &str) -> io::Result<Option<u64>> {
    if text.trim() == "max" { Ok(None) } else { number(text).map(Some) }
}

fn number<T: FromStr>(text: &str) -> io::Result<T> {
    let text = text.trim();
    text.parse().map_err(|_| io::Error::other(format!("`{text}` is not a number")))
}

/// `8:0 rbps=5 wbps=max` a line.
fn per_device(text: &str) -> PerDevice {
    let line = |line: &str| {
        let (device, settings) = line.trim().split_once(' ')?;
        Some((device.to_owned(), settings.to_owned()))
    };
    PerDevice(text.lines().filter_map(line).collect::<BTreeMap<_, _>>())
}

/// `0-3,6`.
pub(super) fn cpu_list(text: &str) -> io::Result<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(number::<u32>(first)?..=number::<u32>(last)?);
    }
    Ok(cpus)
}

/// The agent's own processes, below a group that systemd handed over.
const LEAF: &str = "/agent";

/// systemd marks a group that it hands over (`Delegate=yes`).
fn is_delegated(folder: &Path) -> bool {
    let Ok(path) = CString::new(folder.as_os_str().as_bytes()) else { return false };
    [c"trusted.delegate", c"user.delegate"].into_iter().any(|name| {
        let mut value = [0_u8; 4];
        // SAFETY: both names end with a zero byte, and the kernel writes at most `value.len()`
        // bytes to `value`.
        let length = unsafe {
            libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        };
        length > 0 && value[0] == b'1'
    })
}

fn unsupported(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, reason)
}

#[cfg(test)]
mod tests;
