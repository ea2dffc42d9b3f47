//! Starting the real programs in a folder of their own.
//!
//! A [`Place`] is a folder under the temporary folder with the programs (hard links where that is
//! possible), policy files, worker declarations and a run directory. Its path is unique, so rules
//! that match by it touch nothing else on the host, tests can run side by side, and everything
//! that still runs from it can be found and ended.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use downbeat_api::{Client, SOCKET_NAME, Snapshot};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::processes::{Stat, ThreadId, sweep, tids, wait_until};
use crate::threads::Attributes;

/// Every program that a place holds.
pub const PROGRAMS: [&str; 5] =
    ["downbeatd", "downbeat", "downbeat-pool", "downbeat-worker", "downbeat-load"];

/// Names the folder that the programs are taken from.
pub const BIN_DIR: &str = "DOWNBEAT_BIN_DIR";

/// How long a start, a stop or an effect may take on a slow and busy machine: an emulated one on a
/// host that compiles is ten times slower than a quiet host.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The folder with the built programs: `$DOWNBEAT_BIN_DIR`, else beside the running test.
///
/// # Errors
/// When neither holds them.
pub fn bin_dir() -> Result<PathBuf> {
    let dir = match std::env::var_os(BIN_DIR) {
        Some(dir) => PathBuf::from(dir),
        None => {
            let exe = std::env::current_exe().context("the running program's own path")?;
            let dir = exe.parent().context("a program outside any folder")?;
            if dir.ends_with("deps") { dir.join("..") } else { dir.to_path_buf() }
        }
    };
    for program in PROGRAMS {
        if !dir.join(program).is_file() {
            bail!(
                "{}: no {program} there; build first (`cargo build`) or set {BIN_DIR}",
                dir.display()
            );
        }
    }
    Ok(dir)
}

/// Programs, policy, workers and a run directory of their own; gone when dropped, with
/// everything that runs from it.
#[derive(Debug)]
pub struct Place {
    dir: tempfile::TempDir,
    records: tempfile::TempDir,
}

/// Copies a program, by a process of its own: a child that another thread forks meanwhile would hold
/// open what this one writes, and until it executes nobody could run it (`ETXTBSY`).
///
/// # Errors
/// When `cp` cannot.
pub fn copy_program(from: &Path, to: &Path) -> Result<()> {
    let output = Command::new("cp").args([from, to]).output().context("running cp")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim_end());
    Ok(())
}

impl Place {
    /// A new place with the built programs and nothing else.
    ///
    /// # Errors
    /// When the programs are not built or the folder cannot be made.
    pub fn new() -> Result<Self> {
        Self::from_programs(&bin_dir()?, "downbeat-test.")
    }

    /// A new place with the programs in `programs`.
    ///
    /// # Errors
    /// When the folder cannot be made or a program is missing.
    pub fn from_programs(programs: &Path, prefix: &str) -> Result<Self> {
        // The pool runs as a user of its own and must be able to reach its program.
        let open = fs::Permissions::from_mode(0o755);
        let folder = |below: &Path, mode| {
            let made = tempfile::Builder::new().prefix(prefix).tempdir_in(below);
            let made =
                made.with_context(|| format!("{}: making a folder there", below.display()))?;
            // Whatever the umask.
            fs::set_permissions(made.path(), fs::Permissions::from_mode(mode))?;
            anyhow::Ok(made)
        };
        let temporary = std::env::temp_dir();
        // Records in memory: a store into a mapped file on disk may wait for its write-back.
        let memory = Path::new("/dev/shm");
        let records = if memory.is_dir() { memory } else { &temporary };
        // Workers record there, whoever they run as.
        let place = Self { dir: folder(&temporary, 0o755)?, records: folder(records, 0o1777)? };
        for folder in ["bin", "policy", "pool.d", "run"] {
            let path = place.path(folder);
            fs::create_dir(&path).with_context(|| format!("{}: making it", path.display()))?;
            fs::set_permissions(&path, open.clone())?;
        }
        for program in PROGRAMS {
            let (from, to) = (programs.join(program), place.bin(program));
            fs::hard_link(&from, &to).or_else(|_| copy_program(&from, &to))?;
        }
        Ok(place)
    }

    /// Everything but the records.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path inside.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join(inside)
    }

    /// One of [`PROGRAMS`].
    #[must_use]
    pub fn bin(&self, program: &str) -> PathBuf {
        self.path("bin").join(program)
    }

    /// A folder that anyone may write: for records.
    #[must_use]
    pub fn records(&self) -> &Path {
        self.records.path()
    }

    /// The run directory.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// Writes a policy file. `{bin}` in the text stands for the programs' folder.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn policy(&self, name: &str, text: &str) -> Result<PathBuf> {
        self.write("policy", name, text)
    }

    /// Writes a declaration of workers. `{bin}` in the text stands for the programs' folder, and
    /// `{records}` for one that workers may write.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn pool(&self, name: &str, text: &str) -> Result<PathBuf> {
        self.write("pool.d", name, text)
    }

    fn write(&self, folder: &str, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(folder).join(name);
        let text = text
            .replace("{bin}", &self.path("bin").to_string_lossy())
            .replace("{records}", &self.records().to_string_lossy());
        fs::write(&path, text).with_context(|| format!("{}: writing it", path.display()))?;
        // Whatever the umask: a policy that others can write is refused.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        Ok(path)
    }

    /// `downbeatd` with this place's folders, a metrics port of its own and no TCP for the pool.
    #[must_use]
    pub fn agent_command(&self) -> Command {
        self.agent_command_at("127.0.0.1:0", "off")
    }

    /// The same with its metrics and its pool's REST server at these addresses.
    #[must_use]
    pub fn agent_command_at(&self, metrics: &str, rest: &str) -> Command {
        let mut command = Command::new(self.bin("downbeatd"));
        command.arg("--policy-dir").arg(self.path("policy"));
        command.arg("--pool-dir").arg(self.path("pool.d"));
        command.arg("--run-dir").arg(self.run_dir());
        command.args(["--listen", metrics, "--pool-rest", rest, "--pool-grpc", "off"]);
        command
    }

    /// Starts the agent and waits until it answers.
    ///
    /// # Errors
    /// When it ends or does not answer in time; with the end of its log.
    pub fn start(&self, more: &[&str]) -> Result<Agent> {
        let mut command = self.agent_command();
        command.args(more);
        Agent::start(command, self.run_dir(), self.path("agent.log"))
    }

    /// Runs `downbeat` to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end within [`PATIENCE`].
    pub fn downbeat<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<Output> {
        let mut command = Command::new(self.bin("downbeat"));
        command.args(args);
        output_within(&mut command, PATIENCE)
    }

    /// `downbeat restore` for this place.
    ///
    /// # Errors
    /// As [`Self::downbeat`].
    pub fn restore(&self) -> Result<Output> {
        let args = ["restore".into(), "--run-dir".into(), self.run_dir().into_os_string()];
        self.downbeat::<OsString>(&args)
    }

    /// Starts `downbeat-load`; it is killed when the value is dropped.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn load(&self, args: &[&str]) -> Result<Load> {
        let mut command = Command::new(self.bin("downbeat-load"));
        command.args(args).stdin(Stdio::null());
        die_with_this_thread(&mut command, Signal::SIGKILL);
        let child = command.spawn().context("downbeat-load: starting it")?;
        Ok(Load { child })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        sweep(&self.path("bin"), "downbeatd", Duration::from_secs(5));
    }
}

/// A running `downbeat-load`.
#[derive(Debug)]
pub struct Load {
    child: Child,
}

impl Load {
    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Every thread's attributes, in order of its id; those that have just ended are left out.
    #[must_use]
    pub fn attributes(&self) -> Vec<Attributes> {
        let mut tids = tids(self.pid());
        tids.sort_unstable();
        tids.into_iter().filter_map(|tid| Attributes::of(tid).ok()).collect()
    }

    /// Waits until it has `threads` threads and `wanted` holds for each; at the end of the
    /// patience the error shows what was there.
    ///
    /// # Errors
    /// When it does not come to that within [`PATIENCE`].
    pub fn wait_for(&self, threads: usize, wanted: impl Fn(&Attributes) -> bool) -> Result<()> {
        let mut last = Vec::new();
        let came = wait_until(PATIENCE, || {
            last = self.attributes();
            last.len() == threads && last.iter().all(&wanted)
        });
        if came {
            Ok(())
        } else {
            bail!("expected {threads} threads as asked for, found {last:#?}")
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running agent; told to stop when dropped, and killed if it does not.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    run_dir: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Starts `command`, an agent on `run_dir`, with its output in `log`, and waits until it
    /// answers. It is told to stop when the calling thread ends.
    ///
    /// # Errors
    /// When it ends or does not answer in time; with the end of its log.
    pub fn start(mut command: Command, run_dir: PathBuf, log: PathBuf) -> Result<Self> {
        let out = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("{}: making it", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        // A group of its own: Ctrl-C at a terminal is the caller's to pass on.
        command.process_group(0);
        die_with_this_thread(&mut command, Signal::SIGTERM);
        let child = command.spawn().with_context(|| format!("{command:?}: starting it"))?;
        let mut agent = Self { child, run_dir, log };
        let mut ended = None;
        let answered = wait_until(PATIENCE, || {
            ended = agent.child.try_wait().ok().flatten();
            ended.is_some() || agent.snapshot().is_ok()
        });
        match ended {
            Some(status) => bail!("the agent ended with {status}:\n{}", agent.log()),
            None if !answered => {
                bail!("the agent did not answer within {PATIENCE:?}:\n{}", agent.log())
            }
            None => Ok(agent),
        }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its process beyond doubt.
    ///
    /// # Errors
    /// When it is gone.
    pub fn id(&self) -> Result<ThreadId> {
        let stat = Stat::of(self.pid()).context("the agent is gone")?;
        Ok(ThreadId { tid: self.pid(), start_time: stat.start_time })
    }

    /// A connection to it.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.run_dir.join(SOCKET_NAME))?)
    }

    /// Its latest snapshot.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(self.client()?.snapshot()?)
    }

    /// Waits for a snapshot that holds something; the error shows the last one.
    ///
    /// # Errors
    /// When none comes within [`PATIENCE`].
    pub fn wait_for<T>(&self, mut wanted: impl FnMut(&Snapshot) -> Option<T>) -> Result<T> {
        let (mut found, mut last) = (None, None);
        wait_until(PATIENCE, || {
            last = self.snapshot().ok();
            found = last.as_ref().and_then(&mut wanted);
            found.is_some()
        });
        found.with_context(|| {
            let shown = last.map(|mut snapshot| {
                // The host's processes are many and beside the point.
                snapshot.processes.retain(|process| process.class.is_some());
                snapshot
            });
            format!("no snapshot held what was waited for; the last: {shown:#?}\n{}", self.log())
        })
    }

    /// The end of what it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), signal).context("signalling the agent")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time; with the end of its log.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut status = None;
        wait_until(limit, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        status.with_context(|| format!("the agent did not end within {limit:?}:\n{}", self.log()))
    }

    /// Sends it `signal` and waits for its end.
    ///
    /// # Errors
    /// When it is gone or does not end in time.
    pub fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.wait(PATIENCE)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.end(Signal::SIGTERM).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Has the kernel send `signal` to the command's process when the calling thread ends, and lets
/// it have signals that the caller blocks for itself: a signal mask is inherited.
pub fn die_with_this_thread(command: &mut Command, signal: Signal) {
    let parent = nix::unistd::getpid();
    // SAFETY: the closure runs between fork and exec and makes three system calls, all of which
    // are safe there.
    unsafe {
        command.pre_exec(move || {
            SigSet::empty().thread_set_mask()?;
            nix::sys::prctl::set_pdeathsig(signal)?;
            // The parent may have died before the line above.
            if nix::unistd::getppid() == parent {
                Ok(())
            } else {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
        });
    }
}

/// Runs a command to its end and takes its output.
///
/// # Errors
/// When it cannot be started, or does not end in time; then it is killed.
pub fn output_within(command: &mut Command, limit: Duration) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}: starting it"))?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            bail!("{command:?}: did not end within {limit:?}");
        }
        thread::sleep(Duration::from_millis(10));
    };
    let joined = |reader: thread::JoinHandle<Vec<u8>>| reader.join().unwrap_or_default();
    Ok(Output { status, stdout: joined(stdout), stderr: joined(stderr) })
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Both outputs of a command as text, for messages and searches.
#[must_use]
pub fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}
