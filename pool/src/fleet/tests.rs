//! Without requests; those are in the pool's own tests.

use tokio::sync::mpsc;

use super::*;
use crate::config::{DEFAULT_IDLE, Http};
use crate::dispatch::Dispatcher;
use crate::groups::Groups;
use crate::launch::Launches;
use crate::member;
use crate::run::Settings;

const NOW: Duration = Duration::from_secs(1);

#[test]
fn only_what_a_process_knows_of_makes_a_new_one() {
    let config = WorkerConfig::new("w", Program::Model("glyphs".into()));
    let mut fleet = Fleet::new(config.clone());
    let more = Instances { min: 1, max: 4, spare: 1 };
    fleet.follow(WorkerConfig { instances: more, batch: 8, ..config.clone() }, Duration::ZERO);
    assert_eq!(fleet.generation, 0);
    fleet.follow(WorkerConfig { deadline: Some(DEFAULT_IDLE), ..config }, Duration::ZERO);
    assert_eq!(fleet.generation, 1, "its deadline is in its environment");
}

#[test]
fn a_worker_without_an_instance_is_still_shown() {
    let none = Instances { min: 0, max: 1, spare: 0 };
    let config = WorkerConfig::new("w", Program::Model("glyphs".into()));
    let fleet = Fleet::new(WorkerConfig { instances: none, ..config });
    let rows = fleet.status();
    assert_eq!((rows.len(), rows[0].name.as_str()), (1, "w"));
    assert_eq!(rows[0].state, WorkerState::Failed, "nothing is known of its model");
}

#[test]
fn one_that_was_unloaded_comes_back_for_what_is_refused_too() {
    let mut fleet = Fleet::new(WorkerConfig::new("w", Program::Model("glyphs".into())));
    fleet.unload();
    fleet.look_at_memory(NOW, Some(&QueueLoad::default()));
    assert!(fleet.memory.unloaded);
    // All with deadlines before it could be up.
    fleet.look_at_memory(NOW, Some(&QueueLoad { arrival_rate: 5.0, ..QueueLoad::default() }));
    assert!(!fleet.memory.unloaded);
}

/// What a fleet needs of a pool, whose folder for sockets is not there yet.
struct Ground {
    _folder: tempfile::TempDir,
    paths: Paths,
    settings: Settings,
    groups: Groups,
    launches: Launches,
    dispatcher: Dispatcher,
    store: Store,
    reports: mpsc::Sender<member::Report>,
    inbox: mpsc::Receiver<member::Report>,
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (reports, inbox) = mpsc::channel(8);
        let settings = Settings {
            pool_dir: folder.path().into(),
            run_dir: folder.path().into(),
            worker_bin: None,
            models: folder.path().into(),
            read_group: "root".into(),
            change_group: "root".into(),
            group: None,
            meminfo: "/proc/meminfo".into(),
            order: downbeat_queue::Order::Deadline,
        };
        Self {
            paths: Paths::of(folder.path()),
            settings,
            groups: Groups::default(),
            launches: Launches::default(),
            dispatcher: Dispatcher::new(downbeat_queue::Limits::default()),
            store: Store::new(folder.path()),
            reports,
            inbox,
            _folder: folder,
        }
    }

    fn step(&self, fleet: &mut Fleet) -> Option<Duration> {
        let context = Context {
            paths: &self.paths,
            settings: &self.settings,
            groups: &self.groups,
            launches: &self.launches,
            dispatcher: &self.dispatcher,
            store: &self.store,
            reports: &self.reports,
        };
        fleet.step(NOW, None, &context)
    }
}

#[tokio::test]
async fn one_that_ended_before_it_was_to_leave_is_gone_without_another_event() {
    let ground = Ground::new();
    // Without a folder for its sockets it cannot be started for now.
    let mut fleet = Fleet::new(WorkerConfig::new("w", Program::Command(vec!["/bin/true".into()])));
    ground.step(&mut fleet);
    assert_eq!(fleet.status()[0].state, WorkerState::Backoff);
    fleet.leave(NOW, DRAIN);
    assert_eq!(ground.step(&mut fleet), Some(NOW));
    ground.step(&mut fleet);
    assert!(fleet.gone());
}

#[tokio::test]
async fn one_that_got_into_traffic_is_watched_without_another_event() {
    let mut ground = Ground::new();
    std::fs::create_dir_all(ground.paths.folder()).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = Some(listener.local_addr().unwrap().port());
    let adapter = Http { port, path: Some("/run".into()), ..Http::default() };
    let sleeps = Program::Command(vec!["/bin/sleep".into(), "1000".into()]);
    let config =
        WorkerConfig { adapter: Some(Adapter::Http(adapter)), ..WorkerConfig::new("w", sleeps) };
    let mut fleet = Fleet::new(config);
    ground.step(&mut fleet);
    let member::Report { slot, life, said, .. } = ground.inbox.recv().await.unwrap();
    fleet.report(slot, life, said, &ground.store);
    let due = ground.step(&mut fleet);
    let member = &fleet.members[&slot];
    assert!(member.is_attached(), "{:?}", fleet.status());
    let pid = member.pid().unwrap();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(due.is_some_and(|due| due <= NOW + Duration::from_secs(1)), "{due:?}");
}
