//! However the agent is killed, and whatever starts and ends meanwhile, `restore` leaves the host as
//! it was: every attribute of every thread is compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use downbeat_tests::agent::{PATIENCE, Place, copy_program, die_with_this_thread, said};
use downbeat_tests::processes::{ThreadId, pids, running_from, tids, wait_until};
use downbeat_tests::skip::root_or_skip;
use downbeat_tests::threads::Attributes;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How many rounds; each takes some seconds.
const ROUNDS: &str = "DOWNBEAT_ROUNDS";
const DEFAULT_ROUNDS: usize = 3;

/// Threads of three programs that live through a round.
const LASTING: usize = 15;

const BPF_FS: &str = "/sys/fs/bpf";

/// Where agents pin what outlives them.
const PINNED: &str = "/sys/fs/bpf/downbeat";

/// Levers of every kind, on this place's programs alone. An OOM score above 0 needs no
/// `CAP_SYS_RESOURCE`.
const POLICY: &str = r#"
schema = 1

[class.voice]
tier = "realtime"
deadline = "10ms"
sched = { policy = "fifo", priority = 7 }
cpus = "0"
io = { class = "best-effort", level = 1 }
memory = { oom = 321 }

[class.batch]
tier = "background"
timer_slack = "1ms"
io = { class = "idle" }
adopt = true
freeze = true

[class.moved]
tier = "interactive"
adopt = true
cpu = { uclamp = { min = "10%" } }

[[rule]]
name = "frozen"
class = "batch"
match = { cmdline = "*downbeat-load crowd*--name frozen*" }

[[rule]]
name = "moved"
class = "moved"
match = { cmdline = "*downbeat-load crowd*--name moved*" }

[[rule]]
name = "voice"
class = "voice"
match = { exe = "{bin}/downbeat-load" }

[[rule]]
name = "churn"
class = "moved"
match = { exe = "{bin}/sh" }
"#;

/// Shells that fork, exec and leave orphans without end. Forty a second or so.
const CHURN: &str = r#"
while :; do
    "$1/sh" -c '("$0/sleep" 0.3 & "$0/sleep" 0.1) & "$0/downbeat-load" crowd --threads 2 --live 1s &
        "$0/sleep" 0.05' "$1" &
    "$1/sh" -c 'setsid "$0/sleep" 0.5 & exec "$0/sleep" 0.2' "$1" &
    "$1/sleep" 0.1
done
"#;

/// All that downbeat may change on a thread, and what the kernel keeps beside it.
#[derive(Clone, Debug, PartialEq)]
struct Everything {
    attributes: Attributes,
    /// The nice value also where the policy has no use for it.
    nice: i32,
    timer_slack: Option<u64>,
    /// Of version 2: the others are not downbeat's, and whoever manages them moves processes at will.
    cgroup: String,
    /// `sched_util_min` and `sched_util_max`, where the kernel has them.
    clamps: (u32, u32),
    slice: u64,
}

impl Everything {
    fn of(pid: u32, tid: u32) -> Option<Self> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/task/{tid}/{name}"));
        let slack = fs::read_to_string(format!("/proc/{tid}/timerslack_ns")).ok();
        // SAFETY: takes no pointers.
        let priority = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid) };
        let (clamps, slice) = clamps_and_slice(tid)?;
        Some(Self {
            attributes: Attributes::of(tid).ok()?,
            nice: 20 - i32::try_from(priority).ok()?,
            timer_slack: slack.and_then(|text| text.trim().parse().ok()),
            cgroup: read("cgroup").ok()?.lines().find(|line| line.starts_with("0::"))?.to_owned(),
            clamps,
            slice,
        })
    }
}

/// From `struct sched_attr` in its second size (kernel 5.3): 14 words of 32 bits.
fn clamps_and_slice(tid: u32) -> Option<((u32, u32), u64)> {
    const SIZE: usize = 56;
    let mut words = [0_u32; SIZE / 4];
    // SAFETY: the kernel writes at most `SIZE` bytes, which `words` has.
    let done = unsafe { libc::syscall(libc::SYS_sched_getattr, tid, words.as_mut_ptr(), SIZE, 0) };
    let slice = u64::from(words[6]) | u64::from(words[7]) << 32;
    (done == 0).then_some(((words[12], words[13]), slice))
}

type Host = BTreeMap<ThreadId, (String, Everything)>;

/// Every thread that can be read, but for `kworker` threads, whose values the kernel itself changes
/// as it hands them from one queue to another.
fn host() -> Host {
    let mut host = Host::new();
    for pid in pids() {
        for tid in tids(pid) {
            let path = format!("/proc/{pid}/task/{tid}/stat");
            let Ok(stat) = fs::read_to_string(path) else { continue };
            let Some((name, rest)) =
                stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") "))
            else {
                continue;
            };
            let start_time = rest.split_ascii_whitespace().nth(19).and_then(|it| it.parse().ok());
            let (Some(start_time), false) = (start_time, name.starts_with("kworker/")) else {
                continue;
            };
            // One that has ended and waits for its parent has lost its affinity and group.
            if rest.starts_with(['Z', 'X']) {
                continue;
            }
            if let Some(everything) = Everything::of(pid, tid) {
                host.insert(ThreadId { tid, start_time }, (name.to_owned(), everything));
            }
        }
    }
    host
}

/// Processes that start and end; all of them end with this.
struct Churn {
    shell: Child,
}

impl Churn {
    fn start(bin: &Path) -> Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", CHURN, "churn"]).arg(bin);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        die_with_this_thread(&mut command, Signal::SIGKILL);
        Ok(Self { shell: command.spawn().context("sh")? })
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn hierarchy() -> Result<Option<String>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.get(2) == Some(&"cgroup2"));
    Ok(found.and_then(|fields| Some((*fields.get(1)?).to_owned())))
}

fn round(number: usize, place: &Place, own: Option<&Path>) -> Result<usize> {
    let crowd =
        |name: &str| place.load(&["crowd", "--threads", "4", "--name", name, "--live", "600s"]);
    let crowds = [crowd("frozen")?, crowd("moved")?, crowd("voice")?];
    for load in &crowds {
        ensure!(wait_until(PATIENCE, || load.attributes().len() == 5), "the crowd is not there");
    }
    let before = host();
    let churn = Churn::start(&place.path("bin"))?;
    let log = place.path("agent.log");
    let out = fs::File::create(&log)?;
    let mut command = place.agent_command();
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    die_with_this_thread(&mut command, Signal::SIGTERM);
    let mut agent = command.spawn().context("downbeatd")?;
    let changed = || -> usize { crowds.iter().map(|it| touched(&before, it.pid())).sum() };
    if number == 1 {
        let all = || changed() == LASTING;
        ensure!(wait_until(PATIENCE, all), "{} of {LASTING} are managed", changed());
    } else {
        // While it starts, while it runs, or while it stops.
        thread::sleep(Duration::from_millis(fastrand::u64(0..2500)));
    }
    if number > 1 && fastrand::bool() {
        let pid = Pid::from_raw(i32::try_from(agent.id())?);
        kill(pid, Signal::SIGTERM)?;
        thread::sleep(Duration::from_millis(fastrand::u64(0..25)));
    }
    let changed = changed();
    agent.kill()?;
    agent.wait()?;
    // Nobody but the kernel sees what is born now.
    thread::sleep(Duration::from_millis(fastrand::u64(0..300)));
    let log = || fs::read_to_string(&log).unwrap_or_default();
    let restored = place.restore()?;
    ensure!(restored.status.success(), "round {number}: {}\n{}", said(&restored), log());
    // What the churn starts from here on comes from what was put back.
    let after = host();
    drop(churn);
    let mut differ = Vec::new();
    for (id, (name, now)) in &after {
        match before.get(id) {
            Some((_, then)) if then != now => {
                differ.push(format!("thread {} ({name}): {then:?} is now {now:?}", id.tid));
            }
            Some(_) => {}
            None => differ.extend(ours(place, *id, name, now)),
        }
    }
    ensure!(differ.is_empty(), "round {number}:\n{}\n{}", differ.join("\n"), log());
    if let Some(own) = own {
        ensure!(!own.exists(), "round {number}: {} is left", own.display());
    }
    let pinned = Path::new(PINNED);
    ensure!(!pinned.exists(), "round {number}: {} is left", pinned.display());
    Ok(changed)
}

/// A BPF file system that this test alone sees, with what it starts from here on: not every host has
/// one mounted, and nobody's is changed.
fn own_bpf_fs() -> Result<()> {
    let nothing = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .context("making mounts private")?;
    mount(Some("bpf"), BPF_FS, Some("bpf"), MsFlags::empty(), nothing).context(BPF_FS)
}

/// How many threads of a process differ from what they were.
fn touched(before: &Host, pid: u32) -> usize {
    let differs = |tid: &u32| {
        let then = before.iter().find(|(id, _)| id.tid == *tid).map(|(_, (_, it))| it);
        then != Everything::of(pid, *tid).as_ref()
    };
    tids(pid).iter().filter(|tid| differs(tid)).count()
}

/// A thread that came during the round has what this test gives its children, where it is a child.
fn ours(place: &Place, id: ThreadId, name: &str, now: &Everything) -> Option<String> {
    let exe = fs::read_link(format!("/proc/{}/exe", id.tid)).ok()?;
    let own = Everything::of(std::process::id(), std::process::id())?;
    (exe.starts_with(place.dir()) && own != *now)
        .then(|| format!("thread {} ({name}) came and has {now:?}, not {own:?}", id.tid))
}

/// Three rounds of some seconds; as many as `DOWNBEAT_ROUNDS` says.
#[test]
fn whenever_the_agent_is_killed_restore_leaves_every_thread_as_it_was() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let rounds = match std::env::var(ROUNDS) {
        Ok(rounds) => rounds.parse().with_context(|| format!("{ROUNDS}={rounds}: no number"))?,
        Err(_) => DEFAULT_ROUNDS,
    };
    let own = hierarchy()?.map(|mount| Path::new(&mount).join("downbeat.slice"));
    if own.as_ref().is_some_and(|own| own.exists()) {
        downbeat_tests::skip::skipped("an agent has groups here");
        return Ok(());
    }
    own_bpf_fs()?;
    let place = Place::new()?;
    // Of this place's own: rules find them by their path, and so does this test.
    for program in ["/bin/sh", "/bin/sleep"] {
        let program = Path::new(program);
        copy_program(program, &place.path("bin").join(program.file_name().context("a path")?))?;
    }
    place.policy("50-test.toml", POLICY)?;
    let begun = Instant::now();
    for number in 1..=rounds {
        let of_round = round(number, &place, own.as_deref())?;
        println!("round {number}: {of_round} of {LASTING} lasting threads changed at the kill");
        let ended = || running_from(place.dir()).is_empty();
        ensure!(wait_until(PATIENCE, ended), "the churn goes on");
    }
    println!("{rounds} rounds in {:.0?}: every thread is as it was", begun.elapsed());
    Ok(())
}
