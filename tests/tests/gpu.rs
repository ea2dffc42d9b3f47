//! From NVIDIA's library to the snapshot, the words and the metrics: the agent loads a library with
//! NVML's functions and layouts (`gpu/driver.c`), so all but the driver itself runs as beside a GPU.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use downbeat_api::{Gpu, GpuProcess, Snapshot};
use downbeat_tests::agent::{Agent, Place, said};
use downbeat_tests::prometheus::{free_address, get};
use downbeat_tests::skip::root_or_skip;

const GIB: u64 = 1 << 30;

const POLICY: &str = r#"
schema = 1

[class.vision]
tier = "interactive"

[[rule]]
name = "crowd"
class = "vision"
match = { exe = "{bin}/downbeat-load" }
"#;

/// The library, and the file in which it looks for the state of its GPU.
struct Driver {
    folder: PathBuf,
    state: PathBuf,
}

impl Driver {
    fn build(place: &Place) -> Result<Self> {
        let folder = place.path("driver");
        fs::create_dir(&folder)?;
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gpu/driver.c");
        let compiler = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(folder.join("libnvidia-ml.so.1"))
            .arg(source)
            .output()
            .context("cc: is gcc installed?")?;
        ensure!(compiler.status.success(), "{}", said(&compiler));
        let state = folder.join("state");
        Ok(Self { folder, state })
    }

    fn says(&self, state: &str) -> Result<()> {
        // Whole or not at all: the library may be reading it.
        let next = self.folder.join("next");
        fs::write(&next, state)?;
        Ok(fs::rename(next, &self.state)?)
    }
}

/// The figures of `gpu/driver.c` with this process on the GPU.
fn expected(pid: u32) -> Gpu {
    Gpu {
        index: 0,
        uuid: "GPU-00000000-1111-2222-3333-444444444444".into(),
        name: "NVIDIA Stand-in".into(),
        utilization: Some(0.37),
        memory_utilization: Some(0.12),
        memory_used: Some(5 * GIB),
        memory_total: Some(24 * GIB),
        temperature: Some(61.0),
        power: Some(71.5),
        power_limit: Some(200.0),
        slowed: vec!["power cap".into()],
        processes: vec![GpuProcess { pid, memory: Some(3 * GIB), utilization: Some(0.44) }],
    }
}

#[test]
fn a_gpu_and_its_processes_are_seen_everywhere_and_go_with_it() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    place.policy("50-test.toml", POLICY)?;
    let driver = Driver::build(&place)?;
    let crowd = place.load(&["crowd", "--live", "120s"])?;
    driver.says(&crowd.pid().to_string())?;

    let metrics = free_address()?;
    let mut command = place.agent_command_at(&metrics.to_string(), "off");
    command.env("LD_LIBRARY_PATH", &driver.folder).env("DRIVER_STATE", &driver.state);
    let agent = Agent::start(command, place.run_dir(), place.path("agent.log"))?;

    let gpu = expected(crowd.pid());
    let is_seen = |snapshot: &Snapshot| {
        let process = snapshot.processes.iter().find(|process| process.pid == crowd.pid())?;
        let seen = snapshot.gpu.devices == [gpu.clone()] && process.gpu_memory == Some(3 * GIB);
        (seen && snapshot.gpu.note.is_none()).then_some(())
    };
    agent.wait_for(is_seen)?;
    has_metrics(metrics)?;
    let status =
        place.downbeat(&["status".as_ref(), "--run-dir".as_ref(), place.run_dir().as_os_str()])?;
    ensure!(said(&status).contains("NVIDIA Stand-in"), "{}", said(&status));

    driver.says("lost")?;
    agent.wait_for(|snapshot| {
        let note = snapshot.gpu.note.as_deref().unwrap_or_default();
        (snapshot.gpu.devices.is_empty() && note.starts_with("GPU 0: ")).then_some(())
    })?;
    let (_, text) = get(metrics, "/metrics")?;
    ensure!(!text.contains("downbeat_gpu_utilization_ratio{"), "{text}");

    driver.says(&crowd.pid().to_string())?;
    agent.wait_for(is_seen)?;
    ensure!(!agent.log().contains("panicked"), "{}", agent.log());
    Ok(())
}

fn has_metrics(address: SocketAddr) -> Result<()> {
    let (status, text) = get(address, "/metrics")?;
    ensure!(status == 200, "{status}: {text}");
    let gpu = r#"uuid="GPU-00000000-1111-2222-3333-444444444444",name="NVIDIA Stand-in""#;
    for (metric, labels, expected) in [
        ("gpu_utilization_ratio", gpu, 0.37),
        ("gpu_memory_utilization_ratio", gpu, 0.12),
        ("gpu_memory_used_bytes", gpu, 5.0 * GIB as f64),
        ("gpu_memory_total_bytes", gpu, 24.0 * GIB as f64),
        ("gpu_temperature_celsius", gpu, 61.0),
        ("gpu_power_watts", gpu, 71.5),
        ("gpu_power_limit_watts", gpu, 200.0),
        ("gpu_processes", gpu, 1.0),
        ("class_gpu_memory_bytes", r#"class="vision""#, 3.0 * GIB as f64),
    ] {
        let series = format!("downbeat_{metric}{{{labels}}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series)?.parse::<f64>().ok());
        ensure!(value == Some(expected), "{series}is {value:?} instead of {expected} in\n{text}");
    }
    Ok(())
}
