//! On the running kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;
use crate::act::control::{Kernel, sched_getaffinity};

/// A thread that is put under FIFO and does `body` until it is told to stop.
fn realtime_thread(body: impl Fn() + Send + 'static) -> (ThreadId, Arc<AtomicBool>) {
    let stop = Arc::new(AtomicBool::new(false));
    let tid = Arc::new(AtomicU32::new(0));
    let (stop_there, tid_there) = (Arc::clone(&stop), Arc::clone(&tid));
    thread::spawn(move || {
        tid_there.store(nix::unistd::gettid().as_raw().cast_unsigned(), Ordering::Release);
        while !stop_there.load(Ordering::Relaxed) {
            body();
        }
    });
    let tid = loop {
        match tid.load(Ordering::Acquire) {
            0 => thread::yield_now(),
            tid => break tid,
        }
    };
    let start_time = Kernel::new(&Roots::default()).start_time(tid).unwrap();
    (ThreadId { pid: std::process::id(), tid, start_time }, stop)
}

/// Without kernel programs that tell who sleeps.
fn watch(kernel: Kernel) -> io::Result<RunawayWatch> {
    RunawayWatch::start(kernel, &Roots::default(), |_| false)
}

fn fifo() -> Sched {
    let policy = libc::SCHED_FIFO.cast_unsigned();
    Sched { policy, priority: 5, flags: RESET_ON_FORK, ..Sched::DEFAULT }
}

#[test]
fn a_runaway_is_demoted_at_once_and_a_thread_with_pauses_is_not() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let kernel = || Kernel::new(&Roots::default());
    let watching = watch(kernel()).unwrap();
    let (spinner, stop_spinner) = realtime_thread(std::hint::spin_loop);
    let (sleeper, stop_sleeper) = realtime_thread(|| {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        thread::sleep(Duration::from_millis(8));
    });
    let limit = Duration::from_millis(10);
    for thread in [sleeper, spinner] {
        sched_setattr(thread.tid, &fifo()).unwrap();
        watching.watch(Given { thread, ours: fifo(), old: Sched::DEFAULT, limit });
    }
    let begun = Instant::now();
    let demoted = loop {
        let demoted = watching.demoted();
        if !demoted.is_empty() || begun.elapsed() > Duration::from_secs(2) {
            break demoted;
        }
        thread::sleep(Duration::from_millis(1));
    };
    let took = begun.elapsed();
    let policy = |thread: ThreadId| kernel().read(Lever::Sched, &thread.into()).unwrap();
    let (spins, sleeps) = (policy(spinner), policy(sleeper));
    stop_spinner.store(true, Ordering::Relaxed);
    stop_sleeper.store(true, Ordering::Relaxed);
    assert_eq!(demoted.iter().map(|it| it.thread).collect::<Vec<_>>(), [spinner]);
    assert!(demoted[0].outcome.is_ok(), "{demoted:?}");
    assert!(spins.agrees_with(&Value::Sched(Sched::DEFAULT)), "{spins}");
    assert!(sleeps.agrees_with(&Value::Sched(fifo())), "{sleeps}");
    // 100 ms is the promise; a host that steals its CPUs adds to it.
    assert!(took < Duration::from_millis(400), "{took:?}");
    eprintln!("demoted after {took:?}");
}

#[test]
fn what_someone_else_gave_it_stays() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let watch = watch(Kernel::new(&Roots::default())).unwrap();
    let (spinner, stop) = realtime_thread(std::hint::spin_loop);
    let theirs = Sched { priority: 4, ..fifo() };
    sched_setattr(spinner.tid, &theirs).unwrap();
    let limit = Duration::from_millis(10);
    watch.watch(Given { thread: spinner, ours: fifo(), old: Sched::DEFAULT, limit });
    thread::sleep(Duration::from_millis(200));
    let now = Kernel::new(&Roots::default()).read(Lever::Sched, &spinner.into()).unwrap();
    stop.store(true, Ordering::Relaxed);
    assert!(now.agrees_with(&Value::Sched(theirs)), "{now}");
    assert_eq!(watch.demoted(), []);
}

/// As with a hypervisor that steals the CPU: the thread is off it half of the time, and never by its
/// own wish.
#[test]
fn a_runaway_whose_cpu_others_take_is_demoted_as_well() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let kernel = Kernel::new(&Roots::default());
    let (thief, stop_thief) = realtime_thread(|| {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(15) {
            std::hint::spin_loop();
        }
        thread::sleep(Duration::from_millis(15));
    });
    let (spinner, stop_spinner) = realtime_thread(std::hint::spin_loop);
    let first = sched_getaffinity(thief.tid).unwrap()[..1].to_vec();
    for thread in [thief, spinner] {
        kernel.write(&thread.into(), &Value::Affinity(first.clone())).unwrap();
    }
    sched_setattr(thief.tid, &Sched { priority: 6, ..fifo() }).unwrap();
    sched_setattr(spinner.tid, &fifo()).unwrap();
    let watch = watch(Kernel::new(&Roots::default())).unwrap();
    let limit = Duration::from_millis(10);
    watch.watch(Given { thread: spinner, ours: fifo(), old: Sched::DEFAULT, limit });
    let begun = Instant::now();
    let mut demoted = Vec::new();
    while demoted.is_empty() && begun.elapsed() < Duration::from_secs(3) {
        thread::sleep(Duration::from_millis(1));
        demoted = watch.demoted();
    }
    stop_thief.store(true, Ordering::Relaxed);
    stop_spinner.store(true, Ordering::Relaxed);
    assert_eq!(demoted.iter().map(|it| it.thread).collect::<Vec<_>>(), [spinner]);
    eprintln!("demoted after {:?}", begun.elapsed());
}
