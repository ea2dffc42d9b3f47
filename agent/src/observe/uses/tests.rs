//! Against folders that look like `/proc`, and against the test's own process.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

const BOTH: Wanted = Wanted { uses: true, maps: true };

/// Long enough for every look of a test.
const AMPLE: Duration = Duration::from_secs(1);

fn process(proc: &Path, pid: u32, device: &str, library: &str) {
    let folder = proc.join(pid.to_string());
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("fd")).unwrap();
    symlink(device, folder.join("fd/3")).unwrap();
    fs::write(folder.join("maps"), format!("1-2 r-xp 0 0:0 1 /usr/lib/{library}\n")).unwrap();
}

fn program(pid: u32, age: Duration) -> Program<'static> {
    Program { pid, start_time: 100, exe: "/usr/bin/it", age }
}

fn signs(proc: &Path) -> Signs {
    let mut signs = Signs::new(&Roots { proc: proc.into(), ..Roots::default() });
    signs.want(BOTH);
    signs
}

#[test]
fn a_new_program_is_looked_at_after_1_5_and_30_seconds_and_each_minute() {
    let proc = tempfile::tempdir().unwrap();
    process(proc.path(), 42, "/dev/null", "libc.so.6");
    let mut signs = signs(proc.path());
    let start = Instant::now();
    assert_eq!(signs.of(program(42, Duration::ZERO), start), Seen::default());
    let mut looked = Vec::new();
    for second in 0..200 {
        // Each look finds something new, so each is told.
        process(proc.path(), 42, "/dev/null", &format!("lib{second}.so"));
        let now = start + Duration::from_secs(second);
        if signs.news(now, AMPLE) == [42] {
            looked.push(second);
            assert_eq!(
                signs.of(program(42, Duration::ZERO), now).maps,
                [format!("lib{second}.so")]
            );
        }
    }
    assert_eq!(looked, [1, 5, 30, 90, 150]);
}

#[test]
fn an_old_process_is_looked_at_at_once_and_what_stays_the_same_is_no_news() {
    let proc = tempfile::tempdir().unwrap();
    process(proc.path(), 42, "/dev/snd/pcmC0D0p", "libc.so.6");
    let mut signs = signs(proc.path());
    let now = Instant::now();
    let old = program(42, Duration::from_secs(3600));
    signs.of(old, now);
    assert_eq!(signs.news(now, AMPLE), [42]);
    assert!(signs.of(old, now).uses.sound);
    assert!(signs.news(now + Duration::from_secs(59), AMPLE).is_empty());
    assert!(signs.news(now + Duration::from_secs(61), AMPLE).is_empty(), "nothing changed");
}

#[test]
fn another_program_or_process_begins_anew() {
    let proc = tempfile::tempdir().unwrap();
    process(proc.path(), 42, "/dev/snd/pcmC0D0p", "libc.so.6");
    let mut signs = signs(proc.path());
    let now = Instant::now();
    let old = program(42, Duration::from_secs(3600));
    signs.of(old, now);
    signs.news(now, AMPLE);
    let other = Program { exe: "/usr/bin/other", ..old };
    assert_eq!(signs.of(other, now), Seen::default());
    assert!(signs.news(now, AMPLE).is_empty(), "it has just begun");
    assert_eq!(signs.news(now + Duration::from_secs(1), AMPLE), [42]);
    let reused = Program { start_time: 200, ..other };
    assert_eq!(signs.of(reused, now), Seen::default());
    fs::remove_dir_all(proc.path().join("42")).unwrap();
    assert!(signs.news(now + Duration::from_secs(2), AMPLE).is_empty());
    assert!(signs.known.is_empty() && signs.due.is_empty(), "gone");
}

#[test]
fn nothing_is_looked_at_that_nobody_wants() {
    let proc = tempfile::tempdir().unwrap();
    process(proc.path(), 42, "/dev/snd/pcmC0D0p", "libc.so.6");
    let mut signs = signs(proc.path());
    signs.want(Wanted { uses: false, maps: true });
    let now = Instant::now();
    let old = program(42, Duration::from_secs(3600));
    signs.of(old, now);
    assert_eq!(signs.news(now, AMPLE), [42]);
    assert_eq!(signs.of(old, now), Seen { maps: vec!["libc.so.6".into()], ..Seen::default() });
    signs.want(Wanted::default());
    assert_eq!(signs.of(old, now), Seen::default());
    assert!(signs.known.is_empty());
}

#[test]
fn what_is_not_earned_waits() {
    let proc = tempfile::tempdir().unwrap();
    let mut signs = signs(proc.path());
    let now = Instant::now();
    for pid in 1..=200 {
        process(proc.path(), pid, "/dev/null", "libc.so.6");
        signs.of(program(pid, Duration::from_secs(3600)), now);
    }
    signs.purse.empty_to(Duration::from_micros(1));
    assert_eq!(signs.news(now, AMPLE).len(), 1, "the first one overdraws");
    assert!(signs.news(now, AMPLE).is_empty());
    // 10 s earn 10 ms, enough for some hundred of these.
    assert!(!signs.news(now + Duration::from_secs(10), AMPLE).is_empty());
}

#[test]
fn the_test_itself_is_seen() {
    let mut signs = signs(Path::new("/proc"));
    let now = Instant::now();
    let own = Program { pid: std::process::id(), ..program(0, Duration::from_secs(60)) };
    signs.of(own, now);
    assert_eq!(signs.news(now, AMPLE), [std::process::id()]);
    assert!(signs.of(own, now).maps.iter().any(|name| name.starts_with("libc.so")));
}
