//! Snapshots for the tests.

use downbeat_api::pool::{PoolStatus, Worker, WorkerState};
use downbeat_api::*;

use super::jobs;

/// A host on which everything is known.
pub(super) fn full() -> Snapshot {
    let wait = Wait {
        recent: WaitSummary::default(),
        total: WaitSummary { count: 10, sum_ns: 40_000_000, ..WaitSummary::default() },
        buckets: vec![(1_023, 2), (2_047, 5), (1_048_575, 8), (8_589_934_591, 9), (u64::MAX, 10)],
    };
    let class = |name: &str, wait, misses| Class {
        name: name.into(),
        modality: "audio".into(),
        tier: "realtime".into(),
        deadline_ns: Some(10_000_000),
        sched: "fifo 20".into(),
        processes: 1,
        threads: 3,
        cpu: 0.25,
        wait,
        misses,
        jobs: None,
        cpus: None,
        cgroups: None,
    };
    let process = |pid, class: Option<&str>, gpu_memory| Process {
        pid,
        ppid: 1,
        start_time: 1,
        name: "p".into(),
        command: "p".into(),
        user: "root".into(),
        class: class.map(Into::into),
        rule: None,
        threads: 1,
        managed: 1,
        state: 'S',
        cpu: 0.0,
        rss: 0,
        gpu_memory,
        sched: "other".into(),
        nice: 0,
        affinity: "0".into(),
        attention: false,
    };
    Snapshot {
        schema: SCHEMA,
        version: "0.1.0".into(),
        host: "host".into(),
        kernel: "6.12.9".into(),
        tick: 42,
        unix_time: 1_700_000_000.0,
        uptime: 10.5,
        interval: 0.25,
        mode: Mode::Engaged,
        source: Source::Bpf,
        notices: vec![Notice { severity: Severity::Warning, text: "t".into(), remedy: None }],
        cpus: vec![Cpu {
            id: 3,
            busy: 0.5,
            user: 0.5,
            system: 0.0,
            irq: 0.0,
            iowait: 0.0,
            steal: 0.125,
        }],
        load: [0.0; 3],
        memory: Memory::default(),
        pressure: Some(Pressure { cpu: 0.25, memory: 0.0, io: 0.5 }),
        host_load: host_load(),
        policy: PolicyState {
            read_at: 1_790_000_000.0,
            rules: 12,
            files: 2,
            accepted: 3,
            refused: 1,
            standing: Some(PolicyRefusal {
                at: 1_790_000_100.0,
                problems: vec![PolicyProblem::default(), PolicyProblem::default()],
                more: 0,
            }),
        },
        overrides: vec![Override::default()],
        classes: vec![
            Class {
                cpus: Some(vec![ClassCpu { cpu: 3, share: 0.25 }]),
                cgroups: Some(cgroups()),
                jobs: Some(jobs::fixture::class_jobs()),
                ..class("voice", Some(wait), Some(Misses { frames: 100, missed: 3 }))
            },
            Class { deadline_ns: None, ..class("batch", None, None) },
        ],
        jobs: vec![jobs::fixture::sleepless()],
        blame: jobs::fixture::blame(),
        misses: Vec::new(),
        causes: jobs::fixture::causes(),
        processes: vec![
            process(1, Some("voice"), Some(1 << 30)),
            process(2, Some("voice"), Some(1 << 20)),
            process(3, None, Some(5)),
            process(4, Some("batch"), None),
        ],
        gpu: GpuView {
            devices: vec![
                Gpu {
                    index: 0,
                    uuid: "GPU-1".into(),
                    name: "NVIDIA H200".into(),
                    utilization: Some(0.5),
                    memory_utilization: Some(0.25),
                    memory_used: Some(1 << 30),
                    memory_total: Some(1 << 31),
                    temperature: Some(41.0),
                    power: Some(71.5),
                    power_limit: Some(700.0),
                    slowed: vec!["power cap".into()],
                    processes: vec![GpuProcess { pid: 1, ..GpuProcess::default() }],
                },
                Gpu { index: 1, uuid: "GPU-2".into(), name: "old".into(), ..Gpu::default() },
            ],
            note: None,
        },
        pool: Some(PoolStatus {
            pid: Some(77),
            models: vec![],
            workers: vec![Worker {
                name: "denoise".into(),
                kind: "denoise".into(),
                state: WorkerState::Backoff,
                pid: None,
                restarts: 2,
                note: None,
                socket: None,
                frames: Some(1000),
                missed: Some(1),
                compute_p50_ns: Some(250_000),
                compute_p99_ns: None,
            }],
            ..PoolStatus::default()
        }),
        actions: Actions {
            levers: vec![LeverCount {
                lever: "sched".into(),
                applied: 4,
                failed: 1,
                restored: 2,
                handed_off: 3,
            }],
            journalled: 5,
            journal_failures: Some(1),
            exec_to_set: Some(WaitSummary {
                count: 4,
                sum_ns: 1,
                p50_ns: Some(2_000_000),
                p99_ns: Some(4_000_000),
                max_ns: Some(4_000_000),
            }),
            recent: Vec::new(),
        },
        cost: Cost {
            cpu_seconds: 0.75,
            cpu: Some(0.01),
            rss: 12 << 20,
            bpf: Some(BpfCost {
                programs: vec![BpfProgram {
                    name: "wait_switch".into(),
                    runs: 9,
                    run_seconds: 5e-7,
                    mean_ns: None,
                }],
                dropped_events: 1,
                dropped_threads: 2,
                discarded_samples: 3,
                dropped_jobs: 4,
                dropped_blame: 5,
                unseen_wakes: 0,
                dropped_children: 0,
                map_bytes: 4096,
            }),
        },
    }
}

fn host_load() -> HostLoad {
    let stall = |total_seconds| Stall { avg10: 0.25, share: Some(0.5), total_seconds };
    let stalls =
        |some, full: Option<f64>| ResourcePressure { some: stall(some), full: full.map(stall) };
    HostLoad {
        pressure: Some(HostPressure {
            cpu: stalls(7.5, None),
            memory: stalls(1.5, Some(0.5)),
            io: stalls(2.5, Some(1.25)),
        }),
        pressure_missing: None,
        cpu_times: vec![CpuTime {
            id: 3,
            user: 1.0,
            nice: 2.0,
            system: 3.0,
            idle: 4.0,
            iowait: 5.0,
            irq: 6.0,
            softirq: 7.0,
            steal: 8.0,
        }],
        interrupts: Some(Interrupts {
            seconds: 1.0,
            devices: Vec::new(),
            system: Vec::new(),
            soft: vec![SoftInterrupt { name: "NET_RX".into(), total: 11, ..Default::default() }],
            device_total: 12,
            system_total: 13,
        }),
    }
}

fn cgroups() -> ClassCgroups {
    let worst = |some, full| Some(WorstStall { some, full, path: "/a".into() });
    ClassCgroups {
        groups: 1,
        throttling: Some(Throttling {
            limited: 2,
            recent_ns: 5,
            total_ns: 1_500_000_000,
            periods: 40,
            throttled_periods: 4,
            worst: None,
        }),
        cpu: worst(0.5, Some(0.25)),
        memory: worst(0.125, None),
        ..ClassCgroups::default()
    }
}

/// A host on which next to nothing is known.
pub(super) fn bare() -> Snapshot {
    Snapshot {
        mode: Mode::ObserveOnly,
        source: Source::Procfs { reason: "no root".into() },
        notices: Vec::new(),
        cpus: Vec::new(),
        pressure: None,
        host_load: HostLoad::default(),
        policy: PolicyState::default(),
        overrides: Vec::new(),
        blame: Vec::new(),
        causes: Vec::new(),
        classes: Vec::new(),
        processes: Vec::new(),
        gpu: GpuView::default(),
        pool: None,
        actions: Actions::default(),
        cost: Cost::default(),
        ..full()
    }
}
