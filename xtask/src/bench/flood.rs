//! Programs that start and end faster than anybody can look at them, and a few that stay.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use downbeat_tests::agent::Place;
use downbeat_tests::cpu_time::{HostTime, of_process};
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

/// A program without a loader and without a libc, whose start asks the processor what it is: some
/// twenty `cpuid`, each of which leaves a virtual machine for its hypervisor. What starting it costs is
/// the kernel's work. `CALL` is `exit_group` in the one that goes, and `ppoll` in the one that stays.
const PROGRAM: &str = r#"
void _start(void) {
    for (;;) {
#if defined(__x86_64__)
        register long fourth __asm__("r10") = 0;
        long result = CALL;
        __asm__ volatile("syscall" : "+a"(result) : "D"(0L), "S"(0L), "d"(0L), "r"(fourth) : "rcx", "r11", "memory");
#elif defined(__aarch64__)
        register long number __asm__("x8") = CALL;
        register long first __asm__("x0") = 0;
        register long second __asm__("x1") = 0;
        register long third __asm__("x2") = 0;
        register long fourth __asm__("x3") = 0;
        __asm__ volatile("svc 0" : "+r"(first) : "r"(number), "r"(second), "r"(third), "r"(fourth) : "memory");
#else
#error "how is a system call made here?"
#endif
    }
}
"#;

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

/// Starts the flood, first without the agent and then with it, and prints when the last of those
/// that stay has its class, what was lost, and what the agent used.
pub fn run(build: bool) -> Result<()> {
    let signals = demo::prepare(build)?;
    let place = Place::from_programs(&workspace::release_programs(), "downbeat-flood.")?;
    compile(libc::SYS_exit_group, &place.bin("goes"))?;
    // Of nothing and for ever.
    compile(libc::SYS_ppoll, &place.bin("stays"))?;
    place.policy("50-flood.toml", POLICY)?;
    println!("without the agent: {}", Flood::pour(&place)?.told());

    let agent = place.start(&[])?;
    signals.sleep(Duration::from_secs(2))?;
    let before = of_process(agent.pid())?;
    let mut flood = Flood::pour(&place)?;
    let used = of_process(agent.pid())?.saturating_sub(before);
    println!("with the agent: {}", flood.told());
    let end = Instant::now();
    match flood.stay.wait() {
        Some(last) => println!(
            "the last of those had its class {:.0} ms after the end of the flood; asked: 1,000 ms",
            last.saturating_duration_since(end).as_secs_f64() * 1e3
        ),
        None => println!(
            "{} of those had none {} s after its end",
            flood.stay.without(),
            GIVE_UP.as_secs()
        ),
    }
    // What is asked for is at most 1.25 s old: the next picture has all of it.
    signals.sleep(Duration::from_millis(1500))?;
    let bpf = agent.snapshot()?.cost.bpf.unwrap_or_default();
    println!(
        "counted as lost: {} events, {} threads; the agent used {:.1} % of a core while it lasted, \
         {:.0} µs for each exec",
        bpf.dropped_events,
        bpf.dropped_threads,
        used.as_secs_f64() / flood.took.as_secs_f64() * 100.0,
        used.as_secs_f64() * 1e6 / flood.started.max(1) as f64
    );
    Ok(())
}

fn compile(call: i64, to: &Path) -> Result<()> {
    let mut compiler = Command::new("cc");
    compiler.args(["-static", "-nostdlib", "-O2", "-x", "c", "-", "-o"]).arg(to);
    compiler.arg(format!("-DCALL={call}")).stdin(Stdio::piped());
    let mut compiler = compiler.spawn().context("cc: starting it (Debian: gcc)")?;
    if let Some(mut input) = compiler.stdin.take() {
        input.write_all(PROGRAM.as_bytes()).context("cc: handing it the source")?;
    }
    let status = compiler.wait()?;
    ensure!(status.success(), "cc: {status}");
    Ok(())
}

/// What was started.
struct Flood {
    started: usize,
    refused: usize,
    took: Duration,
    /// Share of the CPUs' time that the hypervisor took meanwhile.
    steal: f64,
    stay: Stay,
}

impl Flood {
    fn pour(place: &Place) -> Result<Self> {
        let (goes, stays) = (place.bin("goes"), place.bin("stays"));
        let (host, begun) = (HostTime::read()?, Instant::now());
        let parts: Vec<Part> = thread::scope(|scope| {
            let starters: Vec<_> =
                (0..STARTERS).map(|_| scope.spawn(|| start(&goes, &stays))).collect();
            starters.into_iter().map(|it| it.join().unwrap_or_default()).collect()
        });
        Ok(Self {
            took: begun.elapsed(),
            steal: HostTime::read()?.steal_since(&host),
            started: parts.iter().map(|it| it.started).sum(),
            refused: parts.iter().map(|it| it.refused).sum(),
            stay: Stay(parts.into_iter().flat_map(|it| it.stay).collect()),
        })
    }

    fn told(&self) -> String {
        format!(
            "{} execs in {:.1} s ({:.0} a second; {} refused by the system), of which {} stay; steal \
             {:.1} %",
            self.started,
            self.took.as_secs_f64(),
            self.started as f64 / self.took.as_secs_f64(),
            self.refused,
            self.stay.0.len(),
            self.steal * 100.0
        )
    }
}

/// What one thread has started.
#[derive(Default)]
struct Part {
    started: usize,
    refused: usize,
    stay: Vec<Child>,
}

fn start(goes: &Path, stays: &Path) -> Part {
    let mut part = Part::default();
    let mut going: Vec<Child> = Vec::new();
    let begun = Instant::now();
    let pause = Duration::from_secs(1) * STARTERS / PER_SECOND;
    while begun.elapsed() < LASTS {
        let stays_now = part.started % STAYS == STAYS - 1;
        let mut command = Command::new(if stays_now { stays } else { goes });
        match command.stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
            Ok(child) if stays_now => part.stay.push(child),
            Ok(child) => going.push(child),
            Err(_) => part.refused += 1,
        }
        part.started += 1;
        going.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        // A start that took too long is made up for by those after it.
        let due = pause * u32::try_from(part.started).unwrap_or(u32::MAX);
        thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    for mut child in going {
        // It ends by itself at once.
        let _ = child.wait();
    }
    part
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
