//! `downbeat`: see the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    downbeat_tui::commands::main(&downbeat_tui::cli::Cli::parse())
}
