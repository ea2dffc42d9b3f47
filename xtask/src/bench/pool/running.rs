//! A pool with the release programs, in a folder of its own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use downbeat_api::pool::{
    CONTROL_SOCKET, POOL_DIR, PoolRequest, PoolResponse, PoolStatus, WorkerState,
};
use downbeat_tests::agent::{Agent, Place, die_with_this_thread};
use downbeat_tests::processes::{running_from, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::{Value, json};

use super::mean;
use crate::signals::Signals;
use crate::workspace;

/// What a pool may take to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What workers are to the kernel by their names, and the pool's thread that carries every frame: as
/// `policies/50-pool.toml` has it.
const POLICY: &str = r#"
schema = 1

[class.dispatcher]
tier = "realtime"
sched = { policy = "fifo", priority = 40 }

[class.voice]
modality = "audio"
tier = "realtime"
deadline = "10ms"
sched = "auto"

[class.vision]
modality = "video"
tier = "realtime"
deadline = "33ms"
sched = "auto"

[class.talk]
tier = "interactive"

[class.rest]
tier = "background"
sched = "idle"

[[rule]]
name = "the pool's dispatcher"
class = "dispatcher"
match = { exe = "{bin}/downbeat-pool", thread = "downbeat-pool" }

[[rule]]
name = "sound"
class = "voice"
match = { exe = "{bin}/downbeat-worker", cmdline = "* --name mic*" }

[[rule]]
name = "pictures"
class = "vision"
match = { exe = "{bin}/downbeat-worker", cmdline = "* --name video*" }

[[rule]]
name = "text"
class = "talk"
match = { exe = "{bin}/downbeat-worker", cmdline = "* --name text*" }

[[rule]]
name = "embedding"
class = "rest"
match = { exe = "{bin}/downbeat-worker", cmdline = "* --name embed*" }
"#;

/// How the queue orders what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As shipped.
    Deadline,
    /// As it came, for comparison: nothing is refused for want of time.
    Arrival,
}

/// Programs, models and inputs for any number of pools, one after the other.
pub struct Ground {
    pub place: Place,
}

impl Ground {
    /// Makes the folder.
    pub fn new() -> Result<Self> {
        let place = Place::from_programs(&workspace::release_programs(), "downbeat-bench.")?;
        let ground = Self { place };
        let shipped = workspace::root().join("pool/models");
        for name in ["glyphs", "intent", "keywords"] {
            let (from, to) = (shipped.join(name), ground.models().join(name));
            let files = ["model.toml", "labels.txt", "1/model.onnx"];
            fs::create_dir_all(to.join("1"))?;
            for file in files {
                let file = (from.join(file), to.join(file));
                fs::copy(&file.0, &file.1)
                    .with_context(|| format!("{}: copying it", file.0.display()))?;
            }
            let inputs = fs::copy(from.join("test/inputs.bin"), ground.inputs(name));
            inputs.with_context(|| format!("{}: its test set", from.display()))?;
            let text = fs::read_to_string(from.join("test/expected.json"))?;
            fs::write(ground.expected(name), scores(&text)?)?;
        }
        mean::write(&ground.models())?;
        // Three pictures, each of one grey.
        let elements = mean::SHAPE.iter().product::<u64>();
        let greys = [0.25_f32, 0.5, 0.75].into_iter();
        let picture = |grey: f32| (0..elements).flat_map(move |_| grey.to_le_bytes());
        fs::write(ground.inputs(mean::NAME), greys.flat_map(picture).collect::<Vec<_>>())?;
        Ok(ground)
    }

    /// The model store.
    pub fn models(&self) -> PathBuf {
        self.place.path("models")
    }

    /// A model's file.
    pub fn onnx(&self, model: &str) -> PathBuf {
        self.models().join(model).join("1/model.onnx")
    }

    /// Inputs of a model's test set.
    pub fn inputs(&self, model: &str) -> PathBuf {
        self.place.path(&format!("{model}.inputs"))
    }

    /// What a model should answer to these.
    pub fn expected(&self, model: &str) -> PathBuf {
        self.place.path(&format!("{model}.expected"))
    }

    /// One input of a model for the client's plan, of `rows` rows where it takes any number.
    pub fn input(&self, model: &str, rows: u64) -> Value {
        let (name, datatype, shape) = match model {
            "glyphs" => ("image", "UINT8", vec![rows, 28, 28]),
            "intent" => ("text", "UINT8", vec![rows, 64]),
            mean::NAME => (mean::INPUT, "FP32", mean::SHAPE.to_vec()),
            other => unreachable!("{other} is asked nothing here"),
        };
        json!({ "name": name, "datatype": datatype, "shape": shape, "data": self.inputs(model) })
    }

    /// The inputs of several rows: as many whole ones as the test set holds.
    pub fn many(&self, model: &str, rows: u64) -> Result<Value> {
        let mut input = self.input(model, rows);
        let size = input["shape"].as_array().into_iter().flatten().filter_map(Value::as_u64);
        let size = usize::try_from(size.product::<u64>())?;
        let mut bytes = fs::read(self.inputs(model))?;
        while bytes.len() < size {
            bytes.extend_from_within(..);
        }
        bytes.truncate(bytes.len() / size * size);
        let path = self.place.path(&format!("{model}-{rows}.inputs"));
        fs::write(&path, bytes).with_context(|| format!("{}: writing it", path.display()))?;
        input["data"] = json!(path);
        Ok(input)
    }

    /// Starts the agent with [`POLICY`], and no pool of its own.
    pub fn agent(&self) -> Result<Agent> {
        self.agent_with(POLICY)
    }

    /// Starts it with another policy.
    pub fn agent_with(&self, policy: &str) -> Result<Agent> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the agent changes how other programs are scheduled and so must be root: use sudo"
        );
        let place = &self.place;
        place.policy("50-bench.toml", policy)?;
        let [pool, run] = ["no-pool.d", "agent-run"].map(|folder| place.path(folder));
        for folder in [&pool, &run] {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let mut command = Command::new(place.bin("downbeatd"));
        command.arg("--policy-dir").arg(place.path("policy"));
        command.arg("--pool-dir").arg(pool).arg("--run-dir").arg(&run);
        command.args(["--listen", "127.0.0.1:0", "--pool-rest", "off", "--pool-grpc", "off"]);
        Agent::start(command, run, place.path("agent.log"))
    }

    /// Starts a pool over one file of declarations.
    pub fn pool(&self, text: &str, order: Order) -> Result<Running<'_>> {
        self.place.pool("10-bench.toml", text)?;
        let log = fs::File::create(self.place.path("pool.log"))?;
        let mut command = Command::new(self.place.bin("downbeat-pool"));
        command.arg("--pool-dir").arg(self.place.path("pool.d"));
        command.arg("--run-dir").arg(self.place.run_dir());
        command.arg("--models").arg(self.models());
        command.args(["--rest", "127.0.0.1:0", "--grpc", "off"]);
        if order == Order::Arrival {
            command.args(["--order", "arrival"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        die_with_this_thread(&mut command, Signal::SIGTERM);
        let child = command.spawn().context("downbeat-pool: starting it")?;
        Ok(Running { ground: self, child })
    }
}

/// The numbers of a test set's answers, one behind the other.
fn scores(text: &str) -> Result<Vec<u8>> {
    #[derive(Deserialize)]
    struct Row {
        scores: Vec<f32>,
    }
    let rows: Vec<Row> = serde_json::from_str(text).context("a model's test set")?;
    Ok(rows.iter().flat_map(|row| &row.scores).flat_map(|it| it.to_le_bytes()).collect())
}

/// A running pool; stopped when dropped.
pub struct Running<'a> {
    ground: &'a Ground,
    child: Child,
}

impl Running<'_> {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn folder(&self) -> PathBuf {
        self.ground.place.run_dir().join(POOL_DIR)
    }

    /// Its REST socket, for the client's plan.
    pub fn target(&self) -> String {
        format!("unix:{}", self.socket("rest.sock").display())
    }

    /// One of its sockets.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// What it says of itself.
    pub fn status(&self) -> Result<PoolStatus> {
        ask(&self.folder().join(CONTROL_SOCKET))
    }

    /// Waits until so many workers are ready; gives the status then.
    pub fn wait(&mut self, workers: usize, signals: &Signals) -> Result<PoolStatus> {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if let Ok(status) = &status {
                let ready = status.workers.iter().filter(|it| it.state == WorkerState::Ready);
                if ready.count() >= workers {
                    return Ok(status.clone());
                }
            }
            let ended = self.child.try_wait()?;
            if let Some(how) = ended {
                bail!("the pool ended with {how}:\n{}", self.log());
            }
            if Instant::now() > until {
                bail!("no {workers} workers are ready: {status:#?}\n{}", self.log());
            }
            signals.sleep(Duration::from_millis(50))?;
        }
    }

    /// Resident memory of the pool's own process, bytes, at its highest and now.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
        };
        let both = field("VmHWM:").zip(field("VmRSS:"));
        both.context("/proc/PID/status has no VmHWM and VmRSS")
    }

    /// The end of what it wrote.
    fn log(&self) -> String {
        let text = fs::read_to_string(self.ground.place.path("pool.log")).unwrap_or_default();
        crate::steps::last_lines(&text, 30)
    }

    /// Stops it with `signal` and gives what it left: processes that still run then.
    pub fn end(mut self, signal: Signal) -> Result<Vec<String>> {
        self.stop(signal);
        let bin = self.ground.place.path("bin");
        let mine = |path: &Path| path.file_name().is_some_and(|name| name == "downbeat-worker");
        let left = || running_from(&bin).into_iter().filter(|(_, path)| mine(path));
        wait_until(Duration::from_secs(3), || left().next().is_none());
        Ok(left().map(|(id, path)| format!("{} ({})", id.tid, path.display())).collect())
    }

    fn stop(&mut self, signal: Signal) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may have ended by itself meanwhile.
            let _ = kill(Pid::from_raw(self.pid().cast_signed()), signal);
            if !wait_until(PATIENCE, || !matches!(self.child.try_wait(), Ok(None))) {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.stop(Signal::SIGTERM);
    }
}

fn ask(path: &Path) -> Result<PoolStatus> {
    let mut stream = UnixStream::connect(path)?;
    let limit = Some(Duration::from_secs(5));
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(limit)?;
    let mut line = serde_json::to_string(&PoolRequest::Status)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    match serde_json::from_str(&answer)? {
        PoolResponse::Status(status) => Ok(status),
        other => bail!("the pool: {other:?}"),
    }
}
