//! Programs without a rule: what they seem to work on, and a policy file made of that.

mod script;

use std::collections::BTreeMap;

use downbeat_api::{Discovered, Discovery};
use ratatui::text::{Line, Span};

use super::Paper;
use crate::text::clean;
use crate::theme::Ink;

/// One program a paragraph, the surest first.
#[must_use]
pub fn table(found: &Discovery, paper: Paper) -> Vec<Line<'static>> {
    if found.findings.is_empty() {
        let text = "no program without a rule shows what it works on";
        return paper.paragraph(Ink::Plain, text, 0);
    }
    let mut lines = Vec::new();
    for program in &found.findings {
        let percent = (program.confidence * 100.0).round();
        let head = format!("{} ({})", clean(&program.name), program.pid);
        let verdict = format!("  {} {percent} %", clean(&program.modality));
        let ink = if program.enough { Ink::Good } else { Ink::Faint };
        lines.push(Line::from(vec![
            paper.span(Ink::Strong, head),
            paper.span(ink, verdict),
            Span::raw(outcome(program, found.enabled)),
        ]));
        for sign in &program.evidence {
            lines.extend(paper.paragraph(Ink::Plain, &format!("  {}", clean(sign)), 4));
        }
    }
    lines
}

fn outcome(program: &Discovered, enabled: bool) -> String {
    let class = program.class.as_deref().map(|class| clean(class).into_owned());
    match class {
        _ if !program.enough => ": not enough for a class".to_owned(),
        Some(class) if program.given => format!(": has class {class}"),
        Some(class) if enabled => format!(": gets class {class}"),
        Some(class) => format!(": would get class {class}"),
        None => ": [auto] names no class for it".to_owned(),
    }
}

/// A policy file with a class for each modality and a rule for each program, to be edited.
///
/// A guess never becomes real time: a rule is for all threads of a program, and one that computes
/// for a second at a real-time priority keeps everything else from its CPU so long.
#[must_use]
pub fn policy(found: &[&Discovered]) -> String {
    let mut text = String::from(
        "# Written by `downbeat discover`. Read each rule before you use it: what a program shows \
         is\n# no promise of what it is for. Rename the classes, or use those that you have.\n\
         schema = 1\n",
    );
    let mut classes: BTreeMap<&str, Vec<&Discovered>> = BTreeMap::new();
    for program in found {
        classes.entry(&program.modality).or_default().push(program);
    }
    for (modality, programs) in classes {
        text += &format!(
            "\n[class.discovered-{modality}]\nmodality = \"{modality}\"\ntier     = \"interactive\"\n"
        );
        if matches!(modality, "audio" | "video") {
            text += REALTIME;
        }
        let mut rules: BTreeMap<Found, (&Discovered, Vec<u32>)> = BTreeMap::new();
        // One that is sure speaks for all with its matcher.
        let (sure, guessed): (Vec<_>, Vec<_>) =
            programs.into_iter().partition(|program| program.enough);
        for program in sure.into_iter().chain(guessed) {
            let rule = rules.entry(matcher(program)).or_insert((program, Vec::new()));
            rule.1.push(program.pid);
        }
        for (matcher, (program, pids)) in rules {
            text += &rule(modality, &matcher, program, &pids);
        }
    }
    text
}

/// How a person who knows more makes it real-time.
const REALTIME: &str = "\
# Where each frame is known to take little CPU time, in place of the line above:\n\
#     tier     = \"realtime\"\n\
#     deadline = \"auto\"\n\
# and in its rules the threads that compute frames (`thread = …`): a rule without them is for all\n\
# threads of its program.\n";

fn rule(modality: &str, found: &Found, program: &Discovered, pids: &[u32]) -> String {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let percent = (program.confidence * 100.0).round();
    let mut text = format!("\n# {} ({}), {percent} %:\n", comment(&program.name), pids.join(", "));
    for sign in &program.evidence {
        text += &format!("#   {}\n", comment(sign));
    }
    let (matcher, mark) = match found {
        Found::Program(matcher) => (matcher, ""),
        Found::File(matcher) => {
            text += "# By a file's name alone: give its whole path, or a `user`, `unit` or `cgroup` too.\n";
            (matcher, "")
        }
        Found::Interpreter(matcher) => {
            text += "# Its arguments do not tell it from all else that the same program runs. Add what does\n\
                     # (`cmdline`, `user`, `unit`, `cgroup`) before you take the marks away.\n";
            (matcher, "# ")
        }
    };
    let mark = if program.enough {
        mark
    } else {
        text += "# Not sure enough for a rule: look at the signs before you take the marks away.\n";
        "# "
    };
    let lines = [
        "[[rule]]".to_owned(),
        format!("name  = {}", quoted(&rule_name(&program.name))),
        format!("class = \"discovered-{modality}\""),
        format!("match = {{ {matcher} }}"),
    ];
    for line in lines {
        text += &format!("{mark}{line}\n");
    }
    text
}

/// The keys that find a program again.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// It, and what is started in the same way.
    Program(String),
    /// Also others that run a file of the same name in another folder.
    File(String),
    /// Everything that its interpreter runs.
    Interpreter(String),
}

/// What finds the program again: its path, and what an interpreter runs.
fn matcher(program: &Discovered) -> Found {
    let comm = format!("comm = {}", quoted(&literal(&program.name)));
    let Some(path) = program.exe.as_deref().filter(|exe| exe.len() < 512) else {
        return Found::Program(comm);
    };
    let exe = format!("exe = {}", quoted(&literal(path)));
    if !script::is_interpreter(path) {
        return Found::Program(exe);
    }
    match script::run(path, &program.cmdline) {
        Some(run) => {
            let words = |end| quoted(&format!("* {}{end}", literal(&run)));
            let matcher = format!("{exe}, cmdline = [{}, {}]", words(""), words(" *"));
            let whole = run.contains('/') || run.starts_with('-');
            if whole { Found::Program(matcher) } else { Found::File(matcher) }
        }
        // A name that it was given, or that it took.
        None if !script::is_interpreter(&program.name) => Found::Program(format!("{exe}, {comm}")),
        None => Found::Interpreter(exe),
    }
}

/// A pattern that matches a text alone. Where that has control characters, which no pattern may
/// have, any character stands for each; a `?` is left to mean that too, since it is what the
/// answers of the agent have in their place.
fn literal(text: &str) -> String {
    let mut pattern = String::new();
    for c in text.chars() {
        if matches!(c, '*' | '[' | '\\') {
            pattern.push('\\');
        }
        pattern.push(if c.is_control() { '?' } else { c });
    }
    pattern
}

/// A name that a rule may have: one line of at most 80 characters.
fn rule_name(name: &str) -> String {
    let name: String = comment(name).chars().take(80).collect();
    if name.is_empty() { "nameless".to_owned() } else { name }
}

/// A string without control characters as TOML writes it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// A text that cannot end a comment.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use downbeat_policy::{PolicySet, ProcessFacts, Source, Tier};

    use super::*;

    fn program(name: &str, exe: &str, cmdline: &str, modality: &str) -> Discovered {
        Discovered {
            pid: 42,
            name: name.into(),
            exe: (!exe.is_empty()).then(|| exe.into()),
            cmdline: cmdline.into(),
            modality: modality.into(),
            confidence: 0.75,
            enough: true,
            evidence: vec!["holds a camera\nopen".into()],
            class: None,
            given: false,
        }
    }

    fn parsed(text: &str) -> PolicySet {
        let source = Source { path: "found.toml".into(), text: text.to_owned() };
        PolicySet::parse(&[source]).unwrap_or_else(|e| panic!("{e:?}\n{text}"))
    }

    fn facts(name: &str, exe: Option<&str>, cmdline: &str) -> ProcessFacts {
        ProcessFacts {
            exe: exe.map(str::to_owned),
            comm: name.into(),
            cmdline: cmdline.into(),
            ..ProcessFacts::default()
        }
    }

    #[test]
    fn the_policy_is_accepted_and_matches_the_programs_that_it_was_made_of() {
        let programs = [
            program("whisper", "/opt/my [new] bin/whisper*", "whisper -m x", "audio"),
            program("python3", "/usr/bin/python3.11", "python3 -m vosk_server", "audio"),
            program("python3", "/usr/bin/python3.11", "python3 -W ignore /opt/tts.py", "audio"),
            program("python3", "/opt/a b/python3", "/opt/a b/python3 app.py -v", "text"),
            program("VLLM::EngineCor", "/usr/bin/python3.11", "VLLM::EngineCore", "text"),
            program("de\"te\\ctor\u{7}\n", "", "", "video"),
            program("cam", "/usr/bin/cam", "cam a", "video"),
            program("cam", "/usr/bin/cam", "cam b", "video"),
        ];
        let text = policy(&programs.iter().collect::<Vec<_>>());
        let set = parsed(&text);
        assert_eq!(set.rules.len(), 7, "one for both cams\n{text}");
        for program in &programs {
            let facts = facts(&program.name, program.exe.as_deref(), &program.cmdline);
            let found = set.classify(&facts, &program.name);
            let class = &set.classes[found.unwrap_or_else(|| panic!("{program:?}\n{text}")).class];
            assert_eq!(class.name, format!("discovered-{}", program.modality));
        }
        let python = Some("/usr/bin/python3.11");
        for other in [
            "python3 -m http.server",
            "python3 -m vosk_server_tests",
            "python3 -W ignore other.py",
            "python3 /opt/tts.pyc",
        ] {
            assert_eq!(set.classify(&facts("python3", python, other), "python3"), None, "{other}");
        }
    }

    /// A speech server maps a library and sleeps: at a real-time priority it would keep a CPU for
    /// as long as a sentence takes.
    #[test]
    fn no_guess_is_real_time() {
        let found = ["audio", "video", "image", "text"].map(|m| program("x", "/opt/x", "x", m));
        let text = policy(&found.iter().collect::<Vec<_>>());
        for class in parsed(&text).classes {
            assert_eq!((class.tier, class.deadline), (Tier::Interactive, None), "{}", class.name);
        }
        // The lines in the comment are the language's own.
        let text = policy(&found[..2].iter().collect::<Vec<_>>());
        let bolder = text.replace("#     ", "").replace("tier     = \"interactive\"\n", "");
        assert!(parsed(&bolder).classes.iter().all(|c| c.tier == Tier::Realtime), "{bolder}");
    }

    #[test]
    fn what_cannot_be_told_from_others_is_written_as_a_comment() {
        let found = [
            program("python3", "/usr/bin/python3.11", "python3 -c import time", "audio"),
            program("java", "/usr/lib/jvm/bin/java", "java -Xmx1g", "audio"),
        ];
        let text = policy(&found.iter().collect::<Vec<_>>());
        assert_eq!(parsed(&text).rules.len(), 0, "{text}");
        assert!(text.contains("\n# match = { exe = \"/usr/bin/python3.11\" }\n"), "{text}");
    }

    #[test]
    fn what_is_not_sure_enough_is_written_as_a_comment() {
        let guess = |name: &str, exe: &str| Discovered {
            enough: false,
            ..program(name, exe, "x", "audio")
        };
        let found = [
            guess("maybe", "/opt/maybe"),
            guess("cam", "/usr/bin/cam"),
            program("cam", "/usr/bin/cam", "cam", "audio"),
        ];
        let text = policy(&found.iter().collect::<Vec<_>>());
        let set = parsed(&text);
        assert_eq!(set.rules.len(), 1, "{text}");
        assert!(set.classify(&facts("cam", Some("/usr/bin/cam"), "cam"), "cam").is_some());
        assert!(text.contains("\n# match = { exe = \"/opt/maybe\" }\n"), "{text}");
    }

    /// Answers are made harmless for the terminal before anything else: a line break has become
    /// `?`.
    #[test]
    fn a_path_with_a_line_break_is_found_again() {
        let found = program("odd", "/opt/two?lines", "odd", "video");
        let set = parsed(&policy(&[&found]));
        let facts = facts("odd", Some("/opt/two\nlines"), "odd");
        assert!(set.classify(&facts, "odd").is_some(), "{:?}", set.rules);
    }
}
