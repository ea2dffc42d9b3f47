//! The calls into NVML, and what they mean in the snapshot's terms.

use std::collections::BTreeMap;

use downbeat_api::{Gpu, GpuProcess, GpuView};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::{ProcessInfo, ProcessUtilizationSample};
use nvml_wrapper::{Device, Nvml};

use super::Look;

/// The driver's own packages ship the versioned name alone; the other is a developer's link.
const LIBRARIES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

/// Loads the library and starts it.
pub(super) fn open() -> Result<Look, String> {
    let mut reason = String::new();
    for library in LIBRARIES {
        match Nvml::builder().lib_path(library.as_ref()).init() {
            Ok(nvml) => {
                let mut told = Told::default();
                return Ok(Box::new(move || look(&nvml, &mut told)));
            }
            // The other name may still be there.
            Err(NvmlError::LibloadingError(_)) if !reason.is_empty() => {}
            Err(error) => {
                let found = !matches!(error, NvmlError::LibloadingError(_));
                reason = explain(&error);
                if found {
                    break;
                }
            }
        }
    }
    Err(reason)
}

/// One line for a person: what the driver said, and the remedy.
fn explain(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            "no NVIDIA driver library (libnvidia-ml.so.1); where the host has an NVIDIA GPU, \
             install its driver (Debian: nvidia-driver)"
                .into()
        }
        NvmlError::DriverNotLoaded => {
            "the NVIDIA driver is installed and not loaded: modprobe nvidia".into()
        }
        NvmlError::LibRmVersionMismatch => {
            "the NVIDIA driver and its library differ in version, as after an upgrade: reboot"
                .into()
        }
        NvmlError::NoPermission => {
            "no permission for the NVIDIA driver: open /dev/nvidiactl and /dev/nvidia* to this user"
                .into()
        }
        other => format!("the NVIDIA driver failed: {other}"),
    }
}

/// Up to which of the driver's own times each device's samples were read, by index.
type Told = BTreeMap<u32, u64>;

/// Every device that answers. One that fails costs only itself and a line.
fn look(nvml: &Nvml, told: &mut Told) -> Result<GpuView, String> {
    let count = nvml.device_count().map_err(|error| explain(&error))?;
    let mut view = GpuView::default();
    let mut failed = Vec::new();
    for index in 0..count {
        match nvml.device_by_index(index).and_then(|device| read(index, &device, told)) {
            Ok(gpu) => view.devices.push(gpu),
            Err(error) => failed.push(format!("GPU {index}: {error}")),
        }
    }
    if count == 0 {
        failed.push("the NVIDIA driver is loaded and has no device".into());
    }
    view.note = (!failed.is_empty()).then(|| failed.join("; "));
    Ok(view)
}

/// The figures of one device; only a device that cannot even be named is an error.
fn read(index: u32, device: &Device<'_>, told: &mut Told) -> Result<Gpu, NvmlError> {
    let uuid = device.uuid()?;
    let utilization = device.utilization_rates().ok();
    let memory = device.memory_info().ok();
    let compute = device.running_compute_processes();
    let graphics = device.running_graphics_processes();
    let mut processes = merge(compute.into_iter().flatten().chain(graphics.into_iter().flatten()));
    // Refused where the driver keeps no samples, as for a partitioned GPU.
    let samples = device.process_utilization_stats(told.get(&index).copied()).unwrap_or_default();
    share(&mut processes, &samples);
    if let Some(latest) = samples.iter().map(|sample| sample.timestamp).max() {
        told.insert(index, latest);
    }
    Ok(Gpu {
        index,
        uuid,
        name: device.name().unwrap_or_else(|_| "NVIDIA GPU".into()),
        utilization: utilization.as_ref().and_then(|rates| percent(rates.gpu)),
        memory_utilization: utilization.as_ref().and_then(|rates| percent(rates.memory)),
        memory_used: memory.as_ref().map(|memory| memory.used),
        memory_total: memory.as_ref().map(|memory| memory.total),
        temperature: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
        power: device.power_usage().ok().map(watts),
        power_limit: device
            .enforced_power_limit()
            .or_else(|_| device.power_management_limit())
            .ok()
            .map(watts),
        slowed: device.current_throttle_reasons().map(slowed).unwrap_or_default(),
        processes,
    })
}

/// Why the clocks are lower than they could be. An idle GPU, and clocks that a person chose, are
/// no reason.
fn slowed(reasons: ThrottleReasons) -> Vec<String> {
    const SAID: [(ThrottleReasons, &str); 6] = [
        (ThrottleReasons::SW_POWER_CAP, "power cap"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "heat"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "heat, by the hardware"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake"),
        (ThrottleReasons::SYNC_BOOST, "clocks in step with another GPU"),
        // Set together with the two above that say why.
        (ThrottleReasons::HW_SLOWDOWN, "hardware slowdown"),
    ];
    let why = ThrottleReasons::HW_THERMAL_SLOWDOWN | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN;
    let vague = |reason| reason == ThrottleReasons::HW_SLOWDOWN && reasons.intersects(why);
    SAID.iter()
        .filter(|(reason, _)| reasons.contains(*reason) && !vague(*reason))
        .map(|(_, said)| (*said).to_owned())
        .collect()
}

/// Notes how much of the device each process used: of several samples and engines the most.
fn share(processes: &mut [GpuProcess], samples: &[ProcessUtilizationSample]) {
    for process in processes {
        let own = samples.iter().filter(|sample| sample.pid == process.pid);
        let most = own.map(|s| s.sm_util.max(s.enc_util).max(s.dec_util)).max();
        process.utilization = most.and_then(percent);
    }
}

fn percent(percent: u32) -> Option<f64> {
    (percent <= 100).then(|| f64::from(percent) / 100.0)
}

fn watts(milliwatts: u32) -> f64 {
    f64::from(milliwatts) / 1000.0
}

/// One entry per process, by pid.
///
/// A process with compute and graphics contexts stands in both lists with one and the same
/// figure; one that uses several instances of a partitioned GPU (MIG) stands there once for each,
/// and those add up. A sum with an unknown part is unknown.
fn merge(processes: impl Iterator<Item = ProcessInfo>) -> Vec<GpuProcess> {
    let mut instances = BTreeMap::new();
    for process in processes {
        let key = (process.pid, process.gpu_instance_id, process.compute_instance_id);
        let memory = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        let known: &mut Option<u64> = instances.entry(key).or_default();
        *known = memory.max(*known);
    }
    let mut merged: BTreeMap<u32, Option<u64>> = BTreeMap::new();
    for ((pid, _, _), memory) in instances {
        merged
            .entry(pid)
            .and_modify(|sum| *sum = sum.zip(memory).map(|(a, b)| a.saturating_add(b)))
            .or_insert(memory);
    }
    let process = |(pid, memory)| GpuProcess { pid, memory, utilization: None };
    merged.into_iter().map(process).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, memory: Option<u64>, instance: Option<u32>) -> ProcessInfo {
        ProcessInfo {
            pid,
            used_gpu_memory: memory.map_or(UsedGpuMemory::Unavailable, UsedGpuMemory::Used),
            gpu_instance_id: instance,
            compute_instance_id: instance,
        }
    }

    fn merged(processes: &[(u32, Option<u64>, Option<u32>)]) -> Vec<(u32, Option<u64>)> {
        let processes =
            processes.iter().map(|(pid, memory, instance)| process(*pid, *memory, *instance));
        merge(processes).into_iter().map(|process| (process.pid, process.memory)).collect()
    }

    #[test]
    fn a_process_in_both_lists_is_counted_once() {
        assert_eq!(
            merged(&[(7, Some(100), None), (3, Some(5), None), (7, Some(100), None)]),
            [(3, Some(5)), (7, Some(100))]
        );
    }

    #[test]
    fn a_figure_that_only_one_list_knows_is_the_figure() {
        assert_eq!(merged(&[(7, None, None), (7, Some(100), None)]), [(7, Some(100))]);
    }

    #[test]
    fn memory_that_the_driver_hides_is_absent() {
        assert_eq!(merged(&[(7, None, None)]), [(7, None)]);
    }

    #[test]
    fn instances_of_a_partitioned_gpu_add_up_and_an_unknown_one_makes_the_sum_unknown() {
        assert_eq!(merged(&[(7, Some(1), Some(0)), (7, Some(2), Some(1))]), [(7, Some(3))]);
        assert_eq!(
            merged(&[(7, Some(u64::MAX), Some(0)), (7, Some(2), Some(1))]),
            [(7, Some(u64::MAX))]
        );
        assert_eq!(merged(&[(7, Some(1), Some(0)), (7, None, Some(1))]), [(7, None)]);
    }

    #[test]
    fn clocks_are_told_low_for_the_most_telling_reason_and_not_for_a_person_s_choice() {
        let idle = ThrottleReasons::GPU_IDLE | ThrottleReasons::APPLICATIONS_CLOCKS_SETTING;
        assert!(slowed(idle).is_empty());
        assert_eq!(slowed(idle | ThrottleReasons::SW_POWER_CAP), ["power cap"]);
        assert_eq!(slowed(ThrottleReasons::HW_SLOWDOWN), ["hardware slowdown"]);
        let hot = ThrottleReasons::HW_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        assert_eq!(slowed(hot), ["heat, by the hardware"]);
    }

    #[test]
    fn a_process_s_share_is_that_of_its_busiest_engine_and_absent_without_a_sample() {
        let sample = |pid, sm_util, enc_util| ProcessUtilizationSample {
            pid,
            timestamp: 1,
            sm_util,
            mem_util: 100,
            enc_util,
            dec_util: 0,
        };
        let mut processes = merge([7, 8].map(|pid| process(pid, None, None)).into_iter());
        share(&mut processes, &[sample(7, 10, 40), sample(7, 20, 0), sample(9, 99, 0)]);
        let shares: Vec<_> = processes.iter().map(|process| process.utilization).collect();
        assert_eq!(shares, [Some(0.4), None]);
    }

    #[test]
    fn units_are_fractions_and_watts() {
        assert_eq!(percent(37), Some(0.37));
        assert_eq!(percent(101), None);
        assert_eq!(watts(71_500), 71.5);
    }

    #[test]
    fn each_common_failure_has_its_remedy() {
        for (error, remedy) in [
            (NvmlError::DriverNotLoaded, "modprobe nvidia"),
            (NvmlError::LibRmVersionMismatch, "reboot"),
            (NvmlError::NoPermission, "/dev/nvidiactl"),
            (NvmlError::LibraryNotFound, "install its driver"),
        ] {
            let line = explain(&error);
            assert!(line.contains(remedy) && !line.contains('\n'), "{line}");
        }
    }
}
