//! Prints what the agent sees of the GPUs as JSON: `cargo run -p downbeatd --example gpu`.
//!
//! Waits until the driver answered or was found missing, then one second more for rates.

use std::time::{Duration, Instant};

use downbeat_agent::observe::gpu::GpuReader;

fn main() -> serde_json::Result<()> {
    let mut gpus = GpuReader::new();
    let started = Instant::now();
    let mut view = gpus.read();
    while view.devices.is_empty() && view.note.is_none() && started.elapsed().as_secs() < 10 {
        std::thread::sleep(Duration::from_millis(20));
        view = gpus.read();
    }
    if !view.devices.is_empty() {
        std::thread::sleep(Duration::from_millis(1100));
        view = gpus.read();
    }
    println!("{}", serde_json::to_string_pretty(&view)?);
    Ok(())
}
