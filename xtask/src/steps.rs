//! Steps of a long command: each timed and told in one line, its output kept for the end.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::workspace;

/// What a step found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Checks that passed.
    pub passed: usize,
    /// Checks that failed.
    pub failed: usize,
    /// Checks that this machine cannot run.
    pub skipped: usize,
}

impl Counts {
    /// A step that is one check.
    pub fn one(passed: bool) -> Self {
        Self { passed: usize::from(passed), failed: usize::from(!passed), skipped: 0 }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// A step's end.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What was counted.
    pub counts: Counts,
    /// Shown at the end; empty when nothing failed.
    pub failures: String,
    /// One line each.
    pub skipped: Vec<String>,
}

/// All steps so far.
#[derive(Debug, Default)]
pub struct Steps {
    total: Counts,
    failures: Vec<(String, String)>,
    skipped: Vec<String>,
}

impl Steps {
    /// Runs one step; an error counts as one failure.
    pub fn run(&mut self, name: &str, step: impl FnOnce() -> Result<Outcome>) {
        print!("{name:<28}");
        // Only so that the name is seen while it runs.
        let _ = std::io::stdout().flush();
        let begin = Instant::now();
        let outcome = step();
        self.end(name, begin.elapsed(), outcome);
    }

    /// Takes in a step that ran beside others.
    pub fn ran(&mut self, name: &str, took: Duration, outcome: Result<Outcome>) {
        print!("{name:<28}");
        self.end(name, took, outcome);
    }

    fn end(&mut self, name: &str, took: Duration, outcome: Result<Outcome>) {
        let outcome = outcome.unwrap_or_else(|error| Outcome {
            counts: Counts::one(false),
            failures: format!("{error:#}"),
            skipped: Vec::new(),
        });
        let Counts { passed, failed, skipped } = outcome.counts;
        let word = if failed == 0 { "ok" } else { "FAILED" };
        let seconds = took.as_secs_f64();
        println!(
            "{word:<7} {seconds:>6.1} s   {passed} passed, {failed} failed, {skipped} skipped"
        );
        self.total += outcome.counts;
        self.skipped.extend(outcome.skipped);
        if failed > 0 {
            self.failures.push((name.to_owned(), outcome.failures));
        }
    }

    /// Prints what failed, what was skipped and, as the last line, the sum.
    pub fn finish(self) -> Result<()> {
        let Counts { passed, failed, skipped } = self.total;
        if !self.skipped.is_empty() {
            println!("\nskipped:");
        }
        for line in &self.skipped {
            println!("  {line}");
        }
        for (name, output) in &self.failures {
            println!("\n--- {name} ---\n{}", output.trim_end());
        }
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
        if failed == 0 {
            return Ok(());
        }
        // The sum stays the last line: no message after it.
        std::process::exit(1);
    }
}

/// Runs a command with both outputs in `target/xtask/NAME.log` and returns them.
pub fn logged(name: &str, command: &mut Command) -> Result<(ExitStatus, String)> {
    let folder = workspace::target().join("xtask");
    fs::create_dir_all(&folder).with_context(|| format!("{}: making it", folder.display()))?;
    let path: PathBuf = folder.join(format!("{name}.log"));
    let log = File::create(&path).with_context(|| format!("{}: making it", path.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .with_context(|| format!("{command:?}: starting it"))?;
    let text = fs::read(&path).with_context(|| format!("{}: reading it", path.display()))?;
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}

/// A step that is one command.
pub fn command(name: &str, command: &mut Command) -> Result<Outcome> {
    let (status, output) = logged(name, command)?;
    Ok(Outcome {
        counts: Counts::one(status.success()),
        failures: last_lines(&output, 60),
        skipped: Vec::new(),
    })
}

/// The end of a long text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
