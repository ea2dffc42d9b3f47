//! Every page at several sizes, on good days and bad ones.

mod support;

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use downbeat_api::{Mode, Request, Response};
use downbeat_tui::conn::Event;
use downbeat_tui::state::{Link, State};
use downbeat_tui::theme::Theme;
use support::host;
use support::screen::{SIZES, buffer, press, screen, state};

/// Snapshots of what `make` gives at all sizes.
fn at_all_sizes(name: &str, make: impl Fn((u16, u16)) -> State) {
    for size in SIZES {
        let state = make(size);
        insta::assert_snapshot!(format!("{name}-{}x{}", size.0, size.1), screen(&state));
    }
}

#[test]
fn overview() {
    at_all_sizes("overview", |size| state(host::small(), size));
}

#[test]
fn overview_of_a_large_host() {
    at_all_sizes("overview-large", |size| state(host::large(), size));
}

#[test]
fn overview_without_kernel_programs() {
    at_all_sizes("overview-procfs", |size| state(host::procfs_only(), size));
}

#[test]
fn overview_while_paused() {
    at_all_sizes("overview-paused", |size| {
        let mut snapshot = host::small();
        snapshot.mode = Mode::Paused;
        state(snapshot, size)
    });
}

#[test]
fn overview_after_the_agent_went_away() {
    at_all_sizes("overview-lost", |size| {
        let mut state = state(host::small(), size);
        let reason = "/run/downbeat/agent.sock: the agent went away: unexpected end of file";
        state.update(Event::Lost(reason.into()), Duration::from_secs(112));
        state
    });
}

#[test]
fn no_agent_at_all() {
    at_all_sizes("no-agent", |size| {
        let mut state = State::new(size, Theme { colours: true });
        let reason = "no agent at /run/downbeat/agent.sock: No such file or directory (os error \
                      2). Start one with `systemctl start downbeatd` or `downbeatd`, or name its \
                      run directory with --run-dir";
        state.update(Event::Lost(reason.into()), Duration::from_secs(1));
        state
    });
}

#[test]
fn classes_over_time() {
    at_all_sizes("classes", |size| {
        let mut state = State::new(size, Theme { colours: true });
        for s in 0..240 {
            let mut snapshot = host::small();
            // The agent was away for a while.
            if (60..80).contains(&s) {
                continue;
            }
            for class in snapshot.classes.iter_mut().filter(|c| c.threads > 0) {
                let wait = class.wait.as_mut().unwrap();
                wait.recent.p99_ns = Some(if s < 120 { 18_000_000 } else { 40_000 + s * 100 });
            }
            let missed = if s < 120 { s * 4 } else { 480 };
            snapshot.classes[0].misses = Some(downbeat_api::Misses { frames: s * 100, missed });
            state.update(Event::Snapshot(Box::new(snapshot)), Duration::from_secs(s));
        }
        press(&mut state, "2");
        state
    });
}

#[test]
fn pool() {
    at_all_sizes("pool", |size| {
        let mut state = state(host::large(), size);
        press(&mut state, "6");
        state
    });
}

#[test]
fn what_there_is_to_say_of_the_pool_never_hides_its_models() {
    let mut snapshot = host::large();
    let note = "configuration refused, what ran before keeps running: ".repeat(8);
    snapshot.pool.as_mut().unwrap().note = Some(note);
    let mut state = state(snapshot, (40, 10));
    press(&mut state, "6");
    assert!(screen(&state).contains("glyphs"), "{}", screen(&state));
    press(&mut state, "⇲");
    assert!(screen(&state).contains("killed by signal 9"), "{}", screen(&state));
}

#[test]
fn no_pool() {
    let mut state = state(host::small(), (80, 24));
    press(&mut state, "6");
    insta::assert_snapshot!(screen(&state));
}

#[test]
fn gpus() {
    at_all_sizes("gpu", |size| {
        let mut state = state(host::large(), size);
        press(&mut state, "7");
        state
    });
}

#[test]
fn no_gpu() {
    let mut state = state(host::small(), (80, 24));
    press(&mut state, "7");
    insta::assert_snapshot!(screen(&state));
}

#[test]
fn actions() {
    at_all_sizes("actions", |size| {
        let mut state = state(host::large(), size);
        press(&mut state, "8");
        state
    });
}

#[test]
fn help() {
    at_all_sizes("help", |size| {
        let mut state = state(host::small(), size);
        press(&mut state, "?");
        state
    });
}

#[test]
fn explanation() {
    at_all_sizes("explain", |size| {
        let mut state = state(host::small(), size);
        press(&mut state, "\n");
        let answer = Ok(Response::Explain(Box::new(host::explanation(812))));
        state.update(Event::Answer(Request::Explain { pid: 812 }, answer), state.now);
        state
    });
}

#[test]
fn sort_menu() {
    let mut state = state(host::small(), (80, 24));
    press(&mut state, "⑥↓↓");
    insta::assert_snapshot!(screen(&state));
}

#[test]
fn filter() {
    let mut state = state(host::small(), (80, 24));
    press(&mut state, "\\ffm");
    insta::assert_snapshot!(screen(&state));
}

#[test]
fn five_thousand_processes() {
    let mut state = state(host::crowd(5_000), (120, 40));
    press(&mut state, "N⇲");
    insta::assert_snapshot!(screen(&state));
}

#[test]
fn no_processes_and_no_classes() {
    let mut snapshot = host::small();
    snapshot.processes.clear();
    snapshot.classes.clear();
    snapshot.cpus.clear();
    insta::assert_snapshot!(screen(&state(snapshot, (80, 24))));
}

#[test]
fn a_stale_picture_tells_its_age() {
    let mut state = state(host::small(), (80, 24));
    assert!(!state.pass(Duration::from_millis(100_500)), "nothing to draw yet");
    assert!(state.pass(Duration::from_secs(107)));
    assert!(screen(&state).lines().next().unwrap().contains("7 s old"));
}

#[test]
fn a_lost_agent_leaves_a_dimmed_picture() {
    use ratatui::style::Modifier;
    let mut state = state(host::small(), (80, 24));
    let dim = |state: &State| {
        let buffer = buffer(state);
        (2..20).all(|y| buffer[(0, y)].modifier.contains(Modifier::DIM))
    };
    assert!(!dim(&state));
    state.link = Link::Lost { reason: "gone".into() };
    assert!(dim(&state));
}

#[test]
fn nothing_is_drawn_in_colours_when_they_are_off() {
    use ratatui::style::Color;
    let mut state = state(host::large(), (120, 40));
    state.theme = Theme { colours: false };
    let buffer = buffer(&state);
    assert!(buffer.content.iter().all(|c| c.fg == Color::Reset && c.bg == Color::Reset));
}

#[test]
fn only_the_terminals_own_palette_is_used() {
    use ratatui::style::Color;
    for page in ["1", "2", "3", "4", "5", "5\n", "6", "7", "8", "?"] {
        let mut state = state(host::large(), (120, 40));
        press(&mut state, page);
        for cell in &buffer(&state).content {
            for colour in [cell.fg, cell.bg] {
                assert!(!matches!(colour, Color::Rgb(..) | Color::Indexed(_) | Color::White));
            }
        }
    }
}

/// Every size down to nothing, every page, everything that can lie over it.
#[test]
fn no_size_panics() {
    let snapshots = [host::small(), host::large(), host::procfs_only(), host::crowd(40)];
    let widths = [0, 1, 2, 3, 5, 9, 14, 19, 23, 39, 40, 59, 76, 101, 180, 300];
    let heights = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 15, 24, 31, 60, 100];
    let sizes = widths.into_iter().flat_map(|w| heights.map(|h| (w, h)));
    let keys = [
        "1",
        "2",
        "3⇲",
        "4⇟",
        "5↓↓",
        "5⇲\n⇟",
        "6⇟",
        "7⇲",
        "8↓↓",
        "?⇟⇲",
        "\n↓",
        "⑥⇲",
        "/ffm",
        "\\x",
        "⇲⇟",
    ];
    for (n, size) in sizes.enumerate() {
        let snapshot = snapshots[n % snapshots.len()].clone();
        for keys in keys {
            let mut state = state(snapshot.clone(), size);
            press(&mut state, keys);
            if n % 3 == 0 {
                state.update(Event::Lost("gone".into()), Duration::from_secs(200));
            }
            screen(&state);
        }
    }
}

#[test]
fn the_cursor_stays_on_its_process_and_in_sight() {
    let mut state = state(host::crowd(300), (80, 24));
    press(&mut state, "P↓↓↓⇟⇟");
    let pid =
        |state: &State| state.table.under_cursor(state.snapshot.as_ref().unwrap()).unwrap().pid;
    let before = pid(&state);
    let mut next = host::crowd(300);
    next.processes.reverse();
    for process in &mut next.processes {
        process.cpu = 1.0 / f64::from(process.pid);
    }
    state.update(Event::Snapshot(Box::new(next)), Duration::from_secs(101));
    assert_eq!(pid(&state), before);
    assert!(screen(&state).contains(&format!("worker-{before} ")), "{}", screen(&state));
}

#[test]
fn a_page_scrolls_to_its_end_and_no_further() {
    let mut state = state(host::large(), (40, 10));
    press(&mut state, "8⇲");
    let end = screen(&state);
    press(&mut state, "↓↓↓↓⇟");
    assert_eq!(screen(&state), end);
    state.update(
        Event::Key(KeyEvent::new(KeyCode::Up, KeyModifiers::NONE)),
        Duration::from_secs(101),
    );
    assert_ne!(screen(&state), end, "one step up is seen at once");
}

#[test]
fn search_moves_the_cursor() {
    let mut state = state(host::small(), (80, 24));
    press(&mut state, "/SSHD\n");
    let snapshot = state.snapshot.as_ref().unwrap();
    assert_eq!(state.table.under_cursor(snapshot).unwrap().pid, 77);
    assert_eq!(state.table.rows.len(), 7, "nothing is hidden by a search");
}

#[test]
fn a_second_search_is_typed_and_not_obeyed() {
    let mut state = state(host::small(), (80, 24));
    press(&mut state, "/SSHD\n③pq");
    assert!(screen(&state).contains("Search: pq"), "{}", screen(&state));
    press(&mut state, "\n");
    assert!(state.prompt.is_none());
    press(&mut state, "/SSHD\n⌂n");
    let snapshot = state.snapshot.as_ref().unwrap();
    assert_eq!(state.table.under_cursor(snapshot).unwrap().pid, 77);
}
