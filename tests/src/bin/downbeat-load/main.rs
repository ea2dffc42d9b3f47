//! `downbeat-load`: the work that downbeat's demo, tests and benchmarks put on a machine.
//!
//! Every kind does real work and records what came of it where it costs nothing
//! (`downbeat_tests::record`). All are bounded in time and end at once on SIGTERM.

mod account;
mod audio;
mod busy;
mod crowd;
mod family;
mod hog;
mod marks;
mod offspring;
mod periodic;
mod release;
mod schedule;
mod share;
mod turns;
mod untouched;
mod video;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Loads for downbeat's demo, tests and benchmarks.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    load: Load,
}

#[derive(Debug, Subcommand)]
enum Load {
    /// Stands for a sound card: sends a frame each period to an audio worker and times the answer
    Audio(audio::Args),
    /// A camera's worker: a real convolution per frame, on a clock of its own
    Video(video::Args),
    /// Background work that never ends: matrix products, counted
    Hog(hog::Args),
    /// Background work in bursts: 20 ms on, a random while off, counted
    Bursty(hog::Args),
    /// A short process of several threads, for rules to match
    Crowd(crowd::Args),
    /// Processes that leave their parent: sessions of their own, empty environments
    Family(family::Args),
    /// One thread released again and again by a timer, a pipe or a socket, with its own account
    Periodic(periodic::Args),
    /// Processes that share one CPU in known parts, and one that waits behind them
    Share(share::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().load {
        Load::Audio(args) => audio::run(&args),
        Load::Video(args) => video::run(&args),
        Load::Hog(args) => hog::run(&args, hog::Pace::Steady),
        Load::Bursty(args) => hog::run(&args, hog::Pace::Bursts),
        Load::Crowd(args) => crowd::run(&args),
        Load::Family(args) => family::run(&args),
        Load::Periodic(args) => periodic::run(&args),
        Load::Share(args) => share::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("downbeat-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}
