//! On the real kernel: what children have from a process that downbeat changed goes back with it,
//! also when they are orphans and when the agent was killed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use downbeat_agent::act::{
    Actuator, Cap, Control, Journal, Kernel, Lever, Request, Sched, ThreadId, Value, restore,
};
use downbeat_agent::roots::Roots;

/// Makes an orphan when told so, and says its id: the subshell between the two ends at once.
const SCRIPT: &str = "read go; (sleep 60 >/dev/null & echo $!); read end";

struct Shell {
    child: Child,
    stdin: ChildStdin,
    orphan: Option<u32>,
}

impl Shell {
    fn start() -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin, orphan: None }
    }

    fn make_orphan(&mut self) -> u32 {
        self.stdin.write_all(b"go\n").unwrap();
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().unwrap();
        self.orphan = Some(pid);
        pid
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let Some(pid) = self.orphan {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid.cast_signed()),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

fn idle() -> Value {
    Value::Sched(Sched { policy: libc::SCHED_IDLE.cast_unsigned(), ..Sched::DEFAULT })
}

fn fifo() -> Value {
    let policy = libc::SCHED_FIFO.cast_unsigned();
    let flags = downbeat_agent::act::RESET_ON_FORK;
    Value::Sched(Sched { policy, priority: 1, flags, ..Sched::DEFAULT })
}

fn sched(kernel: &Kernel, tid: u32) -> Value {
    let start_time = kernel.start_time(tid).unwrap();
    let thread = ThreadId { pid: tid, tid, start_time };
    kernel.read(Lever::Sched, &thread.into()).unwrap()
}

fn set(actuator: &mut Actuator<Kernel>, kernel: &Kernel, pid: u32, wanted: Value) -> ThreadId {
    let start_time = kernel.start_time(pid).unwrap();
    let thread = ThreadId { pid, tid: pid, start_time };
    let request = Request { subject: thread.into(), wanted: &[wanted], otherwise: &[] };
    let done = actuator.apply(&[request], start_time);
    assert_eq!(done.len(), 1, "{done:?}");
    thread
}

#[test]
fn an_orphan_is_restored_after_a_kill_by_its_group() {
    if !is_root() {
        return;
    }
    let (roots, run) = (Roots::default(), tempfile::tempdir().unwrap());
    let kernel = Kernel::new(&roots);
    let mut shell = Shell::start();
    let pid = shell.child.id();
    let before = sched(&kernel, pid);
    let journal = Journal::open(run.path(), &roots).unwrap().0;
    let mut actuator = Actuator::new(Kernel::new(&roots), journal, Cap::of(1, 1.0));
    set(&mut actuator, &kernel, pid, idle());
    // As a kill does it: nothing is put back, and nobody hears of the orphan.
    drop(actuator);
    let orphan = shell.make_orphan();
    assert!(sched(&kernel, orphan).agrees_with(&idle()));

    let report = restore(run.path(), &roots).unwrap();
    assert!(report.restored >= 2 && report.failed.is_empty(), "{report:?}");
    assert!(sched(&kernel, pid).agrees_with(&before));
    assert!(sched(&kernel, orphan).agrees_with(&before));
}

#[test]
fn a_child_of_a_real_time_process_gets_its_timer_slack_back() {
    if !is_root() {
        return;
    }
    let (roots, run) = (Roots::default(), tempfile::tempdir().unwrap());
    let kernel = Kernel::new(&roots);
    let mut shell = Shell::start();
    let pid = shell.child.id();
    let slack = kernel.timer_slack(pid).unwrap();
    let journal = Journal::open(run.path(), &roots).unwrap().0;
    let mut actuator = Actuator::new(Kernel::new(&roots), journal, Cap::of(1, 1.0));
    set(&mut actuator, &kernel, pid, fifo());
    let orphan = shell.make_orphan();
    let start_time = kernel.start_time(orphan).unwrap();
    let child = ThreadId { pid: orphan, tid: orphan, start_time };
    // Before kernel 6.12 real time leaves the slack alone, and nothing is to be put back.
    let lost = kernel.timer_slack(orphan).unwrap() != slack;
    assert_eq!(actuator.inherit(child, &[pid]), lost);
    actuator.undo_all();
    assert_eq!(kernel.timer_slack(pid).unwrap(), slack);
    assert_eq!(kernel.timer_slack(orphan).unwrap(), slack);
    assert_eq!(actuator.finish().unwrap(), 0);
}
