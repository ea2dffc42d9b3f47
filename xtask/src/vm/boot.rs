//! One boot under software emulation.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use downbeat_tests::agent::die_with_this_thread;
use downbeat_tests::guest::ONLY;
use downbeat_tests::processes::wait_until;
use nix::sys::signal::Signal;

use crate::workspace;

/// A guest that says nothing for so long stands still: a check begins with a line, and none takes a
/// third of this even beside other work.
const STILL: Duration = Duration::from_secs(240);

/// What [`run`] adds to the console of a guest that says nothing any more.
const STOOD_STILL: &str = "(killed: it stood still)";

/// Whether the guest stood still: QEMU now and then does not see that the kernel changed its own code,
/// as it does when a tracepoint is switched, or loses a timer. (With a host thread for each emulated
/// CPU it did so at every third boot; hence the single one.)
pub fn locked_up(console: &str) -> bool {
    ["watchdog: BUG: soft lockup", "Oops: int3", STOOD_STILL].iter().any(|it| console.contains(it))
}

/// Boots `kernel` with the file system in `image` and returns what came over the console until the
/// guest switched itself off or the time was over. Where `check` is given, only the checks with this
/// in their name run.
pub fn run(
    series: &str,
    kernel: &Path,
    image: &Path,
    check: Option<&str>,
    limit: Duration,
) -> Result<String> {
    let name = format!("console.{series}.{}.log", std::process::id());
    let log = workspace::target().join("vm").join(name);
    let out = fs::File::create(&log).with_context(|| format!("{}: making it", log.display()))?;
    let mut parameters = "console=ttyS0 loglevel=4 panic=-1 psi=1".to_owned();
    if let Some(check) = check {
        // What the kernel does not know it puts into the environment of the first process.
        parameters += &format!(" \"{ONLY}={check}\"");
    }
    // Without cmpxchg16b: after it QEMU 7.2 now and then leaves rubbish in the flags, on which the
    // next interrupt dies ("Fatal exception in interrupt", in a memory allocation).
    let cpu = "max,-cx16";
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg,thread=single", "-cpu", cpu, "-smp", "2", "-m", "1G"])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .args(["-append", &parameters])
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    die_with_this_thread(&mut command, Signal::SIGKILL);
    let mut guest = command.spawn().context("qemu-system-x86_64: starting it")?;
    let mut said = (0, Instant::now());
    let mut stands_still = false;
    wait_until(limit, || {
        let console = fs::read(&log).unwrap_or_default();
        if console.len() != said.0 {
            said = (console.len(), Instant::now());
        }
        stands_still = said.1.elapsed() > STILL;
        matches!(guest.try_wait(), Ok(Some(_)))
            || stands_still
            || locked_up(&String::from_utf8_lossy(&console))
    });
    let ended = matches!(guest.try_wait(), Ok(Some(_)));
    if !ended {
        guest.kill().context("qemu: killing it")?;
        guest.wait()?;
    }
    let mut console = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if stands_still {
        console += &format!("\n{STOOD_STILL}");
    } else if !ended {
        console += &format!("\n(killed: it did not end within {limit:?})");
    }
    fs::remove_file(&log).with_context(|| format!("{}: removing it", log.display()))?;
    Ok(console)
}
