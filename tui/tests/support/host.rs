//! Literal snapshots.

use downbeat_api::pool::{Model, ModelState, PoolStatus, Worker, WorkerState};
use downbeat_api::{
    Action, Actions, BpfCost, BpfProgram, Class, Cost, Cpu, Explanation, Finding, Gpu, GpuProcess,
    GpuView, HostFacts, LeverCount, LeverState, Memory, Misses, Mode, Notice, PlanSubject,
    Pressure, Process, SCHEMA, Severity, SharedExplanation, Snapshot, Source, State,
    ThreadExplanation, Wait, WaitSummary,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A workstation on a good day: two CPUs, three classes, no GPU, no pool.
pub fn small() -> Snapshot {
    Snapshot {
        schema: SCHEMA,
        version: "0.1.0".into(),
        host: "studio".into(),
        kernel: "6.18.5".into(),
        tick: 46_080,
        unix_time: 1_790_000_000.0,
        uptime: 11_520.0,
        interval: 0.25,
        mode: Mode::Engaged,
        source: Source::Bpf,
        notices: Vec::new(),
        cpus: vec![cpu(0, 0.41, 0.13, 0.02, 0.04), cpu(1, 0.87, 0.06, 0.01, 0.0)],
        load: [2.31, 1.9, 1.42],
        memory: Memory {
            total: 8 * GIB,
            available: 5 * GIB + 300 * MIB,
            swap_total: 0,
            swap_free: 0,
        },
        pressure: Some(Pressure { cpu: 0.183, memory: 0.0, io: 0.012 }),
        host_load: downbeat_api::HostLoad::default(),
        policy: downbeat_api::PolicyState::default(),
        overrides: Vec::new(),
        jobs: Vec::new(),
        blame: Vec::new(),
        misses: Vec::new(),
        causes: Vec::new(),
        classes: vec![
            class("voice", "audio", "realtime", "fifo 20", (1, 3), 0.221, Some((3_000, 12))),
            class("camera", "video", "realtime", "fifo 10", (1, 2), 0.244, Some((910, 0))),
            class("assistant", "text", "interactive", "nice -5", (0, 0), 0.0, None),
            class("batch", "other", "background", "idle", (2, 9), 1.31, None),
        ],
        processes: vec![
            process(812, "whisper-server", Some("voice"), "fifo 20", 0.221, 3),
            process(915, "camera-feed", Some("camera"), "fifo 10", 0.244, 2),
            process(2_001, "ffmpeg", Some("batch"), "idle", 0.992, 8),
            process(2_044, "stress", Some("batch"), "idle", 0.322, 1),
            process(1, "init", None, "other", 0.0, 1),
            process(77, "sshd", None, "other", 0.001, 1),
            process(4_194_303, "bash", None, "other", 0.012, 1),
        ],
        gpu: GpuView {
            devices: Vec::new(),
            note: Some(
                "no GPU: the NVIDIA driver's library (libnvidia-ml.so.1) is not here".into(),
            ),
        },
        pool: None,
        actions: Actions {
            levers: ["sched", "affinity", "ioprio", "oom_score_adj"]
                .into_iter()
                .zip([(14, 0, 2, 1), (9, 0, 1, 0), (9, 3, 1, 0), (3, 0, 0, 0)])
                .map(|(lever, (applied, failed, restored, handed_off))| LeverCount {
                    lever: lever.into(),
                    applied,
                    failed,
                    restored,
                    handed_off,
                })
                .collect(),
            journalled: 31,
            journal_failures: Some(0),
            exec_to_set: Some(summary(12, 480_000, 3_900_000)),
            recent: vec![
                action(
                    3_700.0,
                    812,
                    "whisper-server",
                    "voice",
                    "sched other → fifo 20 on 3 threads",
                ),
                action(65.0, 2_001, "ffmpeg", "batch", "sched other → idle on 8 threads"),
                Action {
                    failed: true,
                    ..action(2.0, 2_044, "stress", "batch", "ioprio: EPERM, run the agent as root")
                },
            ],
        },
        cost: Cost {
            cpu_seconds: 91.0,
            cpu: Some(0.008),
            rss: 14 * MIB,
            bpf: Some(BpfCost {
                programs: vec![
                    program("sched_waking", 1_000_000, Some(50.0)),
                    program("sched_switch", 1_000_000, Some(60.0)),
                    program("exec", 12, None),
                ],
                dropped_events: 0,
                dropped_threads: 0,
                discarded_samples: 0,
                dropped_jobs: 0,
                dropped_blame: 0,
                unseen_wakes: 0,
                dropped_children: 0,
                map_bytes: MIB,
            }),
        },
    }
}

/// Everything that a host can have: many CPUs, GPUs, the pool, swap, notices, wide names, misses.
pub fn large() -> Snapshot {
    let mut snapshot = small();
    snapshot.host = "rack-7.example.net".into();
    snapshot.cpus = (0..64)
        .map(|id| {
            let busy = f64::from(id * 37 % 64) / 64.0;
            cpu(id, busy * 0.7, busy * 0.2, busy * 0.05, busy * 0.05)
        })
        .collect();
    snapshot.memory.swap_total = 4 * GIB;
    snapshot.memory.swap_free = 3 * GIB;
    snapshot.notices = vec![
        notice(Severity::Info, "rtkit is here too and may change priorities", None),
        notice(
            Severity::Error,
            "class voice: cpus names CPU 99, which is not online",
            Some("correct /etc/downbeat/policy.d/50-voice.toml:7"),
        ),
        notice(Severity::Warning, "3 events were lost", Some("raise the ring with --ring 1MiB")),
        notice(Severity::Info, "the learned deadline of camera is 33 ms", None),
    ];
    super::work::fill(&mut snapshot);
    snapshot.gpu = GpuView { devices: vec![gpu(0), gpu(1)], note: None };
    snapshot.processes[0].gpu_memory = Some(3 * GIB);
    snapshot.processes[0].attention = true;
    snapshot.processes[2].managed = 5;
    snapshot.processes[3].command = "/opt/音声認識/サーバー --モデル 大 --言語 日本語 🎧".into();
    snapshot.processes[3].name = "音声認識".into();
    snapshot.pool = Some(pool());
    if let Some(bpf) = &mut snapshot.cost.bpf {
        bpf.dropped_events = 3;
    }
    snapshot
}

/// No kernel programs: a scan per tick and no waits.
pub fn procfs_only() -> Snapshot {
    let mut snapshot = small();
    snapshot.source = Source::Procfs {
        reason: "kernel programs need root: start downbeatd as root or with CAP_BPF".into(),
    };
    snapshot.cost.bpf = None;
    snapshot.pressure = None;
    for class in &mut snapshot.classes {
        class.wait = None;
        class.misses = None;
    }
    snapshot
}

/// Many processes.
pub fn crowd(n: u32) -> Snapshot {
    let mut snapshot = small();
    snapshot.processes = (1..=n)
        .map(|pid| {
            let class = (pid % 7 == 0).then_some("batch");
            process(pid, &format!("worker-{pid}"), class, "other", f64::from(pid % 100) / 1e3, 1)
        })
        .collect();
    snapshot
}

/// The pool with a worker in each state.
pub fn pool() -> PoolStatus {
    let worker = |name: &str, kind: &str, state, pid| Worker {
        name: name.into(),
        kind: kind.into(),
        state,
        pid,
        restarts: 0,
        note: None,
        socket: None,
        frames: None,
        missed: None,
        compute_p50_ns: None,
        compute_p99_ns: None,
    };
    PoolStatus {
        pid: Some(700),
        note: None,
        rest: Some("127.0.0.1:8000".into()),
        grpc: Some("127.0.0.1:8001".into()),
        wyoming: Some("127.0.0.1:8602".into()),
        workers: vec![
            Worker {
                frames: Some(120_000),
                missed: Some(12),
                compute_p50_ns: Some(812_000),
                compute_p99_ns: Some(2_310_000),
                ..worker("denoise", "denoise", WorkerState::Ready, Some(731))
            },
            Worker {
                restarts: 5,
                note: Some("ended with status 1 five times in 60 s: model.bin not found".into()),
                ..worker("llama", "llama-server", WorkerState::Failed, None)
            },
            worker("whisper", "whisper-server", WorkerState::Starting, Some(740)),
            Worker {
                restarts: 2,
                note: Some("killed by signal 9, starts again in 4 s".into()),
                ..worker("camera", "ffmpeg", WorkerState::Backoff, None)
            },
            worker("tts", "espeak-ng", WorkerState::Stopped, None),
        ],
        models: vec![
            Model {
                state: ModelState::Ready,
                ready: 1,
                instances: 1,
                requests: 120_000,
                rate: 99.7,
                p50_ns: Some(911_000),
                p99_ns: Some(3_310_000),
                batch: Some(1.0),
                with_deadline: 1024,
                in_time: 1024,
                real_time_factor: Some(0.09),
                name: "denoise".into(),
                ..Model::default()
            },
            Model {
                state: ModelState::Ready,
                ready: 2,
                instances: 3,
                queued: 12,
                running: 2,
                requests: 4_820_113,
                not_answered: 911,
                rate: 812.4,
                p50_ns: Some(11_400_000),
                p99_ns: Some(32_900_000),
                batch: Some(5.6),
                with_deadline: 1000,
                in_time: 968,
                name: "glyphs".into(),
                ..Model::default()
            },
            Model {
                state: ModelState::Unavailable,
                instances: 1,
                name: "llama".into(),
                ..Model::default()
            },
            Model {
                state: ModelState::Drained,
                ready: 1,
                instances: 1,
                running: 1,
                name: "whisper".into(),
                ..Model::default()
            },
            Model {
                state: ModelState::Loading,
                note: Some("its worker is starting".into()),
                name: "intent".into(),
                ..Model::default()
            },
        ],
    }
}

/// Why 812 is as it is.
pub fn explanation(pid: u32) -> Explanation {
    let lever = |lever: &str, old: &str, wanted: &str, outcome: &str| LeverState {
        lever: lever.into(),
        old: Some(old.into()),
        wanted: wanted.into(),
        instead: None,
        outcome: outcome.into(),
    };
    let thread = |tid, name: &str| ThreadExplanation {
        tid,
        name: name.into(),
        class: Some("voice".into()),
        rule: Some("speech to text, /etc/downbeat/policy.d/50-voice.toml:12".into()),
        because: Some("by rule speech to text, /etc/downbeat/policy.d/50-voice.toml:12".into()),
        levers: vec![
            LeverState {
                instead: Some("fifo 20".into()),
                ..lever(
                    "sched",
                    "other",
                    "deadline 2831/20000 us",
                    "set in place of deadline 2831/20000 us, which was refused",
                )
            },
            lever("affinity", "0-7", "0-3", "left alone: someone else set 2-3 since"),
            lever(
                "ioprio",
                "none",
                "realtime 2",
                "failed: ioprio_set: EPERM. Run the agent as root",
            ),
        ],
    };
    Explanation {
        pid,
        name: "whisper-server".into(),
        exe: Some("/usr/bin/whisper-server".into()),
        mode: Mode::Engaged,
        kept_out: None,
        by_hand: None,
        evidence: Vec::new(),
        actions: Vec::new(),
        jobs: Vec::new(),
        latest_miss: None,
        threads: vec![
            thread(pid, "whisper-server"),
            thread(pid + 1, "decode"),
            thread(pid + 2, "decode"),
            ThreadExplanation {
                tid: pid + 3,
                name: "log".into(),
                class: None,
                rule: None,
                because: None,
                levers: Vec::new(),
            },
        ],
        shared: vec![SharedExplanation {
            subject: PlanSubject::Unit { name: "whisper.service".into() },
            levers: vec![lever("cpu.weight", "100", "800", "set")],
        }],
    }
}

/// What the host offers.
pub fn facts() -> HostFacts {
    HostFacts {
        kernel: "6.18.5".into(),
        arch: "x86_64".into(),
        cpus: vec![0, 1],
        topology: downbeat_api::Topology::default(),
        memory: Some(8 << 30),
        realtime: true,
        eevdf_slice: true,
        uclamp: false,
        deadline: true,
        cgroup2_controllers: Vec::new(),
        findings: vec![Finding {
            id: "uclamp".into(),
            state: State::Absent,
            text: "the kernel has no utilisation clamps".into(),
            remedy: Some("a kernel with CONFIG_UCLAMP_TASK".into()),
        }],
    }
}

pub fn notice(severity: Severity, text: &str, remedy: Option<&str>) -> Notice {
    Notice { severity, text: text.into(), remedy: remedy.map(Into::into) }
}

fn cpu(id: u32, user: f64, system: f64, irq: f64, steal: f64) -> Cpu {
    Cpu { id, busy: user + system + irq, user, system, irq, iowait: 0.0, steal }
}

fn summary(count: u64, p50: u64, p99: u64) -> WaitSummary {
    WaitSummary {
        count,
        sum_ns: count * p50,
        p50_ns: Some(p50),
        p99_ns: Some(p99),
        max_ns: Some(p99 * 2),
    }
}

fn class(
    name: &str,
    modality: &str,
    tier: &str,
    sched: &str,
    (processes, threads): (u32, u32),
    cpu: f64,
    misses: Option<(u64, u64)>,
) -> Class {
    let recent = if threads == 0 { WaitSummary::default() } else { summary(500, 9_216, 1_310_720) };
    Class {
        name: name.into(),
        modality: modality.into(),
        tier: tier.into(),
        deadline_ns: misses.map(|_| 10_000_000),
        sched: sched.into(),
        processes,
        threads,
        cpu,
        wait: Some(Wait { recent, total: recent, buckets: vec![(u64::MAX, recent.count)] }),
        misses: misses.map(|(frames, missed)| Misses { frames, missed }),
        jobs: None,
        cpus: None,
        cgroups: None,
    }
}

fn process(
    pid: u32,
    name: &str,
    class: Option<&str>,
    sched: &str,
    cpu: f64,
    threads: u32,
) -> Process {
    Process {
        pid,
        ppid: 1,
        start_time: 1_000 + u64::from(pid),
        name: name.into(),
        command: format!("/usr/bin/{name} --config /etc/{name}.conf"),
        user: if class.is_some() { "media".into() } else { "root".into() },
        class: class.map(Into::into),
        rule: class.map(|c| format!("{c} programs")),
        threads,
        managed: if class.is_some() { threads } else { 0 },
        state: if cpu > 0.3 { 'R' } else { 'S' },
        cpu,
        rss: u64::from(threads) * 37 * MIB,
        gpu_memory: None,
        sched: sched.into(),
        nice: if sched == "other" { 0 } else { -5 },
        affinity: "0-1".into(),
        attention: false,
    }
}

fn action(ago: f64, pid: u32, name: &str, class: &str, text: &str) -> Action {
    Action {
        unix_time: 1_790_000_000.0 - ago,
        pid,
        name: name.into(),
        class: class.into(),
        text: text.into(),
        failed: false,
    }
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn program(name: &str, runs: u64, mean_ns: Option<f64>) -> BpfProgram {
    let run_seconds = mean_ns.unwrap_or(0.0) * runs as f64 / 1e9;
    BpfProgram { name: name.into(), runs, run_seconds, mean_ns }
}

fn gpu(index: u32) -> Gpu {
    let busy = index == 0;
    Gpu {
        index,
        uuid: format!("GPU-8f2b6c1e-0000-0000-0000-00000000000{index}"),
        name: "NVIDIA H200".into(),
        utilization: Some(if busy { 0.63 } else { 0.0 }),
        memory_utilization: busy.then_some(0.21),
        memory_used: Some(if busy { 31 * GIB } else { 0 }),
        memory_total: Some(139 * GIB),
        temperature: Some(if busy { 61.0 } else { 34.0 }),
        power: Some(if busy { 412.4 } else { 76.0 }),
        power_limit: Some(700.0),
        slowed: if busy { vec!["power cap".into()] } else { Vec::new() },
        processes: if busy {
            vec![
                GpuProcess { pid: 812, memory: Some(3 * GIB), utilization: Some(0.6) },
                GpuProcess { pid: 99_999, ..GpuProcess::default() },
            ]
        } else {
            Vec::new()
        },
    }
}
