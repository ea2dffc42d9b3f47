//! `cargo xtask demo`: the main job in one command.

mod by_hand;
pub mod janitor;
pub mod report;
mod rounds;
pub mod scene;
mod table;
pub mod work;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use downbeat_tests::agent::die_with_this_thread;
use downbeat_tests::processes::wait_until;
use downbeat_tests::threads;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::signals::Signals;
use crate::workspace;
use report::Report;
use scene::Scene;

/// Without a screen and without `--seconds`.
const HEADLESS_SECONDS: u64 = 20;
/// With a screen: longer than anyone looks.
const SCREEN_SECONDS: u64 = 2 * 3600;

/// Options of `cargo xtask demo`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// No screen: the same load in rounds, without and with downbeat in turn, and a table
    #[arg(long)]
    pub headless: bool,
    /// How long (headless: 20 unless given; with a screen: until it is closed)
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Writes the measurements there, as JSON
    #[arg(long, value_name = "FILE", requires = "headless")]
    pub json: Option<PathBuf>,
    /// Measures SCHED_FIFO set by hand as well, in rounds beside the others
    #[arg(long, requires = "headless")]
    pub with_fifo: bool,
    /// Takes the release programs as they are
    #[arg(long)]
    pub no_build: bool,
    /// The agent's metrics address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: String,
}

/// Runs the demo, with a screen or without.
pub fn run(args: &Args) -> Result<()> {
    let signals = prepare(!args.no_build)?;
    if args.headless {
        let report = measure(args, &signals)?;
        finish(&report, args.json.as_deref())
    } else {
        show(args, &signals)
    }
}

/// A few seconds, to see that it works at all.
pub fn short_run() -> Result<()> {
    let signals = prepare(true)?;
    let args =
        Args { headless: true, seconds: Some(10), listen: "127.0.0.1:0".into(), ..Args::default() };
    finish(&measure(&args, &signals)?, None)
}

/// Checks what is needed, builds where asked to, and takes the signals.
pub fn prepare(build: bool) -> Result<Signals> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo changes how other programs are scheduled and so must be root: \
         sudo -E env PATH=\"$PATH\" cargo xtask demo"
    );
    if build {
        workspace::build_demo()?;
    }
    // What a dead agent leaves is ours to see and to end.
    nix::sys::prctl::set_child_subreaper(true).context("prctl")?;
    Signals::take()
}

/// The load in rounds, and what came of it. Everything that was started is gone afterwards.
pub fn measure(args: &Args, signals: &Signals) -> Result<Report> {
    let before = threads::table();
    let seconds = args.seconds.unwrap_or(HEADLESS_SECONDS);
    let plan = rounds::Plan::new(seconds, args.with_fifo);
    let scene = Scene::start(plan.longest_seconds(), &args.listen, None, signals)?;
    let measured = rounds::run(&scene, &plan, signals);
    let left_behind = scene.end(&before);
    let mut report = measured?;
    report.left_behind = left_behind;
    Ok(report)
}

fn finish(report: &Report, json: Option<&Path>) -> Result<()> {
    print!("{report}");
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(report)?;
        fs::write(path, text + "\n").with_context(|| format!("{}: writing it", path.display()))?;
    }
    tell_left_behind(&report.left_behind)
}

/// Says what was left behind; anything is an error.
pub fn tell_left_behind(left_behind: &[String]) -> Result<()> {
    if left_behind.is_empty() {
        println!("left behind: nothing");
        return Ok(());
    }
    anyhow::bail!("left behind:\n  {}", left_behind.join("\n  "))
}

fn show(args: &Args, signals: &Signals) -> Result<()> {
    let before = threads::table();
    let seconds = args.seconds.unwrap_or(SCREEN_SECONDS);
    let scene = Scene::start(seconds + 60, &args.listen, None, signals)?;
    let shown = screen(&scene, Duration::from_secs(seconds), signals);
    let left_behind = scene.end(&before);
    shown?;
    tell_left_behind(&left_behind)
}

/// The terminal's program in the foreground until it ends, the time is over or a signal comes.
fn screen(scene: &Scene, limit: Duration, signals: &Signals) -> Result<()> {
    let mut command = Command::new(scene.place().bin("downbeat"));
    command.arg("--run-dir").arg(scene.place().run_dir());
    command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    die_with_this_thread(&mut command, Signal::SIGTERM);
    let mut screen = command.spawn().context("downbeat: starting it")?;
    let end = Instant::now() + limit;
    let outcome = loop {
        if let Some(status) = screen.try_wait()? {
            ensure!(status.success(), "downbeat: {status}");
            return Ok(());
        }
        if Instant::now() >= end {
            break Ok(());
        }
        if let Err(ended) = signals.sleep(Duration::from_millis(50)) {
            break Err(ended);
        }
    };
    // It puts the terminal in order itself; only one that hangs is killed.
    let _ = kill(Pid::from_raw(screen.id().cast_signed()), Signal::SIGTERM);
    if !wait_until(Duration::from_secs(3), || matches!(screen.try_wait(), Ok(Some(_)))) {
        screen.kill()?;
        screen.wait()?;
    }
    outcome
}
