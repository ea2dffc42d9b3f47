//! What the commands about jobs, blame and misses print on terminals of several widths.

mod support;

use std::time::Duration;

use downbeat_api::{Rhythm, Snapshot};
use downbeat_tui::report::follow::Follow;
use downbeat_tui::report::{self, Paper};
use downbeat_tui::theme::Theme;
use downbeat_tui::{paint, text};
use ratatui::text::Line;
use support::{host, work};

const WIDTHS: [usize; 3] = [120, 80, 40];

fn busy() -> Snapshot {
    let mut snapshot = host::small();
    work::fill(&mut snapshot);
    snapshot
}

fn jobs(paper: Paper) -> Vec<Line<'static>> {
    let snapshot = busy();
    let jobs: Vec<_> = snapshot.jobs.iter().collect();
    report::jobs::table(&snapshot, &jobs, paper)
}

fn blame(paper: Paper) -> Vec<Line<'static>> {
    report::blame::lines(&busy(), paper)
}

fn misses(paper: Paper) -> Vec<Line<'static>> {
    report::misses::table(&work::misses(), busy().unix_time, paper)
}

fn story(paper: Paper) -> Vec<Line<'static>> {
    report::story::lines(&work::misses()[3], busy().unix_time, paper)
}

fn summary(paper: Paper) -> Vec<Line<'static>> {
    report::misses::summary(&busy(), paper)
}

/// A process of three threads: periodic, aperiodic, and one that works too seldom to tell.
fn follow(paper: Paper) -> Vec<Line<'static>> {
    let mut snapshot = host::small();
    let mut follow = Follow::new(812);
    let mut threads = [work::followed(812), work::followed(812), work::followed(812)];
    threads[1].tid = 813;
    threads[1].rhythm = Some(Rhythm::Aperiodic { median_ns: 31_000_000 });
    threads[2].tid = 814;
    threads[2].rhythm = None;
    snapshot.jobs = threads.to_vec();
    follow.begin(&snapshot, Duration::ZERO);
    let mut lines = Vec::new();
    for second in 1..=2 {
        snapshot.jobs[0].total.jobs += 60;
        snapshot.jobs[1].total.jobs += second;
        // Between two jobs the last times stay.
        snapshot.jobs[1].recent = downbeat_api::JobSummary::default();
        lines.extend(follow.step(&snapshot, Duration::from_secs(second), paper));
    }
    lines.push(Line::default());
    lines.extend(follow.end(false, paper));
    lines
}

type Report = fn(Paper) -> Vec<Line<'static>>;

const ALL: [(&str, Report); 6] = [
    ("jobs", jobs),
    ("blame", blame),
    ("misses", misses),
    ("story", story),
    ("status", summary),
    ("follow", follow),
];

fn told(width: usize, make: Report) -> String {
    let paper = Paper { width, theme: Theme { colours: false } };
    let mut out = Vec::new();
    paint::write_lines(&mut out, &make(paper), false).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn each_at_its_width() {
    for (name, make) in ALL {
        for width in WIDTHS {
            insta::assert_snapshot!(format!("{name}-{width}"), told(width, make));
        }
    }
}

#[test]
fn no_line_is_wider_than_asked() {
    for width in 20..=200 {
        for (name, make) in ALL {
            for line in told(width, make).lines() {
                assert!(text::width(line) <= width, "{name} at {width}: {line:?}");
            }
        }
    }
}

#[test]
fn a_process_that_never_worked_is_told() {
    let paper = Paper { width: 80, theme: Theme { colours: false } };
    let mut follow = Follow::new(9);
    assert!(follow.step(&busy(), Duration::from_secs(1), paper).is_empty());
    assert!(!follow.saw_jobs());
    assert_eq!(
        follow.end(true, paper).iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "9 has ended",
            "no job of 9 was seen: its threads slept all the time, or ran all the time"
        ]
    );
}
