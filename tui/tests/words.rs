//! The commands that plan and change, as a person sees them.

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use downbeat_api::{
    Action, Known, Override, Plan, PlanStep, PlanSubject, PlannedChange, PolicyProblem,
    PolicyRefusal, PolicyState, Request, Response,
};
use support::agent::FakeAgent;
use support::host;

const TICK: Duration = Duration::from_millis(20);

fn downbeat(run_dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_downbeat"))
        .args(arguments)
        .arg("--run-dir")
        .arg(run_dir)
        .stdin(Stdio::null())
        .env_remove("NO_COLOR")
        .output()
        .unwrap()
}

/// Exit code and both outputs.
fn told(run_dir: &Path, arguments: &[&str]) -> (i32, String) {
    let output = downbeat(run_dir, arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout) + &text(output.stderr))
}

fn thread(tid: u32, name: &str) -> PlanSubject {
    PlanSubject::Thread { pid: 812, process: "whisper-server".into(), tid, name: name.into() }
}

fn change(
    subject: PlanSubject,
    lever: &str,
    now: &str,
    wanted: &str,
    step: PlanStep,
) -> PlannedChange {
    PlannedChange {
        subject,
        lever: lever.into(),
        now: Some(now.into()),
        wanted: wanted.into(),
        step,
        class: Some("voice".into()),
        because: Some("by rule speech to text, /etc/downbeat/policy.d/50-voice.toml:12".into()),
    }
}

fn plan() -> Plan {
    let own = "it is real-time by its own wish, which is never taken away".to_owned();
    let leave = PlanStep::LeaveAlone { reason: own };
    Plan {
        changes: vec![
            change(thread(812, "whisper-server"), "sched", "other", "fifo 20", PlanStep::Set),
            change(thread(813, "decode"), "sched", "other", "fifo 20", PlanStep::Set),
            change(thread(814, "pump"), "sched", "fifo 5", "fifo 20", leave),
            PlannedChange {
                subject: PlanSubject::Thread {
                    pid: 2001,
                    process: "ffmpeg".into(),
                    tid: 2001,
                    name: "ffmpeg".into(),
                },
                class: None,
                because: None,
                ..change(thread(0, ""), "sched", "idle", "other", PlanStep::PutBack)
            },
            change(PlanSubject::Host, "wakeup_latency", "none", "20 us", PlanStep::Set),
            change(
                PlanSubject::Group { path: "/system.slice/whisper.service".into() },
                "cpu.weight",
                "100",
                "800",
                PlanStep::Set,
            ),
        ],
        settled: 7,
        fallbacks: vec!["class camera asks for real time, which this host does not grant".into()],
        known: Known::default(),
    }
}

#[test]
fn a_plan_says_what_from_what_to_what_and_by_which_rule() {
    let run = tempfile::tempdir().unwrap();
    let agent = FakeAgent::start(run.path(), host::small(), TICK);
    agent.answer(&Request::Plan, Response::Plan(Box::new(plan())));
    let (code, told) = told(run.path(), &["plan"]);
    assert_eq!(code, 0, "{told}");
    insta::assert_snapshot!(told);
}

#[test]
fn a_plan_for_a_program_is_json() {
    let run = tempfile::tempdir().unwrap();
    let agent = FakeAgent::start(run.path(), host::small(), TICK);
    agent.answer(&Request::Plan, Response::Plan(Box::new(plan())));
    let (code, told) = told(run.path(), &["plan", "--json"]);
    assert_eq!(code, 0, "{told}");
    assert_eq!(serde_json::from_str::<Plan>(&told).unwrap(), plan());
}

#[test]
fn a_plan_for_a_bad_policy_is_its_problems() {
    let run = tempfile::tempdir().unwrap();
    let file = run.path().join("bad.toml");
    std::fs::write(&file, "schema = 1\nclas = 3\n").unwrap();
    let (code, told) = told(run.path(), &["plan", file.to_str().unwrap()]);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("bad.toml:2:1: ") && told.contains("1 problem"), "{told}");
}

#[test]
fn a_policy_that_is_refused_is_told_line_by_line() {
    let run = tempfile::tempdir().unwrap();
    let agent = FakeAgent::start(run.path(), host::small(), TICK);
    let problem = |line, message: &str| PolicyProblem {
        file: "/etc/downbeat/policy.d/50-voice.toml".into(),
        line: Some(line),
        column: Some(1),
        message: message.into(),
    };
    let problems = vec![problem(3, "unknown key `clas`\u{1b}[2J"), problem(9, "no such class")];
    agent.answer(&Request::Reload, Response::Refused { problems, more: 7 });
    let (code, told) = told(run.path(), &["reload"]);
    assert_eq!(code, 1, "{told}");
    insta::assert_snapshot!(told);
}

#[test]
fn set_and_release_ask_for_the_process_and_the_time_that_were_given() {
    let run = tempfile::tempdir().unwrap();
    let agent = FakeAgent::start(run.path(), host::small(), TICK);
    let done = |arguments: &[&str]| assert_eq!(told(run.path(), arguments).0, 0, "{arguments:?}");
    done(&["set", "ffmpeg", "--class", "voice", "--for", "1h 30m"]);
    done(&["set", "812", "--class", "batch"]);
    done(&["release", "ffmpeg"]);
    let set = |pid, class: &str, seconds| Request::Set { pid, class: class.into(), seconds };
    assert_eq!(
        agent.asked(),
        [set(2001, "voice", Some(5400)), set(812, "batch", None), Request::Release { pid: 2001 }]
    );
    for wrong in ["10", "0s", "1ms", "40d"] {
        let (code, told) = told(run.path(), &["set", "812", "--class", "voice", "--for", wrong]);
        assert_eq!(code, 2, "{wrong}: {told}");
    }
}

#[test]
fn what_changes_something_takes_whole_names_of_one_process_alone() {
    let run = tempfile::tempdir().unwrap();
    let agent = FakeAgent::start(run.path(), host::small(), TICK);
    agent.say(|snapshot| {
        let twin = |of: &downbeat_api::Process| downbeat_api::Process { pid: 2009, ..of.clone() };
        let ffmpeg = snapshot.processes.iter().find(|p| p.pid == 2001).map(twin);
        snapshot.processes.extend(ffmpeg);
    });
    let refused = |arguments: &[&str]| {
        let (code, told) = told(run.path(), arguments);
        assert_eq!(code, 1, "{told}");
        told
    };
    let told = refused(&["set", "ffmpeg", "--class", "voice"]);
    assert!(told.contains("2 processes are called \"ffmpeg\""), "{told}");
    assert!(told.contains("2001 ffmpeg, 2009 ffmpeg"), "{told}");
    let told = refused(&["release", "whisper-serv"]);
    assert!(told.contains("give its whole name, or its id"), "{told}");
    assert!(told.contains("812 whisper-server"), "{told}");
    assert_eq!(agent.asked(), [], "nothing was asked of the agent");
}

#[test]
fn status_tells_of_a_refused_policy_and_of_classes_by_hand() {
    let run = tempfile::tempdir().unwrap();
    let agent = FakeAgent::start(run.path(), host::small(), TICK);
    agent.say(|snapshot| {
        let now = snapshot.unix_time;
        snapshot.policy = PolicyState {
            read_at: now - 3600.0,
            rules: 12,
            files: 3,
            accepted: 1,
            refused: 1,
            standing: Some(PolicyRefusal {
                at: now - 60.0,
                problems: vec![PolicyProblem::default()],
                more: 0,
            }),
        };
        let by_hand = Override {
            pid: 2001,
            name: "ffmpeg".into(),
            class: "batch".into(),
            in_force: true,
            left: Some(540.0),
            ..Override::default()
        };
        let waits =
            Override { class: "gone".into(), in_force: false, left: None, ..by_hand.clone() };
        snapshot.overrides = vec![by_hand, waits];
    });
    let (code, told) = told(run.path(), &["status"]);
    assert_eq!(code, 0, "{told}");
    let shown: Vec<&str> =
        told.lines().filter(|line| line.contains("policy") || line.contains("hand")).collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn explain_tells_what_was_done_by_hand_and_since() {
    let run = tempfile::tempdir().unwrap();
    let agent = FakeAgent::start(run.path(), host::small(), TICK);
    let mut explanation = host::explanation(812);
    explanation.by_hand = Some(Override {
        pid: 812,
        class: "voice".into(),
        in_force: true,
        by_uid: 1000,
        left: Some(90.0),
        ..Override::default()
    });
    explanation.evidence = vec!["it maps libwhisper.so".into()];
    let action = |text: &str, failed| Action {
        unix_time: 0.0,
        pid: 812,
        name: "whisper-server".into(),
        class: "voice".into(),
        text: text.into(),
        failed,
    };
    explanation.actions =
        vec![action("sched other → fifo 20 (on 3 threads)", false), action("ioprio refused", true)];
    agent.answer(&Request::Explain { pid: 812 }, Response::Explain(Box::new(explanation)));
    let (code, told) = told(run.path(), &["explain", "812"]);
    assert_eq!(code, 0, "{told}");
    insta::assert_snapshot!(told);
}
