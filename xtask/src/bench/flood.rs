//! Programs that start and end faster than anybody can look at them, and a few that stay.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use downbeat_tests::agent::Place;
use downbeat_tests::threads::Scheduling;

use crate::demo;
use crate::workspace;

const PER_SECOND: u32 = 3_000;
const LASTS: Duration = Duration::from_secs(10);
/// Every so-manieth program stays.
const STAYS: usize = 100;
/// Threads that start programs, each its part of them.
const STARTERS: u32 = 4;
/// What stays and has no class by then will never have one.
const GIVE_UP: Duration = Duration::from_secs(10);
/// What a rule gives both kinds.
const NICE: i32 = 7;

/// Programs that need no loader: what starting costs is the kernel's work and not a libc's.
const NOTHING: &str = "int main(void) { return 0; }";
const PAUSE: &str = "int pause(void); int main(void) { return pause(); }";

const POLICY: &str = r#"
schema = 1

[class.flood]
tier = "background"
sched = { policy = "other", nice = 7 }

[[rule]]
name = "flood"
class = "flood"
match = { exe = ["{bin}/goes", "{bin}/stays"] }
"#;

/// Starts the flood and prints when the last of those that stay has its class, and what was lost.
pub fn run(build: bool) -> Result<()> {
    let signals = demo::prepare(build)?;
    let place = Place::from_programs(&workspace::release_programs(), "downbeat-flood.")?;
    compile(NOTHING, &place.bin("goes"))?;
    compile(PAUSE, &place.bin("stays"))?;
    place.policy("50-flood.toml", POLICY)?;
    let agent = place.start(&[])?;
    signals.sleep(Duration::from_secs(2))?;

    let begun = Instant::now();
    let (goes, stays) = (place.bin("goes"), place.bin("stays"));
    let floods: Vec<Flood> = thread::scope(|scope| {
        let starters: Vec<_> =
            (0..STARTERS).map(|_| scope.spawn(|| flood(&goes, &stays))).collect();
        starters.into_iter().map(|it| it.join().unwrap_or_default()).collect()
    });
    let (end, took) = (Instant::now(), begun.elapsed());
    let started: usize = floods.iter().map(|it| it.started).sum();
    let refused: usize = floods.iter().map(|it| it.refused).sum();
    let mut stay = Stay(floods.into_iter().flat_map(|it| it.stay).collect());
    let last = stay.wait();
    let without = stay.without();

    println!(
        "{started} execs in {:.1} s ({:.0} a second; {refused} refused by the system), of which {} \
         stay",
        took.as_secs_f64(),
        started as f64 / took.as_secs_f64(),
        stay.0.len()
    );
    match last {
        Some(last) => println!(
            "the last of those had its class {:.0} ms after the end of the flood; asked: 1,000 ms",
            last.saturating_duration_since(end).as_secs_f64() * 1e3
        ),
        None => println!("{without} of those had none {} s after its end", GIVE_UP.as_secs()),
    }
    // A snapshot is taken once a second: the next one has all of it.
    signals.sleep(Duration::from_millis(1500))?;
    let snapshot = agent.snapshot()?;
    let bpf = snapshot.cost.bpf.unwrap_or_default();
    println!(
        "counted as lost: {} events, {} threads; the agent used {:.1} % of a core in the last second",
        bpf.dropped_events,
        bpf.dropped_threads,
        snapshot.cost.cpu.unwrap_or_default() * 100.0
    );
    Ok(())
}

fn compile(source: &str, to: &Path) -> Result<()> {
    let mut compiler = Command::new("cc");
    compiler.args(["-static", "-O2", "-x", "c", "-", "-o"]).arg(to).stdin(Stdio::piped());
    let mut compiler = compiler.spawn().context("cc: starting it (Debian: gcc, libc6-dev)")?;
    if let Some(mut input) = compiler.stdin.take() {
        input.write_all(source.as_bytes()).context("cc: handing it the source")?;
    }
    let status = compiler.wait()?;
    ensure!(status.success(), "cc: {status}");
    Ok(())
}

/// What one thread has started.
#[derive(Default)]
struct Flood {
    started: usize,
    refused: usize,
    stay: Vec<Child>,
}

fn flood(goes: &Path, stays: &Path) -> Flood {
    let mut flood = Flood::default();
    let mut going: Vec<Child> = Vec::new();
    let begun = Instant::now();
    let pause = Duration::from_secs(1) * STARTERS / PER_SECOND;
    while begun.elapsed() < LASTS {
        let stays_now = flood.started % STAYS == STAYS - 1;
        let mut command = Command::new(if stays_now { stays } else { goes });
        match command.stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
            Ok(child) if stays_now => flood.stay.push(child),
            Ok(child) => going.push(child),
            Err(_) => flood.refused += 1,
        }
        flood.started += 1;
        going.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        // A start that took too long is made up for by those after it.
        let due = pause * u32::try_from(flood.started).unwrap_or(u32::MAX);
        thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    for mut child in going {
        // It ends by itself at once.
        let _ = child.wait();
    }
    flood
}

/// Those that stay, until this is dropped.
struct Stay(Vec<Child>);

impl Stay {
    /// When the last of them had its class; nothing where that took too long.
    fn wait(&mut self) -> Option<Instant> {
        let begun = Instant::now();
        while begun.elapsed() < GIVE_UP {
            if self.without() == 0 {
                return Some(Instant::now());
            }
            thread::sleep(Duration::from_millis(1));
        }
        None
    }

    fn without(&self) -> usize {
        let has = |child: &&Child| nice(child).is_ok_and(|nice| nice == NICE);
        self.0.iter().filter(|child| !has(child)).count()
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Its end is all that matters.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn nice(child: &Child) -> io::Result<i32> {
    Scheduling::of(child.id()).map(|it| it.nice)
}
