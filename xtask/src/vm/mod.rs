//! Virtual machines: the agent on kernels other than this one, under software emulation.

mod boot;
mod image;
mod kernel;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use downbeat_tests::guest::Line;

use crate::packages::{self, CPIO, QEMU};
use crate::steps::{self, Counts, Outcome, Steps};
use crate::workspace;

/// A guest that takes longer is hung: it boots in seconds and has checked within eight minutes, or
/// three times that beside other work.
const LIMIT: Duration = Duration::from_secs(1500);

/// Options of `cargo xtask vm-test`.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Kernel series, such as 6.1; may be given several times [default: each one that is known]
    #[arg(long)]
    kernel: Vec<String>,
    /// Runs only the checks with this in their name
    #[arg(long, value_name = "TEXT", value_parser = plain)]
    check: Option<String>,
}

/// It travels on the kernel's command line.
fn plain(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || text.contains(['"', '\n']) {
        return Err("give some words without quotation marks");
    }
    Ok(text.to_owned())
}

/// `cargo xtask vm-test`.
pub fn run(args: &Args) -> Result<()> {
    let mut steps = Steps::default();
    steps.run("build", || steps::command("build", workspace::cargo().arg("build")));
    boot_each(&mut steps, args);
    steps.finish()
}

/// Boots the kernels, as many at a time as the host has CPUs: each guest keeps one busy. The programs
/// must be built.
pub fn boot_each(steps: &mut Steps, args: &Args) {
    let known = kernel::SERIES.map(|series| series.name.to_owned());
    let series = if args.kernel.is_empty() { &known[..] } else { &args.kernel };
    let ready = packages::need(&[QEMU, CPIO]).and_then(|()| {
        // One after the other: the package manager has a lock.
        let kernels: Result<Vec<PathBuf>> = series.iter().map(|it| kernel::fetch(it)).collect();
        Ok((kernels?, image::build(&workspace::test_programs())?))
    });
    let (kernels, image) = match ready {
        Ok(ready) => ready,
        Err(error) => return steps.run("guests", || Err(error)),
    };
    let waiting = Mutex::new(series.iter().zip(&kernels));
    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.next());
    let (send, outcomes) = mpsc::channel();
    let at_a_time = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 0..at_a_time.min(series.len()) {
            let send = send.clone();
            scope.spawn(|| {
                let send = send;
                while let Some((series, kernel)) = next() {
                    let begin = Instant::now();
                    let outcome = boot_and_check(series, kernel, &image, args.check.as_deref());
                    // The other end lives until all have ended.
                    let _ = send.send((series, begin.elapsed(), outcome));
                }
            });
        }
        drop(send);
        for (series, took, outcome) in outcomes {
            steps.ran(&format!("kernel {series}"), took, outcome);
        }
    });
    if let Err(error) = fs::remove_file(&image) {
        println!("{}: removing it: {error}", image.display());
    }
}

/// Boots one kernel and reads what the guest found.
fn boot_and_check(
    series: &str,
    kernel: &Path,
    image: &Path,
    check: Option<&str>,
) -> Result<Outcome> {
    let boot = || boot::run(series, kernel, image, check, LIMIT);
    let console = boot()?;
    if !boot::locked_up(&console) {
        return Ok(read(series, &console));
    }
    let mut outcome = read(series, &boot()?);
    let last = console.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let told = format!("the emulated CPUs locked up at first ({last}); this is a second boot");
    outcome.skipped.push(format!("kernel {series}: {told}"));
    Ok(outcome)
}

/// What the guest said on its console.
fn read(series: &str, console: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut done = false;
    for line in console.lines().filter_map(Line::parse) {
        match line {
            Line::Ok(_) => outcome.counts.passed += 1,
            Line::Fail { name, why } => {
                outcome.counts.failed += 1;
                outcome.failures += &format!("{name}: {}\n", why.replace(" | ", "\n    "));
            }
            Line::Skipped { name, why } => {
                outcome.counts.skipped += 1;
                outcome.skipped.push(format!("kernel {series}: {name}: {why}"));
            }
            Line::Done => done = true,
        }
    }
    if !done {
        outcome.counts += Counts::one(false);
        outcome.failures += "the guest did not come to its end; its console:\n";
    }
    if outcome.counts.failed > 0 {
        outcome.failures += &format!("--- console ---\n{}", steps::last_lines(console, 60));
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_dies_has_failed() {
        let outcome = read("6.1", "[ 1.0] x\n@downbeat ok boots\r\nKernel panic\n");
        assert_eq!(outcome.counts, Counts { passed: 1, failed: 1, skipped: 0 });
        assert!(outcome.failures.contains("Kernel panic"));
    }

    #[test]
    fn every_check_counts_once() {
        let console = "@downbeat ok boots\n@downbeat FAIL restore: nice | is 3\n@downbeat done\n";
        let outcome = read("6.1", console);
        assert_eq!(outcome.counts, Counts { passed: 1, failed: 1, skipped: 0 });
        assert!(outcome.failures.starts_with("restore: nice\n    is 3"), "{}", outcome.failures);
    }
}
