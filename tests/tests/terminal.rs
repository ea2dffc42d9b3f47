//! `downbeat` where there is a terminal, a small one, or none.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use downbeat_api::{HostFacts, Snapshot};
use downbeat_tests::agent::{PATIENCE, Place, output_within, said};
use downbeat_tests::processes::wait_until;
use downbeat_tests::skip::{root_or_skip, skipped};

/// A tmux server of this test's own, ended when dropped.
struct Terminal {
    socket: std::path::PathBuf,
}

impl Terminal {
    fn start(place: &Place, columns: u16, rows: u16, command: &str) -> Result<Self> {
        let terminal = Self { socket: place.path("tmux") };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        // The command's end is shown, and the pane stays.
        let shown = format!("{command}; echo \"ended with $?\"; sleep 60");
        let args = ["new-session", "-d", "-s", "t", "-x", &columns, "-y", &rows, &shown];
        let started = terminal.tmux(&args)?;
        ensure!(started.status.success(), "{}", said(&started));
        Ok(terminal)
    }

    fn tmux(&self, args: &[&str]) -> Result<std::process::Output> {
        let mut command = Command::new("tmux");
        command.arg("-f").arg("/dev/null").arg("-S").arg(&self.socket).args(args);
        output_within(&mut command, PATIENCE)
    }

    fn screen(&self) -> Result<String> {
        Ok(said(&self.tmux(&["capture-pane", "-p", "-t", "t"])?))
    }

    fn wait_for(&self, wanted: &str) -> Result<String> {
        let mut screen = String::new();
        let came = wait_until(PATIENCE, || {
            screen = self.screen().unwrap_or_default();
            screen.contains(wanted)
        });
        ensure!(came, "`{wanted}` did not come; the screen shows:\n{screen}");
        Ok(screen)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ends the server with its sessions; nothing to do where it is gone.
        let _ = self.tmux(&["kill-server"]);
    }
}

fn tmux_or_skip() -> bool {
    let there = Command::new("tmux").arg("-V").output().is_ok_and(|o| o.status.success());
    if !there {
        skipped("needs tmux");
    }
    there
}

fn place() -> Result<Place> {
    let place = Place::new()?;
    let policy = "schema = 1\n[class.voice]\ntier = \"realtime\"\n\
                  [[rule]]\nclass = \"voice\"\nmatch = { exe = \"{bin}/downbeat-load\" }\n";
    place.policy("50-test.toml", policy)?;
    Ok(place)
}

fn tui(place: &Place) -> String {
    format!("{} --run-dir {}", place.bin("downbeat").display(), place.run_dir().display())
}

fn draws_and_quits(columns: u16, rows: u16, wanted: &str) -> Result<()> {
    if !root_or_skip() || !tmux_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let _agent = place.start(&[])?;
    let _crowd = place.load(&["crowd", "--live", "60s"])?;
    let terminal = Terminal::start(&place, columns, rows, &tui(&place))?;
    terminal.wait_for(wanted)?;
    // Ticks go on.
    std::thread::sleep(Duration::from_secs(1));
    let screen = terminal.wait_for(wanted)?;
    ensure!(!screen.contains("panicked"), "{screen}");
    terminal.tmux(&["send-keys", "-t", "t", "q"])?;
    terminal.wait_for("ended with 0").map(drop)
}

#[test]
fn the_screen_shows_the_classes_and_q_ends_it() -> Result<()> {
    draws_and_quits(120, 40, "voice")
}

#[test]
fn a_terminal_of_40_by_10_is_enough() -> Result<()> {
    draws_and_quits(40, 10, "voice")
}

#[test]
fn the_screen_says_so_when_the_agent_goes_away() -> Result<()> {
    if !root_or_skip() || !tmux_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let agent = place.start(&[])?;
    let terminal = Terminal::start(&place, 100, 30, &tui(&place))?;
    terminal.wait_for("voice")?;
    drop(agent);
    terminal.wait_for("agent")?;
    terminal.tmux(&["send-keys", "-t", "t", "q"])?;
    let screen = terminal.wait_for("ended with")?;
    ensure!(!screen.contains("panicked"), "{screen}");
    Ok(())
}

#[test]
fn in_a_pipe_it_ends_with_words_and_no_escapes() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let _agent = place.start(&[])?;
    let run_dir = place.run_dir();
    let output = place.downbeat(&["--run-dir".as_ref(), run_dir.as_os_str()])?;
    let text = said(&output);
    ensure!(!text.contains('\u{1b}') && !text.contains("panicked"), "{text:?}");
    ensure!(text.contains("--once") || text.contains("voice"), "what now? {text}");
    Ok(())
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_panic() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let _agent = place.start(&[])?;
    let script = format!("{} status --once 2>&1 >/dev/full | head -c 1; exit 0", tui(&place));
    let full = output_within(Command::new("sh").arg("-c").arg(&script), PATIENCE)?;
    ensure!(!said(&full).contains("panicked"), "{}", said(&full));
    let script = format!("{} status --once | head -c 1 >/dev/null", tui(&place));
    let closed = output_within(Command::new("sh").arg("-c").arg(&script), PATIENCE)?;
    ensure!(!said(&closed).contains("panicked"), "{}", said(&closed));
    Ok(())
}

#[test]
fn once_prints_the_screen_as_text() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let _agent = place.start(&[])?;
    let run_dir = place.run_dir();
    let output = place.downbeat(&[
        "status".as_ref(),
        "--once".as_ref(),
        "--run-dir".as_ref(),
        run_dir.as_os_str(),
    ])?;
    let text = said(&output);
    ensure!(output.status.success() && text.contains("voice"), "{}: {text}", output.status);
    ensure!(!text.contains('\u{1b}'), "{text:?}");
    Ok(())
}

#[test]
fn status_as_json_is_the_snapshot() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = place()?;
    let _agent = place.start(&[])?;
    let run_dir = place.run_dir();
    let args = ["status".as_ref(), "--json".as_ref(), "--run-dir".as_ref(), run_dir.as_os_str()];
    let output = place.downbeat(&args)?;
    let snapshot: Snapshot =
        serde_json::from_slice(&output.stdout).with_context(|| said(&output))?;
    ensure!(snapshot.schema == downbeat_api::SCHEMA, "{}", snapshot.schema);
    ensure!(snapshot.classes.len() == 1, "{:?}", snapshot.classes);
    Ok(())
}

#[test]
fn doctor_tells_the_host_facts_with_remedies() -> Result<()> {
    let place = Place::new()?;
    let output = place.downbeat(&["doctor", "--json"])?;
    let told: serde_json::Value =
        serde_json::from_slice(&output.stdout).with_context(|| said(&output))?;
    let facts: HostFacts = serde_json::from_value(told["host"].clone())?;
    ensure!(!facts.findings.is_empty() && !facts.kernel.is_empty(), "{facts:?}");
    let words = place.downbeat(&["doctor"])?;
    ensure!(said(&words).contains(&facts.kernel), "{}", said(&words));
    Ok(())
}
