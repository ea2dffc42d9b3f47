//! Starting the pool, keeping it up, and asking it how it is.
//!
//! The pool is another program under another user: what a request makes of it never reaches this
//! process. It is told to stop when the agent dies, however it dies.

mod group;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use downbeat_api::pool::{CONTROL_SOCKET, POOL_DIR, PoolRequest, PoolResponse, PoolStatus};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, User, chown, geteuid};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

pub use group::PoolGroup;

/// First pause before a restart; doubled for each death in a row.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);

/// Longest pause before a restart.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// A pool that lived this long starts again without a pause.
const SETTLED: Duration = Duration::from_secs(60);

/// How long the pool may take to stop its workers before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(4);

/// How often the pool is asked how it is, and how long it may take to answer.
const STATUS_PERIOD: Duration = Duration::from_secs(1);

/// What the pool is started with.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// The program; absent: `downbeat-pool` beside this one, else in `PATH`.
    pub program: Option<PathBuf>,
    /// Folder with the workers' declarations.
    pub pool_dir: PathBuf,
    /// The agent's run directory.
    pub run_dir: PathBuf,
    /// User to run as when the agent is root; absent: `downbeat`, else `nobody`.
    pub user: Option<String>,
    /// Handed on as `--rest`; absent: the pool's default.
    pub rest: Option<String>,
    /// Handed on as `--grpc`; absent: the pool's default.
    pub grpc: Option<String>,
    /// Handed on as `--wyoming`; absent: the pool's default.
    pub wyoming: Option<String>,
    /// Whose members may look at the pool's control socket, and whose may also change something
    /// there: as on the agent's.
    pub groups: [String; 2],
    /// The control group that is handed over to it, or why there is none.
    pub group: Result<PoolGroup, String>,
}

/// The pool's process and when it is to be started next.
#[derive(Debug)]
pub struct PoolSupervisor {
    options: PoolOptions,
    state: State,
    deaths: u32,
    note: Option<String>,
}

#[derive(Debug)]
enum State {
    Running { child: Child, since: Instant },
    Waiting { until: Instant },
}

impl PoolSupervisor {
    /// A supervisor that starts the pool at its first [`Self::step`]; nothing when `pool_dir`
    /// declares no worker.
    #[must_use]
    pub fn new(options: PoolOptions) -> Option<Self> {
        let declared = fs::read_dir(&options.pool_dir)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.path().extension().is_some_and(|extension| extension == "toml"));
        if !declared {
            return None;
        }
        match &options.group {
            // What an agent that was killed may have left.
            Ok(group) => group.end(),
            Err(reason) => {
                tracing::warn!("the pool's workers get no control groups of their own: {reason}");
            }
        }
        let state = State::Waiting { until: Instant::now() };
        Some(Self { options, state, deaths: 0, note: None })
    }

    /// Waits for the next thing to do and does it: a start, or taking note of a death. May be
    /// dropped while it waits.
    pub async fn step(&mut self) {
        match &mut self.state {
            State::Waiting { until } => {
                sleep_until(*until).await;
                self.start();
            }
            State::Running { child, since } => {
                let ended = child.wait().await;
                if let Ok(group) = &self.options.group {
                    group.end();
                }
                if since.elapsed() >= SETTLED {
                    self.deaths = 0;
                }
                let how = match ended {
                    Ok(status) => describe(status),
                    Err(error) => format!("waiting for it failed: {error}"),
                };
                self.wait_after(how);
            }
        }
    }

    /// Tells the pool to read its declarations again.
    pub fn reload(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// Stops the pool and waits for it, a few seconds at most.
    pub async fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        if let State::Running { child, .. } = &mut self.state
            && timeout(STOP_TIMEOUT, child.wait()).await.is_err()
        {
            tracing::warn!("the pool did not stop within {} s: killed", STOP_TIMEOUT.as_secs());
            let _ = child.kill().await;
        }
        if let Ok(group) = &self.options.group {
            group.remove().await;
        }
        self.state = State::Waiting { until: Instant::now() + LONGEST_BACKOFF };
    }

    /// The pool's process and, while it is down, why.
    #[must_use]
    pub fn process(&self) -> (Option<u32>, Option<&str>) {
        match &self.state {
            State::Running { child, .. } => (child.id(), None),
            State::Waiting { .. } => (None, self.note.as_deref()),
        }
    }

    fn start(&mut self) {
        match self.spawn() {
            Ok(child) => {
                tracing::info!(pid = child.id(), "the pool runs");
                self.state = State::Running { child, since: Instant::now() };
            }
            Err(reason) => self.wait_after(reason),
        }
    }

    fn wait_after(&mut self, reason: String) {
        let pause = FIRST_BACKOFF.saturating_mul(1 << self.deaths.min(10)).min(LONGEST_BACKOFF);
        self.deaths = self.deaths.saturating_add(1);
        tracing::warn!("the pool is down: {reason}; next start in {} ms", pause.as_millis());
        self.note = Some(reason);
        self.state = State::Waiting { until: Instant::now() + pause };
    }

    fn spawn(&self) -> Result<Child, String> {
        let program = self.program();
        let user = self.user()?;
        let folder = self.options.run_dir.join(POOL_DIR);
        prepare_folder(&folder, user.as_ref())
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut command = Command::new(&program);
        command.arg("--pool-dir").arg(&self.options.pool_dir);
        command.arg("--run-dir").arg(&self.options.run_dir);
        for (flag, group) in ["--read-group", "--change-group"].iter().zip(&self.options.groups) {
            command.arg(flag).arg(group);
        }
        let PoolOptions { rest, grpc, wyoming, .. } = &self.options;
        for (flag, value) in [("--rest", rest), ("--grpc", grpc), ("--wyoming", wyoming)] {
            if let Some(value) = value {
                command.arg(flag).arg(value);
            }
        }
        if let Some(user) = &user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let entrance = self.hand_over(user.as_ref());
        if let (Some(_), Ok(group)) = (&entrance, &self.options.group) {
            command.arg("--cgroup").arg(group.folder());
        }
        command.stdin(std::process::Stdio::null()).kill_on_drop(true);
        // The agent's notification socket is the agent's.
        command.env_remove("NOTIFY_SOCKET");
        let agent = nix::unistd::getpid();
        // SAFETY: the closure runs between fork and exec and makes a few system calls, all of which
        // are safe there.
        unsafe {
            command.pre_exec(move || {
                if let Some(entrance) = &entrance {
                    // `0` is the writer. The right to is that of whoever opened the file; on kernels
                    // before 5.16 the pool stays outside, and says so.
                    let _ = nix::unistd::write(entrance, b"0");
                }
                nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
                // A reload in the pool's first milliseconds waits until the pool can hear it;
                // the pool then takes it out of its mask.
                SigSet::from(Signal::SIGHUP).thread_block()?;
                // The agent may have died before the line above.
                if nix::unistd::getppid() == agent {
                    Ok(())
                } else {
                    Err(io::ErrorKind::BrokenPipe.into())
                }
            });
        }
        command.spawn().map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::NotFound => {
                    "install it beside downbeatd, or name it with --pool-bin"
                }
                io::ErrorKind::PermissionDenied => {
                    "its user must be able to reach and run it: see --pool-user and --pool-bin"
                }
                _ => "see the log",
            };
            format!("{}: {error}; {remedy}", program.display())
        })
    }

    /// Hands the group over; nothing where that is not possible.
    fn hand_over(&self, user: Option<&User>) -> Option<OwnedFd> {
        let group = self.options.group.as_ref().ok()?;
        let entrance = group.hand_over(user);
        let warn = |reason: &String| {
            tracing::warn!("the pool's workers get no control groups of their own: {reason}");
        };
        entrance.inspect_err(warn).ok()
    }

    fn program(&self) -> PathBuf {
        let beside = || {
            let own = std::env::current_exe().ok()?;
            Some(own.parent()?.join("downbeat-pool")).filter(|path| path.exists())
        };
        self.options.program.clone().or_else(beside).unwrap_or_else(|| "downbeat-pool".into())
    }

    /// Whom the pool runs as; nothing: as the agent's own user, who is not root.
    fn user(&self) -> Result<Option<User>, String> {
        let find = |name: &str| User::from_name(name).ok().flatten();
        match &self.options.user {
            _ if !geteuid().is_root() => Ok(None),
            Some(name) => find(name).map(Some).ok_or_else(|| {
                format!("--pool-user {name}: no such user; make it with `useradd --system {name}`")
            }),
            None => find("downbeat").or_else(|| find("nobody")).map(Some).ok_or_else(|| {
                "neither user downbeat nor nobody is there; make one with `useradd --system \
                 downbeat`"
                    .to_owned()
            }),
        }
    }

    fn signal(&self, signal: Signal) {
        if let State::Running { child, .. } = &self.state
            && let Some(pid) = child.id()
        {
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    }
}

fn prepare_folder(folder: &Path, user: Option<&User>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    if let Some(user) = user {
        chown(folder, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

fn describe(status: ExitStatus) -> String {
    format!("it ended with {status}")
}

/// Asks the pool how it is, once a second, until the receiver is gone.
pub async fn poll_status(run_dir: PathBuf, publish: watch::Sender<Option<PoolStatus>>) {
    let path = run_dir.join(POOL_DIR).join(CONTROL_SOCKET);
    while !publish.is_closed() {
        let status = timeout(STATUS_PERIOD, ask(&path)).await.ok().and_then(Result::ok);
        publish.send_replace(status);
        tokio::time::sleep(STATUS_PERIOD).await;
    }
}

async fn ask(path: &Path) -> io::Result<PoolStatus> {
    let mut stream = UnixStream::connect(path).await?;
    let mut request = serde_json::to_vec(&PoolRequest::Status)?;
    request.push(b'\n');
    stream.write_all(&request).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    match serde_json::from_str(&line)? {
        PoolResponse::Status(status) => Ok(status),
        PoolResponse::Error { message } => Err(io::Error::other(message)),
        other => Err(io::Error::other(format!("asked for its status, it says {other:?}"))),
    }
}
