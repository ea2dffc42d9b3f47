//! The command line.

use std::path::PathBuf;

use clap::{Args, ColorChoice, Parser, Subcommand};
use downbeat_api::{DEFAULT_RUN_DIR, SOCKET_NAME};

const EXIT_CODES: &str = "\
Without a command: the live screen (F1 there shows its keys).

Exit codes:
  0  done
  1  problems found, or refused by the agent or the kernel
  2  wrong usage, no terminal for the live screen, or no agent that answers";

/// Watch and steer downbeat, which keeps inference on the beat
#[derive(Debug, Parser)]
#[command(name = "downbeat", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Where the agent is.
    #[command(flatten)]
    pub target: Target,
    /// When to use colours; NO_COLOR in the environment switches them off as well
    #[arg(long, global = true, value_name = "WHEN", default_value_t = ColorChoice::Auto)]
    pub color: ColorChoice,
    /// What to do; absent: the live screen.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Where the agent is.
#[derive(Clone, Debug, Default, Args)]
pub struct Target {
    /// The agent's run directory [default: /run/downbeat]
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "connect")]
    pub run_dir: Option<PathBuf>,
    /// The agent's socket itself
    #[arg(long, global = true, value_name = "SOCKET")]
    pub connect: Option<PathBuf>,
}

impl Target {
    /// The agent's run directory.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.run_dir.clone().unwrap_or_else(|| DEFAULT_RUN_DIR.into())
    }

    /// The agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.connect.clone().unwrap_or_else(|| self.run_dir().join(SOCKET_NAME))
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What is the case now: mode, CPUs, classes, busiest processes
    Status {
        /// Print the snapshot as JSON; with --watch one line per tick
        #[arg(long)]
        json: bool,
        /// One screen and out (the default)
        #[arg(long, conflicts_with = "watch")]
        once: bool,
        /// One after the other, a tick apart, until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// Check policy files, and say what they would match right now
    Check {
        /// Policy files, folders of *.toml, or - for standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// What this host can do for downbeat, with a remedy for what lacks
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Put back what a killed agent left changed
    Restore,
    /// Why a process is as it is
    Explain {
        /// Process or thread id, or a name
        #[arg(value_name = "PID|NAME")]
        process: String,
    },
    /// Put everything back and only watch
    Pause,
    /// Apply decisions again
    Resume,
}
