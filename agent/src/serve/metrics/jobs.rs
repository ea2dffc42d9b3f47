//! Jobs, misses and blame, as samples. Threads without a class have an empty label, which for
//! Prometheus is none.

use downbeat_api::{CauseCount, Class, ClassBlame, ClassJobs, CulpritKind, ThreadJobs};
use downbeat_openmetrics::{Definition, Families, Value};

use super::catalogue;
use super::collect::{histogram, seconds};

pub(super) fn add_jobs(families: &mut Families, classes: &[Class], threads: &[ThreadJobs]) {
    type Figure = fn(&ClassJobs) -> Value;
    let figures: [(&'static Definition, Figure); 4] = [
        (&catalogue::JOBS, |jobs| Value::Count(jobs.total.jobs)),
        (&catalogue::JOB_MISSES, |jobs| Value::Count(jobs.total.missed)),
        (&catalogue::JOB_LATE_STARTS, |jobs| Value::Count(jobs.total.late_starts)),
        (&catalogue::JOB_RESPONSE, |jobs| histogram(&jobs.response_buckets, &jobs.total.response)),
    ];
    let name = |class: &Class| vec![class.name.clone()];
    for (definition, figure) in figures {
        families.each(definition, classes, name, |class| class.jobs.as_ref().map(figure));
    }
    let sleepless = |class: &Class| {
        let of_class = threads.iter().filter(|jobs| jobs.class.as_ref() == Some(&class.name));
        let count = of_class.filter(|jobs| jobs.awake.is_some()).count();
        class.jobs.as_ref().map(|_| Value::Gauge(count as f64))
    };
    families.each(&catalogue::SLEEPLESS, classes, name, sleepless);
}

pub(super) fn add_causes(families: &mut Families, causes: &[CauseCount]) {
    let labels = |count: &CauseCount| {
        vec![count.class.clone().unwrap_or_default(), count.cause.name().to_owned()]
    };
    families
        .each(&catalogue::MISS_CAUSES, causes, labels, |count| Some(Value::Count(count.misses)));
}

pub(super) fn add_blame(families: &mut Families, blame: &[ClassBlame]) {
    let samples = blame.iter().flat_map(|ClassBlame { class, recent: _, total }| {
        total.iter().map(|culprit| {
            let class = class.clone().unwrap_or_default();
            let labels = vec![class, kind(culprit.kind).to_owned(), culprit.name.clone()];
            (labels, Value::Seconds(seconds(culprit.ns)))
        })
    });
    families.add(&catalogue::WAIT_BLAME, samples);
}

fn kind(kind: CulpritKind) -> &'static str {
    match kind {
        CulpritKind::Class => "class",
        CulpritKind::Program => "program",
        CulpritKind::Workload => "workload",
        CulpritKind::Kernel => "kernel",
        CulpritKind::HardInterrupt => "hard_interrupt",
        CulpritKind::SoftInterrupt => "soft_interrupt",
        CulpritKind::Timer => "timer",
        CulpritKind::Idle => "idle",
        CulpritKind::Stolen => "stolen",
        CulpritKind::Others => "others",
        CulpritKind::Unknown => "unknown",
    }
}

/// What the exposition's tests show of jobs.
#[cfg(test)]
pub(super) mod fixture {
    use downbeat_api::{
        CauseCount, CauseKind, ClassBlame, ClassJobs, Culprit, CulpritKind, JobSummary, ThreadJobs,
        WaitSummary,
    };

    pub(in super::super) fn class_jobs() -> ClassJobs {
        let response = WaitSummary { count: 9, sum_ns: 50_000_000, ..WaitSummary::default() };
        ClassJobs {
            recent: JobSummary::default(),
            total: JobSummary {
                jobs: 9,
                missed: 2,
                late_starts: 1,
                response,
                ..JobSummary::default()
            },
            response_buckets: vec![(1_048_575, 3), (16_777_215, 9), (u64::MAX, 9)],
        }
    }

    pub(in super::super) fn sleepless() -> ThreadJobs {
        ThreadJobs {
            tid: 1,
            pid: 1,
            thread: "audio".into(),
            process: "player".into(),
            class: Some("voice".into()),
            release: None,
            rhythm: None,
            deadline_ns: None,
            awake: Some(2.5),
            recent: JobSummary::default(),
            total: JobSummary::default(),
        }
    }

    pub(in super::super) fn blame() -> Vec<ClassBlame> {
        let behind = |kind, name: &str, ns| Culprit { kind, name: name.into(), ns };
        let total = vec![
            behind(CulpritKind::Program, "ffmpeg", 3_000_000_000),
            behind(CulpritKind::Kernel, "kworker", 250_000_000),
            behind(CulpritKind::Others, "", 1_000_000),
        ];
        let watched = vec![behind(CulpritKind::Class, "batch", 500_000_000)];
        vec![
            ClassBlame { class: Some("voice".into()), recent: Vec::new(), total },
            ClassBlame { class: None, recent: Vec::new(), total: watched },
        ]
    }

    pub(in super::super) fn causes() -> Vec<CauseCount> {
        let count = |class: Option<&str>, cause| CauseCount {
            class: class.map(Into::into),
            cause,
            misses: 2,
        };
        vec![count(None, CauseKind::Disk), count(Some("voice"), CauseKind::RanBehind)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_called_as_on_the_socket() {
        use CulpritKind as K;
        for one in [
            K::Class,
            K::Program,
            K::Workload,
            K::Kernel,
            K::HardInterrupt,
            K::SoftInterrupt,
            K::Timer,
            K::Idle,
            K::Stolen,
            K::Others,
            K::Unknown,
        ] {
            assert_eq!(serde_json::to_value(one).unwrap(), kind(one));
        }
    }
}
