//! `downbeat check`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use downbeat_agent::observe::policy_files;
use downbeat_agent::observe::process::{ProcessReader, ProcessSample};
use downbeat_agent::roots::Roots;
use downbeat_policy::{PolicySet, Source};
use ratatui::text::Line;

use super::{Failure, Found, Printer};
use crate::report::Paper;
use crate::text::{self, clean};
use crate::theme::{Ink, Theme};
use crate::units;

/// Processes named per rule; the rest are counted.
const NAMED: usize = 6;

/// CPU time for looking at what processes hold open and have mapped.
const AT_MOST: Duration = Duration::from_secs(1);

pub(super) fn run(files: &[PathBuf], printer: &mut Printer<'_>) -> Result<Found, Failure> {
    let (policy, files) = match policy(files, &mut io::stdin().lock()) {
        Ok(read) => read,
        Err(problems) => {
            tell(&problems, printer)?;
            return Ok(Found::Problems);
        }
    };
    let processes = processes(&policy);
    printer.lines(&lines(&policy, files, &processes, printer.paper))?;
    Ok(Found::Nothing)
}

/// The policy in these files and folders, with the number of files; or everything that is wrong.
pub(super) fn policy(
    files: &[PathBuf],
    stdin: &mut dyn io::Read,
) -> Result<(PolicySet, usize), Vec<String>> {
    let (sources, mut problems) = read(files, stdin);
    match PolicySet::parse(&sources) {
        Ok(policy) if problems.is_empty() => Ok((policy, sources.len())),
        Ok(_) => Err(problems),
        Err(found) => {
            problems.extend(found.iter().map(ToString::to_string));
            Err(problems)
        }
    }
}

/// Prints what is wrong with a policy.
pub(super) fn tell(problems: &[String], printer: &mut Printer<'_>) -> io::Result<()> {
    for problem in problems {
        // Never wrapped: editors and people search for file:line:column.
        let line = clean(problem).into_owned();
        printer.lines(&[Line::from(printer.paper.span(Ink::Bad, line))])?;
    }
    printer.lines(&[Line::from(units::count(problems.len() as u64, "problem"))])
}

/// Every process, with what the policy looks at. Devices and libraries are read by a look at what a
/// first scan met.
fn processes(policy: &PolicySet) -> Vec<ProcessSample> {
    let mut reader = ProcessReader::new(&Roots::default());
    let needs = policy.needs();
    let looks = needs.uses || needs.maps;
    reader.want(needs);
    if looks {
        reader.scan();
        reader.news(AT_MOST);
    }
    reader.scan()
}

/// The folders among `files` as the agent reads them, then each file; and what could not be read.
fn read(files: &[PathBuf], stdin: &mut dyn io::Read) -> (Vec<Source>, Vec<String>) {
    let (folders, files): (Vec<&Path>, Vec<&Path>) =
        files.iter().map(PathBuf::as_path).partition(|f| f.is_dir());
    let mut sources = Vec::new();
    let mut problems = Vec::new();
    match policy_files::read_folders(&folders) {
        Ok(found) if found.sources.is_empty() => problems.extend(
            folders.iter().map(|folder| format!("{}: no *.toml in this folder", folder.display())),
        ),
        Ok(found) => sources.extend(found.sources),
        Err(errors) => problems.extend(errors.iter().map(ToString::to_string)),
    }
    for file in files {
        let read = if file == Path::new("-") {
            policy_files::read_stream(&mut *stdin, Path::new("<stdin>"))
        } else {
            policy_files::read_file(file)
        };
        match read {
            Ok(source) => sources.push(source),
            Err(error) => problems.push(error.to_string()),
        }
    }
    (sources, problems)
}

/// What one rule matches: threads per process.
type Members<'a> = BTreeMap<u32, (&'a str, u64)>;

fn lines(
    policy: &PolicySet,
    files: usize,
    processes: &[ProcessSample],
    paper: Paper,
) -> Vec<Line<'static>> {
    let mut rules: Vec<Members<'_>> = vec![Members::new(); policy.rules.len()];
    for process in processes {
        for thread in &process.threads {
            if let Some(found) = policy.classify(&process.facts, &thread.name) {
                let entry = rules[found.rule].entry(process.pid);
                entry.or_insert((&process.facts.comm, 0)).1 += 1;
            }
        }
    }
    let mut lines = vec![paper.title(&format!(
        "{}, {}, {}: no problems",
        units::count(files as u64, "file"),
        units::count(policy.classes.len() as u64, "class"),
        units::count(policy.rules.len() as u64, "rule"),
    ))];
    for (index, class) in policy.classes.iter().enumerate() {
        lines.push(Line::default());
        let of_class = || (0..policy.rules.len()).filter(|&r| policy.rules[r].class == index);
        let members: Vec<_> = of_class().flat_map(|r| rules[r].iter()).collect();
        let mut pids: Vec<_> = members.iter().map(|(pid, _)| **pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let threads: u64 = members.iter().map(|(_, (_, threads))| threads).sum();
        let head = format!(
            "class {} ({}, {}): {}",
            clean(&class.name),
            class.modality.name(),
            class.tier.name(),
            counted(pids.len(), threads)
        );
        lines.extend(paper.paragraph(Theme::tier(class.tier.name()), &head, 2));
        let mut any = false;
        for rule in of_class() {
            any = true;
            lines.extend(rule_lines(policy, rule, &rules[rule], paper));
        }
        if !any {
            lines.push(Line::from(paper.span(Ink::Warning, "  no rule gives this class")));
        }
    }
    lines
}

fn rule_lines(
    policy: &PolicySet,
    rule: usize,
    members: &Members<'_>,
    paper: Paper,
) -> Vec<Line<'static>> {
    let rule = &policy.rules[rule];
    let threads = members.values().map(|(_, threads)| threads).sum();
    let head = format!(
        "  rule {:?}, {}: {}",
        clean(&rule.name),
        clean(&rule.origin.to_string()),
        counted(members.len(), threads)
    );
    let mut lines = paper.paragraph(Ink::Plain, &head, 4);
    let mut named: Vec<_> = members
        .iter()
        .take(NAMED)
        .map(|(pid, (name, threads))| match threads {
            1 => format!("{} {pid}", clean(name)),
            n => format!("{} {pid} ({n} threads)", clean(name)),
        })
        .collect();
    if members.len() > NAMED {
        named.push(format!("{} more", members.len() - NAMED));
    }
    if !named.is_empty() {
        let blank = " ".repeat(4);
        let width = Paper { width: paper.width.saturating_sub(4), ..paper };
        lines.extend(
            text::wrap(&named.join(", "), width.width, 0)
                .into_iter()
                .map(|line| Line::from(paper.span(Ink::Faint, format!("{blank}{line}")))),
        );
    }
    lines
}

fn counted(processes: usize, threads: u64) -> String {
    if processes == 0 {
        return "matches nothing now".into();
    }
    format!("{}, {}", units::count(processes as u64, "process"), units::count(threads, "thread"))
}
