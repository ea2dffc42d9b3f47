//! The servers that the pool is compared with, in an environment of Python of their own.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use downbeat_tests::agent::die_with_this_thread;
use downbeat_tests::processes::{pids, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::packages;
use crate::signals::Signals;
use crate::{steps, workspace};

/// What a server may take to come up.
const PATIENCE: Duration = Duration::from_secs(90);

/// In the environment of every process that a server starts.
const MARK: &str = "DOWNBEAT_BENCH_PEER";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    MlServer,
    RayServe,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::MlServer, Self::RayServe];

    pub fn name(self) -> &'static str {
        match self {
            Self::MlServer => "MLServer",
            Self::RayServe => "Ray Serve",
        }
    }

    /// Where it takes requests.
    pub fn path(self) -> &'static str {
        match self {
            Self::MlServer => "/v2/models/intent/infer",
            Self::RayServe => "/",
        }
    }
}

fn sources() -> PathBuf {
    workspace::root().join("xtask/src/bench/pool/peers")
}

fn environment() -> PathBuf {
    workspace::target().join("peers/venv")
}

/// Installs the servers, once for each set of versions.
pub fn install() -> Result<()> {
    let wanted = fs::read_to_string(sources().join("requirements.txt"))?;
    let (folder, stamp) = (environment(), environment().join("installed.txt"));
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    packages::need_venv()?;
    println!("installing MLServer and Ray Serve in {} (a minute or two)", folder.display());
    let run = |name: &str, command: &mut Command| -> Result<()> {
        let (status, output) = steps::logged(name, command)?;
        ensure!(status.success(), "{command:?}: {status}\n{}", steps::last_lines(&output, 20));
        Ok(())
    };
    run("peers-venv", Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "-r"]);
    run("peers-pip", pip.arg(sources().join("requirements.txt")))?;
    fs::write(&stamp, wanted).with_context(|| format!("{}: writing it", stamp.display()))
}

/// A server that answers; ended when dropped, with all that it started.
pub struct Server {
    child: Child,
    mark: String,
    /// Where it listens.
    pub address: String,
    // Its configuration, logs and temporary files.
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts one and waits until it listens.
    pub fn start(kind: Kind, model: &Path, signals: &Signals) -> Result<Self> {
        // A short path: Ray makes Unix sockets deep below it.
        let folder = tempfile::Builder::new().prefix("dbp.").tempdir_in("/tmp")?;
        let ports: [u16; 3] = free_ports()?;
        let address = format!("127.0.0.1:{}", ports[0]);
        let mut command = match kind {
            Kind::MlServer => ml_server(folder.path(), model, ports)?,
            Kind::RayServe => ray_serve(folder.path(), model, ports[0]),
        };
        let mark = folder.path().display().to_string();
        let log = fs::File::create(folder.path().join("server.log"))?;
        command.current_dir(folder.path()).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        command.env(MARK, &mark).env("TMPDIR", folder.path()).env("OMP_NUM_THREADS", "1");
        die_with_this_thread(&mut command, Signal::SIGTERM);
        let child = command.spawn().with_context(|| format!("{command:?}: starting it"))?;
        let mut server = Self { child, mark, address, folder };
        server.wait(signals).with_context(|| kind.name())?;
        Ok(server)
    }

    fn wait(&mut self, signals: &Signals) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        // Ray's proxy listens before its model is there; it says when that is.
        let ready = self.folder.path().join("ready");
        while TcpStream::connect(&self.address).is_err() || !ready.exists() {
            let log = || {
                let text = fs::read_to_string(self.folder.path().join("server.log"));
                steps::last_lines(&text.unwrap_or_default(), 20)
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}:\n{}", log());
            }
            ensure!(Instant::now() < until, "not up within {PATIENCE:?}:\n{}", log());
            signals.sleep(Duration::from_millis(100))?;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        wait_until(Duration::from_secs(5), || !matches!(self.child.try_wait(), Ok(None)));
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Whatever it started has the mark, whoever its parent is by now.
        let left =
            || -> Vec<u32> { pids().into_iter().filter(|pid| marked(*pid, &self.mark)).collect() };
        wait_until(Duration::from_secs(10), || {
            let left = left();
            for pid in &left {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
            left.is_empty()
        });
        // Orphans of it came to this process: the bench is a subreaper.
        while matches!(
            nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)),
            Ok(status) if status.pid().is_some()
        ) {}
    }
}

fn marked(pid: u32, mark: &str) -> bool {
    let stat = downbeat_tests::processes::Stat::of(pid);
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let wanted = format!("{MARK}={mark}");
    stat.is_ok_and(|stat| stat.state != 'Z')
        && environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
}

fn ml_server(folder: &Path, model: &Path, ports: [u16; 3]) -> Result<Command> {
    let models = folder.join("intent");
    fs::create_dir(&models)?;
    fs::copy(sources().join("onnx_model.py"), models.join("onnx_model.py"))?;
    let [http, grpc, metrics] = ports;
    let server = json!({
        "host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics,
        // In its own process: with one model on two CPUs, workers of its own only cost.
        "parallel_workers": 0, "debug": false, "use_structured_logging": false,
    });
    let model = json!({
        "name": "intent", "implementation": "onnx_model.OnnxModel", "parameters": { "uri": model },
    });
    fs::write(models.join("settings.json"), server.to_string())?;
    fs::write(models.join("model-settings.json"), model.to_string())?;
    let mut command = Command::new(environment().join("bin/mlserver"));
    command.arg("start").arg(&models).env("PYTHONPATH", &models);
    command.env("DOWNBEAT_BENCH_READY", folder.join("ready"));
    Ok(command)
}

fn ray_serve(folder: &Path, model: &Path, port: u16) -> Command {
    let mut command = Command::new(environment().join("bin/python"));
    command.arg(sources().join("ray_app.py")).arg(port.to_string()).arg(model).arg(folder);
    command.env("RAY_USAGE_STATS_ENABLED", "0");
    command.env("DOWNBEAT_BENCH_READY", folder.join("ready"));
    command
}

/// Ports that nobody listens on at the moment.
fn free_ports() -> Result<[u16; 3]> {
    let listeners = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener.context("no free port")?.local_addr()?.port();
    }
    Ok(ports)
}
