//! Processes and threads from `/proc`.
//!
//! A process that cannot be read, or that ends while it is read, costs only itself.

mod facts;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use downbeat_policy::{Needs, ProcessFacts};

use super::containers::{Containers, Places};
use super::uses::{self, Signs};
use super::whereabouts::{self, Whereabouts};
use crate::act::{ThreadId, start_time_of};
use crate::roots::Roots;

/// More than the longest `stat`: 52 numbers and a name.
const MAX_STAT: usize = 2048;

/// The flag of a kernel thread in a `stat` file (`PF_KTHREAD`).
const KERNEL_THREAD: u32 = 0x20_0000;

/// One process at one moment.
#[derive(Clone, Debug)]
pub struct ProcessSample {
    /// Process id.
    pub pid: u32,
    /// Parent.
    pub ppid: u32,
    /// Process group.
    pub group: u32,
    /// Session.
    pub session: u32,
    /// Start time, clock ticks since boot.
    pub start_time: u64,
    /// What the rules look at.
    pub facts: ProcessFacts,
    /// Its threads.
    pub threads: Vec<ThreadSample>,
}

/// One thread at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadSample {
    /// Thread id.
    pub tid: u32,
    /// The thread's own name.
    pub name: String,
    /// Start time, clock ticks since boot.
    pub start_time: u64,
}

/// What changes from moment to moment, from one `stat` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// Parent.
    pub ppid: u32,
    /// Whether it is a kernel thread.
    pub is_kernel: bool,
    /// Process group: the id of the process that made it, which may be gone.
    pub group: u32,
    /// Session, likewise.
    pub session: u32,
    /// Start time, clock ticks since boot.
    pub start_time: u64,
    /// The main thread's name.
    pub comm: String,
    /// One-letter state of the main thread.
    pub state: char,
    /// Threads.
    pub threads: u32,
    /// CPU time in user and kernel mode, clock ticks.
    pub cpu_ticks: u64,
    /// Resident memory, bytes.
    pub rss: u64,
    /// Nice value of the main thread.
    pub nice: i32,
    /// Scheduling policy of the main thread (`SCHED_*`).
    pub policy: u32,
    /// Real-time priority of the main thread, 1 to 99, else 0.
    pub priority: u32,
}

/// Reads processes below a root. Keeps the names of users and groups that it has met, and what
/// costs too much to be read each time.
#[derive(Debug)]
pub struct ProcessReader {
    proc: PathBuf,
    users: HashMap<u32, Option<String>>,
    groups: HashMap<u32, Option<String>>,
    page_size: u64,
    needs: Needs,
    containers: Containers,
    signs: Signs,
    whereabouts: Whereabouts,
}

impl ProcessReader {
    /// A reader below `roots.proc`.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        Self {
            proc: roots.proc.clone(),
            users: HashMap::new(),
            groups: HashMap::new(),
            page_size: procfs::page_size(),
            needs: Needs::default(),
            containers: Containers::new(Places::default()),
            signs: Signs::new(roots),
            whereabouts: Whereabouts::new(&roots.proc),
        }
    }

    /// Which of the costly facts are read from now on; none until this says so.
    pub fn want(&mut self, needs: Needs) {
        self.signs.want(uses::Wanted { uses: needs.uses, maps: needs.maps });
        self.whereabouts.want(whereabouts::Wanted { owner: needs.owner, place: needs.place });
        self.needs = needs;
    }

    /// Looks for what no event tells of, with at most `slice` of CPU time for each: devices that
    /// were opened and libraries that were mapped, users and control groups that changed. Takes in
    /// what engines said of containers. Returns the processes whose facts are others now. Never
    /// waits.
    pub fn news(&mut self, slice: Duration) -> Vec<u32> {
        let now = Instant::now();
        let mut changed = self.signs.news(now, slice);
        changed.extend(self.whereabouts.news(now, slice));
        changed.extend(self.containers.news(now));
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// Processes whose devices and libraries are wanted and were not looked at yet.
    #[must_use]
    pub fn unseen(&self) -> usize {
        self.signs.unseen()
    }

    /// Containers whose engine has not answered yet, and those that no engine knows, where rules
    /// ask for their names.
    #[must_use]
    pub fn unnamed_containers(&self) -> (usize, usize) {
        self.containers.unnamed()
    }

    /// Forgets what is kept of a process that is gone.
    pub fn forget(&mut self, pid: u32) {
        self.signs.forget(pid);
        self.whereabouts.forget(pid);
        self.containers.forget(pid);
    }

    /// Every process that can be read, with its threads.
    pub fn scan(&mut self) -> Vec<ProcessSample> {
        self.pids().into_iter().filter_map(|pid| self.read(pid)).collect()
    }

    /// The ids of all processes, ascending.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = numbered_entries(&self.proc);
        pids.sort_unstable();
        pids
    }

    /// One process with its threads; nothing when it is gone or unreadable, or when the id is that
    /// of a thread: `/proc` has a folder for each, which lists all threads of its process.
    pub fn read(&mut self, pid: u32) -> Option<ProcessSample> {
        let status = self.status(pid);
        if process_in(&status).is_some_and(|process| process != pid) {
            return None;
        }
        let stat = self.stat(pid).ok()?;
        let facts = self.facts(pid, &stat, &status);
        let threads = self.threads(pid);
        Some(ProcessSample {
            pid,
            ppid: stat.ppid,
            group: stat.group,
            session: stat.session,
            start_time: stat.start_time,
            facts,
            threads,
        })
    }

    /// What changes from moment to moment.
    ///
    /// # Errors
    /// When the process is gone, or its `stat` is not what proc(5) says.
    pub fn stat(&self, pid: u32) -> io::Result<ProcessStat> {
        // The file is made anew by each read from its start, and always fits: one read is enough,
        // where a reader that looks for the end makes four calls for every process of the host.
        let mut bytes = [0; MAX_STAT];
        let length = File::open(self.path(pid, "stat"))?.read(&mut bytes)?;
        let stat = bytes.get(..length).and_then(|bytes| parse_stat(bytes, self.page_size));
        stat.ok_or_else(|| io::Error::other("a stat file that is not as in proc(5)"))
    }

    /// Whether there is such a process, readable or not.
    #[must_use]
    pub fn is_there(&self, pid: u32) -> bool {
        self.proc.join(pid.to_string()).exists()
    }

    /// The threads of a process; none when it is gone.
    #[must_use]
    pub fn threads(&self, pid: u32) -> Vec<ThreadSample> {
        let mut tids = numbered_entries(&self.path(pid, "task"));
        tids.sort_unstable();
        tids.into_iter().filter_map(|tid| self.thread(pid, tid)).collect()
    }

    /// The ids of a process's threads, ascending; none when it is gone.
    #[must_use]
    pub fn tids(&self, pid: u32) -> Vec<u32> {
        let mut tids = numbered_entries(&self.path(pid, "task"));
        tids.sort_unstable();
        tids
    }

    /// The process that a thread belongs to, a process being its own; nothing when it is gone.
    #[must_use]
    pub fn process_of(&self, tid: u32) -> Option<u32> {
        process_in(&self.status(tid))
    }

    fn status(&self, pid: u32) -> String {
        let status = fs::read(self.path(pid, "status")).unwrap_or_default();
        String::from_utf8_lossy(&status).into_owned()
    }

    /// One thread; nothing when it is gone.
    #[must_use]
    pub fn thread(&self, pid: u32, tid: u32) -> Option<ThreadSample> {
        let stat = fs::read(self.path(pid, &format!("task/{tid}/stat"))).ok()?;
        let start_time = start_time_of(&stat)?;
        let name =
            stat.iter().position(|&b| b == b'(')? + 1..stat.iter().rposition(|&b| b == b')')?;
        let name = String::from_utf8_lossy(stat.get(name)?).into_owned();
        Some(ThreadSample { tid, name, start_time })
    }

    /// The threads of a process by id and start time; none when it is gone.
    #[must_use]
    pub fn thread_ids(&self, pid: u32) -> Vec<ThreadId> {
        let id = |t: ThreadSample| ThreadId { pid, tid: t.tid, start_time: t.start_time };
        self.threads(pid).into_iter().map(id).collect()
    }

    fn path(&self, pid: u32, name: &str) -> PathBuf {
        self.proc.join(pid.to_string()).join(name)
    }
}

/// A whole `stat` file. The name may hold spaces and brackets, so the fields are counted from the
/// last bracket.
fn parse_stat(bytes: &[u8], page_size: u64) -> Option<ProcessStat> {
    let start = bytes.iter().position(|&byte| byte == b'(')? + 1;
    let end = bytes.iter().rposition(|&byte| byte == b')')?;
    let comm = String::from_utf8_lossy(bytes.get(start..end)?).into_owned();
    // The first one behind the name is the third in proc(5).
    let mut fields = std::str::from_utf8(bytes.get(end + 1..)?).ok()?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let ppid = fields.next()?.parse::<i32>().ok()?.cast_unsigned();
    let group = fields.next()?.parse::<i32>().ok()?.cast_unsigned();
    let session = fields.next()?.parse::<i32>().ok()?.cast_unsigned();
    let flags = fields.nth(2)?.parse::<u32>().ok()?;
    let user = fields.nth(4)?.parse::<u64>().ok()?;
    let system = fields.next()?.parse::<u64>().ok()?;
    let nice = fields.nth(3)?.parse().ok()?;
    let threads = fields.next()?.parse().ok()?;
    let start_time = fields.nth(1)?.parse().ok()?;
    let rss_pages = fields.nth(1)?.parse::<u64>().ok()?;
    let priority = fields.nth(15)?.parse().ok()?;
    let policy = fields.next()?.parse().ok()?;
    Some(ProcessStat {
        ppid,
        is_kernel: flags & KERNEL_THREAD != 0,
        group,
        session,
        start_time,
        comm,
        state,
        threads,
        cpu_ticks: user.saturating_add(system),
        rss: rss_pages.saturating_mul(page_size),
        nice,
        policy,
        priority,
    })
}

/// The process that a `status` file is of.
fn process_in(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// The entries of a folder whose names are numbers; none when it cannot be read.
fn numbered_entries(folder: &std::path::Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use downbeat_policy::ProcessKind;

    use super::*;

    #[test]
    fn the_test_itself_is_read_with_its_threads() {
        let mut reader = ProcessReader::new(&Roots::default());
        let pid = std::process::id();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (start, started) = std::sync::mpsc::channel();
        // A thread gives itself its name, so it must have come that far.
        let body = move || {
            start.send(()).unwrap();
            stopped.recv()
        };
        let thread =
            std::thread::Builder::new().name("a (strange) one".into()).spawn(body).unwrap();
        started.recv().unwrap();
        let own = reader.read(pid).unwrap();
        let tid = own.threads.iter().find(|t| t.name == "a (strange) one").unwrap().tid;
        assert!(!reader.tids(tid).is_empty(), "a thread's folder lists its process's threads");
        assert!(reader.read(tid).is_none(), "a thread is no process");
        assert_eq!((reader.process_of(tid), reader.process_of(pid)), (Some(pid), Some(pid)));
        drop(stop);
        let _ = thread.join();

        let exe = std::env::current_exe().unwrap();
        assert_eq!(own.facts.exe.as_deref(), exe.to_str());
        assert!(own.facts.cmdline.contains("downbeat"), "{}", own.facts.cmdline);
        assert_eq!(own.facts.uid, nix::unistd::getuid().as_raw());
        assert!(own.facts.parent.is_some());
        let main = own.threads.iter().find(|t| t.tid == pid).unwrap();
        assert_eq!(main.start_time, own.start_time);
    }

    /// A `/proc` with one process, made of literal files.
    fn proc_with(pid: u32, files: &[(&str, &[u8])]) -> (tempfile::TempDir, ProcessReader) {
        let root = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = root.path().join(pid.to_string()).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let roots = Roots { proc: root.path().into(), ..Roots::default() };
        let reader = ProcessReader::new(&roots);
        (root, reader)
    }

    const STAT: &[u8] = b"42 (a b) c) S 1 42 42 0 -1 4194560 1 0 0 0 30 12 0 0 20 5 3 0 777 1000 \
        25 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 0 7 1 0 0 0 0 0 0 0 0 0 0 0";

    #[test]
    fn a_process_is_read_from_its_files_alone() {
        let (_root, mut reader) = proc_with(
            42,
            &[
                ("stat", STAT),
                ("cmdline", b"whisper-server\0--port\09000\0"),
                ("status", b"Name:\tx\nUid:\t1234567\t0\t0\t0\n"),
                ("cgroup", b"2:cpu,cpuacct:/old\n1:name=systemd:/user.slice\n0::/\n"),
                ("task/42/stat", STAT),
            ],
        );
        let process = reader.read(42).unwrap();
        assert_eq!(process.start_time, 777);
        assert_eq!(process.facts.comm, "a b) c");
        assert_eq!(process.facts.cmdline, "whisper-server --port 9000");
        assert_eq!(process.facts.uid, 1_234_567);
        assert_eq!(process.facts.user, None);
        assert_eq!(process.facts.cgroup.as_deref(), Some("/user.slice"));
        assert_eq!(process.facts.exe, None);
        assert_eq!(process.threads[0].name, "a b) c");
        assert_eq!(process.facts.kind, ProcessKind::Ordinary);
        let stat = reader.stat(42).unwrap();
        assert_eq!((stat.cpu_ticks, stat.threads, stat.nice), (42, 3, 5));
        assert_eq!((stat.ppid, stat.group, stat.session, stat.state), (1, 42, 42, 'S'));
        assert_eq!((stat.policy, stat.priority), (1, 7));
        assert_eq!(stat.rss, 25 * procfs::page_size());
    }

    #[test]
    fn init_the_agent_and_kernel_threads_are_told_apart() {
        let kind = |pid, stat: &[u8]| {
            let (_root, mut reader) = proc_with(pid, &[("stat", stat)]);
            reader.read(pid).unwrap().facts.kind
        };
        let kernel = String::from_utf8_lossy(STAT).replace(" 4194560 ", " 69238880 ");
        assert_eq!(kind(42, kernel.as_bytes()), ProcessKind::Kernel);
        assert_eq!(kind(1, STAT), ProcessKind::KeptOut);
        assert_eq!(kind(std::process::id(), STAT), ProcessKind::KeptOut);
    }

    #[test]
    fn what_rules_ask_for_is_read_and_nothing_else() {
        let stat = |pid: u32, ppid: u32| {
            format!("{pid} (p{pid}) S {ppid} {}", std::str::from_utf8(&STAT[15..]).unwrap())
        };
        let group = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/obs.service\n";
        let (root, mut reader) = proc_with(
            42,
            &[
                ("stat", stat(42, 41).as_bytes()),
                ("status", b"Uid:\t1\t1\t1\nGid:\t4294967\t0\t0\n"),
                ("cgroup", group.as_bytes()),
                ("environ", b"HOME=/root\0VOICE=loud=er\0PATH=/bin\0"),
            ],
        );
        for pid in 20..42 {
            fs::create_dir_all(root.path().join(pid.to_string())).unwrap();
            fs::write(root.path().join(format!("{pid}/stat")), stat(pid, pid - 1)).unwrap();
        }
        let facts = reader.read(42).unwrap().facts;
        assert_eq!((facts.gid, facts.group), (Some(4_294_967), None));
        assert_eq!(facts.unit.as_deref(), Some("obs.service"));
        assert_eq!(facts.parent.unwrap().comm, "p41");
        assert!(facts.ancestors.is_empty() && facts.env.is_empty());

        let env = ["VOICE", "ABSENT"].map(ToOwned::to_owned).into();
        reader.want(Needs { env, ancestors: true, ..Needs::default() });
        let facts = reader.read(42).unwrap().facts;
        assert_eq!(facts.env, [("VOICE".to_owned(), "loud=er".to_owned())]);
        let names: Vec<&str> = facts.ancestors.iter().map(|a| a.comm.as_str()).collect();
        assert_eq!((names.len(), names[0], names[15]), (16, "p40", "p25"));
    }

    #[test]
    fn a_process_that_cannot_be_read_costs_only_itself() {
        let (root, mut reader) = proc_with(42, &[("stat", STAT)]);
        fs::create_dir_all(root.path().join("43")).unwrap();
        fs::create_dir_all(root.path().join("44")).unwrap();
        fs::write(root.path().join("44/stat"), b"rubbish").unwrap();
        let found: Vec<u32> = reader.scan().into_iter().map(|process| process.pid).collect();
        assert_eq!(found, [42]);
    }
}
