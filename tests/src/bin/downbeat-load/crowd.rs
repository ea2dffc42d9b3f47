//! A short process of several threads, for rules to match.

use std::ffi::CString;
use std::thread;
use std::time::{Duration, Instant};

/// Options of `downbeat-load crowd`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Threads besides the main one
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Threads that start only after `--later-after`
    #[arg(long, default_value_t = 0)]
    later: usize,
    /// When the later ones start
    #[arg(long, default_value = "500ms")]
    later_after: humantime::Duration,
    /// Name given to every thread but the main one
    #[arg(long)]
    name: Option<String>,
    /// Threads wake up that often, and have nothing to do; they sleep all the time unless given
    #[arg(long)]
    every: Option<humantime::Duration>,
    /// How long the process lives
    #[arg(long, default_value = "1s")]
    live: humantime::Duration,
}

/// Lives, and ends.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let live: Duration = args.live.into();
    let later_after = Duration::from(args.later_after).min(live);
    let every = args.every.map(Duration::from);
    let name = args.name.as_deref().map(CString::new).transpose()?;
    let name = name.as_deref();
    thread::scope(|scope| {
        let start = |count: usize, sleep: Duration| {
            for _ in 0..count {
                scope.spawn(move || {
                    if let Some(name) = name {
                        // The kernel cuts a name that is too long; nothing else can fail.
                        let _ = nix::sys::prctl::set_name(name);
                    }
                    rest(sleep, every);
                });
            }
        };
        start(args.threads, live);
        thread::sleep(later_after);
        start(args.later, live - later_after);
        rest(live - later_after, every);
    });
    Ok(())
}

/// Sleeps, in pieces of `every`.
fn rest(time: Duration, every: Option<Duration>) {
    let end = Instant::now() + time;
    let piece = every.unwrap_or(time).max(Duration::from_millis(1));
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(piece.min(left));
    }
}
