//! One table of stories, and what must hold for any.

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn culprit(kind: CulpritKind, name: &str, tenths: u64) -> Culprit {
    Culprit { kind, name: name.into(), ns: tenths * MS / 10 }
}

/// A job of 10 ms that came after 14.3 ms; its own work took 2 ms.
fn late() -> MissFacts {
    MissFacts {
        deadline_ns: 10 * MS,
        response_ns: 14_300_000,
        run_ns: 2 * MS,
        cost_ns: 2 * MS,
        ..MissFacts::default()
    }
}

fn waiting(culprits: Vec<Culprit>) -> MissFacts {
    MissFacts { wait_ns: sum(&culprits), culprits, ..late() }
}

#[test]
fn each_story_has_its_cause_and_is_told_in_one_sentence() {
    use CulpritKind as K;
    let stall = |stalls| MissFacts { stalls, ..late() };
    let cases: Vec<(MissFacts, CauseKind, &str)> = vec![
        (
            waiting(vec![culprit(K::Class, "batch", 11), culprit(K::Program, "ffmpeg", 30)]),
            CauseKind::RanBehind,
            "waited 4.1 ms of 14.3 ms behind ffmpeg (3.0 ms) and class batch (1.1 ms)",
        ),
        (
            waiting(vec![culprit(K::Program, "ffmpeg", 41)]),
            CauseKind::RanBehind,
            "waited 4.1 ms of 14.3 ms behind ffmpeg",
        ),
        (
            waiting(vec![
                culprit(K::Kernel, "kworker", 50),
                culprit(K::Workload, "", 30),
                culprit(K::Program, "a", 10),
                culprit(K::Others, "", 5),
            ]),
            CauseKind::RanBehind,
            "waited 9.5 ms of 14.3 ms behind kernel thread kworker (5.0 ms), its own process (3.0 \
             ms) and others (1.5 ms)",
        ),
        (
            MissFacts { wait_ns: 12 * MS, ..late() },
            CauseKind::RanBehind,
            "waited 12.0 ms of 14.3 ms behind someone unknown",
        ),
        (
            waiting(vec![
                culprit(K::SoftInterrupt, "NET_RX", 40),
                culprit(K::Timer, "", 10),
                culprit(K::Program, "ffmpeg", 30),
            ]),
            CauseKind::Interrupts,
            "interrupts had the CPU for 5.0 ms of 14.3 ms: NET_RX (4.0 ms) and the timer (1.0 ms)",
        ),
        (
            waiting(vec![culprit(K::Stolen, "", 60), culprit(K::Program, "ffmpeg", 30)]),
            CauseKind::Stolen,
            "the hypervisor ran something else for 6.0 ms of 14.3 ms",
        ),
        (
            MissFacts { run_ns: 14 * MS, cost_ns: 5 * MS, ..late() },
            CauseKind::Stolen,
            "the hypervisor ran something else for 9.0 ms of 14.3 ms",
        ),
        (
            MissFacts {
                throttled: Some(Throttled {
                    ns: 11 * MS,
                    window_ns: 14_300_000,
                    cgroup: "/a".into(),
                }),
                ..waiting(vec![culprit(K::Idle, "", 100), culprit(K::Program, "ffmpeg", 15)])
            },
            CauseKind::Throttled,
            "held back for 11.0 ms of 14.3 ms: the CPU quota of /a was used up",
        ),
        (
            stall(Stalls { fault_ns: 3 * MS, faults: 3, reclaim_ns: 2 * MS, ..Stalls::default() }),
            CauseKind::Memory,
            "spent 5.0 ms of 14.3 ms on memory: 3 major faults (3.0 ms) and reclaim (2.0 ms)",
        ),
        (
            stall(Stalls { fault_ns: 5 * MS, faults: 1, ..Stalls::default() }),
            CauseKind::Memory,
            "spent 5.0 ms of 14.3 ms on memory: 1 major fault (5.0 ms)",
        ),
        // What it reclaims is charged to it and is not its own work.
        (
            MissFacts {
                run_ns: 14 * MS,
                cost_ns: 14 * MS,
                ..stall(Stalls { reclaim_ns: 6 * MS, ..Stalls::default() })
            },
            CauseKind::Memory,
            "spent 6.0 ms of 14.3 ms on memory: reclaim (6.0 ms)",
        ),
        (
            stall(Stalls { io_ns: 8 * MS, sleep_ns: 2 * MS, ..Stalls::default() }),
            CauseKind::Disk,
            "waited 8.0 ms of 14.3 ms for a disk",
        ),
        (
            stall(Stalls { sleep_ns: 8 * MS, io_ns: 2 * MS, ..Stalls::default() }),
            CauseKind::Blocked,
            "slept 8.0 ms of 14.3 ms inside the job, for a lock or a helper of its own process",
        ),
        (
            MissFacts {
                gpu: Some(GpuState {
                    device: "GPU 0".into(),
                    slowed: Some("power cap".into()),
                    busy_with: Some("python3".into()),
                }),
                ..stall(Stalls { sleep_ns: 8 * MS, ..Stalls::default() })
            },
            CauseKind::Gpu,
            "slept 8.0 ms of 14.3 ms while GPU 0 ran slower (power cap) and also worked for \
             python3",
        ),
        (
            MissFacts { late_ns: 9 * MS, ..late() },
            CauseKind::ReleasedLate,
            "its timer expired 9.0 ms late",
        ),
        (
            MissFacts { behind_ns: 9 * MS, ..late() },
            CauseKind::JobBefore,
            "not free to start for 9.0 ms of 14.3 ms: the job before was under way",
        ),
        (
            waiting(vec![culprit(K::Idle, "", 90)]),
            CauseKind::ReleasedLate,
            "its CPU was idle and needed 9.0 ms to wake up",
        ),
        (
            MissFacts {
                late_ns: 9 * MS,
                steal: Some(Steal { ns: 20 * MS, window_ns: 1000 * MS }),
                ..late()
            },
            CauseKind::Stolen,
            "the hypervisor ran something else for 9.0 ms of 14.3 ms",
        ),
        (
            MissFacts { run_ns: 12 * MS, cost_ns: 12 * MS, ..late() },
            CauseKind::OwnCost,
            "its own work took 12.0 ms, and the deadline is 10.0 ms",
        ),
        (
            MissFacts { run_ns: 0, cost_ns: 0, ..late() },
            CauseKind::OwnCost,
            "nothing that was measured made it 4.3 ms late; its own work took 0 µs",
        ),
        (
            MissFacts::default(),
            CauseKind::OwnCost,
            "nothing that was measured made it 0 µs late; its own work took 0 µs",
        ),
    ];
    for (facts, kind, text) in &cases {
        let told = cause(facts);
        assert_eq!((told.kind, told.text.as_str()), (*kind, *text), "{facts:?}");
    }
    for kind in CauseKind::ALL {
        assert!(cases.iter().any(|case| case.1 == kind), "no story of {}", kind.name());
    }
}

#[test]
fn work_that_is_too_long_is_the_cause_unless_something_else_is_too_long_as_well() {
    let own = MissFacts { run_ns: 11 * MS, cost_ns: 11 * MS, response_ns: 25 * MS, ..late() };
    let behind = |tenths| {
        let culprits = vec![culprit(CulpritKind::Program, "ffmpeg", tenths)];
        cause(&MissFacts { wait_ns: sum(&culprits), culprits, ..own.clone() }).kind
    };
    assert_eq!(behind(99), CauseKind::OwnCost);
    assert_eq!(behind(105), CauseKind::OwnCost, "too long, but shorter than its own work");
    assert_eq!(behind(140), CauseKind::RanBehind);
}

#[test]
fn work_just_below_the_deadline_does_not_hide_who_took_the_rest() {
    let culprits = vec![culprit(CulpritKind::Program, "ffmpeg", 6)];
    let facts = MissFacts {
        response_ns: 10_100_000,
        run_ns: 9_500_000,
        cost_ns: 9_500_000,
        ..waiting(culprits)
    };
    assert_eq!(cause(&facts).text, "waited 600 µs of 10.1 ms behind ffmpeg");
}

#[test]
fn a_small_gap_between_run_and_charge_is_noise() {
    let gap = |run_ns, cost_ns| cause(&MissFacts { run_ns, cost_ns, ..late() }).kind;
    assert_eq!(gap(900_000, 851_000), CauseKind::OwnCost, "below 50 µs");
    assert_eq!(gap(9 * MS, 8_600_000), CauseKind::OwnCost, "below a twentieth");
    assert_eq!(gap(9 * MS, 8_400_000), CauseKind::Stolen);
}

#[test]
fn throttling_of_a_long_window_is_not_blamed_on_one_job_that_waited_for_others() {
    let facts = |throttled_ms| MissFacts {
        throttled: Some(Throttled {
            ns: throttled_ms * MS,
            window_ns: 1000 * MS,
            cgroup: "/a".into(),
        }),
        ..waiting(vec![culprit(CulpritKind::Program, "ffmpeg", 120)])
    };
    assert_eq!(cause(&facts(50)).kind, CauseKind::RanBehind);
    assert_eq!(cause(&facts(800)).kind, CauseKind::Throttled);
}

#[test]
fn evidence_names_figures_and_where_they_are_from() {
    let facts = MissFacts {
        start_ns: 4 * MS,
        late_ns: 80_000,
        steal: Some(Steal { ns: 10 * MS, window_ns: 1000 * MS }),
        throttled: Some(Throttled { ns: 2 * MS, window_ns: 1000 * MS, cgroup: "/a".into() }),
        memory_pressure: Some(0.1234),
        io_pressure: Some(0.0),
        gpu: Some(GpuState { device: "GPU 0".into(), ..GpuState::default() }),
        stalls: Stalls { io_ns: 1, fault_ns: 2, faults: 1, reclaim_ns: 3, sleep_ns: 4 },
        ..waiting(vec![culprit(CulpritKind::Class, "batch", 40)])
    };
    assert_eq!(
        cause(&facts).evidence,
        [
            "response 14.3 ms, deadline 10.0 ms, 4.3 ms late (release to completion, kernel \
             programs)",
            "late release 80 µs (timer's own expiry time)",
            "first on a CPU after 4.0 ms (sched_switch)",
            "ready and not running 4.0 ms (sched_switch): class batch 4.0 ms",
            "on a CPU 2.0 ms, charged 2.0 ms (sum_exec_runtime)",
            "waited 0 µs for a disk (block I/O wait)",
            "0 µs in major faults (1)",
            "reclaimed memory for 0 µs (direct reclaim)",
            "slept 0 µs inside the job (sched_switch)",
            "/a held back 2.0 ms in 1.00 s, 29 µs of it here (cpu.stat)",
            "hypervisor took 10.0 ms of 1.00 s (steal, /proc/stat)",
            "someone waited for memory 12.3 % of the time (PSI)",
        ]
    );
}

fn any_kind() -> impl Strategy<Value = CulpritKind> {
    use CulpritKind as K;
    prop::sample::select(vec![
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
    ])
}

/// Small and huge values alike.
fn any_ns() -> impl Strategy<Value = u64> {
    prop_oneof![0..20_000_000_u64, any::<u64>(), Just(0)]
}

prop_compose! {
    fn any_facts()(
        times in prop::array::uniform12(any_ns()),
        culprits in prop::collection::vec((any_kind(), "[a-z]{0,3}", any_ns()), 0..6),
        throttled in prop::option::of((any_ns(), any_ns())),
        steal in prop::option::of((any_ns(), any_ns())),
        gpu in prop::option::of((prop::option::of("[a-z]{1,3}"), prop::option::of("[a-z]{1,3}"))),
    ) -> MissFacts {
        let [deadline_ns, response_ns, start_ns, late_ns, wait_ns, run_ns, cost_ns, io_ns, fault_ns,
            faults, reclaim_ns, sleep_ns] = times;
        MissFacts {
            behind_ns: 0,
            deadline_ns, response_ns, start_ns, late_ns, wait_ns, run_ns, cost_ns,
            stalls: Stalls { io_ns, fault_ns, faults, reclaim_ns, sleep_ns },
            culprits: culprits.into_iter().map(|(kind, name, ns)| Culprit { kind, name, ns }).collect(),
            throttled: throttled.map(|(ns, window_ns)| Throttled { ns, window_ns, cgroup: "/".into() }),
            steal: steal.map(|(ns, window_ns)| Steal { ns, window_ns }),
            memory_pressure: None,
            io_pressure: None,
            gpu: gpu.map(|(slowed, busy_with)| GpuState { device: "GPU 0".into(), slowed, busy_with }),
        }
    }
}

proptest! {
    #[test]
    fn any_facts_have_one_cause_that_is_longer_than_nothing(facts in any_facts()) {
        let told = cause(&facts);
        prop_assert!(!told.text.is_empty() && !told.evidence.is_empty());
        let parts = Parts::of(&facts);
        let longest = parts.all().into_iter().map(|(_, ns)| ns).max().unwrap_or(0);
        if told.kind == CauseKind::OwnCost {
            prop_assert!(facts.own_ns() > facts.deadline_ns || longest == 0);
        } else {
            let chosen = parts.all().into_iter().find(|(kind, _)| *kind == told.kind);
            prop_assert_eq!(chosen.map(|(_, ns)| ns), Some(longest));
            prop_assert!(longest > 0);
        }
    }

    #[test]
    fn throttling_takes_no_more_than_was_waited(facts in any_facts()) {
        let with = Parts::of(&facts);
        let without = Parts::of(&MissFacts { throttled: None, steal: None, ..facts.clone() });
        prop_assert!(with.runners_ns <= without.runners_ns);
        let waited = without.runners_ns.saturating_add(without.late_cpu_ns);
        prop_assert!(with.throttled_ns <= waited);
    }
}
