//! What holds for whatever stands in a policy file.

use downbeat_policy::{ContainerFacts, ParentFacts, PolicySet, ProcessFacts, Source, Uses};

/// Parses the texts as the files of one set, and checks what holds for every outcome.
///
/// # Panics
/// Where it does not hold.
pub fn check(texts: &[String]) {
    let sources: Vec<Source> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| Source { path: format!("{i:04}.toml").into(), text: text.clone() })
        .collect();
    match PolicySet::parse(&sources) {
        Ok(set) => check_set(&set),
        Err(problems) => {
            assert!(!problems.is_empty());
            let places = problems.iter().map(|p| (&p.path, p.line, p.column));
            assert!(places.is_sorted());
            for problem in &problems {
                let source = sources.iter().find(|s| s.path == problem.path);
                let text = &source.expect("a file of the set").text;
                let line = text.split('\n').nth(problem.line - 1);
                let characters = line.expect("a line of the file").chars().count();
                assert!((1..=characters + 1).contains(&problem.column), "{problem}");
                assert!(!problem.message.chars().any(char::is_control), "{problem:?}");
            }
        }
    }
}

fn check_set(set: &PolicySet) {
    for rule in &set.rules {
        assert!(rule.class < set.classes.len());
        assert!(!rule.matchers.is_empty());
        let mut tables = rule.matchers.iter().chain(&rule.unless);
        assert!(tables.all(|m| !m.is_empty()), "{rule:?}");
    }
    assert!(set.auto.classes.iter().all(|(_, class)| *class < set.classes.len()));
    assert!(!set.auto.enabled || !set.auto.classes.is_empty());
    for class in &set.classes {
        assert!(!class.partition || class.cpus.is_some(), "{class:?}");
        if let Some(cpus) = &class.cpus {
            let chosen = cpus.resolve(&[0, 1, 2, 3], |_| Some(vec![1, 9]));
            assert!(chosen.cpus.iter().all(|cpu| *cpu < 4), "{cpus}");
            assert_eq!(cpus.to_string().parse().as_ref(), Ok(cpus));
        }
    }
    let _ = set.needs();
    assert_eq!(set.classify(&ProcessFacts::default(), ""), found_in_nothing(set));
    let process = process();
    if let Some(found) = set.classify(&process, "data-loop.0") {
        assert_eq!(set.rules[found.rule].class, found.class);
    }
    let _ = set.looks_at_threads_of(&process);
}

/// Of a process of which nothing could be read only its user's number is known.
fn found_in_nothing(set: &PolicySet) -> Option<downbeat_policy::Classified> {
    let only_user = |m: &downbeat_policy::Matcher| {
        let rest = downbeat_policy::Matcher { user: Vec::new(), ..m.clone() };
        rest.is_empty() && m.user.iter().any(|pattern| pattern.matches("0"))
    };
    let holds = |rule: &downbeat_policy::Rule| {
        rule.matchers.iter().any(only_user) && !rule.unless.iter().any(only_user)
    };
    let rule = set.rules.iter().position(holds)?;
    Some(downbeat_policy::Classified { class: set.rules[rule].class, rule })
}

fn process() -> ProcessFacts {
    ProcessFacts {
        exe: Some("/usr/bin/pipewire".into()),
        comm: "pipewire".into(),
        cmdline: "/usr/bin/pipewire -c x".into(),
        uid: 1000,
        user: Some("ann".into()),
        gid: Some(29),
        group: Some("audio".into()),
        cgroup: Some("/user.slice/pipewire.service".into()),
        unit: Some("pipewire.service".into()),
        container: Some(ContainerFacts {
            id: "00".repeat(32),
            image: Some("docker.io/library/whisper:1".into()),
            pod: Some("speech-0".into()),
            namespace: Some("default".into()),
            labels: vec![("app".into(), "whisper".into())],
            ..ContainerFacts::default()
        }),
        parent: Some(ParentFacts { exe: None, comm: "systemd".into() }),
        env: vec![("MODE".into(), "prod".into())],
        uses: Uses { sound: true, ..Uses::default() },
        maps: vec!["libspa.so.1".into()],
        ..ProcessFacts::default()
    }
}
