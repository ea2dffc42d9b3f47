//! Programs without a rule: what they seem to work on, and a policy file made of that.

use std::collections::BTreeMap;

use downbeat_api::{Discovered, Discovery};
use ratatui::text::{Line, Span};

use super::Paper;
use crate::text::clean;
use crate::theme::Ink;

/// Programs that run others: what they run tells them apart.
const INTERPRETERS: [&str; 10] =
    ["python", "node", "java", "ruby", "perl", "bash", "sh", "dotnet", "deno", "bun"];

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
        let (tier, deadline) = match modality {
            "audio" | "video" => ("realtime", "deadline = \"auto\"\n"),
            _ => ("interactive", ""),
        };
        text += &format!(
            "\n[class.discovered-{modality}]\nmodality = \"{modality}\"\ntier     = \"{tier}\"\n\
             {deadline}"
        );
        let mut rules: BTreeMap<String, (&Discovered, Vec<u32>)> = BTreeMap::new();
        for program in programs {
            let rule = rules.entry(matcher(program)).or_insert((program, Vec::new()));
            rule.1.push(program.pid);
        }
        for (matcher, (program, pids)) in rules {
            text += &rule(modality, &matcher, program, &pids);
        }
    }
    text
}

fn rule(modality: &str, matcher: &str, program: &Discovered, pids: &[u32]) -> String {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let percent = (program.confidence * 100.0).round();
    let mut text = format!("\n# {} ({}), {percent} %:\n", comment(&program.name), pids.join(", "));
    for sign in &program.evidence {
        text += &format!("#   {}\n", comment(sign));
    }
    text += &format!(
        "[[rule]]\nname  = {}\nclass = \"discovered-{modality}\"\nmatch = {{ {matcher} }}\n",
        quoted(&rule_name(&program.name))
    );
    text
}

/// What finds the program again: its path, and of what an interpreter runs its name.
fn matcher(program: &Discovered) -> String {
    let Some(exe) = program.exe.as_deref().filter(|exe| exe.len() < 512) else {
        return format!("comm = {}", quoted(&literal(&program.name)));
    };
    let last = exe.rsplit('/').next().unwrap_or(exe);
    let plain = last.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let exe = format!("exe = {}", quoted(&literal(exe)));
    if !INTERPRETERS.contains(&plain) {
        return exe;
    }
    match script(&program.cmdline) {
        Some(script) => format!("{exe}, cmdline = {}", quoted(&format!("*{}*", literal(script)))),
        None => format!("{exe}, comm = {}", quoted(&literal(&program.name))),
    }
}

/// The first argument that is no option: a script, a module, an archive.
fn script(cmdline: &str) -> Option<&str> {
    let of_use = |word: &&str| !word.starts_with('-') && word.len() < 256;
    cmdline.split(' ').skip(1).find(of_use).filter(|word| !word.is_empty())
}

/// A pattern that matches a text alone; where that has control characters, which no pattern may
/// have, any character stands for each.
fn literal(text: &str) -> String {
    let mut pattern = String::new();
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | '\\') {
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
    use downbeat_policy::{PolicySet, ProcessFacts, Source};

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

    #[test]
    fn the_policy_is_accepted_and_matches_the_programs_that_it_was_made_of() {
        let programs = [
            program("whisper", "/opt/my [new] bin/whisper*", "whisper -m x", "audio"),
            program("python3", "/usr/bin/python3.11", "python3 -m vosk_server", "audio"),
            program("java", "/usr/lib/jvm/bin/java", "java -Xmx1g", "text"),
            program("de\"te\\ctor\u{7}\n", "", "", "video"),
            program("cam", "/usr/bin/cam", "cam a", "video"),
            program("cam", "/usr/bin/cam", "cam b", "video"),
        ];
        let text = policy(&programs.iter().collect::<Vec<_>>());
        let source = Source { path: "found.toml".into(), text: text.clone() };
        let set = PolicySet::parse(&[source]).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
        assert_eq!(set.rules.len(), 5, "one for both cams\n{text}");
        for program in &programs {
            let facts = ProcessFacts {
                exe: program.exe.clone(),
                comm: program.name.clone(),
                cmdline: program.cmdline.clone(),
                ..ProcessFacts::default()
            };
            let found = set.classify(&facts, &program.name);
            let class = &set.classes[found.unwrap_or_else(|| panic!("{program:?}\n{text}")).class];
            assert_eq!(class.name, format!("discovered-{}", program.modality));
        }
        let other = ProcessFacts {
            exe: Some("/usr/bin/python3.11".into()),
            comm: "python3".into(),
            cmdline: "python3 -m http.server".into(),
            ..ProcessFacts::default()
        };
        assert_eq!(set.classify(&other, "python3"), None, "not all of python");
    }
}
