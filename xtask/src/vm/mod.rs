//! Virtual machines: the agent on kernels other than this one, under software emulation.

mod boot;
mod image;
pub mod kernel;

use std::time::Duration;

use anyhow::Result;
use downbeat_tests::guest::Line;

use crate::packages::{self, CPIO, QEMU};
use crate::steps::{self, Counts, Outcome, Steps};
use crate::workspace;

/// A guest that takes longer is hung: it boots in seconds and checks in some tens.
const LIMIT: Duration = Duration::from_secs(240);

/// `cargo xtask vm-test`.
pub fn run(kernels: &[String]) -> Result<()> {
    let mut steps = Steps::default();
    steps.run("build", || steps::command("build", workspace::cargo().arg("build")));
    for kernel in kernels {
        steps.run(&format!("kernel {kernel}"), || boot_and_check(kernel));
    }
    steps.finish()
}

/// Boots one kernel and reads what the guest found. The programs must be built.
pub fn boot_and_check(series: &str) -> Result<Outcome> {
    packages::need(&[QEMU, CPIO])?;
    let kernel = kernel::fetch(series)?;
    let image = image::build(&workspace::test_programs())?;
    let console = boot::run(&kernel, &image, LIMIT)?;
    Ok(read(series, &console))
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
