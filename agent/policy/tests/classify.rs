//! Which class a thread gets; that asking allocates nothing; and what it costs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Instant;

use downbeat_policy::{ParentFacts, PolicySet, ProcessFacts, Source};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the allocations of each thread.
struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; the counter is a plain cell
// without a destructor, so it neither allocates nor is gone while its thread still runs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above; `memory` came from `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn parse(text: &str) -> PolicySet {
    PolicySet::parse(&[Source { path: "test.toml".into(), text: text.into() }])
        .expect("a good policy")
}

/// Name of the rule that a thread matches.
fn rule<'s>(set: &'s PolicySet, process: &ProcessFacts, thread: &str) -> Option<&'s str> {
    set.classify(process, thread).map(|found| set.rules[found.rule].name.as_str())
}

fn whisper() -> ProcessFacts {
    ProcessFacts {
        exe: Some("/usr/local/bin/whisper-server".into()),
        comm: "whisper-server".into(),
        cmdline: "whisper-server --port 8080".into(),
        uid: 1000,
        user: Some("ann".into()),
        cgroup: Some("/system.slice/whisper.service".into()),
        parent: Some(ParentFacts {
            exe: Some("/usr/lib/systemd/systemd".into()),
            comm: "systemd".into(),
        }),
        ..ProcessFacts::default()
    }
}

#[test]
fn the_highest_priority_wins_then_the_first() {
    let set = parse(
        r#"
        schema = 1
        [class.a]
        tier = "realtime"
        [[rule]]
        name = "first"
        class = "a"
        match = { exe = "whisper-server" }
        [[rule]]
        name = "second"
        class = "a"
        match = { exe = "whisper-server" }
        [[rule]]
        name = "urgent"
        class = "a"
        priority = 1
        match = { exe = "whisper-server", user = "root" }
        "#,
    );
    assert_eq!(rule(&set, &whisper(), "whisper-server"), Some("first"));
    let root = ProcessFacts { uid: 0, user: Some("root".into()), ..whisper() };
    assert_eq!(rule(&set, &root, "whisper-server"), Some("urgent"));
    assert!(!set.looks_at_threads_of(&whisper()));
}

#[test]
fn unless_takes_back_and_later_rules_are_tried() {
    let set = parse(
        r#"
        schema = 1
        [class.a]
        tier = "realtime"
        [[rule]]
        name = "people's"
        class = "a"
        match = { exe = "*/whisper-server" }
        unless = { any = [{ user = "ci" }, { cgroup = "/ci/*" }] }
        [[rule]]
        name = "everybody's"
        class = "a"
        match = { cmdline = "*--port*" }
        "#,
    );
    assert_eq!(rule(&set, &whisper(), ""), Some("people's"));
    let ci = ProcessFacts { user: Some("ci".into()), ..whisper() };
    assert_eq!(rule(&set, &ci, ""), Some("everybody's"));
    let job = ProcessFacts { cgroup: Some("/ci/7".into()), cmdline: String::new(), ..whisper() };
    assert_eq!(rule(&set, &job, ""), None);
}

#[test]
fn a_thread_is_matched_by_its_own_name() {
    let set = parse(
        r#"
        schema = 1
        [class.a]
        tier = "realtime"
        [[rule]]
        name = "decoder"
        class = "a"
        match = { exe = "whisper-server", any = [{ thread = "decode-?" }, { thread = "mel" }] }
        "#,
    );
    assert!(set.looks_at_threads_of(&whisper()));
    assert!(!set.looks_at_threads_of(&ProcessFacts::default()));
    assert_eq!(rule(&set, &whisper(), "decode-1"), Some("decoder"));
    assert_eq!(rule(&set, &whisper(), "mel"), Some("decoder"));
    assert_eq!(rule(&set, &whisper(), "whisper-server"), None);
    let other = ProcessFacts { exe: None, ..whisper() };
    assert_eq!(rule(&set, &other, "mel"), None);
}

#[test]
fn unless_may_look_at_threads_too() {
    let set = parse(
        r#"
        schema = 1
        [class.a]
        tier = "realtime"
        [[rule]]
        class = "a"
        match = { exe = "whisper-server" }
        unless = { thread = "log*" }
        "#,
    );
    assert!(set.looks_at_threads_of(&whisper()));
    assert!(!set.looks_at_threads_of(&ProcessFacts::default()));
    assert_eq!(rule(&set, &whisper(), "logger"), None);
    assert_eq!(rule(&set, &whisper(), "mel"), Some("rule 1"));
}

/// As many rules as a large host has, of all kinds, of which none matches.
fn many_rules(count: usize) -> PolicySet {
    let mut text = String::from("schema = 1\n[class.a]\ntier = \"background\"\n");
    for i in 0..count {
        let keys = match i % 5 {
            0 => format!("exe = \"*/program-{i}\""),
            1 => format!("comm = [\"prog-{i}\", \"*[0-9]x{i}\"]"),
            2 => format!("cmdline = \"* --job-{i} *\""),
            3 => format!("exe = \"whisper-*\", user = \"user-{i}\""),
            _ => format!("cgroup = \"/system.slice/unit-{i}.*\", parent = \"systemd\""),
        };
        text += &format!("[[rule]]\nclass = \"a\"\nmatch = {{ {keys} }}\n");
    }
    parse(&text)
}

#[test]
fn classify_allocates_nothing() {
    let (set, process) = (many_rules(200), whisper());
    let before = ALLOCATIONS.get();
    let found = set.classify(&process, "whisper-server");
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!(found, None);
}

/// `cargo test --release -p downbeat-policy --test classify -- --ignored --nocapture`
#[test]
#[ignore = "measures, so it wants a release build and a quiet machine"]
fn ten_thousand_processes_against_two_hundred_rules() {
    let set = many_rules(200);
    let processes: Vec<ProcessFacts> = (0..10_000)
        .map(|i| ProcessFacts {
            exe: Some(format!("/usr/lib/some/folder/server-{i}")),
            comm: format!("server-{i}"),
            cmdline: format!("/usr/lib/some/folder/server-{i} --port {i} --threads 4 --log info"),
            uid: i,
            ..whisper()
        })
        .collect();
    let mut times: Vec<_> = (0..11)
        .map(|_| {
            let start = Instant::now();
            let matched = processes.iter().filter(|p| set.classify(p, &p.comm).is_some()).count();
            assert_eq!(matched, 0);
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("fastest {:?}, median {:?}, slowest {:?}", times[0], times[5], times[10]);
    // The fastest: on a shared machine the others measure the neighbours as well.
    assert!(times[0].as_millis() <= 50, "{times:?}");
}
