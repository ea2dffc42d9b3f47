//! The guest's file systems, what can be done to it, and its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use downbeat_tests::agent::PATIENCE;
use downbeat_tests::processes::wait_until;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

use crate::checks::Skip;

const CGROUPS: &str = "/sys/fs/cgroup";

/// What a running system has mounted.
const MOUNTS: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("cgroup2", CGROUPS),
    ("tracefs", "/sys/kernel/tracing"),
    ("bpf", "/sys/fs/bpf"),
];

/// Mounts the kernel's file systems, enables every cgroup controller and brings loopback up.
pub fn set_up() -> Result<()> {
    for (kind, at) in MOUNTS {
        // Folders inside a mounted file system are the kernel's to make.
        if !Path::new(at).is_dir() {
            fs::create_dir_all(at).with_context(|| format!("{at}: making it"))?;
        }
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("{at}: mounting {kind}"))?;
    }
    let root = Path::new(CGROUPS);
    for controller in read(&root.join("cgroup.controllers"))?.split_whitespace() {
        write(&root.join("cgroup.subtree_control"), &format!("+{controller}"))?;
    }
    loopback_up().context("bringing loopback up")
}

/// A cgroup below the root, with every controller; removed when dropped, so what runs in it must
/// have ended (declare it before its loads).
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
}

impl Group {
    /// A new one.
    pub fn new(name: &str) -> Result<Self> {
        let path = Path::new(CGROUPS).join(name);
        fs::create_dir(&path).with_context(|| format!("{}: making it", path.display()))?;
        Ok(Self { path })
    }

    /// Moves a process in, with all its threads.
    pub fn take_in(&self, pid: u32) -> Result<()> {
        write(&self.path.join("cgroup.procs"), &pid.to_string())
    }

    /// Lets it run for `quota` of CPU time in each `period` (1 ms to 1 s).
    pub fn limit(&self, quota: Duration, period: Duration) -> Result<()> {
        let text = format!("{} {}", quota.as_micros(), period.as_micros());
        write(&self.path.join("cpu.max"), &text)
    }

    /// A value of `cpu.stat`, such as `nr_throttled`.
    pub fn cpu_stat(&self, key: &str) -> Result<u64> {
        let text = read(&self.path.join("cpu.stat"))?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
        value.with_context(|| format!("cpu.stat has no {key}: {text}"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            println!("{}: removing it: {error}", self.path.display());
        }
    }
}

/// A CPU that is switched off; back when dropped.
#[derive(Debug)]
pub struct OfflineCpu {
    switch: PathBuf,
}

impl OfflineCpu {
    /// Switches it off. Skips the check where the kernel cannot.
    pub fn take(cpu: u32) -> Result<Self> {
        let switch = PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}/online"));
        need(&switch, "CPU hotplug")?;
        // From 6.12 on the kernel now and then calls a CPU busy, over bandwidth that it keeps there
        // for ordinary threads.
        let mut last = Ok(());
        wait_until(PATIENCE, || {
            last = write(&switch, "0");
            last.is_ok()
        });
        last.map(|()| Self { switch })
    }
}

impl Drop for OfflineCpu {
    fn drop(&mut self) {
        if let Err(error) = write(&self.switch, "1") {
            println!("{error:#}");
        }
    }
}

/// Lets process ids go up to the kernel's limit (4,194,303) and has the next ones begin at `pid`.
/// Skips the check where the kernel cannot.
pub fn start_pids_at(pid: u32) -> Result<()> {
    let last = Path::new("/proc/sys/kernel/ns_last_pid");
    need(last, "CONFIG_CHECKPOINT_RESTORE")?;
    write(Path::new("/proc/sys/kernel/pid_max"), "4194304")?;
    write(last, &(pid - 1).to_string())
}

fn need(file: &Path, feature: &str) -> Result<()> {
    if file.exists() {
        Ok(())
    } else {
        Err(Skip(format!("no {} (a kernel without {feature})", file.display())).into())
    }
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("{}: reading it", file.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("{}: writing {text}", file.display()))
}

/// `ip link set lo up`, without `ip`.
fn loopback_up() -> Result<()> {
    use std::os::fd::AsRawFd;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all zeroes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request names an interface, ends it with a zero and carries its flags; the
    // kernel only reads it.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

/// Ends the guest. Returns only where the kernel refuses.
pub fn switch_off() {
    // The console is drained by the kernel before it resets; qemu runs with -no-reboot.
    let Err(errno) = reboot(RebootMode::RB_AUTOBOOT);
    println!("reboot: {errno}");
}
