//! What a process's GPU did while its frame was late.

use downbeat_api::{Gpu, GpuView};

use super::cause::GpuState;

/// Less of a GPU than this is nobody's reason to be late.
const BUSY: f64 = 0.05;

/// The state of the GPU that process `pid` uses, as the driver last told it; of several, the one
/// that says most. Nothing for a process that uses none. `name` tells other processes' names.
#[must_use]
pub fn gpu_state(
    view: &GpuView,
    pid: u32,
    name: impl Fn(u32) -> Option<String>,
) -> Option<GpuState> {
    let uses = |gpu: &&Gpu| gpu.processes.iter().any(|process| process.pid == pid);
    let states = view.devices.iter().filter(uses).map(|gpu| GpuState {
        device: format!("GPU {}", gpu.index),
        slowed: (!gpu.slowed.is_empty()).then(|| gpu.slowed.join(", ")),
        busy_with: busiest_other(gpu, pid)
            .map(|other| name(other).unwrap_or_else(|| format!("process {other}"))),
    });
    // The first of several that say as much.
    let says = |state: &GpuState| {
        usize::from(state.slowed.is_some()) + usize::from(state.busy_with.is_some())
    };
    states.reduce(|best, state| if says(&state) > says(&best) { state } else { best })
}

/// The process that used most of the device, where it is another.
fn busiest_other(gpu: &Gpu, pid: u32) -> Option<u32> {
    let used = gpu.processes.iter().filter(|process| process.pid != pid);
    let used = used.filter_map(|process| Some((process.pid, process.utilization?)));
    let (other, used) = used.max_by(|a, b| a.1.total_cmp(&b.1))?;
    (used >= BUSY).then_some(other)
}

#[cfg(test)]
mod tests {
    use downbeat_api::GpuProcess;

    use super::*;

    fn gpu(index: u32, slowed: &[&str], processes: &[(u32, Option<f64>)]) -> Gpu {
        let process = |&(pid, utilization): &_| GpuProcess { pid, memory: None, utilization };
        Gpu {
            index,
            slowed: slowed.iter().map(|&reason| reason.into()).collect(),
            processes: processes.iter().map(process).collect(),
            ..Gpu::default()
        }
    }

    fn state(devices: Vec<Gpu>) -> Option<GpuState> {
        let view = GpuView { devices, note: None };
        gpu_state(&view, 7, |pid| (pid == 8).then(|| "llama".into()))
    }

    fn told(device: &str, slowed: Option<&str>, busy_with: Option<&str>) -> Option<GpuState> {
        let text = |text: Option<&str>| text.map(Into::into);
        Some(GpuState { device: device.into(), slowed: text(slowed), busy_with: text(busy_with) })
    }

    #[test]
    fn clock_reasons_and_the_busiest_other_process_are_told() {
        let processes = [(7, Some(0.9)), (9, Some(0.2)), (8, Some(0.4))];
        let slowed = gpu(0, &["power cap", "heat"], &processes);
        assert_eq!(state(vec![slowed]), told("GPU 0", Some("power cap, heat"), Some("llama")));
        let nameless = gpu(1, &[], &[(7, None), (9, Some(0.05))]);
        assert_eq!(state(vec![nameless]), told("GPU 1", None, Some("process 9")));
    }

    #[test]
    fn others_that_do_little_or_that_nobody_measured_are_not_blamed() {
        let idle = gpu(0, &[], &[(7, Some(0.9)), (8, Some(0.01)), (9, None)]);
        assert_eq!(state(vec![idle]), told("GPU 0", None, None));
    }

    #[test]
    fn only_devices_that_the_process_uses_count_and_the_one_that_says_most() {
        let other = gpu(0, &["heat"], &[(8, Some(0.5))]);
        assert_eq!(state(vec![other.clone()]), None);
        let quiet = gpu(1, &[], &[(7, None)]);
        let capped = gpu(2, &["power cap"], &[(7, None)]);
        assert_eq!(state(vec![other, quiet, capped]), told("GPU 2", Some("power cap"), None));
    }
}
