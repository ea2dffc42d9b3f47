//! Bounds of real time, and what comes in place of what is refused.

use super::*;

fn reservation(runtime_ms: u64) -> Value {
    let (runtime, period) = (runtime_ms * 1_000_000, 10_000_000);
    let policy = libc::SCHED_DEADLINE.cast_unsigned();
    let flags = RESET_ON_FORK;
    Value::Sched(Sched { policy, flags, runtime, deadline: period, period, ..Sched::DEFAULT })
}

impl Bench {
    fn apply_or(&mut self, thread: ThreadId, wanted: Value, otherwise: &[Value]) -> Vec<Done> {
        let wanted = &[wanted];
        let request = Request { subject: thread.into(), wanted, otherwise };
        self.actuator.apply(&[request], NOW)
    }
}

#[test]
fn a_reservation_that_is_refused_becomes_the_next_rung() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.kernel.0.borrow_mut().refuses_reservations = true;
    let done = bench.apply_or(thread, reservation(2), &[fifo(30)]);
    let [Event::Failed { reason, .. }, Event::Applied { .. }] = events(&done)[..] else {
        panic!("{done:?}");
    };
    assert!(reason.contains("no room") && reason.ends_with("fifo 30 in its place"), "{reason}");
    assert_eq!(bench.kernel.value(7, Lever::Sched), fifo(30));
    assert!(bench.apply_or(thread, reservation(2), &[fifo(30)]).is_empty(), "it is told once");
    assert_eq!(bench.journalled(), 1);
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(3)));
}

#[test]
fn who_sleeps_outside_its_partition_gets_its_reservation_once_it_has_woken() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.kernel.0.borrow_mut().yet_to_move.insert(7);
    let done = bench.apply_or(thread, reservation(2), &[fifo(30)]);
    let [Event::Failed { reason, .. }, Event::Applied { .. }] = events(&done)[..] else {
        panic!("{done:?}");
    };
    assert!(reason.contains("asked again once the thread has woken; fifo 30"), "{reason}");
    assert!(bench.actuator.verify(NOW).is_empty());
    assert_eq!(bench.kernel.value(7, Lever::Sched), fifo(30));

    bench.kernel.0.borrow_mut().yet_to_move.clear();
    let done = bench.actuator.verify(NOW);
    assert!(matches!(events(&done)[..], [Event::Applied { .. }]), "{done:?}");
    assert_eq!(bench.kernel.value(7, Lever::Sched), reservation(2));
    assert!(bench.apply_or(thread, reservation(2), &[fifo(30)]).is_empty());
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(3)));
    assert_eq!(bench.journalled(), 0);
}

#[test]
fn who_was_put_back_before_it_woke_gets_no_reservation() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.kernel.0.borrow_mut().yet_to_move.insert(7);
    bench.apply_or(thread, reservation(2), &[]);
    bench.actuator.undo(7);
    bench.kernel.0.borrow_mut().yet_to_move.clear();
    assert!(bench.actuator.verify(NOW).is_empty());
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(3)));
}

#[test]
fn reservations_stay_under_the_cap() {
    let mut bench = Bench::new();
    let threads = [7, 8].map(|tid| bench.kernel.thread(tid, BEFORE, nice(0)));
    bench.apply_or(threads[0], reservation(6), &[]);
    let done = bench.apply_or(threads[1], reservation(5), &[fifo(30)]);
    assert!(matches!(events(&done)[..], [Event::Failed { .. }, Event::Applied { .. }]), "{done:?}");
    assert_eq!(bench.kernel.value(8, Lever::Sched), fifo(30));
    // Its own one does not count against what it is to have next.
    bench.apply_or(threads[0], reservation(7), &[]);
    assert_eq!(bench.kernel.value(7, Lever::Sched), reservation(7));
}

#[test]
fn real_time_threads_stay_under_the_cap() {
    let mut bench = Bench::new();
    for tid in 1..=9 {
        let thread = bench.kernel.thread(tid, BEFORE, nice(0));
        let done = bench.apply(thread, &[fifo(20)]);
        assert_eq!(matches!(events(&done)[..], [Event::Failed { .. }]), tid == 9, "{done:?}");
    }
    assert_eq!(bench.kernel.value(9, Lever::Sched), Value::Sched(nice(0)));
    bench.actuator.undo(1);
    bench.actuator.undo(9);
    let thread = bench.kernel.thread(9, BEFORE, nice(0));
    bench.apply(thread, &[fifo(20)]);
    assert_eq!(bench.kernel.value(9, Lever::Sched), fifo(20));
}

#[test]
fn what_could_not_be_put_back_is_not_set_and_the_next_rung_is() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.kernel.0.borrow_mut().one_way = Some(fifo(20));
    let done = bench.apply_or(thread, fifo(20), &[Value::Sched(nice(-15))]);
    let [Event::Failed { reason, .. }, Event::Applied { .. }] = events(&done)[..] else {
        panic!("{done:?}");
    };
    assert!(reason.starts_with("it could not be put back; other nice -15"), "{reason}");
    bench.kernel.0.borrow_mut().one_way = Some(idle());
    // What is ours already stays, and goes back.
    let done = bench.apply_or(thread, idle(), &[]);
    assert!(matches!(events(&done)[..], [Event::Failed { .. }]), "{done:?}");
    assert_eq!(bench.actuator.journalled(), 1);
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(3)));
}

#[test]
fn a_value_that_is_refused_halfway_leaves_nothing() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.kernel.0.borrow_mut().refuses_halfway = true;
    let done = bench.apply(thread, &[Value::Affinity(vec![1])]);
    assert!(matches!(events(&done)[..], [Event::Failed { .. }]), "{done:?}");
    assert_eq!(bench.kernel.value(7, Lever::Affinity), Value::Affinity(vec![0, 1]));
    assert_eq!(bench.journalled(), 0);
    // Also where something is ours already.
    bench.apply(thread, &[Value::Ioprio(5)]);
    bench.kernel.0.borrow_mut().refuses_halfway = true;
    bench.apply(thread, &[Value::Ioprio(6)]);
    assert_eq!(bench.kernel.value(7, Lever::Ioprio), Value::Ioprio(5));
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(7, Lever::Ioprio), Value::Ioprio(0));
}

#[test]
fn a_lever_that_is_not_there_does_not_make_its_thread_gone() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(thread, &[idle()]);
    // The fake kernel answers ESRCH, as if a file of the thread were not there.
    let done = bench.apply(thread, &[idle(), Value::TimerSlack(1000)]);
    assert!(matches!(events(&done)[..], [Event::Failed { .. }]), "{done:?}");
    assert_eq!(bench.actuator.journalled(), 1);
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(3)));
}
