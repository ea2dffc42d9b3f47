//! On the running kernel.

use super::*;
use crate::act::subject::ThreadId;

#[test]
fn the_start_time_is_found_behind_a_name_full_of_brackets() {
    let stat = b"7 (a ) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 424242 1 2 3";
    assert_eq!(start_time_of(stat), Some(424_242));
    assert_eq!(start_time_of(b"7 (a"), None);
    assert_eq!(start_time_of(b"7 (a) S 1"), None);
}

/// On a thread of its own, since it changes that thread.
fn on_a_thread(body: impl FnOnce(&Kernel, &Subject) + Send + 'static) {
    std::thread::spawn(move || {
        let tid = nix::unistd::gettid().as_raw().cast_unsigned();
        let kernel = Kernel::new(&Roots::default());
        let id =
            ThreadId { pid: std::process::id(), tid, start_time: kernel.start_time(tid).unwrap() };
        body(&kernel, &Subject::Thread(id));
    })
    .join()
    .expect("the body panicked");
}

#[test]
fn a_nice_value_set_is_the_nice_value_read() {
    on_a_thread(|kernel, thread| {
        let nicer = Value::Sched(Sched { nice: 7, ..Sched::DEFAULT });
        kernel.write(thread, &nicer).unwrap();
        assert!(kernel.read(Lever::Sched, thread).unwrap().agrees_with(&nicer));
    });
}

#[test]
fn a_timer_slack_of_its_own_survives_real_time() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    on_a_thread(|kernel, thread| {
        let tid = thread.thread().unwrap().tid;
        fs::write(kernel.file(tid, TIMER_SLACK), "1234567").unwrap();
        let old = Sched { timer_slack: kernel.timer_slack(tid).ok(), ..Sched::DEFAULT };
        let policy = libc::SCHED_FIFO.cast_unsigned();
        let fifo = Sched { policy, priority: 1, ..Sched::DEFAULT };
        kernel.write(thread, &Value::Sched(fifo)).unwrap();
        kernel.write(thread, &Value::Sched(old)).unwrap();
        assert_eq!(kernel.timer_slack(tid).unwrap(), 1_234_567);
    });
}

#[test]
fn an_affinity_set_is_the_affinity_read() {
    on_a_thread(|kernel, thread| {
        let Value::Affinity(all) = kernel.read(Lever::Affinity, thread).unwrap() else {
            panic!("another lever's value");
        };
        let one = Value::Affinity(vec![*all.last().unwrap()]);
        kernel.write(thread, &one).unwrap();
        assert_eq!(kernel.read(Lever::Affinity, thread).unwrap(), one);
    });
}

#[test]
fn an_io_priority_set_is_the_io_priority_read() {
    on_a_thread(|kernel, thread| {
        let idle = Value::Ioprio(3 << 13);
        kernel.write(thread, &idle).unwrap();
        assert_eq!(kernel.read(Lever::Ioprio, thread).unwrap(), idle);
    });
}

#[test]
fn a_thread_that_is_gone_is_recognised() {
    let kernel = Kernel::new(&Roots::default());
    // Above the kernel's largest possible pid (PID_MAX_LIMIT, 4 194 304).
    let tid = 4_194_305;
    let nobody = Subject::Thread(ThreadId { pid: tid, tid, start_time: 0 });
    for lever in Lever::ALL.into_iter().filter(|lever| lever.is_of_thread()) {
        let error = kernel.read(lever, &nobody).unwrap_err();
        assert!(is_gone(&error), "{lever:?}: {error}");
    }
    assert!(is_gone(&kernel.start_time(tid).unwrap_err()));
}

#[test]
fn a_cpu_beyond_every_kernel_is_refused() {
    on_a_thread(|kernel, thread| {
        let error = kernel.write(thread, &Value::Affinity(vec![100_000])).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    });
}

#[test]
fn a_reservation_set_is_the_reservation_read_and_goes_back() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    on_a_thread(|kernel, thread| {
        let before = kernel.read(Lever::Sched, thread).unwrap();
        let reservation = Value::Sched(Sched {
            policy: libc::SCHED_DEADLINE.cast_unsigned(),
            flags: crate::act::RESET_ON_FORK,
            runtime: 200_000,
            deadline: 8_000_000,
            period: 10_000_000,
            ..Sched::DEFAULT
        });
        match kernel.write(thread, &reservation) {
            Ok(()) => assert!(kernel.read(Lever::Sched, thread).unwrap().agrees_with(&reservation)),
            // Other reservations may hold the host's whole bandwidth.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "{error}"),
        }
        kernel.write(thread, &before).unwrap();
        assert!(kernel.read(Lever::Sched, thread).unwrap().agrees_with(&before));
    });
}

#[test]
fn a_timer_slack_set_is_the_timer_slack_read() {
    on_a_thread(|kernel, thread| {
        let slack = Value::TimerSlack(777_000);
        if let Err(error) = kernel.write(thread, &slack) {
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
            return;
        }
        assert_eq!(kernel.read(Lever::TimerSlack, thread).unwrap(), slack);
    });
}
