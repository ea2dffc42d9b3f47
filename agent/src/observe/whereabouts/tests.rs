//! Against folders that look like `/proc`.

use std::fs;

use super::*;

const BOTH: Wanted = Wanted { owner: true, place: true };

/// Long enough for every look of a test.
const AMPLE: Duration = Duration::from_secs(1);

fn process(proc: &Path, pid: u32, user: u32, group: &str) {
    let folder = proc.join(pid.to_string());
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("status"), format!("Name:\tx\nUid:\t{user}\t0\t0\t0\nGid:\t7\t7\n"))
        .unwrap();
    fs::write(folder.join("cgroup"), format!("0::{group}\n")).unwrap();
}

fn program(pid: u32, age: Duration) -> Program<'static> {
    Program { pid, start_time: 100, exe: "/usr/bin/it", age }
}

fn bearings(user: u32, group: &str) -> Bearings {
    Bearings { owner: (Some(user), Some(7)), place: Some(group.into()) }
}

fn wanting(proc: &Path, wanted: Wanted) -> Whereabouts {
    let mut whereabouts = Whereabouts::new(proc);
    whereabouts.want(wanted);
    whereabouts
}

/// The ticks of 250 ms after `from` at which `pid` was news, in milliseconds, within `ms`.
fn news(whereabouts: &mut Whereabouts, from: Instant, ms: u64) -> Vec<u64> {
    let is_news = |at: &u64| !whereabouts.news(from + Duration::from_millis(*at), AMPLE).is_empty();
    (0..=ms).step_by(250).filter(is_news).collect()
}

#[test]
fn a_young_program_is_seen_to_change_within_a_second_and_an_old_one_within_five() {
    let proc = tempfile::tempdir().unwrap();
    for (age, within) in [(0, 1000), (9, 1000), (11, 5000), (3600, 5000)] {
        let start = Instant::now();
        process(proc.path(), 42, 0, "/a");
        let mut whereabouts = wanting(proc.path(), BOTH);
        whereabouts.note(program(42, Duration::from_secs(age)), bearings(0, "/a"), start);
        assert!(news(&mut whereabouts, start, 600).is_empty(), "nothing changed");
        let start = start + Duration::from_millis(600);
        process(proc.path(), 42, 65534, "/a");
        assert_eq!(news(&mut whereabouts, start, within).len(), 1, "age {age}: another user");
        let start = start + Duration::from_millis(within);
        process(proc.path(), 42, 65534, "/b");
        let looked = news(&mut whereabouts, start, 5000);
        assert_eq!(looked.len(), 1, "age {age}: another group");
    }
}

#[test]
fn a_program_is_young_again_after_an_exec() {
    let proc = tempfile::tempdir().unwrap();
    process(proc.path(), 42, 0, "/a");
    let mut whereabouts = wanting(proc.path(), BOTH);
    let start = Instant::now();
    let old = program(42, Duration::from_secs(3600));
    whereabouts.note(old, bearings(0, "/a"), start);
    whereabouts.note(Program { exe: "/usr/bin/other", ..old }, bearings(0, "/a"), start);
    process(proc.path(), 42, 0, "/b");
    let seen = news(&mut whereabouts, start, 5000);
    assert!(seen.len() == 1 && seen[0] <= 1000, "{seen:?}");
}

#[test]
fn what_was_read_again_in_between_is_no_news() {
    let proc = tempfile::tempdir().unwrap();
    process(proc.path(), 42, 0, "/a");
    let mut whereabouts = wanting(proc.path(), BOTH);
    let start = Instant::now();
    whereabouts.note(program(42, Duration::ZERO), bearings(0, "/a"), start);
    process(proc.path(), 42, 0, "/b");
    whereabouts.note(program(42, Duration::ZERO), bearings(0, "/b"), start);
    assert!(news(&mut whereabouts, start, 5000).is_empty());
}

#[test]
fn only_what_is_wanted_is_looked_at() {
    let proc = tempfile::tempdir().unwrap();
    let start = Instant::now();
    for (wanted, user, group, is_news) in [
        (Wanted { owner: true, place: false }, 0, "/b", false),
        (Wanted { owner: true, place: false }, 1, "/a", true),
        (Wanted { owner: false, place: true }, 1, "/a", false),
        (Wanted { owner: false, place: true }, 0, "/b", true),
        (Wanted::default(), 1, "/b", false),
    ] {
        let mut whereabouts = wanting(proc.path(), wanted);
        whereabouts.note(program(42, Duration::ZERO), bearings(0, "/a"), start);
        process(proc.path(), 42, user, group);
        let seen = news(&mut whereabouts, start, 5000);
        assert_eq!(!seen.is_empty(), is_news, "{wanted:?} {user} {group}");
    }
}

#[test]
fn one_that_is_gone_is_forgotten() {
    let proc = tempfile::tempdir().unwrap();
    let mut whereabouts = wanting(proc.path(), BOTH);
    let start = Instant::now();
    whereabouts.note(program(42, Duration::ZERO), bearings(0, "/a"), start);
    assert!(news(&mut whereabouts, start, 1000).is_empty());
    assert!(whereabouts.known.is_empty() && whereabouts.due.is_empty());
}

#[test]
fn what_is_not_earned_waits() {
    let proc = tempfile::tempdir().unwrap();
    let mut whereabouts = wanting(proc.path(), BOTH);
    let start = Instant::now();
    for pid in 1..=200 {
        process(proc.path(), pid, 1, "/b");
        whereabouts.note(program(pid, Duration::ZERO), bearings(0, "/a"), start);
    }
    let later = start + SOON;
    whereabouts.news(later - Duration::from_millis(1), Duration::ZERO);
    whereabouts.purse.empty_to(Duration::ZERO);
    let at_once = whereabouts.news(later, AMPLE).len();
    assert!((1..20).contains(&at_once), "5 us are not enough for many looks: {at_once}");
    let then = whereabouts.news(later + Duration::from_secs(20), AMPLE).len();
    assert!(then >= 200 - at_once, "{at_once} {then}");
}

#[test]
fn a_group_of_the_agents_own_is_not_where_a_process_belongs() {
    let hybrid = "3:cpu:/\n1:name=systemd:/user.slice\n0::/downbeat.slice/voice\n";
    assert_eq!(place_in(hybrid, None).as_deref(), Some("/downbeat.slice/voice"));
    let moved = |from| Some(Moved { to: "/downbeat.slice/voice", from });
    assert_eq!(
        place_in(hybrid, moved("/app.slice/it.scope")).as_deref(),
        Some("/app.slice/it.scope")
    );
    assert_eq!(place_in(hybrid, moved("/")).as_deref(), Some("/user.slice"));
    let elsewhere = Some(Moved { to: "/downbeat.slice/batch", from: "/app.slice" });
    assert_eq!(place_in(hybrid, elsewhere).as_deref(), Some("/downbeat.slice/voice"));
}
