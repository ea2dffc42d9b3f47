//! An agent that says the same of a host that does not exist, to look at the screens:
//! `cargo run -p downbeat --example fake_agent -- DIR [small|busy|large|procfs|crowd]`, and then
//! `downbeat --run-dir DIR` elsewhere.

use std::path::Path;
use std::time::Duration;

#[path = "../tests/support/mod.rs"]
mod support;

use support::{agent::FakeAgent, host, work};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(run_dir) = arguments.next() else {
        eprintln!("usage: fake_agent DIR [small|busy|large|procfs|crowd]");
        std::process::exit(2);
    };
    let snapshot = match arguments.next().as_deref() {
        None | Some("small") => host::small(),
        Some("busy") => {
            let mut snapshot = host::small();
            work::fill(&mut snapshot);
            snapshot
        }
        Some("large") => host::large(),
        Some("procfs") => host::procfs_only(),
        Some("crowd") => host::crowd(5_000),
        Some(other) => {
            eprintln!("no host {other:?}: small, busy, large, procfs or crowd");
            std::process::exit(2);
        }
    };
    let agent = FakeAgent::start(Path::new(&run_dir), snapshot, Duration::from_millis(250));
    // Something moves, so that the charts have a shape.
    for n in 0_u32.. {
        std::thread::sleep(Duration::from_millis(250));
        agent.say(|snapshot| {
            let wave = (f64::from(n) / 9.0).sin().abs();
            snapshot.uptime += 0.25;
            snapshot.unix_time += 0.25;
            for cpu in &mut snapshot.cpus {
                cpu.user = wave * 0.8;
                cpu.busy = cpu.user + cpu.system + cpu.irq;
            }
            for class in &mut snapshot.classes {
                if let Some(wait) = class.wait.as_mut().filter(|_| class.threads > 0) {
                    wait.recent.p99_ns = Some(20_000 + u64::from(n * 7919 % 97) * 100_000);
                }
                if let Some(misses) = &mut class.misses {
                    misses.frames += 25;
                    misses.missed += u64::from(n % 13 == 0);
                }
            }
        });
    }
}
