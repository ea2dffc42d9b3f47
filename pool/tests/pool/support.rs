//! A pool of its own for each test: its folders, its process, its status.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use downbeat_api::pool::{FrameHead, PoolRequest, PoolResponse, PoolStatus, Worker, WorkerState};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;
use tempfile::TempDir;

/// However slow the machine is, what a test waits for comes within this.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running pool and its folders; killed and cleaned away when dropped.
pub struct TestPool {
    pub folder: TempDir,
    pub child: Child,
}

impl TestPool {
    /// Starts a pool over one file with the given text.
    pub fn start(text: &str) -> Self {
        Self::start_with(text, &[])
    }

    /// The same with more arguments.
    pub fn start_with(text: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("pool.d")).unwrap();
        declare(folder.path(), text);
        let child = spawn(folder.path(), arguments);
        Self { folder, child }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join("run/pool").join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The status, when the pool answers.
    pub fn try_status(&self) -> Option<PoolStatus> {
        let mut stream = UnixStream::connect(self.socket("control.sock")).ok()?;
        let mut line = serde_json::to_string(&PoolRequest::Status).unwrap();
        line.push('\n');
        stream.write_all(line.as_bytes()).ok()?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).ok()?;
        match serde_json::from_str(&answer).ok()? {
            PoolResponse::Status(status) => Some(status),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for a status that `wanted` accepts.
    pub fn wait(&self, what: &str, wanted: impl Fn(&PoolStatus) -> bool) -> PoolStatus {
        let mut last = None;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            last = self.try_status();
            if let Some(status) = last.take_if(|status| wanted(status)) {
                return status;
            }
            sleep(Duration::from_millis(20));
        }
        panic!("no {what}; last: {last:#?}; log:\n{}", self.log());
    }

    /// Waits for a worker in the given state.
    pub fn wait_for(&self, name: &str, state: WorkerState) -> Worker {
        let is = |worker: &Worker| worker.name == name && worker.state == state;
        let status = self.wait(&format!("{name} {state:?}"), |s| s.workers.iter().any(is));
        status.workers.into_iter().find(is).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits for a file in the test's folder and reads the process id in it.
    pub fn wait_pid(&self, file: &str) -> u32 {
        let path = self.folder.path().join(file);
        let until = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&path).unwrap_or_default();
            if let Ok(pid) = text.trim().parse() {
                return pid;
            }
            let (status, log) = (self.try_status(), self.log());
            assert!(Instant::now() < until, "no file {file}; last: {status:#?}; log:\n{log}");
            sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the pool's own end.
    pub fn wait_end(&mut self) -> std::process::ExitStatus {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            sleep(Duration::from_millis(10));
        }
        panic!("the pool does not end; log:\n{}", self.log());
    }
}

impl Drop for TestPool {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = kill(self.pid(), Signal::SIGTERM);
            let until = Instant::now() + Duration::from_secs(5);
            while Instant::now() < until && self.child.try_wait().is_ok_and(|s| s.is_none()) {
                sleep(Duration::from_millis(10));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Whether a program can be run here; else says that the calling test is skipped, past the test
/// runner, which would swallow it in a test that passes. `cargo xtask test` counts these lines, and
/// installs the packages.
pub fn installed(program: &str, packages: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        let test = std::thread::current().name().unwrap_or("test").to_owned();
        let line = format!("\nskipped: {test}: no {program} (apt-get install {packages})\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    found
}

/// Starts a pool over `folder`.
pub fn spawn(folder: &Path, arguments: &[&str]) -> Child {
    let worker = Path::new(env!("CARGO_BIN_EXE_downbeat-pool")).with_file_name("downbeat-worker");
    assert!(
        worker.exists(),
        "{} is missing: run `cargo build` (or `cargo build -p downbeat-worker`) first",
        worker.display()
    );
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_downbeat-pool"));
    let defaults = [
        ("--pool-dir", folder.join("pool.d")),
        ("--run-dir", folder.join("run")),
        ("--rest", "off".into()),
        ("--grpc", "off".into()),
        ("--wyoming", "off".into()),
    ];
    for (option, value) in defaults {
        if !arguments.contains(&option) {
            command.arg(option).arg(value);
        }
    }
    command.args(arguments).stdin(Stdio::null()).stderr(log).spawn().unwrap()
}

/// Replaces the pool's file.
pub fn declare(folder: &Path, text: &str) {
    let path = folder.join("pool.d/10-test.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
}

/// Whether a process exists and is no zombie.
pub fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits until a process is gone.
pub fn wait_gone(pid: u32) {
    let until = Instant::now() + PATIENCE;
    while lives(pid) {
        assert!(Instant::now() < until, "pid {pid} is still there");
        sleep(Duration::from_millis(10));
    }
}

/// A stream to a worker.
pub struct Stream(OwnedFd);

impl Stream {
    pub fn connect(path: &Path) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        let limit = TimeVal::seconds(5);
        socket::setsockopt(&fd, sockopt::ReceiveTimeout, &limit).unwrap();
        socket::connect(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        Self(fd)
    }

    pub fn send(&self, bytes: &[u8]) {
        socket::send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).unwrap();
    }

    /// One frame of a tone.
    pub fn send_frame(&self, sequence: u32, channels: usize) {
        let head = FrameHead { release_ns: 0, sequence, deadline_us: 0 };
        let mut message = head.to_bytes().to_vec();
        for i in 0..480 {
            let t = (sequence as f32 * 480.0 + i as f32) / 48_000.0;
            let sample = (8000.0 * (t * 440.0 * std::f32::consts::TAU).sin()) as i16;
            for _ in 0..channels {
                message.extend(sample.to_le_bytes());
            }
        }
        self.send(&message);
    }

    /// The next answer; empty when the worker closed the stream.
    pub fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        let length = socket::recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
        buffer.truncate(length);
        buffer
    }
}
