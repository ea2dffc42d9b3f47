//! The pages of jobs, blame and misses.

mod support;

use std::time::Duration;

use downbeat_api::{CauseKind, Request, Response, Snapshot};
use downbeat_tui::conn::Event;
use downbeat_tui::state::{Effect, State};
use support::screen::{SIZES, press, screen, state};
use support::{host, work};

/// Snapshots of a page at all sizes.
fn page(name: &str, snapshot: &Snapshot, keys: &str) {
    for size in SIZES {
        let mut state = state(snapshot.clone(), size);
        press(&mut state, keys);
        insta::assert_snapshot!(format!("{name}-{}x{}", size.0, size.1), screen(&state));
    }
}

fn busy() -> Snapshot {
    let mut snapshot = host::small();
    work::fill(&mut snapshot);
    snapshot
}

#[test]
fn jobs() {
    page("jobs", &busy(), "3");
}

#[test]
fn blame() {
    page("blame", &busy(), "4");
}

#[test]
fn misses() {
    page("misses", &busy(), "5↓");
}

#[test]
fn story() {
    page("story", &busy(), "5\n");
}

#[test]
fn story_of_a_long_job() {
    page("story-own-cost", &busy(), "5↓\n");
}

#[test]
fn overview_with_misses_of_jobs() {
    page("overview-jobs", &busy(), "1");
}

#[test]
fn nothing_to_show() {
    let mut good = busy();
    (good.jobs, good.blame) = (Vec::new(), Vec::new());
    (good.misses, good.causes) = (Vec::new(), Vec::new());
    let all = [("good", good), ("blind", host::small()), ("procfs", host::procfs_only())];
    for (name, snapshot) in all {
        for (page, keys) in [("jobs", "3"), ("blame", "4"), ("misses", "5\n")] {
            let mut state = state(snapshot.clone(), (60, 12));
            press(&mut state, keys);
            insta::assert_snapshot!(format!("nothing-{name}-{page}"), screen(&state));
        }
    }
}

#[test]
fn what_was_lost_is_said() {
    let mut snapshot = busy();
    let bpf = snapshot.cost.bpf.as_mut().unwrap();
    (bpf.dropped_jobs, bpf.dropped_blame) = (1, 7);
    let mut state = state(snapshot, (120, 40));
    press(&mut state, "3");
    assert!(screen(&state).contains("! 1 thread is not followed: the table of jobs was full"));
    press(&mut state, "4");
    assert!(screen(&state).contains("! a culprit found no place in the table of blame 7 times"));
}

#[test]
fn on_the_smallest_screen_what_was_lost_leaves_the_culprits_in_sight() {
    let mut snapshot = busy();
    snapshot.cost.bpf.as_mut().unwrap().dropped_blame = 7;
    let mut state = state(snapshot, (40, 10));
    press(&mut state, "4");
    let shown = screen(&state);
    assert!(shown.contains("! table full 7 times: some unknown"), "{shown}");
    let worst = &work::blame()[0].recent[0].name;
    assert!(shown.contains(worst.as_str()), "{worst} in {shown}");
}

#[test]
fn threads_that_never_sleep_are_said() {
    let mut snapshot = busy();
    snapshot.jobs[1].awake = Some(12.4);
    let shown = |snapshot: &Snapshot| {
        let mut state = state(snapshot.clone(), (120, 40));
        press(&mut state, "3");
        screen(&state)
    };
    let one = shown(&snapshot);
    assert!(one.contains("decode (813) has not slept for 12 s: its frames cannot be"), "{one}");
    snapshot.jobs.iter_mut().for_each(|jobs| jobs.awake = Some(3.0));
    let all = shown(&snapshot);
    assert!(all.contains("! 2 threads more did not sleep"), "{all}");
    snapshot.jobs.iter_mut().for_each(|jobs| jobs.awake = None);
    assert!(!shown(&snapshot).contains("sle"), "{}", shown(&snapshot));
}

fn ids(state: &State) -> Vec<u64> {
    state.misses.all.iter().map(|miss| miss.id).collect()
}

#[test]
fn the_page_asks_for_older_misses_and_shows_them() {
    let mut state = state(busy(), (80, 24));
    let key = crossterm::event::KeyEvent::from(crossterm::event::KeyCode::Char('5'));
    let effects = state.update(Event::Key(key), state.now);
    assert_eq!(effects, [Effect::Ask(Request::Misses)]);
    let mut misses: Vec<_> =
        (1..=10).map(|id| work::miss(id, 9_000.0, CauseKind::Gpu, "the GPU ran slower")).collect();
    misses.extend(work::misses());
    state.update(Event::Answer(Request::Misses, Ok(Response::Misses { misses })), state.now);
    assert_eq!(ids(&state), (1..=14).rev().collect::<Vec<_>>());
    assert!(screen(&state).contains("the GPU ran slower"));
}

#[test]
fn the_cursor_stays_on_its_miss_and_rests_on_the_newest() {
    let mut state = state(busy(), (80, 24));
    press(&mut state, "5");
    let mut next = busy();
    next.misses.push(work::miss(15, 0.1, CauseKind::Blocked, "waited 9 ms for a lock"));
    state.update(Event::Snapshot(Box::new(next.clone())), Duration::from_secs(101));
    assert_eq!(state.misses.under_cursor().unwrap().id, 15, "it was on the newest");
    press(&mut state, "↓↓");
    next.misses.push(work::miss(16, 0.1, CauseKind::Blocked, "waited 9 ms for a lock"));
    state.update(Event::Snapshot(Box::new(next)), Duration::from_secs(102));
    assert_eq!(state.misses.under_cursor().unwrap().id, 13);
}

#[test]
fn a_new_agent_begins_with_no_misses() {
    let mut state = state(busy(), (80, 24));
    assert_eq!(ids(&state), [14, 13, 12, 11]);
    let mut next = busy();
    next.uptime = 3.0;
    next.misses = vec![work::miss(12, 0.1, CauseKind::Stolen, "stolen")];
    state.update(Event::Snapshot(Box::new(next.clone())), Duration::from_secs(101));
    assert_eq!(ids(&state), [12]);
    assert_eq!(state.misses.all[0].cause.text, "stolen");
    (next.uptime, next.unix_time) = (4.0, next.unix_time + 1.0);
    state.update(Event::Snapshot(Box::new(next)), Duration::from_secs(102));
    assert_eq!(ids(&state), [12], "it goes on");
}

#[test]
fn an_answer_and_a_snapshot_may_overtake_each_other() {
    let mut state = state(busy(), (80, 24));
    let mut misses = work::misses();
    misses.push(work::miss(15, 0.1, CauseKind::Disk, "disk"));
    misses.insert(0, work::miss(10, 9_000.0, CauseKind::Disk, "disk"));
    state.update(Event::Answer(Request::Misses, Ok(Response::Misses { misses })), state.now);
    // It was on its way when the agent answered.
    state.update(Event::Snapshot(Box::new(busy())), Duration::from_secs(101));
    assert_eq!(ids(&state), [15, 14, 13, 12, 11, 10]);
}

#[test]
fn a_story_stays_while_misses_come() {
    let mut state = state(busy(), (80, 24));
    press(&mut state, "5↓\n");
    let mut next = busy();
    next.misses = (100..132).map(|id| work::miss(id, 0.1, CauseKind::Disk, "disk")).collect();
    state.update(Event::Snapshot(Box::new(next)), Duration::from_secs(101));
    assert!(screen(&state).contains("Miss 13:"), "{}", screen(&state));
    press(&mut state, "␛");
    assert!(!screen(&state).contains("Miss 13:"));
}
