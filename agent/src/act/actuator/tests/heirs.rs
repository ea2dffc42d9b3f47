//! What children have from their creators, and what goes along through exec.

use super::*;

#[test]
fn a_child_of_an_idle_thread_gets_its_creators_old_value_back() {
    let mut bench = Bench::new();
    let parent = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(parent, &[idle()]);
    let child = bench.kernel.thread(8, NOW, nice(0));
    bench.kernel.change_behind_its_back(8, idle());
    bench.actuator.inherit(child, &[100]);
    assert_eq!(bench.journalled(), 2);
    bench.actuator.undo(8);
    assert_eq!(bench.kernel.value(8, Lever::Sched), Value::Sched(nice(3)));
    assert_eq!(bench.kernel.value(7, Lever::Sched), idle());
}

#[test]
fn a_child_that_the_kernel_reset_gets_its_creators_old_value_back() {
    let mut bench = Bench::new();
    let parent = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(parent, &[fifo(20)]);
    let child = bench.kernel.thread(8, NOW, Sched::DEFAULT);
    bench.actuator.inherit(child, &[100]);
    bench.apply(child, &[fifo(20)]);
    assert_eq!(bench.kernel.value(8, Lever::Sched), fifo(20));
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(8, Lever::Sched), Value::Sched(nice(3)));
}

#[test]
fn a_thread_that_was_there_before_inherits_nothing() {
    let mut bench = Bench::new();
    let parent = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(parent, &[idle()]);
    let Value::Sched(own) = idle() else { unreachable!() };
    let older = bench.kernel.thread(8, BEFORE, own);
    bench.actuator.inherit(older, &[100]);
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(8, Lever::Sched), idle());
}

#[test]
fn a_thread_that_execs_takes_its_values_along_to_the_main_threads_id() {
    let mut bench = Bench::new();
    let main = bench.kernel.thread(100, BEFORE, nice(1));
    let other = bench.kernel.thread(101, BEFORE + 1, nice(2));
    bench.apply(main, &[idle(), Value::OomScoreAdj(300)]);
    bench.apply(other, &[fifo(20)]);
    // The kernel's part: the main thread is gone, the other one has its id and start time.
    bench.kernel.0.borrow_mut().start_times.remove(&101);
    bench.kernel.change_behind_its_back(100, fifo(20));
    bench.kernel.renice(100, 2);
    bench.actuator.succeed(101, 100);
    assert!(bench.actuator.verify(NOW).is_empty(), "nobody else changed anything");
    assert_eq!(bench.journalled(), 2);
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(100, Lever::Sched), Value::Sched(nice(2)));
    assert_eq!(bench.kernel.value(100, Lever::OomScoreAdj), Value::OomScoreAdj(0));
    assert_eq!(bench.journalled(), 0);
}

#[test]
fn what_a_child_loses_again_is_not_told() {
    let mut bench = Bench::new();
    let parent = bench.kernel.thread(7, BEFORE, nice(0));
    bench.apply(parent, &[idle()]);
    let child = bench.kernel.thread(8, NOW, nice(0));
    bench.kernel.change_behind_its_back(8, idle());
    bench.actuator.inherit(child, &[100]);
    assert!(bench.actuator.undo(8).is_empty());
    assert_eq!(bench.kernel.value(8, Lever::Sched), Value::Sched(nice(0)));
}

#[test]
fn a_child_that_is_met_after_its_creator_was_put_back_loses_what_it_has() {
    let mut bench = Bench::new();
    let parent = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(parent, &[idle()]);
    bench.actuator.undo(7);
    let child = bench.kernel.thread(8, NOW + 10, nice(0));
    bench.kernel.change_behind_its_back(8, idle());
    assert!(bench.actuator.inherit(child, &[100]));
    bench.actuator.undo(8);
    assert_eq!(bench.kernel.value(8, Lever::Sched), Value::Sched(nice(3)));
    assert_eq!(bench.journalled(), 0);
}

#[test]
fn a_grandchild_whose_parent_nobody_saw_loses_what_it_has() {
    let mut bench = Bench::new();
    let parent = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(parent, &[idle()]);
    bench.actuator.pass_on(100, 200);
    let grandchild = bench.kernel.thread(8, NOW + 10, nice(0));
    bench.kernel.change_behind_its_back(8, idle());
    assert!(bench.actuator.inherit(ThreadId { pid: 8, ..grandchild }, &[8, 1, 200, 200]));
    bench.actuator.undo(8);
    assert_eq!(bench.kernel.value(8, Lever::Sched), Value::Sched(nice(3)));
}

#[test]
fn a_child_of_a_real_time_thread_gets_its_creators_timer_slack_back() {
    let mut bench = Bench::new();
    let parent = bench.kernel.thread(7, BEFORE, Sched::DEFAULT);
    bench.kernel.0.borrow_mut().slacks.insert(7, 1000);
    bench.apply(parent, &[fifo(20)]);
    // The kernel resets the child's policy, and not its timer slack.
    let child = bench.kernel.thread(8, NOW, Sched::DEFAULT);
    bench.kernel.0.borrow_mut().slacks.insert(8, 0);
    assert!(bench.actuator.inherit(child, &[100]));
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.timer_slack(7).unwrap(), 1000);
    assert_eq!(bench.kernel.timer_slack(8).unwrap(), 1000);
}

#[test]
fn a_thread_that_execs_before_it_was_met_still_inherits() {
    let mut bench = Bench::new();
    let main = bench.kernel.thread(100, NOW, nice(0));
    bench.apply(main, &[idle(), Value::OomScoreAdj(300)]);
    // The exec ended the main thread, and gave its id to a thread that nobody had seen.
    bench.actuator.forget(100);
    bench.actuator.succeed(101, 100);
    assert!(bench.actuator.inherit(main, &[100]));
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(100, Lever::Sched), Value::Sched(nice(0)));
    assert_eq!(bench.kernel.value(100, Lever::OomScoreAdj), Value::OomScoreAdj(0));
}
