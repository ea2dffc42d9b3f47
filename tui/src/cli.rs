//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ColorChoice, Parser, Subcommand};
use downbeat_api::pool::POOL_DIR;
use downbeat_api::{DEFAULT_RUN_DIR, LONGEST_SET, SOCKET_NAME};

const EXIT_CODES: &str = "\
Without a command: the live screen (F1 there shows its keys).

Exit codes:
  0  done
  1  problems found, or refused by the agent or the kernel
  2  wrong usage, no terminal for the live screen, or no agent that answers";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  downbeat explain 812             which rule, which class, what was set on each thread
  downbeat explain whisper-server  the same by name
  downbeat explain --miss          why was the latest missed deadline missed?
  downbeat explain --miss 41       the story of miss 41 (`downbeat misses` lists them)
  downbeat explain --miss voice    the latest of class voice";

const JOBS_EXAMPLES: &str = "\
Examples:
  downbeat jobs                    every thread whose jobs are followed
  downbeat jobs whisper-server     those of one program
  downbeat jobs 812 --json         those of one process or thread, for a program";

const BLAME_EXAMPLES: &str = "\
Examples:
  downbeat blame                   who ran while threads waited, for every class
  downbeat blame voice             for one class
  downbeat blame --json            for a program; times are nanoseconds";

const MISSES_EXAMPLES: &str = "\
Examples:
  downbeat misses                  the latest 256, newest first
  downbeat misses | head -5        the newest ones
  downbeat misses --json           with everything that is known of each, newest last";

const FOLLOW_EXAMPLES: &str = "\
Examples:
  downbeat follow 2001             the period of a program, within 10 seconds
  downbeat follow mpv --seconds 60 the same by name, for a minute";

const DISCOVER_EXAMPLES: &str = "\
Examples:
  downbeat discover                        what is there, and why it is thought so
  downbeat discover --write found.toml     the same as rules, to be read and edited";
const PLAN_EXAMPLES: &str = "\
Examples:
  downbeat plan                    what the policy in force would change now, and why
  downbeat plan my.toml            what would change if these files were the policy
  downbeat plan --json             for a program

With a running agent it knows what is set already and what would go back; without one it looks at
/proc, and at the files in /usr/lib/downbeat/policy.d and /etc/downbeat/policy.d.";

const SET_EXAMPLES: &str = "\
Examples:
  downbeat set 812 --class voice --for 10m
  downbeat set ffmpeg --class batch      until it ends, or until `downbeat release ffmpeg`

It goes before every rule, holds for this one process, and outlives a reload, but not the agent.";

const INFER_EXAMPLES: &str = "\
Examples:
  downbeat pool infer intent --input 'turn on the kitchen lights'
  downbeat pool infer keywords --input @yes.wav            a second of 16 kHz sound
  downbeat pool infer glyphs --input @letter.pgm           28 x 28 grey levels
  downbeat pool infer mic --input @noisy.wav --output denoised=clean.wav
  downbeat pool infer speech --input 'good morning' --output output=morning.wav";

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

    /// The pool's folder, beside the agent's socket.
    #[must_use]
    pub fn pool_dir(&self) -> PathBuf {
        let beside = self.connect.as_ref().and_then(|socket| socket.parent());
        beside.map_or_else(|| self.run_dir(), Into::into).join(POOL_DIR)
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
        /// Policy files, folders of *.toml, or - for standard input [default: the agent's folders]
        #[arg(value_name = "FILE")]
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
    /// Why a process is as it is, or why a deadline was missed
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain {
        /// Process or thread id, or a name
        #[arg(value_name = "PID|NAME", required_unless_present = "miss")]
        process: Option<String>,
        /// The story of a missed deadline: by its number, the latest one of a class, or the last
        #[arg(
            long,
            value_name = "ID|CLASS|last",
            num_args = 0..=1,
            default_missing_value = "last",
            conflicts_with = "process"
        )]
        miss: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Threads that work in periods: release, period, deadline, response times, misses
    #[command(after_help = JOBS_EXAMPLES)]
    Jobs {
        /// Only those of this process or thread, by its id or name
        #[arg(value_name = "PID|NAME")]
        who: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Who had the CPU while threads waited for it, by class
    #[command(after_help = BLAME_EXAMPLES)]
    Blame {
        /// Only what this class waited for
        class: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The latest missed deadlines, newest first, with their causes
    #[command(after_help = MISSES_EXAMPLES)]
    Misses {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Follow the jobs of a program that no rule matches, without changing it
    #[command(after_help = FOLLOW_EXAMPLES)]
    Follow {
        /// Process id, or the name of one process
        #[arg(value_name = "PID|NAME")]
        process: String,
        /// How long, 1 to 3600
        #[arg(
            long,
            default_value_t = 10,
            value_parser = clap::value_parser!(u32).range(1..=3600)
        )]
        seconds: u32,
    },
    /// Programs that no rule names, and what they seem to work on, with what speaks for it
    #[command(after_help = DISCOVER_EXAMPLES)]
    Discover {
        /// How long to look at most, 1 to 600
        #[arg(
            long,
            default_value_t = 20,
            value_parser = clap::value_parser!(u32).range(1..=600)
        )]
        seconds: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Make a policy file of what is sure enough, to be edited; it must not be there yet
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// What would change, and why, without changing it
    #[command(after_help = PLAN_EXAMPLES)]
    Plan {
        /// Another policy: files, folders of *.toml, or - for standard input
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give one process a class, whatever the rules say
    #[command(after_help = SET_EXAMPLES)]
    Set {
        /// Process id, or the whole name of one process
        #[arg(value_name = "PID|NAME")]
        process: String,
        /// A class of the policy in force
        #[arg(long)]
        class: String,
        /// How long, such as 90s, 10m or 2h [default: until the process ends]
        #[arg(long = "for", value_name = "TIME", value_parser = time)]
        time: Option<Duration>,
    },
    /// Take back what `set` gave a process
    Release {
        /// Process id, or the whole name of one process
        #[arg(value_name = "PID|NAME")]
        process: String,
    },
    /// Read the policy files anew; a bad set changes nothing and is told
    Reload,
    /// The pool's models and workers: look, load, unload, drain, ask
    Pool {
        /// What to do.
        #[command(subcommand)]
        command: PoolCommand,
    },
    /// Put everything back and only watch
    Pause,
    /// Apply decisions again
    Resume,
}

/// What to do with the pool.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Models with their requests, and workers with their processes
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The same, again each second, until interrupted
    Top,
    /// Load a model of the store, or let requests to a drained one in again; wait until it is ready
    Load {
        /// The model
        name: String,
    },
    /// Unload a model of the store; what it was asked is answered first
    Unload {
        /// The model
        name: String,
    },
    /// Let no new request to a model in, and wait until those that are there are answered
    Drain {
        /// The model
        name: String,
    },
    /// What a worker wrote and what the pool says of it, the newest lines
    Logs {
        /// The worker, as pool.d calls it
        name: String,
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
    },
    /// Ask a model, and print what it answers
    #[command(after_help = INFER_EXAMPLES)]
    Infer(Infer),
}

/// A question to a model.
#[derive(Debug, Args)]
pub struct Infer {
    /// The model
    pub name: String,
    /// Of each input: a file (sound as WAV, a picture as PGM, else the bytes of its elements), text,
    /// or an array in JSON; without a name, that of the next input
    #[arg(long = "input", short, value_name = "[NAME=]@FILE|TEXT|JSON", required = true)]
    pub inputs: Vec<String>,
    /// Write an output into a file: sound as WAV where the file is called so, else its bytes
    #[arg(long = "output", short, value_name = "NAME=FILE")]
    pub outputs: Vec<String>,
    /// How long the answer is of use, such as 50ms
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,
    /// Print the protocol's JSON
    #[arg(long)]
    pub json: bool,
}

/// A time for `set`: whole seconds.
fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write 10m"))?;
    if (1..=LONGEST_SET).contains(&time.as_secs()) && time.subsec_nanos() == 0 {
        Ok(time)
    } else {
        Err(format!("whole seconds, from 1s to {}d", LONGEST_SET / 86_400))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(time("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(time("1h 30m"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "10", "0s", "500ms", "31d", "-1m", "1e9s", "99999999999999999999s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
