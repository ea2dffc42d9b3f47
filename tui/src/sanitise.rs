//! What comes from outside is made safe once, at the door: no string of a process, a policy file
//! or a driver reaches the screen with a control character in it.
//!
//! Structs are taken apart whole, so that a new field does not build until it is thought about.

use downbeat_api::pool::{LogLine, Model, PoolStatus, Worker};
use downbeat_api::{
    Action, Actions, Cause, CauseCount, Class, ClassBlame, ClassCgroups, Culprit, Discovered,
    Discovery, Explanation, Finding, Gpu, GpuView, HostFacts, HostLoad, LeverCount, LeverState,
    Miss, Notice, Override, Plan, PlanStep, PlanSubject, PlannedChange, PolicyProblem, PolicyState,
    Process, SharedExplanation, Snapshot, Source, ThreadExplanation, ThreadJobs,
};

use crate::text::{clean, deceives};

/// Makes one string safe.
pub fn text(text: &mut String) {
    if text.contains(deceives) {
        *text = clean(text).into_owned();
    }
}

fn optional(value: &mut Option<String>) {
    if let Some(value) = value {
        text(value);
    }
}

/// JSON that a terminal can show: what [`deceives`] can only stand inside a string there, and is
/// written as its escape, so that the document keeps its meaning.
#[must_use]
pub fn json(document: &str) -> String {
    let mut out = String::with_capacity(document.len());
    for c in document.chars() {
        // Line breaks are the only controls that a serialiser puts between values.
        if deceives(c) && c != '\n' {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Makes a snapshot safe to show.
pub fn snapshot(snapshot: &mut Snapshot) {
    let Snapshot {
        schema: _,
        version,
        host,
        kernel,
        tick: _,
        unix_time: _,
        uptime: _,
        interval: _,
        mode: _,
        source,
        notices,
        cpus: _,
        load: _,
        memory: _,
        pressure: _,
        host_load,
        policy: PolicyState { read_at: _, rules: _, files: _, accepted: _, refused: _, standing },
        overrides,
        classes,
        jobs,
        blame,
        misses,
        causes,
        processes,
        gpu: GpuView { devices, note },
        pool,
        actions: Actions { levers, journalled: _, journal_failures: _, exec_to_set: _, recent },
        cost,
    } = snapshot;
    for value in [version, host, kernel] {
        text(value);
    }
    match source {
        Source::Bpf => {}
        Source::Procfs { reason } => text(reason),
    }
    for Notice { severity: _, text: what, remedy } in notices {
        text(what);
        optional(remedy);
    }
    load(host_load);
    standing.iter_mut().flat_map(|refusal| &mut refusal.problems).for_each(problem);
    overrides.iter_mut().for_each(by_hand);
    classes.iter_mut().for_each(class);
    jobs.iter_mut().for_each(job);
    for ClassBlame { class, recent, total } in blame {
        optional(class);
        recent.iter_mut().chain(total).for_each(culprit);
    }
    misses.iter_mut().for_each(miss);
    for CauseCount { class, cause: _, misses: _ } in causes {
        optional(class);
    }
    processes.iter_mut().for_each(process);
    devices.iter_mut().for_each(gpu);
    optional(note);
    if let Some(pool) = pool {
        pool_status(pool);
    }
    for LeverCount { lever, applied: _, failed: _, restored: _, handed_off: _ } in levers {
        text(lever);
    }
    recent.iter_mut().for_each(action);
    for program in cost.bpf.iter_mut().flat_map(|bpf| &mut bpf.programs) {
        text(&mut program.name);
    }
}

/// Makes one problem of a policy safe to show.
pub fn problem(problem: &mut PolicyProblem) {
    let PolicyProblem { file, line: _, column: _, message } = problem;
    text(file);
    text(message);
}

fn action(action: &mut Action) {
    let Action { unix_time: _, pid: _, name, class, text: what, failed: _ } = action;
    [name, class, what].into_iter().for_each(text);
}

fn by_hand(by_hand: &mut Override) {
    let Override { pid: _, start_time: _, name, class, in_force: _, by_uid: _, since: _, left: _ } =
        by_hand;
    text(name);
    text(class);
}

/// Makes a plan safe to show.
pub fn plan(plan: &mut Plan) {
    // What is known is for making plans and never shown.
    let Plan { changes, settled: _, fallbacks, known: _ } = plan;
    for PlannedChange { subject, lever, now, wanted, step, class, because } in changes {
        planned(subject);
        match step {
            PlanStep::Set | PlanStep::PutBack => {}
            PlanStep::LeaveAlone { reason } => text(reason),
        }
        text(lever);
        text(wanted);
        [now, class, because].into_iter().for_each(optional);
    }
    fallbacks.iter_mut().for_each(text);
}

fn planned(subject: &mut PlanSubject) {
    match subject {
        PlanSubject::Host => {}
        PlanSubject::Group { path: name }
        | PlanSubject::Unit { name }
        | PlanSubject::Device { name } => text(name),
        PlanSubject::Thread { pid: _, process, tid: _, name } => {
            text(process);
            text(name);
        }
    }
}

fn job(job: &mut ThreadJobs) {
    let ThreadJobs {
        tid: _,
        pid: _,
        thread,
        process,
        class,
        release: _,
        rhythm: _,
        deadline_ns: _,
        awake: _,
        recent: _,
        total: _,
    } = job;
    text(thread);
    text(process);
    optional(class);
}

fn culprit(culprit: &mut Culprit) {
    let Culprit { kind: _, name, ns: _ } = culprit;
    text(name);
}

/// Makes one miss safe to show.
pub fn miss(miss: &mut Miss) {
    let Miss {
        id: _,
        unix_time: _,
        tid: _,
        pid: _,
        thread,
        process,
        class,
        deadline_ns: _,
        release_ns: _,
        release: _,
        response_ns: _,
        start_ns: _,
        late_ns: _,
        wait_ns: _,
        run_ns: _,
        cost_ns: _,
        stalls: _,
        culprits,
        cause: Cause { kind: _, text: why, evidence },
    } = miss;
    for value in [thread, process, why] {
        text(value);
    }
    optional(class);
    culprits.iter_mut().for_each(culprit);
    evidence.iter_mut().for_each(text);
}

fn class(class: &mut Class) {
    let Class {
        name,
        modality,
        tier,
        deadline_ns: _,
        sched,
        processes: _,
        threads: _,
        cpu: _,
        wait: _,
        misses: _,
        jobs: _,
        cpus: _,
        cgroups,
    } = class;
    for value in [name, modality, tier, sched] {
        text(value);
    }
    if let Some(cgroups) = cgroups {
        let ClassCgroups { groups: _, skipped: _, missing, throttling, cpu, memory, io } = cgroups;
        optional(missing);
        if let Some(worst) = throttling.as_mut().and_then(|throttling| throttling.worst.as_mut()) {
            text(&mut worst.path);
        }
        for worst in [cpu, memory, io].into_iter().flatten() {
            text(&mut worst.path);
        }
    }
}

fn load(load: &mut HostLoad) {
    let HostLoad { pressure: _, pressure_missing, cpu_times: _, interrupts } = load;
    optional(pressure_missing);
    let Some(interrupts) = interrupts else {
        return;
    };
    for interrupt in interrupts.devices.iter_mut().chain(&mut interrupts.system) {
        text(&mut interrupt.label);
        text(&mut interrupt.name);
    }
    for interrupt in &mut interrupts.soft {
        text(&mut interrupt.name);
    }
}

fn process(process: &mut Process) {
    let Process {
        pid: _,
        ppid: _,
        start_time: _,
        name,
        command,
        user,
        class,
        rule,
        threads: _,
        managed: _,
        state,
        cpu: _,
        rss: _,
        gpu_memory: _,
        sched,
        nice: _,
        affinity,
        attention: _,
    } = process;
    for value in [name, command, user, sched, affinity] {
        text(value);
    }
    optional(class);
    optional(rule);
    if deceives(*state) {
        *state = '?';
    }
}

fn gpu(gpu: &mut Gpu) {
    let Gpu {
        index: _,
        uuid,
        name,
        utilization: _,
        memory_utilization: _,
        memory_used: _,
        memory_total: _,
        temperature: _,
        power: _,
        power_limit: _,
        slowed,
        processes: _,
    } = gpu;
    slowed.iter_mut().for_each(text);
    text(uuid);
    text(name);
}

/// Makes a line of a worker's log safe to show.
pub fn log_line(line: &mut LogLine) {
    let LogLine { unix_time: _, instance, text: said } = line;
    text(instance);
    text(said);
}

/// Makes the pool's status safe to show.
pub fn pool_status(pool: &mut PoolStatus) {
    let PoolStatus { pid: _, note, rest, grpc, wyoming, workers, models } = pool;
    for value in [note, rest, grpc, wyoming] {
        optional(value);
    }
    for model in models {
        let Model {
            name,
            state: _,
            note,
            version,
            ready: _,
            instances: _,
            restarts: _,
            queued: _,
            running: _,
            requests: _,
            not_answered: _,
            rate: _,
            p50_ns: _,
            p99_ns: _,
            batch: _,
            with_deadline: _,
            in_time: _,
            real_time_factor: _,
        } = model;
        text(name);
        optional(note);
        optional(version);
    }
    for worker in workers {
        let Worker {
            name,
            kind,
            state: _,
            pid: _,
            restarts: _,
            note,
            socket,
            frames: _,
            missed: _,
            compute_p50_ns: _,
            compute_p99_ns: _,
        } = worker;
        text(name);
        text(kind);
        optional(note);
        optional(socket);
    }
}

/// Makes what was discovered safe to show.
pub fn discovery(discovery: &mut Discovery) {
    let Discovery { enabled: _, beats: _, pending: _, findings } = discovery;
    for found in findings {
        let Discovered {
            pid: _,
            name,
            exe,
            cmdline,
            modality,
            confidence: _,
            enough: _,
            evidence,
            class,
            given: _,
        } = found;
        for said in [name, cmdline, modality].into_iter().chain(exe).chain(class).chain(evidence) {
            text(said);
        }
    }
}

/// Makes an explanation safe to show.
pub fn explanation(explanation: &mut Explanation) {
    let Explanation {
        pid: _,
        name,
        exe,
        mode: _,
        kept_out,
        by_hand: override_of_it,
        evidence,
        actions,
        jobs,
        latest_miss,
        threads,
        shared,
    } = explanation;
    text(name);
    optional(exe);
    optional(kept_out);
    override_of_it.iter_mut().for_each(by_hand);
    evidence.iter_mut().for_each(text);
    actions.iter_mut().for_each(action);
    jobs.iter_mut().for_each(job);
    latest_miss.iter_mut().for_each(miss);
    for ThreadExplanation { tid: _, name, class, rule, because, levers } in threads {
        text(name);
        optional(class);
        optional(rule);
        optional(because);
        levers.iter_mut().for_each(lever_state);
    }
    for SharedExplanation { subject, levers } in shared {
        planned(subject);
        levers.iter_mut().for_each(lever_state);
    }
}

fn lever_state(state: &mut LeverState) {
    let LeverState { lever, old, wanted, instead, outcome } = state;
    text(lever);
    optional(old);
    text(wanted);
    optional(instead);
    text(outcome);
}

/// Makes host facts safe to show.
pub fn host(facts: &mut HostFacts) {
    let HostFacts {
        kernel,
        arch,
        cpus: _,
        topology: _,
        memory: _,
        realtime: _,
        eevdf_slice: _,
        uclamp: _,
        deadline: _,
        cgroup2_controllers,
        findings,
    } = facts;
    text(kernel);
    text(arch);
    cgroup2_controllers.iter_mut().for_each(text);
    for Finding { id, state: _, text: what, remedy } in findings {
        text(id);
        text(what);
        optional(remedy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_meaning_and_loses_its_bite() {
        let name = "a\u{9b}31m\u{7f}\u{202e}b\n\u{e0001}";
        let document = serde_json::to_string_pretty(&vec![name]).unwrap();
        let safe = json(&document);
        assert!(!safe.contains(|c| deceives(c) && c != '\n'), "{safe}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&safe).unwrap(), [name]);
    }
}
