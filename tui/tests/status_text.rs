//! `downbeat status` as plain text, and what comes from outside made safe.

mod support;

use downbeat_api::Snapshot;
use downbeat_tui::report::{self, Paper};
use downbeat_tui::theme::Theme;
use downbeat_tui::{paint, sanitise, text};
use serde_json::Value;
use support::host;

fn told(snapshot: &Snapshot, width: usize) -> String {
    let paper = Paper { width, theme: Theme { colours: false } };
    let mut out = Vec::new();
    paint::write_lines(&mut out, &report::status::lines(snapshot, paper), false).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_good_day() {
    insta::assert_snapshot!(told(&host::small(), 120));
}

#[test]
fn a_large_host_on_a_bad_day() {
    insta::assert_snapshot!(told(&host::large(), 120));
}

#[test]
fn without_kernel_programs_on_a_narrow_terminal() {
    insta::assert_snapshot!(told(&host::procfs_only(), 60));
}

#[test]
fn a_crowd_is_cut_short() {
    let text = told(&host::crowd(5_000), 120);
    assert!(text.ends_with("… and 4286 processes without a class\n"), "{text}");
}

#[test]
fn no_line_is_wider_than_asked() {
    for width in [20, 40, 60, 80, 120, 200] {
        for snapshot in [host::small(), host::large(), host::procfs_only()] {
            for line in told(&snapshot, width).lines() {
                assert!(text::width(line) <= width, "{width}: {line:?}");
            }
        }
    }
}

/// Puts `evil` at the end of every string of a snapshot in turn and says which of them it is.
fn every_string(evil: &str) -> Vec<(String, Snapshot)> {
    fn walk(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::String(_) => found.push(path.to_owned()),
            Value::Array(items) => {
                for (n, item) in items.iter().enumerate() {
                    walk(item, &format!("{path}/{n}"), found);
                }
            }
            Value::Object(fields) => {
                for (key, field) in fields {
                    walk(field, &format!("{path}/{key}"), found);
                }
            }
            _ => {}
        }
    }
    let mut all = serde_json::to_value(host::large()).unwrap();
    all["source"] = serde_json::json!({ "kind": "procfs", "reason": "no root" });
    all["pool"]["note"] = "note".into();
    all["pool"]["workers"][0]["socket"] = "socket".into();
    all["gpu"]["note"] = "note".into();
    let mut paths = Vec::new();
    walk(&all, "", &mut paths);
    let spoil = |path: String| {
        let mut value = all.clone();
        let string = value.pointer_mut(&path)?;
        *string = format!("{}{evil}", string.as_str()?).into();
        // Words of an enumeration cannot be spoiled: the client refuses the whole snapshot.
        Some((path, serde_json::from_value(value).ok()?))
    };
    paths.into_iter().filter_map(spoil).collect()
}

#[test]
fn no_string_from_outside_keeps_a_control_character() {
    let evil = "\x1b[31m\x07\u{9b}2J\u{202e}\r\n\u{7f}";
    let spoiled = every_string(evil);
    assert!(spoiled.len() > 100, "only {} strings", spoiled.len());
    for (path, mut snapshot) in spoiled {
        sanitise::snapshot(&mut snapshot);
        // Debug escapes what it prints, so that the fields themselves are looked at.
        let value = serde_json::to_value(&snapshot).unwrap();
        let now = value.pointer(&path).and_then(Value::as_str).unwrap();
        assert!(!now.contains(text::deceives), "{path}: {now:?}");
        assert!(now.ends_with("?[31m??2J????"), "{path}: {now:?}");
    }
}

#[test]
fn a_process_cannot_write_to_the_terminal_through_its_name() {
    let mut snapshot = host::small();
    snapshot.processes[0].command = "\x1b]0;owned\x07\x1b[2Jwhisper".into();
    sanitise::snapshot(&mut snapshot);
    let text = told(&snapshot, 120);
    assert!(text.contains("?]0;owned??[2Jwhisper"), "{text}");
    assert!(!text.contains(|c| text::deceives(c) && c != '\n'));
}
