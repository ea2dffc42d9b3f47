//! `cargo xtask`: every development command of downbeat.

mod bench;
mod demo;
mod ebpf;
mod packages;
mod signals;
mod steps;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// downbeat's development commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds every program for use (release); needs stable Rust and nothing else
    Build,
    /// Builds the kernel programs from source; finds or sets up the toolchain
    BuildEbpf {
        /// Only compares the result with the committed object
        #[arg(long)]
        check: bool,
    },
    /// Shows downbeat at work: agent, pool, a camera, a sound card, background hogs, the screen
    Demo(demo::Args),
    /// Runs all tests; the last line counts them
    Test(test::Args),
    /// Boots the agent on other kernels, in virtual machines
    VmTest(vm::Args),
    /// Measures
    Bench(bench::Args),
    /// Everything that a change must pass: tests, kernels, a short demo
    Ci,
    /// Puts in order what a killed demo left (started by the demo itself)
    #[command(hide = true)]
    Janitor(demo::janitor::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Build => workspace::build_release(),
        Command::BuildEbpf { check } => ebpf::build(ebpf::Options { check }),
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::VmTest(args) => vm::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Ci => test::ci(),
        Command::Janitor(args) => demo::janitor::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
