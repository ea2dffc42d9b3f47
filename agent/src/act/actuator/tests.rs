//! The actuator against a kernel made of two maps.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::rc::Rc;

use super::*;
use crate::act::Sched;
use crate::act::journal::{self, Found};
use crate::roots::Roots;

/// A kernel that can be looked into, changed behind the actuator's back, and told to refuse.
#[derive(Clone, Default)]
struct FakeKernel(Rc<RefCell<FakeState>>);

#[derive(Default)]
struct FakeState {
    values: HashMap<(u32, Lever), Value>,
    start_times: HashMap<u32, u64>,
    refused: HashMap<(u32, Lever), i32>,
    slacks: HashMap<u32, u64>,
    writes: usize,
    refuses_reservations: bool,
}

impl FakeKernel {
    fn thread(&self, tid: u32, start_time: u64, sched: Sched) -> ThreadId {
        let mut state = self.0.borrow_mut();
        state.start_times.insert(tid, start_time);
        state.values.insert((tid, Lever::Sched), Value::Sched(sched));
        state.values.insert((tid, Lever::Affinity), Value::Affinity(vec![0, 1]));
        state.values.insert((tid, Lever::Ioprio), Value::Ioprio(0));
        state.values.insert((tid, Lever::OomScoreAdj), Value::OomScoreAdj(0));
        ThreadId { pid: 100, tid, start_time }
    }

    fn value(&self, tid: u32, lever: Lever) -> Value {
        self.0.borrow().values[&(tid, lever)].clone()
    }

    fn change_behind_its_back(&self, tid: u32, value: Value) {
        self.0.borrow_mut().values.insert((tid, value.lever()), value);
    }

    fn refuse(&self, tid: u32, lever: Lever, errno: i32) {
        self.0.borrow_mut().refused.insert((tid, lever), errno);
    }

    fn writes(&self) -> usize {
        self.0.borrow().writes
    }
}

impl Control for FakeKernel {
    fn read(&self, lever: Lever, subject: &Subject) -> io::Result<Value> {
        let gone = || io::Error::from_raw_os_error(libc::ESRCH);
        let tid = tid(subject);
        self.0.borrow().values.get(&(tid, lever)).cloned().ok_or_else(gone)
    }

    fn write(&self, subject: &Subject, value: &Value) -> io::Result<()> {
        let tid = tid(subject);
        let mut state = self.0.borrow_mut();
        if let Some(errno) = state.refused.get(&(tid, value.lever())) {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        let reserves = matches!(value, Value::Sched(sched) if sched.is_reservation());
        if reserves && state.refuses_reservations {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        if !state.start_times.contains_key(&tid) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        state.writes += 1;
        let mut value = value.clone();
        if let Value::Sched(sched) = &mut value {
            let slack = sched.timer_slack.take().unwrap_or(SLACK);
            state.slacks.insert(tid, if sched.is_realtime() { 0 } else { slack });
        }
        state.values.insert((tid, value.lever()), value);
        Ok(())
    }

    fn timer_slack(&self, tid: u32) -> io::Result<u64> {
        Ok(self.0.borrow().slacks.get(&tid).copied().unwrap_or(SLACK))
    }

    fn start_time(&self, tid: u32) -> io::Result<u64> {
        let gone = || io::Error::from_raw_os_error(libc::ESRCH);
        self.0.borrow().start_times.get(&tid).copied().ok_or_else(gone)
    }

    fn is_same(&self, subject: &Subject) -> bool {
        let id = subject.thread().expect("these tests have threads alone");
        self.start_time(id.tid).ok() == Some(id.start_time)
    }
}

fn tid(subject: &Subject) -> u32 {
    subject.thread().expect("these tests have threads alone").tid
}

struct Bench {
    kernel: FakeKernel,
    actuator: Actuator<FakeKernel>,
    run: tempfile::TempDir,
    roots: Roots,
    _proc: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let proc = tempfile::tempdir().unwrap();
        let random = proc.path().join("sys/kernel/random");
        fs::create_dir_all(&random).unwrap();
        fs::write(random.join("boot_id"), "this").unwrap();
        let roots = Roots { proc: proc.path().into(), ..Roots::default() };
        let run = tempfile::tempdir().unwrap();
        let kernel = FakeKernel::default();
        let journal = Journal::open(run.path(), &roots).unwrap().0;
        let actuator = Actuator::new(kernel.clone(), journal, CAP);
        Self { kernel, actuator, run, roots, _proc: proc }
    }

    fn apply(&mut self, thread: ThreadId, wanted: &[Value]) -> Vec<Done> {
        let request = Request { subject: thread.into(), wanted, otherwise: &[] };
        self.actuator.apply(&[request], NOW)
    }

    fn journalled(&self) -> usize {
        match journal::read(&self.run.path().join(journal::FILE_NAME), &self.roots).unwrap() {
            Found::Changes(changes) => changes.len(),
            other => panic!("{other:?}"),
        }
    }
}

/// The kernel's default timer slack, nanoseconds.
const SLACK: u64 = 50_000;

/// Room for every real-time thread of these tests.
const CAP: Cap = Cap { bandwidth: 1.0, threads: 8 };

/// When the tests set things, and a start time before it.
const NOW: u64 = 1000;
const BEFORE: u64 = 500;

fn fifo(priority: u32) -> Value {
    let policy = libc::SCHED_FIFO.cast_unsigned();
    Value::Sched(Sched { policy, priority, flags: super::super::RESET_ON_FORK, ..Sched::DEFAULT })
}

fn idle() -> Value {
    Value::Sched(Sched { policy: libc::SCHED_IDLE.cast_unsigned(), ..Sched::DEFAULT })
}

fn nice(nice: i32) -> Sched {
    Sched { nice, ..Sched::DEFAULT }
}

fn events(done: &[Done]) -> Vec<&Event> {
    done.iter().map(|done| &done.event).collect()
}

#[test]
fn what_is_set_is_journalled_and_goes_back() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(thread, &[fifo(20), Value::Affinity(vec![1])]);
    assert_eq!(bench.kernel.value(7, Lever::Sched), fifo(20));
    assert_eq!(bench.journalled(), 2);
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(3)));
    assert_eq!(bench.kernel.value(7, Lever::Affinity), Value::Affinity(vec![0, 1]));
    assert_eq!(bench.journalled(), 0);
}

#[test]
fn asking_again_does_nothing() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(0));
    bench.apply(thread, &[fifo(20)]);
    assert!(bench.apply(thread, &[fifo(20)]).is_empty());
    assert_eq!(bench.kernel.writes(), 1);
}

#[test]
fn another_policy_keeps_the_first_old_value() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(thread, &[fifo(20)]);
    bench.apply(thread, &[idle()]);
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(3)));
}

#[test]
fn a_lever_that_is_not_wanted_any_more_goes_back() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(thread, &[fifo(20), Value::Affinity(vec![1])]);
    let done = bench.apply(thread, &[fifo(20)]);
    assert_eq!(events(&done), [&Event::Restored { old: Value::Affinity(vec![0, 1]) }]);
    assert_eq!(bench.kernel.value(7, Lever::Sched), fifo(20));
}

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
fn a_change_between_two_looks_is_noticed_when_it_is_to_go_back() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(0));
    bench.apply(thread, &[fifo(20)]);
    bench.kernel.change_behind_its_back(7, Value::Sched(nice(11)));
    assert!(matches!(events(&bench.actuator.undo(7))[..], [Event::HandedOff { .. }]));
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(11)));
}

#[test]
fn a_thread_that_is_real_time_by_its_own_wish_is_left_alone() {
    let mut bench = Bench::new();
    let Value::Sched(own) = fifo(88) else { unreachable!() };
    let thread = bench.kernel.thread(7, BEFORE, own);
    bench.apply(thread, &[idle(), Value::Ioprio(3 << 13)]);
    assert_eq!(bench.kernel.value(7, Lever::Sched), fifo(88));
    assert_eq!(bench.kernel.value(7, Lever::Ioprio), Value::Ioprio(3 << 13));
}

#[test]
fn what_the_kernel_refuses_is_told_once_and_is_not_in_the_journal() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(0));
    bench.kernel.refuse(7, Lever::Sched, libc::EPERM);
    let done = bench.apply(thread, &[fifo(20)]);
    let [Event::Failed { reason, .. }] = events(&done)[..] else { panic!("{done:?}") };
    assert!(reason.contains("CAP_SYS_NICE") && reason.contains("RT_GROUP_SCHED"), "{reason}");
    assert!(bench.apply(thread, &[fifo(20)]).is_empty());
    assert!(bench.actuator.wants_attention(7));
    assert_eq!(bench.journalled(), 0);
}

fn reservation(runtime_ms: u64) -> Value {
    let (runtime, period) = (runtime_ms * 1_000_000, 10_000_000);
    let policy = libc::SCHED_DEADLINE.cast_unsigned();
    let flags = super::super::RESET_ON_FORK;
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
fn a_reused_thread_id_is_another_thread() {
    let mut bench = Bench::new();
    let first = bench.kernel.thread(7, BEFORE, nice(0));
    bench.apply(first, &[idle()]);
    let second = bench.kernel.thread(7, NOW + 5, nice(9));
    bench.actuator.undo(7);
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(9)), "not ours to undo");
    bench.apply(second, &[idle()]);
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(9)));
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
    bench.actuator.succeed(101, 100);
    assert!(bench.actuator.verify(NOW).is_empty(), "nobody else changed anything");
    assert_eq!(bench.journalled(), 2);
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(100, Lever::Sched), Value::Sched(nice(2)));
    assert_eq!(bench.kernel.value(100, Lever::OomScoreAdj), Value::OomScoreAdj(0));
    assert_eq!(bench.journalled(), 0);
}

#[test]
fn a_process_has_one_oom_score() {
    let mut bench = Bench::new();
    let main = bench.kernel.thread(100, BEFORE, nice(0));
    let other = bench.kernel.thread(101, BEFORE, nice(0));
    let wanted = [Value::OomScoreAdj(-500)];
    let requests = [main, other].map(|thread| Request {
        subject: thread.into(),
        wanted: &wanted,
        otherwise: &[],
    });
    bench.actuator.apply(&requests, NOW);
    assert_eq!(bench.kernel.value(100, Lever::OomScoreAdj), Value::OomScoreAdj(-500));
    assert_eq!(bench.kernel.writes(), 1);
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
fn the_journal_ends_when_nothing_is_left_to_put_back() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(0));
    bench.apply(thread, &[idle()]);
    bench.actuator.undo_all();
    assert_eq!(bench.actuator.finish().unwrap(), 0);
    assert_eq!(
        journal::read(&bench.run.path().join(journal::FILE_NAME), &bench.roots).unwrap(),
        Found::Nothing
    );
}

#[test]
fn a_new_value_that_is_refused_leaves_the_earlier_one_ours() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(thread, &[idle()]);
    bench.kernel.refuse(7, Lever::Sched, libc::EPERM);
    let done = bench.apply(thread, &[fifo(20)]);
    assert!(matches!(events(&done)[..], [Event::Failed { .. }]));
    bench.actuator.verify(NOW);
    assert_eq!(bench.journalled(), 1);
    bench.kernel.0.borrow_mut().refused.clear();
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(3)));
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
fn the_end_of_the_main_thread_is_not_the_end_of_the_processs_own_values() {
    let mut bench = Bench::new();
    let main = bench.kernel.thread(100, BEFORE, nice(0));
    bench.apply(main, &[idle(), Value::OomScoreAdj(300)]);
    // A main thread that ended before the others stays as a zombie with its start time.
    bench.actuator.forget(100);
    assert_eq!(bench.journalled(), 1);
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(100, Lever::OomScoreAdj), Value::OomScoreAdj(0));
    assert_eq!(bench.kernel.value(100, Lever::Sched), idle(), "nobody can run on it any more");
}

#[test]
fn what_is_someone_elses_stays_so_through_a_pause() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(0));
    bench.apply(thread, &[fifo(20)]);
    bench.kernel.change_behind_its_back(7, Value::Sched(nice(11)));
    bench.actuator.verify(NOW);
    bench.actuator.undo_all();
    bench.apply(thread, &[]);
    assert!(bench.apply(thread, &[fifo(20)]).is_empty());
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(11)));
    assert_eq!(bench.actuator.finish().unwrap(), 0);
    assert_eq!(
        journal::read(&bench.run.path().join(journal::FILE_NAME), &bench.roots).unwrap(),
        Found::Nothing
    );
}

#[test]
fn what_cannot_be_put_back_stays_in_the_journal() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(thread, &[fifo(20)]);
    bench.kernel.refuse(7, Lever::Sched, libc::EPERM);
    assert!(matches!(events(&bench.actuator.undo_all())[..], [Event::Failed { .. }]));
    assert_eq!(bench.journalled(), 1);
    // Also through the start of another agent.
    let (journal, left) = Journal::open(bench.run.path(), &bench.roots).unwrap();
    bench.actuator = Actuator::new(bench.kernel.clone(), journal, CAP);
    bench.actuator.take_over(left);
    bench.actuator.undo_all();
    assert_eq!(bench.journalled(), 1);
    assert_eq!(bench.actuator.finish().unwrap(), 1);
    let (journal, left) = Journal::open(bench.run.path(), &bench.roots).unwrap();
    bench.actuator = Actuator::new(bench.kernel.clone(), journal, CAP);
    bench.actuator.take_over(left);
    bench.kernel.0.borrow_mut().refused.clear();
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(3)));
    assert_eq!(bench.journalled(), 0);
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
