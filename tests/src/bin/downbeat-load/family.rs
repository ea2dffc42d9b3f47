//! A process whose descendants leave it in every way that there is.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use anyhow::Context;
use nix::unistd::setsid;

/// Options of `downbeat-load family`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long each of them lives
    #[arg(long, default_value = "60s")]
    live: humantime::Duration,
    /// Generations below this one. The first is a child like any other; those between start the next
    /// in a session of its own and end; the last one stays
    #[arg(long, default_value_t = 3)]
    below: u32,
    /// Those below have an empty environment
    #[arg(long)]
    bare: bool,
    /// Whether this is the head, which stays and answers lines with themselves
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    head: bool,
}

/// Starts the next generation, and lives.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.below > 0 {
        let own = fs::read_link("/proc/self/exe").context("/proc/self/exe")?;
        let mut child = Command::new(own);
        child.arg("family").args(["--live", &args.live.to_string(), "--head", "false"]);
        child.args(["--below", &(args.below - 1).to_string()]);
        child.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        if args.bare {
            child.arg("--bare").env_clear();
        }
        if !args.head {
            // SAFETY: runs between fork and exec and makes one system call.
            unsafe {
                child.pre_exec(|| setsid().map(drop).map_err(Into::into));
            }
        }
        child.spawn().context("starting a child")?;
    }
    if args.head {
        for line in std::io::stdin().lines() {
            println!("{}", line?);
        }
    } else if args.below > 0 {
        return Ok(());
    }
    thread::sleep(args.live.into());
    Ok(())
}
