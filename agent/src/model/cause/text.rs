//! A cause as a person reads it.

use std::fmt::Write as _;

use downbeat_api::{CauseKind, Culprit, CulpritKind};

use super::{MissFacts, Parts};

/// Culprits that are named; the rest is told as one.
const NAMED: usize = 2;

pub(super) fn text(kind: CauseKind, parts: &Parts, facts: &MissFacts) -> String {
    let of = |ns| format!("{} of {}", time(ns), time(facts.response_ns));
    match kind {
        CauseKind::RanBehind => {
            format!("waited {} behind {}", of(parts.runners_ns), list(&parts.runners))
        }
        CauseKind::Throttled => {
            let group = facts.throttled.as_ref().map_or("its group", |t| t.cgroup.as_str());
            format!(
                "held back for {}: the CPU quota of {group} was used up",
                of(parts.throttled_ns)
            )
        }
        CauseKind::Stolen => {
            format!("the hypervisor ran something else for {}", of(parts.stolen_ns))
        }
        CauseKind::Interrupts => format!(
            "interrupts had the CPU for {}: {}",
            of(parts.interrupts_ns),
            list(&parts.interrupts)
        ),
        CauseKind::Memory => {
            let stalls = &facts.stalls;
            let mut from = Vec::new();
            if stalls.fault_ns > 0 {
                let plural = if stalls.faults == 1 { "" } else { "s" };
                let (faults, ns) = (stalls.faults, time(stalls.fault_ns));
                from.push(format!("{faults} major fault{plural} ({ns})"));
            }
            if stalls.reclaim_ns > 0 {
                from.push(format!("reclaim ({})", time(stalls.reclaim_ns)));
            }
            format!("spent {} on memory: {}", of(parts.memory_ns), from.join(" and "))
        }
        CauseKind::Disk => format!("waited {} for a disk", of(parts.disk_ns)),
        CauseKind::Blocked => format!(
            "slept {} inside the job, for a lock or a helper of its own process",
            of(parts.blocked_ns)
        ),
        CauseKind::Gpu => {
            let gpu = facts.gpu.clone().unwrap_or_default();
            format!("slept {} while {}", of(parts.gpu_ns), gpu_story(&gpu))
        }
        CauseKind::ReleasedLate if parts.late_timer_ns >= parts.late_cpu_ns => {
            format!("its timer expired {} late", time(parts.late_timer_ns))
        }
        CauseKind::ReleasedLate => {
            format!("its CPU was idle and needed {} to wake up", time(parts.late_cpu_ns))
        }
        CauseKind::JobBefore => {
            format!("not free to start for {}: the job before was under way", of(parts.behind_ns))
        }
        CauseKind::OwnCost if facts.own_ns() > facts.deadline_ns => format!(
            "its own work took {}, and the deadline is {}",
            time(facts.own_ns()),
            time(facts.deadline_ns)
        ),
        CauseKind::OwnCost => format!(
            "nothing that was measured made it {} late; its own work took {}",
            time(facts.lateness_ns()),
            time(facts.own_ns())
        ),
    }
}

/// One figure a line, with where it is from. Figures that are zero or unknown are left out.
pub(super) fn evidence(parts: &Parts, facts: &MissFacts) -> Vec<String> {
    let mut lines = vec![format!(
        "response {}, deadline {}, {} late (release to completion, kernel programs)",
        time(facts.response_ns),
        time(facts.deadline_ns),
        time(facts.lateness_ns())
    )];
    let mut figure = |ns: u64, text: String| {
        if ns > 0 {
            lines.push(text);
        }
    };
    figure(
        facts.late_ns,
        format!("late release {} (timer's own expiry time)", time(facts.late_ns)),
    );
    figure(facts.start_ns, format!("first on a CPU after {} (sched_switch)", time(facts.start_ns)));
    let mut waited = format!("ready and not running {} (sched_switch)", time(facts.wait_ns));
    if !facts.culprits.is_empty() {
        let _ = write!(waited, ": {}", list_all(&facts.culprits));
    }
    figure(facts.wait_ns, waited);
    figure(
        facts.run_ns,
        format!(
            "on a CPU {}, charged {} (sum_exec_runtime)",
            time(facts.run_ns),
            time(facts.cost_ns)
        ),
    );
    let stalls = &facts.stalls;
    figure(stalls.io_ns, format!("waited {} for a disk (block I/O wait)", time(stalls.io_ns)));
    let faults = format!("{} in major faults ({})", time(stalls.fault_ns), stalls.faults);
    figure(stalls.fault_ns, faults);
    let reclaim = format!("reclaimed memory for {} (direct reclaim)", time(stalls.reclaim_ns));
    figure(stalls.reclaim_ns, reclaim);
    figure(
        stalls.sleep_ns,
        format!("slept {} inside the job (sched_switch)", time(stalls.sleep_ns)),
    );
    if let Some(throttled) = &facts.throttled {
        let (ns, window) = (time(throttled.ns), time(throttled.window_ns));
        let own = time(parts.throttled_ns);
        let group = &throttled.cgroup;
        figure(
            throttled.ns,
            format!("{group} held back {ns} in {window}, {own} of it here (cpu.stat)"),
        );
    }
    if let Some(steal) = facts.steal {
        let (ns, window) = (time(steal.ns), time(steal.window_ns));
        figure(steal.ns, format!("hypervisor took {ns} of {window} (steal, /proc/stat)"));
    }
    for (name, share) in [("memory", facts.memory_pressure), ("a disk", facts.io_pressure)] {
        if let Some(share) = share.filter(|share| *share >= 0.001) {
            lines.push(format!(
                "someone waited for {name} {:.1} % of the time (PSI)",
                share * 100.0
            ));
        }
    }
    if let Some(gpu) = facts.gpu.as_ref().filter(|g| g.slowed.is_some() || g.busy_with.is_some()) {
        lines.push(format!("{} (GPU driver)", gpu_story(gpu)));
    }
    lines
}

fn gpu_story(gpu: &super::GpuState) -> String {
    let device = &gpu.device;
    match (&gpu.slowed, &gpu.busy_with) {
        (Some(reason), None) => format!("{device} ran slower ({reason})"),
        (None, Some(other)) => format!("{device} also worked for {other}"),
        (Some(reason), Some(other)) => {
            format!("{device} ran slower ({reason}) and also worked for {other}")
        }
        (None, None) => format!("{device} worked"),
    }
}

/// Who it is, as part of a sentence.
fn who(culprit: &Culprit) -> String {
    let name = &culprit.name;
    match culprit.kind {
        CulpritKind::Class => format!("class {name}"),
        CulpritKind::Program | CulpritKind::HardInterrupt | CulpritKind::SoftInterrupt => {
            name.clone()
        }
        CulpritKind::Workload => "its own process".to_owned(),
        CulpritKind::Kernel => format!("kernel thread {name}"),
        CulpritKind::Timer => "the timer".to_owned(),
        CulpritKind::Idle => "an idle CPU".to_owned(),
        CulpritKind::Stolen => "the hypervisor".to_owned(),
        CulpritKind::Others => "others".to_owned(),
        CulpritKind::Unknown => "someone unknown".to_owned(),
    }
}

/// The worst by name, the rest as one.
fn list(culprits: &[Culprit]) -> String {
    let mut named = sorted(culprits);
    let rest = named.split_off(named.len().min(NAMED));
    if !rest.is_empty() {
        let (kind, name) = (CulpritKind::Others, String::new());
        named.push(Culprit { kind, name, ns: super::sum(&rest) });
    }
    if let [only] = named.as_slice() {
        return who(only);
    }
    let mut named: Vec<String> =
        named.iter().map(|one| format!("{} ({})", who(one), time(one.ns))).collect();
    let last = named.pop().unwrap_or_default();
    format!("{} and {last}", named.join(", "))
}

fn list_all(culprits: &[Culprit]) -> String {
    let each = |one: &Culprit| format!("{} {}", who(one), time(one.ns));
    sorted(culprits).iter().map(each).collect::<Vec<_>>().join(", ")
}

fn sorted(culprits: &[Culprit]) -> Vec<Culprit> {
    let mut culprits = culprits.to_vec();
    culprits.sort_by(|a, b| b.ns.cmp(&a.ns).then_with(|| a.name.cmp(&b.name)));
    culprits
}

/// A time with as many digits as a person wants: `850 µs`, `4.1 ms`, `1.23 s`.
fn time(ns: u64) -> String {
    let (us, ms) = (ns as f64 / 1e3, ns as f64 / 1e6);
    // The bounds are where rounding would show `1000 µs` or `1000.0 ms`.
    if us < 999.5 {
        format!("{us:.0} µs")
    } else if ms < 999.95 {
        format!("{ms:.1} ms")
    } else {
        format!("{:.2} s", ms / 1e3)
    }
}
