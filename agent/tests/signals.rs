//! The programs load whatever signals come meanwhile. Needs root; alone in its process, whose signals
//! it handles.

use std::os::unix::thread::JoinHandleExt;
use std::thread;
use std::time::Duration;

use downbeat_agent::observe::kernel::{KernelProbes, ProbeOptions};
use downbeat_agent::roots::Roots;
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

/// Between two signals: far less than a program takes to be verified.
const GAP: Duration = Duration::from_micros(500);

#[tokio::test]
async fn signals_do_not_end_a_load() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: needs root");
    }
    // One that nobody handles is not even sent.
    let _children = signal(SignalKind::child()).unwrap();
    let load = thread::spawn(|| {
        let probes = KernelProbes::load(&Roots::default(), &ProbeOptions::default());
        probes.map(|probes| probes.limits().to_vec())
    });
    while !load.is_finished() {
        // Fails where it has just ended, with an older glibc.
        let _ = pthread_kill(load.as_pthread_t(), Signal::SIGCHLD);
        thread::sleep(GAP);
    }
    let limits = load.join().unwrap();
    assert_eq!(limits.expect("the programs load as root"), []);
}
