use downbeat_policy::{PolicySet, Source};

use super::*;

fn host() -> HostFacts {
    HostFacts {
        kernel: "6.18".into(),
        arch: "x86_64".into(),
        cpus: vec![0, 1],
        topology: downbeat_api::Topology::default(),
        memory: Some(8 << 30),
        realtime: true,
        eevdf_slice: true,
        uclamp: false,
        deadline: true,
        cgroup2_controllers: vec!["cpu".into()],
        findings: Vec::new(),
    }
}

fn shared(body: &str, unit: Option<&str>) -> Shared {
    let text = format!("schema = 1\n[class.it]\ntier = \"background\"\n{body}\n");
    let source = Source { path: "test.toml".into(), text };
    let classes = PolicySet::parse(&[source]).unwrap().classes;
    let cgroup = Some("/system.slice/it.service".to_owned());
    let unit = unit.map(ToOwned::to_owned);
    let members = vec![Member { class: 0, cgroup, unit }];
    Shared { classes, active: BTreeSet::from([0]), members, ..Shared::default() }
}

fn planned(shared: &Shared, systemd: bool) -> Vec<PlannedChange> {
    let host = host();
    let machine = Machine { page_bytes: 4096, ..Machine::default() };
    let groups = Ok("/downbeat.slice".into());
    let place = Place { host: &host, machine: &machine, groups, systemd };
    plan(shared, &place, |_, _| Err(io::ErrorKind::NotFound.into())).changes
}

#[test]
fn a_unit_is_asked_for_where_systemd_runs_and_left_alone_elsewhere() {
    let shared = shared("cpu = { weight = 50 }", Some("it.service"));
    let [change] = &planned(&shared, true)[..] else { panic!() };
    assert_eq!(change.subject, PlanSubject::Unit { name: "it.service".into() });
    assert_eq!((change.wanted.as_str(), &change.step), ("50", &PlanStep::Set));
    let [change] = &planned(&shared, false)[..] else { panic!() };
    assert!(matches!(&change.step, PlanStep::LeaveAlone { reason } if reason.contains("adopt")));
}

#[test]
fn a_class_that_adopts_gets_a_group_of_downbeats_own() {
    let shared = shared("cpu = { weight = 50 }\nadopt = true", None);
    let changes = planned(&shared, false);
    let own = PlanSubject::Group { path: "/downbeat.slice/it".into() };
    assert!(changes.iter().any(|c| c.subject == own && c.step == PlanStep::Set), "{changes:?}");
}

#[test]
fn a_class_without_processes_asks_for_nothing() {
    let body = "wakeup_latency = \"20us\"\ncpu = { weight = 50 }";
    let nobody = (BTreeSet::new(), Vec::new());
    let shared = Shared { active: nobody.0, members: nobody.1, ..shared(body, None) };
    assert!(planned(&shared, true).is_empty());
}

#[test]
fn a_class_of_single_threads_asks_the_host_and_not_their_groups() {
    let body = "wakeup_latency = \"20us\"\ncpu = { weight = 50 }";
    let shared = Shared { members: Vec::new(), ..shared(body, Some("it.service")) };
    let told: Vec<_> = planned(&shared, true).into_iter().map(|c| c.subject).collect();
    assert_eq!(told, [PlanSubject::Host]);
}

/// A class that adopts, and what is known of its group.
fn adopting(held: Vec<HeldShared>) -> Vec<PlannedChange> {
    let shared = Shared { held, ..shared("cpu = { weight = 50 }\nadopt = true", None) };
    planned(&shared, false)
}

fn held(path: &str, lever: Lever, wanted: &str, state: HeldState) -> HeldShared {
    let held = Held { lever: lever.name().into(), wanted: Some(wanted.into()), state };
    HeldShared { subject: group(path), held }
}

#[test]
fn a_group_that_could_not_be_made_would_not_get_values() {
    let refused = HeldState::Refused { reason: "EROFS".into() };
    let told = adopting(vec![held("/downbeat.slice", Lever::Folder, "there", refused)]);
    assert!(!told.is_empty());
    let of_own = told.iter().filter(|c| c.subject != group("/"));
    for change in of_own {
        assert!(
            matches!(&change.step, PlanStep::LeaveAlone { reason } if reason.contains("EROFS")),
            "{change:?}"
        );
    }
}

#[test]
fn a_value_that_was_refused_would_not_be_tried_again() {
    let refused = HeldState::Refused { reason: "EINVAL".into() };
    let told = adopting(vec![held("/downbeat.slice/it", Lever::CpuWeight, "50", refused)]);
    let weight = told.iter().find(|c| c.lever == "cpu.weight").unwrap();
    // What the group has now cannot be read here, so nothing says that it agrees.
    assert_eq!(weight.step, PlanStep::LeaveAlone { reason: "refused: EINVAL".into() });
}

#[test]
fn a_controller_that_the_hierarchy_lacks_is_said_before() {
    let told = planned(&shared("memory = { high = \"1GiB\" }\nadopt = true", None), false);
    let high = told.iter().find(|c| c.lever == "memory.high").unwrap();
    assert!(
        matches!(&high.step, PlanStep::LeaveAlone { reason } if reason.contains("memory")),
        "{high:?}"
    );
}

#[test]
fn a_group_that_nobody_asks_for_any_more_would_go_back() {
    let ours = HeldState::Ours { old: "absent".into(), ours: "there".into() };
    let known = held("/downbeat.slice/old", Lever::Folder, "there", ours);
    let shared = Shared { held: vec![known], ..Shared::default() };
    let host = host();
    let machine = Machine::default();
    let place = Place { host: &host, machine: &machine, groups: Err("".into()), systemd: false };
    let told = plan(&shared, &place, |_, _| Ok(Value::Folder(true))).changes;
    let [change] = &told[..] else { panic!("{told:?}") };
    assert_eq!((change.wanted.as_str(), &change.step), ("absent", &PlanStep::PutBack));
}
