//! The guest's file systems, and its end.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

/// What a running system has mounted.
const MOUNTS: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("tracefs", "/sys/kernel/tracing"),
    ("bpf", "/sys/fs/bpf"),
];

/// Mounts the kernel's file systems and brings loopback up.
pub fn set_up() -> Result<()> {
    for (kind, at) in MOUNTS {
        // Folders inside a mounted file system are the kernel's to make.
        if !Path::new(at).is_dir() {
            fs::create_dir_all(at).with_context(|| format!("{at}: making it"))?;
        }
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("{at}: mounting {kind}"))?;
    }
    loopback_up().context("bringing loopback up")
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
