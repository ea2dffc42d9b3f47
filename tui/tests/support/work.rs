//! Jobs, blame and misses of the hosts that do not exist.

use downbeat_api::{
    Cause, CauseCount, CauseKind, ClassBlame, ClassJobs, Culprit, CulpritKind, JobSummary, Miss,
    Release, Rhythm, Snapshot, Stalls, ThreadJobs, WaitSummary,
};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// Gives a host jobs, blame and misses.
pub fn fill(snapshot: &mut Snapshot) {
    snapshot.jobs = jobs();
    snapshot.blame = blame();
    snapshot.misses = misses();
    snapshot.causes = vec![
        causes("voice", CauseKind::RanBehind, 11),
        causes("voice", CauseKind::OwnCost, 1),
        causes("camera", CauseKind::RanBehind, 2),
        causes("camera", CauseKind::Disk, 1),
    ];
    // The camera's programs report no frames themselves: its jobs stand for them.
    for class in &mut snapshot.classes {
        if class.name == "camera" {
            class.misses = None;
        }
        if class.threads > 0 {
            let total = JobSummary { jobs: 910, missed: 3, ..JobSummary::default() };
            class.jobs = Some(ClassJobs { total, ..ClassJobs::default() });
        }
    }
}

fn times(count: u64, p50_ns: u64, p99_ns: u64) -> WaitSummary {
    WaitSummary {
        count,
        sum_ns: count * p50_ns,
        p50_ns: (count > 0).then_some(p50_ns),
        p99_ns: (count > 0).then_some(p99_ns),
        max_ns: (count > 0).then_some(p99_ns * 2),
    }
}

fn summary(jobs: u64, missed: u64, late_starts: u64, response: (u64, u64)) -> JobSummary {
    JobSummary {
        jobs,
        missed,
        late_starts,
        response: times(jobs, response.0, response.1),
        cost: times(jobs, response.0 / 2, response.1 / 4),
        interval: times(jobs, 10 * MS, 11 * MS),
    }
}

fn thread(pid: u32, tid: u32, process: &str, thread: &str, class: Option<&str>) -> ThreadJobs {
    ThreadJobs {
        tid,
        pid,
        thread: thread.into(),
        process: process.into(),
        class: class.map(Into::into),
        release: None,
        rhythm: None,
        deadline_ns: None,
        awake: None,
        recent: JobSummary::default(),
        total: JobSummary::default(),
    }
}

/// A thread of each kind.
pub fn jobs() -> Vec<ThreadJobs> {
    let periodic =
        |period_ns, jitter_ns| Some(Rhythm::Periodic { period_ns, jitter_ns, skipped: 0.02 });
    vec![
        ThreadJobs {
            release: Some(Release::Timer),
            rhythm: periodic(10 * MS, 42 * US),
            deadline_ns: Some(10 * MS),
            recent: summary(25, 1, 1, (2_200 * US, 14 * MS)),
            total: summary(120_000, 12, 11, (2_200 * US, 9 * MS)),
            ..thread(812, 812, "whisper-server", "whisper-server", Some("voice"))
        },
        ThreadJobs {
            release: Some(Release::Wake),
            rhythm: Some(Rhythm::Aperiodic { median_ns: 31 * MS }),
            deadline_ns: Some(10 * MS),
            recent: summary(8, 0, 0, (700 * US, 2 * MS)),
            total: summary(3_900, 0, 0, (700 * US, 4 * MS)),
            ..thread(812, 813, "whisper-server", "decode", Some("voice"))
        },
        ThreadJobs {
            release: Some(Release::Interrupt),
            rhythm: periodic(33_333_333, 900 * US),
            deadline_ns: Some(33 * MS),
            recent: summary(7, 0, 0, (8 * MS, 21 * MS)),
            total: summary(910, 3, 2, (8 * MS, 31 * MS)),
            ..thread(915, 915, "camera-feed", "v4l2-capture", Some("camera"))
        },
        // Between two jobs: nothing recent.
        ThreadJobs {
            release: Some(Release::Marked),
            rhythm: periodic(2_000 * MS, 3 * MS),
            total: summary(40, 0, 0, (300 * MS, 450 * MS)),
            ..thread(915, 916, "camera-feed", "keyframe", Some("camera"))
        },
        // Just begun.
        thread(4_194_303, 4_194_303, "音声認識", "音声", None),
    ]
}

/// A thread that nobody gave a class.
pub fn followed(pid: u32) -> ThreadJobs {
    ThreadJobs {
        release: Some(Release::Timer),
        rhythm: Some(Rhythm::Periodic {
            period_ns: 16_670_000,
            jitter_ns: 35 * US,
            skipped: 0.021,
        }),
        recent: summary(15, 0, 0, (2 * MS, 3 * MS)),
        total: summary(15, 0, 0, (2 * MS, 3 * MS)),
        ..thread(pid, pid, "sshd", "sshd", None)
    }
}

fn culprit(kind: CulpritKind, name: &str, ns: u64) -> Culprit {
    Culprit { kind, name: name.into(), ns }
}

/// A class with every kind of culprit, and one that waits no more.
pub fn blame() -> Vec<ClassBlame> {
    use CulpritKind as Kind;
    let total = vec![
        culprit(Kind::Program, "ffmpeg", 8_400 * MS),
        culprit(Kind::Class, "batch", 1_900 * MS),
        culprit(Kind::Kernel, "kworker/0:1-events", 420 * MS),
        culprit(Kind::Workload, "", 330 * MS),
        culprit(Kind::HardInterrupt, "nvme0q1", 120 * MS),
        culprit(Kind::SoftInterrupt, "net_rx", 90 * MS),
        culprit(Kind::Timer, "", 60 * MS),
        culprit(Kind::Idle, "", 55 * MS),
        culprit(Kind::Stolen, "", 40 * MS),
        culprit(Kind::Others, "", 12 * MS),
        culprit(Kind::Unknown, "", 2 * MS),
    ];
    let recent = vec![
        culprit(Kind::Program, "ffmpeg", 14 * MS),
        culprit(Kind::Class, "batch", 6_100 * US),
        culprit(Kind::SoftInterrupt, "net_rx", 1_400 * US),
        culprit(Kind::Stolen, "", 900 * US),
        culprit(Kind::Unknown, "", 20 * US),
    ];
    vec![
        ClassBlame { class: Some("voice".into()), recent, total },
        ClassBlame {
            class: Some("camera".into()),
            recent: Vec::new(),
            total: vec![culprit(Kind::Class, "voice", 310 * MS), culprit(Kind::Idle, "", 4 * MS)],
        },
    ]
}

fn causes(class: &str, cause: CauseKind, misses: u64) -> CauseCount {
    CauseCount { class: Some(class.into()), cause, misses }
}

/// One miss of 14 ms against a deadline of 10 ms, so many seconds ago.
pub fn miss(id: u64, ago: f64, kind: CauseKind, text: &str) -> Miss {
    Miss {
        id,
        unix_time: 1_790_000_000.0 - ago,
        tid: 813,
        pid: 812,
        thread: "decode".into(),
        process: "whisper-server".into(),
        class: Some("voice".into()),
        deadline_ns: 10 * MS,
        release_ns: 11_520_250_123_456,
        release: Release::Timer,
        response_ns: 14_200 * US,
        start_ns: 4_300 * US,
        late_ns: 180 * US,
        wait_ns: 5_100 * US,
        run_ns: 7_900 * US,
        cost_ns: 7_600 * US,
        stalls: Stalls {
            io_ns: 700 * US,
            fault_ns: 200 * US,
            faults: 3,
            reclaim_ns: 90 * US,
            sleep_ns: 120 * US,
        },
        culprits: vec![
            culprit(CulpritKind::Program, "ffmpeg", 4_100 * US),
            culprit(CulpritKind::SoftInterrupt, "net_rx", 600 * US),
            culprit(CulpritKind::Idle, "", 250 * US),
            culprit(CulpritKind::Stolen, "", 150 * US),
        ],
        cause: Cause {
            kind,
            text: text.into(),
            evidence: vec![
                "waited 5.1 ms; without it the job takes 9.1 ms".into(),
                "ffmpeg had its CPU for 4.1 ms (80 % of the wait)".into(),
            ],
        },
    }
}

/// The latest misses, newest last.
pub fn misses() -> Vec<Miss> {
    let behind = "waited 4.1 ms of 10 ms behind ffmpeg";
    let mut last = miss(14, 3.2, CauseKind::RanBehind, behind);
    last.cause.evidence.push("cgroup /system.slice/ffmpeg.service, nice 0".into());
    let mut long = miss(13, 75.0, CauseKind::OwnCost, "its own work takes 12 ms of 10 ms");
    long.release = Release::Interrupt;
    long.late_ns = 0;
    long.start_ns = 12 * US;
    long.wait_ns = 12 * US;
    long.run_ns = 14_188 * US;
    long.cost_ns = 14_188 * US;
    long.stalls = Stalls::default();
    long.culprits.clear();
    let mut disk = miss(12, 7_400.0, CauseKind::Disk, "waited 31 ms for a disk");
    disk.class = Some("camera".into());
    disk.process = "camera-feed".into();
    disk.thread = "v4l2-capture".into();
    disk.pid = 915;
    let mut watched = miss(11, 8_000.0, CauseKind::ReleasedLate, "its timer expired 4.4 ms late");
    watched.class = None;
    watched.thread = "whisper-server".into();
    vec![watched, disk, long, last]
}
