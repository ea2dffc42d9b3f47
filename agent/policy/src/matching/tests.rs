use proptest::prelude::*;

use super::*;
use crate::ParentFacts;

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|t| Pattern::new(t).expect(t)).collect()
}

fn process() -> ProcessFacts {
    ProcessFacts {
        exe: Some("/opt/whisper/bin/whisper-server".into()),
        comm: "whisper-server".into(),
        cmdline: "whisper-server -m tiny.bin".into(),
        uid: 1000,
        user: Some("ann".into()),
        cgroup: Some("/system.slice/whisper.service".into()),
        parent: Some(ParentFacts { exe: Some("/usr/bin/bash".into()), comm: "build.sh".into() }),
        ..ProcessFacts::default()
    }
}

fn holds_for(matcher: &Matcher, process: &ProcessFacts) -> bool {
    matcher.holds(&Subject::new(process, "decoder"))
}

#[test]
fn exe_without_a_slash_is_its_last_part() {
    for (pattern, expected) in [
        ("whisper-server", true),
        ("whisper-*", true),
        ("*/whisper-server", true),
        ("/opt/*", true),
        ("bin", false),
        ("*/bin", false),
        ("/whisper-server", false),
    ] {
        let matcher = Matcher { exe: patterns(&[pattern]), ..Matcher::default() };
        assert_eq!(holds_for(&matcher, &process()), expected, "{pattern}");
    }
}

#[test]
fn the_agent_is_for_no_rule_and_a_kernel_thread_for_those_that_name_it() {
    let rule = |matcher: &str| {
        let text = format!(
            "schema = 1\n[class.c]\ntier = \"background\"\n[[rule]]\nclass = \"c\"\n\
             match = {{ {matcher} }}\n"
        );
        PolicySet::parse(&[crate::Source { path: "test.toml".into(), text }]).expect(matcher)
    };
    let of_kind = |kind| ProcessFacts { kind, ..process() };
    for (matcher, ordinary, kernel) in [
        ("user = 'ann'", true, false),
        ("thread = 'whisper-*'", true, false),
        ("user = 'ann', comm = 'whisper-*'", true, true),
        ("any = [{ user = 'ann' }, { comm = 'other' }]", true, false),
    ] {
        let set = rule(matcher);
        let matches = |kind| set.classify(&of_kind(kind), "whisper-server").is_some();
        assert_eq!(matches(ProcessKind::Ordinary), ordinary, "{matcher}");
        assert_eq!(matches(ProcessKind::Kernel), kernel, "{matcher}");
        assert!(!matches(ProcessKind::KeptOut), "{matcher}");
    }
    let looks = |kind| rule("thread = 'x'").looks_at_threads_of(&of_kind(kind));
    assert!(looks(ProcessKind::Ordinary));
    assert!(!looks(ProcessKind::Kernel) && !looks(ProcessKind::KeptOut));
}

#[test]
fn user_is_a_name_or_a_number() {
    for (pattern, expected) in [("ann", true), ("1000", true), ("100", false), ("root", false)] {
        let matcher = Matcher { user: patterns(&[pattern]), ..Matcher::default() };
        assert_eq!(holds_for(&matcher, &process()), expected, "{pattern}");
    }
}

#[test]
fn parent_is_an_executable_or_a_name() {
    for (pattern, expected) in [
        ("bash", true),
        ("build.sh", true),
        ("/usr/bin/bash", true),
        ("*/build.sh", false),
        ("sh", false),
    ] {
        let matcher = Matcher { parent: patterns(&[pattern]), ..Matcher::default() };
        assert_eq!(holds_for(&matcher, &process()), expected, "{pattern}");
    }
}

#[test]
fn every_key_must_hold_by_one_of_its_patterns() {
    let matcher = Matcher {
        comm: patterns(&["piper", "whisper-server"]),
        cmdline: patterns(&["* -m *"]),
        cgroup: patterns(&["/system.slice/*"]),
        thread: patterns(&["dec*"]),
        ..Matcher::default()
    };
    assert!(holds_for(&matcher, &process()));
    let other = Matcher { cgroup: patterns(&["/user.slice/*"]), ..matcher };
    assert!(!holds_for(&other, &process()));
}

#[test]
fn what_could_not_be_read_matches_nothing() {
    let nothing = ProcessFacts::default();
    let star = || patterns(&["*"]);
    for matcher in [
        Matcher { exe: star(), ..Matcher::default() },
        Matcher { comm: star(), ..Matcher::default() },
        Matcher { cmdline: star(), ..Matcher::default() },
        Matcher { cgroup: star(), ..Matcher::default() },
        Matcher { parent: star(), ..Matcher::default() },
    ] {
        assert!(!holds_for(&matcher, &nothing), "{matcher:?}");
    }
}

#[test]
fn uids_are_written_out() {
    for uid in [0, 7, 10, 1000, 65_534, u32::MAX] {
        assert_eq!(Decimal::new(uid).as_str(), uid.to_string());
    }
}

fn container() -> ProcessFacts {
    ProcessFacts {
        gid: Some(29),
        group: Some("audio".into()),
        unit: Some("whisper.service".into()),
        container: Some(crate::ContainerFacts {
            engine: "containerd".into(),
            id: "4f2a".repeat(16),
            name: Some("speech".into()),
            image: Some("registry:5000/team/whisper.cpp:1.7@sha256:00".into()),
            pod: Some("whisper-0".into()),
            namespace: Some("voices".into()),
            labels: vec![("app".into(), "whisper".into()), ("empty".into(), String::new())],
        }),
        ancestors: vec![
            ParentFacts { exe: Some("/usr/bin/make".into()), comm: "make".into() },
            ParentFacts { exe: None, comm: "session-leader".into() },
        ],
        env: vec![("MODE".into(), "production".into())],
        uses: crate::Uses { gpu: true, ..crate::Uses::default() },
        maps: vec!["libonnxruntime.so.1.17.0".into(), "libc.so.6".into()],
        ..process()
    }
}

/// What one key with one pattern says of [`container`].
fn says(key: &str, pattern: &str) -> bool {
    let text = format!(
        "schema = 1\n[class.c]\ntier = \"realtime\"\n[[rule]]\nclass = \"c\"\n\
         match = {{ {key} = '{pattern}' }}\n"
    );
    let source = crate::Source { path: "test.toml".into(), text };
    let set = PolicySet::parse(&[source]).unwrap_or_else(|e| panic!("{key} {pattern}: {e:#?}"));
    let of_nothing = set.classify(&ProcessFacts::default(), "");
    assert_eq!(of_nothing, None, "{key} {pattern} holds for what could not be read");
    set.classify(&container(), "decoder").is_some()
}

#[test]
fn every_key_says_what_it_is_documented_to_say() {
    for (key, pattern, expected) in [
        ("group", "audio", true),
        ("group", "29", true),
        ("group", "2", false),
        ("unit", "whisper", true),
        ("unit", "whisper.service", true),
        ("unit", "whisper.*", true),
        ("unit", "whisp", false),
        ("unit", "whisper.scope", false),
        ("container", "speech", true),
        ("container", "4f2a*", true),
        ("container", "containerd", false),
        ("image", "whisper.cpp", true),
        ("image", "whisper.cpp:1.*", true),
        ("image", "registry:5000/team/whisper.cpp", true),
        ("image", "*/team/*", true),
        ("image", "team", false),
        ("image", "registry", false),
        ("pod", "whisper-?", true),
        ("pod", "voices/whisper-*", true),
        ("pod", "other/*", false),
        ("pod", "voices", false),
        ("label", "app", true),
        ("label", "app=whisper", true),
        ("label", "app=piper", false),
        ("label", "empty", true),
        ("label", "whisper", false),
        ("parent", "make", false),
        ("ancestor", "make", true),
        ("ancestor", "bash", true),
        ("ancestor", "/usr/bin/*", true),
        ("ancestor", "session-leader", true),
        ("ancestor", "*/session-leader", false),
        ("env", "MODE", true),
        ("env", "MODE=prod*", true),
        ("env", "MODE=test", false),
        ("env", "HOME", false),
        ("uses", "gpu", true),
        ("uses", "camera", false),
        ("maps", "libonnxruntime", true),
        ("maps", "libonnxruntime.so.1*", true),
        ("maps", "libc.so", false),
        ("maps", "onnxruntime", false),
    ] {
        assert_eq!(says(key, pattern), expected, "{key} = {pattern}");
    }
}

#[test]
fn an_image_without_its_tag() {
    for (image, expected) in [
        ("whisper:1", "whisper"),
        ("host:5000/whisper", "host:5000/whisper"),
        ("host:5000/whisper:1", "host:5000/whisper"),
        ("whisper@sha256:00", "whisper"),
        ("whisper", "whisper"),
    ] {
        assert_eq!(untagged(image), expected);
    }
}

/// Patterns of every kind over a small alphabet of names, so that many of them fit.
fn pattern_text() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "a", "b", "ab", "/bin/a", "/bin/ab", "*/a", "*/bin/b", "a*", "*b", "?", "/*", "[ab]", "*",
        "\\a", "*/bin/*", "/opt/?b",
    ])
    .prop_map(str::to_owned)
}

fn rule_text() -> impl Strategy<Value = String> {
    let keys = prop::sample::subsequence(
        vec!["exe", "comm", "cmdline", "cgroup", "unit", "thread", "user"],
        1..4,
    );
    let lists = prop::collection::vec(prop::collection::vec(pattern_text(), 1..3), 4);
    (keys, lists, any::<bool>()).prop_map(|(keys, lists, any)| {
        let table = |keys: &[&str]| {
            let keys = keys.iter().zip(&lists).map(|(key, list)| {
                let path = *key == "cgroup";
                let list = list.iter().filter(|text| !path || text.starts_with(['/', '*', '[']));
                let mut list: Vec<String> = list.map(|text| format!("'{text}'")).collect();
                list.push("'/*/never'".to_owned());
                if *key == "unit" {
                    list = vec!["'a'".to_owned(), "'*.service'".to_owned()];
                }
                format!("{key} = [{}]", list.join(", "))
            });
            format!("{{ {} }}", keys.collect::<Vec<_>>().join(", "))
        };
        let table = match keys.as_slice() {
            [first, rest @ ..] if any && !rest.is_empty() => {
                format!("{{ any = [{}, {}] }}", table(&[first]), table(rest))
            }
            keys => table(keys),
        };
        format!("[[rule]]\nclass = \"c\"\nmatch = {table}\n")
    })
}

fn facts() -> impl Strategy<Value = ProcessFacts> {
    let exe = prop::sample::select(vec!["/bin/a", "/bin/b", "/opt/ab", "/opt/bin/b", "/x/c", ""]);
    let name = prop::sample::select(vec!["a", "b", "ab", "c", ""]);
    let unit = prop::sample::select(vec!["a.service", "b.scope", ""]);
    (exe, name, unit).prop_map(|(exe, name, unit)| ProcessFacts {
        exe: (!exe.is_empty()).then(|| exe.to_owned()),
        comm: name.to_owned(),
        cmdline: format!("{name} -x"),
        cgroup: Some(format!("/bin/{name}")),
        unit: Some(unit.to_owned()),
        ..ProcessFacts::default()
    })
}

proptest! {
    #[test]
    fn the_index_leaves_out_only_rules_that_do_not_hold(
        rules in prop::collection::vec(rule_text(), 1..8),
        processes in prop::collection::vec((facts(), "[abc]"), 1..20),
    ) {
        let text = format!("schema = 1\n[class.c]\ntier = \"realtime\"\n{}", rules.concat());
        let source = crate::Source { path: "test.toml".into(), text: text.clone() };
        let set = PolicySet::parse(&[source]).unwrap_or_else(|e| panic!("{text}\n{e:#?}"));
        for (process, thread) in processes {
            let subject = Subject::new(&process, &thread);
            let first = set.rules.iter().position(|rule| rule.holds(&subject));
            let found = set.classify(&process, &thread).map(|found| found.rule);
            prop_assert_eq!(found, first, "{} {:?}", text, process);
            let looks = set.rules.iter().any(|rule| rule.looks_at_threads_of(&subject));
            prop_assert_eq!(set.looks_at_threads_of(&process), looks);
        }
    }
}
