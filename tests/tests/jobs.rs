//! What the kernel programs say of jobs and blame, beside what the load says of itself. Needs
//! root.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use downbeat_abi::{Culprit, CulpritKind, Job, Miss};
use downbeat_agent::model::jobs::releases;
use downbeat_agent::model::rhythm::rhythm;
use downbeat_agent::observe::kernel::{KernelEvent, KernelProbes, ProbeOptions};
use downbeat_agent::roots::Roots;
use downbeat_api::Rhythm;
use downbeat_tests::cpu_time::undisturbed;
use downbeat_tests::threads::Scheduling;
use serde::Deserialize;
use tempfile::NamedTempFile;

/// A deadline that every job misses, so that each tells its story.
const EVERY_JOB: u64 = 1;

/// Of the loads.
const PRIORITY: u32 = 20;

#[derive(Deserialize)]
struct Start {
    tid: u32,
}

#[derive(Deserialize)]
struct Account {
    jobs: Vec<Known>,
}

/// A job as the load saw it.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Known {
    release_ns: u64,
    completion_ns: u64,
    cpu_ns: u64,
    /// The thread slept before it: one that was due already may be one with the job before.
    slept: bool,
}

struct Load {
    child: Child,
    out: BufReader<ChildStdout>,
    /// A file: an account longer than a pipe holds would keep the load from ending.
    account: NamedTempFile,
}

impl Load {
    fn start(arguments: &[&str]) -> Self {
        let account = NamedTempFile::new().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_downbeat-load"))
            .args(arguments)
            .arg("--json")
            .arg(account.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out, account }
    }

    /// What it tells before its first job.
    fn begun<T: for<'a> Deserialize<'a>>(&mut self) -> T {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What it tells at its end.
    fn account<T: for<'a> Deserialize<'a>>(&self) -> T {
        let text = std::fs::read_to_string(self.account.path()).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn probes() -> Option<KernelProbes> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    let options = match std::env::var_os("DOWNBEAT_TEST_BTF") {
        Some(path) => ProbeOptions { btf: Some(path.into()), ..ProbeOptions::default() },
        None => ProbeOptions::default(),
    };
    Some(KernelProbes::load(&Roots::default(), &options).expect("the programs load as root"))
}

/// What was seen of a load while it ran.
struct Seen {
    known: Vec<Known>,
    misses: Vec<Miss>,
    job: Box<Job>,
    rhythm: Option<Rhythm>,
}

/// Runs several `downbeat-load periodic` at a time, each with its thread followed.
fn follow(probes: &mut KernelProbes, loads: &[&[&str]]) -> Vec<Seen> {
    undisturbed(|| follow_once(probes, loads))
}

fn follow_once(probes: &mut KernelProbes, loads: &[&[&str]]) -> Vec<Seen> {
    // They and this thread go before whatever else the machine is busy with: of a job that begins
    // seconds late, and of a thread that is followed only then, nothing can be said.
    let inherited = Scheduling { reset_on_fork: false, ..Scheduling::fifo(PRIORITY) };
    inherited.apply(0).unwrap();
    let mut running: Vec<(Load, u32, Option<Box<Job>>)> = loads
        .iter()
        .map(|arguments| {
            let mut load = Load::start(&[&["periodic"], *arguments].concat());
            let Start { tid } = load.begun();
            probes.manage(tid, 0).unwrap();
            probes.set_deadline(tid, EVERY_JOB);
            (load, tid, None)
        })
        .collect();
    let mut events = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60)
        && running.iter_mut().any(|(load, ..)| !load.has_ended())
    {
        std::thread::sleep(Duration::from_millis(50));
        probes.drain(&mut events);
        for told in probes.jobs() {
            if let Some((.., job)) = running.iter_mut().find(|(_, tid, _)| *tid == told.tid) {
                *job = Some(told.job);
            }
        }
    }
    probes.drain(&mut events);
    let seen = running.into_iter().map(|(load, tid, job)| {
        probes.unmanage(tid);
        let job = job.expect("the thread is followed");
        let misses = events.iter().filter_map(|event| match event {
            KernelEvent::Miss(miss) if miss.tid == tid => Some(**miss),
            _ => None,
        });
        let Account { jobs: known } = load.account();
        Seen { known, misses: misses.collect(), rhythm: rhythm(&releases(&job)), job }
    });
    seen.collect()
}

impl Seen {
    /// Jobs that stand alone: the thread slept before and after.
    fn alone(&self) -> impl Iterator<Item = &Known> {
        let pairs = self.known.windows(2).filter(|pair| pair[0].slept && pair[1].slept);
        pairs.map(|pair| &pair[0])
    }

    /// What the kernel programs say of a job.
    fn told(&self, known: &Known) -> Option<&Miss> {
        let off = |miss: &Miss| miss.story.release_ns.abs_diff(known.release_ns);
        let nearest = self.misses.iter().min_by_key(|miss| off(miss))?;
        (off(nearest) < 1_000_000).then_some(nearest)
    }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

#[test]
fn a_job_takes_as_long_as_the_load_itself_says() {
    let Some(mut probes) = probes() else { return };
    let load = |via| ["--via", via, "--period", "20ms", "--work", "1ms", "--seconds", "3"];
    let vias = ["nanosleep", "timerfd", "poll", "epoll", "pipe", "socket", "poisson"];
    let loads = vias.map(load);
    let loads: Vec<&[&str]> = loads.iter().map(<[&str; 8]>::as_slice).collect();
    for (via, seen) in vias.iter().zip(follow(&mut probes, &loads)) {
        let alone: Vec<&Known> = seen.alone().collect();
        let told: Vec<(&Known, &Miss)> =
            alone.iter().filter_map(|known| Some((*known, seen.told(known)?))).collect();
        assert!(told.len() * 10 >= alone.len() * 9, "{via}: {} of {}", told.len(), alone.len());
        let response = |(known, miss): &(&Known, &Miss)| {
            let says = known.completion_ns - known.release_ns;
            (miss.time_ns - miss.story.release_ns).abs_diff(says)
        };
        let off = median(told.iter().map(response).collect());
        assert!(off <= 50_000, "{via}: responses are {off} ns off");
        let cost = |(known, miss): &(&Known, &Miss)| miss.story.cost_ns.abs_diff(known.cpu_ns);
        let off = median(told.iter().map(cost).collect());
        assert!(off <= 200_000, "{via}: costs are {off} ns off");
        let expected = match *via {
            "pipe" => 2,
            "socket" => 1,
            _ => 0,
        };
        let most = (0..3).max_by_key(|kind| seen.job.released[*kind]);
        assert_eq!(most, Some(expected), "{via}: released by {:?}", seen.job.released);
    }
}

#[test]
fn a_period_is_found_within_three_seconds_and_two_percent() {
    let Some(mut probes) = probes() else { return };
    let cases: [(f64, &[&str]); 8] = [
        (5.0, &["--via", "timerfd", "--period", "5ms"]),
        (10.0, &["--via", "pipe", "--period", "10ms"]),
        (16.67, &["--via", "epoll", "--period", "16.67ms"]),
        (20.0, &["--via", "socket", "--period", "20ms"]),
        (33.3, &["--via", "poll", "--period", "33.3ms"]),
        (40.0, &["--via", "nanosleep", "--period", "40ms"]),
        (10.1, &["--via", "nanosleep", "--period", "10ms", "--drift-ppm", "10000"]),
        (20.0, &["--via", "nanosleep", "--period", "20ms", "--skip", "0.2"]),
    ];
    let rest = ["--work", "300us", "--seconds", "3"];
    let loads: Vec<Vec<&str>> = cases.iter().map(|(_, load)| [load, &rest[..]].concat()).collect();
    let loads: Vec<&[&str]> = loads.iter().map(Vec::as_slice).collect();
    for ((period, load), seen) in cases.iter().zip(follow(&mut probes, &loads)) {
        let Some(Rhythm::Periodic { period_ns, .. }) = seen.rhythm else {
            panic!("{load:?}: {:?} from {} jobs", seen.rhythm, seen.job.jobs);
        };
        let off = (period_ns as f64 / 1e6 / period - 1.0).abs();
        assert!(off < 0.02, "{load:?}: {period_ns} ns");
    }
}

#[test]
fn releases_without_a_beat_are_called_aperiodic() {
    let Some(mut probes) = probes() else { return };
    let load = ["--via", "poisson", "--period", "10ms", "--work", "300us", "--seconds", "3"];
    let seen = follow(&mut probes, &[&load]).remove(0);
    assert!(matches!(seen.rhythm, Some(Rhythm::Aperiodic { .. })), "{:?}", seen.rhythm);
}

#[test]
fn a_sleep_within_a_job_does_not_end_it() {
    let Some(mut probes) = probes() else { return };
    let load = ["--period", "20ms", "--work", "2ms", "--seconds", "3", "--mid-sleep"];
    let seen = follow(&mut probes, &[&load]).remove(0);
    let told: Vec<&Miss> = seen.alone().filter_map(|known| seen.told(known)).collect();
    assert!(told.len() >= 100, "{} of {}", told.len(), seen.known.len());
    assert!(seen.job.jobs <= seen.known.len() as u64 + 1, "{} jobs", seen.job.jobs);
    let slept = told.iter().filter(|miss| miss.story.sleep_ns > 0).count();
    // On a busy machine the helper is often done before the thread would wait for it.
    assert!(slept >= 5, "{slept} of {} slept within", told.len());
}

#[derive(Deserialize)]
struct Shares {
    victim: Victim,
}

#[derive(Deserialize)]
struct Victim {
    tid: u32,
}

#[derive(Deserialize)]
struct Truth {
    occupants: Vec<Occupant>,
}

/// One who shared the CPU, and how long the victim was ready in its turns; of that, while it was seen
/// to run. Whether the rest is told apart is up to the host: not every hypervisor says what it takes.
#[derive(Deserialize)]
struct Occupant {
    name: String,
    kept_waiting_ns: u64,
    kept_waiting_running_ns: u64,
}

#[test]
fn blame_is_split_as_the_cpu_was() {
    let Some(mut probes) = probes() else { return };
    let arguments = "share --names alpha,beta --shares 70,30 --cpu 0 --seconds 4 --victim";
    let mut load = Load::start(&arguments.split(' ').collect::<Vec<_>>());
    let Shares { victim: Victim { tid } } = load.begun();
    probes.manage(tid, 3).unwrap();
    let mut found: Vec<Culprit> = Vec::new();
    let begun = Instant::now();
    while !load.has_ended() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(250));
        let now_ns = begun.elapsed().as_nanos() as u64;
        let blamed = probes.blame(now_ns);
        assert!(blamed.iter().all(|blame| blame.victim == 3), "{blamed:?}");
        found.extend(blamed.iter().map(|blame| blame.culprit));
    }
    let blamed = |name: &str| -> u64 {
        let is = |culprit: &&Culprit| {
            culprit.kind == CulpritKind::Program as u32
                && culprit.comm.starts_with(name.as_bytes())
                && culprit.comm[name.len()] == 0
        };
        found.iter().filter(is).map(|culprit| culprit.ns).sum()
    };
    let truth: Truth = load.account();
    for Occupant { name, kept_waiting_ns, kept_waiting_running_ns } in truth.occupants {
        let ns = blamed(&name) as f64;
        let least = 0.95 * kept_waiting_running_ns as f64;
        let most = 1.05 * kept_waiting_ns as f64;
        assert!(
            (least..=most).contains(&ns),
            "{name}: blamed {ns} ns, had {kept_waiting_ns} ns, ran {kept_waiting_running_ns} ns; {}",
            by_culprit(&found)
        );
    }
}

/// Everyone who was blamed, most first.
fn by_culprit(found: &[Culprit]) -> String {
    let mut sums: BTreeMap<(u32, u32, String), u64> = BTreeMap::new();
    for culprit in found {
        let comm = String::from_utf8_lossy(&culprit.comm).replace('\0', "");
        *sums.entry((culprit.kind, culprit.id, comm)).or_default() += culprit.ns;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    format!("{sums:?}")
}
