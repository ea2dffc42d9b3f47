//! `downbeat check`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use downbeat_agent::cli::POLICY_DIRS;
use downbeat_agent::observe::policy_files;
use downbeat_agent::observe::process::ProcessSample;
use downbeat_api::Known;
use downbeat_policy::{Class, PolicySet, Problem, Source};
use ratatui::text::Line;

use super::survey::{self, Survey};
use super::{Failure, Found, Printer};
use crate::report::Paper;
use crate::text::{self, clean};
use crate::theme::{Ink, Theme};
use crate::units;

/// Processes named per rule; the rest are counted.
const NAMED: usize = 6;

pub(super) fn run(files: &[PathBuf], printer: &mut Printer<'_>) -> Result<Found, Failure> {
    let (policy, files) = match policy(files, &mut io::stdin().lock()) {
        Ok(read) => read,
        Err(refusal) => {
            refusal.tell(printer)?;
            return Ok(Found::Problems);
        }
    };
    let Survey { processes, gaps } = survey::survey(&policy, &Known::default());
    printer.lines(&lines(&policy, files, &processes, printer.paper))?;
    for gap in gaps {
        printer.lines(&[Line::default()])?;
        printer.lines(&printer.paper.paragraph(Ink::Warning, &format!("! {gap}"), 2))?;
    }
    Ok(Found::Nothing)
}

/// The policy in these files and folders, with the number of files; or everything that is wrong.
pub(super) fn policy(
    files: &[PathBuf],
    stdin: &mut dyn io::Read,
) -> Result<(PolicySet, usize), Refusal> {
    let (sources, mut problems) = read(files, stdin);
    match PolicySet::parse(&sources) {
        Ok(policy) if problems.is_empty() => Ok((policy, sources.len())),
        Ok(_) => Err(Refusal { problems, remedy: None }),
        Err(found) => {
            problems.extend(found.iter().map(ToString::to_string));
            Err(Refusal { problems, remedy: remedy(files, &found) })
        }
    }
}

/// Why there is no policy in the files.
pub(super) struct Refusal {
    /// Everything that is wrong.
    problems: Vec<String>,
    /// What may help.
    remedy: Option<String>,
}

impl Refusal {
    pub(super) fn tell(&self, printer: &mut Printer<'_>) -> io::Result<()> {
        tell(&self.problems, 0, printer)?;
        match &self.remedy {
            Some(remedy) => printer.lines(&[Line::from(clean(remedy).into_owned())]),
            None => Ok(()),
        }
    }
}

/// Prints what is wrong with a policy, and how much `more` there is.
pub(super) fn tell(problems: &[String], more: u64, printer: &mut Printer<'_>) -> io::Result<()> {
    for problem in problems {
        // Never wrapped: editors and people search for file:line:column.
        let line = clean(problem).into_owned();
        printer.lines(&[Line::from(printer.paper.span(Ink::Bad, line))])?;
    }
    let mut count = units::count(problems.len() as u64 + more, "problem");
    if more > 0 {
        count.push_str(&format!(", of which the first {} are told", problems.len()));
    }
    printer.lines(&[Line::from(count)])
}

/// The folders among `files` as the agent reads them, then each file; and what could not be read.
/// No file at all means the agent's own folders.
fn read(files: &[PathBuf], stdin: &mut dyn io::Read) -> (Vec<Source>, Vec<String>) {
    let default = POLICY_DIRS.map(PathBuf::from);
    let (files, named) = if files.is_empty() { (&default[..], false) } else { (files, true) };
    // A folder of the agent's own that is missing is as good as an empty one.
    let (folders, files): (Vec<&Path>, Vec<&Path>) =
        files.iter().map(PathBuf::as_path).partition(|f| f.is_dir() || !named);
    let mut sources = Vec::new();
    let mut problems = Vec::new();
    match policy_files::read_folders(&folders) {
        Ok(found) => sources.extend(found.sources),
        Err(errors) => problems.extend(errors.iter().map(ToString::to_string)),
    }
    let is_from = |folder: &Path| sources.iter().any(|source| source.path.starts_with(folder));
    // A name that another folder has too is read from there alone.
    let empty = |folder: &&Path| !is_from(folder) && !holds_policy(folder);
    if named {
        problems.extend(
            folders
                .iter()
                .copied()
                .filter(empty)
                .map(|folder| format!("{}: no *.toml in this folder", folder.display())),
        );
    } else if sources.is_empty() && problems.is_empty() {
        let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        problems.push(format!(
            "no *.toml in {}: name the files or folders to look at",
            folders.join(" or in ")
        ));
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

fn holds_policy(folder: &Path) -> bool {
    let is_policy = |entry: fs::DirEntry| {
        let name = entry.file_name();
        !name.as_encoded_bytes().starts_with(b".") && name.as_encoded_bytes().ends_with(b".toml")
    };
    // One that cannot be read is a problem of its own.
    fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(is_policy))
}

/// Where a class that is not defined in these files may be: a draft often inherits one that ships.
fn remedy(files: &[PathBuf], problems: &[Problem]) -> Option<String> {
    let shipped = Path::new(POLICY_DIRS[0]);
    let lacks = problems.iter().any(|problem| problem.message.contains("no class `"));
    let is_in = files.iter().any(|file| file == shipped);
    (lacks && !files.is_empty() && !is_in).then(|| {
        let named: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        if !shipped.is_dir() {
            return "classes that ship with downbeat are not installed here: name its folder \
                    `policies`, from the sources, as well"
                .to_owned();
        }
        format!(
            "classes that ship with downbeat are in {0}; to look at both together: downbeat check \
             {0} {1}",
            shipped.display(),
            named.join(" ")
        )
    })
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
        } else if of_class().all(|rule| policy.rules[rule].is_for_single_threads()) {
            lines.extend(out_of_reach(class, paper));
        }
    }
    lines
}

/// Keys of a class that may never act, since its rules name threads and not processes.
fn out_of_reach(class: &Class, paper: Paper) -> Vec<Line<'static>> {
    let keys = class.of_whole_processes();
    if keys.is_empty() {
        return Vec::new();
    }
    let keys: Vec<String> = keys.into_iter().map(|key| format!("`{key}`")).collect();
    let told = format!(
        "  every rule of this class names threads, and a process has {} once for all of its: \
         only where the main thread has this class does that act",
        keys.join(", ")
    );
    paper.paragraph(Ink::Warning, &told, 4)
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

#[cfg(test)]
mod tests {
    use super::*;
    fn told(rule: &str) -> String {
        let text = format!(
            "schema = 1\n[class.capture]\ntier = \"realtime\"\ndeadline = \"10ms\"\nadopt = true\n\
             memory = {{ oom = -500 }}\n[[rule]]\nclass = \"capture\"\nmatch = {rule}\n"
        );
        let source = Source { path: "test.toml".into(), text };
        let policy = PolicySet::parse(&[source]).unwrap();
        let paper = Paper { width: 200, theme: Theme { colours: false } };
        let lines = lines(&policy, 1, &[], paper);
        lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_a_class_of_single_threads_cannot_do_is_said() {
        let words = "a process has `adopt`, `memory.oom` once for all of its";
        let told_of_threads = told(r#"{ exe = "obs", thread = "capture*" }"#);
        assert!(told_of_threads.contains(words), "{told_of_threads}");
        let told_of_both =
            told(r#"{ any = [{ exe = "obs", thread = "capture*" }, { exe = "cam" }] }"#);
        assert!(!told_of_both.contains("once for all"), "{told_of_both}");
    }
}
