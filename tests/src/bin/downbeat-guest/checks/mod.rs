//! What is checked on a guest's kernel.
//!
//! To add a check, write `fn() -> Result<()>` in one of the rooms (or a new one) and name it in that
//! room's `CHECKS`. It has what the end-to-end tests have (`downbeat_tests`: a [`Place`] with all
//! programs, agents, loads, snapshots) and what a host would not let it do ([`crate::machine`]:
//! quotas, CPUs that go, far process ids). `Err(Skip(…).into())` says that this kernel cannot do
//! it. `cargo xtask vm-test --kernel 7.2 --check TEXT` runs only those with TEXT in their name.

mod agent;
mod host;
mod jobs;
mod levers;

use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result};
use downbeat_tests::agent::{Agent, Load, Place};
use downbeat_tests::guest::{Line, ONLY};
use downbeat_tests::threads::{Attributes, FIFO};

const POLICY: &str = r#"
schema = 1

[class.voice]
modality = "audio"
tier = "realtime"
# An emulated CPU is slow: starting a program is not to be taken for running away.
deadline = "5s"
sched = { policy = "fifo", priority = 7 }
cpus = "1"
io = { class = "best-effort", level = 1 }
memory = { oom = -321 }

[[rule]]
name = "crowd"
class = "voice"
match = { exe = "{bin}/downbeat-load" }
"#;

/// A check's name, as the harness shows it, and what it does.
type Check = (&'static str, fn() -> Result<()>);

/// Every room's checks, in the order in which they run.
const ROOMS: [&[Check]; 4] = [agent::CHECKS, jobs::CHECKS, levers::CHECKS, host::CHECKS];

/// Ends a check that this kernel cannot run.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Runs every check, or those that the harness asked for, and tells each one's outcome.
pub fn run_all(tell: impl Fn(Line)) {
    let only = std::env::var(ONLY).unwrap_or_default();
    let chosen = ROOMS.into_iter().flatten().filter(|(name, _)| name.contains(&only));
    let mut none = true;
    let begun = Instant::now();
    for (name, check) in chosen {
        none = false;
        // For whoever reads the console of a guest that stood still, or wonders where its time went.
        println!("{:4} s: {name}", begun.elapsed().as_secs());
        let name = (*name).to_owned();
        tell(match check() {
            Ok(()) => Line::Ok(name),
            Err(error) => match error.downcast::<Skip>() {
                Ok(Skip(why)) => Line::Skipped { name, why },
                Err(error) => Line::Fail { name, why: format!("{error:#}") },
            },
        });
    }
    if none {
        tell(Line::Fail { name: only, why: "no check has this in its name".into() });
    }
}

/// A place with a policy that gives every `downbeat-load` the class `voice` (see [`managed`]).
pub fn place() -> Result<Place> {
    let place = Place::new()?;
    place.policy("50-test.toml", POLICY)?;
    Ok(place)
}

/// Four threads that sleep.
pub fn crowd(place: &Place) -> Result<Load> {
    place.load(&["crowd", "--threads", "3", "--live", "120s"])
}

/// Whether a thread has what the class `voice` gives.
pub fn managed(found: &Attributes) -> bool {
    found.scheduling.policy == FIFO
        && found.scheduling.priority == 7
        && found.affinity == "1"
        && found.oom == -321
}

/// Arguments of an agent that loads no kernel programs: an emulated CPU takes its time to verify them.
pub const NO_BPF: &[&str] = &["--no-bpf"];

/// An agent, and four threads that it has given their class.
pub fn managed_crowd(place: &Place, arguments: &[&str]) -> Result<(Agent, Load)> {
    let agent = place.start(arguments)?;
    let crowd = crowd(place)?;
    crowd.wait_for(4, managed).with_context(|| agent.log())?;
    Ok((agent, crowd))
}

/// Whether a thread has what nobody changed.
pub fn untouched() -> Result<impl Fn(&Attributes) -> bool> {
    let own = Attributes::of(std::process::id())?;
    Ok(move |found: &Attributes| *found == own)
}
