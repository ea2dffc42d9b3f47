//! The actuator against a kernel made of two maps.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::rc::Rc;

use super::*;
use crate::act::journal::{self, Found};
use crate::act::{RESET_ON_FORK, Sched, ThreadId};
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
    /// Sleep where they may not run any more.
    yet_to_move: HashSet<u32>,
    /// Takes the first of several writes and refuses the next, once.
    refuses_halfway: bool,
    /// What nobody may set, since it could not be put back.
    one_way: Option<Value>,
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

    /// As `sched_getattr` shows it: no nice value beside a policy that has no use for it.
    fn value(&self, tid: u32, lever: Lever) -> Value {
        match self.0.borrow().values[&(tid, lever)].clone() {
            Value::Sched(sched) if !sched.is_fair() => Value::Sched(Sched { nice: 0, ..sched }),
            value => value,
        }
    }

    fn renice(&self, tid: u32, nice: i32) {
        let mut state = self.0.borrow_mut();
        if let Some(Value::Sched(sched)) = state.values.get_mut(&(tid, Lever::Sched)) {
            sched.nice = nice;
        }
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
        if reserves && state.yet_to_move.contains(&tid) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        if reserves && state.refuses_reservations {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        if !state.start_times.contains_key(&tid) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        state.writes += 1;
        let mut value = value.clone();
        let before = state.values.get(&(tid, Lever::Sched)).cloned();
        if let Value::Sched(sched) = &mut value {
            // A policy without a nice value leaves the one that is there.
            if let (false, Some(Value::Sched(before))) = (sched.is_fair(), before) {
                sched.nice = before.nice;
            }
            let slack = sched.timer_slack.take().unwrap_or(SLACK);
            state.slacks.insert(tid, if sched.is_realtime() { 0 } else { slack });
        }
        state.values.insert((tid, value.lever()), value);
        match std::mem::take(&mut state.refuses_halfway) {
            true => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            false => Ok(()),
        }
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

    fn has_yet_to_move(&self, thread: ThreadId) -> bool {
        self.0.borrow().yet_to_move.contains(&thread.tid)
    }

    fn no_way_back(&self, _subject: &Subject, _old: &Value, new: &Value) -> Option<String> {
        let is_one_way = self.0.borrow().one_way.as_ref() == Some(new);
        is_one_way.then(|| "it could not be put back".to_owned())
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
    Value::Sched(Sched { policy, priority, flags: RESET_ON_FORK, ..Sched::DEFAULT })
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
fn a_nice_value_that_someone_set_under_real_time_or_idle_stays() {
    let mut bench = Bench::new();
    for (tid, wanted) in [(7, fifo(30)), (8, idle())] {
        let thread = bench.kernel.thread(tid, BEFORE, nice(3));
        bench.apply(thread, &[wanted]);
        bench.kernel.renice(tid, 9);
    }
    bench.actuator.undo_all();
    let old = Value::Sched(nice(9));
    assert_eq!([7, 8].map(|tid| bench.kernel.value(tid, Lever::Sched)), [old.clone(), old]);
}

#[test]
fn a_nice_value_that_is_ours_from_an_earlier_policy_does_not_stay() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(thread, &[Value::Sched(nice(-5))]);
    bench.apply(thread, &[fifo(30)]);
    bench.actuator.undo_all();
    assert_eq!(bench.kernel.value(7, Lever::Sched), Value::Sched(nice(3)));
}

#[test]
fn what_is_back_already_counts_as_put_back() {
    let mut bench = Bench::new();
    let thread = bench.kernel.thread(7, BEFORE, nice(3));
    bench.apply(thread, &[idle()]);
    bench.kernel.change_behind_its_back(7, Value::Sched(nice(3)));
    let done = bench.actuator.undo(7);
    assert_eq!(events(&done), [&Event::Restored { old: Value::Sched(nice(3)) }]);
    assert_eq!(bench.journalled(), 0);
}

mod heirs;
mod ladder;
mod looks;
