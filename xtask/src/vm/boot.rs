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

/// How the guest's CPUs are emulated.
#[derive(Clone, Copy, Debug)]
pub enum Threads {
    /// Each by a thread of its own.
    Multi,
    /// In turns by one thread: slower, and without the races of the other.
    Single,
}

/// A guest that says nothing for so long stands still: a check begins with a line, and none takes a
/// third of this even beside other work.
const STILL: Duration = Duration::from_secs(240);

/// What [`run`] adds to the console of a guest that says nothing any more.
const STOOD_STILL: &str = "(killed: it stood still)";

/// Whether the guest stood still where the kernel changes its own code, as it does when a tracepoint
/// is switched. QEMU 7.2 emulating several CPUs at once now and then does not see the change: the
/// CPUs then wait for each other for ever, or one dies on the breakpoint that was to be gone. Now and
/// then it also loses a timer of a CPU that has nothing to do, which then never wakes up.
pub fn locked_up(console: &str) -> bool {
    ["watchdog: BUG: soft lockup", "Oops: int3", STOOD_STILL].iter().any(|it| console.contains(it))
}

/// Boots `kernel` with the file system in `image`, which is removed afterwards, and returns what
/// came over the console until the guest switched itself off or the time was over. Where `check` is
/// given, only the checks with this in their name run.
pub fn run(
    kernel: &Path,
    image: &Path,
    check: Option<&str>,
    cpus: Threads,
    limit: Duration,
) -> Result<String> {
    let log = workspace::target().join("vm").join(format!("console.{}.log", std::process::id()));
    let out = fs::File::create(&log).with_context(|| format!("{}: making it", log.display()))?;
    let mut parameters = "console=ttyS0 loglevel=4 panic=-1 psi=1".to_owned();
    if let Some(check) = check {
        // What the kernel does not know it puts into the environment of the first process.
        parameters += &format!(" \"{ONLY}={check}\"");
    }
    // Without cmpxchg16b: after it QEMU 7.2 now and then leaves rubbish in the flags, on which the
    // next interrupt dies ("Fatal exception in interrupt", in a memory allocation).
    let cpu = "max,-cx16";
    let accelerator = match cpus {
        Threads::Multi => "tcg,thread=multi",
        Threads::Single => "tcg,thread=single",
    };
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", accelerator, "-cpu", cpu, "-smp", "2", "-m", "1G"])
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
    for file in [&log, image] {
        fs::remove_file(file).with_context(|| format!("{}: removing it", file.display()))?;
    }
    Ok(console)
}
