//! The guest's file systems, what can be done to it, and its end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use downbeat_tests::agent::PATIENCE;
use downbeat_tests::cgroup;
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

/// A cgroup below the root, with every controller.
#[derive(Debug)]
pub struct Group(cgroup::Group);

impl Group {
    /// A new one.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self(cgroup::Group::new(Path::new(CGROUPS), name)?))
    }

    /// Moves a process in, with all its threads.
    pub fn take_in(&self, pid: u32) -> Result<()> {
        self.0.take_in(pid)
    }

    /// Lets it run for `quota` of CPU time in each `period` (1 ms to 1 s).
    pub fn limit(&self, quota: Duration, period: Duration) -> Result<()> {
        let text = format!("{} {}", quota.as_micros(), period.as_micros());
        self.0.write("cpu.max", &text)
    }

    /// A value of `cpu.stat`, such as `nr_throttled`.
    pub fn cpu_stat(&self, key: &str) -> Result<u64> {
        let text = self.0.read("cpu.stat")?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
        value.with_context(|| format!("cpu.stat has no {key}: {text}"))
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
        // for ordinary threads (its fair server) and that some releases count wrongly.
        let Err(error) = switch_off_within(&switch, PATIENCE) else { return Ok(Self { switch }) };
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error).with_context(|| format!("{}: writing 0", switch.display()));
        }
        let before = deadline_bandwidth();
        let paused = PausedFairServers::new();
        let Err(error) = switch_off_within(&switch, PATIENCE / 6) else {
            println!("cpu{cpu} could be switched off only without fair servers: {before}");
            return Ok(Self { switch });
        };
        let with = paused.map_or_else(|why| why, |paused| format!("{paused:?}"));
        let still = deadline_bandwidth();
        let why = format!(
            "{}: writing 0: {error} for {PATIENCE:?}; {before}; then {with}: {still}",
            switch.display()
        );
        Err(Skip(why).into())
    }
}

/// Tries to switch a CPU off for that long, and tells the last refusal.
fn switch_off_within(switch: &Path, patience: Duration) -> io::Result<()> {
    let mut last = Ok(());
    wait_until(patience, || {
        last = fs::write(switch, "0");
        last.as_ref().err().is_none_or(|error| error.raw_os_error() != Some(libc::EBUSY))
    });
    last
}

/// The fair servers of all CPUs without bandwidth; as they were when dropped.
#[derive(Debug)]
struct PausedFairServers {
    /// Each one's file and what it had, nanoseconds.
    before: Vec<(PathBuf, String)>,
}

impl PausedFairServers {
    /// Takes their bandwidth; else says why not.
    fn new() -> Result<Self, String> {
        let folder = debugfs()?.join("sched/fair_server");
        let said = |error| format!("{}: {error}", folder.display());
        let mut paused = Self { before: Vec::new() };
        for cpu in fs::read_dir(&folder).map_err(said)? {
            let runtime = cpu.map_err(said)?.path().join("runtime");
            let before = read(&runtime).map_err(|error| format!("{error:#}"))?;
            write(&runtime, "0").map_err(|error| format!("{error:#}"))?;
            paused.before.push((runtime, before.trim().to_owned()));
        }
        Ok(paused)
    }
}

impl Drop for PausedFairServers {
    fn drop(&mut self) {
        for (runtime, before) in &self.before {
            // One of a CPU that is off takes it as well.
            if let Err(error) = write(runtime, before) {
                println!("{error:#}");
            }
        }
    }
}

/// The deadline class's account of each root domain, as the scheduler tells it, on one line.
fn deadline_bandwidth() -> String {
    let told = debugfs()
        .and_then(|debug| read(&debug.join("sched/debug")).map_err(|error| format!("{error:#}")));
    let text = match told {
        Ok(text) => text,
        Err(why) => return format!("bandwidth unknown: {why}"),
    };
    let asked = |line: &&str| line.starts_with("dl_rq[") || line.contains("dl_bw->");
    let words = text.lines().filter(asked).flat_map(str::split_whitespace);
    words.collect::<Vec<_>>().join(" ")
}

/// The folder of debugfs, which a guest mounts only where a check went wrong; else why not.
fn debugfs() -> Result<&'static Path, String> {
    let at = Path::new("/sys/kernel/debug");
    if !at.join("sched").is_dir() {
        mount(Some("debugfs"), at, Some("debugfs"), MsFlags::empty(), None::<&str>)
            .map_err(|errno| format!("{}: mounting debugfs: {errno}", at.display()))?;
    }
    Ok(at)
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
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error().into()) }
}

/// Ends the guest. Returns only where the kernel refuses.
pub fn switch_off() {
    // The console is drained by the kernel before it resets; qemu runs with -no-reboot.
    let Err(errno) = reboot(RebootMode::RB_AUTOBOOT);
    println!("reboot: {errno}");
}
