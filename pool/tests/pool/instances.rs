//! Several processes of one worker.

use std::collections::BTreeSet;

use crate::support::{TestPool, declare, lives, wait_gone};
use downbeat_api::pool::{PoolStatus, WorkerState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const THREE: &str = "[worker.nap]\ncommand = [\"sleep\", \"1000\"]\ninstances = 3\n";

fn ready(status: &PoolStatus) -> Vec<(String, u32)> {
    let ready = status.workers.iter().filter(|worker| worker.state == WorkerState::Ready);
    ready.filter_map(|worker| Some((worker.name.clone(), worker.pid?))).collect()
}

#[test]
fn each_instance_has_a_name_and_a_life_of_its_own() {
    let pool = TestPool::start(THREE);
    let status = pool.wait("three instances", |status| ready(status).len() == 3);
    let first = ready(&status);
    let names: Vec<_> = first.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["nap", "nap#2", "nap#3"]);
    let killed = first[1].1;
    kill(Pid::from_raw(killed.cast_signed()), Signal::SIGKILL).unwrap();
    let status = pool.wait("the second's second life", |status| {
        ready(status).len() == 3 && ready(status).iter().all(|(_, pid)| *pid != killed)
    });
    let again = ready(&status);
    assert_eq!((again[0].1, again[2].1), (first[0].1, first[2].1), "the others were touched");
    assert_eq!(status.workers[1].restarts, 1);
}

#[test]
fn their_number_follows_the_file_and_the_others_stay() {
    let pool = TestPool::start(THREE);
    let before = ready(&pool.wait("three instances", |status| ready(status).len() == 3));
    declare(pool.folder.path(), &THREE.replace('3', "1"));
    pool.signal(Signal::SIGHUP);
    let status = pool.wait("one instance", |status| status.workers.len() == 1);
    assert_eq!(ready(&status), before[..1]);
    for (_, pid) in &before[1..] {
        wait_gone(*pid);
    }
    declare(pool.folder.path(), THREE);
    pool.signal(Signal::SIGHUP);
    let status = pool.wait("three again", |status| ready(status).len() == 3);
    assert_eq!(ready(&status)[0], before[0]);
}

#[test]
fn instances_end_with_a_killed_pool() {
    let mut pool = TestPool::start(THREE);
    let all = ready(&pool.wait("three instances", |status| ready(status).len() == 3));
    pool.signal(Signal::SIGKILL);
    pool.wait_end();
    let pids: BTreeSet<_> = all.iter().map(|(_, pid)| *pid).collect();
    assert_eq!(pids.len(), 3);
    for pid in pids {
        wait_gone(pid);
        assert!(!lives(pid));
    }
}

#[test]
fn a_model_that_is_not_in_the_store_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("glyphs/1")).unwrap();
    let models = folder.path().to_str().unwrap();
    let text = "[worker.letters]\nmodel = \"glyhps\"\n";
    let pool = TestPool::start_with(text, &["--models", models]);
    let note = pool.wait_for("letters", WorkerState::Failed).note.unwrap();
    assert!(note.starts_with("model `glyhps`: "), "{note}");
    assert!(note.ends_with("did you mean \"glyphs\"?"), "{note}");
}
