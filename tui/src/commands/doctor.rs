//! `downbeat doctor`.

use std::path::Path;

use downbeat_agent::observe::host::probe;
use downbeat_agent::roots::Roots;
use downbeat_api::{Finding, HostFacts, Mode, Request, Response, Snapshot, Source, State};
use ratatui::text::{Line, Span};
use serde::Serialize;

use super::{Failure, Found, Printer, ask};
use crate::report::Paper;
use crate::text::{self, Align, clean};
use crate::theme::Ink;
use crate::{sanitise, units};

/// What the doctor found.
#[derive(Debug, Serialize)]
struct Report {
    /// What the host offers, as the agent sees it, or as this program sees it where none runs.
    host: HostFacts,
    /// The agent, where one answers.
    agent: Option<Agent>,
    /// Why none answers.
    no_agent: Option<String>,
}

/// A running agent.
#[derive(Debug, Serialize)]
struct Agent {
    version: String,
    mode: Mode,
    uptime: f64,
    /// Whether its kernel programs are attached, and if not, why.
    source: Source,
}

/// Nothing missing is fatal, so that the exit code is 0 whatever is found.
pub(super) fn run(socket: &Path, json: bool, printer: &mut Printer<'_>) -> Result<Found, Failure> {
    let report = examine(socket);
    if json {
        printer.json(&report, true)?;
    } else {
        printer.lines(&lines(&report, socket, printer.paper))?;
    }
    Ok(Found::Nothing)
}

fn examine(socket: &Path) -> Report {
    let (agent, no_agent) = match ask(socket, &Request::Snapshot) {
        Ok(Response::Snapshot(snapshot)) => {
            let Snapshot { version, mode, uptime, source, .. } = *snapshot;
            (Some(Agent { version, mode, uptime, source }), None)
        }
        Ok(_) => (None, Some("the agent answered something else".into())),
        Err(failure) => (None, Some(clean(&failure.to_string()).into_owned())),
    };
    let asked = agent.as_ref().and_then(|_| ask(socket, &Request::Host).ok());
    let mut host = match asked {
        Some(Response::Host(facts)) => *facts,
        _ => probe(&Roots::default()),
    };
    sanitise::host(&mut host);
    Report { host, agent, no_agent }
}

fn lines(report: &Report, socket: &Path, paper: Paper) -> Vec<Line<'static>> {
    let HostFacts { kernel, arch, cpus, findings, .. } = &report.host;
    let cpus = units::count(cpus.len() as u64, "CPU");
    let mut lines = vec![paper.title(&format!("Linux {kernel} {arch}, {cpus}"))];
    let names = findings.iter().map(|f| text::width(&f.id)).max().unwrap_or(0).min(24);
    for finding in findings {
        lines.extend(finding_lines(finding, names, paper));
    }
    let lacking = findings.iter().filter(|f| f.state != State::Present).count();
    let remedies = findings.iter().filter(|f| f.remedy.is_some()).count();
    lines.push(Line::default());
    let verdict = match (lacking, remedies) {
        (0, _) => "Everything is there.".to_owned(),
        (n, 0) => format!("{} missing or limited; downbeat works without.", of(n)),
        (n, r) => {
            format!("{} missing or limited, {r} with a remedy; downbeat works without.", of(n))
        }
    };
    lines.extend(paper.paragraph(Ink::Plain, &verdict, 0));
    lines.extend(agent_lines(report, socket, paper));
    lines
}

fn of(n: usize) -> String {
    if n == 1 { "1 thing is".into() } else { format!("{n} things are") }
}

fn finding_lines(finding: &Finding, names: usize, paper: Paper) -> Vec<Line<'static>> {
    let Finding { id, state, text, remedy } = finding;
    let (ink, word) = match state {
        State::Present => (Ink::Good, "✓ ok     "),
        State::Limited => (Ink::Warning, "! limited"),
        State::Absent => (Ink::Bad, "✗ absent "),
    };
    let indent = text::width(word) + names + 3;
    let room = Paper { width: paper.width.saturating_sub(indent).max(16), ..paper };
    let mut told = room.paragraph(Ink::Plain, text, 0);
    if let Some(remedy) = remedy {
        told.extend(room.paragraph(Ink::Label, &format!("→ {remedy}"), 2));
    }
    told.into_iter()
        .enumerate()
        .map(|(n, line)| {
            let mut spans = if n == 0 {
                let id = text::fit(id, names, Align::Left);
                vec![paper.span(ink, word), Span::raw(format!(" {id}  "))]
            } else {
                vec![Span::raw(" ".repeat(indent))]
            };
            spans.extend(line.spans);
            Line::from(spans)
        })
        .collect()
}

fn agent_lines(report: &Report, socket: &Path, paper: Paper) -> Vec<Line<'static>> {
    let Some(agent) = &report.agent else {
        let reason = report.no_agent.as_deref().unwrap_or("no agent answers");
        return paper.paragraph(Ink::Faint, &format!("Agent: {reason}"), 2);
    };
    let Agent { version, mode, uptime, source } = agent;
    let mode = match mode {
        Mode::Engaged => "engaged",
        Mode::Paused => "paused",
        Mode::ObserveOnly => "observing only",
    };
    let (ink, source) = match source {
        Source::Bpf => (Ink::Good, "its kernel programs are attached".to_owned()),
        Source::Procfs { reason } => {
            (Ink::Warning, format!("its kernel programs are not attached: {reason}"))
        }
    };
    let text = format!(
        "Agent {version} at {}: {mode} for {}; {source}",
        clean(&socket.display().to_string()),
        units::span(*uptime)
    );
    paper.paragraph(ink, &text, 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::theme::Theme;

    fn report() -> Report {
        let finding = |id: &str, state, text: &str, remedy: Option<&str>| Finding {
            id: id.into(),
            state,
            text: text.into(),
            remedy: remedy.map(Into::into),
        };
        Report {
            host: HostFacts {
                kernel: "6.18.5".into(),
                arch: "x86_64".into(),
                cpus: vec![0, 1],
                topology: downbeat_api::Topology::default(),
                memory: Some(8 << 30),
                realtime: true,
                eevdf_slice: true,
                uclamp: false,
                deadline: true,
                cgroup2_controllers: vec!["hugetlb".into()],
                findings: vec![
                    finding("bpf", State::Present, "tp_btf programs load", None),
                    finding(
                        "rt_throttling",
                        State::Limited,
                        "real-time tasks get 950 of 1000 ms",
                        Some("leave it on"),
                    ),
                    finding(
                        "cgroup2",
                        State::Absent,
                        "no cpu controller in the unified tree, so weights and quotas are left out",
                        Some("boot with systemd.unified_cgroup_hierarchy=1"),
                    ),
                ],
            },
            agent: None,
            no_agent: Some("no agent at /run/x/agent.sock: not found".into()),
        }
    }

    fn told(report: &Report, width: usize) -> String {
        let paper = Paper { width, theme: Theme { colours: false } };
        let lines = lines(report, Path::new("/run/x/agent.sock"), paper);
        lines.iter().map(|l| l.to_string().trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_thing_has_its_remedy_beside_it() {
        insta::assert_snapshot!(told(&report(), 80));
    }

    #[test]
    fn a_running_agent_says_whether_its_programs_attached() {
        let mut report = report();
        report.agent = Some(Agent {
            version: "0.1.0".into(),
            mode: Mode::Engaged,
            uptime: 70.0,
            source: Source::Procfs { reason: "not root".into() },
        });
        let told = told(&report, 200);
        assert!(
            told.ends_with(
                "Agent 0.1.0 at /run/x/agent.sock: engaged for 1 min 10 s; its kernel programs \
                 are not attached: not root"
            ),
            "{told}"
        );
    }
}
