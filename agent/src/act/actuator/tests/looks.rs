//! What a look finds changed, and what it tries again.

use super::*;

#[test]
fn a_value_that_someone_else_changed_is_theirs_from_then_on() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(0));
    bench.apply(thread, &[fifo(20)]);
    bench.kernel.change_behind_its_back(7, Value::Sched(nice(11)));
    assert!(matches!(events(&bench.actuator.verify(NOW))[..], [Event::HandedOff { .. }]));
    assert!(bench.actuator.verify(NOW).is_empty(), "it is told once");
    assert!(bench.apply(thread, &[fifo(20)]).is_empty());
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(11)));
    assert_eq!(bench.journalled(), 0);
}

#[test]
fn a_thread_that_ends_is_forgotten() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(0));
    bench.apply(thread, &[idle()]);
    bench.kernel.0.borrow_mut().start_times.remove(&7);
    assert!(bench.actuator.verify(NOW).is_empty());
    assert_eq!((bench.actuator.journalled(), bench.journalled()), (0, 0));
}

#[test]
fn many_threads_take_turns_and_a_change_is_seen_within_four_looks() {
    let mut bench = Bench::new();
    let threads: Vec<ThreadId> =
        (1000..1600).map(|tid| bench.kernel.thread(tid, BEFORE, nice(0))).collect();
    let wanted = [idle()];
    let requests: Vec<Request<'_>> = threads
        .iter()
        .map(|thread| Request { subject: (*thread).into(), wanted: &wanted, otherwise: &[] })
        .collect();
    bench.actuator.apply(&requests, NOW);
    for tid in [1000, 1001, 1002, 1003] {
        bench.kernel.change_behind_its_back(tid, Value::Sched(nice(9)));
    }
    let told: Vec<usize> = (0..4).map(|_| bench.actuator.verify(NOW).len()).collect();
    assert_eq!(told, [1, 1, 1, 1]);
    assert_eq!(bench.actuator.journalled(), 596);
}

#[test]
fn real_time_threads_are_looked_at_each_time_among_however_many() {
    let mut bench = Bench::new();
    for tid in 1000..1600 {
        let thread = bench.kernel.thread(tid, BEFORE, nice(0));
        bench.apply(thread, &[idle()]);
    }
    for tid in [7, 8, 9, 10] {
        let thread = bench.kernel.thread(tid, BEFORE, nice(0));
        bench.apply(thread, &[fifo(20)]);
        bench.kernel.change_behind_its_back(tid, Value::Sched(nice(9)));
    }
    // Its id is another thread's by now: nobody changed anything.
    bench.kernel.thread(10, NOW + 5, nice(0));
    let done = bench.actuator.verify(NOW);
    let mut tids: Vec<u32> = done.iter().map(|done| tid(&done.subject)).collect();
    tids.sort_unstable();
    assert_eq!(tids, [7, 8, 9]);
    assert_eq!(bench.actuator.journalled(), 600);
}

#[test]
fn what_a_full_journal_refused_is_set_once_it_has_room() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(thread, &[Value::Ioprio(3 << 13)]);
    bench.actuator.journal.fill_up();
    let done = bench.apply(thread, &[idle(), Value::Ioprio(3 << 13)]);
    assert!(matches!(events(&done)[..], [Event::Failed { .. }]), "{done:?}");
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(3)));
    let mut done = Vec::new();
    for _ in 0..5 {
        done.extend(bench.actuator.verify(NOW));
    }
    assert!(matches!(events(&done)[..], [Event::Applied { .. }]), "{done:?}");
    assert_eq!(bench.kernel.value(7, Lever::Sched), idle());
    assert_eq!(bench.kernel.value(7, Lever::Ioprio), Value::Ioprio(3 << 13));
    assert_eq!(bench.journalled(), 2);
}

#[test]
fn what_a_full_journal_refused_is_not_set_after_a_pause() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.actuator.journal.fill_up();
    bench.apply(thread, &[idle()]);
    bench.actuator.undo(7);
    for _ in 0..5 {
        assert!(bench.actuator.verify(NOW).is_empty());
    }
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(3)));
}

#[test]
fn what_was_as_wanted_and_is_changed_by_someone_is_theirs() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(5));
    bench.apply(thread, &[Value::Sched(nice(5))]);
    bench.kernel.change_behind_its_back(7, Value::Sched(nice(1)));
    let done = bench.actuator.verify(NOW);
    let ours = Value::Sched(nice(5));
    assert_eq!(events(&done), [&Event::HandedOff { ours, theirs: Value::Sched(nice(1)) }]);
    assert!(bench.actuator.wants_attention(7));
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(1)));
}

#[test]
fn a_look_before_a_demotion_is_told_does_not_take_it_for_someone_elses() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(thread, &[fifo(20)]);
    // The watch put the old value back, and the look comes before its news.
    bench.kernel.change_behind_its_back(7, Value::Sched(nice(3)));
    assert!(bench.actuator.verify(NOW).is_empty());
    let done = bench.actuator.demoted(thread, "it ran on end");
    assert!(matches!(events(&done)[..], [Event::Failed { .. }]), "{done:?}");
    assert_eq!(bench.journalled(), 0);
}

#[test]
fn real_time_that_someone_took_back_is_theirs_at_the_second_look() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(thread, &[fifo(20)]);
    bench.kernel.change_behind_its_back(7, Value::Sched(nice(3)));
    assert!(bench.actuator.verify(NOW).is_empty());
    assert!(matches!(events(&bench.actuator.verify(NOW))[..], [Event::HandedOff { .. }]));
}
