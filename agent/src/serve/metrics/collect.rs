//! A snapshot as samples of the catalogue's families. What the snapshot does not know has no
//! sample.

use std::collections::BTreeMap;

use downbeat_api::pool::{PoolStatus, WorkerState};
use downbeat_api::{
    Actions, Class, Cost, Cpu, Gpu, LeverCount, Mode, PolicyState, Process, Severity, Snapshot,
    Source, Wait, WaitSummary,
};

use downbeat_openmetrics::{Definition, Families, Value};

use super::catalogue::{self, WAIT_BOUNDS_NS};
use super::{host, jobs};

/// What the names of kernel programs begin with that are on raw tracepoints.
const RAW: &str = "raw_";

/// Everything that `snapshot` knows.
pub(super) fn families(snapshot: &Snapshot) -> Families {
    // Named one by one, so that a new field must be thought about here.
    let Snapshot {
        schema: _,
        version,
        host: _,
        kernel,
        tick,
        unix_time: _,
        uptime,
        interval: _,
        mode,
        source,
        notices,
        cpus,
        load: _,
        memory: _,
        pressure,
        host_load,
        policy,
        overrides,
        classes,
        jobs: threads,
        blame,
        misses: _,
        causes,
        processes,
        gpu,
        pool,
        actions,
        cost,
    } = snapshot;
    let mut families = Families::default();
    families.add(&catalogue::BUILD, [(vec![version.clone(), kernel.clone()], Value::Info)]);
    families.gauge(&catalogue::UPTIME, *uptime);
    families.count(&catalogue::TICKS, *tick);
    let mode = match mode {
        Mode::Engaged => "engaged",
        Mode::Paused => "paused",
        Mode::ObserveOnly => "observe_only",
    };
    families.states(&catalogue::MODE, &["engaged", "paused", "observe_only"], mode);
    let source = match source {
        Source::Bpf => "bpf",
        Source::Procfs { reason: _ } => "procfs",
    };
    families.states(&catalogue::SOURCE, &["bpf", "procfs"], source);
    let standing =
        [("info", Severity::Info), ("warning", Severity::Warning), ("error", Severity::Error)].map(
            |(name, severity)| {
                let count = notices.iter().filter(|notice| notice.severity == severity).count();
                (vec![name.to_owned()], Value::Gauge(count as f64))
            },
        );
    families.add(&catalogue::NOTICES, standing);
    add_policy(&mut families, policy);
    families.gauge(&catalogue::OVERRIDES, overrides.len() as f64);

    add_classes(&mut families, classes, processes);
    jobs::add_jobs(&mut families, classes, threads);
    jobs::add_causes(&mut families, causes);
    jobs::add_blame(&mut families, blame);
    add_actions(&mut families, actions);
    add_cost(&mut families, cost);

    let cpu = |cpu: &Cpu| vec![cpu.id.to_string()];
    families.each(&catalogue::CPU_BUSY, cpus, cpu, |cpu| Some(Value::Gauge(cpu.busy)));
    families.each(&catalogue::CPU_STEAL, cpus, cpu, |cpu| Some(Value::Gauge(cpu.steal)));
    if let Some(pressure) = pressure {
        let samples = [("cpu", pressure.cpu), ("memory", pressure.memory), ("io", pressure.io)]
            .map(|(resource, share)| (vec![resource.to_owned()], Value::Gauge(share)));
        families.add(&catalogue::PRESSURE, samples);
    }
    host::add_load(&mut families, host_load);
    add_gpus(&mut families, &gpu.devices);
    if let Some(pool) = pool {
        add_pool(&mut families, pool);
    }
    families
}

fn add_policy(families: &mut Families, policy: &PolicyState) {
    let PolicyState { read_at, rules, files: _, accepted, refused, standing } = policy;
    // An agent that is just starting, or one that does not tell.
    if *accepted == 0 {
        return;
    }
    families.gauge(&catalogue::POLICY_RULES, *rules as f64);
    families.gauge(&catalogue::POLICY_READ, *read_at);
    let reloads = [("accepted", accepted), ("refused", refused)]
        .map(|(result, count)| (vec![result.to_owned()], Value::Count(*count)));
    families.add(&catalogue::POLICY_RELOADS, reloads);
    let problems =
        standing.as_ref().map_or(0, |refusal| refusal.problems.len() as u64 + refusal.more);
    families.gauge(&catalogue::POLICY_PROBLEMS, problems as f64);
}

fn add_classes(families: &mut Families, classes: &[Class], processes: &[Process]) {
    let name = |class: &Class| vec![class.name.clone()];
    let described = |class: &Class| {
        vec![class.name.clone(), class.modality.clone(), class.tier.clone(), class.sched.clone()]
    };
    families.each(&catalogue::CLASS, classes, described, |_| Some(Value::Info));
    families.each(&catalogue::CLASS_DEADLINE, classes, name, |class| {
        class.deadline_ns.map(|ns| Value::Gauge(seconds(ns)))
    });
    families.each(&catalogue::CLASS_PROCESSES, classes, name, |class| {
        Some(Value::Gauge(f64::from(class.processes)))
    });
    families.each(&catalogue::CLASS_THREADS, classes, name, |class| {
        Some(Value::Gauge(f64::from(class.threads)))
    });
    families.each(&catalogue::CLASS_CPUS, classes, name, |class| Some(Value::Gauge(class.cpu)));
    families.each(&catalogue::CLASS_FRAMES, classes, name, |class| {
        class.misses.map(|misses| Value::Count(misses.frames))
    });
    families.each(&catalogue::CLASS_MISSED, classes, name, |class| {
        class.misses.map(|misses| Value::Count(misses.missed))
    });
    host::add_groups(families, classes);
    let mut memory: BTreeMap<&str, u64> = BTreeMap::new();
    for process in processes {
        if let (Some(class), Some(bytes)) = (&process.class, process.gpu_memory) {
            let sum = memory.entry(class).or_default();
            *sum = sum.saturating_add(bytes);
        }
    }
    let memory = memory
        .into_iter()
        .map(|(class, bytes)| (vec![class.to_owned()], Value::Gauge(bytes as f64)));
    families.add(&catalogue::CLASS_GPU_MEMORY, memory);
    families.each(&catalogue::WAIT, classes, name, |class| {
        class.wait.as_ref().map(|Wait { recent: _, total, buckets }| histogram(buckets, total))
    });
}

/// Cumulative buckets into the exposed ones, with every bound rounded up: a time is counted below a bound only
/// when the whole of the finer bucket that it was counted in lies there.
pub(super) fn histogram(buckets: &[(u64, u64)], total: &WaitSummary) -> Value {
    let mut before = 0;
    let exposed = |bound: u64| {
        let below = buckets
            .iter()
            .take_while(|(upper, _)| *upper <= bound)
            .last()
            .map_or(before, |(_, cumulative)| (*cumulative).max(before));
        let count = below - before;
        before = below;
        (seconds(bound), count)
    };
    let exposed = WAIT_BOUNDS_NS.map(exposed).to_vec();
    let all = buckets.last().map_or(total.count, |(_, cumulative)| *cumulative);
    Value::Histogram { sum: seconds(total.sum_ns), count: all.max(before), buckets: exposed }
}

fn add_actions(families: &mut Families, actions: &Actions) {
    let Actions { levers, journalled, journal_failures, exec_to_set, recent: _ } = actions;
    let outcomes = levers.iter().flat_map(|count| {
        let LeverCount { lever, applied, failed, restored, handed_off } = count;
        [
            ("applied", applied),
            ("failed", failed),
            ("restored", restored),
            ("handed_off", handed_off),
        ]
        .map(|(outcome, count)| (vec![lever.clone(), outcome.to_owned()], Value::Count(*count)))
    });
    families.add(&catalogue::ACTIONS, outcomes);
    families.gauge(&catalogue::JOURNAL, *journalled as f64);
    if let Some(failures) = journal_failures {
        families.count(&catalogue::JOURNAL_FAILURES, *failures);
    }
    if let Some(summary) = exec_to_set {
        let quantiles = [("0.5", summary.p50_ns), ("0.99", summary.p99_ns), ("1", summary.max_ns)];
        families.add(&catalogue::EXEC_TO_SET, known_quantiles(&[], quantiles));
        families.count(&catalogue::EXEC_TO_SET_COUNT, summary.count);
    }
}

fn known_quantiles<const N: usize>(
    labels: &[String],
    quantiles: [(&str, Option<u64>); N],
) -> Vec<(Vec<String>, Value)> {
    quantiles
        .into_iter()
        .filter_map(|(quantile, ns)| {
            let labels = labels.iter().cloned().chain([quantile.to_owned()]).collect();
            Some((labels, Value::Gauge(seconds(ns?))))
        })
        .collect()
}

fn add_cost(families: &mut Families, cost: &Cost) {
    let Cost { cpu_seconds, cpu: _, rss, bpf } = cost;
    families.add(&catalogue::AGENT_CPU, [(Vec::new(), Value::Seconds(*cpu_seconds))]);
    families.gauge(&catalogue::AGENT_MEMORY, *rss as f64);
    let Some(bpf) = bpf else {
        return;
    };
    // One series for a program and for its twin on a raw tracepoint, of which one runs.
    let program = |program: &downbeat_api::BpfProgram| {
        vec![program.name.strip_prefix(RAW).unwrap_or(&program.name).to_owned()]
    };
    families.each(&catalogue::BPF_SECONDS, &bpf.programs, program, |program| {
        Some(Value::Seconds(program.run_seconds))
    });
    families.each(&catalogue::BPF_RUNS, &bpf.programs, program, |program| {
        Some(Value::Count(program.runs))
    });
    families.count(&catalogue::BPF_DROPPED_EVENTS, bpf.dropped_events);
    families.count(&catalogue::BPF_DROPPED_THREADS, bpf.dropped_threads);
    families.count(&catalogue::BPF_DISCARDED, bpf.discarded_samples);
    families.count(&catalogue::BPF_DROPPED_JOBS, bpf.dropped_jobs);
    families.count(&catalogue::BPF_DROPPED_BLAME, bpf.dropped_blame);
    families.count(&catalogue::BPF_UNSEEN_WAKES, bpf.unseen_wakes);
    families.count(&catalogue::BPF_DROPPED_CHILDREN, bpf.dropped_children);
    families.gauge(&catalogue::BPF_MAPS, bpf.map_bytes as f64);
}

fn add_gpus(families: &mut Families, devices: &[Gpu]) {
    type Figure = fn(&Gpu) -> Option<f64>;
    let figures: [(&'static Definition, Figure); 8] = [
        (&catalogue::GPU_UTILIZATION, |gpu| gpu.utilization),
        (&catalogue::GPU_MEMORY_UTILIZATION, |gpu| gpu.memory_utilization),
        (&catalogue::GPU_MEMORY_USED, |gpu| gpu.memory_used.map(|bytes| bytes as f64)),
        (&catalogue::GPU_MEMORY_TOTAL, |gpu| gpu.memory_total.map(|bytes| bytes as f64)),
        (&catalogue::GPU_TEMPERATURE, |gpu| gpu.temperature),
        (&catalogue::GPU_POWER, |gpu| gpu.power),
        (&catalogue::GPU_POWER_LIMIT, |gpu| gpu.power_limit),
        (&catalogue::GPU_PROCESSES, |gpu| Some(gpu.processes.len() as f64)),
    ];
    let labels = |gpu: &Gpu| vec![gpu.uuid.clone(), gpu.name.clone()];
    for (definition, figure) in figures {
        families.each(definition, devices, labels, |gpu| figure(gpu).map(Value::Gauge));
    }
}

fn add_pool(families: &mut Families, pool: &PoolStatus) {
    families.gauge(&catalogue::POOL_UP, f64::from(pool.pid.is_some()));
    let workers = &pool.workers;
    let states = workers.iter().flat_map(|worker| {
        [
            ("starting", WorkerState::Starting),
            ("ready", WorkerState::Ready),
            ("backoff", WorkerState::Backoff),
            ("failed", WorkerState::Failed),
            ("stopped", WorkerState::Stopped),
        ]
        .map(|(name, state)| {
            let holds = f64::from(worker.state == state);
            (vec![worker.name.clone(), name.to_owned()], Value::Gauge(holds))
        })
    });
    families.add(&catalogue::WORKER_STATE, states);
    let name = |worker: &downbeat_api::pool::Worker| vec![worker.name.clone()];
    families.each(&catalogue::WORKER_RESTARTS, workers, name, |worker| {
        Some(Value::Count(worker.restarts))
    });
    families
        .each(&catalogue::WORKER_FRAMES, workers, name, |worker| worker.frames.map(Value::Count));
    families
        .each(&catalogue::WORKER_MISSED, workers, name, |worker| worker.missed.map(Value::Count));
    let compute = workers.iter().flat_map(|worker| {
        let quantiles = [("0.5", worker.compute_p50_ns), ("0.99", worker.compute_p99_ns)];
        known_quantiles(std::slice::from_ref(&worker.name), quantiles)
    });
    families.add(&catalogue::WORKER_COMPUTE, compute);
}

pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
