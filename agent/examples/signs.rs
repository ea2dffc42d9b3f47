//! What it costs to know what processes hold open and have mapped, and whose they are and where:
//! `signs [PROCESSES]`.
//!
//! Starts so many processes, lets ten minutes of ticks pass at once, and says how much CPU time
//! the looking took of them.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use downbeat_agent::observe::pacer::cpu_time;
use downbeat_agent::observe::uses::{Program, Signs, Wanted};
use downbeat_agent::observe::whereabouts::{self, Bearings, Whereabouts};
use downbeat_agent::roots::Roots;

const TICK: Duration = Duration::from_millis(250);
const TICKS: u32 = 2400;

/// The agent's own slice.
const SLICE: Duration = Duration::from_millis(2);

struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let number: usize = std::env::args().nth(1).map_or(Ok(1000), |text| text.parse())?;
    // An interpreter has some dozen libraries and descriptors, as most programs do.
    let mut command = Command::new("perl");
    command.args(["-MSocket", "-MPOSIX", "-e", "sleep 600"]).stdin(Stdio::null());
    let mut processes = Processes(Vec::new());
    for _ in 0..number {
        processes.0.push(command.spawn()?);
    }
    std::thread::sleep(Duration::from_secs(2));

    let mut signs = Signs::new(&Roots::default());
    signs.want(Wanted { uses: true, maps: true });
    let start = Instant::now();
    for child in &processes.0 {
        let age = Duration::from_secs(0);
        let program = Program { pid: child.id(), start_time: 1, exe: "/usr/bin/perl", age };
        signs.of(program, start);
    }
    let begun = cpu_time();
    let (mut changed, mut all_seen) = (0, None);
    for tick in 1..=TICKS {
        changed += signs.news(start + TICK * tick, SLICE).len();
        if all_seen.is_none() && signs.unseen() == 0 {
            all_seen = Some(TICK * tick);
        }
    }
    let spent = cpu_time().saturating_sub(begun);
    let share = spent.as_secs_f64() / (TICK * TICKS).as_secs_f64();
    println!("{number} processes: {:.4} % of a core over ten minutes", share * 100.0);
    println!("{changed} were seen to have something; all were seen after {all_seen:?}");
    whereabouts_of(&processes, number);
    Ok(())
}

fn whereabouts_of(processes: &Processes, number: usize) {
    let mut whereabouts = Whereabouts::new(&Roots::default().proc);
    whereabouts.want(whereabouts::Wanted { owner: true, place: true });
    let start = Instant::now();
    for child in &processes.0 {
        let age = Duration::from_secs(3600);
        let program = Program { pid: child.id(), start_time: 1, exe: "/usr/bin/perl", age };
        let nowhere = Bearings { owner: (None, None), place: None };
        whereabouts.note(program, nowhere, start);
    }
    let begun = cpu_time();
    let looks: usize =
        (1..=TICKS).map(|tick| whereabouts.news(start + TICK * tick, SLICE).len()).sum();
    let spent = cpu_time().saturating_sub(begun);
    let share = spent.as_secs_f64() / (TICK * TICKS).as_secs_f64();
    println!("users and groups of {number}: {:.4} % of a core over ten minutes", share * 100.0);
    println!("{looks} were another's than was noted");
}
