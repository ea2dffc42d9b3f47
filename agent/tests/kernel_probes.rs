//! The kernel programs on the kernel that runs here. Needs root.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use downbeat_abi::{CLASS_SLOTS, NO_CLASS};
use downbeat_agent::observe::kernel::{KernelEvent, KernelProbes, ProbeOptions};
use downbeat_agent::roots::Roots;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, gettid};
use std::os::fd::AsFd;

/// How soon an event must be there, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_millis(100);

/// How long a test waits for what takes its time.
const PATIENCE: Duration = Duration::from_secs(10);

fn probes_with(options: &ProbeOptions) -> Option<KernelProbes> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    Some(KernelProbes::load(&Roots::default(), options).expect("the programs load as root"))
}

fn probes() -> Option<KernelProbes> {
    probes_with(&ProbeOptions::default())
}

/// The programs in both ways that they attach: typed, and as raw tracepoints with the kernel's
/// types from a file, as on a kernel that does not show its own. All parts run in both.
fn both_ways() -> impl Iterator<Item = KernelProbes> {
    let raw = ProbeOptions { btf: Some("/sys/kernel/btf/vmlinux".into()), ..Default::default() };
    [("typed", ProbeOptions::default()), ("raw", raw)].into_iter().filter_map(|(way, options)| {
        println!("{way}");
        let probes = probes_with(&options)?;
        assert_eq!(probes.limits(), []);
        Some(probes)
    })
}

fn drained(probes: &mut KernelProbes) -> Vec<KernelEvent> {
    let mut events = Vec::new();
    probes.drain(&mut events);
    events
}

/// Waits on the descriptor until `wanted` comes; its age when it was read, where it came.
fn await_event(
    probes: &mut KernelProbes,
    wanted: impl Fn(&KernelEvent) -> bool,
) -> Option<KernelEvent> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let mut fds = [PollFd::new(probes.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(1_000u16)).unwrap();
        if let Some(event) = drained(probes).into_iter().find(&wanted) {
            return Some(event);
        }
    }
    None
}

fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    Duration::from(now).as_nanos() as u64
}

fn own_tid() -> u32 {
    gettid().as_raw().unsigned_abs()
}

fn pin(tid: u32, cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(tid.cast_signed()), &cpus).unwrap();
}

/// Time that a thread of this process waited for a CPU, by the kernel's own book.
fn run_delay_ns(tid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

/// A new thread that ends when somebody else comes to the gate.
fn waits_at_a_gate() -> (u32, Arc<Barrier>, thread::JoinHandle<()>) {
    let gate = Arc::new(Barrier::new(2));
    let (say, hear) = mpsc::channel();
    let waits = Arc::clone(&gate);
    let child = thread::spawn(move || {
        say.send(own_tid()).unwrap();
        waits.wait();
    });
    (hear.recv().unwrap(), gate, child)
}

#[test]
fn an_exec_is_seen_at_once_with_its_ids() {
    for mut probes in both_ways() {
        let mut child = Command::new("/bin/sleep").arg("5").spawn().unwrap();
        let seen = await_event(
            &mut probes,
            |event| matches!(event, KernelEvent::Exec { pid, .. } if *pid == child.id()),
        );
        let now = monotonic_ns();
        child.kill().unwrap();
        child.wait().unwrap();
        let Some(KernelEvent::Exec { pid, old_tid, parent, time_ns }) = seen else {
            panic!("no exec of {}", child.id());
        };
        assert_eq!((old_tid, parent), (pid, std::process::id()));
        let age = Duration::from_nanos(now - time_ns);
        assert!(age < SOON, "read {age:?} after it happened");
    }
}

#[test]
fn threads_of_a_managed_thread_follow_it_until_they_end() {
    for mut probes in both_ways() {
        let own = own_tid();
        probes.manage(own, 7).unwrap();
        let (tid, gate, child) = waits_at_a_gate();
        assert_eq!(probes.slot(tid), Some(7), "not put in by the kernel itself");
        let fork = await_event(
            &mut probes,
            |event| matches!(event, KernelEvent::Fork { tid: new, .. } if *new == tid),
        );
        let Some(KernelEvent::Fork { pid, parent_tid, parent_pid, inherited, .. }) = fork else {
            panic!("no fork of {tid}");
        };
        let process = std::process::id();
        assert_eq!((pid, parent_tid, parent_pid, inherited), (process, own, process, true));

        gate.wait();
        child.join().unwrap();
        let end = Instant::now() + PATIENCE;
        // An exit does not wake the reader, and join() may return before it is recorded.
        let exit = loop {
            let exit = drained(&mut probes)
                .into_iter()
                .find(|event| matches!(event, KernelEvent::Exit { tid: gone, .. } if *gone == tid));
            if exit.is_some() || Instant::now() > end {
                break exit;
            }
            thread::sleep(Duration::from_millis(1));
        };
        assert!(exit.is_some(), "no exit of {tid}");
        assert_eq!(probes.slot(tid), None, "still managed after its end");
    }
}

#[test]
fn a_thread_whose_place_is_taken_has_another() {
    const PLACES: u32 = 1024;
    let Some(mut probes) = probes_with(&ProbeOptions { max_threads: PLACES, ..Default::default() })
    else {
        return;
    };
    let own = own_tid();
    probes.manage(own, 7).unwrap();
    // Ids that nobody has, but whose places are those of the threads to come.
    for next in 1..=PLACES / 4 {
        probes.manage(own + PLACES + next, 3).unwrap();
    }
    let (tid, gate, child) = waits_at_a_gate();
    assert_eq!(probes.slot(tid), Some(7), "{own} made {tid}");
    gate.wait();
    child.join().unwrap();
    let end = Instant::now() + PATIENCE;
    while probes.slot(tid).is_some() && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(probes.slot(tid), None, "still managed after its end");
}

#[test]
fn a_process_that_nobody_looked_at_yet_tells_of_its_own_children() {
    for mut probes in both_ways() {
        probes.manage(own_tid(), 7).unwrap();
        // As a daemon does: the shell forks a shell, which forks and leaves.
        let mut shell = Command::new("sh").args(["-c", "(sleep 0.1 & )"]).spawn().unwrap();
        let first = shell.id();
        let of = |events: &[KernelEvent], process: u32| {
            events.iter().find_map(|event| match event {
                KernelEvent::Fork { pid, parent_pid, inherited: false, .. }
                    if *parent_pid == process && pid != parent_pid =>
                {
                    Some(*pid)
                }
                _ => None,
            })
        };
        let end = Instant::now() + PATIENCE;
        let mut events = Vec::new();
        let daemon = loop {
            events.extend(drained(&mut probes));
            let daemon = of(&events, first).and_then(|second| of(&events, second));
            if daemon.is_some() || Instant::now() > end {
                break daemon;
            }
            thread::sleep(Duration::from_millis(1));
        };
        shell.wait().unwrap();
        assert!(daemon.is_some(), "the daemon's fork was not told: {events:?}");
    }
}

#[test]
fn a_thread_that_is_only_watched_tells_its_new_name_and_counts_no_wait() {
    for mut probes in both_ways() {
        let own = own_tid();
        probes.manage(own, NO_CLASS).unwrap();
        nix::sys::prctl::set_name(c"downbeat-voice").unwrap();
        thread::sleep(Duration::from_millis(5));
        let rename = await_event(&mut probes, |event| matches!(event, KernelEvent::Rename { .. }));
        let Some(KernelEvent::Rename { tid, pid, name, .. }) = rename else {
            panic!("no rename");
        };
        assert_eq!((tid, pid, name.as_str()), (own, std::process::id(), "downbeat-voice"));
        for slot in 0..CLASS_SLOTS {
            assert_eq!(probes.waits(slot).unwrap().count(), 0, "slot {slot}");
        }
    }
}

#[test]
fn waits_agree_with_the_kernels_own_book() {
    for mut probes in both_ways() {
        const SLOT: u32 = 3;
        let stop = Arc::new(AtomicBool::new(false));
        let (say, hear) = mpsc::channel();
        let pair: Vec<_> = (0..2)
            .map(|_| {
                let (stop, say) = (Arc::clone(&stop), say.clone());
                thread::spawn(move || {
                    pin(own_tid(), 0);
                    say.send(own_tid()).unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        let tids = [hear.recv().unwrap(), hear.recv().unwrap()];
        let book = |tids: [u32; 2]| tids.map(run_delay_ns).iter().sum::<u64>();
        thread::sleep(Duration::from_millis(200));
        for tid in tids {
            probes.manage(tid, SLOT).unwrap();
        }
        let before = book(tids);
        thread::sleep(Duration::from_secs(3));
        let waits = probes.waits(SLOT).unwrap();
        let booked = book(tids) - before;
        stop.store(true, Ordering::Relaxed);
        for thread in pair {
            thread.join().unwrap();
        }
        let (told, booked) = (waits.sum_ns() as f64, booked as f64);
        println!("{} waits, {told} ns by downbeat, {booked} ns by schedstat", waits.count());
        assert!(booked > 1e9, "the pair did not contend: {booked} ns");
        assert!((told / booked - 1.0).abs() < 0.1, "{told} ns told, {booked} ns booked");
        assert!(waits.quantile(0.5).unwrap() <= waits.max_ns().unwrap());
    }
}

/// A thread that sleeps until it is woken, and tells when it was.
struct Sleeper {
    tid: u32,
    wake: mpsc::Sender<()>,
    woken: mpsc::Receiver<u32>,
}

impl Sleeper {
    fn new() -> Self {
        let ((wake, waits), (say, woken)) = (mpsc::channel(), mpsc::channel());
        thread::spawn(move || {
            say.send(own_tid()).unwrap();
            while waits.recv().is_ok() {
                say.send(own_tid()).unwrap();
            }
        });
        Self { tid: woken.recv().unwrap(), wake, woken }
    }

    fn falls_asleep(&self) {
        let stat = format!("/proc/self/task/{}/stat", self.tid);
        while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
            thread::yield_now();
        }
    }

    fn is_woken(&self, times: u64) {
        for _ in 0..times {
            self.falls_asleep();
            self.wake.send(()).unwrap();
            self.woken.recv().unwrap();
        }
        self.falls_asleep();
    }
}

#[test]
fn of_a_sleeper_that_is_put_in_one_wake_at_most_is_not_seen() {
    const SLOT: u32 = 5;
    const WAKES: u64 = 20;
    for mut probes in both_ways() {
        let sleeper = Sleeper::new();
        let mut counted = 0;
        // Once put in it is known, also after it was taken out.
        for unseen in [1, 0] {
            sleeper.falls_asleep();
            probes.manage(sleeper.tid, SLOT).unwrap();
            sleeper.is_woken(WAKES);
            let waits = probes.waits(SLOT).unwrap().count();
            probes.unmanage(sleeper.tid);
            println!("{} of {WAKES} waits", waits - counted);
            // More where it was preempted as well.
            assert!(waits - counted >= WAKES - unseen, "{waits} after {counted}");
            counted = waits;
        }
    }
}

#[test]
fn nothing_is_told_of_threads_that_nobody_asked_about() {
    for mut probes in both_ways() {
        for _ in 0..20 {
            thread::spawn(|| thread::sleep(Duration::from_millis(1))).join().unwrap();
        }
        let others: Vec<_> = drained(&mut probes)
            .into_iter()
            .filter(|event| !matches!(event, KernelEvent::Exec { .. }))
            .collect();
        assert_eq!(others, []);
        for slot in 0..CLASS_SLOTS {
            assert_eq!(probes.waits(slot).unwrap().count(), 0, "slot {slot}");
        }
    }
}

#[test]
fn an_unmanaged_thread_is_no_longer_counted() {
    let Some(mut probes) = probes() else { return };
    let own = own_tid();
    probes.manage(own, 1).unwrap();
    let nap = || {
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(1));
        }
    };
    nap();
    probes.set_class(own, 2).unwrap();
    let first = probes.waits(1).unwrap();
    nap();
    probes.unmanage(own);
    let second = probes.waits(2).unwrap();
    nap();
    assert!(first.count() >= 19, "{}", first.count());
    assert!(second.count() >= 19, "{}", second.count());
    assert_eq!(probes.waits(1).unwrap(), first);
    assert_eq!(probes.waits(2).unwrap(), second);
    assert_eq!(probes.slot(own), None);
    assert!(probes.set_class(own, 3).is_err());
}

#[test]
fn two_agents_can_watch_side_by_side() {
    let (Some(mut one), Some(mut two)) = (probes(), probes()) else {
        return;
    };
    let mut child = Command::new("/bin/true").spawn().unwrap();
    child.wait().unwrap();
    let is_child =
        |event: &KernelEvent| matches!(event, KernelEvent::Exec { pid, .. } if *pid == child.id());
    assert!(await_event(&mut one, is_child).is_some());
    assert!(await_event(&mut two, is_child).is_some());
    one.manage(own_tid(), 0).unwrap();
    assert_eq!(two.slot(own_tid()), None);
}

#[test]
fn waits_are_counted_without_the_parts_that_a_verifier_may_refuse() {
    for (jobs, blame) in [(true, false), (false, true), (false, false)] {
        let options = ProbeOptions { jobs, blame, ..Default::default() };
        let Some(mut probes) = probes_with(&options) else { return };
        let tid = gettid().as_raw().cast_unsigned();
        probes.manage(tid, 0).unwrap();
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(probes.waits(0).unwrap().count() >= 15, "jobs {jobs}, blame {blame}");
        let followed: u64 = probes.jobs().iter().map(|of_thread| of_thread.job.jobs).sum();
        assert_eq!(followed > 0, jobs, "{followed} jobs");
        assert_eq!(probes.blame(monotonic_ns()), []);
    }
}

#[test]
fn a_full_ring_is_counted_and_recovers() {
    let Some(mut probes) = probes_with(&ProbeOptions { ring_bytes: 4096, ..Default::default() })
    else {
        return;
    };
    for _ in 0..120 {
        Command::new("/bin/true").status().unwrap();
    }
    let dropped = probes.counters().dropped_events;
    let kept = drained(&mut probes).len() as u64;
    assert!(kept > 0 && kept <= 73, "{kept} kept");
    assert!(dropped >= 120 - kept, "{dropped} dropped, {kept} kept");
    let mut child = Command::new("/bin/true").spawn().unwrap();
    child.wait().unwrap();
    let seen = await_event(
        &mut probes,
        |event| matches!(event, KernelEvent::Exec { pid, .. } if *pid == child.id()),
    );
    assert!(seen.is_some(), "nothing after the overflow");
}

#[test]
fn a_full_thread_map_is_counted() {
    let Some(mut probes) = probes_with(&ProbeOptions { max_threads: 1, ..Default::default() })
    else {
        return;
    };
    let own = own_tid();
    probes.manage(own, 0).unwrap();
    thread::spawn(|| {}).join().unwrap();
    assert_eq!(probes.counters().dropped_threads, 1);
    assert_eq!(probes.manage(1, 0).unwrap_err().raw_os_error(), Some(libc::E2BIG));
    assert_eq!(probes.counters().dropped_threads, 2);
}

#[test]
fn ids_and_slots_out_of_range_are_refused() {
    let Some(mut probes) = probes() else { return };
    assert!(probes.manage(0, 0).is_err());
    assert!(probes.manage(own_tid(), CLASS_SLOTS).is_err());
    assert!(probes.waits(CLASS_SLOTS).is_err());
}

#[test]
fn a_thread_that_calls_exec_takes_its_class_to_the_main_threads_id() {
    const ROLE: &str = "DOWNBEAT_TEST_EXEC_FROM_A_THREAD";
    if std::env::var_os(ROLE).is_some() {
        // A test runs in a thread that is not the main one.
        std::io::stdin().read_exact(&mut [0]).unwrap();
        panic!("{}", Command::new("/bin/sleep").arg("5").exec());
    }
    for mut probes in both_ways() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_thread_that_calls_exec_takes_its_class_to_the_main_threads_id"])
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let main = child.id();
        let end = Instant::now() + PATIENCE;
        let caller = loop {
            let threads = std::fs::read_dir(format!("/proc/{main}/task")).unwrap();
            let tid = threads
                .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<u32>().unwrap())
                .find(|tid| *tid != main);
            if let Some(tid) = tid {
                break tid;
            }
            assert!(Instant::now() < end, "the child made no thread");
        };
        probes.manage(main, 4).unwrap();
        probes.manage(caller, 5).unwrap();
        drained(&mut probes);
        child.stdin.take().unwrap().write_all(b"x").unwrap();
        let seen = await_event(
            &mut probes,
            |event| matches!(event, KernelEvent::Exec { pid, .. } if *pid == main),
        );
        let (old, new) = (probes.slot(caller), probes.slot(main));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            matches!(seen, Some(KernelEvent::Exec { old_tid, .. }) if old_tid == caller),
            "{seen:?}"
        );
        assert_eq!((old, new), (None, Some(5)));
    }
}

#[test]
fn cost_is_told_per_program() {
    let Some(mut probes) = probes() else { return };
    let started = Instant::now();
    probes.cost(started.elapsed());
    for _ in 0..50 {
        thread::sleep(Duration::from_millis(1));
    }
    let cost = probes.cost(started.elapsed());
    let of = |name: &str| cost.programs.iter().find(|program| program.name == name).unwrap();
    assert!(of("sched_switch").runs >= 50, "{:?}", of("sched_switch"));
    let mean = of("sched_waking").mean_ns.unwrap();
    assert!(mean > 1.0 && mean < 100_000.0, "{mean} ns");
    assert!(cost.map_bytes > 1_000_000, "{} bytes", cost.map_bytes);
    assert_eq!(cost.dropped_events, 0);
}

/// Keeps every line that the kernel programs log.
struct Lines(std::sync::Mutex<Vec<String>>);

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

static LINES: Lines = Lines(std::sync::Mutex::new(Vec::new()));

#[test]
fn the_programs_log_what_they_see_where_asked_to() {
    log::set_logger(&LINES).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let options = ProbeOptions { log: Some(log::Level::Debug), ..Default::default() };
    let Some(mut probes) = probes_with(&options) else { return };
    let mut child = Command::new("/bin/true").spawn().unwrap();
    child.wait().unwrap();
    drained(&mut probes);
    let expected = format!("exec: tgid {}", child.id());
    let lines = LINES.0.lock().unwrap();
    assert!(lines.iter().any(|line| line.contains(&expected)), "{lines:?}");
}

#[test]
fn without_rights_the_error_names_them() {
    const ROLE: &str = "DOWNBEAT_TEST_WITHOUT_RIGHTS";
    if std::env::var_os(ROLE).is_some() {
        let nobody = nix::unistd::Uid::from_raw(65_534);
        nix::unistd::setresuid(nobody, nobody, nobody).unwrap();
        println!(
            "{}",
            KernelProbes::load(&Roots::default(), &ProbeOptions::default()).unwrap_err()
        );
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "without_rights_the_error_names_them", "--nocapture"])
        .env(ROLE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Operation not permitted") && said.contains("CAP_BPF"), "{said}");
}

#[test]
fn a_kernel_that_does_not_describe_its_types_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let roots = Roots { sys: folder.path().into(), ..Roots::default() };
    let load = || KernelProbes::load(&roots, &ProbeOptions::default()).unwrap_err().to_string();
    let path = folder.path().join("kernel/btf/vmlinux");
    let missing = load();
    assert!(missing.contains(path.to_str().unwrap()), "{missing}");
    assert!(missing.contains("CONFIG_DEBUG_INFO_BTF"), "{missing}");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    for (garbage, why) in [(&b"and more"[..], "not BTF"), (b"\x7fELF and more", "an ELF file")] {
        std::fs::write(&path, garbage).unwrap();
        let said = load();
        assert!(said.contains(why) && !said.contains('\n'), "{said}");
    }
}
