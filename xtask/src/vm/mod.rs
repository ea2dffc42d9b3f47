//! Virtual machines: the agent on kernels other than this one, under software emulation.

mod boot;
mod image;
mod kernel;

use std::time::Duration;

use anyhow::Result;
use downbeat_tests::guest::Line;

use self::boot::Threads;
use crate::packages::{self, CPIO, QEMU};
use crate::steps::{self, Counts, Outcome, Steps};
use crate::workspace;

/// A guest that takes longer is hung: it boots in seconds and has checked within four minutes, or
/// three times that beside other work.
const LIMIT: Duration = Duration::from_secs(900);

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

/// Boots the kernels one after the other. The programs must be built.
pub fn boot_each(steps: &mut Steps, args: &Args) {
    let known = kernel::SERIES.map(|series| series.name.to_owned());
    let kernels = if args.kernel.is_empty() { &known[..] } else { &args.kernel };
    for kernel in kernels {
        steps.run(&format!("kernel {kernel}"), || boot_and_check(kernel, args.check.as_deref()));
    }
}

/// Boots one kernel and reads what the guest found.
fn boot_and_check(series: &str, check: Option<&str>) -> Result<Outcome> {
    packages::need(&[QEMU, CPIO])?;
    let kernel = kernel::fetch(series)?;
    let boot = |cpus| {
        let image = image::build(&workspace::test_programs())?;
        boot::run(&kernel, &image, check, cpus, LIMIT)
    };
    let console = boot(Threads::Multi)?;
    if !boot::locked_up(&console) {
        return Ok(read(series, &console));
    }
    let mut outcome = read(series, &boot(Threads::Single)?);
    let told =
        "the emulated CPUs locked up at first; this is a second boot, with one thread for both";
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
