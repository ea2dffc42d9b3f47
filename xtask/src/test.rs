//! `cargo xtask test` and `cargo xtask ci`.

use anyhow::Result;
use downbeat_tests::agent::BIN_DIR;
use downbeat_tests::skip;

use crate::packages::{
    self, CPIO, ESPEAK, FFMPEG, POCKETSPHINX, POCKETSPHINX_ENGLISH, PROMETHEUS, QEMU, TESSERACT,
    TMUX,
};
use crate::steps::{self, Counts, Outcome, Steps};
use crate::{demo, ebpf, vm, workspace};

/// Options of `cargo xtask test`.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Boots no virtual machine
    #[arg(long)]
    no_vm: bool,
}

/// Runs everything; the last line is `N passed, N failed, N skipped`.
pub fn run(args: &Args) -> Result<()> {
    let mut steps = Steps::default();
    all(&mut steps, args);
    steps.finish()
}

/// The same tests, and a short demo.
pub fn ci() -> Result<()> {
    let mut steps = Steps::default();
    all(&mut steps, &Args::default());
    steps.run("demo", || {
        workspace::build_release()?;
        demo::short_run()?;
        Ok(Outcome { counts: Counts::one(true), ..Outcome::default() })
    });
    steps.finish()
}

fn all(steps: &mut Steps, args: &Args) {
    steps.run("format", || {
        steps::command(
            "format",
            workspace::cargo().args(["fmt", "--all", "--check", "--", "--color=never"]),
        )
    });
    steps.run("clippy", || {
        let lint = ["clippy", "--all-targets", "--", "-D", "warnings"];
        steps::command("clippy", workspace::cargo().args(lint))
    });
    // All of it, as the tests will have it: without what tests depend on, some libraries would have
    // other features, and the engine of the models would be compiled twice.
    steps.run("build", || {
        steps::command("build", workspace::cargo().args(["build", "--all-targets"]))
    });
    steps.run("tools", || {
        let needed: &[_] = if args.no_vm { &[] } else { &[QEMU, CPIO] };
        let speech = [ESPEAK, FFMPEG, TESSERACT, POCKETSPHINX, POCKETSPHINX_ENGLISH];
        packages::need(&[needed, &[TMUX, PROMETHEUS], &speech].concat())?;
        packages::need_venv()?;
        Ok(Outcome { counts: Counts::one(true), ..Outcome::default() })
    });
    steps.run("tests", tests);
    steps.run("kernel programs", || {
        ebpf::check()?;
        Ok(Outcome { counts: Counts::one(true), ..Outcome::default() })
    });
    if !args.no_vm {
        vm::boot_each(steps, &vm::Args::default());
    }
}

fn tests() -> Result<Outcome> {
    let mut command = workspace::cargo();
    command.args(["test", "--no-fail-fast"]).env(BIN_DIR, workspace::test_programs());
    // An error says what it needs to; a backtrace would bury it.
    command.env("RUST_LIB_BACKTRACE", "0");
    let (status, output) = steps::logged("tests", &mut command)?;
    let mut outcome = read_tests(&output);
    if !status.success() && outcome.counts.failed == 0 {
        // It did not come to the tests.
        outcome.counts.failed = 1;
        outcome.failures = steps::last_lines(&output, 60);
    }
    Ok(outcome)
}

/// Adds up what `cargo test` printed. A test that said that it was skipped has passed for the
/// runner, and counts as skipped here.
fn read_tests(output: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut in_failures = false;
    for line in output.lines() {
        if let Some(result) = line.strip_prefix("test result: ") {
            in_failures = false;
            outcome.counts.passed += count_of(result, "passed");
            outcome.counts.failed += count_of(result, "failed");
            outcome.counts.skipped += count_of(result, "ignored");
        } else if let Some(skipped) = line.strip_prefix(skip::PREFIX) {
            outcome.skipped.push(skipped.trim().to_owned());
        } else if line == "failures:" {
            in_failures = true;
        } else if in_failures {
            outcome.failures.push_str(line);
            outcome.failures.push('\n');
        }
    }
    outcome.counts.skipped += outcome.skipped.len();
    outcome.counts.passed = outcome.counts.passed.saturating_sub(outcome.skipped.len());
    outcome
}

/// The number before `word` in `ok. 3 passed; 0 failed; …`.
fn count_of(result: &str, word: &str) -> usize {
    let words: Vec<&str> = result.split([' ', ';']).filter(|part| !part.is_empty()).collect();
    let at = words.iter().position(|part| *part == word);
    at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test a ... ok

skipped: b: needs root
test b ... ok
test c ... FAILED

failures:

---- c stdout ----
boom

failures:
    c

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s
test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s
";

    #[test]
    fn results_add_up_and_a_skipped_test_is_not_a_passed_one() {
        let outcome = read_tests(OUTPUT);
        assert_eq!(outcome.counts, Counts { passed: 6, failed: 1, skipped: 2 });
        assert_eq!(outcome.skipped, ["b: needs root"]);
        assert!(outcome.failures.contains("boom"), "{}", outcome.failures);
        assert!(!outcome.failures.contains("test result"), "{}", outcome.failures);
    }
}
