//! The processes of this host with everything that a policy looks at, for commands that answer
//! without the agent or for another policy than its own.

use std::time::{Duration, Instant};

use downbeat_agent::observe::process::{ProcessReader, ProcessSample};
use downbeat_agent::observe::whereabouts::Moved;
use downbeat_agent::roots::Roots;
use downbeat_api::{HeldState, Known};
use downbeat_policy::{PolicySet, ProcessKind};

use crate::units;

/// CPU time for looking at what processes hold open and have mapped.
const AT_MOST: Duration = Duration::from_secs(1);

/// How long the engines of containers may take to name them, and from one look to the next.
const PATIENCE: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(50);

/// What was found.
pub(super) struct Survey {
    pub processes: Vec<ProcessSample>,
    /// What could not be found out, for people.
    pub gaps: Vec<String>,
}

/// Every process, with what the policy looks at. `known` is what a running agent knows: a process
/// that it moved is seen where it came from, as the agent itself sees it.
pub(super) fn survey(policy: &PolicySet, known: &Known) -> Survey {
    let mut reader = ProcessReader::new(&Roots::default());
    let needs = policy.needs();
    let (looks, asks) = (needs.uses || needs.maps, needs.containers);
    reader.want(needs);
    if looks || asks {
        // Devices, libraries and containers are looked at once a scan has met them.
        reader.scan();
        reader.news(AT_MOST);
    }
    let begin = Instant::now();
    while asks && reader.unnamed_containers().0 > 0 && begin.elapsed() < PATIENCE {
        std::thread::sleep(STEP);
        reader.news(Duration::ZERO);
    }
    let mut processes = reader.scan();
    for process in &mut processes {
        see_at_home(&mut reader, process, known);
    }
    let mut gaps = Vec::new();
    // A zombie has no executable either, and no arguments.
    let hidden = |process: &&ProcessSample| {
        let facts = &process.facts;
        facts.kind == ProcessKind::Ordinary && facts.exe.is_none() && !facts.cmdline.is_empty()
    };
    let hidden = processes.iter().filter(hidden).count() as u64;
    if hidden > 0 {
        gaps.push(format!(
            "{} of others could not be looked at as a whole, so rules may match more than this: run \
             it as root",
            units::count(hidden, "process")
        ));
    }
    let unseen = reader.unseen() as u64;
    if looks && unseen > 0 {
        gaps.push(format!(
            "what {} hold open and have mapped was not looked at, which would have taken too long",
            units::count(unseen, "process")
        ));
    }
    let (silent, unknown) = if asks { reader.unnamed_containers() } else { (0, 0) };
    if silent + unknown > 0 {
        gaps.push(format!(
            "the names of {} are not known here: no engine answered within {} s that knows them. Rules by \
             container, image, pod or label may match more than this",
            units::count((silent + unknown) as u64, "container"),
            PATIENCE.as_secs()
        ));
    }
    Survey { processes, gaps }
}

fn see_at_home(reader: &mut ProcessReader, process: &mut ProcessSample, known: &Known) {
    let mut of_process =
        known.held.iter().filter(|it| (it.tid, it.start_time) == (process.pid, process.start_time));
    let Some(moved) = of_process.find(|it| it.held.lever == "cgroup") else { return };
    if let HeldState::Ours { old, ours } = &moved.held.state
        && process.facts.cgroup.as_ref() == Some(ours)
    {
        reader.see_at_home(process.pid, &mut process.facts, Moved { to: ours, from: old });
    }
}
