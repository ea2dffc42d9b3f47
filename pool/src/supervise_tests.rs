use super::*;
use proptest::prelude::*;

const ZERO: Duration = Duration::ZERO;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn new(restart: Restart, readiness: Readiness) -> Supervisor {
    Supervisor::new(restart, readiness, ZERO)
}

/// Dies `life` after each start; returns the times of the starts until it fails.
fn starts_until_failed(life: Duration, limit: usize) -> (Supervisor, Vec<Duration>) {
    let mut worker = new(Restart::Always, Readiness::Alive);
    let (mut now, mut starts) = (ZERO, Vec::new());
    while worker.state() != WorkerState::Failed && starts.len() < limit {
        match worker.next(now) {
            Next::Spawn => {
                starts.push(now);
                worker.spawned(now);
                now += life;
                worker.ended(now, false, "exit status 1", 0.0);
            }
            Next::Wait(until) => now = until,
            other => panic!("{other:?}"),
        }
    }
    (worker, starts)
}

#[test]
fn a_built_in_worker_is_ready_when_it_says_so() {
    let mut worker = new(Restart::Always, Readiness::Notified);
    assert_eq!(worker.next(ZERO), Next::Spawn);
    worker.spawned(ZERO);
    assert_eq!(worker.next(ms(300)), Next::Wait(READY_LIMIT));
    assert_eq!(worker.state(), WorkerState::Starting);
    worker.ready();
    assert_eq!(worker.state(), WorkerState::Ready);
    assert_eq!(worker.next(ms(20_000)), Next::Idle);
}

#[test]
fn an_external_command_is_ready_when_it_has_lived_200_ms() {
    let mut worker = new(Restart::Always, Readiness::Alive);
    worker.spawned(ms(50));
    assert_eq!(worker.next(ms(249)), Next::Wait(ms(250)));
    assert_eq!(worker.state(), WorkerState::Starting);
    assert_eq!(worker.next(ms(250)), Next::Idle);
    assert_eq!(worker.state(), WorkerState::Ready);
}

#[test]
fn a_worker_that_hangs_at_its_start_is_killed_and_restarted() {
    let mut worker = new(Restart::Always, Readiness::Notified);
    worker.spawned(ZERO);
    assert_eq!(worker.next(READY_LIMIT), Next::Kill);
    assert_eq!(worker.next(READY_LIMIT), Next::Idle, "the signal is sent once");
    worker.ended(READY_LIMIT, false, "signal 9", 0.0);
    assert_eq!(worker.note(), Some("not ready within 10 s"));
    assert_eq!(worker.next(READY_LIMIT), Next::Wait(READY_LIMIT + ms(200)));
}

#[test]
fn one_that_is_stuck_is_killed_and_restarted_with_that_reason() {
    let mut worker = new(Restart::Never, Readiness::Loaded);
    worker.spawned(ZERO);
    assert_eq!(worker.next(ms(20_000)), Next::Wait(LOAD_LIMIT), "a model may load slowly");
    worker.ready();
    worker.condemn(Sentence::Passing("holds 1 request".into()));
    assert_eq!(worker.next(ms(30_000)), Next::Kill);
    assert_eq!(worker.next(ms(30_000)), Next::Idle, "the signal is sent once");
    worker.ended(ms(30_001), false, "killed by SIGKILL", 0.0);
    assert_eq!((worker.note(), worker.state()), (Some("holds 1 request"), WorkerState::Backoff));
}

#[test]
fn one_whose_model_cannot_be_loaded_stays_down() {
    let mut worker = new(Restart::Always, Readiness::Loaded);
    worker.spawned(ZERO);
    worker.condemn(Sentence::Lasting("no graph".into()));
    assert_eq!(worker.next(ms(1)), Next::Kill);
    worker.ended(ms(2), false, "killed by SIGKILL", 0.0);
    assert_eq!((worker.note(), worker.state()), (Some("no graph"), WorkerState::Failed));
    worker.retry(ms(3));
    assert_eq!(worker.next(ms(3)), Next::Spawn);
}

#[test]
fn five_deaths_in_a_minute_are_enough() {
    let (worker, starts) = starts_until_failed(ms(10), 100);
    assert_eq!(starts, [0, 210, 620, 1430, 3040].map(ms));
    assert_eq!(worker.restarts(), 4);
    let note = worker.note().unwrap();
    assert!(note.starts_with("exit status 1; 5 times within 60 s"), "{note}");
    assert!(worker.is_over());
}

#[test]
fn slow_deaths_wait_ever_longer_but_never_fail() {
    let (worker, starts) = starts_until_failed(ms(15_000), 30);
    assert_eq!(worker.state(), WorkerState::Backoff);
    assert_eq!(starts[29] - starts[28], ms(45_000), "life and the longest delay");
}

#[test]
fn a_long_life_resets_the_delay() {
    let mut worker = new(Restart::Always, Readiness::Alive);
    worker.spawned(ZERO);
    worker.ended(ms(10), false, "x", 0.0);
    worker.spawned(ms(210));
    worker.ended(ms(220), false, "x", 0.0);
    assert_eq!(worker.next(ms(220)), Next::Wait(ms(620)));
    worker.spawned(ms(620));
    worker.ended(ms(70_000), false, "x", 0.0);
    assert_eq!(worker.next(ms(70_000)), Next::Wait(ms(70_200)));
}

#[test]
fn the_restart_policy_decides() {
    for (restart, clean, wanted) in [
        (Restart::Always, true, WorkerState::Backoff),
        (Restart::Always, false, WorkerState::Backoff),
        (Restart::OnFailure, true, WorkerState::Stopped),
        (Restart::OnFailure, false, WorkerState::Backoff),
        (Restart::Never, true, WorkerState::Stopped),
        (Restart::Never, false, WorkerState::Stopped),
    ] {
        let mut worker = new(restart, Readiness::Alive);
        worker.spawned(ZERO);
        worker.ended(ms(1), clean, "x", 0.5);
        assert_eq!(worker.state(), wanted, "{restart:?} {clean}");
    }
}

#[test]
fn a_program_that_does_not_exist_fails_at_once_and_can_be_retried() {
    let mut worker = new(Restart::Always, Readiness::Alive);
    worker.refused("no such program".into());
    assert_eq!(worker.state(), WorkerState::Failed);
    assert_eq!(worker.next(ms(100_000)), Next::Idle);
    worker.retry(ms(100_000));
    assert_eq!(worker.next(ms(100_000)), Next::Spawn);
}

#[test]
fn stopping_is_sigterm_then_sigkill_two_seconds_later() {
    let mut worker = new(Restart::Always, Readiness::Alive);
    worker.spawned(ZERO);
    worker.stop();
    assert_eq!(worker.next(ms(1000)), Next::Terminate);
    assert_eq!(worker.next(ms(1000)), Next::Wait(ms(3000)));
    assert_eq!(worker.next(ms(3000)), Next::Kill);
    assert_eq!(worker.next(ms(3000)), Next::Idle);
    assert!(!worker.is_over(), "its process is still there");
    worker.ended(ms(3001), false, "signal 9", 0.0);
    assert_eq!(worker.state(), WorkerState::Stopped);
    assert_eq!(worker.next(ms(9999)), Next::Idle, "a stopped worker is not restarted");
}

#[test]
fn a_second_signal_cuts_the_wait() {
    let mut worker = new(Restart::Always, Readiness::Alive);
    worker.spawned(ZERO);
    worker.stop();
    worker.next(ZERO);
    worker.hurry(ms(100));
    assert_eq!(worker.next(ms(100)), Next::Kill);
}

#[test]
fn a_retry_does_not_touch_what_runs() {
    let mut worker = new(Restart::Always, Readiness::Alive);
    worker.spawned(ZERO);
    worker.ready();
    worker.retry(ms(5));
    assert_eq!(worker.next(ms(5)), Next::Idle);
    assert_eq!(worker.state(), WorkerState::Ready);
}

proptest! {
    /// Whatever happens in whatever order: no start while a process may live, and a stopped
    /// worker stays stopped.
    #[test]
    fn there_is_never_a_second_process(events in prop::collection::vec((0..8u8, 0..5000u64), 1..200)) {
        let mut worker = new(Restart::Always, Readiness::Notified);
        let (mut now, mut alive, mut stopped) = (ZERO, false, false);
        for (event, pass) in events {
            now += ms(pass);
            match event {
                0 if alive => { worker.ended(now, false, "x", 0.5); alive = false; }
                1 => worker.ready(),
                2 if pass > 4900 => { worker.stop(); stopped = true; }
                3 if !stopped => worker.retry(now),
                4 => worker.hurry(now),
                5 => worker.condemn(Sentence::Passing("x".into())),
                _ => {}
            }
            if worker.next(now) == Next::Spawn {
                prop_assert!(!alive && !stopped);
                worker.spawned(now);
                alive = true;
            }
            prop_assert!(!(alive && worker.is_over()));
        }
    }
}
